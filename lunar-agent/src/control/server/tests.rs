//! Both ends of the control socket against a peer that says anything. The server's `client` runs as it does in an
//! agent, over a real socket; what would have been done is noted and not done.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;

use proptest::prelude::*;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{
        client::{AskError, ask},
        policy::{Change, Entry, Explained, HostPort, Known, List, Resolution, Step, View, Wants},
        status::{Gateway, Losses, Status},
    },
    *,
};

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![Just(Change::Allow), Just(Change::Block), Just(Change::Remove)]
}

fn any_host() -> impl Strategy<Value = HostPort> {
    let addresses = proptest::collection::vec(any::<IpAddr>(), 0..4);
    (any::<Option<String>>(), addresses, any::<u16>()).prop_map(|(name, addresses, port)| HostPort {
        name,
        addresses,
        port,
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let texts = || proptest::collection::vec(any::<String>(), 0..4);
    prop_oneof![
        Just(Request::Status {}),
        Just(Request::Reload {}),
        texts().prop_map(|selectors| Request::Attach { selectors }),
        texts().prop_map(|selectors| Request::Detach { selectors }),
        any::<String>().prop_map(|containing| Request::Policy { containing }),
        (any_change(), texts()).prop_map(|(change, entries)| Request::ChangePolicy { change, entries }),
        any_host().prop_map(|host| Request::TestPolicy { host }),
        (any::<String>(), any_host()).prop_map(|(target, host)| Request::Explain { target, host }),
    ]
}

fn status() -> Status {
    let gateway = Gateway {
        handoff: "original-dst".into(),
        tls: "direct".into(),
        forced: None,
        dry_run: false,
        endpoints: Vec::new(),
        problems: vec!["ü".into()],
    };
    Status {
        agent: Default::default(),
        gateway,
        policy: Default::default(),
        targets: Vec::new(),
        relay: None,
        losses: Losses::default(),
        dns: Default::default(),
    }
}

fn any_known() -> impl Strategy<Value = Known> {
    let figures = (any::<Option<u64>>(), any::<u64>());
    (any::<IpAddr>(), any::<Option<String>>(), any::<String>(), figures).prop_map(
        |(address, name, from, (age_ms, expires_in_ms))| Known { address, name, from, age_ms, expires_in_ms },
    )
}

fn any_resolution() -> impl Strategy<Value = Resolution> {
    let times = (any::<Option<u64>>(), any::<Option<u64>>());
    (times, any::<Option<String>>(), any::<u32>(), any::<bool>()).prop_map(
        |((answered_ms, next_in_ms), failure, failures, in_use)| Resolution {
            answered_ms,
            next_in_ms,
            failure,
            failures,
            in_use,
        },
    )
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let list = prop_oneof![Just(List::Allow), Just(List::Block)];
    let addresses = proptest::collection::vec(any_known(), 0..3);
    let figures = (any::<Option<u64>>(), any::<Option<usize>>());
    let texts = (any::<String>(), any::<String>());
    (list, texts, figures, addresses, proptest::option::of(any_resolution())).prop_map(
        |(list, (entry, source), (hits, known), addresses, resolution)| Entry {
            list,
            entry,
            source,
            hits,
            known,
            addresses,
            resolution,
        },
    )
}

fn any_view() -> impl Strategy<Value = View> {
    let wants = prop_oneof![Just(Wants::Everything), Just(Wants::Listed)];
    let ports = proptest::collection::vec(any::<u16>(), 0..4);
    let entries = proptest::collection::vec(any_entry(), 0..3);
    (wants, ports, any::<String>(), any::<bool>(), any::<usize>(), entries).prop_map(
        |(wants, ports, quic, dry_run, count, entries)| View { wants, ports, quic, dry_run, count, entries },
    )
}

fn any_explained() -> impl Strategy<Value = Explained> {
    let step = (any::<String>(), any::<String>()).prop_map(|(question, answer)| Step { question, answer });
    let steps = proptest::collection::vec(step, 0..4);
    (any::<Option<IpAddr>>(), any::<String>(), any::<bool>(), steps)
        .prop_map(|(address, reason, redirected, steps)| Explained { address, reason, redirected, steps })
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let lines = || proptest::collection::vec(any::<String>(), 0..4);
    prop_oneof![
        Just(Answer::Status(Box::new(status()))),
        any_view().prop_map(|view| Answer::Policy(Box::new(view))),
        proptest::collection::vec(any_explained(), 0..3).prop_map(Answer::Explained),
        lines().prop_map(Answer::Done),
        (lines(), any::<String>(), any::<bool>()).prop_map(|(done, reason, usage)| Answer::Refused {
            done,
            reason,
            usage
        }),
    ]
}

/// A message's bytes and what becomes of them on the way.
fn garbled(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    (message, 0..7u8, any::<usize>(), bytes(64)).prop_map(|(json, how, at, noise)| {
        let mut frame = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(json);
        let place = at % frame.len();
        match how {
            // As it is.
            0 => {}
            // Half a message.
            1 => frame.truncate(place),
            // Other bytes from somewhere on: often in the JSON, sometimes in the length.
            2 => frame.splice(place.., noise).for_each(drop),
            3 => frame[place] ^= 1 << (at >> 8 & 7),
            // More than is due.
            4 => frame.extend(noise),
            // A length of its own, with other bytes behind it.
            5 => frame[..4].copy_from_slice(&(at as u32).to_be_bytes()),
            _ => frame = noise,
        }
        frame
    })
}

fn json<T: Serialize>(message: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<u8>> {
    message.prop_map(|m| serde_json::to_vec(&m).unwrap())
}

/// What the first frame of `sent` asks for, if it is whole and a request.
fn meant(sent: &[u8]) -> Option<Request> {
    let (length, rest) = sent.split_first_chunk::<4>()?;
    serde_json::from_slice(rest.get(..u32::from_be_bytes(*length) as usize)?).ok()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Lets the server serve one client that sends these bytes and then nothing more: what was asked of the agent, and all
/// that came back.
async fn serve_one(sent: &[u8]) -> (Option<Request>, Vec<u8>) {
    serve_one_with(sent, Answer::Done(vec!["noted".into()])).await
}

/// The same with an agent that answers this.
async fn serve_one_with(sent: &[u8], said: Answer) -> (Option<Request>, Vec<u8>) {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    theirs.write_all(sent).await.unwrap();
    theirs.shutdown().await.unwrap();
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let agent = async {
        let (request, answer) = asked.recv().await?;
        drop(answer.send(said));
        Some(request)
    };
    let mut heard = Vec::new();
    // One that was dropped with bytes unread resets; nothing was said then.
    let (_, request, _) = tokio::join!(client(ours, asks, place), agent, theirs.read_to_end(&mut heard));
    (request, heard)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    /// Nothing is done but what a whole request says; and whatever is answered is an answer.
    #[test]
    fn a_client_that_says_anything_gets_at_most_an_answer(sent in garbled(json(any_request()))) {
        let runtime = runtime();
        let (asked, said) = runtime.block_on(serve_one(&sent));
        prop_assert_eq!(format!("{asked:?}"), format!("{:?}", meant(&sent)));
        if let Some((length, answer)) = said.split_first_chunk::<4>() {
            prop_assert_eq!(u32::from_be_bytes(*length) as usize, answer.len());
            let answer: Answer = serde_json::from_slice(answer).unwrap();
            let expected = match asked {
                Some(_) => matches!(answer, Answer::Done(_)),
                None => matches!(answer, Answer::Refused { usage: true, .. }),
            };
            prop_assert!(expected, "{answer:?}");
        } else {
            prop_assert!(said.is_empty() && asked.is_none(), "{said:?} to {asked:?}");
        }
    }

    /// The command line's end, told anything by what it takes for an agent, has an answer or a sentence.
    #[test]
    fn an_agent_that_says_anything_is_understood_or_named(sent in garbled(json(any_answer()))) {
        let asked = runtime().block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let listener = UnixListener::bind(&path).unwrap();
            let agent = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The client may have heard enough before all is said.
                let _ = stream.write_all(&sent).await;
                let _ = stream.shutdown().await;
                let mut request = Vec::new();
                let _ = stream.read_to_end(&mut request).await;
            };
            let (asked, ()) = tokio::join!(ask(&path, &Request::Status {}), agent);
            asked
        });
        match asked {
            Ok(answer) => prop_assert!(serde_json::to_vec(&answer).is_ok()),
            Err(AskError::NoAnswer { reason, .. }) => prop_assert!(!reason.is_empty()),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn decoding_never_panics(bytes in garbled(json(any_answer())), text in any::<String>()) {
        for given in [&bytes[..], bytes.get(4..).unwrap_or_default(), text.as_bytes()] {
            let _ = (serde_json::from_slice::<Request>(given), serde_json::from_slice::<Answer>(given));
        }
    }
}

/// A client that gets no answer would not know why.
#[test]
fn an_answer_that_is_too_long_is_a_sentence() {
    let ask = serde_json::to_vec(&Request::Policy { containing: String::new() }).unwrap();
    let frame = [&u32::try_from(ask.len()).unwrap().to_be_bytes(), &ask[..]].concat();
    for (length, whole) in [(MAX_MESSAGE - 100, true), (MAX_MESSAGE, false)] {
        let long = Answer::Done(vec!["x".repeat(length)]);
        let (_, heard) = runtime().block_on(serve_one_with(&frame, long));
        let answer: Answer = serde_json::from_slice(&heard[4..]).unwrap();
        match answer {
            Answer::Done(lines) => assert!(whole && lines[0].len() == length, "{length}"),
            Answer::Refused { reason, usage, .. } => {
                assert!(!whole && !usage && reason.contains("fit into one: ask for less, as"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Deep nesting ends before the stack does.
#[test]
fn depth_has_an_end() {
    for text in ["[".repeat(1 << 16), "{\"attach\":".repeat(1 << 14)] {
        let frame = [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
        let (asked, said) = runtime().block_on(serve_one(&frame));
        let said = String::from_utf8(said[4..].to_vec()).unwrap();
        assert!(asked.is_none() && said.contains("not a request that this agent knows"), "{said}");
    }
}
