//! A running agent is given another configuration: all of it is in effect, or none, and no connect is missed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{fs, os::unix::net::UnixDatagram, time::Duration};

use lunar_lab::Spawn;
use nix::sys::signal::Signal;
use scene::{BrokenLink, PROVIDER, Scene, attached, forwarded, one, verdicts};
use world::{AGENT, Agent, SOON, eventually, target};

impl Scene {
    /// Writes another configuration and asks for a reload.
    fn reload(&self, toml: &str) -> (i32, String) {
        self.world.config(toml);
        self.said(&["reload"])
    }

    fn problems(&self) -> Vec<String> {
        serde_json::from_value(self.world.status()["gateway"]["problems"].clone()).unwrap()
    }
}

/// Reloads that have come to their end, whichever, as the agent's log tells. Before that the file is being read.
fn ended(agent: &Agent) -> usize {
    agent.child.output().lines().filter(|l| l.contains("reloaded")).count()
}

#[test]
fn no_connect_is_missed_while_the_configuration_changes() {
    let s = Scene::new("reloads");
    // However slow the machine: it is not the lease that this is about.
    let lease = "[failsafe]\nlease = \"60s\"";
    let mut agent = s.world.agent(&s.toml(lease));
    let stream = s.stream();
    for round in 1..=10 {
        let block = format!("{lease}\n[policy]\nblock = [\"198.51.100.{round}\"]");
        let (code, said) = s.reload(&s.toml(&block));
        assert!(code == 0 && said.contains("reloaded") && said.contains("policy.block"), "{said}");
        s.world.config(&s.toml(&format!("{lease}\nexit_cooldown_after_sec = {round}")));
        agent.child.signal(Signal::SIGHUP).unwrap();
        eventually("both have been read", || ended(&agent) == 2 * round);
        assert_eq!(attached(&s.world.app), [1; 6], "swapped, not added");
    }
    let count = s.all_redirected(stream);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", count));
    assert!(s.said(&["reload"]).1.contains("nothing has changed"));
}

#[test]
fn what_is_reloaded_is_in_effect() {
    let s = Scene::new("effect");
    let _second = s.world.gateway(&["--listen", "127.0.0.2:8000"]);
    let _agent = s.world.agent(&s.toml(""));
    s.connects(&s.world.app, 2);

    // Policy: the provider is blocked, and no longer.
    assert_eq!(s.reload(&s.toml("[policy]\nblock = [\"203.0.113.0/24\"]")).0, 0);
    s.connects(&s.world.app, 3);
    assert_eq!(s.reload(&s.toml("[policy]\ndry_run = true")).0, 0);
    s.connects(&s.world.app, 4);
    let mut counted = verdicts(&s.world.status(), "app");
    counted.sort();
    assert_eq!(counted, [one("dry_run", 4), one("policy", 3), one("redirected", 2)].concat());

    // Endpoints: the new one takes the connects, and its address is what status shows.
    let elsewhere = s.world.toml("original-dst", &["127.0.0.2:8000"], "");
    assert_eq!(s.reload(&elsewhere).0, 0);
    assert_eq!(s.world.status()["gateway"]["endpoints"][0]["address"], "127.0.0.2:8000");
    let before = forwarded(&s.gateway);
    s.connects(&s.world.app, 5);
    assert_eq!((s.world.verdict("redirected"), forwarded(&s.gateway)), (7, before));

    // The failsafe's threshold, and the probe's rhythm: a dead gateway is noticed by two probes, not by five.
    let (code, said) =
        s.reload(&s.toml("[failsafe]\nenter_cooldown_after_attempts = 2\nexit_cooldown_after_sec = 300"));
    assert!(code == 0 && said.contains("failsafe.enter_cooldown_after_attempts: 5 → 2"), "{said}");
    let mut s = s;
    s.gateway.kill().unwrap();
    eventually("two failures open the breaker", || s.world.breaker() == "cooldown");
    let endpoint = &s.world.status()["gateway"]["endpoints"][0];
    assert_eq!((&endpoint["probe_failures"], &endpoint["connect_failures"]), (&2.into(), &0.into()));
    let left = endpoint["cooldown_remaining_ms"].as_u64().unwrap();
    assert!(left > 200_000, "{left}");
}

