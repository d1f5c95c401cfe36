//! Agents that are killed, restarted and stopped: what stays in effect, what is told, what is left in bpffs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lunar_lab::Cgroup;
use nix::sys::signal::Signal;
use scene::{GATEWAY, Scene, attached, one, verdicts};
use serde_json::Value;
use world::{SOON, eventually};

#[test]
fn a_killed_agent_is_told_from_its_pins_until_cleanup() {
    let s = Scene::new("killed");
    let mut agent = s.world.agent(&s.toml("[failsafe]\nlease = \"6s\""));
    s.connects(&s.world.app, 7);
    let before = s.world.status();
    assert_eq!(before["agent"]["pid"], agent.child.id());
    assert_eq!(attached(&s.world.app), [1; 6]);
    agent.child.kill().unwrap();

    let after = s.world.status();
    let (code, table) = s.said(&["status"]);
    assert_eq!(after["agent"]["running"], false);
    assert_eq!((&after["agent"]["pid"], &after["agent"]["uptime_sec"]), (&Value::Null, &Value::Null));
    assert_eq!((&after["gateway"], &after["targets"]), (&before["gateway"], &before["targets"]));
    assert!(code == 0 && table.contains("NOT RUNNING"), "{table}");
    let age = |status: &Value| status["agent"]["lease_age_ms"].as_u64().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(age(&s.world.status()) >= age(&after) + 20);

    // Until the lease ends, then direct: nothing fails.
    s.connects(&s.world.app, 10);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 17));
    eventually("the lease ends", || age(&s.world.status()) > 6_000);
    s.connects(&s.world.app, 10);
    let mut counted = verdicts(&s.world.status(), "app");
    counted.sort();
    assert_eq!(counted, [one("lease_stale", 10), one("redirected", 17)].concat());

    let (code, text) = s.said(&["cleanup"]);
    assert!(code == 0 && text.contains("removed"), "{text}");
    assert_eq!(s.pinned(), Vec::<PathBuf>::new());
    for cgroup in [&s.world.app, &s.world.gw] {
        eventually("the programs detach", || attached(cgroup) == [0; 6]);
    }
    s.connects(&s.world.app, 3);
    let (code, text) = s.said(&["cleanup"]);
    assert!(code == 0 && text.contains("nothing is pinned"), "{text}");
    for args in [&["status"][..], &["status", "-o", "json"], &["failsafe", "show"]] {
        let (code, text) = s.said(args);
        assert!(code == 1 && text.contains("nothing is pinned"), "{args:?}: {text}");
    }
}

#[test]
fn what_a_running_agent_holds_is_nobody_elses() {
    let s = Scene::new("held");
    let toml = s.toml("");
    let agent = s.world.agent(&toml);
    let (code, text) = s.said(&["cleanup"]);
    assert!(code == 1 && text.contains("another lunar-agent is running"), "{text}");

    let mut second = s.world.agent_unready(&toml, &[]);
    assert_eq!(second.child.wait(SOON).unwrap().code(), Some(1));
    assert!(second.child.output().contains("another lunar-agent is running"), "{}", second.child.output());

    // Other pins, as that sentence advises, but the same socket.
    let path = s.world.config(&toml);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("/lunar\"", "/second\"")).unwrap();
    let mut third = s
        .world
        .lab
        .spawn(
            lunar_lab::Spawn::new(world::AGENT)
                .args(["run".as_ref(), "--config".as_ref(), path.as_os_str()])
                .netns(&s.world.host),
        )
        .unwrap();
    assert_eq!(third.wait(SOON).unwrap().code(), Some(1));
    assert!(third.output().contains("name another with --socket"), "{}", third.output());

    s.world.config(&toml);
    assert_eq!(s.world.status()["agent"]["pid"], agent.child.id());
    s.connects(&s.world.app, 3);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 3));
}

#[test]
fn no_connect_is_missed_while_an_agent_restarts() {
    let s = Scene::new("restart");
    // However slow the machine: it is not the lease that this is about.
    let toml = s.toml("[failsafe]\nlease = \"60s\"");
    let mut agent = s.world.agent(&toml);
    let stream = s.stream();
    for _ in 0..2 {
        agent.child.signal(Signal::SIGTERM).unwrap();
        assert!(agent.child.wait(SOON).unwrap().success(), "{}", agent.child.output());
        agent = s.world.agent(&toml);
        assert_eq!(attached(&s.world.app), [1; 6], "swapped, not added");
    }
    let count = s.all_redirected(stream);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", count));
}

