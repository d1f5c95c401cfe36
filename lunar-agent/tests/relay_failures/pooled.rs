//! Connections to the gateway that are kept, and are gone when they are wanted again.

use crate::{
    relayed::{BY_GATEWAY, Plan},
    scene::{ALL, Saw, Scene},
};

/// That a kept connection has ended meanwhile is nobody's failure.
#[test]
fn a_gateway_that_closes_connections_it_should_keep_costs_nothing() {
    let scene = Scene::new("relay-pooled", &Plan::default());
    scene.gateway.keeps(true);
    for _ in 0..5 {
        for ask in ALL {
            let outcome = scene.ask(ask, "/forward/answer");
            assert_eq!((&outcome.saw, outcome.executed), (&Saw::Answer(200, None), 1), "{ask:?}");
            assert!(outcome.body.contains(BY_GATEWAY[0]), "{ask:?}: {}", outcome.body);
            scene.assert_counted(&outcome, &["gateway"]);
            scene.assert_failures(0);
        }
    }
}

/// The provider is not there at all: the application is told so the way the kernel would, and the gateway is not blamed.
#[test]
fn a_provider_that_cannot_be_reached_is_not_the_gateways_failure() {
    let scene = Scene::new("relay-nobody", &Plan::default());
    for path in ["/error/2", "/error/5"] {
        for ask in &ALL[..2] {
            // Nobody listens there.
            let outcome = scene.ask_at(*ask, "203.0.113.11", path, 20.0);
            assert_eq!((&outcome.saw, outcome.executed), (&Saw::Closed, 0), "{ask:?} {path}");
            scene.assert_counted(&outcome, &["provider_failed", "replayed"]);
            scene.assert_failures(0);
        }
    }
}
