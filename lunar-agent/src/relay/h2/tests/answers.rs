//! What the gateway says of itself: errors, and the wish for a repetition.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{
    gateways::{asked_of, large, says, with},
    scene::{LONG, answer, channel, echo, full, request, told},
};

const INDICATED: &[(&str, &str, usize, &str, u32)] = &[
    ("1", "GET", 0, "provider", 1),
    ("1", "POST", 5, "provider", 1),
    ("10", "GET", 0, "provider", 1),
    ("10", "POST", 5, "provider", 1),
    // The direct attempt shows that it was the gateway's own failure.
    ("2", "GET", 0, "provider", 1),
    ("2", "POST", 5, "provider", 1),
    ("5", "POST", 5, "provider", 1),
    ("3", "GET", 0, "provider", 1),
    ("3", "POST", 5, "gateway", 0),
    ("99", "POST", 5, "gateway", 0),
    ("what", "GET", 0, "provider", 1),
    ("what", "POST", 5, "gateway", 0),
];

#[tokio::test]
async fn each_error_of_the_gateway_is_met_as_the_table_says() {
    for &(code, method, length, by, failures) in INDICATED {
        let code_of = code;
        let scene = with(move |request| {
            Box::pin(async move {
                let _ = request.into_body().collect().await;
                Ok(says(503, &[("x-lunar-error", code_of)]))
            })
        })
        .await;
        let mut sender = scene.application().await;
        let sent = vec![b'x'; length];
        let got = sender.send_request(request(method, "a.example", full(sent.clone()))).await;
        let (status, who, back) = told(got.expect("an answer")).await;
        assert_eq!(who, by, "{code} {method}");
        assert_eq!(scene.failures(), failures, "{code} {method}");
        let executed = usize::from(by == "provider");
        assert_eq!(scene.provider.seen().len(), executed, "{code} {method}");
        if executed == 1 {
            assert_eq!((status, back), (200, sent.into()));
            assert_eq!(scene.counts(), [0, 0, 1, 0, 0, 0]);
            assert_eq!(scene.provider.seen()[0].header("x-lunar-host"), None);
        } else {
            assert_eq!(
                (status, &back[..]),
                (503, &b"the gateway says"[..]),
                "it is the application's to read"
            );
            assert_eq!(scene.counts(), [1, 0, 0, 0, 0, 0]);
        }
    }
}

#[tokio::test]
async fn an_error_after_a_body_that_was_too_large_to_keep_passes() {
    for (code, failures) in [("2", 0), ("10", 1)] {
        let scene = with(move |request| {
            Box::pin(async move {
                let _ = request.into_body().collect().await;
                Ok(says(503, &[("x-lunar-error", code)]))
            })
        })
        .await;
        let mut sender = scene.application().await;
        let got = sender.send_request(request("PUT", "a.example", full(large()))).await;
        assert_eq!(told(got.expect("an answer")).await.0, 503);
        assert_eq!((scene.counts(), scene.failures()), ([1, 0, 0, 0, 0, 0], failures));
        assert!(scene.provider.seen().is_empty());
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_body_lets_the_provider_have_all_of_it() {
    // Answers at once, and what follows is on its way all the same.
    let scene = with(|_| answer(says(503, &[("x-lunar-error", "10")]))).await;
    let mut sender = scene.application().await;
    let (mut body, asked) = channel();
    let answer = tokio::spawn(sender.send_request(request("POST", "a.example", asked)));
    body.send_data("one ".into()).await.expect("it is taken");
    asked_of(&scene.provider, 1).await;
    body.send_data("two ".into()).await.expect("it is taken");
    body.send_data("three".into()).await.expect("it is taken");
    drop(body);
    let got = timeout(LONG, answer).await.expect("in time").expect("no panic").expect("an answer");
    assert_eq!(told(got).await, (200, "provider".to_owned(), "one two three".into()));
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 1, 0, 0, 0], 1));
}

#[tokio::test]
async fn the_gateway_gets_a_request_again_when_it_asks_for_that() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    let scene = with(move |request| match counts.fetch_add(1, Ordering::Relaxed) {
        nth @ (0 | 1) => {
            let id = format!("seq-{nth}");
            answer(says(429, &[("x-lunar-retry-after", "0.05"), ("x-lunar-sequence-id", &id)]))
        }
        _ => echo("gateway")(request),
    })
    .await;
    let mut sender = scene.application().await;
    let got = sender.send_request(request("POST", "a.example", full("hello"))).await;
    assert_eq!(told(got.expect("an answer")).await, (200, "gateway".to_owned(), "hello".into()));
    assert_eq!((scene.counts(), scene.failures()), ([1, 0, 0, 2, 0, 0], 0));
    let seen = scene.gateway.seen();
    let ids: Vec<_> = seen.iter().map(|seen| seen.header("x-lunar-sequence-id")).collect();
    assert_eq!(ids, [None, Some("seq-0"), Some("seq-1")]);
    assert!(seen.iter().all(|one| one.header("x-lunar-req-id") == seen[0].header("x-lunar-req-id")));
}

#[tokio::test]
async fn a_gateway_that_wants_it_again_for_ever_has_its_answer_passed() {
    let scene =
        with(|_| answer(says(429, &[("x-lunar-retry-after", "0"), ("x-lunar-sequence-id", "s")]))).await;
    let mut sender = scene.application().await;
    let got = sender.send_request(request("POST", "a.example", full("hello"))).await;
    assert_eq!(told(got.expect("an answer")).await.0, 429);
    assert_eq!(scene.counts(), [1, 0, 0, 3, 0, 0]);
}
