//! Streams that are given up, stand still or go on, and the connections that they are on.

use bytes::Bytes;
use http::Response;
use tokio::time::timeout;

use super::{
    requests::{empty, pattern, scene},
    scene::{LONG, Scene, Server, answer, channel, full, request, told},
};
use crate::kernel::relay::Count;

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
async fn an_application_that_reads_none_of_its_streams_holds_little_and_holds_up_nobody() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counts = sent.clone();
    let act = move |request: http::Request<hyper::body::Incoming>| {
        if !request.headers().contains_key("x-much") {
            return super::scene::echo("server")(request);
        }
        let (mut sender, body) = channel();
        let counts = counts.clone();
        tokio::spawn(async move {
            let piece = Bytes::from(pattern(4 << 10));
            while sender.send_data(piece.clone()).await.is_ok() {
                counts.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            }
        });
        answer(Response::new(body))
    };
    let scene = Scene::new(Server::start(256, act).await, Server::echo("provider").await).await;
    let stream = tokio::net::TcpStream::connect(scene.address).await.expect("connect");
    // Its own windows take little, and leave room for one more.
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(16 << 10)
            .initial_connection_window_size(4 << 20)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let mut held = Vec::new();
    for _ in 0..99 {
        let mut asked = request("GET", "a.example", empty());
        asked.headers_mut().insert("x-much", "1".parse().expect("a value"));
        held.push(sender.send_request(asked).await.expect("an answer"));
    }
    let mut before = usize::MAX;
    let stalled = timeout(LONG, async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let now = sent.load(std::sync::atomic::Ordering::Relaxed);
            if now == before {
                return now;
            }
            before = now;
        }
    });
    let taken = stalled.await.expect("it comes to a stop");
    assert!(taken < 48 << 20, "{taken} bytes of 99 streams were taken, and nobody reads them");
    let other = pattern(1 << 20);
    let response = sender.send_request(request("POST", "a.example", full(other.clone())));
    let response = timeout(LONG, response).await.expect("in time").expect("an answer");
    let (_, _, back) = timeout(LONG, told(response)).await.expect("another one goes past");
    assert!(back == other);
}

#[tokio::test]
async fn a_connection_is_idle_only_while_it_has_no_stream() {
    let limit = std::time::Duration::from_millis(20);
    let streams = tokio::sync::watch::Sender::new(1);
    let mut idle = std::pin::pin!(super::super::idle(&streams, limit));
    assert!(timeout(limit * 5, &mut idle).await.is_err());
    streams.send_replace(0);
    timeout(LONG, idle).await.expect("it has none now");
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
