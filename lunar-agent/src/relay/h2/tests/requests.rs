//! What goes where, and what arrives.

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use tokio::time::timeout;

use super::scene::{Body, LONG, Scene, Server, answer, channel, full, request, told};

pub fn empty() -> Body {
    Empty::new().boxed()
}

pub async fn scene() -> Scene {
    Scene::new(Server::echo("gateway").await, Server::echo("provider").await).await
}

/// Blocks that differ, so that one lost, moved or repeated shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i >> 10) as u8 ^ i as u8).collect()
}

#[tokio::test]
async fn a_wanted_request_reaches_the_gateway_with_our_headers_and_no_forged_ones() {
    let scene = scene().await;
    let mut sender = scene.application().await;
    let mut asked = request("POST", "Api.Example", full("hello"));
    for (name, value) in [
        ("x-one", "1"),
        ("x-one", "2"),
        ("x-lunar-host", "evil"),
        ("x-lunar-tenant-id", "evil"),
        ("x-lunar-consumer-tag", "me"),
        ("x-lunar-allow", "true"),
        ("te", "trailers"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ] {
        asked.headers_mut().append(name, value.parse().expect("a value"));
    }
    let (status, by, body) = told(sender.send_request(asked).await.expect("an answer")).await;
    assert_eq!((status, by.as_str(), &body[..]), (200, "gateway", &b"hello"[..]));
    let seen = scene.gateway.seen().remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.uri.to_string()),
        ("POST", "http://Api.Example/path?query".to_owned())
    );
    let port = scene.provider.address.port();
    assert_eq!(seen.header("x-lunar-host"), Some(format!("api.example:{port}").as_str()));
    assert_eq!(seen.header("x-lunar-scheme"), Some("http"));
    assert_eq!(seen.header("x-lunar-tenant-id"), Some("acme"));
    assert_eq!(seen.header("x-lunar-consumer-tag"), Some("me"));
    assert_eq!(seen.header("x-lunar-allow"), None);
    assert_eq!(seen.headers.get_all("x-lunar-host").iter().count(), 1);
    assert_eq!(seen.headers.get_all("x-lunar-tenant-id").iter().count(), 1);
    assert!(seen.header("x-lunar-interceptor").is_some_and(|by| by.starts_with("lunar-ebpf-interceptor/")));
    let id = seen.header("x-lunar-req-id").and_then(|id| uuid::Uuid::parse_str(id).ok()).expect("a UUID");
    assert_eq!(id.get_version_num(), 4);
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.headers.get_all("x-one").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    scene.at_rest().await;
    assert_eq!(scene.counts(), [1, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_not_wanted_goes_to_the_provider_as_it_came() {
    let scene = scene().await;
    let mut sender = scene.application().await;
    for host in ["other.test", "blocked.example", "127.0.0.1:80", "[::1]", "a.example..", "a.example:0"] {
        let mut asked = request("GET", host, empty());
        asked.headers_mut().append("x-lunar-host", "mine".parse().expect("a value"));
        let (status, by, _) = told(sender.send_request(asked).await.expect("an answer")).await;
        assert_eq!((status, by.as_str()), (200, "provider"), "{host}");
        let seen = scene.provider.seen().pop().expect("it was asked");
        assert_eq!(seen.uri.authority().map(|a| a.as_str()), Some(host));
        assert_eq!((seen.header("x-lunar-host"), seen.header("x-lunar-req-id")), (Some("mine"), None));
    }
    // The header says otherwise, and goes no further.
    for (host, allow, by) in [("a.example", "false", "provider"), ("other.test", "true", "gateway")] {
        let mut asked = request("GET", host, empty());
        asked.headers_mut().append("x-lunar-allow", allow.parse().expect("a value"));
        assert_eq!(told(sender.send_request(asked).await.expect("an answer")).await.1, by);
        let server = if by == "gateway" { &scene.gateway } else { &scene.provider };
        assert_eq!(server.seen().pop().expect("it was asked").header("x-lunar-allow"), None);
    }
    // Two hosts, and who believes which?
    let mut asked = request("GET", "a.example", empty());
    asked.headers_mut().append("host", "b.example".parse().expect("a value"));
    assert_eq!(told(sender.send_request(asked).await.expect("an answer")).await.1, "provider");
    scene.at_rest().await;
    assert_eq!(scene.counts(), [1, 8, 0, 0, 0, 0]);
    assert_eq!(scene.provider.connected(), 1, "they share a connection");
}

#[tokio::test]
async fn a_forced_bypass_and_a_stale_lease_send_everything_direct() {
    let scene = scene().await;
    let mut sender = scene.application().await;
    scene.breaker().force(true);
    let asked = || request("GET", "a.example", empty());
    assert_eq!(told(sender.send_request(asked()).await.expect("an answer")).await.1, "provider");
    scene.breaker().force(false);
    assert_eq!(told(sender.send_request(asked()).await.expect("an answer")).await.1, "gateway");
    assert_eq!(scene.counts(), [1, 1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn eight_mebibytes_go_both_ways_whole_with_trailers() {
    let scene = scene().await;
    let sender = scene.application().await;
    let sent = pattern(8 << 20);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    for host in ["a.example", "other.test"] {
        let mut frames: Vec<_> =
            sent.chunks(50_000).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        frames.push(Ok(Frame::trailers(trailers.clone())));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let response = sender.clone().send_request(request("POST", host, body)).await.expect("an answer");
        assert!(response.headers().get("content-length").is_none(), "no length that nobody said");
        let back = timeout(LONG, response.into_body().collect()).await.expect("in time").expect("whole");
        assert_eq!(back.trailers(), Some(&trailers));
        assert!(back.to_bytes() == sent, "it came back changed");
    }
}

#[tokio::test]
async fn a_hundred_streams_of_many_hosts_share_one_connection_and_one_to_the_gateway() {
    let scene = scene().await;
    let sender = scene.application().await;
    // All are open before the first one ends.
    let mut open = Vec::new();
    for nth in 0..100 {
        let (body, channel) = channel();
        let mut sender = sender.clone();
        let asked = request("POST", &format!("h{nth}.example"), channel);
        open.push((body, tokio::spawn(async move { sender.send_request(asked).await })));
    }
    let mut answers = Vec::new();
    for (body, answer) in open {
        answers.push((
            body,
            timeout(LONG, answer).await.expect("in time").expect("no panic").expect("an answer"),
        ));
    }
    for (nth, (mut body, response)) in answers.into_iter().enumerate() {
        body.send_data(format!("number {nth}").into()).await.expect("it is taken");
        drop(body);
        let (_, by, text) = told(response).await;
        assert_eq!((by.as_str(), text), ("gateway", format!("number {nth}").into()));
    }
    let mut hosts: Vec<_> = scene
        .gateway
        .seen()
        .iter()
        .filter_map(|seen| seen.header("x-lunar-host").map(str::to_owned))
        .collect();
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), 100);
    scene.at_rest().await;
    assert_eq!(scene.counts(), [100, 0, 0, 0, 0, 0]);
    assert_eq!(scene.gateway.connected(), 1);
}

#[tokio::test]
async fn a_gateway_that_takes_few_streams_gets_more_connections() {
    let scene =
        Scene::new(Server::start(10, super::scene::echo("gateway")).await, Server::echo("provider").await)
            .await;
    let sender = scene.application().await;
    let mut open = Vec::new();
    for _ in 0..35 {
        let (body, channel) = channel();
        let mut sender = sender.clone();
        let asked = request("POST", "a.example", channel);
        open.push((body, tokio::spawn(async move { sender.send_request(asked).await })));
    }
    // All of them are answered while all of them are open.
    let mut answers = Vec::new();
    for (body, answer) in open {
        answers.push((
            body,
            timeout(LONG, answer).await.expect("in time").expect("no panic").expect("an answer"),
        ));
    }
    assert_eq!(scene.counts(), [35, 0, 0, 0, 0, 0]);
    assert!(scene.gateway.connected() >= 4);
}

#[tokio::test]
async fn an_answer_begins_before_the_request_ends() {
    let scene = scene().await;
    for host in ["a.example", "other.test"] {
        let mut sender = scene.application().await;
        let (mut body, asked) = channel();
        let response = sender.send_request(request("POST", host, asked)).await.expect("an answer");
        let mut back = response.into_body();
        for piece in ["one", "two", "three"] {
            body.send_data(piece.into()).await.expect("it is taken");
            let frame = timeout(LONG, back.frame()).await.expect("in time").expect("more").expect("whole");
            assert_eq!(frame.into_data().expect("data"), piece);
        }
        drop(body);
        let rest = timeout(LONG, back.collect()).await.expect("in time").expect("whole");
        assert_eq!(rest.to_bytes(), "");
    }
}

#[tokio::test]
async fn what_has_no_body_has_none_on_the_other_side() {
    let scene = Scene::new(
        Server::start(256, |request| {
            let headers = request.headers();
            assert!(hyper::body::Body::is_end_stream(request.body()), "{headers:?}");
            assert!(headers.get("content-length").is_none(), "{headers:?}");
            let mut response = Response::new(Empty::new().boxed());
            response.headers_mut().insert("content-length", "7".parse().expect("a value"));
            answer(response)
        })
        .await,
        Server::echo("provider").await,
    )
    .await;
    let mut sender = scene.application().await;
    for method in ["HEAD", "HEAD"] {
        let response = sender.send_request(request(method, "a.example", empty())).await.expect("an answer");
        assert_eq!(response.headers()["content-length"], "7");
        assert!(hyper::body::Body::is_end_stream(response.body()));
        assert_eq!(response.into_body().collect().await.expect("nothing").to_bytes(), "");
    }
}
