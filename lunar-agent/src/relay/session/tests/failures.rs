//! Each way in which the gateway fails, for a request of each kind: what the application sees, how often the provider executes it,
//! what the failsafe is told, what is counted.

use std::io::ErrorKind;

use super::scene::*;
use crate::{kernel::relay::Count, relay::replay::Mode};

/// What the gateway does once it has the whole request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gateway {
    Refuses,
    Resets,
    Closes,
    Hangs,
    DiesInTheHead,
    DiesInTheBody,
    ResetsInTheBody,
    Babbles,
    /// `x-lunar-error` with this value.
    Shows(&'static str),
}
use Gateway::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Provider {
    Answers,
    Refuses,
    Closes,
    Shows,
}

/// A request, with a body that is kept or one that is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    Get,
    Put,
    Post,
    LargePut,
    LargePost,
}
use Request::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Gateways,
    Providers,
    Reset,
    End,
}

const KEPT: usize = 64 << 10;

impl Request {
    fn text(self) -> String {
        let (method, length) = match self {
            Get => ("GET", 0),
            Put => ("PUT", KEPT),
            Post => ("POST", 5),
            LargePut => ("PUT", KEPT + 1),
            LargePost => ("POST", KEPT + 1),
        };
        let body = "x".repeat(length);
        format!("{method} / HTTP/1.1\r\nHost: api.example\r\nContent-Length: {length}\r\n\r\n{body}")
    }
}

impl Gateway {
    fn answer(self) -> String {
        match self {
            Shows(code) => {
                format!("HTTP/1.1 503 No\r\nx-lunar-error: {code}\r\nContent-Length: 8\r\n\r\ngateway!")
            }
            Babbles => "SSH-2.0-OpenSSH\r\n".to_owned(),
            DiesInTheHead => "HTTP/1.1 200 OK\r\nContent-".to_owned(),
            DiesInTheBody | ResetsInTheBody => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_owned(),
            Refuses | Resets | Closes | Hangs => String::new(),
        }
    }

    async fn start(self) -> Server {
        if self == Refuses {
            return Server::refusing().await;
        }
        Server::start(move |mut talk| async move {
            talk.request().await;
            talk.say(&self.answer()).await;
            match self {
                Resets => talk.reset(),
                // What was said is to arrive first.
                ResetsInTheBody => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    talk.reset();
                }
                Hangs | Shows(_) => while talk.more().await {},
                _ => {}
            }
        })
        .await
    }
}

impl Provider {
    async fn start(self) -> Server {
        match self {
            Self::Refuses => Server::refusing().await,
            Self::Answers => Server::answering("provider").await,
            Self::Closes => Server::start(|mut talk| async move { drop(talk.request().await) }).await,
            Self::Shows => {
                Server::start(|mut talk| async move {
                    while talk.request().await.is_some() {
                        talk.say("HTTP/1.1 503 No\r\nx-lunar-error: 2\r\nContent-Length: 8\r\n\r\nprovider")
                            .await;
                    }
                })
                .await
            }
        }
    }
}

/// What came of a request: what was seen, how often the provider got it, failures in the word; replayed, closed, provider failed.
type Came = (Seen, usize, u32, [u64; 3]);

async fn play(gateway: Gateway, provider: Provider, request: Request, mode: Mode) -> Came {
    let (gateways, providers) = (gateway.start().await, provider.start().await);
    let scene = Scene::with(gateways, providers, |setup| setup.replay = mode).await;
    let mut client = scene.connect().await;
    client.say(&request.text()).await;
    if gateway == Hangs {
        while scene.gateway.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        scene.open_word();
    }
    // Another request would be answered on the same connection; the end of this one shows how it went.
    let rest = match client.finish().await {
        Ok(rest) if rest.contains("provider") => Seen::Providers,
        Ok(rest) if rest.is_empty() => Seen::End,
        Ok(rest) => {
            assert_eq!(rest, gateway.answer());
            Seen::Gateways
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset);
            Seen::Reset
        }
    };
    drop(client);
    scene.settle().await;
    let executed = scene.provider.asked();
    for asked in &executed {
        assert!(request.text().ends_with(std::str::from_utf8(&asked.body).expect("text")));
        assert_eq!(asked.value("x-lunar-host"), None, "the provider gets what the application sent");
    }
    let counts = [Count::Replayed, Count::Closed, Count::ProviderFailed].map(|count| scene.count(count));
    assert_eq!(scene.count(Count::Gateway), u64::from(rest == Seen::Gateways || dies(gateway)));
    (rest, executed.len(), scene.failures().unwrap_or_default(), counts)
}

