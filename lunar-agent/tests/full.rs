//! What is full: refused with its reason, or counted and left out, and nobody is harmed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use lunar_common::abi::{EVENTS_BYTES, Event, MAX_TARGETS};
use lunar_lab::{Cgroup, Spawn};
use nix::sys::signal::Signal;
use scene::{Scene, attached, one, verdicts};
use world::{AGENT, SOON, eventually, target};

/// The last target that there is room for is one like any other; the next is refused, and has its place as soon as
/// another leaves.
#[test]
fn there_are_as_many_targets_as_said_and_no_more() {
    let s = Scene::new("full-targets");
    let _agent = s.world.agent(&s.toml("[failsafe]\nlease = \"60s\""));
    let selector = |cgroup: &Cgroup| format!("cgroup:{}", cgroup.path().display());
    // `app` is the first.
    let cgroups: Vec<Cgroup> =
        (1..MAX_TARGETS).map(|n| s.world.lab.cgroup(&format!("many/{n}")).unwrap()).collect();
    let selectors: Vec<String> = cgroups.iter().map(selector).collect();
    for batch in selectors.chunks(128) {
        let args: Vec<&str> = ["attach"].into_iter().chain(batch.iter().map(String::as_str)).collect();
        let (code, said) = s.said(&args);
        assert_eq!(code, 0, "{said}");
    }
    let last = cgroups.last().unwrap();
    let refused = || {
        let (code, said) = s.said(&["attach", &selector(&s.world.other)]);
        assert!(code == 2, "{code}: {said}");
        assert!(said.contains("there can be 1024 targets") && said.contains("detach some first"), "{said}");
        assert_eq!(attached(&s.world.other), [0; 6]);
    };
    refused();
    s.connects(last, 2);
    s.connects(&s.world.other, 2);
    let status = s.world.status();
    assert_eq!(status["targets"].as_array().unwrap().len(), MAX_TARGETS as usize);
    assert_eq!(verdicts(&status, &selectors[MAX_TARGETS as usize - 2]), one("redirected", 2));

    assert_eq!(s.said(&["detach", &selectors[7]]).0, 0);
    eventually("its place is free", || s.said(&["attach", &selector(&s.world.other)]).0 == 0);
    s.connects(&s.world.other, 3);
    assert_eq!(verdicts(&s.world.status(), &selector(&s.world.other)), one("redirected", 3));
}

/// An agent that does not get round to reading events: those that find no room are counted and lost, no connect is harmed,
/// and the next ones are heard again.
#[test]
fn events_without_room_are_counted_and_harm_nothing() {
    // Each has a header of 8 bytes in the ring.
    const ROOM: u64 = EVENTS_BYTES as u64 / (size_of::<Event>() as u64 + 8);
    const CONNECTS: u64 = ROOM + 1_000;
    let s = Scene::new("full-events");
    let toml = s.toml("[failsafe]\nlease = \"60s\"");
    let config = s.world.config(&toml);
    let mut agent = s
        .world
        .lab
        .spawn(
            Spawn::new(AGENT)
                .args(["run".as_ref(), "--config".as_ref(), config.as_os_str()])
                .env("NO_COLOR", "1")
                // An event of every verdict.
                .env("LUNAR_INTERCEPTOR_LOG_LEVEL", "debug")
                .netns(&s.world.host),
        )
        .unwrap();
    agent.wait_for_line("ready", SOON).unwrap();
    s.connects(&s.world.app, 1);
    agent.signal(Signal::SIGSTOP).unwrap();
    s.connects(&s.world.app, CONNECTS);
    agent.signal(Signal::SIGCONT).unwrap();
    let status = s.world.status();
    let lost = status["losses"]["events"].as_u64().unwrap();
    // The gateway's processes may have asked for an event as well.
    assert!((CONNECTS - ROOM..CONNECTS - ROOM + 100).contains(&lost), "{lost} lost");
    assert_eq!(target(&status, "app")["connects"]["succeeded"], CONNECTS + 1);
    assert_eq!(verdicts(&status, "app"), one("redirected", CONNECTS + 1));

    let heard = || agent.output().lines().filter(|l| l.contains(" verdict ")).count() as u64;
    eventually("what there was room for is heard", || heard() == CONNECTS + 1 - lost);
    s.connects(&s.world.app, 5);
    eventually("and what comes now", || heard() == CONNECTS + 6 - lost);
    assert_eq!(s.world.status()["losses"]["events"], lost);
}
