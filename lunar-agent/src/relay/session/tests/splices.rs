//! What is not understood, or not meant for the gateway, and connections on which nothing is said.

use std::{io::ErrorKind, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scene::*;
use crate::{kernel::relay::Count, relay::upstream::reset_on_drop};

/// A provider that sends back all it reads, and then says how much that was.
async fn echo() -> Server {
    Server::start(|mut talk| async move {
        let (mut read, mut write) = talk.stream.split();
        let count = tokio::io::copy(&mut read, &mut write).await.expect("copy");
        write.write_all(format!(" {count}").as_bytes()).await.expect("write");
    })
    .await
}

/// What is said comes back, byte for byte, and nothing is asked of the gateway.
async fn is_spliced(said: &str) {
    let scene = Scene::new(Server::answering("gateway").await, echo().await).await;
    assert_eq!(scene.once(said).await, format!("{said} {}", said.len()));
    scene.settle().await;
    assert!(scene.gateway.asked().is_empty());
    assert_eq!((scene.count(Count::Spliced), scene.count(Count::Direct)), (1, 0), "{said:.99}");
}

#[tokio::test]
async fn what_is_not_ours_reaches_its_provider_byte_for_byte() {
    let many: String = (0..257).map(|nth| format!("a{nth}: b\r\n")).collect();
    for said in [
        "\x16\x03\x01\x02\0\x01\0\x01",
        "SSH-2.0-OpenSSH_9.2\r\nmore of it",
        "GET / HTTP/1.1\r\nHost: stranger.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\nand whatever follows",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET http://api.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        "GET / HTTP/1.1\nHost: api.example\n\n",
        "\r\nGET / HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example\r\nHalf of a he",
        "G",
        &format!("GET /{} HTTP/1.1\r\nHost: api.example\r\n\r\n", "a".repeat(70_000)),
        &format!("GET / HTTP/1.1\r\nHost: api.example\r\n{many}\r\n"),
    ] {
        is_spliced(said).await;
    }
}

#[tokio::test]
async fn a_head_that_trickles_is_read_as_one() {
    let scene = Scene::new(Server::answering("gateway").await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    for byte in "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n".chars() {
        client.say(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    client.hear(&ok("gateway")).await;
}

#[tokio::test]
async fn a_provider_that_speaks_first_is_heard() {
    let provider = Server::start(|mut talk| async move {
        talk.say("220 mail.example\r\n").await;
        while talk.rest() != b"QUIT\r\n" && talk.more().await {}
        talk.say("221 bye\r\n").await;
    });
    let scene = Scene::new(Server::answering("gateway").await, provider.await).await;
    let mut client = scene.connect().await;
    client.hear("220 mail.example\r\n").await;
    client.say("QUIT\r\n").await;
    assert_eq!(client.finish().await.expect("in order"), "221 bye\r\n");
    scene.settle().await;
    assert_eq!(scene.count(Count::Spliced), 1);
}

#[tokio::test]
async fn an_application_that_only_listens_hears_the_provider() {
    let provider = Server::start(|mut talk| async move { talk.say("the time\r\n").await });
    let scene = Scene::new(Server::answering("gateway").await, provider.await).await;
    assert_eq!(scene.once("").await, "the time\r\n");
}

#[tokio::test]
async fn a_slow_application_is_served_as_any_other_and_its_providers_connection_is_used() {
    let scene = Scene::new(Server::answering("gateway").await, Server::answering("provider").await).await;
    let mut client = scene.connect().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.say("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n").await;
    client.hear(&ok("gateway")).await;
    client.say("GET / HTTP/1.1\r\nHost: api.example\r\nx-lunar-allow: no\r\n\r\n").await;
    client.hear(&ok("provider")).await;
    assert_eq!(scene.provider.asked()[0].connection, 0, "the one that waited for it to speak");
}

/// Where no connect is answered as long as the connections live: they fill the backlog, and a SYN more is dropped.
async fn deaf() -> (Server, tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("bind");
    let listener = socket.listen(1).expect("listen");
    let address = listener.local_addr().expect("a bound address");
    let mut held = Vec::new();
    let limit = Duration::from_millis(300);
    while let Ok(stream) = tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await {
        held.push(stream.expect("connect"));
    }
    (Server::real(address), listener, held)
}

#[tokio::test]
async fn a_slow_application_is_served_by_the_gateway_whatever_its_provider_does() {
    let (deaf, _listener, _held) = deaf().await;
    for provider in [deaf, Server::refusing().await] {
        let scene = Scene::new(Server::answering("gateway").await, provider).await;
        let mut client = scene.connect().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.say("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n").await;
        client.hear(&ok("gateway")).await;
        drop(client);
        scene.settle().await;
        assert_eq!((scene.count(Count::Gateway), scene.count(Count::ProviderFailed)), (1, 0));
    }
}

#[tokio::test]
async fn a_provider_that_refuses_is_seen_as_a_reset() {
    for said in ["", "SSH-2.0-x\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nx-lunar-allow: no\r\n\r\n"] {
        let scene = Scene::new(Server::answering("gateway").await, Server::refusing().await).await;
        let mut client = scene.connect().await;
        client.say(said).await;
        let error = client.rest().await.expect_err("no end in order");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        drop(client);
        scene.settle().await;
        assert_eq!(scene.count(Count::ProviderFailed), 1);
    }
}

#[tokio::test]
async fn a_reset_passes_through_a_splice_in_both_directions() {
    let provider = Server::start(|mut talk| async move {
        while talk.rest().is_empty() && talk.more().await {}
        if talk.rest() == b"\x01" {
            talk.reset();
        } else {
            let mut byte = [0];
            let error = talk.stream.read(&mut byte).await.expect_err("no end in order");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
    let scene = Scene::new(Server::answering("gateway").await, provider.await).await;
    let mut client = scene.connect().await;
    client.say("\x01").await;
    assert_eq!(client.rest().await.expect_err("no end in order").kind(), ErrorKind::ConnectionReset);
    let mut client = scene.connect().await;
    client.say("\x02").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    reset_on_drop(&client.stream);
    drop(client);
    scene.settle().await;
}

#[tokio::test]
async fn a_direct_request_does_not_take_the_next_one_with_it() {
    let scene = Scene::new(Server::answering("gateway").await, Server::answering("provider").await).await;
    let mut client = scene.connect().await;
    for (allow, expected) in [("no", "provider"), ("true", "gateway"), ("no", "provider"), ("no", "provider")]
    {
        client
            .say(&format!("GET / HTTP/1.1\r\nHost: a.example\r\nx-lunar-allow: {allow}\r\nA: b\r\n\r\n"))
            .await;
        client.hear(&ok(expected)).await;
    }
    drop(client);
    scene.settle().await;
    let asked = scene.provider.asked();
    assert_eq!(asked[0].head, "GET / HTTP/1.1\r\nHost: a.example\r\nA: b\r\n\r\n");
    assert!(asked.iter().all(|asked| asked.connection == 0));
    assert_eq!((scene.count(Count::Direct), scene.count(Count::Gateway)), (3, 1));
}

#[tokio::test]
async fn an_open_failsafe_a_bypass_and_a_stale_lease_send_requests_direct() {
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for how in ["open", "stale", "bypass"] {
        let (gateway, provider) = (Server::answering("gateway").await, Server::answering("provider").await);
        let lease = if how == "stale" { Duration::from_nanos(1) } else { LONG };
        let scene = Scene::with(gateway, provider, |setup| setup.lease = lease).await;
        match how {
            "open" => scene.open_word(),
            "bypass" => scene.relay.gateways.breaker().force(true),
            _ => {}
        }
        assert_eq!(scene.once(request).await, ok("provider"), "{how}");
        assert_eq!(scene.count(Count::Direct), 1);
    }
}

/// Its end could be found in two places, and in one of them the gateway would find a request there.
#[tokio::test]
async fn a_body_that_is_none_goes_to_the_provider_with_what_follows() {
    let scene = Scene::new(Server::answering("gateway").await, echo().await).await;
    let said = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
    assert_eq!(scene.once(said).await, format!("{said} {}", said.len()));
    scene.settle().await;
    assert!(scene.gateway.asked().is_empty());
    assert_eq!((scene.count(Count::Direct), scene.count(Count::Gateway)), (1, 0));
}

#[tokio::test]
async fn a_body_that_turns_out_to_be_none_is_broken_off_and_replayed_if_that_may_be() {
    for (method, replayed) in [("PUT", true), ("POST", false)] {
        let gateway = Server::start(|mut talk| async move {
            talk.head().await.expect("a head");
            while !talk.rest().ends_with(b"abc\r\n") && talk.more().await {}
            talk.say("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            while talk.more().await {}
            assert_eq!(talk.rest(), b"3\r\nabc\r\n1", "what may be a body, and no more");
        });
        let scene = Scene::new(gateway.await, echo().await).await;
        let head = format!("{method} / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (sound, malformed) = ("3\r\nabc\r\n", "1\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n");
        let mut client = scene.connect().await;
        client.say(&format!("{head}{sound}")).await;
        client.hear("HTTP/1.1 103 Early Hints\r\n\r\n").await;
        client.say(malformed).await;
        if replayed {
            let all = format!("{head}{sound}{malformed}");
            assert_eq!(client.finish().await.expect("in order"), format!("{all} {}", all.len()));
        } else {
            assert_eq!(client.rest().await.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        }
        scene.settle().await;
        let counted = (scene.count(Count::Replayed), scene.count(Count::Closed));
        assert_eq!(counted, if replayed { (1, 0) } else { (0, 1) }, "{method}");
        assert_eq!(scene.failures(), Some(0), "{method}");
    }
}

/// Nothing more goes to the gateway, which would read it as a request.
#[tokio::test]
async fn what_is_said_behind_an_answer_that_is_none_is_not_passed_on() {
    let gateway = Server::start(|mut talk| async move {
        talk.request().await;
        talk.say("no answer\r\n\r\n").await;
        while talk.more().await {}
        assert_eq!(talk.rest(), b"", "nothing follows");
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx").await;
    client.hear("no answer\r\n\r\n").await;
    client.say("GET / HTTP/1.1\r\nHost: a.example\r\nx-lunar-host: b.example\r\n\r\n").await;
    reset_on_drop(&client.stream);
    drop(client);
    scene.settle().await;
}

#[tokio::test]
async fn an_answer_whose_body_turns_out_to_be_none_passes_as_it_is() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno size\r\n0\r\n\r\n";
    let gateway = Server::start(move |mut talk| async move {
        talk.request().await;
        talk.say(answer).await;
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    assert_eq!(scene.once("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await, answer);
    scene.settle().await;
}
