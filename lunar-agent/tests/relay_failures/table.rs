//! Each way of failing, for a request that may be repeated, for one that may not, and for one that cannot because its body is
//! too large: what the application sees, how often the provider executes it, and what is counted.

use crate::{
    relayed::{DIRECT, Plan},
    scene::{ALL, Ask, Outcome, Saw, Scene},
};

/// What is expected of one request.
#[derive(Clone)]
struct Expected {
    saw: Saw,
    executed: usize,
    /// Consecutive failures that the failsafe then knows of.
    failures: u64,
    /// Counted once each, besides the connection.
    counted: &'static [&'static str],
}

/// The provider's answer, without the gateway.
fn direct(executed: usize, failures: u64) -> Expected {
    Expected { saw: Saw::Answer(200, None), executed, failures, counted: &["replayed"] }
}

/// An answer that came from the gateway.
fn passed(status: u16, error: Option<&'static str>, executed: usize) -> Expected {
    Expected { saw: Saw::Answer(status, error), executed, failures: 0, counted: &["gateway"] }
}

/// The connection's end.
fn closed(executed: usize) -> Expected {
    Expected { saw: Saw::Closed, executed, failures: 0, counted: &["closed"] }
}

impl Expected {
    fn saw(self, saw: Saw) -> Self {
        Self { saw, ..self }
    }

    fn failures(self, failures: u64) -> Self {
        Self { failures, ..self }
    }

    fn counted(self, counted: &'static [&'static str]) -> Self {
        Self { counted, ..self }
    }
}

