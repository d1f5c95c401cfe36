//! Requests: what is understood, and every vector that is not.

use super::*;
use NotUnderstood::{
    Connection, EmptyLine, Encoding, HostCount, Http2, Length, LengthAndEncoding, LineEnd, Syntax, Target,
};
use http::Method;
use httparse::Error;

#[test]
fn the_facts_of_a_plain_request() {
    let text =
        "GET /v1/charges?limit=3 HTTP/1.1\r\nHost: API.Stripe.com.:8080\r\nAccept: */*\r\n\r\nbehind it";
    let expected = RequestHead {
        length: text.len() - 9,
        method: Method::GET,
        version: Version::Http11,
        host: Host::Name("api.stripe.com".into()),
        port: Some(8080),
        target: 4..23,
        framing: Framing::None,
        persists: true,
        expects_continue: false,
        wants_upgrade: false,
        allow: Allow::Unsaid,
        allow_lines: vec![],
        forged_lines: vec![],
    };
    assert_eq!(request(text), Ok(Some(expected)));
    assert_eq!(&text[4..23], "/v1/charges?limit=3");
}

#[test]
fn methods_that_may_be_repeated() {
    for (method, idempotent) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("get", false),
        ("BREW", false),
    ] {
        let head = whole(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((head.method.as_str(), head.idempotent()), (method, idempotent));
    }
}

