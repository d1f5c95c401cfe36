//! The agent's own resolution of names, against a real name server in a namespace of the lab.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    time::{Duration, Instant as Clock},
};

use lunar_agent::resolution::{Answer, HostFiles, NameState, Resolution};
use lunar_lab::{Child, Lab, Netns, Spawn};
use tokio::{net::UdpSocket, time::Instant};

/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(20);
/// Where the name server listens, inside the namespace.
const SERVER: &str = "127.0.0.53";
/// Of the sockets that ask.
const MARK: u32 = 0x4c75_6e72;

/// A namespace with name servers, and files that say how names are resolved in it.
struct Scene {
    netns: Netns,
    files: HostFiles,
    lab: Lab,
}

impl Scene {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name).unwrap();
        let file = |name| lab.dir().join(name);
        let files = HostFiles { resolv_conf: file("resolv.conf"), hosts: file("hosts") };
        let netns = lab.netns("dns").unwrap();
        let scene = Self { netns, files, lab };
        scene.resolv_conf(&format!("search nowhere.example\nnameserver {SERVER}\n"));
        scene
    }

    fn resolv_conf(&self, text: &str) {
        fs::write(&self.files.resolv_conf, text).unwrap();
    }

    /// dnsmasq with these records; it knows all of `.example`, and refuses to talk of anything else.
    fn server(&self, address: &str, records: &[&str]) -> Child {
        self.server_in(&self.netns, address, records)
    }

    fn server_in(&self, netns: &Netns, address: &str, records: &[&str]) -> Child {
        let listen = format!("--listen-address={address}");
        let always = [
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--local=/example/",
        ];
        let dnsmasq = Spawn::new("dnsmasq").args(always).args([&listen]).args(records).netns(netns);
        let child = self.lab.spawn(dnsmasq).unwrap();
        child.wait_for_line("started", SOON).unwrap();
        child
    }

    /// A name server's option, by which it knows 200 addresses of `long.example`.
    fn long(&self) -> String {
        let file = self.lab.dir().join("long");
        let lines: String = (0..200).map(|i| format!("203.0.113.{i} long.example\n")).collect();
        fs::write(&file, lines).unwrap();
        format!("--addn-hosts={}", file.display())
    }

    /// Runs `work` with a resolution of these names, inside the namespace.
    fn following(&self, names: &[&str], work: impl AsyncFnOnce(&mut Following) + Send) {
        let mut resolution = Resolution::with_files(MARK, self.files.clone());
        resolution.follow(&set(names), Instant::now());
        let mut following = Following(resolution);
        self.netns
            .run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(work(&mut following));
                Ok(())
            })
            .unwrap();
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A resolution, and what the daemon does with it.
struct Following(Resolution);

impl Following {
    async fn until(&mut self, what: &str, is_so: impl Fn(&Resolution) -> bool) {
        let deadline = Clock::now() + SOON;
        while !is_so(&self.0) {
            assert!(Clock::now() < deadline, "{what}: not within {SOON:?}; {:?}", self.0.problems());
            let wake = self.0.next_wake().unwrap_or_else(|| Instant::now() + SOON);
            tokio::select! {
                () = tokio::time::sleep_until(wake) => self.0.begin_due(Instant::now()),
                Some(answered) = self.0.next_done() => {
                    if let Some(resolved) = self.0.on_done(answered, Instant::now()) {
                        let state = self.state(&resolved.name);
                        assert_eq!(state.addresses, resolved.addresses);
                    }
                }
            }
        }
    }

    /// Waits until each name has been answered or has failed.
    async fn settled(&mut self, names: &[&str]) {
        self.until("all is settled", |r| {
            names.iter().all(|name| r.state(name).is_some_and(|s| s.answered.is_some() || s.failures > 0))
        })
        .await;
    }

    fn state(&self, name: &str) -> &NameState {
        self.0.state(name).unwrap()
    }

    fn answers(&self, name: &str) -> BTreeSet<Answer> {
        self.state(name).addresses.iter().copied().collect()
    }

    fn failure(&self, name: &str) -> String {
        let state = self.state(name);
        assert_eq!(state.addresses, [], "{name}");
        state.failure.as_ref().unwrap().to_string()
    }
}

fn answers<const N: usize>(all: [(&str, u64); N]) -> BTreeSet<Answer> {
    all.map(|(address, ttl)| (address.parse::<IpAddr>().unwrap(), Duration::from_secs(ttl))).into()
}

