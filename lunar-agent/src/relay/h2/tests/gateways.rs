//! A gateway in trouble: what the application sees, what the provider executes, and what is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::Response;
use http_body_util::BodyExt;
use lunar_common::failsafe::Outcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};

use super::scene::{
    Answer, Body, LONG, REPLAY_BUFFER, Scene, Server, answer, channel, echo, full, reason, request, reset,
    told,
};
use crate::{kernel::layout::now, relay::setup::Setup};

/// A scene whose gateway acts so, and whose provider echoes.
pub async fn with(
    act: impl Fn(http::Request<hyper::body::Incoming>) -> Answer + Clone + Send + Sync + 'static,
) -> Scene {
    Scene::new(Server::start(256, act).await, Server::echo("provider").await).await
}

pub fn says(status: u16, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(full("the gateway says"));
    *response.status_mut() = status.try_into().expect("a status");
    response.headers_mut().insert("x-by", "gateway".parse().expect("a value"));
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    response
}

pub fn large() -> Vec<u8> {
    (0..REPLAY_BUFFER * 4).map(|i| (i >> 10) as u8 ^ i as u8).collect()
}

/// A server of another kind: takes connections, and does the same with each.
async fn server<F>(
    act: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> (Server, Arc<AtomicUsize>, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut server = Server::echo("gateway").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    server.address = listener.local_addr().expect("a bound address");
    let count = Arc::new(AtomicUsize::new(0));
    let counts = count.clone();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counts.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(act(stream));
        }
    });
    (server, count, accepting)
}

#[tokio::test]
async fn a_gateway_that_refuses_is_passed_by_whatever_the_method_and_the_size() {
    let scene = with(echo("gateway")).await;
    scene.gateway.die().await;
    let mut sender = scene.application().await;
    for (method, body) in [("GET", Vec::new()), ("POST", b"hello".to_vec()), ("POST", large())] {
        let asked = request(method, "a.example", full(body.clone()));
        let (status, by, back) = told(sender.send_request(asked).await.expect("an answer")).await;
        assert_eq!((status, by.as_str()), (200, "provider"));
        assert!(back == body);
    }
    scene.at_rest().await;
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 3, 0, 0, 0], 3));
}

#[tokio::test]
async fn a_gateway_that_does_not_greet_or_hangs_up_has_failed() {
    let (silent, _, _accepting) = server(async |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (closing, _, _accepting) = server(async |stream| drop(stream)).await;
    for gateway in [silent, closing] {
        let quick = |setup: &mut Setup| setup.connect_timeout = Duration::from_millis(300);
        let scene = Scene::with(gateway, Server::echo("provider").await, quick).await;
        let mut sender = scene.application().await;
        for _ in 0..2 {
            let asked = request("POST", "a.example", full("hello"));
            assert_eq!(told(sender.send_request(asked).await.expect("an answer")).await.1, "provider");
        }
        assert_eq!((scene.counts(), scene.failures()), ([0, 0, 2, 0, 0, 0], 2));
    }
}

#[tokio::test]
async fn a_gateway_without_http2_is_passed_by_asked_once_and_not_at_fault() {
    let (gateway, count, _accepting) = server(async |mut stream| {
        let _ = stream.read(&mut [0; 100]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    })
    .await;
    let scene = Scene::new(gateway, Server::echo("provider").await).await;
    let mut sender = scene.application().await;
    for _ in 0..3 {
        let asked = request("POST", "a.example", full("hello"));
        assert_eq!(told(sender.send_request(asked).await.expect("an answer")).await.1, "provider");
    }
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 3, 0, 0, 0], 0));
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

/// What hangs until the test says otherwise.
fn hang(_: http::Request<hyper::body::Incoming>) -> Answer {
    Box::pin(std::future::pending())
}

