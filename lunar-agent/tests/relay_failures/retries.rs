//! A gateway that asks for a request again (`x-lunar-retry-after`).

use crate::{
    relayed::{BY_GATEWAY, Plan},
    scene::{Ask, Saw, Scene},
};

/// The sequence ids with which the attempts at a request came, the first of them without.
fn sequence(scene: &Scene, path: &str) -> Vec<Option<String>> {
    let heard = scene.gateway.heard(path);
    let ids: Vec<_> = heard.iter().map(|request| request.one("x-lunar-req-id").unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    heard.iter().map(|request| request.one("x-lunar-sequence-id").map(str::to_owned)).collect()
}

/// `count` times asked for again, each time with its own id.
fn asked_again(count: usize) -> Vec<Option<String>> {
    let again = (0..count).map(|n| Some(format!("seq-{n}")));
    std::iter::once(None).chain(again).collect()
}

#[test]
fn a_request_is_sent_again_with_the_id_that_the_gateway_gave_until_it_is_answered() {
    let scene = Scene::new("relay-retries", &Plan::default());
    for ask in [Ask::Get, Ask::Post] {
        let outcome = scene.ask(ask, "/retry/3");
        assert_eq!((&outcome.saw, outcome.executed), (&Saw::Answer(200, None), 1), "{ask:?}");
        assert!(outcome.body.contains(BY_GATEWAY[0]), "{}", outcome.body);
        assert_eq!(sequence(&scene, &outcome.path), asked_again(3), "{ask:?}");
        scene.assert_failures(0);
    }
    // A body that was not kept cannot be sent again: the answer is the application's.
    let outcome = scene.ask(Ask::LargePost, "/retry/3");
    assert_eq!((&outcome.saw, outcome.executed), (&Saw::Answer(429, None), 0));
    assert_eq!(sequence(&scene, &outcome.path), asked_again(0));
}

#[test]
fn retries_are_bounded_in_number_and_then_the_last_answer_passes() {
    let scene = Scene::new("relay-retry-max", &Plan { more: "[relay]\nretry_max = 4", ..Plan::default() });
    let before = scene.stage.counts()["retried"];
    let outcome = scene.ask(Ask::Get, "/retry/1000");
    assert_eq!((&outcome.saw, outcome.executed), (&Saw::Answer(429, None), 0));
    assert_eq!(sequence(&scene, &outcome.path), asked_again(4));
    assert_eq!(scene.stage.counts()["retried"] - before, 4);
    scene.assert_failures(0);
}

#[test]
fn retries_are_bounded_in_time_and_then_the_last_answer_passes() {
    // An attempt may begin until 100 ms after the request: 20 ms apart, five at most.
    let scene = Scene::new(
        "relay-retry-total",
        &Plan { more: "[relay]\nretry_total = \"100ms\"", ..Plan::default() },
    );
    let outcome = scene.ask(Ask::Get, "/retry/1000");
    assert_eq!((&outcome.saw, outcome.executed), (&Saw::Answer(429, None), 0));
    let attempts = sequence(&scene, &outcome.path).len();
    assert!((1..=6).contains(&attempts), "{attempts}");
}
