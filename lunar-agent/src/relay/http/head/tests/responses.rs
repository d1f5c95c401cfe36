//! Responses.

use super::*;
use NotUnderstood::{
    EmptyLine, Encoding, InterimBody, Length, LengthAndEncoding, LineEnd, Status, Syntax, Upgrade,
};
use httparse::Error;
use std::time::Duration;

const PLAIN: ResponseTo = ResponseTo { head: false, upgrade: false };

fn read(text: &str, to: ResponseTo) -> Result<Option<ResponseHead>, NotUnderstood> {
    read_response(text.as_bytes(), LIMITS, to, &["x-lunar-error".parse().unwrap()])
}

fn response(line: &str, lines: &str) -> ResponseHead {
    let text = format!("{line}\r\n{lines}\r\n");
    read(&text, PLAIN).unwrap_or_else(|e| panic!("{text:?}: {e}")).unwrap_or_else(|| panic!("{text:?}"))
}

#[test]
fn the_facts_of_a_plain_response() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let expected = ResponseHead {
        length: text.len() - 2,
        version: Version::Http11,
        status: 200,
        framing: Framing::Length(2),
        persists: true,
        keep_alive: false,
        error_code: None,
        retry: None,
        indicated: false,
    };
    assert_eq!(read(text, PLAIN), Ok(Some(expected)));
}

#[test]
fn how_a_body_ends_and_whether_the_connection_goes_on() {
    let head = ResponseTo { head: true, upgrade: false };
    let upgrade = ResponseTo { head: false, upgrade: true };
    for (status, lines, to, framing, persists) in [
        ("1.1 200", "Content-Length: 7\r\n", PLAIN, Framing::Length(7), true),
        ("1.1 200", "Content-Length: 7\r\n", head, Framing::None, true),
        ("1.1 200", "Transfer-Encoding: chunked\r\n", PLAIN, Framing::Chunked, true),
        ("1.1 200", "Transfer-Encoding: chunked\r\n", head, Framing::None, true),
        ("1.1 200", "", PLAIN, Framing::UntilClose, false),
        ("1.1 200", "", head, Framing::None, true),
        ("1.1 200", "Connection: close\r\nContent-Length: 7\r\n", PLAIN, Framing::Length(7), false),
        ("1.0 200", "Content-Length: 7\r\n", PLAIN, Framing::Length(7), false),
        ("1.0 200", "Content-Length: 7\r\nConnection: keep-alive\r\n", PLAIN, Framing::Length(7), true),
        ("1.1 204", "", PLAIN, Framing::None, true),
        ("1.1 204", "Content-Length: 0\r\n", PLAIN, Framing::None, true),
        ("1.1 204", "Content-Length: 7\r\n", PLAIN, Framing::None, false),
        ("1.1 204", "Transfer-Encoding: chunked\r\n", PLAIN, Framing::None, false),
        ("1.1 304", "Content-Length: 7\r\n", PLAIN, Framing::None, true),
        ("1.1 205", "Content-Length: 0\r\n", PLAIN, Framing::Length(0), true),
        ("1.1 500", "", PLAIN, Framing::UntilClose, false),
        ("1.1 100", "", PLAIN, Framing::None, true),
        ("1.1 103", "Link: a\r\n", PLAIN, Framing::None, true),
        ("1.1 101", "Connection: upgrade\r\nUpgrade: websocket\r\n", upgrade, Framing::None, true),
    ] {
        let text = format!("HTTP/{status} \r\n{lines}\r\n");
        let head = read(&text, to).unwrap().unwrap();
        assert_eq!((head.framing, head.persists), (framing, persists), "{text}");
    }
    let kind = |status: &str| {
        let head = read(&format!("HTTP/1.1 {status}\r\n\r\n"), upgrade).unwrap().unwrap();
        (head.interim(), head.upgrades())
    };
    assert_eq!(
        [kind("100"), kind("199"), kind("101"), kind("200")].map(|(interim, _)| interim),
        [true, true, false, false]
    );
    assert_eq!([kind("100"), kind("101"), kind("200")].map(|(_, upgrades)| upgrades), [false, true, false]);
}