pub async fn asked_of(server: &Server, times: usize) {
    timeout(LONG, async {
        while server.seen().len() < times {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it arrives");
}

#[tokio::test]
async fn a_gateway_that_dies_before_it_answers_loses_only_what_may_not_be_sent_twice() {
    for (method, body, replayed) in [("GET", "", true), ("PUT", "hello", true), ("POST", "hello", false)] {
        let scene = with(hang).await;
        let mut sender = scene.application().await;
        let answer = tokio::spawn(sender.send_request(request(method, "a.example", full(body))));
        asked_of(&scene.gateway, 1).await;
        scene.gateway.die().await;
        let answer = timeout(LONG, answer).await.expect("in time").expect("no panic");
        if replayed {
            let (_, by, back) = told(answer.expect("an answer")).await;
            assert_eq!((by.as_str(), &back[..]), ("provider", body.as_bytes()));
            assert_eq!((scene.counts(), scene.failures()), ([0, 0, 1, 0, 0, 0], 1), "{method}");
        } else {
            assert_eq!(reason(&answer.expect_err("no answer")), Some(Reason::INTERNAL_ERROR));
            assert_eq!((scene.counts(), scene.failures()), ([0, 0, 0, 0, 1, 0], 0));
            assert!(scene.provider.seen().is_empty(), "it may have been executed");
        }
        // The connection is sound, and another stream goes on.
        let other = sender.send_request(request("POST", "other.test", full("hello"))).await;
        assert_eq!(told(other.expect("an answer")).await.1, "provider");
    }
}

#[tokio::test]
async fn a_body_that_is_no_longer_whole_is_not_replayed() {
    let scene = with(|request| {
        Box::pin(async move {
            // It has all of it, and then says nothing.
            let _ = request.into_body().collect().await;
            std::future::pending().await
        })
    })
    .await;
    let mut sender = scene.application().await;
    let answer = tokio::spawn(sender.send_request(request("PUT", "a.example", full(large()))));
    asked_of(&scene.gateway, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.gateway.die().await;
    let error = timeout(LONG, answer).await.expect("in time").expect("no panic").expect_err("no answer");
    assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR));
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 0, 0, 1, 0], 0));
    assert!(scene.provider.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_looks_like_one() {
    let (bodies, mut sends) = tokio::sync::mpsc::unbounded_channel();
    let scene = with(move |_| {
        let (sender, body) = channel();
        bodies.send(sender).expect("it is taken");
        answer(Response::new(body))
    })
    .await;
    for method in ["GET", "POST"] {
        let mut sender = scene.application().await;
        let response = sender.send_request(request(method, "a.example", full(""))).await.expect("an answer");
        let mut body = sends.recv().await.expect("it was asked");
        body.send_data("half".into()).await.expect("it is taken");
        let mut back = response.into_body();
        let half = back.frame().await.expect("more").expect("data").into_data().expect("data");
        assert_eq!(half, "half");
        scene.gateway.break_off();
        let error =
            timeout(LONG, back.frame()).await.expect("in time").expect("more").expect_err("broken off");
        assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR));
    }
    scene.at_rest().await;
    assert_eq!((scene.counts(), scene.failures()), ([2, 0, 0, 0, 2, 0], 0));
    assert!(scene.provider.seen().is_empty());
}

#[tokio::test]
async fn a_stream_that_the_gateway_resets_takes_no_other_with_it() {
    let scene = with(|_| reset(Reason::ENHANCE_YOUR_CALM)).await;
    let mut sender = scene.application().await;
    let got = sender.send_request(request("GET", "a.example", full(""))).await;
    assert_eq!(told(got.expect("an answer")).await.1, "provider");
    let error = sender.send_request(request("POST", "a.example", full("hello"))).await.expect_err("reset");
    assert_eq!(reason(&error), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 1, 0, 1, 0], 1));
    assert_eq!(scene.gateway.connected(), 1);
}

#[tokio::test]
async fn what_the_gateway_refused_to_look_at_is_sent_again_whatever_the_method() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    let scene = with(move |request| match counts.fetch_add(1, Ordering::Relaxed) {
        0 => reset(Reason::REFUSED_STREAM),
        _ => echo("gateway")(request),
    })
    .await;
    let mut sender = scene.application().await;
    let got = sender.send_request(request("POST", "a.example", full("hello"))).await;
    assert_eq!(told(got.expect("an answer")).await, (200, "gateway".to_owned(), "hello".into()));
    assert_eq!((scene.counts(), scene.failures()), ([1, 0, 0, 0, 0, 0], 0));

    let scene = with(|_| reset(Reason::REFUSED_STREAM)).await;
    let mut sender = scene.application().await;
    let got = sender.send_request(request("POST", "a.example", full("hello"))).await;
    assert_eq!(told(got.expect("an answer")).await, (200, "provider".to_owned(), "hello".into()));
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 1, 0, 0, 0], 1));
}

