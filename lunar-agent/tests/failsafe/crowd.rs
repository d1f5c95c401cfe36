//! Many at once.

use std::time::Duration;

use lunar_lab::Child;

use crate::{
    scene::{OPENED, OPENED_BY_PROBES, PROVIDER, Plan, Scene, lines},
    world::{eventually, target},
};

/// How many clients at a time.
pub const CLIENTS: u64 = 8;

pub fn clients(scene: &Scene, connects: &str) -> Vec<Child> {
    let start = |_| {
        let args = ["client", "connects", "--to", PROVIDER, "--count", connects, "--linger0"];
        let spawn = scene.world.lab.role(args).unwrap().netns(&scene.world.host).cgroup(&scene.world.app);
        scene.world.lab.spawn(spawn).unwrap()
    };
    (0..CLIENTS).map(start).collect()
}

/// How the connects ended, as the clients saw them: (ok, refused). One that was answered and then reset, because the
/// endpoint died with it in its queue, is ok: it was connected.
pub fn results(clients: &mut [Child]) -> (u64, u64) {
    clients.iter_mut().fold((0, 0), |(ok, refused), child| {
        let said = child.finish(Duration::from_secs(60)).unwrap();
        let result: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
        let failures = result["failed"].as_object().unwrap();
        let known = |errno: &String| ["ECONNREFUSED", "ECONNRESET"].contains(&errno.as_str());
        assert!(failures.keys().all(known), "{result}");
        let of = |errno: &str| result["failed"][errno].as_u64().unwrap_or(0);
        (ok + result["ok"].as_u64().unwrap() + of("ECONNRESET"), refused + of("ECONNREFUSED"))
    })
}

/// All clients fail at once, while probes succeed: the breaker opens once, at its threshold, and only who was in
/// flight by then is exposed besides.
#[test]
fn failures_from_everywhere_open_it_once() {
    const THRESHOLD: u32 = 20;
    let scene = Scene::new("once");
    let _health = scene.health();
    let plan = Plan { threshold: THRESHOLD, interval: "100ms", probe_timeout: "100ms", ..Plan::default() };
    let agent = scene.agent(&plan);
    let (ok, refused) = results(&mut clients(&scene, "100"));
    assert_eq!(ok + refused, CLIENTS * 100);
    scene.expect_word("cooldown", THRESHOLD.into(), 0);
    let exposed = scene.verdict("redirected");
    assert_eq!((refused, scene.outcomes()), (exposed, (0, exposed, 0)));
    assert_eq!(scene.verdict("cooldown"), ok);
    // One connect of each client at the most was under way when the last failure was counted.
    let most = u64::from(THRESHOLD) + CLIENTS - 1;
    assert!((u64::from(THRESHOLD)..=most).contains(&exposed), "{exposed} exposed, at most {most}");
    eventually("the log tells", || lines(&agent, "redirected connect failed") as u64 == exposed);
    assert_eq!((lines(&agent, OPENED), lines(&agent, OPENED_BY_PROBES)), (1, 0));
}

/// The endpoint comes and goes under load, the breaker opens and closes: at every moment the word is one that the
/// transitions allow, each opening is told once, and every connect is accounted for.
#[test]
fn an_endpoint_that_comes_and_goes_under_load() {
    let scene = Scene::new("flapping");
    scene.open();
    let plan = Plan {
        kind: "tcp",
        threshold: 3,
        interval: "100ms",
        probe_timeout: "100ms",
        cooldown_sec: 0.1,
        ..Plan::default()
    };
    let agent = scene.agent(&plan);
    let mut crowd = clients(&scene, "20000");
    for turn in 0..40 {
        if turn % 10 == 4 {
            scene.shut();
        } else if turn % 10 == 8 {
            scene.open();
        }
        // The crowd is at it for seconds: each turn falls into its time.
        std::thread::sleep(Duration::from_millis(30));
        let (state, connects, probes) = scene.word();
        match state.as_str() {
            "closed" => assert!(connects < 3 && probes < 3, "closed with {connects} and {probes}"),
            _ => assert!(connects >= 3 || probes >= 3, "{state} with {connects} and {probes}"),
        }
    }
    let (ok, refused) = results(&mut crowd);
    assert_eq!(ok + refused, CLIENTS * 20_000);
    eventually("the breaker closes", || scene.word() == ("closed".to_owned(), 0, 0));
    let status = scene.world.status();
    let verdicts = &target(&status, "app")["verdicts"];
    let of = |reason: &str| verdicts[reason].as_u64().unwrap();
    assert_eq!(of("redirected") + of("cooldown"), CLIENTS * 20_000, "{status:#}");
    let (succeeded, failed, abandoned) = scene.outcomes();
    assert_eq!((failed, succeeded + failed, abandoned), (refused, of("redirected"), 0));
    // Opened in turn by a side and closed again, ending closed: as many of one as of the other, except that probation
    // opens again without closing.
    eventually("every event is told", || lines(&agent, "redirected connect failed") as u64 == failed);
    let opened = lines(&agent, OPENED) + lines(&agent, OPENED_BY_PROBES);
    let closed = lines(&agent, "failsafe closed");
    assert!(opened >= closed && closed >= 1, "opened {opened} times, closed {closed}");
}