#[test]
fn names_get_the_addresses_of_both_families_with_their_ttls() {
    let s = Scene::new("answers");
    let server = s.server(
        SERVER,
        &[
            "--log-queries",
            "--host-record=both.example,203.0.113.7,2001:db8::7,300",
            "--host-record=four.example,203.0.113.8,500",
            "--host-record=six.example,2001:db8::8,0",
            "--host-record=half.test,203.0.113.9,60",
            "--cname=alias.example,both.example,40",
        ],
    );
    fs::write(&s.files.hosts, "198.51.100.1 Local.example four-not.example # and no more\n").unwrap();
    let names =
        ["both.example", "four.example", "six.example", "alias.example", "local.example", "half.test"];
    s.following(&names, async |f| {
        f.settled(&names).await;
        assert_eq!(f.answers("both.example"), answers([("203.0.113.7", 300), ("2001:db8::7", 300)]));
        assert_eq!(f.answers("four.example"), answers([("203.0.113.8", 500)]));
        assert_eq!(f.answers("six.example"), answers([("2001:db8::8", 0)]));
        let least = "the least TTL of the chain";
        assert_eq!(
            f.answers("alias.example"),
            answers([("203.0.113.7", 40), ("2001:db8::7", 40)]),
            "{least}"
        );
        assert_eq!(f.answers("local.example"), answers([("198.51.100.1", 0)]), "from the hosts file");
        assert_eq!(f.answers("half.test"), answers([("203.0.113.9", 60)]), "IPv6 is refused");
        assert_eq!(f.0.problems(), [""; 0]);

        let mark = server.mark();
        f.0.follow(&set(&[]), Instant::now());
        f.0.follow(&set(&["four.example"]), Instant::now());
        f.settled(&["four.example"]).await;
        server.wait_for_line_after(mark, "query[A] four.example", SOON).unwrap();
    });
}

#[test]
fn what_has_no_address_says_why() {
    let s = Scene::new("reasons");
    let _server = s.server(SERVER, &["--txt-record=text.example,hello"]);
    let names = ["text.example", "missing.example", "elsewhere.test"];
    s.following(&names, async |f| {
        f.settled(&names).await;
        let server = format!("{SERVER}:53");
        assert_eq!(f.failure("text.example"), format!("{server} knows the name but no address of it"));
        assert_eq!(f.failure("missing.example"), format!("{server} says that there is no such name"));
        assert_eq!(f.failure("elsewhere.test"), format!("{server} answered \"Query Refused\""));
        assert_eq!(f.0.problems().len(), 3);
        f.until("a failure is tried again", |r| r.state("missing.example").unwrap().failures >= 2).await;
    });
}

#[test]
fn addresses_that_mean_something_else_on_every_host_are_none() {
    let s = Scene::new("nowhere");
    let _server = s.server(
        SERVER,
        &[
            "--address=/sink.example/0.0.0.0",
            "--address=/sink.example/::",
            "--host-record=half.example,0.0.0.0",
            "--host-record=mixed.example,203.0.113.9,::1,60",
            "--host-record=mixed.example,169.254.0.9,60",
            "--host-record=moves.example,203.0.113.7,60",
        ],
    );
    fs::write(&s.files.hosts, "127.0.0.1 dev.example moves.example\n").unwrap();
    let names = ["sink.example", "half.example", "mixed.example", "dev.example", "moves.example"];
    s.following(&names, async |f| {
        f.settled(&names).await;
        let only = "has only addresses of it that mean something else on every host, such as";
        assert_eq!(f.failure("sink.example"), format!("{SERVER}:53 {only} 0.0.0.0"));
        assert_eq!(f.failure("half.example"), format!("{SERVER}:53 {only} 0.0.0.0"), "and no IPv6 address");
        assert_eq!(f.failure("dev.example"), format!("the hosts file {only} 127.0.0.1"));
        assert_eq!(f.answers("mixed.example"), answers([("203.0.113.9", 60)]));
        assert_eq!(f.0.problems().len(), 4);

        fs::write(&s.files.hosts, "").unwrap();
        f.until("the name server is asked", |r| r.state("moves.example").unwrap().answered.is_some()).await;
        assert_eq!(f.answers("moves.example"), answers([("203.0.113.7", 60)]));
    });
}

#[test]
fn an_answer_that_is_too_long_for_udp_comes_by_tcp() {
    let s = Scene::new("long");
    let long = s.long();
    let _server = s.server(SERVER, &[&long]);
    s.following(&["long.example"], async |f| {
        f.settled(&["long.example"]).await;
        assert_eq!(f.answers("long.example").len(), 200);
    });
}

