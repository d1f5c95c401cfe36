//! What RFC 9113 wants refused is refused, with a connection or a stream error, and the next connection works.

use std::collections::BTreeSet;

use super::{
    frames::{
        ACK, CONTINUATION, Came, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
        PRIORITISED, PRIORITY, PUSH_PROMISE, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, block, fields, frame,
        get, post,
    },
    scene::{Scene, Server},
};

const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
/// The library calls some wrong sizes a protocol error, which is as good an end.
const SIZES: &[u32] = &[SIZE, PROTOCOL];
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

/// What is to come.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// The connection ends with one of these errors, or without a word.
    Connection(&'static [u32]),
    /// The first stream is reset with one of these errors.
    Stream(&'static [u32]),
    /// Either.
    Either(&'static [u32]),
    /// The first stream is answered, and nothing else happens.
    Answer,
}

async fn scene() -> Scene {
    Scene::new(Server::echo("gateway").await, Server::echo("provider").await).await
}

async fn check(scene: &Scene, case: &str, bytes: Vec<u8>, wanted: Wanted) {
    let mut raw = Raw::greeted(scene.address).await;
    raw.send(&bytes).await;
    let ended = |came: Came, codes: &[u32]| match came {
        Came::End(code) => code.is_none_or(|code| codes.contains(&code)),
        _ => false,
    };
    let was_reset = |came: Came, codes: &[u32]| matches!(came, Came::Reset(1, code) if codes.contains(&code));
    let is_wanted = |came| match wanted {
        Wanted::Connection(codes) => ended(came, codes),
        Wanted::Stream(codes) => was_reset(came, codes),
        Wanted::Either(codes) => was_reset(came, codes) || ended(came, codes),
        Wanted::Answer => came == Came::Answer(1),
    };
    let came = raw.until(is_wanted).await;
    assert!(came.last().is_some_and(|came| is_wanted(*came)), "{case}: {wanted:?} was wanted, {came:?} came");
    if matches!(wanted, Wanted::Answer | Wanted::Stream(_)) {
        assert!(raw.sound().await, "{case}: the connection goes on");
    }
    works(scene, case).await;
}

/// The next connection works.
async fn works(scene: &Scene, after: &str) {
    let mut raw = Raw::greeted(scene.address).await;
    raw.send(get(1)).await;
    assert_eq!(raw.until(|came| came == Came::Answer(1)).await, [Came::Answer(1)], "after {after}");
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

fn setting(name: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn priority(on: u32) -> Vec<u8> {
    [&on.to_be_bytes()[..], &[16]].concat()
}

#[tokio::test]
async fn a_damaged_preface_ends_the_connection() {
    let scene = scene().await;
    let mut damaged = PREFACE.to_vec();
    damaged[23] = b'X';
    for (case, bytes) in [
        ("a damaged preface", damaged),
        ("HTTP/1.1 behind it", [PREFACE, b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"].concat()),
    ] {
        let mut raw = Raw::connect(scene.address).await;
        raw.send(bytes).await;
        let came = raw.until(|_| false).await;
        assert!(matches!(came[..], [Came::End(None | Some(PROTOCOL | SIZE))]), "{case}: {came:?}");
        works(&scene, case).await;
    }
}

#[tokio::test]
async fn frames_of_a_wrong_size_or_on_a_wrong_stream_are_refused() {
    use Wanted::{Answer, Connection, Either};
    let scene = scene().await;
    let large = vec![0; 16_385];
    for (case, bytes, wanted) in [
        ("a frame that is too large", frame(DATA, 0, 1, &large), Connection(SIZES)),
        ("headers that are too large", frame(HEADERS, END_HEADERS, 1, &large), Connection(SIZES)),
        ("settings cut short", frame(SETTINGS, 0, 0, [0; 5]), Connection(SIZES)),
        ("settings that confirm and say", frame(SETTINGS, ACK, 0, [0; 6]), Connection(SIZES)),
        ("settings on a stream", frame(SETTINGS, 0, 1, []), Connection(&[PROTOCOL])),
        ("a window that is too large", setting(4, 1 << 31), Connection(&[FLOW, PROTOCOL])),
        ("a frame size that is too small", setting(5, 1), Connection(&[PROTOCOL])),
        ("push neither on nor off", setting(2, 2), Connection(&[PROTOCOL])),
        ("a short ping", frame(PING, 0, 0, [0; 7]), Connection(SIZES)),
        ("a ping on a stream", frame(PING, 0, 1, [0; 8]), Connection(&[PROTOCOL])),
        (
            "headers on no stream",
            frame(HEADERS, END_HEADERS, 0, block(&fields("GET", &[]))),
            Connection(&[PROTOCOL]),
        ),
        ("data on no stream", frame(DATA, 0, 0, b"x"), Connection(&[PROTOCOL])),
        ("an even stream", get(2), Connection(&[PROTOCOL])),
        ("a stream behind a later one", [get(5), get(3)].concat(), Connection(&[PROTOCOL, CLOSED])),
        ("data on an idle stream", frame(DATA, END_STREAM, 1, b"x"), Connection(&[PROTOCOL, CLOSED])),
        ("data on a closed stream", [get(1), frame(DATA, 0, 1, b"x")].concat(), Either(&[CLOSED, PROTOCOL])),
        ("headers on a half-closed stream", [get(1), get(1)].concat(), Either(&[CLOSED, PROTOCOL])),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, [0; 4]), Connection(&[PROTOCOL])),
        ("a reset of no stream", frame(RST_STREAM, 0, 0, [0; 4]), Connection(&[PROTOCOL])),
        ("a short reset", [post(1, &[]), frame(RST_STREAM, 0, 1, [0; 3])].concat(), Connection(SIZES)),
        (
            "a push from an application",
            frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2]),
            Connection(&[PROTOCOL]),
        ),
        ("a GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), Connection(&[PROTOCOL])),
        ("a short priority", frame(PRIORITY, 0, 1, [0; 4]), Either(SIZES)),
        ("a priority on no stream", frame(PRIORITY, 0, 0, priority(3)), Connection(&[PROTOCOL])),
        (
            "padding longer than the frame",
            [post(1, &[]), frame(DATA, PADDED, 1, [9, 1])].concat(),
            Connection(&[PROTOCOL]),
        ),
        ("a kind that does not exist", [frame(0x77, 0xff, 0, b"what"), get(1)].concat(), Answer),
        ("a setting that does not exist", [setting(0x77, 1), get(1)].concat(), Answer),
    ] {
        check(&scene, case, bytes, wanted).await;
    }
}

#[tokio::test]
async fn a_head_in_pieces_stays_together() {
    use Wanted::{Answer, Connection};
    let scene = scene().await;
    let whole = block(&fields("GET", &[]));
    let (first, rest) = whole.split_at(20);
    let begun = frame(HEADERS, END_STREAM, 1, first);
    for (case, bytes, wanted) in [
        ("in two pieces", [&begun[..], &frame(CONTINUATION, END_HEADERS, 1, rest)].concat(), Answer),
        ("with a ping within", [&begun[..], &frame(PING, 0, 0, [0; 8])].concat(), Connection(&[PROTOCOL])),
        ("with another head within", [&begun[..], &get(3)].concat(), Connection(&[PROTOCOL])),
        (
            "with another stream's piece",
            [&begun[..], &frame(CONTINUATION, END_HEADERS, 3, rest)].concat(),
            Connection(&[PROTOCOL]),
        ),
        ("a piece of nothing", frame(CONTINUATION, END_HEADERS, 1, rest), Connection(&[PROTOCOL])),
        (
            "a piece behind a whole one",
            [post(1, &[]), frame(CONTINUATION, END_HEADERS, 1, rest)].concat(),
            Connection(&[PROTOCOL]),
        ),
        (
            "an index into nothing",
            frame(HEADERS, END_HEADERS, 1, [0xff, 0x7f]),
            Connection(&[COMPRESSION, PROTOCOL]),
        ),
        (
            "a name cut short",
            frame(HEADERS, END_HEADERS, 1, [0, 9, b'x']),
            Connection(&[COMPRESSION, PROTOCOL]),
        ),
    ] {
        check(&scene, case, bytes, wanted).await;
    }
}

#[tokio::test]
async fn malformed_requests_are_reset_and_reach_nobody() {
    let scene = scene().await;
    let mut asked = 0;
    let late =
        [(":method", "GET"), (":scheme", "http"), ("x", "y"), (":authority", "a.example"), (":path", "/")];
    let without = |name: &str| -> Vec<_> {
        fields("GET", &[]).into_iter().filter(|(other, _)| *other != name).collect()
    };
    let with = |name, value| fields("GET", &[(name, value)]);
    for (case, list) in [
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("an empty path", [without(":path"), vec![(":path", "")]].concat()),
        ("two paths", with(":path", "/other")),
        ("two methods", with(":method", "POST")),
        ("two authorities", with(":authority", "b.example")),
        ("a late pseudo-header", late.to_vec()),
        ("one that does not exist", with(":what", "x")),
        ("a status", with(":status", "200")),
        ("a name in upper case", with("X-Upper", "x")),
        ("a connection header", with("connection", "close")),
        ("a keep-alive header", with("keep-alive", "timeout=5")),
        ("a transfer encoding", with("transfer-encoding", "chunked")),
        ("an upgrade", with("upgrade", "websocket")),
        ("a te that is not trailers", with("te", "gzip")),
        ("a name with a space", with("a b", "x")),
        ("a value with a line break", with("x", "a\r\nb: c")),
        ("an empty name", with("", "x")),
    ] {
        let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&list));
        check(&scene, case, bytes, Wanted::Either(&[PROTOCOL])).await;
        asked += 1;
        assert_eq!((scene.gateway.seen().len(), scene.provider.seen().len()), (asked, 0), "{case}");
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_it_says_is_broken_off() {
    use Wanted::{Answer, Stream};
    let scene = scene().await;
    let five = &[("content-length", "5")];
    for (case, bytes, wanted) in [
        ("as it says", [post(1, five), frame(DATA, END_STREAM, 1, b"hello")].concat(), Answer),
        ("too long", [post(1, five), frame(DATA, END_STREAM, 1, b"hello!")].concat(), Stream(&[PROTOCOL])),
        ("too short", [post(1, five), frame(DATA, END_STREAM, 1, b"hell")].concat(), Stream(&[PROTOCOL])),
        (
            "trailers too early",
            [post(1, five), frame(HEADERS, END_HEADERS | END_STREAM, 1, block(&[("x", "y")]))].concat(),
            Stream(&[PROTOCOL]),
        ),
        (
            "trailers that do not end it",
            [post(1, &[]), frame(HEADERS, END_HEADERS, 1, block(&[("x", "y")]))].concat(),
            Wanted::Either(&[PROTOCOL]),
        ),
    ] {
        check(&scene, case, bytes, wanted).await;
    }
}

#[tokio::test]
async fn windows_and_dependencies_are_held_to() {
    use Wanted::{Connection, Either, Stream};
    let scene = scene().await;
    let most = (1 << 31) - 1;
    let depends = |on: u32| [priority(on), block(&fields("GET", &[]))].concat();
    let flags = END_HEADERS | END_STREAM | PRIORITISED;
    for (case, bytes, wanted) in [
        ("no more of the connection", window(0, 0), Connection(&[PROTOCOL])),
        ("no more of a stream", [post(1, &[]), window(1, 0)].concat(), Either(&[PROTOCOL])),
        ("more than a connection has", window(0, most), Connection(&[FLOW])),
        ("more than a stream has", [post(1, &[]), window(1, most)].concat(), Stream(&[FLOW])),
        ("a short window", frame(WINDOW_UPDATE, 0, 0, [0; 3]), Connection(SIZES)),
        ("the window of an idle stream", window(1, 1), Connection(&[PROTOCOL])),
        (
            "more through the settings than a stream has",
            [setting(4, most), post(1, &[]), window(1, 1)].concat(),
            Either(&[FLOW]),
        ),
        ("a stream that depends on itself", frame(HEADERS, flags, 1, depends(1)), Either(&[PROTOCOL])),
        ("one that depends on another", frame(HEADERS, flags, 1, depends(3)), Wanted::Answer),
    ] {
        check(&scene, case, bytes, wanted).await;
    }
}

#[tokio::test]
async fn floods_are_ended_or_outlived() {
    let scene = scene().await;
    let calm = &[CALM, PROTOCOL, COMPRESSION, SIZE];
    let begun = frame(HEADERS, 0, 1, block(&fields("GET", &[])));
    let empty = frame(CONTINUATION, 0, 1, []).repeat(100_000);
    let full = frame(CONTINUATION, 0, 1, block(&[("x", &"y".repeat(16_000))])).repeat(1_000);
    check(&scene, "pieces of a head without end", [&begun[..], &full].concat(), Wanted::Connection(calm))
        .await;
    check(&scene, "empty pieces of a head", [begun, empty].concat(), Wanted::Connection(calm)).await;
    let resets: Vec<u8> = (0..20_000)
        .flat_map(|nth| [get(nth * 2 + 1), frame(RST_STREAM, 0, nth * 2 + 1, [0, 0, 0, 8])].concat())
        .collect();
    let mut raw = Raw::greeted(scene.address).await;
    raw.send(&resets).await;
    let last = raw.until(|_| false).await.pop();
    assert!(matches!(last, Some(Came::End(None | Some(CALM)))), "{last:?}");
    works(&scene, "requests that are given up at once").await;
    let data = frame(DATA, 0, 1, []).repeat(200_000);
    check(&scene, "empty data", [post(1, &[]), data].concat(), Wanted::Connection(calm)).await;
    let behind = |flood: Vec<u8>| [flood, get(1)].concat();
    let pings = frame(PING, 0, 0, [7; 8]).repeat(20_000);
    check(&scene, "pings", behind(pings), Wanted::Answer).await;
    let settings = frame(SETTINGS, 0, 0, []).repeat(20_000);
    check(&scene, "settings", behind(settings), Wanted::Answer).await;
    scene.at_rest().await;
}

#[tokio::test]
async fn more_streams_than_are_taken_are_refused_and_the_others_go_on() {
    let scene = scene().await;
    let mut raw = Raw::greeted(scene.address).await;
    // Each is answered, and stays open since its body does.
    let mut bytes: Vec<u8> = (0..100).flat_map(|nth| post(nth * 2 + 1, &[])).collect();
    bytes.extend(post(201, &[]));
    raw.send(bytes).await;
    let mut open: BTreeSet<u32> = (0..100).map(|nth| nth * 2 + 1).collect();
    let mut refused = false;
    while !open.is_empty() || !refused {
        match raw.until(|_| true).await[..] {
            [Came::Answer(stream)] => assert!(open.remove(&stream), "{stream}"),
            [Came::Reset(201, REFUSED)] => refused = true,
            ref other => panic!("{other:?} came"),
        }
    }
}

#[tokio::test]
async fn a_head_beyond_every_limit_is_refused_and_one_beyond_ours_goes_direct() {
    let scene = scene().await;
    let value = "y".repeat(15_000);
    let head = |pieces: usize| {
        let mut bytes = frame(HEADERS, END_STREAM, 1, block(&fields("GET", &[])));
        for _ in 0..pieces {
            bytes.extend(frame(CONTINUATION, 0, 1, block(&[("x-large", &value)])));
        }
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, []));
        bytes
    };
    check(&scene, "100 KiB", head(7), Wanted::Answer).await;
    assert_eq!((scene.gateway.seen().len(), scene.provider.seen().len()), (1, 1));
    let mut raw = Raw::greeted(scene.address).await;
    raw.send(head(30)).await;
    let came = raw.until(|came| came == Came::Answer(1)).await;
    assert!(matches!(came[..], [Came::Answer(1) | Came::End(_)]), "431, or the end: {came:?}");
    assert_eq!((scene.gateway.seen().len(), scene.provider.seen().len()), (1, 1), "nobody was asked");
    works(&scene, "450 KiB").await;
}

#[tokio::test]
async fn an_application_that_goes_away_still_gets_its_answer() {
    let scene = scene().await;
    let mut raw = Raw::greeted(scene.address).await;
    raw.send([post(1, &[]), frame(GOAWAY, 0, 0, [0; 8]), frame(DATA, END_STREAM, 1, b"hello")].concat())
        .await;
    let came = raw.until(|_| false).await;
    assert!(matches!(came[..], [Came::Answer(1), Came::End(None | Some(0))]), "{came:?}");
    works(&scene, "a GOAWAY").await;
}
