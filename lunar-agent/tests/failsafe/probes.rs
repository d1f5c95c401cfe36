//! Probes count apart from connects, whichever way they fail.

use crate::{
    scene::{Answer, Health, OPENED, OPENED_BY_PROBES, Plan, Scene, lines},
    world::{SOON, eventually},
};

const QUICK: Plan = Plan {
    endpoint: crate::scene::ENDPOINT,
    kind: "http",
    interval: "300ms",
    probe_timeout: "250ms",
    connect_timeout: "1s",
    threshold: 5,
    cooldown_sec: 60.0,
    lease: "3s",
};

/// Probes fail until they open the breaker, though connects succeed in between: the connects reset only their own.
fn probes_open(
    kind: &'static str,
    threshold: u32,
    reason: &str,
    break_it: impl FnOnce(&Scene, &mut Option<Health>),
) {
    let scene = Scene::new("probes-open");
    let mut health = Some(scene.health());
    scene.open();
    let agent = scene.agent(&Plan { kind, threshold, ..QUICK });
    assert_eq!(scene.endpoint()["healthy"], true);
    break_it(&scene, &mut health);
    let mut seen = Vec::new();
    let mut calls = 0;
    let mut wait = || {
        let (state, connects, probes) = scene.word();
        if state == "closed" && kind != "tcp" {
            // May meet the very moment it opens, and then goes direct.
            assert_eq!(scene.call(), "ok");
            calls += 1;
        }
        assert_eq!(connects, 0);
        if seen.last() != Some(&probes) {
            seen.push(probes);
        }
        state == "cooldown"
    };
    eventually("probes open the breaker", &mut wait);
    assert!(seen.is_sorted() && seen.last() == Some(&u64::from(threshold)), "{seen:?}");
    let endpoint = scene.endpoint();
    let error = endpoint["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains(reason), "{kind}: {error}");
    let line = agent.child.wait_for_line(OPENED_BY_PROBES, SOON).unwrap();
    assert!(line.contains(reason), "{line}");
    assert_eq!((lines(&agent, OPENED_BY_PROBES), lines(&agent, OPENED)), (1, 0));
    let redirected = scene.verdict("redirected");
    assert!(kind == "tcp" || threshold == 1 || redirected > 0, "{calls} calls, none redirected");
    assert_eq!(scene.call(), "ok");
    assert_eq!(scene.verdict("redirected"), redirected);
    assert_eq!(scene.outcomes(), (redirected, 0, 0));
}

fn say(answer: Answer) -> impl FnOnce(&Scene, &mut Option<Health>) {
    move |_, health| health.as_ref().unwrap().say(answer)
}

#[test]
fn http_503() {
    probes_open("http", 5, "503", say(Answer::Unavailable));
    probes_open("http", 1, "503", say(Answer::Unavailable));
}

#[test]
fn http_hangs() {
    probes_open("http", 3, "no answer within", say(Answer::Nothing));
}

#[test]
fn http_refused() {
    probes_open("http", 3, "refused", |_, health| drop(health.take()));
}

/// The health check is well, but the endpoint itself refuses.
#[test]
fn http_well_but_the_endpoint_is_not() {
    let scene = Scene::new("endpoint-not");
    let _health = scene.health();
    scene.open();
    let agent = scene.agent(&Plan { threshold: 3, ..QUICK });
    scene.shut();
    agent.child.wait_for_line(OPENED_BY_PROBES, SOON).unwrap();
    scene.expect_word("cooldown", 0, 3);
}

#[test]
fn handshake_503() {
    probes_open("handshake", 3, "503", say(Answer::Unavailable));
}

#[test]
fn handshake_not_json() {
    probes_open("handshake", 3, "not a JSON object", say(Answer::NotJson));
}

#[test]
fn handshake_hangs() {
    probes_open("handshake", 3, "no answer within", say(Answer::Nothing));
}

#[test]
fn tcp_refused() {
    probes_open("tcp", 5, "refused", |scene, _| scene.shut());
    probes_open("tcp", 1, "refused", |scene, _| scene.shut());
}

#[test]
fn tcp_swallowed() {
    probes_open("tcp", 3, "no answer within", |scene, _| scene.swallow());
}

/// The reverse: probes succeed all the time, connects fail, and the probes do not reset them.
#[test]
fn connects_open_while_probes_succeed() {
    let scene = Scene::new("connects-open");
    let _health = scene.health();
    let agent = scene.agent(&Plan { kind: "handshake", interval: "100ms", probe_timeout: "100ms", ..QUICK });
    for n in 1..=5 {
        assert_eq!(scene.call(), "ECONNREFUSED");
        // Some probes go by.
        std::thread::sleep(std::time::Duration::from_millis(350));
        scene.expect_word(if n < 5 { "closed" } else { "cooldown" }, n, 0);
        assert_eq!(scene.endpoint()["healthy"], true);
    }
    assert_eq!((lines(&agent, OPENED_BY_PROBES), lines(&agent, OPENED)), (0, 1));
}

/// Failures of one kind do not add to the other's: four of each stay closed.
#[test]
fn the_counts_do_not_add_up() {
    let scene = Scene::new("apart");
    let health = scene.health();
    let _agent = scene.agent(&Plan { kind: "handshake", interval: "1s", probe_timeout: "500ms", ..QUICK });
    for _ in 0..4 {
        assert_eq!(scene.call(), "ECONNREFUSED");
    }
    scene.expect_word("closed", 4, 0);
    health.say(Answer::Unavailable);
    eventually("a probe has failed", || scene.word() == ("closed".to_owned(), 4, 1));
    eventually("two probes have failed", || scene.word() == ("closed".to_owned(), 4, 2));
    // A success of a probe resets the probes' alone.
    health.say(Answer::Well);
    eventually("a probe has succeeded", || scene.word() == ("closed".to_owned(), 4, 0));
    // The other way round: a probe's failure survives a connect's success.
    health.say(Answer::Unavailable);
    scene.open();
    eventually("a probe has failed again", || scene.word() == ("closed".to_owned(), 4, 1));
    assert_eq!(scene.call(), "ok");
    let (state, connects, probes) = scene.word();
    assert_eq!((state.as_str(), connects), ("closed", 0));
    assert!(probes >= 1, "{probes}");
}
