//! Agents and relays that die, hang, and come back.

use nix::{
    sys::signal::{Signal, kill as signal},
    unistd::Pid,
};

use crate::{
    scene::{PROVIDER, Scene, kill},
    world::eventually,
};

/// Whether all threads of a process are in this state.
fn all_threads(pid: u32, state: char) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = threads
        .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default());
    stats.into_iter().all(|stat| stat.contains(&format!(") {state} ")))
}

fn send(pid: u32, what: Signal) {
    signal(Pid::from_raw(pid.try_into().unwrap()), what).unwrap();
}

#[test]
fn a_dead_relay_sends_connects_direct_at_once_and_another_takes_its_place() {
    let scene = Scene::new("relay-dies");
    let mut agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let first = scene.relay();
    // Nobody is there to start another.
    agent.child.signal(Signal::SIGSTOP).unwrap();
    eventually("all of the agent has stopped", || all_threads(agent.child.id(), 'T'));
    send(first, Signal::SIGKILL);
    eventually("it has died", || all_threads(first, 'Z'));
    let result = scene.calls(PROVIDER, 3);
    assert_eq!(result["failed"], 0, "{result}");
    agent.child.signal(Signal::SIGCONT).unwrap();
    assert_eq!(scene.world.verdict("no_listener"), 3);
    eventually("another relay", || {
        scene.world.status()["relay"]["pid"].as_u64().is_some_and(|p| p != u64::from(first))
    });
    scene.listening();
    scene.expect(PROVIDER, 3, 3);
}

#[test]
fn a_relay_that_hangs_is_caught_by_its_lease() {
    let scene = Scene::new("relay-hangs");
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let relay = scene.relay();
    send(relay, Signal::SIGSTOP);
    eventually("its lease is over", || {
        scene.world.status()["relay"]["lease_age_ms"].as_u64().is_some_and(|age| age > 500)
    });
    let result = scene.calls(PROVIDER, 3);
    send(relay, Signal::SIGCONT);
    assert_eq!(result["failed"], 0, "{result}");
    assert_eq!(scene.world.verdict("no_listener"), 3);
    eventually("it works again", || scene.world.status()["relay"]["running"] == true);
    let before = scene.world.verdict("redirected");
    let result = scene.calls(PROVIDER, 3);
    assert_eq!(result["failed"], 0, "{result}");
    assert!(scene.world.verdict("redirected") > before, "{:#}", scene.world.status());
}

#[test]
fn the_relay_outlives_the_agent_and_the_next_agent_finds_it() {
    let scene = Scene::new("relay-outlives");
    let mut agent = scene.agent("[failsafe]\nlease = \"5s\"\n");
    let _target = scene.idle();
    scene.listening();
    let relay = scene.relay();
    kill(&mut agent);
    // The lease is fresh: nothing has changed for the application.
    let result = scene.calls(PROVIDER, 3);
    assert_eq!(result["failed"], 0, "{result}");
    assert_eq!(scene.world.verdict("redirected"), 3);
    let status = scene.world.status();
    assert_eq!(
        (&status["agent"]["running"], &status["relay"]["running"]),
        (&false.into(), &true.into()),
        "{status:#}"
    );
    assert_eq!(status["relay"]["gateway"], 3, "{status:#}");
    let _next = scene.agent("[failsafe]\nlease = \"5s\"\n");
    scene.listening();
    assert_eq!(scene.relay(), relay, "the same one serves");
    scene.expect(PROVIDER, 3, 3);
}

#[test]
fn with_the_agent_dead_the_lease_ends_what_the_relay_does() {
    let scene = Scene::new("relay-alone");
    let mut agent = scene.agent("[failsafe]\nlease = \"500ms\"\n");
    let _target = scene.idle();
    scene.listening();
    kill(&mut agent);
    eventually("the lease is over", || {
        scene.world.status()["agent"]["lease_age_ms"].as_u64().is_some_and(|age| age > 500)
    });
    scene.expect(PROVIDER, 3, 0);
    assert_eq!(scene.world.verdict("lease_stale"), 3);
}

#[test]
fn a_relay_that_hangs_is_replaced_and_its_namespaces_are_served_by_the_next() {
    let scene = Scene::new("relay-hung");
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    scene.expect(PROVIDER, 2, 2);
    let hung = scene.relay();
    send(hung, Signal::SIGSTOP);
    // The agent notices that it does not answer, and starts another, which finds out the same.
    crate::world::within(3 * crate::world::SOON, "another serves", || {
        let status = scene.world.status();
        let relay = &status["relay"];
        relay["running"] == true && relay["pid"] != hung && relay["namespaces"] == 1
    });
    scene.expect(PROVIDER, 3, 3);
    assert!(!std::path::Path::new(&format!("/proc/{hung}/exe")).exists(), "it was killed");
}

#[test]
fn a_relay_of_another_build_that_takes_over_is_left_alone() {
    let scene = Scene::new("relay-other-build");
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let first = scene.relay();
    let other = scene.world.lab.dir().join("lunar-agent");
    // By another process: a file that this one has open for writing, a child of another test's has for a moment too, and nobody
    // can execute it meanwhile (ETXTBSY).
    let copied = std::process::Command::new("cp").arg(crate::world::AGENT).arg(&other).status().unwrap();
    assert!(copied.success());
    let (socket, pins) = (scene.world.lab.dir().join("relay.sock"), scene.world.lab.bpffs().join("lunar"));
    let args = ["relay", "--socket", socket.to_str().unwrap(), "--pins", pins.to_str().unwrap()];
    let spawn = lunar_lab::Spawn::new(&other).args(args).netns(&scene.world.host);
    let second = scene.world.lab.spawn(spawn).unwrap();
    eventually("it has taken over", || scene.relay() == second.id());
    assert_ne!(first, second.id());
    // For longer than the agent's looks are apart.
    let looks = std::time::Instant::now();
    while looks.elapsed() < std::time::Duration::from_secs(3) {
        scene.expect(PROVIDER, 1, 1);
        assert_eq!(scene.relay(), second.id());
    }
}

#[test]
fn stopped_with_detach_nothing_is_left() {
    let scene = Scene::new("relay-detach");
    let mut agent = scene.agent("[failsafe]\non_stop = \"detach\"\n");
    let _target = scene.idle();
    scene.listening();
    scene.expect(PROVIDER, 2, 2);
    let relay = scene.relay();
    agent.child.signal(Signal::SIGTERM).unwrap();
    agent.child.wait(crate::world::SOON).unwrap();
    eventually("the relay has ended", || !std::path::Path::new(&format!("/proc/{relay}/exe")).exists());
    assert!(!scene.world.lab.dir().join("relay.sock").exists());
    assert_eq!(crate::places::listening_ports(&scene), [0_u16; 0]);
    // And the next agent has one of its own.
    let _agent = scene.agent("");
    scene.listening();
    scene.expect(PROVIDER, 2, 2);
}

#[test]
fn an_orphan_of_removed_pins_ends_by_itself() {
    let scene = Scene::new("relay-orphan");
    let mut agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let relay = scene.relay();
    kill(&mut agent);
    std::fs::remove_dir_all(scene.world.lab.bpffs().join("lunar")).unwrap();
    eventually("the relay has ended", || !std::path::Path::new(&format!("/proc/{relay}/exe")).exists());
}
