//! A relay that ends in the midst of something: nobody takes what came so far for the whole. And what is whole arrives.

use std::io::ErrorKind;

use tokio::{io::AsyncReadExt, io::AsyncWriteExt, sync::mpsc};

use super::scene::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
const HALF: &str = "HTTP/1.1 200 OK\r\n\r\nhalf";

#[tokio::test]
async fn a_body_that_ends_with_its_connection_does_not_look_whole_when_it_is_cut_off() {
    let half = || {
        Server::start(|mut talk| async move {
            talk.request().await;
            talk.say(HALF).await;
            while talk.more().await {}
        })
    };
    let scene = Scene::new(half().await, half().await).await;
    for allow in ["true", "no"] {
        let mut client = scene.connect().await;
        client.say(&GET.replace("\r\n\r\n", &format!("\r\nx-lunar-allow: {allow}\r\n\r\n"))).await;
        client.hear(HALF).await;
        scene.cut().await;
        assert_eq!(client.rest().await.expect_err("no end in order").kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn what_is_spliced_does_not_look_whole_to_either_side_when_it_is_cut_off() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let provider = Server::start(move |mut talk| {
        let tell = tell.clone();
        async move {
            while talk.rest().is_empty() && talk.more().await {}
            talk.say("half").await;
            tell.send(talk.stream.read(&mut [0]).await.map_err(|e| e.kind())).expect("it is heard");
        }
    });
    let scene = Scene::new(Server::answering("gateway").await, provider.await).await;
    let mut client = scene.connect().await;
    client.say("\x01").await;
    client.hear("half").await;
    scene.cut().await;
    assert_eq!(client.rest().await.expect_err("no end in order").kind(), ErrorKind::ConnectionReset);
    assert_eq!(told.recv().await, Some(Err(ErrorKind::ConnectionReset)));
}

/// All of it lies in the kernel when the session ends, and nobody has read any.
#[tokio::test]
async fn an_end_in_order_takes_nothing_away_that_is_on_its_way() {
    let body = "x".repeat(256 << 10);
    for (said, head) in [(GET, "HTTP/1.1 200 OK\r\n\r\n"), ("\x01", "")] {
        let text = format!("{head}{body}");
        let script = move |mut talk: Talk| {
            let text = text.clone();
            async move {
                while talk.rest().is_empty() && talk.more().await {}
                talk.say(&text).await;
                talk.stream.shutdown().await.expect("shutdown");
                while talk.more().await {}
            }
        };
        let scene = Scene::new(Server::start(script.clone()).await, Server::start(script).await).await;
        let mut client = scene.connect().await;
        client.say(said).await;
        client.stream.shutdown().await.expect("shutdown");
        scene.settle().await;
        let rest = client.rest().await.expect("in order");
        assert!(rest == format!("{head}{body}"), "{} bytes", rest.len());
    }
}
