//! Faults that are none of the gateway's, and what it is not to get.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::timeout;

use super::{
    gateways::asked_of,
    requests::{empty, scene},
    scene::{Answer, LONG, Scene, Server, echo, full, request, told},
};
use crate::relay::replay::Mode;

#[tokio::test]
async fn a_fault_of_this_side_is_no_failure_of_the_gateway() {
    let scene = Scene::with(Server::echo("no TLS").await, Server::echo("provider").await, |setup| {
        setup.supports_tls = true;
        setup.endpoints.iter_mut().for_each(|endpoint| endpoint.host = "no name".to_owned());
    })
    .await;
    scene.relay.pool.trust(tokio_rustls::rustls::RootCertStore::empty());
    let mut sender = scene.application().await;
    for method in ["GET", "POST"] {
        let got = sender.send_request(request(method, "a.example", full("hello"))).await;
        assert_eq!(told(got.expect("an answer")).await.1, "provider");
    }
    scene.at_rest().await;
    assert_eq!((scene.counts(), scene.failures()), ([0, 0, 2, 0, 0, 0], 0));
}

#[tokio::test]
async fn nothing_is_sent_to_the_gateway_twice_where_that_is_never_to_be() {
    let act = |request: http::Request<hyper::body::Incoming>| {
        if request.headers().contains_key("x-hang") {
            return Box::pin(std::future::pending()) as Answer;
        }
        echo("gateway")(request)
    };
    let never = |setup: &mut crate::relay::setup::Setup| setup.replay = Mode::Never;
    let scene = Scene::with(Server::start(256, act).await, Server::echo("provider").await, never).await;
    let mut sender = scene.application().await;
    let first = sender.send_request(request("GET", "a.example", empty())).await;
    assert_eq!(told(first.expect("an answer")).await.1, "gateway");
    let mut asked = request("GET", "a.example", empty());
    asked.headers_mut().insert("x-hang", "1".parse().expect("a value"));
    let answer = tokio::spawn(sender.send_request(asked));
    asked_of(&scene.gateway, 2).await;
    scene.gateway.break_off();
    timeout(LONG, answer).await.expect("in time").expect("no panic").expect_err("no answer");
    scene.at_rest().await;
    assert_eq!(scene.gateway.seen().len(), 2, "each once");
    assert!(scene.provider.seen().is_empty());
}

/// What the gateway is told in headers of ours is the relay's to say, wherever they stand.
#[tokio::test]
async fn trailers_that_are_ours_do_not_go_on() {
    let scene = scene().await;
    let mut sender = scene.application().await;
    let trailers = |names: &[&'static str]| {
        let value = http::HeaderValue::from_static("v");
        HeaderMap::from_iter(names.iter().map(|name| (http::HeaderName::from_static(name), value.clone())))
    };
    for (sent, expected) in [
        (&["x-lunar-host", "x-lunar-consumer-tag", "a"][..], &["x-lunar-consumer-tag", "a"][..]),
        (&["x-lunar-host", "x-lunar-allow"], &[]),
    ] {
        let frames: [Result<_, std::convert::Infallible>; 2] =
            [Ok(Frame::data(Bytes::from_static(b"hello"))), Ok(Frame::trailers(trailers(sent)))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let response = sender.send_request(request("POST", "a.example", body)).await.expect("an answer");
        let back = timeout(LONG, response.into_body().collect()).await.expect("in time").expect("whole");
        assert_eq!(back.trailers().cloned().unwrap_or_default(), trailers(expected));
        assert_eq!(back.to_bytes(), "hello");
    }
}

/// Its reason lies behind the connect, which comes about.
#[tokio::test]
async fn why_the_gateway_does_not_speak_http2_is_known() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut gateway = Server::echo("not used").await;
    gateway.address = silent.local_addr().expect("a bound address");
    let address = gateway.address;
    let quick = |setup: &mut crate::relay::setup::Setup| {
        setup.connect_timeout = std::time::Duration::from_millis(100);
    };
    let scene = Scene::with(gateway, Server::echo("provider").await, quick).await;
    let mut sender = scene.application().await;
    let got = sender.send_request(request("GET", "a.example", empty())).await;
    assert_eq!(told(got.expect("an answer")).await.1, "provider");
    assert_eq!(scene.relay.pool.trouble(), Some(format!("{address}: no answer within 100ms")));
}
