//! A gateway that takes a request and says nothing.

use crate::{
    relayed::{DIRECT, Plan},
    scene::{ALL, Ask, Saw, Scene},
    world::{SOON, eventually, within},
};

/// It may be the provider that takes its time: the application waits as long as it likes, as it would without a gateway.
#[test]
fn a_gateway_that_hangs_in_good_health_is_waited_for_as_long_as_the_application_likes() {
    let scene = Scene::new("relay-hangs", &Plan::default());
    // An application that has gone can be told from one that has only ended its side when its kernel has forgotten it.
    scene.stage.container.sysctl("net/ipv4/tcp_fin_timeout", "1").unwrap();
    let all: Vec<_> = ALL.into_iter().flat_map(|ask| [(ask, "/hang"), (ask, "/forward/hang")]).collect();
    for (ask, path) in &all {
        let outcome = scene.ask_at(*ask, "203.0.113.10", path, 1.5);
        assert_eq!(outcome.saw, Saw::Nothing, "{ask:?} {path}");
        assert_eq!(outcome.executed, usize::from(path.starts_with("/forward")), "{ask:?} {path}");
        // Nobody is blamed.
        scene.assert_counted(&outcome, &[]);
        scene.assert_failures(0);
    }
    // The gateway learns that nobody waits any more, and the relay keeps nothing of it.
    let all = all.len() as u64;
    within(6 * SOON, "the gateway's connections are given up", || scene.gateway.hanging() == (all, all));
    eventually("the applications' connections are given up", || scene.stage.relay()["connections"] == 0);
}

#[test]
fn when_its_health_check_fails_too_what_waits_is_replayed_or_closed() {
    let plan = Plan { threshold: 3, cooldown_sec: 0.5, health: ("100ms", "5s"), ..Plan::default() };
    let scene = Scene::new("relay-sick", &plan);
    for ask in ALL {
        for path in ["/hang", "/forward/hang"] {
            scene.stage.wait_until_healthy();
            let forwarded = usize::from(path.starts_with("/forward"));
            let before = scene.gateway.hanging().0;
            let outcome = std::thread::scope(|scope| {
                let gateway = &scene.gateway;
                // It falls ill when it has the request.
                scope.spawn(move || {
                    eventually("the gateway has the request", || gateway.hanging().0 > before);
                    gateway.is_sick(true);
                });
                scene.ask(ask, path)
            });
            scene.gateway.is_sick(false);
            match ask {
                Ask::Get => {
                    assert_eq!(outcome.saw, Saw::Answer(200, None), "{path}");
                    assert!(outcome.body.contains(DIRECT[0]), "{path}: {}", outcome.body);
                    assert_eq!(outcome.executed, forwarded + 1, "{path}");
                    scene.assert_counted(&outcome, &["replayed"]);
                }
                Ask::Post | Ask::LargePost => {
                    assert_eq!((&outcome.saw, outcome.executed), (&Saw::Closed, forwarded), "{ask:?} {path}");
                    scene.assert_counted(&outcome, &["closed"]);
                }
            }
        }
    }
}