/// What the gateway does, and what is expected of [`ALL`] in their order.
type Row = (&'static str, [Expected; 3]);

fn same(expected: Expected) -> [Expected; 3] {
    [expected.clone(), expected.clone(), expected]
}

/// The gateway answers.
fn answers() -> Vec<Row> {
    let refused = passed(503, Some("2"), 0);
    let unresolved = passed(503, Some("5"), 0);
    let silent = || passed(504, Some("3"), 1);
    vec![
        ("/forward/answer", same(passed(200, None, 1))),
        // The gateway's own fault for certain, whatever becomes of the request.
        ("/error/1", [direct(1, 1), direct(1, 1), passed(401, Some("1"), 0).failures(1)]),
        ("/error/10", [direct(1, 1), direct(1, 1), passed(503, Some("10"), 0).failures(1)]),
        // It says that the provider was not reached; that it can be is the evidence.
        ("/error/2", [direct(1, 1), direct(1, 1), refused.clone()]),
        ("/error/5", [direct(1, 1), direct(1, 1), unresolved]),
        // The provider may have executed it, and has: only what is idempotent is sent again.
        ("/forward/error/3", [direct(2, 1), silent(), silent()]),
        ("/error/3", [direct(1, 1), passed(504, Some("3"), 0), passed(504, Some("3"), 0)]),
        ("/forbid", same(passed(403, None, 0))),
        ("/forward/answer/own-500", same(passed(500, None, 1))),
        // A provider that speaks like a gateway is asked again, as documented, and blames itself.
        (
            "/forward/answer/own-503-2",
            [
                direct(2, 0).saw(Saw::Answer(503, Some("2"))),
                direct(2, 0).saw(Saw::Answer(503, Some("2"))),
                passed(503, Some("2"), 1),
            ],
        ),
        // The provider cannot answer either: then nothing is held against the gateway.
        (
            "/error/2/mute",
            [
                closed(1).counted(&["provider_failed", "replayed"]),
                closed(1).counted(&["provider_failed", "replayed"]),
                refused,
            ],
        ),
        ("/garbage", [direct(1, 1), passed(0, None, 0), passed(0, None, 0)].map(garbage)),
    ]
}

/// What is no HTTP passes as it came, as it would without a relay.
fn garbage(expected: Expected) -> Expected {
    if expected.saw == Saw::Answer(0, None) { expected.saw(Saw::Garbage) } else { expected }
}

/// The gateway dies.
fn deaths() -> Vec<Row> {
    let cut = || passed(200, None, 0).saw(Saw::Cut(200)).counted(&["gateway", "closed"]);
    vec![
        ("/close", [direct(1, 1), closed(0), closed(0)]),
        ("/reset", [direct(1, 1), closed(0), closed(0)]),
        ("/forward/close", [direct(2, 1), closed(1), closed(1)]),
        ("/forward/reset", [direct(2, 1), closed(1), closed(1)]),
        ("/half", [direct(1, 1), closed(0), closed(0)]),
        ("/forward/half", [direct(2, 1), closed(1), closed(1)]),
        // The application has the head: all that is left is to end the way the gateway did.
        ("/cut", same(cut())),
        ("/forward/cut", same(Expected { executed: 1, ..cut() })),
    ]
}

#[test]
fn each_answer_of_a_failing_gateway_is_passed_or_replaced_and_counted() {
    run(&Scene::new("relay-answers", &Plan::default()), &answers());
}

#[test]
fn a_gateway_that_dies_costs_nothing_that_could_be_repeated_and_repeats_nothing_else() {
    run(&Scene::new("relay-deaths", &Plan::default()), &deaths());
}

#[test]
fn a_gateway_that_refuses_connections_costs_no_request_at_all() {
    let scene = Scene::new("relay-refused", &Plan::default());
    scene.gateway.listens(false);
    run(&scene, &[("/any", same(direct(1, 1)))]);
    scene.gateway.listens(true);
    run(&scene, &[("/forward/answer", same(passed(200, None, 1)))]);
}

/// Such a connection may have taken the request before it ended, or not: it is the relay's to know.
#[test]
fn a_gateway_that_resets_connections_as_they_come_never_makes_a_post_happen_twice() {
    let scene = Scene::new("relay-reset", &Plan::default());
    scene.gateway.resets(true);
    for ask in ALL {
        let outcome = scene.ask(ask, "/any");
        match (ask, &outcome.saw) {
            (_, Saw::Answer(200, None)) => assert_eq!(outcome.executed, 1, "{}", outcome.path),
            (Ask::Post | Ask::LargePost, Saw::Closed) => assert_eq!(outcome.executed, 0, "{}", outcome.path),
            (_, other) => panic!("{ask:?} saw {other:?}"),
        }
    }
}

/// The configuration can forbid what rests on the gateway's word alone.
#[test]
fn with_replay_idempotent_no_post_is_sent_twice_whatever_an_answer_says() {
    let plan = Plan { more: "[relay]\nreplay = \"idempotent\"", ..Plan::default() };
    let scene = Scene::new("relay-idempotent", &plan);
    let refused = || passed(503, Some("2"), 0);
    run(
        &scene,
        &[
            ("/error/2", [direct(1, 1), refused(), refused()]),
            (
                "/forward/answer/own-503-2",
                [
                    direct(2, 0).saw(Saw::Answer(503, Some("2"))),
                    passed(503, Some("2"), 1),
                    passed(503, Some("2"), 1),
                ],
            ),
            ("/forward/close", [direct(2, 1), closed(1), closed(1)]),
        ],
    );
}

#[test]
fn with_replay_never_only_what_was_not_sent_goes_direct() {
    let scene = Scene::new("relay-never", &Plan { more: "[relay]\nreplay = \"never\"", ..Plan::default() });
    run(
        &scene,
        &[
            ("/error/2", same(passed(503, Some("2"), 0))),
            ("/error/10", same(passed(503, Some("10"), 0).failures(1))),
            ("/forward/close", same(closed(1))),
        ],
    );
    scene.gateway.listens(false);
    run(&scene, &[("/any", same(direct(1, 1)))]);
}

fn run(scene: &Scene, rows: &[Row]) {
    let mut wrong = Vec::new();
    for (path, expected) in rows {
        for (ask, expected) in ALL.into_iter().zip(expected) {
            let outcome = scene.ask(ask, path);
            let Outcome { saw, executed, body, .. } = &outcome;
            if (saw, *executed) != (&expected.saw, expected.executed) {
                wrong.push(format!(
                    "{ask:?} {path}: the application saw {saw:?} and not {:?}; executed {executed} times and not {}",
                    expected.saw, expected.executed
                ));
                continue;
            }
            if *saw == Saw::Answer(200, None) && expected.counted.contains(&"replayed") {
                assert!(body.contains(DIRECT[0]), "{ask:?} {path}: {body}");
            }
            scene.assert_counted(&outcome, expected.counted);
            scene.assert_failures(expected.failures);
            assert_consistent(scene, &outcome);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All attempts at one request have one id; the gateway is told of it once for each attempt.
fn assert_consistent(scene: &Scene, outcome: &Outcome) {
    let heard = scene.gateway.heard(&outcome.path);
    let mut ids: Vec<_> = heard.iter().map(|request| request.one("x-lunar-req-id").unwrap()).collect();
    ids.dedup();
    assert!(ids.len() <= 1, "{}: {ids:?}", outcome.path);
    for request in &heard {
        assert_eq!(request.one("x-lunar-host"), Some(crate::relayed::BOOKS), "{}", outcome.path);
    }
    // What came by the gateway came with its words taken off; what came direct never had them.
    for heard in scene.provider.heard(&outcome.path) {
        let ours = heard.request.headers.iter().find(|(name, _)| name.starts_with("x-lunar"));
        assert_eq!(ours, None, "{}", outcome.path);
    }
}