/// A program that cannot be swapped, when most of the others have been: all go back.
#[test]
fn a_reload_that_fails_half_way_leaves_everything_in_place() {
    let s = Scene::new("half-way");
    let agent = s.world.agent(&s.toml(""));
    s.connects(&s.world.app, 3);
    let before = s.world.status();
    // It takes an endpoint, the policy and a target away, brings others and would change the failsafe.
    let other = format!("[[target]]\nname = \"new\"\ncgroup = {:?}\n", s.world.other.path());
    let more = "[failsafe]\nenter_cooldown_after_attempts = 2\n[policy]\nblock = [\"203.0.113.10\"]";
    let wanted = s.world.toml("original-dst", &["127.0.0.2:8000"], more) + &other;
    let broken = BrokenLink::of(&agent);
    let links = s.pinned();
    let stream = s.stream();
    for _ in 0..3 {
        let (code, said) = s.reload(&wanted);
        assert!(code == 1 && said.contains("connect6"), "exit {code}: {said}");
    }
    // For as long as it was tried, it decided some of them: they went direct.
    let streamed = s.all_connected(stream);
    let tried = s.world.verdict("policy");
    assert!(tried * 20 < streamed, "{tried} of {streamed} were decided by what is not in force");
    eventually("the gateway forwards the others", || forwarded(&s.gateway) == 3 + streamed - tried);
    assert_eq!(s.pinned(), links);
    assert_eq!((attached(&s.world.app), attached(&s.world.other)), ([1; 6], [0; 6]));
    let status = s.world.status();
    assert_eq!(status["gateway"]["endpoints"][0]["address"], before["gateway"]["endpoints"][0]["address"]);
    assert_eq!(status["targets"].as_array().unwrap().len(), 1, "{status:#}");
    assert_eq!(s.world.verdict("redirected"), 3 + streamed - tried);
    s.connects(&s.world.app, 2);
    assert_eq!(s.world.verdict("redirected"), 5 + streamed - tried, "the old one is in force");

    // Mended, the same reload is whole.
    broken.mend();
    let (code, said) = s.reload(&wanted);
    assert!(code == 0 && said.contains("failsafe.enter_cooldown_after_attempts: 5 → 2"), "{code}: {said}");
    assert_eq!((attached(&s.world.app), attached(&s.world.other)), ([1; 6], [1; 6]));
    s.connects(&s.world.app, 4);
    s.connects(&s.world.other, 2);
    let status = s.world.status();
    assert_eq!(status["gateway"]["endpoints"][0]["address"], "127.0.0.2:8000");
    let mut counted = verdicts(&status, "app");
    counted.sort();
    let expected = [one("policy", 4 + tried), one("redirected", 5 + streamed - tried)].concat();
    assert_eq!(counted, expected);
    assert_eq!(verdicts(&status, "new"), one("policy", 2));
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_force_and_says_why() {
    let s = Scene::new("bad");
    let mut agent = s.world.agent(&s.toml(""));
    s.connects(&s.world.app, 1);
    let good_target = s.world.other.path().display().to_string();
    // Each has something good in it, too, which must not be applied.
    let block = "[policy]\nblock = [\"203.0.113.10\"]";
    let cases = [
        (s.toml("[policy]\nblock = [\"203.0.113.10\"]\nports = [70000]"), "70000"),
        (s.toml(&format!("{block}\n[nonsense]\nx = 1")), "nonsense"),
        (s.toml(&format!("{block}\n[[target]]\ncgroup = \"/nowhere/at/all\"")), "/nowhere/at/all"),
        (
            s.toml(&format!("{block}\n[[target]]\nname = \"app\"\ncgroup = {good_target:?}")),
            "the name \"app\" is given twice",
        ),
        (s.toml(&format!("{block}\n[[target]]\nname = \"x\"\ncgroup = {:?}", s.world.app.path())), "already"),
        (format!("{}\n[[[", s.toml(block)), "agent.toml"),
    ];
    let mut refusals = 0;
    for (toml, reason) in &cases {
        let (code, said) = s.reload(toml);
        assert!(code == 2 && said.contains(reason), "{reason}: exit {code}: {said}");
        agent.child.signal(Signal::SIGHUP).unwrap();
        // The command line cannot always ask: it reads the agent's place from the same file.
        refusals += 1 + usize::from(said.contains("not reloaded"));
        eventually("it is refused", || ended(&agent) == refusals);
        // The command line reads its paths from the file, which here may be broken.
        s.world.config(&s.toml(""));
        let problems = s.problems();
        assert!(problems.iter().any(|p| p.contains(reason) && p.contains("in force")), "{problems:?}");
        assert_eq!(attached(&s.world.other), [0; 6]);
        s.connects(&s.world.app, 1);
    }
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 1 + cases.len() as u64));
    let (code, said) = s.reload(&s.toml(block));
    assert!(code == 0, "{said}");
    assert_eq!(s.problems(), Vec::<String>::new());
    s.connects(&s.world.app, 1);
    assert_eq!(s.world.verdict("policy"), 1);
}

