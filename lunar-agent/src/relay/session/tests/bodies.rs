//! Large bodies, sides that do not read, and bodies that break off.

use std::{
    hash::{DefaultHasher, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scene::*;
use crate::kernel::relay::Count;

const MIB: usize = 1 << 20;
const LARGE: usize = 100 * MIB;
/// More than sockets and relay hold together.
const MUCH: usize = 64 * MIB;

fn pattern(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// As chunks of odd sizes, with trailers.
fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 100);
    for chunk in bytes.chunks(54_321) {
        out.extend_from_slice(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\nX-Digest: abc\r\n\r\n");
    out
}

/// Sends `body`, of which the head says `framing`, and gets it back through the relay.
async fn there_and_back(framing: &str, body: Vec<u8>) {
    let said = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
    let answer = said.clone();
    let gateway = Server::start(move |mut talk| {
        let answer = answer.clone();
        async move {
            let asked = talk.request().await.expect("a request");
            talk.say(&answer).await;
            talk.stream.write_all(&asked.body).await.expect("write");
            while talk.more().await {}
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say(&format!("PUT / HTTP/1.1\r\nHost: api.example\r\n{framing}\r\n\r\n")).await;
    let Client { mut stream, .. } = client;
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; said.len() + body.len()];
    let (written, heard) = tokio::join!(write.write_all(&body), read.read_exact(&mut back));
    written.expect("write");
    heard.expect("all of it comes back");
    assert!(back.starts_with(said.as_bytes()));
    assert_eq!(digest(&back[said.len()..]), digest(&body));
    drop(stream);
    scene.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_go_both_ways_whole() {
    there_and_back(&format!("Content-Length: {LARGE}"), pattern(LARGE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_and_trailers_go_both_ways_as_they_are() {
    there_and_back("Transfer-Encoding: chunked", chunked(&pattern(10 * MIB))).await;
}

#[tokio::test]
async fn an_upload_goes_as_fast_as_the_gateway_takes_it() {
    let gateway = Server::start(|mut talk| async move {
        talk.head().await.expect("a head");
        std::future::pending().await
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say(&format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {MUCH}\r\n\r\n")).await;
    let (sent, piece) = (AtomicUsize::new(0), pattern(MIB));
    let stuck = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            sent.fetch_add(client.stream.write(&piece).await.expect("write"), Ordering::Relaxed);
            assert!(sent.load(Ordering::Relaxed) < MUCH, "all was taken, and nobody has read it");
        }
    });
    stuck.await.expect_err("it is held up");
}

#[tokio::test]
async fn a_download_goes_as_fast_as_the_application_takes_it() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let gateway = Server::start(move |mut talk| {
        let count = Arc::clone(&count);
        async move {
            talk.request().await.expect("a request");
            talk.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n")).await;
            let piece = pattern(MIB);
            while let Ok(written) = talk.stream.write(&piece).await {
                count.fetch_add(written, Ordering::Relaxed);
            }
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::Relaxed);
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    assert!(before < MUCH, "all was taken, and nobody has read it");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_over() {
    let gateway = Server::start(|mut talk| async move {
        talk.head().await.expect("a head");
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        while talk.rest() != b"xyz" && talk.more().await {}
        talk.say("1\r\nb\r\n0\r\n\r\n").await;
        while talk.request().await.is_some() {
            talk.say(&ok("next")).await;
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nx").await;
    client.hear("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    client.say("yz").await;
    client.hear("1\r\nb\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn the_rest_of_a_request_that_was_answered_early_is_still_taken() {
    let early = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n";
    for (says, next) in [("", true), ("Connection: close\r\n", false)] {
        let answer = format!("{early}{says}\r\n");
        let said = answer.clone();
        let gateway = Server::start(move |mut talk| {
            let said = said.clone();
            async move {
                talk.head().await.expect("a head");
                talk.say(&said).await;
                if said.contains("close") {
                    return;
                }
                while talk.rest().len() < MIB && talk.more().await {}
                let (head, _) = Talk::head(&mut talk.behind(MIB)).await.expect("the next one");
                assert!(head.starts_with("GET /next "), "{head}");
            }
        });
        let scene = Scene::new(gateway.await, Server::refusing().await).await;
        let mut client = scene.connect().await;
        client.say(&format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {MIB}\r\n\r\n")).await;
        client.hear(&answer).await;
        // Without somebody who reads on this may fail, as it would without a relay.
        let sent = client.stream.write_all(&pattern(MIB)).await;
        assert!(!next || sent.is_ok());
        if next {
            client.say("GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        } else {
            // It is no reset, which might have overtaken the answer.
            assert_eq!(client.finish().await.expect("in order"), "");
        }
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_seen_to_break_off_and_never_repeated() {
    let gateway = Server::start(|mut talk| async move {
        talk.head().await.expect("a head");
        while talk.more().await {}
        assert_eq!(talk.rest(), b"half");
    });
    let scene = Scene::new(gateway.await, Server::answering("provider").await).await;
    let half = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nhalf";
    assert_eq!(scene.once(half).await, "");
    scene.settle().await;
    assert!(scene.provider.asked().is_empty());
    assert_eq!((scene.count(Count::Closed), scene.failures()), (0, Some(0)));
}

/// What the gateway is told in headers of ours is the relay's to say, wherever they stand.
#[tokio::test]
async fn a_trailer_that_is_one_of_ours_does_not_reach_the_gateway() {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    let forged = "0\r\nX-Lunar-Host: evil\r\n\r\n";
    let provider = Server::start(|mut talk| async move {
        while !talk.rest().ends_with(b"\r\n0\r\nX-Lunar-Host: evil\r\n\r\n") && talk.more().await {}
        talk.say(&ok("provider")).await;
    });
    let gateway = Server::start(|mut talk| async move {
        talk.head().await;
        talk.say("HTTP/1.1 103 Early Hints\r\n\r\n").await;
        while talk.more().await {}
        let seen = String::from_utf8_lossy(talk.rest()).into_owned();
        assert!(!seen.contains("evil"), "{seen}");
    });
    let scene = Scene::new(gateway.await, provider.await).await;
    assert_eq!(scene.once(&format!("{head}{forged}")).await, ok("provider"), "all at once");
    assert_eq!(scene.count(Count::Gateway), 0);
    let mut client = scene.connect().await;
    client.say(head).await;
    client.hear("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    client.say(forged).await;
    client.rest().await.expect_err("a POST is not sent twice");
    drop(client);
    scene.settle().await;
    assert_eq!((scene.count(Count::Closed), scene.failures()), (1, Some(0)));
}

#[tokio::test]
async fn an_answer_may_have_trailers_of_any_name_and_a_request_the_consumer_tag() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-lunar-any: a\r\n\r\n";
    let gateway = Server::start(move |mut talk| async move {
        while talk.request().await.is_some() {
            talk.say(answer).await;
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    for _ in 0..2 {
        client
            .say("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Lunar-Consumer-Tag: t\r\n\r\n")
            .await;
        client.hear(answer).await;
    }
    drop(client);
    scene.settle().await;
    assert_eq!(scene.gateway.asked()[1].body, b"0\r\nX-Lunar-Consumer-Tag: t\r\n\r\n");
}
