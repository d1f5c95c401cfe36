//! Bodies, whole, sliced, malformed.

use super::*;
use Malformed::{Extension, LineEnd, Size, Trailer};
use Progress::{More, Over};
use proptest::prelude::*;

const LIMITS: Limits = Limits { bytes: 200, headers: 3 };
/// So that what is random meets them too.
const TIGHT: Limits = Limits { bytes: 15, headers: 2 };

fn scan(framing: Framing, bytes: impl AsRef<[u8]>) -> Scanned {
    BodyScanner::new(framing, LIMITS).scan(bytes.as_ref())
}

/// All bytes at once, with tight limits.
fn tightly(framing: Framing, bytes: &[u8]) -> Scanned {
    BodyScanner::new(framing, TIGHT).scan(bytes)
}

/// The same, in slices of these lengths, and the last one the rest.
fn sliced(framing: Framing, bytes: &[u8], lengths: &[usize]) -> Scanned {
    let mut scanner = BodyScanner::new(framing, TIGHT);
    let (mut taken, mut rest, mut lengths) = (0, bytes, lengths.iter());
    loop {
        let slice = &rest[..lengths.next().map_or(rest.len(), |&length| length.min(rest.len()))];
        let scanned = scanner.scan(slice);
        taken += scanned.taken;
        rest = &rest[slice.len()..];
        if scanned.state != More || rest.is_empty() {
            assert_eq!(scanner.over(), scanned.state == Over);
            return Scanned { taken, ..scanned };
        }
        assert_eq!(scanned.taken, slice.len(), "more is wanted only when all was taken");
    }
}

#[test]
fn bodies_without_chunks() {
    for (framing, bytes, taken, state) in [
        (Framing::None, "", 0, Over),
        (Framing::None, "GET", 0, Over),
        (Framing::Length(0), "", 0, Over),
        (Framing::Length(0), "GET", 0, Over),
        (Framing::Length(5), "abcd", 4, More),
        (Framing::Length(5), "abcde", 5, Over),
        (Framing::Length(5), "abcdeGET", 5, Over),
        (Framing::Length(u64::MAX), "abc", 3, More),
        (Framing::UntilClose, "abc", 3, More),
        (Framing::UntilClose, "", 0, More),
    ] {
        assert_eq!(scan(framing, bytes), Scanned { taken, state }, "{framing:?} {bytes}");
    }
    assert!(
        BodyScanner::new(Framing::None, LIMITS).over()
            && !BodyScanner::new(Framing::Length(1), LIMITS).over()
    );
}

#[test]
fn chunks_that_are_well_formed() {
    let extension = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(MAX_EXTENSION - 1));
    for body in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "3\r\n\r\n0\r\n0\r\n\r\n",
        "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "0000000000000001\r\na\r\n0000\r\n\r\n",
        "1;name=value;other=\"a b; c\"\r\na\r\n0;last\r\n\r\n",
        "1 ; name\r\na\r\n0\r\n\r\n",
        "1  \t\r\na\r\n0 \r\n\r\n",
        "0\r\nExpires: never\r\nX!-y:\r\nz:\t\u{fc} \r\n\r\n",
        &extension,
    ] {
        let next = format!("{body}HTTP/1.1");
        assert_eq!(scan(Framing::Chunked, &next), Scanned { taken: body.len(), state: Over }, "{body:?}");
        for cut in 0..body.len() {
            assert_eq!(
                scan(Framing::Chunked, &body.as_bytes()[..cut]),
                Scanned { taken: cut, state: More },
                "{body:?}"
            );
        }
    }
    let most = "ffffffffffffffff\r\nabc";
    assert_eq!(scan(Framing::Chunked, most), Scanned { taken: most.len(), state: More });
}

#[test]
fn chunks_that_are_malformed() {
    let extension = format!("1;{}|e", "e".repeat(MAX_EXTENSION - 1));
    let long = format!("0\r\na:{}|b", "b".repeat(LIMITS.bytes - 2));
    // What comes before `|` is taken, the byte behind it is not.
    for (body, why) in [
        ("|\r\n", Size),
        ("|;a\r\n", Size),
        ("|+1\r\n", Size),
        ("|-1\r\n", Size),
        ("| 1\r\n", Size),
        ("0|x1\r\n", Size),
        ("1|_0\r\n", Size),
        ("1|g\r\n", Size),
        ("1 |1\r\n", Size),
        ("1|,\r\n", Size),
        ("0000000000000000|1\r\n", Size),
        ("1|\na\r\n", LineEnd),
        ("1\r|a", LineEnd),
        ("1\r|\ra", LineEnd),
        ("1 |\n", LineEnd),
        ("1;a|\nb\r\n", LineEnd),
        ("1;a\r|b\r\n", LineEnd),
        ("1;a|\0\r\n", Extension),
        ("1;a|\x7f\r\n", Extension),
        (&extension, Extension),
        ("1\r\na|b\r\n", LineEnd),
        ("1\r\na|\n", LineEnd),
        ("1\r\na\r|0\r\n", LineEnd),
        ("1\r\na\r\n|\r\n0\r\n\r\n", Size),
        ("0\r\n|\n", Trailer),
        ("0\r\n\r|a", LineEnd),
        ("0\r\n|:b\r\n", Trailer),
        ("0\r\na|\r\n", Trailer),
        ("0\r\na| : b\r\n", Trailer),
        ("0\r\n| a: b\r\n", Trailer),
        ("0\r\na: b\r\n| c\r\n", Trailer),
        ("0\r\na|\u{fc}: b\r\n", Trailer),
        ("0\r\na: b|\nc: d\r\n", LineEnd),
        ("0\r\na: b\r|c: d\r\n", LineEnd),
        ("0\r\na: b|\0\r\n", Trailer),
        ("0\r\na: b|\x1f\r\n", Trailer),
        ("0\r\na:b\r\na:b\r\na:b\r\n|a:b\r\n", Trailer),
        (&long, Trailer),
    ] {
        let (taken, rest) = body.split_once('|').unwrap();
        let expected = Scanned { taken: taken.len(), state: Progress::Malformed(why) };
        assert_eq!(scan(Framing::Chunked, format!("{taken}{rest}")), expected, "{body:?}");
    }
}

