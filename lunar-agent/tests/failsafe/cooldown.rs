//! The cooldown: how long it lasts, what does not change it, and what ends it.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    scene::{Answer, OPENED, OPENED_BY_PROBES, PROVIDER, Plan, Scene, lines, word},
    world::{SOON, eventually},
};

/// What the contract allows a cooldown to deviate by.
const ALLOWED_MS: f64 = 100.0;

/// A word opened by connects, and how long after the failure's return `status` first showed it.
fn opened(scene: &Scene, failures: u64) -> Instant {
    for n in 1..failures {
        assert_eq!(scene.call(), "ECONNREFUSED", "failure {n}");
    }
    assert_eq!(scene.call(), "ECONNREFUSED");
    let at = Instant::now();
    scene.expect_word("cooldown", failures, 0);
    at
}

/// Read from `cooldown_remaining_ms`, and seen by an application that calls all the time.
#[test]
fn lasts_what_it_should() {
    let mut deviations = Vec::new();
    for _ in 0..3 {
        let scene = Scene::new("lasts");
        let _health = scene.health();
        let _agent = scene.agent(&Plan { threshold: 2, cooldown_sec: 2.0, ..Plan::default() });
        let at = opened(&scene, 2);
        scene.open();
        // Between two clock readings, so that a slow `status` widens the bounds and does not fail the test.
        let before = at.elapsed().as_secs_f64() * 1000.0;
        let remaining = scene.endpoint()["cooldown_remaining_ms"].as_f64().unwrap();
        let after = at.elapsed().as_secs_f64() * 1000.0;
        assert!(
            remaining + after > 2000.0 - ALLOWED_MS && remaining + before < 2000.0 + ALLOWED_MS,
            "{remaining} ms left after {before} to {after} ms"
        );
        let last_direct = loop {
            let begun = at.elapsed().as_secs_f64() * 1000.0;
            assert_eq!(scene.call(), "ok");
            if scene.verdict("redirected") > 2 {
                break begun;
            }
        };
        let first_redirected = at.elapsed().as_secs_f64() * 1000.0;
        // The probe that ends the cooldown takes its time, a few milliseconds here.
        assert!(first_redirected > 2000.0 - ALLOWED_MS, "redirected again after {first_redirected} ms");
        assert!(last_direct < 2000.0 + ALLOWED_MS, "direct still after {last_direct} ms");
        assert_eq!(word(&scene.endpoint()), ("closed".to_owned(), 0, 0));
        deviations.push((remaining + before - 2000.0, last_direct - 2000.0, first_redirected - 2000.0));
    }
    println!(
        "MEASURE cooldown deviations in ms (remaining, last direct, first redirected): {deviations:.1?}"
    );
}

/// Failures and successes of connects and probes during the cooldown neither end nor lengthen it.
#[test]
fn nothing_that_happens_meanwhile_changes_it() {
    let scene = Scene::new("unchanged");
    let health = scene.health();
    let plan = Plan {
        threshold: 3,
        cooldown_sec: 3.0,
        interval: "100ms",
        probe_timeout: "100ms",
        connect_timeout: "1500ms",
        ..Plan::default()
    };
    let agent = scene.agent(&plan);
    // Two connects are under way when the breaker opens; one will fail, one succeed.
    scene.swallow();
    let mut fails = scene.call_in_background();
    eventually("its SYN has left", || scene.verdict("redirected") == 1);
    scene.cut();
    let result = scene.step(&["connects", "--to", PROVIDER, "--count", "3"]);
    scene.mend();
    assert_eq!(result["failed"]["EHOSTUNREACH"], 3, "{result}");
    let at = Instant::now();
    scene.expect_word("cooldown", 3, 0);
    let deadline = |endpoint: &serde_json::Value| {
        endpoint["cooldown_remaining_ms"].as_f64().unwrap() + at.elapsed().as_secs_f64() * 1000.0
    };
    let first = deadline(&scene.endpoint());
    health.say(Answer::Unavailable);
    eventually("a probe fails meanwhile", || scene.endpoint()["healthy"] == false);
    let said = fails.finish(SOON).unwrap();
    assert!(said.contains("\"ETIMEDOUT\":1"), "{said}");
    eventually("the failure is seen", || scene.outcomes().1 == 4);
    health.say(Answer::Well);
    eventually("a probe succeeds meanwhile", || scene.endpoint()["healthy"] == true);
    let endpoint = scene.endpoint();
    assert_eq!(word(&endpoint), ("cooldown".to_owned(), 3, 0));
    let last = deadline(&endpoint);
    assert!((first - last).abs() < ALLOWED_MS, "the deadline has moved from {first} to {last} ms");
    assert_eq!((lines(&agent, OPENED), lines(&agent, "failsafe closed")), (1, 0));
    eventually("the cooldown ends", || scene.word().0 == "closed");
}