#[test]
fn bodies() {
    for (lines, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("CONTENT-length:\t42 \r\n", Framing::Length(42)),
        ("content-length: 9223372036854775807\r\n", Framing::Length(i64::MAX as u64)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("transfer-encoding:CHUNKED\r\n", Framing::Chunked),
    ] {
        assert_eq!(whole(with(lines)).framing, framing, "{lines}");
    }
}

#[test]
fn what_requests_are_smuggled_with_is_not_understood() {
    let get = "GET / HTTP/1.1\r\n";
    let to = "Host: a\r\n";
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\n{to}\r\n");
    let version = |version: &str| format!("GET / {version}\r\n{to}\r\n");
    for (text, reason) in [
        // Lines.
        (format!("\r\n{get}{to}\r\n"), EmptyLine),
        (format!("\n{get}{to}\r\n"), EmptyLine),
        (format!(" {get}{to}\r\n"), Syntax(Error::Token)),
        (format!("GET / HTTP/1.1\n{to}\r\n"), LineEnd),
        (format!("{get}Host: a\nB: c\r\n\r\n"), LineEnd),
        (format!("{get}{to}\n"), LineEnd),
        (format!("{get}{to}A: b\n\r\n"), LineEnd),
        (format!("{get}{to}A:\nB: c\r\n\r\n"), LineEnd),
        (format!("{get}{to}A: b\r\n\n"), LineEnd),
        (format!("GET / HTTP/1.1\r{to}\r\n"), Syntax(Error::NewLine)),
        (with("A: b\rC: d\r\n"), Syntax(Error::HeaderValue)),
        (with("A: b\r\r\n"), Syntax(Error::HeaderValue)),
        (with("A: b\r\n c\r\n"), Syntax(Error::HeaderName)),
        (with("A: b\r\n\tc\r\n"), Syntax(Error::HeaderName)),
        (format!("{get} {to}\r\n"), Syntax(Error::HeaderName)),
        // Names and values.
        (with("A : b\r\n"), Syntax(Error::HeaderName)),
        (with("A\t: b\r\n"), Syntax(Error::HeaderName)),
        (with(": b\r\n"), Syntax(Error::HeaderName)),
        (with("A\r\n"), Syntax(Error::HeaderName)),
        (with("A(: b\r\n"), Syntax(Error::HeaderName)),
        (with("Ä: b\r\n"), Syntax(Error::HeaderName)),
        (with("A\0: b\r\n"), Syntax(Error::HeaderName)),
        (with("A: b\0c\r\n"), Syntax(Error::HeaderValue)),
        (with("A: b\x0bc\r\n"), Syntax(Error::HeaderValue)),
        (with("A: b\x7fc, and long enough for the vectorised search\r\n"), Syntax(Error::HeaderValue)),
        (with("A: long enough for the vectorised search, then \x1f\r\n"), Syntax(Error::HeaderValue)),
        // The request line.
        (format!("GET  / HTTP/1.1\r\n{to}\r\n"), Syntax(Error::Token)),
        (format!("GET /  HTTP/1.1\r\n{to}\r\n"), Syntax(Error::Version)),
        (format!("GET\t/ HTTP/1.1\r\n{to}\r\n"), Syntax(Error::Token)),
        (format!("GET / a HTTP/1.1\r\n{to}\r\n"), Syntax(Error::Version)),
        (format!("GET / HTTP/1.1 \r\n{to}\r\n"), Syntax(Error::NewLine)),
        (format!("G(T / HTTP/1.1\r\n{to}\r\n"), Syntax(Error::Token)),
        (version("HTTP/0.9"), Syntax(Error::Version)),
        (version("HTTP/1.2"), Syntax(Error::Version)),
        (version("HTTP/2.0"), Syntax(Error::Version)),
        (version("HTTP/1.10"), Syntax(Error::NewLine)),
        (version("http/1.1"), Syntax(Error::Version)),
        ("GET /\r\n".to_owned(), Syntax(Error::Token)),
        (target("http://a/"), Target),
        (target("a:80"), Target),
        (target("*"), Target),
        (target("?a"), Target),
        (target("/a#b"), Target),
        (target("/ü"), Target),
        (format!("CONNECT a:80 HTTP/1.1\r\n{to}\r\n"), Target),
        (format!("CONNECT / HTTP/1.1\r\n{to}\r\n"), Target),
        (format!("OPTIONS * HTTP/1.1\r\n{to}\r\n"), Target),
        // Lengths.
        (with("Content-Length: 1\r\nContent-Length: 1\r\n"), Length),
        (with("Content-Length: 1\r\ncontent-length: 2\r\n"), Length),
        (with("Content-Length: 1, 1\r\n"), Length),
        (with("Content-Length: +1\r\n"), Length),
        (with("Content-Length: -1\r\n"), Length),
        (with("Content-Length: 1 1\r\n"), Length),
        (with("Content-Length: 0x1\r\n"), Length),
        (with("Content-Length: 1a\r\n"), Length),
        (with("Content-Length: 1.0\r\n"), Length),
        (with("Content-Length:\r\n"), Length),
        (with("Content-Length: ١\r\n"), Length),
        (with("Content-Length: 9223372036854775808\r\n"), Length),
        (with("Content-Length: 18446744073709551617\r\n"), Length),
        // Encodings.
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Encoding),
        (with("Transfer-Encoding: chunked, chunked\r\n"), Encoding),
        (with("Transfer-Encoding: gzip, chunked\r\n"), Encoding),
        (with("Transfer-Encoding: chunked, identity\r\n"), Encoding),
        (with("Transfer-Encoding: identity\r\n"), Encoding),
        (with("Transfer-Encoding: xchunked\r\n"), Encoding),
        (with("Transfer-Encoding: \"chunked\"\r\n"), Encoding),
        (with("Transfer-Encoding: chunked;a=b\r\n"), Encoding),
        (with("Transfer-Encoding:\r\n"), Encoding),
        (format!("POST / HTTP/1.0\r\n{to}Transfer-Encoding: chunked\r\n\r\n"), Encoding),
        (with("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), LengthAndEncoding),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), LengthAndEncoding),
        // Hosts.
        (format!("{get}A: b\r\n\r\n"), HostCount),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), HostCount),
        (with("Host: api.example\r\n"), HostCount),
        (with("host: other\r\n"), HostCount),
        // Removal of what decides.
        (with("Connection: close, X-Lunar-Host\r\n"), Connection),
        (with("Connection: content-length\r\n"), Connection),
        (with("Connection: keep-alive\r\nConnection: Transfer-Encoding\r\n"), Connection),
        (with("Connection: host\r\n"), Connection),
        // Other protocols.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Http2),
        ("PRI * HTTP/2.0\r\n\r\nSX".to_owned(), Syntax(Error::Version)),
        ("\x16\x03\x01\x02".to_owned(), Syntax(Error::Token)),
        ("SSH-2.0-OpenSSH_9.9\r\n".to_owned(), Syntax(Error::Token)),
    ] {
        assert_eq!(request(&text), Err(reason), "{text:?}");
    }
}

