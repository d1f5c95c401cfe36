//! Bodies in chunks that two readers could read differently.

use crate::{
    scene::run,
    vector::{HIDDEN, Vector, broken, in_body, plain, post},
};

/// Nobody can be sure where they end.
fn malformed() -> Vec<Vector> {
    vec![
        broken("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        broken("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        broken("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        broken("a negative size", "-1\r\nhello\r\n0\r\n\r\n"),
        broken("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        broken("a space before a size", " 5\r\nhello\r\n0\r\n\r\n"),
        broken("no size", "\r\nhello\r\n0\r\n\r\n"),
        broken("a size that is none", "zz\r\nhello\r\n0\r\n\r\n"),
        broken("a size's line that ends in LF", "5\nhello\r\n0\r\n\r\n"),
        broken("an extension with an LF", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        broken("an extension's line that ends in LF", "5;a\nhello\r\n0\r\n\r\n"),
        broken("an extension with a NUL", "5;a\0\r\nhello\r\n0\r\n\r\n"),
        broken("a chunk without its end", "5\r\nhello0\r\n\r\n"),
        broken("a chunk that is longer than it says", "5\r\nhello!\r\n0\r\n\r\n"),
        broken("a chunk that ends in LF", "5\r\nhello\n0\r\n\r\n"),
        broken("a last chunk without the last CR LF", "5\r\nhello\r\n0\r\n"),
        broken("a trailer without a colon", "0\r\nX-A\r\n\r\n"),
        broken("a folded trailer", "0\r\nX-A: 1\r\n 2\r\n\r\n"),
        broken("a trailer that ends in LF", "0\r\nX-A: 1\n\r\n"),
        broken("trailers that end in LF", "0\r\nX-A: 1\r\n\n"),
    ]
}

/// Everybody knows where they end.
fn sound() -> Vec<Vector> {
    let chunked = |body: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    let hidden = format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
    vec![
        plain("no chunk but the last", chunked("0\r\n\r\n")),
        plain("a chunk", chunked("5\r\nhello\r\n0\r\n\r\n")),
        plain("a size with zeros in front", chunked("0005\r\nhello\r\n000\r\n\r\n")),
        plain("a size in capitals", chunked("A\r\nhellohello\r\n0\r\n\r\n")),
        plain("an extension", chunked("5;a=b\r\nhello\r\n0\r\n\r\n")),
        plain("a space behind a size", chunked("5 \r\nhello\r\n0\r\n\r\n")),
        plain("a trailer", chunked("0\r\nX-A: 1\r\n\r\n")),
        // They say nothing of the body that they end.
        plain("a trailer with a length", chunked("0\r\nContent-Length: 100\r\n\r\n")),
        plain("a trailer with a host", chunked("0\r\nHost: evil.example\r\n\r\n")),
        in_body("a request in a chunk", chunked(&hidden)),
    ]
}

#[test]
fn a_body_that_can_end_in_two_places_lets_no_request_follow_it() {
    run("smuggle-chunks", &malformed());
}

#[test]
fn a_body_that_ends_in_one_place_is_passed_and_so_is_the_request_behind_it() {
    run("smuggle-sound", &sound());
}
