//! What answers may look like and how they may be asked for: each leads to a redirect of the next connect.

use std::{collections::BTreeSet, time::Duration};

use lunar_lab::Child;

use crate::{
    asker::{Asker, Question},
    programs,
    scene::Scene,
    servers::{self, SERVER},
    world::{
        Agent,
        calls::{counts, forwarded},
        dns::resolv_conf,
    },
};

/// The server's address of each family.
const BY: [(&str, &str); 2] = [(SERVER, "4"), ("2001:db8::10", "6")];

/// A scene with the odd server and an agent.
fn odd(name: &str) -> (Scene, Child, Agent) {
    let scene = Scene::new(name);
    let server = servers::odd(&scene.world);
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\noptions timeout:10\n"));
    let agent = scene.agent("", &[]);
    (scene, server, agent)
}

/// The address of the name that begins with `n`.
fn v4(n: u32) -> String {
    format!("198.51.100.{n}")
}

fn v6(n: u32) -> String {
    format!("2001:db8:1::{n}")
}

/// One connect to each address is redirected, and nothing was missed.
fn redirected(scene: &Scene, addresses: &[String]) {
    for address in addresses {
        let to = if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
        scene.world.redirects(&to, 1, &["--timeout", "20000"]);
    }
    assert_eq!(scene.dns("app", "miss"), 0, "{addresses:?}");
}

/// A chain of aliases to a stranger's name, records with and without compression, EDNS, and a server that changes the case
/// of what it was asked (as the askers do that know 0x20); over IPv4 and IPv6, by connected sockets and others.
#[test]
fn whatever_an_answer_looks_like_its_address_is_redirected() {
    let (scene, _server, _agent) = odd("looks");
    let mut asker = Asker::new(&scene, &scene.world.app);
    let mut n = 0;
    for how in ["cname", "plain", "upper", "edns", "simple"] {
        for (server, family) in BY {
            for connected in [false, true] {
                for kind in [&["A"][..], &["A", "edns"], &["A", "sendmsg"], &["AAAA"]] {
                    // A connected socket's sendmsg would name nothing.
                    if connected && kind.contains(&"sendmsg") {
                        continue;
                    }
                    n += 1;
                    asker.open("s", family);
                    if connected {
                        asker.connect("s", server);
                    }
                    let name = format!("{n}.{how}.eXaMplE");
                    let server = if connected { "" } else { server };
                    asker.send("s", Question { server, id: 7, name: &name, kind });
                    let expected = if kind[0] == "A" { v4(n) } else { v6(n) };
                    assert_eq!(asker.receive("s"), (7, vec![expected.clone()]), "{name} {kind:?}");
                    redirected(&scene, &[expected]);
                }
            }
        }
    }
    assert_eq!(scene.dns("app", "answers"), u64::from(n));
}

/// glibc takes the first of many; an application may take any.
#[test]
fn every_address_of_an_answer_is_redirected() {
    let (scene, _server, _agent) = odd("many");
    let mut asker = Asker::new(&scene, &scene.world.app);
    let all: [Vec<_>; 2] = [(100..124).map(v4).collect(), (100..124).map(v6).collect()];
    for (expected, family) in all.iter().zip(["4", "6"]) {
        let mut found = asker.resolve("100.many.example", family);
        found.sort();
        assert_eq!(&found, expected);
        redirected(&scene, expected);
    }
}

/// More records than are looked at: the first are known, and the rest is a miss that is told.
#[test]
fn an_answer_of_too_many_addresses_is_a_miss() {
    let (scene, _server, _agent) = odd("toomany");
    let mut asker = Asker::new(&scene, &scene.world.app);
    let found = asker.ask(Question { server: SERVER, id: 1, name: "1.toomany.example", kind: &["A"] });
    assert_eq!(found.len(), 70);
    assert_eq!(scene.dns("app", "miss"), 1);
    scene.world.redirects("198.51.100.64:80", 1, &[]);
    scene.world.goes_direct("policy", "198.51.100.65:80", 1, &[]);
}

#[test]
fn names_of_any_length_up_to_the_longest_are_redirected() {
    let (scene, _server, _agent) = odd("long");
    let mut asker = Asker::new(&scene, &scene.world.app);
    let mut lengths = BTreeSet::new();
    for n in 1..=200 {
        // Labels of one letter up to 253 in all, which are 255 bytes on the wire, or long ones.
        let mut name = format!("{n}.simple");
        let label = if n % 2 == 0 { ".x".to_owned() } else { format!(".{}", "x".repeat(60)) };
        let length = 254 - n as usize;
        while name.len() + label.len() + ".example".len() <= length {
            name += &label;
        }
        let rest = length - name.len() - ".example".len();
        if rest > 1 {
            name += &format!(".{}", "y".repeat(rest - 1));
        }
        name += ".example";
        let found = asker.ask(Question { server: SERVER, id: 1, name: &name, kind: &["A"] });
        assert_eq!(found, [v4(n)], "{name}");
        lengths.insert(name.len());
        redirected(&scene, &found);
    }
    assert_eq!(lengths.last(), Some(&253));
}

/// The answer that is cut off has no address, and that of TCP is not seen.
#[test]
fn a_truncated_answer_is_a_miss() {
    let (scene, _server, _agent) = odd("cut");
    let mut asker = Asker::new(&scene, &scene.world.app);
    assert_eq!(asker.resolve("1.cut.example", "4"), [v4(1)], "by TCP");
    assert_eq!(scene.dns("app", "miss"), 1);
    scene.world.goes_direct("policy", "198.51.100.1:80", 1, &[]);
    // What it has before it is cut off is known all the same.
    assert_eq!(asker.resolve("3.part.example", "4").len(), 2, "by TCP");
    scene.world.redirects("198.51.100.3:80", 1, &[]);
    scene.world.goes_direct("policy", "198.51.100.4:80", 1, &[]);
    assert_eq!(scene.dns("app", "miss"), 2);
}

