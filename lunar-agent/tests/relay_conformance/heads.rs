//! Heads that two readers could read differently.

use crate::{
    scene::run,
    vector::{HIDDEN, Then, Vector, get, in_body, plain, post, raw},
};

const WEB_SOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn lengths() -> Vec<Vector> {
    let five = |line: &str| post(&format!("{line}\r\n\r\nhello"));
    vec![
        raw("a length and chunks", post(&format!("Content-Length: 6\r\n{CHUNKED}\r\n0\r\n\r\nX"))),
        raw("chunks and a length", post(&format!("{CHUNKED}Content-Length: 6\r\n\r\n0\r\n\r\nX"))),
        raw("two lengths", five("Content-Length: 5\r\nContent-Length: 6")),
        raw("two lengths in other letters", five("Content-Length: 5\r\ncontent-length: 6")),
        raw("one length twice", five("Content-Length: 5\r\nContent-Length: 5")),
        raw("a list of one length", five("Content-Length: 5, 5")),
        raw("a list of two lengths", five("Content-Length: 5, 6")),
        raw("a length with a sign", five("Content-Length: +5")),
        raw("a negative length", five("Content-Length: -5")),
        raw("a hexadecimal length", five("Content-Length: 0x5")),
        raw("a length with a space in it", five("Content-Length: 5 5")),
        raw("a length with a comma", five("Content-Length: 5,")),
        raw("an empty length", five("Content-Length: ")),
        raw("a length beyond 64 bits", five("Content-Length: 18446744073709551621")),
        raw("a length beyond 63 bits", five("Content-Length: 9223372036854775808")),
        plain("a length with zeros in front", five("Content-Length: 005")),
        plain("a length behind a tab", five("Content-Length:\t5")),
        plain("a length with a space behind it", five("Content-Length: 5 ")),
        in_body("a request in a body", post(&format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()))),
        in_body(
            "a request in the body of a GET",
            get(&format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len())),
        ),
    ]
}