#[test]
fn a_trailer_of_ours_is_malformed_in_a_request_however_it_comes() {
    for (name, forged) in [
        ("x-lunar-host", true),
        ("X-LUNAR-Allow", true),
        ("x-lunar-", true),
        ("x-lunar-consumer-tagg", true),
        ("x-lunar-consumer-ta", true),
        ("x-lunar-consumer-tag-of-somebody", true),
        ("X-Lunar-Consumer-Tag", false),
        ("x-lunar", false),
        ("y-x-lunar-host", false),
        ("a", false),
    ] {
        let before = format!("0\r\nx-lunar-consumer-tag: t\r\n{name}");
        let body = format!("{before}: v\r\n\r\n");
        let expected = match forged {
            true => Scanned { taken: before.len(), state: Progress::Malformed(Trailer) },
            false => Scanned { taken: body.len(), state: Over },
        };
        let whole = BodyScanner::of_request(Framing::Chunked, Limits { bytes: 1 << 10, headers: 10 })
            .scan(body.as_bytes());
        assert_eq!(whole, expected, "{name}");
        let mut scanner = BodyScanner::of_request(Framing::Chunked, Limits { bytes: 1 << 10, headers: 10 });
        let bytes = body.as_bytes().iter();
        let taken: usize = bytes.map(|byte| scanner.scan(&[*byte]).taken).sum();
        assert_eq!(taken, expected.taken, "{name}, byte by byte");
        let answers =
            BodyScanner::new(Framing::Chunked, Limits { bytes: 1 << 10, headers: 10 }).scan(body.as_bytes());
        assert_eq!(answers, Scanned { taken: body.len(), state: Over }, "{name}, in an answer");
    }
}

#[test]
fn nothing_follows_what_is_malformed() {
    let mut scanner = BodyScanner::new(Framing::Chunked, LIMITS);
    let malformed = scanner.scan(b"x");
    assert_eq!(malformed, Scanned { taken: 0, state: Progress::Malformed(Size) });
    assert_eq!(scanner.scan(b"0\r\n\r\n"), malformed);
}

fn framings() -> impl Strategy<Value = Framing> {
    let length = (0_u64..40).prop_map(Framing::Length);
    prop_oneof![
        Just(Framing::None),
        Just(Framing::UntilClose),
        length,
        Just(Framing::Chunked),
        Just(Framing::Chunked)
    ]
}

/// Chunks of data that looks like chunks.
fn chunked() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let chunk = (
        proptest::collection::vec(proptest::sample::select(&b"\r\n01a;: "[..]), 1..20),
        "(;[a-z=\"]{0,5})?",
        any::<bool>(),
    );
    (proptest::collection::vec(chunk, 0..5), "([a-z]{1,3}:[ -~]{0,5}\r\n){0,3}").prop_map(
        |(chunks, trailers)| {
            let (mut text, mut data) = (Vec::new(), Vec::new());
            for (content, extension, zeros) in chunks {
                let zeros = if zeros { "000" } else { "" };
                text.extend(format!("{zeros}{:x}{extension}\r\n", content.len()).into_bytes());
                text.extend(&content);
                text.extend(b"\r\n");
                data.extend(content);
            }
            text.extend(format!("0\r\n{trailers}\r\n").into_bytes());
            (text, data)
        },
    )
}

/// The data of chunks, by `httparse`.
fn data(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(rest) else {
            return None;
        };
        rest = &rest[line..];
        if size == 0 {
            return Some(data);
        }
        let size = usize::try_from(size).ok()?;
        data.extend(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn slices_make_no_difference(
        framing in framings(),
        (mut bytes, _) in chunked(),
        spoilt in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        lengths in proptest::collection::vec(0_usize..6, 0..60),
        behind in "[a-z0-9\r\n]{0,6}",
    ) {
        if let Some((at, byte)) = spoilt {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(behind.bytes());
        let expected = tightly(framing, &bytes);
        prop_assert_eq!(sliced(framing, &bytes, &lengths), expected);
        prop_assert_eq!(sliced(framing, &bytes, &vec![1; bytes.len()]), expected);
    }

    #[test]
    fn chunks_end_where_they_end(
        (bytes, content) in chunked(),
        behind in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let all = [&bytes[..], &behind].concat();
        prop_assert_eq!(scan(Framing::Chunked, &all), Scanned { taken: bytes.len(), state: Over });
        prop_assert_eq!(data(&all), Some(content));
    }

    #[test]
    fn what_is_over_is_over_for_httparse_too(
        (mut bytes, _) in chunked(),
        spoilt in proptest::collection::vec((any::<prop::sample::Index>(), r"[\r\n0-9a-f;+ ]"), 0..3),
    ) {
        for (at, byte) in spoilt {
            let at = at.index(bytes.len());
            bytes[at] = byte.as_bytes()[0];
        }
        let scanned = scan(Framing::Chunked, &bytes);
        if scanned.state == Over {
            prop_assert!(data(&bytes[..scanned.taken]).is_some(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(framing in framings(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        prop_assert!(scan(framing, &bytes).taken <= bytes.len());
    }
}