fn dies(gateway: Gateway) -> bool {
    matches!(gateway, DiesInTheBody | ResetsInTheBody)
}

const PASSED: Came = (Seen::Gateways, 0, 0, [0, 0, 0]);
const CLOSED: Came = (Seen::Reset, 0, 0, [0, 1, 0]);
const REPLAYED: Came = (Seen::Providers, 1, 1, [1, 0, 0]);

async fn table(gateway: Gateway, rows: [(Request, Came); 5]) {
    for (request, expected) in rows {
        let came = play(gateway, Provider::Answers, request, Mode::Safe).await;
        assert_eq!(came, expected, "{gateway:?} {request:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_refuses_costs_no_request() {
    let rows = [Get, Put, Post, LargePut, LargePost].map(|request| (request, REPLAYED));
    table(Refuses, rows).await;
}

#[tokio::test]
async fn a_gateway_that_dies_before_it_answers_costs_only_what_may_not_be_repeated() {
    for gateway in [Resets, Closes, DiesInTheHead] {
        table(
            gateway,
            [(Get, REPLAYED), (Put, REPLAYED), (Post, CLOSED), (LargePut, CLOSED), (LargePost, CLOSED)],
        )
        .await;
    }
}

#[tokio::test]
async fn a_gateway_that_hangs_is_given_up_when_the_failsafe_opens() {
    // The word has opened, so nothing is counted any more.
    let replayed = (Seen::Providers, 1, 0, [1, 0, 0]);
    table(Hangs, [(Get, replayed), (Put, replayed), (Post, CLOSED), (LargePut, CLOSED), (LargePost, CLOSED)])
        .await;
}

#[tokio::test]
async fn a_gateway_that_dies_within_the_body_lets_nobody_take_it_for_a_whole_one() {
    for gateway in [DiesInTheBody, ResetsInTheBody] {
        table(gateway, [Get, Put, Post, LargePut, LargePost].map(|request| (request, CLOSED))).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_understood_is_passed_where_nothing_else_may_be_done() {
    table(
        Babbles,
        [(Get, REPLAYED), (Put, REPLAYED), (Post, PASSED), (LargePut, PASSED), (LargePost, PASSED)],
    )
    .await;
}

#[tokio::test]
async fn the_gateways_own_codes_are_its_failures_and_every_whole_request_is_replayed() {
    for code in ["1", "10"] {
        let counted = (Seen::Gateways, 0, 1, [0, 0, 0]);
        table(
            Shows(code),
            [(Get, REPLAYED), (Put, REPLAYED), (Post, REPLAYED), (LargePut, counted), (LargePost, counted)],
        )
        .await;
    }
}

#[tokio::test]
async fn codes_by_which_the_request_never_arrived_replay_every_whole_request() {
    for code in ["2", "5"] {
        table(
            Shows(code),
            [(Get, REPLAYED), (Put, REPLAYED), (Post, REPLAYED), (LargePut, PASSED), (LargePost, PASSED)],
        )
        .await;
    }
}

#[tokio::test]
async fn other_codes_replay_only_what_may_be_repeated() {
    for code in ["3", "99", "none"] {
        table(
            Shows(code),
            [(Get, REPLAYED), (Put, REPLAYED), (Post, PASSED), (LargePut, PASSED), (LargePost, PASSED)],
        )
        .await;
    }
}

#[tokio::test]
async fn a_provider_that_fails_as_well_is_evidence_for_the_gateway() {
    for gateway in [Resets, Shows("2"), Shows("3")] {
        for (provider, seen, executed, failed) in [
            (Provider::Refuses, Seen::Reset, 0, 1),
            (Provider::Closes, Seen::End, 1, 1),
            (Provider::Shows, Seen::Providers, 1, 0),
        ] {
            let came = play(gateway, provider, Get, Mode::Safe).await;
            assert_eq!(came, (seen, executed, 0, [1, 0, failed]), "{gateway:?} {provider:?}");
        }
    }
    // Where the fault is certain, no evidence is needed.
    for gateway in [Refuses, Shows("10")] {
        let came = play(gateway, Provider::Refuses, Get, Mode::Safe).await;
        assert_eq!(came, (Seen::Reset, 0, 1, [1, 0, 1]), "{gateway:?}");
    }
}

#[tokio::test]
async fn other_modes_replay_less() {
    for (gateway, request, mode, expected) in [
        (Shows("2"), Post, Mode::Idempotent, PASSED),
        (Shows("2"), Get, Mode::Idempotent, REPLAYED),
        (Closes, Get, Mode::Never, CLOSED),
        (Shows("2"), Get, Mode::Never, PASSED),
        (Refuses, Post, Mode::Never, REPLAYED),
    ] {
        let came = play(gateway, Provider::Answers, request, mode).await;
        assert_eq!(came, expected, "{gateway:?} {request:?} {mode:?}");
    }
}

#[tokio::test]
async fn a_request_is_sent_again_as_often_as_the_gateway_asks() {
    let gateway = Server::start(|mut talk| async move {
        for nth in 0.. {
            if talk.request().await.is_none() {
                return;
            }
            let ask = format!(
                "HTTP/1.1 429 Later\r\nx-lunar-retry-after: 0.05\r\nx-lunar-sequence-id: s{nth}\r\n\
                 Content-Length: 2\r\n\r\nno"
            );
            talk.say(&if nth == 3 { ok("at last") } else { ask }).await;
        }
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    client.say(&Post.text()).await;
    client.hear(&ok("at last")).await;
    drop(client);
    scene.settle().await;
    let asked = scene.gateway.asked();
    let ids: Vec<_> = asked.iter().map(|asked| asked.value("x-lunar-sequence-id")).collect();
    assert_eq!(ids, [None, Some("s0"), Some("s1"), Some("s2")]);
    assert!(asked.iter().all(|again| again.body == b"xxxxx" && again.connection == 0));
    assert!(asked.iter().all(|again| again.value("x-lunar-req-id") == asked[0].value("x-lunar-req-id")));
    assert_eq!((scene.count(Count::Retried), scene.count(Count::Gateway)), (3, 1));
    assert_eq!(scene.failures(), Some(0));
}

/// A gateway closes what lies unused, and may do so in the moment in which a request comes.
#[tokio::test]
async fn a_stale_connection_is_nobodys_failure() {
    let gateway = Server::start(|mut talk| async move {
        talk.request().await;
        talk.say(&ok("first")).await;
        // The second request on a connection is not answered.
        if talk.connection < 2 {
            talk.head().await;
            talk.reset();
        } else {
            while talk.request().await.is_some() {
                talk.say(&ok("again")).await;
            }
        }
    });
    let scene = Scene::new(gateway.await, Server::answering("provider").await).await;
    let mut client = scene.connect().await;
    for expected in ["first", "first", "first", "again"] {
        client.say(&Get.text()).await;
        client.hear(&ok(expected)).await;
    }
    let connections: Vec<_> = scene.gateway.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [0, 1, 2, 2]);
    assert!(scene.provider.asked().is_empty());
    assert_eq!((scene.count(Count::Replayed), scene.failures()), (0, Some(0)));
}

#[tokio::test]
async fn a_connection_that_the_gateway_has_closed_is_not_used_even_for_a_post() {
    let gateway = Server::start(|mut talk| async move {
        talk.request().await;
        talk.say(&ok("one each")).await;
    });
    let scene = Scene::new(gateway.await, Server::refusing().await).await;
    let mut client = scene.connect().await;
    for _ in 0..5 {
        client.say(&Post.text()).await;
        client.hear(&ok("one each")).await;
        // The close arrives.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(scene.gateway.asked().len(), 5);
    assert_eq!(scene.failures(), Some(0));
}

#[tokio::test]
async fn an_application_that_goes_while_it_waits_is_nobodys_failure() {
    let scene = Scene::new(Hangs.start().await, Server::answering("provider").await).await;
    let mut client = scene.connect().await;
    client.say(&Get.text()).await;
    while scene.gateway.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    crate::relay::upstream::reset_on_drop(&client.stream);
    drop(client);
    scene.settle().await;
    assert!(scene.provider.asked().is_empty());
    assert_eq!(scene.failures(), Some(0));
}