#[tokio::test]
async fn connections_that_end_while_nothing_is_under_way_are_replaced() {
    for gracefully in [true, false] {
        let scene = with(echo("gateway")).await;
        let mut sender = scene.application().await;
        for nth in 0..20 {
            let got = sender.send_request(request("POST", "a.example", full("hello"))).await;
            assert_eq!(told(got.expect("an answer")).await.1, "gateway", "{nth}");
            if gracefully {
                // The next request meets it at any time.
                scene.gateway.go_away();
            } else {
                scene.gateway.break_off();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!((scene.counts(), scene.failures()), ([20, 0, 0, 0, 0, 0], 0));
    }
}

#[tokio::test]
async fn a_gateway_that_goes_away_under_load_loses_nothing() {
    let scene = Arc::new(with(echo("gateway")).await);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let scene = scene.clone();
        clients.push(tokio::spawn(async move {
            let mut sender = scene.application().await;
            for nth in 0..50 {
                let body = format!("number {nth}");
                let got = sender.send_request(request("POST", "a.example", full(body.clone()))).await;
                let (_, by, back) = told(got.expect("an answer")).await;
                assert_eq!((by.as_str(), back), ("gateway", Bytes::from(body)));
            }
        }));
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        scene.gateway.go_away();
    }
    for client in clients {
        timeout(LONG, client).await.expect("in time").expect("no panic");
    }
    assert_eq!((scene.counts(), scene.failures()), ([400, 0, 0, 0, 0, 0], 0));
}

/// (code, method, body, who answers, failures)
#[tokio::test]
async fn a_gateway_that_hangs_is_given_up_when_the_failsafe_opens() {
    for (method, by) in [("GET", Some("provider")), ("POST", None)] {
        let scene = with(hang).await;
        let mut sender = scene.application().await;
        let answer = tokio::spawn(sender.send_request(request(method, "a.example", full(""))));
        asked_of(&scene.gateway, 1).await;
        let settings = scene.relay.settings();
        let admitted = scene.relay.gateways.admit(&settings, now()).expect("it is closed");
        for _ in 0..settings.limits.threshold {
            scene.relay.gateways.settle(&settings, admitted, Outcome::Failure, now());
        }
        let got = timeout(LONG, answer).await.expect("in time").expect("no panic");
        match by {
            Some(by) => assert_eq!(told(got.expect("an answer")).await.1, by),
            None => assert_eq!(reason(&got.expect_err("no answer")), Some(Reason::INTERNAL_ERROR)),
        }
        let asked = usize::from(by.is_some());
        assert_eq!(scene.provider.seen().len(), asked);
        // From now on nothing waits for it.
        let got = sender.send_request(request("POST", "a.example", full("hello"))).await;
        assert_eq!(told(got.expect("an answer")).await.1, "provider");
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_not_the_gateways_failure() {
    let scene = with(|_| answer(says(503, &[("x-lunar-error", "2")]))).await;
    scene.provider.die().await;
    let mut sender = scene.application().await;
    let error = sender.send_request(request("GET", "a.example", full(""))).await.expect_err("no answer");
    assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR));
    let error = sender.send_request(request("GET", "other.test", full(""))).await.expect_err("no answer");
    assert_eq!(reason(&error), Some(Reason::INTERNAL_ERROR));
    assert_eq!((scene.counts(), scene.failures()), ([0, 1, 1, 0, 0, 2], 0));
}

#[tokio::test]
async fn the_providers_own_reset_reaches_the_application() {
    let provider = Server::start(256, |_| reset(Reason::HTTP_1_1_REQUIRED)).await;
    let scene = Scene::new(Server::echo("gateway").await, provider).await;
    let mut sender = scene.application().await;
    let error = sender.send_request(request("POST", "other.test", full("hello"))).await.expect_err("reset");
    assert_eq!(reason(&error), Some(Reason::HTTP_1_1_REQUIRED));
    assert_eq!(scene.counts(), [0, 1, 0, 0, 0, 1]);
    assert_eq!(scene.provider.seen().len(), 1, "it may have been executed");
}
