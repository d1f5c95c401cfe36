//! The ways in which a redirected connect fails, each against the count: N−1 stay closed, N open.

use crate::{
    scene::{BEYOND, ENDPOINT, OPENED, PROVIDER, Plan, Scene, lines},
    world::{SOON, eventually},
};

/// Calls until the breaker opens, one after the other, and looks at the word after each.
fn opens_at(scene: &Scene, threshold: u32, error: &str) {
    let (direct, redirected) = (scene.verdict("cooldown"), scene.verdict("redirected"));
    for n in 1..=u64::from(threshold) {
        assert_eq!(scene.word(), ("closed".to_owned(), n - 1, 0), "before failure {n}");
        assert_eq!(scene.call(), error, "failure {n}");
        // The kernel answers an unreachable destination five times, then once a second for each source
        // (net/ipv4/route.c, `ip_error`); an answer that comes while connect(2) still holds the socket is lost.
        if error == "EHOSTUNREACH" && scene.is_lost() {
            std::thread::sleep(std::time::Duration::from_secs(2));
        }
        let state = if n == u64::from(threshold) { "cooldown" } else { "closed" };
        scene.expect_word(state, n, 0);
    }
    assert_eq!(scene.verdict("redirected"), redirected + u64::from(threshold));
    assert_eq!(scene.call(), "ok", "traffic is direct in the cooldown");
    assert_eq!(scene.verdict("cooldown"), direct + 1);
    assert_eq!(scene.outcomes(), (0, threshold.into(), 0));
}

fn every_threshold(name: &str, error: &str, connect_timeout: &'static str, break_it: impl Fn(&Scene)) {
    every_threshold_of(name, ENDPOINT, error, connect_timeout, break_it);
}

fn every_threshold_of(
    name: &str,
    endpoint: &'static str,
    error: &str,
    connect_timeout: &'static str,
    break_it: impl Fn(&Scene),
) {
    for threshold in [5, 1] {
        let scene = Scene::new(name);
        let _health = scene.health();
        let agent = scene.agent(&Plan { endpoint, threshold, connect_timeout, ..Plan::default() });
        break_it(&scene);
        opens_at(&scene, threshold, error);
        agent.child.wait_for_line(OPENED, SOON).unwrap();
        assert_eq!(lines(&agent, OPENED), 1);
        assert_eq!(lines(&agent, "redirected connect failed"), threshold as usize);
    }
}

#[test]
fn refused() {
    every_threshold("refused", "ECONNREFUSED", "1s", |_| ());
}

#[test]
fn timed_out() {
    every_threshold("timed-out", "ETIMEDOUT", "200ms", Scene::swallow);
}

/// An ICMP answer to the SYN.
#[test]
fn unreachable_as_a_router_says() {
    every_threshold_of("icmp", BEYOND, "EHOSTUNREACH", "1s", Scene::lose);
}

/// The connect fails at once, no packet leaves: `sock_ops` never hears of it.
#[test]
fn unreachable_at_once() {
    every_threshold("at-once", "EHOSTUNREACH", "1s", Scene::cut);
}

/// The same on one socket: the failure shows at its next connect, and the last one at its close.
#[test]
fn unreachable_at_once_on_a_socket_that_is_used_again() {
    let scene = Scene::new("reused");
    let _health = scene.health();
    let _agent = scene.agent(&Plan { threshold: 10, ..Plan::default() });
    scene.cut();
    let result = scene.step(&["connects", "--to", PROVIDER, "--count", "4", "--reuse-socket"]);
    assert_eq!(result["failed"]["EHOSTUNREACH"], 4, "{result}");
    scene.expect_word("closed", 4, 0);
    assert_eq!(scene.outcomes(), (0, 4, 0));
}

/// A local endpoint whose gateway has died: the connect goes direct at once, succeeds, and counts all the same.
#[test]
fn no_listener() {
    for threshold in [5, 1] {
        let scene = Scene::new("no-listener");
        let mut gateway = scene.world.gateway(&["--listen", "127.0.0.1:8000"]);
        let _agent =
            scene.agent(&Plan { endpoint: "127.0.0.1:8000", kind: "tcp", threshold, ..Plan::default() });
        assert_eq!((scene.call().as_str(), scene.verdict("redirected")), ("ok", 1));
        gateway.kill().unwrap();
        // Longer than the agent takes to see it too: what it finds out must not hide the failures.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        for n in 1..=u64::from(threshold) {
            assert_eq!(scene.call(), "ok");
            let state = if n == u64::from(threshold) { "cooldown" } else { "closed" };
            assert_eq!(scene.word(), (state.to_owned(), n, 0));
        }
        assert_eq!(scene.call(), "ok");
        assert_eq!(
            (scene.verdict("redirected"), scene.verdict("no_listener"), scene.verdict("cooldown")),
            (1, u64::from(threshold), 1)
        );
        // They were never redirected, so none of them is a redirected connect that failed.
        assert_eq!(scene.outcomes(), (1, 0, 0));
    }
}

/// A success resets the connects' count, and with it what was failed before is forgotten.
#[test]
fn a_success_between_resets() {
    let scene = Scene::new("resets");
    let _health = scene.health();
    let agent = scene.agent(&Plan { threshold: 3, ..Plan::default() });
    for _ in 0..2 {
        for n in 1..=2 {
            assert_eq!(scene.call(), "ECONNREFUSED");
            scene.expect_word("closed", n, 0);
        }
        scene.open();
        assert_eq!(scene.call(), "ok");
        scene.expect_word("closed", 0, 0);
        scene.shut();
    }
    assert_eq!((scene.outcomes(), lines(&agent, OPENED)), ((2, 4, 0), 0));
}

/// A failed SYN that the application did not wait for is nobody's failure, whether it ends the wait by itself…
#[test]
fn an_application_that_gives_up_counts_for_neither() {
    let scene = Scene::new("gives-up");
    let _health = scene.health();
    let _agent = scene.agent(&Plan { threshold: 3, connect_timeout: "10s", ..Plan::default() });
    for _ in 0..2 {
        assert_eq!(scene.call(), "ECONNREFUSED");
    }
    scene.swallow();
    for n in 1..=5 {
        let result = scene.step(&["give-up", "--to", PROVIDER, "--after", "50"]);
        assert_eq!(result["still_connecting"], true, "{result}");
        eventually("the abandoned connect is counted", || scene.outcomes() == (0, 2, n));
        assert_eq!(scene.word(), ("closed".to_owned(), 2, 0), "neither a failure nor a success");
    }
    // … or is killed.
    let mut killed = scene.call_in_background();
    eventually("its SYN has left", || scene.verdict("redirected") == 8);
    killed.kill().unwrap();
    eventually("the abandoned connect is counted", || scene.outcomes() == (0, 2, 6));
    assert_eq!(scene.word(), ("closed".to_owned(), 2, 0));
    // Nothing of them is left behind that would hold traffic back.
    std::thread::sleep(std::time::Duration::from_millis(300));
    scene.answer();
    assert_eq!(scene.call(), "ECONNREFUSED");
    scene.expect_word("cooldown", 3, 0);
}
