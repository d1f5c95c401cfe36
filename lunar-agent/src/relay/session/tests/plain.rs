//! Requests whose way is clear.

use super::scene::*;
use crate::kernel::relay::Count;

const GET: &str = "GET /a?b=c HTTP/1.1\r\nhOsT: api.example\r\nA: 1\r\na: 2\r\n\r\n";

#[tokio::test]
async fn a_request_reaches_the_gateway_with_our_headers_and_the_answer_comes_back_as_it_is() {
    let answer = "HTTP/1.1 200 Fine\r\nx-b: 1\r\nX-A:2\r\nx-b: 3\r\ncontent-length: 2\r\n\r\nhi";
    let gateway = Server::start(move |mut talk| async move {
        while talk.request().await.is_some() {
            talk.say(answer).await;
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say(GET).await;
    client.hear(answer).await;
    client.say("POST /p HTTP/1.1\r\nHost: other.example:1\r\nContent-Length: 3\r\n\r\nabc").await;
    client.hear(answer).await;
    drop(client);
    scene.settle().await;

    let asked = scene.gateway.asked();
    let port = scene.provider.address.port();
    let id = asked[0].value("x-lunar-req-id").expect("an id");
    assert_eq!(
        asked[0].head,
        format!(
            "GET /a?b=c HTTP/1.1\r\nhOsT: api.example\r\nA: 1\r\na: 2\r\nx-lunar-host: api.example:{port}\r\n\
             x-lunar-scheme: http\r\nx-lunar-req-id: {id}\r\n\
             x-lunar-interceptor: lunar-ebpf-interceptor/{}\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        )
    );
    let uuid: uuid::Uuid = id.parse().expect("a UUID");
    assert_eq!(uuid.get_version_num(), 4);
    assert_ne!(asked[1].value("x-lunar-req-id"), Some(id), "each request has an id of its own");
    assert_eq!(asked[1].value("x-lunar-host"), Some(&*format!("other.example:{port}")));
    assert_eq!((asked[1].line(), &*asked[1].body), ("POST /p HTTP/1.1", &b"abc"[..]));
    assert_eq!(asked[1].connection, 0, "the gateway's connection is used again");
    assert_eq!(scene.count(Count::Gateway), 2);
    assert_eq!(scene.failures(), Some(0));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = Server::start(|mut talk| async move {
        while let Some(asked) = talk.request().await {
            talk.say(&ok(asked.line())).await;
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let post = "POST /2 HTTP/1.1\r\nHost: b.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let all =
        ["GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n", post, "GET /3 HTTP/1.1\r\nHost: a.example\r\n\r\n"];
    let lines = ["GET /1 HTTP/1.1", "POST /2 HTTP/1.1", "GET /3 HTTP/1.1"];
    let expected = lines.map(ok).concat();
    assert_eq!(scene.once(&all.concat()).await, expected);
    scene.settle().await;
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_gets_its_answer() {
    let scene = Scene::new(Server::answering("late").await, Server::refusing().await).await;
    assert_eq!(scene.once(GET).await, ok("late"));
    scene.settle().await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_heads() {
    let gateway = Server::start(|mut talk| async move {
        while let Some(asked) = talk.request().await {
            talk.say(match asked.line().split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
            })
            .await;
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    for (request, answer) in [
        ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n"),
        ("HEAD /", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        client.say(&format!("{request} HTTP/1.1\r\nHost: api.example\r\n\r\n")).await;
        client.hear(answer).await;
    }
    assert_eq!(scene.gateway.asked().len(), 4);
}

#[tokio::test]
async fn connections_end_as_versions_and_connection_headers_say() {
    let length = "Content-Length: 2\r\n";
    for (request, answer, goes_on) in [
        ("HTTP/1.1", format!("HTTP/1.1 200 OK\r\n{length}"), true),
        ("HTTP/1.1", format!("HTTP/1.1 200 OK\r\n{length}Connection: close\r\n"), false),
        ("HTTP/1.1", format!("HTTP/1.0 200 OK\r\n{length}"), false),
        ("HTTP/1.1", format!("HTTP/1.0 200 OK\r\n{length}Connection: keep-alive\r\n"), true),
        ("HTTP/1.1\r\nConnection: close", format!("HTTP/1.1 200 OK\r\n{length}"), false),
        ("HTTP/1.0", format!("HTTP/1.1 200 OK\r\n{length}"), false),
        ("HTTP/1.0\r\nConnection: keep-alive", format!("HTTP/1.1 200 OK\r\n{length}"), false),
        (
            "HTTP/1.0\r\nConnection: keep-alive",
            format!("HTTP/1.1 200 OK\r\n{length}Connection: keep-alive\r\n"),
            true,
        ),
    ] {
        let whole = format!("{answer}\r\nhi");
        let said = whole.clone();
        let gateway = Server::start(move |mut talk| {
            let said = said.clone();
            async move {
                while talk.request().await.is_some() {
                    talk.say(&said).await
                }
            }
        });
        let scene = Scene::new(gateway.await, Server::refusing().await).await;
        let mut client = scene.connect().await;
        let request = format!("GET / {request}\r\nHost: api.example\r\n\r\n");
        client.say(&request).await;
        client.hear(&whole).await;
        if goes_on {
            client.say(&request).await;
            client.hear(&whole).await;
        } else {
            assert_eq!(client.rest().await.expect("in order"), "", "{request} {answer}");
        }
    }
}

#[tokio::test]
async fn a_body_until_the_connection_closes_ends_with_it() {
    let gateway = Server::start(|mut talk| async move {
        talk.request().await;
        talk.say("HTTP/1.1 200 OK\r\n\r\nall ").await;
        talk.say("of it").await;
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say(GET).await;
    assert_eq!(client.rest().await.expect("in order"), "HTTP/1.1 200 OK\r\n\r\nall of it");
    drop(client);
    scene.settle().await;
}

#[tokio::test]
async fn interim_answers_pass_and_a_client_that_expects_one_gets_it() {
    let gateway = Server::start(|mut talk| async move {
        let (head, _) = talk.head().await.expect("a head");
        assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
        assert!(talk.rest().is_empty(), "the body waits");
        talk.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").await;
        while talk.rest() != b"abc" && talk.more().await {}
        talk.say(&ok("got it")).await;
        while talk.more().await {}
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client
        .say("PUT / HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        .await;
    client.hear("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").await;
    client.say("abc").await;
    client.hear(&ok("got it")).await;
}

#[tokio::test]
async fn an_upgraded_connection_is_joined() {
    let gateway = Server::start(|mut talk| async move {
        talk.head().await.expect("a head");
        talk.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
            .await;
        while talk.more().await {
            let said = String::from_utf8(talk.rest().to_vec()).expect("text");
            if said.ends_with('!') {
                talk.say(&said).await;
                return;
            }
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client
        .say("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
        .await;
    client
        .hear("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        .await;
    client.say("late!").await;
    assert_eq!(client.rest().await.expect("in order"), "early late!");
    drop(client);
    scene.settle().await;
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_sent() {
    let gateway = Server::start(|mut talk| async move {
        talk.request().await.expect("a request");
        talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        talk.say("9\r\ndata: 1\n\n\r\n").await;
        // The next is not sent before the application has gone.
        assert!(talk.head().await.is_none());
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say(GET).await;
    client
        .hear("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.hear("9\r\ndata: 1\n\n\r\n").await;
}