#[test]
fn hosts() {
    let read = |host: &str| request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let address = |text: &str| Host::Address(text.parse().unwrap());
    let name = |text: &str| Host::Name(text.into());
    for (text, host, port) in [
        ("a", name("a"), None),
        ("API.Example.COM", name("api.example.com"), None),
        ("a.example.:65535", name("a.example"), Some(65535)),
        ("_x.a-b.c0", name("_x.a-b.c0"), None),
        ("xn--bcher-kva.example:1", name("xn--bcher-kva.example"), Some(1)),
        ("127.0.0.1", address("127.0.0.1"), None),
        ("127.0.0.1.:80", address("127.0.0.1"), Some(80)),
        ("[2001:DB8::1]", address("2001:db8::1"), None),
        ("[::ffff:192.0.2.1]:8080", address("::ffff:192.0.2.1"), Some(8080)),
    ] {
        let head = read(text).unwrap().unwrap();
        assert_eq!((head.host, head.port), (host, port), "{text}");
    }
    let long_label = "a".repeat(64);
    let long = format!("{}b", "a.".repeat(127));
    for (text, problem) in [
        ("", HostProblem::Name),
        (".", HostProblem::Name),
        (":80", HostProblem::Name),
        ("a..b", HostProblem::Name),
        (".a", HostProblem::Name),
        ("a b", HostProblem::Name),
        ("a\tb", HostProblem::Name),
        ("user@a", HostProblem::Name),
        ("user:pass@a", HostProblem::Port),
        ("a, b", HostProblem::Name),
        ("a/b", HostProblem::Name),
        ("http://a", HostProblem::Port),
        ("a%2eb", HostProblem::Name),
        ("bücher.example", HostProblem::Name),
        ("127.1", HostProblem::Name),
        ("1.2.3.256", HostProblem::Name),
        ("[127.0.0.1]", HostProblem::Name),
        ("[::1", HostProblem::Name),
        ("[fe80::1%eth0]", HostProblem::Name),
        ("[v1.a]", HostProblem::Name),
        ("[::1]80", HostProblem::Port),
        ("::1", HostProblem::Name),
        ("a:", HostProblem::Port),
        ("a:0", HostProblem::Port),
        ("a:65536", HostProblem::Port),
        ("a:+80", HostProblem::Port),
        ("a:80:80", HostProblem::Port),
        ("a: 80", HostProblem::Port),
        ("a :80", HostProblem::Name),
        ("a:000080", HostProblem::Port),
        (&long_label, HostProblem::Name),
        (&long, HostProblem::Name),
    ] {
        assert_eq!(read(text), Err(NotUnderstood::Host(problem)), "{text}");
    }
}