#[test]
fn an_answer_that_ends_too_early_is_a_miss() {
    let (scene, _server, _agent) = odd("broken");
    let mut asker = Asker::new(&scene, &scene.world.app);
    asker.open("s", "4");
    asker.send("s", Question { server: SERVER, id: 1, name: "1.broken.example", kind: &["A"] });
    asker.receive("s");
    assert_eq!(scene.dns("app", "miss"), 1);
    scene.world.goes_direct("policy", "198.51.100.1:80", 1, &[]);
}

/// A connect before the address was known went direct; when it becomes known, that connect was a miss.
#[test]
fn a_connect_before_its_answer_is_a_miss() {
    let (scene, _server, _agent) = odd("before");
    let mut asker = Asker::new(&scene, &scene.world.app);
    scene.world.goes_direct("policy", "198.51.100.1:80", 3, &[]);
    assert_eq!(scene.dns("app", "miss"), 0);
    asker.ask(Question { server: SERVER, id: 1, name: "1.simple.example", kind: &["A"] });
    assert_eq!(scene.dns("app", "miss"), 3);
    scene.world.redirects("198.51.100.1:80", 1, &[]);
}

/// A, AAAA and another name through one socket, each before the one before is answered; also to two servers, and with an
/// answer that comes after the socket asked something else.
#[test]
fn questions_in_flight_on_one_socket_get_their_answers() {
    let (scene, _server, _agent) = odd("flight");
    let mut asker = Asker::new(&scene, &scene.world.app);
    asker.open("s", "4");
    let (here, there) = (SERVER, "203.0.113.11");
    // The server answers the first late one after the second.
    let all = [
        (here, 1, "1.simple.example", "A"),
        (here, 1, "1.simple.example", "AAAA"),
        (there, 2, "2.simple.example", "A"),
        (here, 3, "3.late.example", "A"),
        (there, 3, "4.simple.example", "A"),
        (here, 5, "5.late.example", "A"),
    ];
    for (server, id, name, kind) in all {
        asker.send("s", Question { server, id, name, kind: &[kind] });
    }
    let mut came: Vec<_> = all.iter().map(|_| asker.receive("s")).collect();
    let place = |id| came.iter().position(|(got, a)| *got == id && *a == [v4(id as u32)]).unwrap();
    assert!(place(5) < place(3), "{came:?}");
    came.sort();
    let expected = [(1, v6(1)), (1, v4(1)), (2, v4(2)), (3, v4(3)), (3, v4(4)), (5, v4(5))];
    let mut expected = expected.map(|(id, address)| (id, vec![address]));
    expected.sort();
    assert_eq!(came, expected);
    redirected(&scene, &expected.map(|(_, mut address)| address.remove(0)));
    assert_eq!(scene.dns("app", "answers"), 6);
}

/// The socket is connected elsewhere before the answer comes.
#[test]
fn a_socket_that_was_connected_elsewhere_still_has_its_answer() {
    let (scene, _server, _agent) = odd("elsewhere");
    let mut asker = Asker::new(&scene, &scene.world.app);
    asker.open("s", "4");
    asker.send("s", Question { server: SERVER, id: 1, name: "1.late.example", kind: &["A"] });
    asker.send("s", Question { server: "203.0.113.11", id: 2, name: "2.simple.example", kind: &["A"] });
    assert_eq!(asker.receive("s"), (2, vec![v4(2)]));
    asker.send("s", Question { server: SERVER, id: 3, name: "3.late.example", kind: &["A"] });
    assert_eq!([asker.receive("s"), asker.receive("s")], [(3, vec![v4(3)]), (1, vec![v4(1)])]);
    redirected(&scene, &[1, 2, 3].map(v4));
}

#[test]
fn sendmmsg_and_recvmmsg_are_seen() {
    let (scene, _server, _agent) = odd("mmsg");
    let names: Vec<_> = (1..=32).map(|n| format!("{n}.simple.example")).collect();
    let spawn = programs::mmsg().args([SERVER, "1"]).args(&names);
    let spawn = spawn.netns(&scene.world.host).cgroup(&scene.world.app);
    let said = scene.world.lab.spawn(spawn).unwrap().finish(Duration::from_secs(20)).unwrap();
    let addresses: Vec<_> = (1..=32).map(v4).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), addresses);
    redirected(&scene, &addresses);
    assert_eq!(scene.dns("app", "answers"), 32);
}

/// `dry_run`: the names are learned and counted, and nothing is touched.
#[test]
fn dry_run_counts_what_it_would_redirect() {
    let scene = Scene::new("dry");
    let _server = servers::odd(&scene.world);
    let _agent = scene.agent("dry_run = true", &[]);
    let mut asker = Asker::new(&scene, &scene.world.app);
    for n in 1..=10 {
        let wanted = format!("{n}.simple.example");
        asker.ask(Question { server: SERVER, id: 1, name: &wanted, kind: &["A"] });
        let other = format!("{}.simple.other", n + 100);
        asker.ask(Question { server: SERVER, id: 1, name: &other, kind: &["A"] });
        scene.world.goes_direct("dry_run", &format!("{}:80", v4(n)), 1, &[]);
        scene.world.goes_direct("policy", &format!("{}:80", v4(n + 100)), 1, &[]);
    }
    assert_eq!(scene.seen("app"), counts([("dry_run", 10), ("policy", 10)]));
    assert_eq!(forwarded(&scene.gateway), 0);
}