#[test]
fn what_two_readers_may_read_differently_is_not_understood() {
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    for (text, reason) in [
        ("\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(), EmptyLine),
        ("HTTP/1.1 200 OK\n\r\n".to_owned(), LineEnd),
        ("HTTP/1.1 200\n\r\n".to_owned(), LineEnd),
        (with("A: b\n"), LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\n".to_owned(), LineEnd),
        (with("A: b\r\n c\r\n"), Syntax(Error::HeaderName)),
        (with("A : b\r\n"), Syntax(Error::HeaderName)),
        (with("A: b\0\r\n"), Syntax(Error::HeaderValue)),
        ("HTTP/1.1  200 OK\r\n\r\n".to_owned(), Syntax(Error::Status)),
        ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), Syntax(Error::Status)),
        ("HTTP/1.1 2000 OK\r\n\r\n".to_owned(), Syntax(Error::Status)),
        ("HTTP/1.1 200 O\rK\r\n\r\n".to_owned(), Syntax(Error::Status)),
        ("HTTP/1.1 200 O\0K\r\n\r\n".to_owned(), Syntax(Error::Status)),
        ("HTTP/1.1 099 No\r\n\r\n".to_owned(), Status(99)),
        ("HTTP/2.0 200 OK\r\n\r\n".to_owned(), Syntax(Error::Version)),
        ("ICY 200 OK\r\n\r\n".to_owned(), Syntax(Error::Version)),
        ("<html>".to_owned(), Syntax(Error::Version)),
        (with("Content-Length: 1\r\nContent-Length: 1\r\n"), Length),
        (with("Content-Length: 1, 1\r\n"), Length),
        (with("Content-Length: -1\r\n"), Length),
        (with("Transfer-Encoding: gzip, chunked\r\n"), Encoding),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), LengthAndEncoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Encoding),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(), Upgrade),
        ("HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n".to_owned(), InterimBody),
        ("HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), InterimBody),
    ] {
        assert_eq!(read(&text, PLAIN), Err(reason), "{text:?}");
    }
    let ok = "HTTP/1.1 200 OK\r\n\r\n";
    let limits = Limits { bytes: ok.len() - 1, headers: 0 };
    assert_eq!(read_response(ok.as_bytes(), limits, PLAIN, &[]), Err(NotUnderstood::TooLarge(limits.bytes)));
}

#[test]
fn what_the_gateway_says_of_itself() {
    let of = |lines: &str| response("HTTP/1.1 503 x", lines);
    for (lines, code, indicated) in [
        ("", None, false),
        ("X-Lunar-Error: 5\r\n", Some(5), true),
        ("x-lunar-error:010\r\n", Some(10), true),
        ("x-lunar-error: +5\r\n", None, true),
        ("x-lunar-error: five\r\n", None, true),
        ("x-lunar-error:\r\n", None, true),
        ("x-lunar-error: 4294967296\r\n", None, true),
        ("x-lunar-error: 5\r\nx-lunar-error: 5\r\n", None, true),
        ("x-lunar-errors: 5\r\n", None, false),
    ] {
        let head = of(lines);
        assert_eq!((head.error_code, head.indicated), (code, indicated), "{lines}");
    }
    assert!(!response("HTTP/1.1 103 x", "x-lunar-error: 1\r\n").indicated);
}

#[test]
fn when_the_gateway_wants_the_request_again() {
    let retry = |lines: &str| response("HTTP/1.1 429 x", lines).retry;
    let id = "x-lunar-sequence-id: 7f-3\r\n";
    for (seconds, after) in [
        ("0", Some(Duration::ZERO)),
        ("0.25", Some(Duration::from_millis(250))),
        ("1e1", Some(Duration::from_secs(10))),
        ("3", Some(Duration::from_secs(3))),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e300", None),
        ("soon", None),
        ("", None),
    ] {
        let found = retry(&format!("X-Lunar-Retry-After: {seconds}\r\n{id}"));
        assert_eq!(found.as_ref().map(|retry| retry.after), after, "{seconds}");
        assert!(found.is_none_or(|retry| retry.sequence_id == "7f-3"));
    }
    let after = "x-lunar-retry-after: 1\r\n";
    let long = format!("{after}x-lunar-sequence-id: {}\r\n", "a".repeat(257));
    for lines in [id, after, &format!("{after}{after}{id}"), &format!("{after}{id}{id}"), &long] {
        assert_eq!(retry(lines), None, "{lines}");
    }
    assert_eq!(retry(&format!("{after}x-lunar-sequence-id:\r\n")), None);
}