#[test]
fn paths_cannot_change() {
    let s = Scene::new("paths");
    let agent = s.world.agent(&s.toml(""));
    let path = s.world.config(&s.toml("[policy]\nblock = [\"203.0.113.10\"]"));
    let text = fs::read_to_string(&path).unwrap().replace("/lunar\"", "/other\"");
    fs::write(&path, text).unwrap();
    let (code, said) = s.said(&["reload"]);
    assert!(code == 2 && said.contains("paths.pins cannot change while the agent runs"), "{code}: {said}");
    s.world.config(&s.toml(""));
    s.connects(&s.world.app, 1);
    assert_eq!(s.world.verdict("redirected"), 1);
    drop(agent);
}

#[test]
fn targets_come_go_and_are_renamed() {
    let s = Scene::new("targets");
    let hand = s.world.lab.cgroup("hand").unwrap();
    let inner = s.world.lab.cgroup("app/inner").unwrap();
    let _agent = s.world.agent(&s.toml(""));
    assert_eq!(s.said(&["attach", &format!("cgroup:{}", hand.path().display())]).0, 0);
    s.connects(&s.world.app, 5);
    let entry = |name: &str, cgroup: &lunar_lab::Cgroup| {
        format!("[[target]]\nname = {name:?}\ncgroup = {:?}\n", cgroup.path())
    };
    let only = |targets: &[String]| {
        let base = s.toml("");
        let (head, _) = base.split_once("[[target]]").unwrap();
        head.to_owned() + &targets.concat()
    };
    // One more, inside the first, which is renamed meanwhile.
    let (code, said) = s.reload(&only(&[entry("inner", &inner), entry("renamed", &s.world.app)]));
    assert!(code == 0 && said.contains("target.inner") && said.contains("target.app: gone"), "{said}");
    let status = s.world.status();
    assert_eq!(status["targets"].as_array().unwrap().len(), 3, "{status:#}");
    assert_eq!(verdicts(&status, "renamed"), one("redirected", 5));
    s.connects(&inner, 2);
    s.connects(&s.world.app, 1);
    let status = s.world.status();
    assert_eq!(verdicts(&status, "inner"), one("redirected", 2));
    assert_eq!(verdicts(&status, "renamed"), one("redirected", 6));
    // The outer goes, the inner goes on; the one attached by hand stays through all of it.
    assert_eq!(s.reload(&only(&[entry("inner", &inner)])).0, 0);
    eventually("the outer is let go", || attached(&s.world.app) == [0; 6]);
    assert_eq!((attached(&inner), attached(&hand)), ([1; 6], [1; 6]));
    s.connects(&inner, 3);
    s.connects(&s.world.app, 1);
    s.connects(&hand, 4);
    let status = s.world.status();
    assert_eq!(verdicts(&status, "inner"), one("redirected", 5));
    let by_hand = format!("cgroup:{}", hand.path().display());
    assert_eq!(verdicts(&status, &by_hand), one("redirected", 4));
    assert_eq!(target(&status, &by_hand)["attached"], true);
    assert_eq!(status["targets"].as_array().unwrap().len(), 2, "{status:#}");
}

