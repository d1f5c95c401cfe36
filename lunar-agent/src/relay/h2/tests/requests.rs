//! What goes where, and what arrives.

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use tokio::time::timeout;

use super::scene::{Body, LONG, Scene, Server, answer, channel, full, request, told};
use crate::kernel::relay::Count;

fn empty() -> Body {
    Empty::new().boxed()
}

async fn scene() -> Scene {
    Scene::new(Server::echo("gateway").await, Server::echo("provider").await).await
}

/// Blocks that differ, so that one lost, moved or repeated shows.
fn pattern(length: usize) -> Vec<u8> {
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

#[tokio::test]
async fn a_request_that_is_given_up_is_given_up_on_the_other_side_too() {
    for host in ["a.example", "other.test"] {
        let (gone, mut went) = tokio::sync::mpsc::unbounded_channel();
        // Answers when it is asked for it, so never.
        struct Tell(tokio::sync::mpsc::UnboundedSender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                _ = self.0.send(());
            }
        }
        let hang = move |_| {
            let tell = Tell(gone.clone());
            Box::pin(async move {
                let never = std::future::pending().await;
                drop(tell);
                never
            }) as super::scene::Answer
        };
        let scene = Scene::new(Server::start(256, hang.clone()).await, Server::start(256, hang).await).await;
        let mut sender = scene.application().await;
        let asked = tokio::spawn({
            let answer = sender.send_request(request("POST", host, full("hello")));
            async move { answer.await.map(drop) }
        });
        timeout(LONG, async {
            while scene.gateway.seen().is_empty() && scene.provider.seen().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it arrives");
        asked.abort();
        timeout(LONG, went.recv()).await.expect("in time").expect("it is told");
        scene.at_rest().await;
        assert_eq!(
            (scene.failures(), scene.count(Count::Closed), scene.count(Count::ProviderFailed)),
            (0, 0, 0)
        );
        // The connection is sound.
        assert!(sender.ready().await.is_ok());
    }
}

#[tokio::test]
async fn an_upload_goes_as_fast_as_it_is_taken_and_holds_up_nobody() {
    let (held, mut holds) = tokio::sync::mpsc::unbounded_channel();
    let act = move |request: http::Request<hyper::body::Incoming>| {
        if request.headers().contains_key("x-hold") {
            // Nobody reads it.
            held.send(request.into_body()).expect("it is taken");
            return Box::pin(std::future::pending()) as super::scene::Answer;
        }
        super::scene::echo("gateway")(request)
    };
    let scene = Scene::new(Server::start(256, act).await, Server::echo("provider").await).await;
    let sender = scene.application().await;
    let much = 64 << 20;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..3 {
        let (mut body, asked) = channel();
        let mut asked = request("POST", "a.example", asked);
        asked.headers_mut().insert("x-hold", "1".parse().expect("a value"));
        let (mut sender, sent) = (sender.clone(), sent.clone());
        tokio::spawn(async move { sender.send_request(asked).await.map(drop) });
        tokio::spawn(async move {
            let piece = Bytes::from(pattern(64 << 10));
            while body.send_data(piece.clone()).await.is_ok() {
                sent.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            }
        });
        let _ = timeout(LONG, holds.recv()).await.expect("in time").expect("it arrives");
    }
    let mut before = usize::MAX;
    let stalled = timeout(LONG, async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let now = sent.load(std::sync::atomic::Ordering::Relaxed);
            if now == before {
                return now;
            }
            before = now;
        }
    });
    let taken = stalled.await.expect("it comes to a stop");
    assert!(taken < much, "{taken} bytes were taken, and nobody reads them");
    let other = pattern(8 << 20);
    let response = sender.clone().send_request(request("POST", "a.example", full(other.clone())));
    let response = timeout(LONG, response).await.expect("in time").expect("an answer");
    let (_, _, back) = timeout(LONG, told(response)).await.expect("another one goes past");
    assert!(back == other);
}

#[tokio::test]
async fn a_drained_relay_says_so_and_finishes_what_has_begun() {
    let scene = scene().await;
    let mut sender = scene.application().await;
    let (mut body, asked) = channel();
    let response = sender.send_request(request("POST", "a.example", asked)).await.expect("an answer");
    scene.relay.drain();
    timeout(LONG, async {
        // What is asked of a connection that goes away is not executed.
        while let Ok(response) = sender.send_request(request("GET", "a.example", empty())).await {
            told(response).await;
        }
    })
    .await
    .expect("nothing more is taken");
    body.send_data("late".into()).await.expect("it is taken");
    drop(body);
    assert_eq!(told(response).await.2, "late");
    scene.at_rest().await;
    assert_eq!(scene.count(Count::Closed), 0);
}

