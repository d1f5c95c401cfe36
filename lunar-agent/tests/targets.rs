//! Targets that come, go and die while an agent runs, and the socket over which they are asked for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Instant,
};

use lunar_lab::{Cgroup, Spawn};
use scene::{Scene, attached, cgroup_v1, one, verdicts};
use world::{SOON, World, eventually, target, within};

#[test]
fn targets_come_and_go_while_the_agent_runs() {
    let s = Scene::new("targets");
    let _agent = s.world.agent(&s.toml(""));
    let selector = |cgroup: &Cgroup| format!("cgroup:{}", cgroup.path().display());
    let other = selector(&s.world.other);
    let (code, text) = s.said(&["attach", &other]);
    assert!(code == 0 && text.contains(&format!("attached {other}")), "{text}");
    assert_eq!(target(&s.world.status(), &other)["attached"], true);
    s.connects(&s.world.other, 2);
    assert_eq!(verdicts(&s.world.status(), &other), one("redirected", 2));

    // By process: the whole cgroup it is in.
    let third = s.world.lab.cgroup("third").unwrap();
    let sleeper = s.world.lab.spawn(Spawn::new("sleep").args(["600"]).cgroup(&third)).unwrap();
    let pid = format!("pid:{}", sleeper.id());
    assert_eq!(s.said(&["attach", &pid]).0, 0);
    let status = s.world.status();
    assert_eq!(target(&status, &pid)["cgroup"], third.path().to_str().unwrap());
    assert_eq!(target(&status, &pid)["cgroup_id"], third.id());
    s.connects(&third, 2);
    let (_, table) = s.said(&["status"]);
    assert!(table.contains(&pid) && table.contains(&other) && table.contains("app"), "{table}");

    let v1 = cgroup_v1(&s.world);
    let root = s.world.app.path().ancestors().find(|p| !p.join("cgroup.type").exists()).unwrap();
    for (asked, part) in [
        ("docker:web".to_owned(), "selecting by docker: is not built yet"),
        ("jail:web".to_owned(), "no selector of the kind \"jail\""),
        ("/sys/fs/cgroup".to_owned(), "write it as cgroup:PATH"),
        (format!("cgroup:{}", s.world.lab.dir().display()), "is not a cgroup"),
        (format!("cgroup:{}", v1.display()), "is a cgroup v1 path"),
        (format!("cgroup:{}", root.display()), "is the root cgroup"),
        ("cgroup:/sys/fs/cgroup/nonexistent".to_owned(), "No such file"),
        ("pid:4294967295".to_owned(), "pid 4294967295: No such file"),
        (selector(&s.world.app), "is a target already, named app"),
        (other.clone(), "is a target already"),
    ] {
        let (code, text) = s.said(&["attach", &asked]);
        assert!(code == 2 && text.contains(part), "attach {asked}: {code}: {text}");
        let named = asked.split_once(':').map_or(asked.as_str(), |(_, rest)| rest);
        assert!(text.contains(named), "attach {asked} does not name it: {text}");
    }
    let (code, text) = s.said(&["detach", "nobody"]);
    assert!(code == 2 && text.contains("nobody is not a target"), "{text}");
    assert_eq!(s.world.status()["targets"].as_array().unwrap().len(), 3);

    // By selector, by name; and what is detached is left alone.
    assert_eq!(s.said(&["detach", &selector(&third), "app"]).0, 0);
    for cgroup in [&s.world.app, &third] {
        eventually("the programs detach", || attached(cgroup) == [0; 6]);
        s.connects(cgroup, 1);
    }
    let status = s.world.status();
    assert_eq!(status["targets"].as_array().unwrap().len(), 1);
    assert_eq!(verdicts(&status, &other), one("redirected", 2));
}