#[test]
fn the_handoff_can_change() {
    let s = Scene::new("handoff");
    let proxied = s.world.gateway(&["--listen", "127.0.0.3:8000", "--accept-proxy"]);
    let _agent = s.world.agent(&s.toml(""));
    s.connects(&s.world.app, 2);
    let to_proxy = s.world.toml("proxy-protocol", &["127.0.0.3:8000"], "");
    let (code, said) = s.reload(&to_proxy);
    assert!(code == 0 && said.contains("gateway.handoff"), "{said}");
    let answer = s.world.client(&["http", "--to", PROVIDER, "--count", "3"]);
    assert_eq!((&answer["calls"], &answer["failed"]), (&3.into(), &0.into()), "{answer}");
    assert_eq!(forwarded(&proxied), 3);
    assert_eq!(s.world.verdict("redirected"), 5);
    assert_eq!(s.reload(&s.toml("")).0, 0);
    s.connects(&s.world.app, 2);
    assert_eq!(s.world.verdict("redirected"), 7);
    assert_eq!(forwarded(&proxied), 3);
}

/// While programs of both handoffs are attached, each connection is handed over as it was decided.
#[test]
fn calls_go_on_while_the_handoff_changes() {
    let s = Scene::new("handoffs");
    let proxied = s.world.gateway(&["--listen", "127.0.0.3:8000", "--accept-proxy"]);
    let (own, proxy) = (s.toml(""), s.world.toml("proxy-protocol", &["127.0.0.3:8000"], ""));
    let _agent = s.world.agent(&own);
    let call = ["client", "http", "--to", PROVIDER, "--count", "4000"];
    let mut clients: Vec<_> = (0..2)
        .map(|_| {
            let role = s.world.lab.role(call).unwrap().netns(&s.world.host).cgroup(&s.world.app);
            s.world.lab.spawn(role).unwrap()
        })
        .collect();
    let mut changes = 0;
    while clients.iter_mut().all(|c| c.try_wait().unwrap().is_none()) {
        for toml in [&proxy, &own] {
            let (code, said) = s.reload(toml);
            assert_eq!(code, 0, "{said}");
            changes += 1;
        }
    }
    assert!(changes > 4, "{changes}");
    for mut client in clients {
        let said = client.finish(Duration::from_secs(60)).unwrap();
        assert!(
            said.ends_with("{\"calls\":4000,\"failed\":0}\n"),
            "{}",
            said.lines().rev().take(3).collect::<String>()
        );
    }
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 8000));
    eventually("all were forwarded", || {
        let count = |g: &lunar_lab::Child| g.stdout().lines().filter(|l| l.starts_with("forwarded")).count();
        let both = [count(&s.gateway), count(&proxied)];
        both.iter().sum::<usize>() == 8000 && both.iter().all(|some| *some > 100)
    });
}

/// What systemd hears from a unit of `Type=notify-reload` with a watchdog.
#[test]
fn systemd_is_told() {
    let s = Scene::new("systemd");
    let path = s.world.lab.dir().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let next = || {
        let mut buffer = [0; 512];
        let read = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    };
    // The first message with these words; heartbeats come in between.
    let hear = |words: &str| -> String {
        loop {
            let said = next();
            if said.contains(words) {
                return said;
            }
            assert_eq!(said.trim(), "WATCHDOG=1", "waiting for {words}");
        }
    };
    let config = s.world.config(&s.toml(""));
    let spawn = Spawn::new(AGENT)
        .args(["run".as_ref(), "--config".as_ref(), config.as_os_str()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .netns(&s.world.host);
    let mut agent = s.world.lab.spawn(spawn).unwrap();
    hear("READY=1");
    for _ in 0..3 {
        assert_eq!(next().trim(), "WATCHDOG=1");
    }
    agent.signal(Signal::SIGHUP).unwrap();
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    // One that is refused is over, too.
    s.world.config(&s.toml("[nonsense]"));
    agent.signal(Signal::SIGHUP).unwrap();
    hear("RELOADING=1");
    hear("READY=1");
    agent.signal(Signal::SIGTERM).unwrap();
    hear("STOPPING=1");
    assert!(agent.wait(SOON).unwrap().success());
}