fn codings() -> Vec<Vector> {
    let with = |coding: &str| post(&format!("{coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    let and_length = |coding: &str| post(&format!("{coding}\r\nContent-Length: 5\r\n\r\nhello"));
    vec![
        raw("chunked twice", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
        raw("a list of chunked", with("Transfer-Encoding: chunked, chunked")),
        raw("gzip and chunked", with("Transfer-Encoding: gzip, chunked")),
        raw("two codings in two lines", with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked")),
        raw("chunked is not the last", with("Transfer-Encoding: chunked, identity")),
        raw("a coding that is almost chunked", with("Transfer-Encoding: xchunked")),
        raw("a coding with a parameter", with("Transfer-Encoding: chunked;q=1")),
        raw("identity and a length", and_length("Transfer-Encoding: identity")),
        raw("an empty coding and a length", and_length("Transfer-Encoding: ")),
        raw("a coding in quotes", with("Transfer-Encoding: \"chunked\"")),
        raw("a vertical tab before chunked", with("Transfer-Encoding: \x0bchunked")),
        raw("a space before the colon", with("Transfer-Encoding : chunked")),
        raw("a coding on a folded line", with("Transfer-Encoding:\r\n chunked")),
        raw("chunks in HTTP/1.0", with("Transfer-Encoding: chunked").replacen("HTTP/1.1", "HTTP/1.0", 1)),
        plain("chunked in capitals", with("Transfer-Encoding: CHUNKED")),
        // A name of its own, to everybody.
        plain("an underscore for a hyphen", and_length("Transfer_Encoding: chunked")),
    ]
}

fn lines() -> Vec<Vector> {
    vec![
        raw("a folded line", get("X-A: 1\r\n  2\r\n\r\n")),
        raw("a folded first line", get("\r\n").replacen("Host", " X-A: 1\r\nHost", 1)),
        raw("lines that end in LF", get("X-A: 1\r\n\r\n").replace("\r\n", "\n")),
        raw("one line that ends in LF", get("X-A: 1\n\r\n")),
        raw("an empty line of LF", get("X-A: 1\r\n\n")),
        raw("a CR within a value", get("X-A: 1\r2\r\n\r\n")),
        raw("a request within a value, behind a CR", get("X-A: 1\rContent-Length: 5\r\n\r\n")),
        raw("a NUL in a value", get("X-A: 1\0\r\n\r\n")),
        raw("a NUL in a name", get("X\0A: 1\r\n\r\n")),
        raw("a line without a colon", get("X-A\r\n\r\n")),
        raw("a line without a name", get(": 1\r\n\r\n")),
        raw("a name with a bracket", get("X(A: 1\r\n\r\n")),
        raw("a length with a space before its colon", post("Content-Length : 5\r\n\r\nhello")),
        raw("an empty line at the start", "\r\n".to_owned() + &get("\r\n")),
        raw("an LF at the start", "\n".to_owned() + &get("\r\n")),
        Vector { requests: &["GET /v"], ..raw("an empty line between two requests", get("\r\n\r\n")) },
    ]
}

fn targets() -> Vec<Vector> {
    let line = |first: &str| format!("{first}\r\nHost: books.example\r\n\r\n");
    let host = |lines: &str| format!("GET /v HTTP/1.1\r\n{lines}\r\n\r\n");
    vec![
        raw("absolute form", line("GET http://books.example/v HTTP/1.1")),
        raw("absolute form for somebody else", line("GET http://evil.example/v HTTP/1.1")),
        raw("asterisk form", line("OPTIONS * HTTP/1.1")),
        raw("CONNECT", line("CONNECT evil.example:80 HTTP/1.1")),
        raw("a fragment", line("GET /v#f HTTP/1.1")),
        raw("a target without a slash", line("GET v HTTP/1.1")),
        raw("a byte above 127", [&b"GET /\xe9 HTTP/1.1\r\nHost: books.example\r\n\r\n"[..]].concat()),
        raw("a tab for a space", line("GET\t/v HTTP/1.1")),
        raw("two spaces", line("GET  /v HTTP/1.1")),
        raw("a version that is not there yet", line("GET /v HTTP/1.2")),
        raw("a version in small letters", line("GET /v http/1.1")),
        raw("no version", "GET /v\r\n\r\n"),
        raw("two Hosts", host("Host: books.example\r\nHost: evil.example")),
        raw("one Host twice", host("Host: books.example\r\nHost: books.example")),
        raw("no Host", "GET /v HTTP/1.1\r\nX-A: 1\r\n\r\n"),
        raw("an empty Host", host("Host: ")),
        raw("a list of Hosts", host("Host: books.example, evil.example")),
        raw("a Host with a user", host("Host: evil.example@books.example")),
        raw("a Host with a path", host("Host: books.example/evil")),
        raw("a Host with a bad port", host("Host: books.example:80:81")),
    ]
}

fn connections() -> Vec<Vector> {
    vec![
        raw("Connection names our host", get("Connection: x-lunar-host\r\n\r\n")),
        raw("Connection names our id", get("Connection: keep-alive, X-Lunar-Req-Id\r\n\r\n")),
        raw("Connection names Host", get("Connection: Host\r\n\r\n")),
        raw(
            "Connection names the length",
            post("Connection: content-length\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        raw(
            "Connection names the coding",
            post(&format!("Connection: Transfer-Encoding\r\n{CHUNKED}\r\n0\r\n\r\n")),
        ),
        plain("a forged host", get("x-lunar-host: evil.example\r\nx-lunar-scheme: http\r\n\r\n")),
        // No 101 comes, so what follows is HTTP as before.
        plain("an upgrade that is not taken", get(WEB_SOCKET)),
        plain(
            "an upgrade to HTTP/2 that is not taken",
            get(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            ),
        ),
        Vector {
            bytes: [get("\r\n"), get("X-A : 1\r\n\r\n"), HIDDEN.to_owned()].concat().into(),
            requests: &["GET /v"],
            ..raw("a request that is not understood behind one that is", "")
        },
        Vector {
            bytes: [get("\r\n"), HIDDEN.to_owned(), get("\r\n")].concat().into(),
            requests: &["GET /v", "GET /hidden", "GET /v"],
            then: Then::Nothing,
            what: "three requests at once",
        },
    ]
}

#[test]
fn lengths_that_can_be_read_in_two_ways_go_to_the_provider() {
    run("smuggle-lengths", &lengths());
}

#[test]
fn codings_that_can_be_read_in_two_ways_go_to_the_provider() {
    run("smuggle-codings", &codings());
}

#[test]
fn lines_that_can_be_read_in_two_ways_go_to_the_provider() {
    run("smuggle-lines", &lines());
}

#[test]
fn targets_and_hosts_that_can_be_read_in_two_ways_go_to_the_provider() {
    run("smuggle-targets", &targets());
}

#[test]
fn what_a_connection_header_may_not_remove_and_an_application_may_not_forge() {
    run("smuggle-connection", &connections());
}