#[test]
fn a_cgroup_that_is_gone_is_no_longer_a_target_and_its_successor_is_another() {
    let s = Scene::new("gone");
    let mut agent = s.world.agent(&s.toml(""));
    let cgroups: Vec<Cgroup> = ["one", "two"].map(|n| s.world.lab.cgroup(n).unwrap()).into();
    let names: Vec<String> = cgroups.iter().map(|c| format!("cgroup:{}", c.path().display())).collect();
    assert_eq!(s.said(&["attach", &names[0], &names[1]]).0, 0);
    for cgroup in &cgroups {
        cgroup.remove().unwrap();
    }
    eventually("the problem shows", || target(&s.world.status(), &names[1])["attached"] == false);
    let status = s.world.status();
    assert!(target(&status, &names[0])["problem"].as_str().unwrap().contains("its cgroup is gone"));
    assert_eq!(target(&status, "app")["attached"], true);

    // Made anew it is another cgroup, with nothing attached.
    let anew = s.world.lab.cgroup("one").unwrap();
    assert_eq!(attached(&anew), [0; 6]);
    s.connects(&anew, 2);
    assert_eq!(verdicts(&s.world.status(), &names[0]), vec![]);
    assert_eq!(target(&s.world.status(), &names[0])["attached"], false);

    // The dead are in nobody's way.
    let other = format!("cgroup:{}", s.world.other.path().display());
    let (code, text) = s.said(&["attach", &other]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = s.said(&["detach", &names[0]]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = s.said(&["attach", &names[0]]);
    assert_eq!(code, 0, "{text}");
    s.connects(&anew, 2);
    let status = s.world.status();
    assert_eq!(verdicts(&status, &names[0]), one("redirected", 2));
    assert_eq!(target(&status, &names[0])["cgroup_id"], anew.id());

    // Also from the pins of a dead agent; the living targets are still told apart.
    agent.child.kill().unwrap();
    let status = s.world.status();
    assert!(target(&status, &names[1])["problem"].as_str().unwrap().contains("gone"));
    assert_eq!(
        (&target(&status, &names[0])["attached"], &target(&status, &names[1])["attached"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn the_socket_is_roots_and_no_client_can_harm_it() {
    let s = Scene::new("socket");
    let mut agent = s.world.agent(&s.toml(""));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&agent.socket), 0o600);
    assert_eq!(mode(agent.socket.parent().unwrap()), 0o700);
    for dir in [agent.pins.clone(), agent.pinned(""), agent.pinned("maps"), agent.pinned("links")] {
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
    }
    let say = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&agent.socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    // A request is its length in 4 bytes, then JSON.
    let half = [&10_u32.to_be_bytes()[..], b"{\"sta"].concat();
    let unknown = [&12_u32.to_be_bytes()[..], b"{\"reboot\":0}"].concat();
    let huge = [&u32::MAX.to_be_bytes()[..], &[0; 4096]].concat();
    let all: [&[u8]; 5] = [b"", b"GET / HTTP/1.1\r\n\r\n", &half, &unknown, &huge];
    // More than there are places, all at once, some silent for as long as they like.
    let mut held: Vec<UnixStream> = (0..9).flat_map(|_| all.map(say)).collect();
    let begun = Instant::now();
    let during = s.world.status();
    assert_eq!(during["agent"]["running"], true, "after {:?}", begun.elapsed());
    s.connects(&s.world.app, 3);
    for stream in held.drain(..) {
        drop(stream);
    }
    let after = s.world.status();
    assert_eq!(after["agent"]["pid"], agent.child.id());
    assert_eq!(verdicts(&after, "app"), one("redirected", 3));
    assert_eq!(agent.child.try_wait().unwrap(), None);
}

/// A detach ends the verdicts first. What follows the connections that were redirected before stays until they have
/// come through: without it they would lack their record or their header, and the gateway would turn them away.
#[test]
fn a_connection_that_is_under_way_is_not_harmed_by_a_detach() {
    let world = World::new("under-way");
    let _provider = world.providers(&["203.0.113.10:80"]);
    let gateway = world.gateway(&["--listen", "127.0.0.1:8000", "--accept-proxy"]);
    // The SYN is sent again after a third of this.
    let timeout = "connect_timeout = \"9s\"\nhandoff =";
    let toml = world.toml("proxy-protocol", &["127.0.0.1:8000"], "").replace("handoff =", timeout);
    let _agent = world.agent(&toml.replace("interval = \"200ms\"", "interval = \"60s\""));
    eventually("the gateway is probed", || {
        world.status()["gateway"]["endpoints"][0]["healthy"] == serde_json::json!(true)
    });
    let filter = |rule: &str| {
        let spawn = Spawn::new("iptables").args(rule.split(' ')).netns(&world.host);
        world.lab.spawn(spawn).unwrap().finish(SOON).unwrap();
    };
    filter("-A INPUT -p tcp --syn --dport 8000 -j DROP");
    let call = world.lab.role(["client", "http", "--to", "203.0.113.10:80"]).unwrap();
    let mut call = world.lab.spawn(call.netns(&world.host).cgroup(&world.app)).unwrap();
    eventually("it is on its way", || world.verdict("redirected") == 1);
    assert!(world.run(&["detach", "app"]).status.success());
    assert_eq!(attached(&world.app)[4..], [0; 2], "the verdicts have ended");
    assert_eq!(call.try_wait().unwrap(), None, "it was answered before the detach");
    filter("-F INPUT");
    let answer = call.finish(3 * SOON).unwrap();
    assert!(answer.ends_with("{\"calls\":1,\"failed\":0}\n"), "{answer}");
    assert_eq!(gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count(), 1);
    within(3 * SOON, "the last programs are detached", || attached(&world.app) == [0; 6]);
}