#[test]
fn a_restart_keeps_counters_cooldown_and_bypass_and_takes_other_targets() {
    let mut s = Scene::new("takeover");
    let more = "[failsafe]\nenter_cooldown_after_attempts = 2\nexit_cooldown_after_sec = 300";
    let third = s.world.lab.cgroup("third").unwrap();
    let entry =
        |name: &str, cgroup: &Cgroup| format!("[[target]]\nname = {name:?}\ncgroup = {:?}\n", cgroup.path());
    let before = s.toml(more) + &entry("old", &s.world.other);
    // The new target stands first: the slot of one that stays is not its to take.
    let after = s.toml(&format!("{more}\n{}", entry("new", &third)));
    let mut agent = s.world.agent(&before);
    s.connects(&s.world.app, 5);
    s.connects(&s.world.other, 4);
    s.gateway.kill().unwrap();
    eventually("the probes open the breaker", || s.world.breaker() == "cooldown");
    assert_eq!(s.said(&["failsafe", "bypass"]).0, 0);
    let left = |status: &Value| status["gateway"]["endpoints"][0]["cooldown_remaining_ms"].as_u64().unwrap();
    let then = s.world.status();
    agent.child.signal(Signal::SIGTERM).unwrap();
    assert!(agent.child.wait(SOON).unwrap().success());
    s.gateway = s.world.gateway(&["--listen", GATEWAY]);

    agent = s.world.agent(&after);
    let now = s.world.status();
    assert_eq!(now["agent"]["pid"], agent.child.id());
    assert_eq!(now["gateway"]["forced"], "bypass");
    assert_eq!(now["gateway"]["endpoints"][0]["state"], "cooldown");
    assert!(left(&now) > 0 && left(&now) < left(&then), "{now:#}");
    assert_eq!(now["targets"].as_array().unwrap().len(), 2, "{now:#}");
    assert_eq!((verdicts(&now, "app"), verdicts(&now, "new")), (one("redirected", 5), vec![]));
    eventually("the old target is let go", || attached(&s.world.other) == [0; 6]);
    assert_eq!((attached(&s.world.app), attached(&third)), ([1; 6], [1; 6]));

    // Each is counted as itself.
    s.connects(&third, 3);
    s.connects(&s.world.app, 2);
    s.connects(&s.world.other, 1);
    let now = s.world.status();
    assert_eq!(verdicts(&now, "new"), one("forced", 3));
    assert_eq!(verdicts(&now, "app"), [one("forced", 2), one("redirected", 5)].concat());

    assert_eq!(s.said(&["failsafe", "resume"]).0, 0);
    assert_eq!(
        (s.world.status()["gateway"]["forced"].clone(), s.world.breaker().as_str()),
        (Value::Null, "closed")
    );
    s.connects(&third, 6);
    assert_eq!(verdicts(&s.world.status(), "new"), [one("forced", 3), one("redirected", 6)].concat());
}

#[test]
fn on_stop_detach_leaves_nothing() {
    let s = Scene::new("detach");
    let mut agent = s.world.agent(&s.toml("[failsafe]\non_stop = \"detach\""));
    s.connects(&s.world.app, 1);
    agent.child.signal(Signal::SIGINT).unwrap();
    assert!(agent.child.wait(SOON).unwrap().success(), "{}", agent.child.output());
    assert_eq!(s.pinned(), Vec::<PathBuf>::new());
    assert!(!agent.socket.exists());
    for cgroup in [&s.world.app, &s.world.gw] {
        eventually("the programs detach", || attached(cgroup) == [0; 6]);
    }
    s.connects(&s.world.app, 1);
}

#[test]
fn a_second_signal_exits_at_once() {
    let s = Scene::new("signals");
    let mut agent = s.world.agent(&s.toml("[failsafe]\non_stop = \"detach\""));
    // So much to remove that there is time for the second.
    let many = agent.pinned("links/many");
    fs::create_dir(&many).unwrap();
    for n in 0..60_000 {
        fs::create_dir(many.join(n.to_string())).unwrap();
    }
    agent.child.signal(Signal::SIGTERM).unwrap();
    eventually("the removal begins", || fs::read_dir(&many).unwrap().count() < 60_000);
    agent.child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.child.wait(SOON).unwrap().signal(), Some(Signal::SIGTERM as i32));
    assert!(many.exists(), "it had ended before the second signal came");
    assert_eq!(s.said(&["cleanup"]).0, 0);
    assert_eq!(s.pinned(), Vec::<PathBuf>::new());
}

/// Whoever reads `status --watch` may leave: it ends, and does not go on showing to nobody.
#[test]
fn a_watch_ends_with_its_reader() {
    let s = Scene::new("watch-reader");
    let _agent = s.world.agent(&s.toml(""));
    let config = s.world.lab.dir().join("agent.toml");
    let mut watch = Command::new(world::AGENT)
        .args(["status", "--watch", "--config"])
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("agent "), "{first:?}");
    let start = Instant::now();
    let ended = loop {
        if let Some(ended) = watch.try_wait().unwrap() {
            break Some(ended);
        }
        if start.elapsed() > SOON {
            watch.kill().unwrap();
            watch.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.expect("it went on without a reader").success());
}