#[test]
fn every_question_carries_the_mark() {
    let s = Scene::new("mark");
    let far = s.lab.netns("far").unwrap();
    s.lab.veth((&s.netns, &["203.0.113.1/24"]), (&far, &["203.0.113.2/24"])).unwrap();
    let long = s.long();
    let _server = s.server_in(&far, "203.0.113.2", &[&long, "--host-record=short.example,203.0.113.7,60"]);
    s.resolv_conf("nameserver 203.0.113.2\noptions timeout:1 attempts:1\n");
    let without = s.netns.ip(&["rule", "add", "pref", "10", "not", "fwmark", &MARK.to_string(), "prohibit"]);
    without.unwrap();
    s.following(&["short.example", "long.example"], async |f| {
        let unmarked = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let refused = unmarked.send_to(b"?", "203.0.113.2:53").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "the rule works");
        f.settled(&["short.example", "long.example"]).await;
        assert_eq!(f.answers("short.example").len(), 1, "by UDP");
        assert_eq!(f.answers("long.example").len(), 200, "by TCP");
    });
}

#[test]
fn a_name_is_asked_for_again_and_other_servers_are_noticed() {
    let s = Scene::new("again");
    let _first = s.server(SERVER, &["--host-record=moves.example,203.0.113.1,0"]);
    let _second = s.server("127.0.0.54", &["--host-record=moves.example,203.0.113.2,0"]);
    s.following(&["moves.example"], async |f| {
        f.settled(&["moves.example"]).await;
        assert_eq!(f.answers("moves.example"), answers([("203.0.113.1", 0)]));
        let answered = f.state("moves.example").answered;
        f.until("it is asked for again", |r| r.state("moves.example").unwrap().answered > answered).await;
        assert_eq!(f.answers("moves.example"), answers([("203.0.113.1", 0)]));

        s.resolv_conf("nameserver 127.0.0.54\n");
        let second = vec![("203.0.113.2".parse().unwrap(), Duration::ZERO)];
        f.until("the other server is asked", |r| r.state("moves.example").unwrap().addresses == second).await;

        fs::write(&s.files.hosts, "203.0.113.3 moves.example\n").unwrap();
        let third = vec![("203.0.113.3".parse().unwrap(), Duration::ZERO)];
        f.until("the hosts file is read", |r| r.state("moves.example").unwrap().addresses == third).await;
    });
}

#[test]
fn a_server_that_is_dead_or_broken_leaves_it_to_the_next() {
    let s = Scene::new("dead");
    let _broken = s.server("127.0.0.52", &[]);
    let _server = s.server(
        SERVER,
        &[
            "--local=/a.test/b.test/",
            "--host-record=a.test,203.0.113.1,60",
            "--host-record=b.test,203.0.113.2,60",
        ],
    );
    s.following(&["a.test", "nowhere.test"], async |f| {
        let silent = UdpSocket::bind("127.0.0.51:53").await.unwrap();
        s.resolv_conf(&format!(
            "nameserver 127.0.0.51\nnameserver 127.0.0.52\nnameserver {SERVER}\noptions timeout:1 attempts:1\n"
        ));
        f.settled(&["a.test", "nowhere.test"]).await;
        assert_eq!(f.answers("a.test"), answers([("203.0.113.1", 60)]));
        let refused = "answered \"Query Refused\"";
        let all = f.failure("nowhere.test");
        assert!(all.contains("no answer from 127.0.0.51:53 within 1s"), "{all}");
        assert!(all.contains(&format!("127.0.0.52:53 {refused}; {SERVER}:53 {refused}")), "{all}");

        let asked_so_far = waiting(&silent);
        assert!(asked_so_far > 0);
        f.0.follow(&set(&["b.test"]), Instant::now());
        f.settled(&["b.test"]).await;
        assert_eq!(f.answers("b.test"), answers([("203.0.113.2", 60)]));
        assert_eq!(waiting(&silent), 0, "the one that answered is asked first");

        s.resolv_conf("nameserver 127.0.0.51\noptions timeout:1 attempts:1\n");
        f.0.follow(&set(&["c.test"]), Instant::now());
        f.settled(&["c.test"]).await;
        assert_eq!(f.failure("c.test"), "no answer from 127.0.0.51:53 within 1s");
    });
}

/// Takes the questions that a socket has been asked.
fn waiting(socket: &UdpSocket) -> usize {
    let mut question = [0; 512];
    std::iter::from_fn(|| socket.try_recv(&mut question).ok()).count()
}

#[test]
fn a_thousand_names_are_all_answered() {
    let s = Scene::new("thousand");
    let file = s.lab.dir().join("names");
    let names: Vec<String> = (0..1_000).map(|i| format!("n{i}.example")).collect();
    let lines: String =
        names.iter().enumerate().map(|(i, name)| format!("10.9.{}.{} {name}\n", i / 250, i % 250)).collect();
    fs::write(&file, lines).unwrap();
    let _server = s.server(SERVER, &[&format!("--addn-hosts={}", file.display()), "--local-ttl=600"]);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    s.following(&names, async |f| {
        f.settled(&names).await;
        assert_eq!(f.0.problems(), [""; 0]);
        assert_eq!(f.answers("n999.example"), answers([("10.9.3.249", 600)]));
    });
}