#[test]
fn connections() {
    let ten = |lines: &str| format!("GET / HTTP/1.0\r\nHost: a\r\n{lines}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (text, persists, wants_upgrade) in [
        (with(""), true, false),
        (with("Connection: close\r\n"), false, false),
        (with("connection: TE , CLOSE\r\n"), false, false),
        (with("Connection: keep-alive\r\nConnection: close\r\n"), false, false),
        (with("Connection: closed\r\n"), true, false),
        (with("Connection:,,\r\n"), true, false),
        (ten(""), false, false),
        (ten("Connection: Keep-Alive\r\n"), true, false),
        (ten("Connection: keep-alive, close\r\n"), false, false),
        (with(upgrade), true, true),
        (with("Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n"), true, true),
        (with("Connection: upgrade\r\n"), true, false),
        (with("Upgrade: websocket\r\n"), true, false),
        (ten(upgrade), false, false),
    ] {
        let head = whole(&text);
        assert_eq!((head.persists, head.wants_upgrade), (persists, wants_upgrade), "{text}");
    }
    assert!(whole(with("expect: 100-Continue\r\n")).expects_continue);
    assert!(!whole(with("Expect: 200-ok\r\n")).expects_continue);
    assert!(!whole(ten("Expect: 100-continue\r\n")).expects_continue);
}

#[test]
fn our_own_headers() {
    for (values, allow) in [
        (&[][..], Allow::Unsaid),
        (&["true"], Allow::Forced),
        (&["true", "true"], Allow::Forced),
        (&["false"], Allow::Forbidden),
        (&["True"], Allow::Forbidden),
        (&[""], Allow::Forbidden),
        (&["true", "false"], Allow::Forbidden),
        (&["false", "true"], Allow::Forbidden),
    ] {
        let lines: String = values.iter().map(|value| format!("X-Lunar-Allow: {value}\r\n")).collect();
        let text = with(&lines);
        let head = whole(&text);
        assert_eq!((head.allow, head.allow_lines.len()), (allow, values.len()), "{text}");
        assert!(head.allow_lines.iter().all(|line| text[line.clone()].starts_with("X-Lunar-Allow: ")));
    }
    let text = with("x-lunar-HOST: evil\r\nx-lunar-consumer-tag: a\r\nx-lunar: b\r\nX-Lunar-New:\r\n");
    let forged: Vec<_> = whole(&text).forged_lines.into_iter().map(|line| &text[line]).collect();
    assert_eq!(forged, ["x-lunar-HOST: evil\r\n", "X-Lunar-New:\r\n"]);
}

#[test]
fn what_is_beyond_a_limit_is_too_large() {
    let text = with("A: b\r\n");
    let limits = |bytes, headers| Limits { bytes, headers };
    let read =
        |bytes, headers| read_request(text.as_bytes(), limits(bytes, headers)).map(|head| head.is_some());
    assert_eq!(read(text.len(), 2), Ok(true));
    assert_eq!(read(text.len() - 1, 2), Err(NotUnderstood::TooLarge(text.len() - 1)));
    assert_eq!(read(text.len(), 1), Err(NotUnderstood::TooManyHeaders(1)));
    let part = &text.as_bytes()[..20];
    assert_eq!(read_request(part, limits(20, 2)), Err(NotUnderstood::TooLarge(20)));
    assert_eq!(read_request(part, limits(21, 2)), Ok(None));
    let many = with(&"A: b\r\n".repeat(MAX_HEADERS - 1));
    assert!(matches!(read_request(many.as_bytes(), limits(1 << 20, 1 << 20)), Ok(Some(_))));
    let many = with(&"A: b\r\n".repeat(MAX_HEADERS));
    let refusal = Err(NotUnderstood::TooManyHeaders(MAX_HEADERS));
    assert_eq!(read_request(many.as_bytes(), limits(1 << 20, 1 << 20)), refusal);
}

#[test]
fn every_target_is_one_that_hyper_takes_whole() {
    for place in ["/", "/?"] {
        for byte in 0..=u8::MAX {
            let target = [place.as_bytes(), &[byte]].concat();
            let text = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            if let Ok(Some(head)) = request(&text) {
                let read = http::uri::PathAndQuery::try_from(&target[..]).unwrap();
                assert_eq!(read.as_str().as_bytes(), &text[head.target], "{byte:#x}");
            }
        }
    }
}