#[tokio::test]
async fn an_application_that_vanishes_is_given_up_on_the_other_side_too() {
    for begun in [false, true] {
        let (bodies, mut sends) = tokio::sync::mpsc::unbounded_channel();
        let act = move |_| {
            let (sender, body) = channel();
            bodies.send(sender).expect("it is taken");
            if begun {
                answer(Response::new(body))
            } else {
                Box::pin(async move {
                    let never = std::future::pending().await;
                    drop(body);
                    never
                }) as super::scene::Answer
            }
        };
        let scene = Scene::new(Server::start(256, act).await, Server::echo("provider").await).await;
        let stream = tokio::net::TcpStream::connect(scene.address).await.expect("connect");
        let (mut sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(stream),
        )
        .await
        .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let asked = tokio::spawn(sender.send_request(request("POST", "a.example", full("hello"))));
        let mut body = timeout(LONG, sends.recv()).await.expect("in time").expect("it arrives");
        let _held = if begun {
            Some(asked.await.expect("no panic").expect("an answer"))
        } else {
            asked.abort();
            None
        };
        connection.abort();
        drop(sender);
        // The gateway learns of it by what it sends.
        let told = async { while body.send_data("more".into()).await.is_ok() {} };
        timeout(LONG, told).await.expect("it is told");
        scene.at_rest().await;
        assert_eq!((scene.failures(), scene.count(Count::Closed)), (0, 0));
        assert!(scene.provider.seen().is_empty());
    }
}

#[tokio::test]
async fn a_download_that_nobody_reads_is_bounded_and_holds_up_nobody() {
    for host in ["a.example", "other.test"] {
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counts = sent.clone();
        let act = move |request: http::Request<hyper::body::Incoming>| {
            if !request.headers().contains_key("x-much") {
                return super::scene::echo("server")(request);
            }
            let (mut sender, body) = channel();
            let counts = counts.clone();
            tokio::spawn(async move {
                let piece = Bytes::from(pattern(64 << 10));
                while sender.send_data(piece.clone()).await.is_ok() {
                    counts.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
                }
            });
            answer(Response::new(body))
        };
        let scene = Scene::new(Server::start(256, act.clone()).await, Server::start(256, act).await).await;
        let mut held = Vec::new();
        // Each on a connection of its own, so that no window but the relay's is shared.
        for _ in 0..8 {
            let mut sender = scene.application().await;
            let mut asked = request("GET", host, empty());
            asked.headers_mut().insert("x-much", "1".parse().expect("a value"));
            held.push((sender.send_request(asked).await.expect("an answer"), sender));
        }
        let mut before = usize::MAX;
        let stalled = timeout(LONG, async {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let now = sent.load(std::sync::atomic::Ordering::Relaxed);
                if now == before {
                    return now;
                }
                before = now;
            }
        });
        let taken = stalled.await.expect("it comes to a stop");
        assert!(taken < 8 * (8 << 20), "{taken} bytes of 8 streams were taken, and nobody reads them");
        let other = pattern(8 << 20);
        let mut sender = scene.application().await;
        let response = sender.send_request(request("POST", host, full(other.clone())));
        let response = timeout(LONG, response).await.expect("in time").expect("an answer");
        let (_, _, back) = timeout(LONG, told(response)).await.expect("another one goes past");
        assert!(back == other);
    }
}

#[tokio::test]
async fn connect_is_the_providers_to_answer_and_its_tunnel_goes_through() {
    let provider = Server::start(256, |mut request| {
        if request.uri().port_u16() == Some(1) {
            let mut refused = Response::new(full("no"));
            *refused.status_mut() = 403.try_into().expect("a status");
            return answer(refused);
        }
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.expect("a tunnel");
            let (mut read, mut write) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        answer(Response::new(empty()))
    })
    .await;
    let scene = Scene::new(Server::echo("gateway").await, provider).await;
    let mut sender = scene.application().await;
    let connect =
        |to: &str| http::Request::builder().method("CONNECT").uri(to).body(empty()).expect("a request");
    let refused = sender.send_request(connect("a.example:1")).await.expect("an answer");
    assert_eq!(told(refused).await, (403, String::new(), "no".into()));
    let mut taken = sender.send_request(connect("a.example:2")).await.expect("an answer");
    assert_eq!(taken.status(), 200);
    let upgraded = hyper::upgrade::on(&mut taken).await.expect("a tunnel");
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    tokio::io::AsyncWriteExt::write_all(&mut io, b"hello").await.expect("write");
    let mut back = [0; 5];
    timeout(LONG, tokio::io::AsyncReadExt::read_exact(&mut io, &mut back))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(&back, b"hello");
    drop(io);
    scene.at_rest().await;
    assert_eq!(scene.counts(), [0, 2, 0, 0, 0, 0]);
}