/// The probe at its end decides: a failure means another full cooldown, each time; a success closes.
#[test]
fn the_probe_at_its_end_decides() {
    let scene = Scene::new("decides");
    let health = scene.health();
    let agent = scene.agent(&Plan { threshold: 2, cooldown_sec: 1.0, ..Plan::default() });
    opened(&scene, 2);
    health.say(Answer::Unavailable);
    for n in 1..=3 {
        eventually("the probe opens it again", || lines(&agent, OPENED_BY_PROBES) == n);
        let endpoint = scene.endpoint();
        assert_eq!(word(&endpoint), ("cooldown".to_owned(), 2, n as u64), "one failure is enough");
        let remaining = endpoint["cooldown_remaining_ms"].as_f64().unwrap();
        assert!(remaining > 500.0 && remaining < 1000.0 + ALLOWED_MS, "another full cooldown: {remaining}");
        assert_eq!(scene.call(), "ok");
        assert_eq!(scene.verdict("redirected"), 2, "no application pays for the attempt");
    }
    health.say(Answer::Well);
    scene.open();
    eventually("the probe closes it", || scene.word() == ("closed".to_owned(), 0, 0));
    agent.child.wait_for_line("failsafe closed: traffic is redirected again", SOON).unwrap();
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("redirected"), scene.outcomes().0), (3, 1));
}

/// With no probe to decide while the lease is fresh, connects are admitted once it has had its time, and decide.
#[test]
fn connects_decide_when_the_probe_does_not() {
    for succeeds in [true, false] {
        let scene = Scene::new("probation");
        let _health = scene.health();
        let plan = Plan { threshold: 3, cooldown_sec: 1.0, interval: "1s", lease: "60s", ..Plan::default() };
        let mut agent = scene.agent(&plan);
        let at = opened(&scene, 3);
        agent.child.signal(Signal::SIGSTOP).unwrap();
        if succeeds {
            scene.open();
        }
        // `status` asks an agent that is stopped, `failsafe show` reads the pins.
        let shown = || {
            let shown: serde_json::Value =
                serde_json::from_str(&scene.failsafe(&["show", "-o", "json"])).unwrap();
            word(&shown["endpoints"][0])
        };
        eventually("probation", || shown().0 == "probation");
        let admitted = loop {
            let begun = at.elapsed();
            match (scene.call().as_str(), shown().0.as_str()) {
                // Direct: the provider answers, the word stays.
                ("ok", "probation") => {}
                ("ok", "closed") if succeeds => break begun,
                ("ECONNREFUSED", "cooldown") if !succeeds => break begun,
                other => panic!("{other:?}"),
            }
            assert!(begun < SOON);
        };
        let grace = Duration::from_millis(2500);
        assert!(at.elapsed() > grace - Duration::from_millis(100), "admitted after {admitted:?}");
        let wanted = if succeeds { ("closed".to_owned(), 0, 0) } else { ("cooldown".to_owned(), 4, 0) };
        assert_eq!(shown(), wanted, "one attempt is enough");
        println!("MEASURE connects admitted after {admitted:?}, due after {grace:?}");
        agent.child.signal(Signal::SIGCONT).unwrap();
        let line = if succeeds { "failsafe closed by a connect" } else { OPENED };
        eventually("the log tells", || lines(&agent, line) == if succeeds { 1 } else { 2 });
    }
}

/// With the agent stopped for longer than the lease everything goes direct, whatever the word says.
#[test]
fn a_stale_lease_sends_everything_direct() {
    let scene = Scene::new("stale");
    let _health = scene.health();
    let mut agent = scene.agent(&Plan { lease: "1s", ..Plan::default() });
    assert_eq!(scene.call(), "ECONNREFUSED");
    agent.child.signal(Signal::SIGSTOP).unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(scene.call(), "ok");
    agent.child.signal(Signal::SIGCONT).unwrap();
    eventually("the lease is fresh again", || scene.call() == "ECONNREFUSED");
    assert!(scene.verdict("lease_stale") >= 1);
    assert_eq!(scene.word().0, "closed");
}
