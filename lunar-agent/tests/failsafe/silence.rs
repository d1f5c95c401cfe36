//! A gateway that swallows SYNs: how long a redirected connect takes to fail, and how many are exposed meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    scene::{OPENED, PROVIDER, Plan, Scene, lines},
    world::{SOON, eventually},
};

/// The kernel's timers are coarse and the machine is busy; one timer too few or too many is off by a third or more.
const COARSE: f64 = 0.2;

/// `connect_timeout` holds whatever the namespace of the target says about linear timeouts (4 is the default; with 1,
/// the timers do not fall together and it takes a third longer).
#[test]
fn a_redirected_connect_takes_its_timeout_and_not_longer() {
    for (linear, takes) in [("4", 1.0), ("0", 1.0), ("2", 1.0), ("1", 4.0 / 3.0)] {
        let scene = Scene::new("timeout");
        let _health = scene.health();
        // After the agent has started: it may be in another namespace, and does not know.
        let _agent = scene.agent(&Plan { connect_timeout: "900ms", ..Plan::default() });
        scene.world.host.sysctl("net/ipv4/tcp_syn_linear_timeouts", linear).unwrap();
        scene.swallow();
        let result = scene.step(&["connects", "--to", PROVIDER]);
        assert_eq!(result["failed"]["ETIMEDOUT"], 1, "{result}");
        let (took, wanted) = (result["elapsed_ms"].as_f64().unwrap(), 900.0 * takes);
        println!("MEASURE tcp_syn_linear_timeouts {linear}, connect_timeout 900 ms: {took} ms");
        let fits = took > wanted * (1.0 - COARSE) && took < wanted * (1.0 + COARSE);
        assert!(fits, "linear {linear}: {took} ms instead of {wanted}");
    }
}

/// One SYN unanswered for 200 ms sends new connects direct although the word is closed, until it is answered.
#[test]
fn an_overdue_syn_sends_new_connects_direct() {
    let scene = Scene::new("overdue");
    let _health = scene.health();
    scene.open();
    let _agent = scene.agent(&Plan { connect_timeout: "20s", ..Plan::default() });
    scene.swallow();
    let mut first = scene.call_in_background();
    eventually("its SYN has left", || scene.verdict("redirected") == 1);
    eventually("the SYN is overdue", || {
        // A connect before that is exposed, but must not hang on it.
        let _ = scene.step(&["connects", "--to", PROVIDER, "--nonblocking", "--timeout", "20"]);
        scene.verdict("cooldown") > 0
    });
    let redirected = scene.verdict("redirected");
    for _ in 0..5 {
        assert_eq!(scene.call(), "ok");
    }
    assert_eq!((scene.verdict("cooldown"), scene.verdict("redirected")), (6, redirected));
    assert_eq!(scene.word(), ("closed".to_owned(), 0, 0));
    // The SYN is sent again and answered: traffic is redirected again.
    scene.answer();
    let answer = first.finish(Duration::from_secs(30)).unwrap();
    assert!(answer.contains("\"ok\":1"), "{answer}");
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("cooldown"), scene.verdict("redirected")), (6, redirected + 1));
}

/// Of a burst, those that connect in the first moment are exposed; whoever comes after 200 ms is not, and the first
/// ones' failures open the breaker once.
#[test]
fn only_what_is_in_flight_is_exposed() {
    let scene = Scene::new("exposed");
    let _health = scene.health();
    let agent = scene.agent(&Plan { connect_timeout: "4s", ..Plan::default() });
    scene.swallow();
    let mut first: Vec<_> = (0..8).map(|_| scene.call_in_background()).collect();
    let start = Instant::now();
    thread::sleep(Duration::from_millis(500));
    let exposed = scene.verdict("redirected");
    assert!((5..=8).contains(&exposed), "{exposed}");
    let mut later: Vec<_> = (0..50).map(|_| scene.call_in_background()).collect();
    for child in &mut later {
        let said = child.finish(SOON).unwrap();
        assert!(said.contains("\"ok\":1"), "{said}");
    }
    assert!(start.elapsed() < Duration::from_millis(3500), "too slow a machine to tell");
    assert_eq!((scene.verdict("redirected"), scene.word()), (exposed, ("closed".to_owned(), 0, 0)));
    let outcomes = first.iter_mut().map(|child| child.finish(SOON).unwrap());
    let failed = outcomes.filter(|said| said.contains("\"ETIMEDOUT\":1")).count() as u64;
    assert_eq!(failed, exposed);
    scene.expect_word("cooldown", 5, 0);
    assert_eq!(scene.outcomes(), (0, exposed, 0), "all failures are counted, also those that the word drops");
    assert_eq!(scene.call(), "ok");
    assert_eq!(scene.verdict("redirected"), exposed);
    agent.child.wait_for_line(OPENED, SOON).unwrap();
    assert_eq!(lines(&agent, OPENED), 1);
}
