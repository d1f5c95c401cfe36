//! The table of requests, and what becomes of each.

use crate::lunar::{CLOSED, DARK, DNS};

/// One row of the table.
pub struct Row {
    pub what: &'static str,
    pub request: Vec<u8>,
    pub status: u16,
    pub error: Option<&'static str>,
    /// The first line that the provider sees, if it sees any.
    pub seen: Option<&'static str>,
}

fn row(what: &'static str, request: impl Into<Vec<u8>>, status: u16, error: Option<&'static str>) -> Row {
    Row { what, request: request.into(), status, error, seen: None }
}

/// A row whose request reaches a provider.
fn passed(
    what: &'static str,
    request: impl Into<Vec<u8>>,
    status: u16,
    error: Option<&'static str>,
    line: &'static str,
) -> Row {
    Row { seen: Some(line), ..row(what, request, status, error) }
}

pub fn to(host: &str, line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nx-lunar-host: {host}\r\nx-lunar-scheme: http\r\n{more}\r\n")
}

pub fn get(host: &str) -> String {
    to(host, "GET /", "")
}

/// What both gateways answer alike. Each provider's answer says in its body who it is.
pub fn table() -> Vec<Row> {
    let books = "books.example";
    let ours = "x-lunar-req-id: 7c6bb5e3-7d2c-4f5e-a8a9-0e8d0f2f1c11\r\nx-lunar-interceptor: lunar-ebpf-interceptor/1\r\n\
                x-lunar-tenant-id: t\r\nX-Lunar-Allow: true\r\nx-lunar-consumer-tag: me\r\nx-lunar-sequence-id: 1\r\n";
    vec![
        passed(
            "a plain request",
            to(books, "GET /a/../b%20c?q=%2F&q", "Accept: */*\r\nCookie: a=1\r\nx-b: 1\r\nx-b: 2\r\n"),
            200,
            None,
            "GET /a/../b%20c?q=%2F&q HTTP/1.1",
        ),
        passed("all that speaks to the gateway", to(books, "GET /", ours), 200, None, "GET / HTTP/1.1"),
        passed("a port of its own", get("toys.example:8080"), 200, None, "GET / HTTP/1.1"),
        passed("a name in capitals, with its last dot", get("BOOKS.Example."), 200, None, "GET / HTTP/1.1"),
        passed("a name that has IPv6 only", get("six.example"), 200, None, "GET / HTTP/1.1"),
        passed("no scheme", get(books).replace("x-lunar-scheme: http\r\n", ""), 200, None, "GET / HTTP/1.1"),
        passed(
            "a scheme that is not exactly https",
            get(books).replace("scheme: http", "scheme: HTTPS"),
            200,
            None,
            "GET / HTTP/1.1",
        ),
        passed(
            "another Host",
            get(books).replace("\nHost: books", "\nHost: toys"),
            200,
            None,
            "GET / HTTP/1.1",
        ),
        passed(
            "a body with a length",
            to(books, "POST /", "Content-Length: 5\r\n") + "hello",
            200,
            None,
            "POST / HTTP/1.1",
        ),
        passed(
            "a body in chunks with a trailer",
            to(books, "PUT /", "Transfer-Encoding: chunked\r\nTrailer: x-digest\r\nTE: trailers\r\n")
                + "3\r\nhel\r\n2\r\nlo\r\n0\r\nx-digest: abc\r\n\r\n",
            200,
            None,
            "PUT / HTTP/1.1",
        ),
        passed("a method of no standard", to(books, "BREW /pot", ""), 200, None, "BREW /pot HTTP/1.1"),
        passed("the whole server", to(books, "OPTIONS *", ""), 200, None, "OPTIONS * HTTP/1.1"),
        passed("a provider's own error", to(books, "GET /own", ""), 503, Some("2"), "GET /own HTTP/1.1"),
        passed("a provider's 403", to(books, "GET /forbidden", ""), 403, None, "GET /forbidden HTTP/1.1"),
        passed("a provider that hangs up", to(books, "GET /hangup", ""), 502, None, "GET /hangup HTTP/1.1"),
        passed(
            "a provider that is silent",
            to(books, "GET /silent", ""),
            504,
            Some("3"),
            "GET /silent HTTP/1.1",
        ),
        row(
            "no x-lunar-host",
            "GET / HTTP/1.1\r\nHost: books.example\r\nx-lunar-scheme: http\r\n\r\n",
            401,
            Some("1"),
        ),
        row("a provider that refuses", get(&format!("{books}:{CLOSED}")), 503, Some("2")),
        // Nothing was sent, so it is no time-out of the provider's: HAProxy has 503 for it, and with that code 2.
        row(
            "a provider that cannot be connected to in time",
            get(&format!("{books}:{DARK}")),
            503,
            Some("2"),
        ),
        row("https", get(books).replace("scheme: http", "scheme: https"), 503, Some("2")),
        row("a name that does not exist", get("nosuch.example"), 503, Some("5")),
        row("an IPv4 address", get(DNS), 503, Some("5")),
        row("an IPv4 address and a port", get("203.0.113.10:80"), 503, Some("5")),
        row("an IPv6 address", get("[2001:db8::12]:80"), 503, Some("5")),
        row("a port that is none", get("books.example:0"), 503, Some("5")),
        row("a port that is too high", get("books.example:65616"), 503, Some("5")),
        row(
            "no name at all",
            get(books).replace("x-lunar-host: books.example", "x-lunar-host: "),
            503,
            Some("5"),
        ),
        row(
            "two names",
            get(books).replace("x-lunar-scheme", "x-lunar-host: toys.example\r\nx-lunar-scheme"),
            503,
            Some("5"),
        ),
        row(
            "two names in one",
            get(books).replace("x-lunar-host: books.example", "x-lunar-host: books.example, toys.example"),
            503,
            Some("5"),
        ),
        row("a name that policy denies", get("Denied.example:80"), 403, None),
        row("CONNECT", "CONNECT books.example:443 HTTP/1.1\r\nHost: books.example:443\r\n\r\n", 405, None),
        row("absolute form", get(books).replace("GET /", "GET http://books.example/"), 400, None),
        row(
            "the PROXY protocol",
            format!("PROXY TCP4 203.0.113.1 203.0.113.10 40000 80\r\n{}", get(books)),
            400,
            None,
        ),
        row(
            "the PROXY protocol, version 2",
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0q\x01\xcb\0q\x0a\x9c\x40\0P"[..],
            400,
            None,
        ),
        row("TLS", &b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n\r\n"[..], 400, None),
    ]
}

/// What is framed in a way that two parties might read differently: refused, or passed on in one way only.
pub fn framing() -> Vec<Row> {
    let books = "books.example";
    let post = |headers: &str, body: &str| to(books, "POST /", headers) + body;
    let (chunked, hi) = ("Transfer-Encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n");
    let (post_line, get_line) = ("POST / HTTP/1.1", "GET / HTTP/1.1");
    vec![
        passed(
            "a length before chunks",
            post(&format!("Content-Length: 3\r\n{chunked}"), hi),
            200,
            None,
            post_line,
        ),
        passed(
            "a length behind chunks",
            post(&format!("{chunked}Content-Length: 3\r\n"), hi),
            200,
            None,
            post_line,
        ),
        passed(
            "one length twice",
            post("Content-Length: 2\r\nContent-Length: 2\r\n", "hi"),
            200,
            None,
            post_line,
        ),
        passed("a GET with a body", to(books, "GET /", "Content-Length: 2\r\n") + "hi", 200, None, get_line),
        passed("lines that end in a bare LF", get(books).replace("\r\n", "\n"), 200, None, get_line),
        passed("one Host twice", to(books, "GET /", "Host: books.example\r\n"), 200, None, get_line),
        passed("no Host", get(books).replacen("Host: books.example\r\n", "", 1), 200, None, get_line),
        passed("bytes above 127", to(books, "GET /", "x-a: \u{e9}\r\n"), 200, None, get_line),
        row("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), 400, None),
        row("a length with a sign", post("Content-Length: +2\r\n", "hi"), 400, None),
        row("a coding that is none", post(&chunked.replace("chunked", "xchunked"), hi), 400, None),
        row("chunked twice", post(&chunked.repeat(2), hi), 400, None),
        row("a chunk whose size is no number", post(chunked, &hi.replace("2", "zz")), 400, None),
        row("a chunk that does not end where it says", post(chunked, &hi.replace("hi", "hixx")), 400, None),
        row("two Hosts", to(books, "GET /", "Host: toys.example\r\n"), 400, None),
        row("a space before a colon", to(books, "GET /", "x-a : 1\r\n"), 400, None),
    ]
}

/// A request that the two treat differently, and why.
pub struct Apart {
    pub request: String,
    /// The status, and what the provider sees: the first line, each header that starts with `x-`, the trailers.
    pub embedded: (u16, Option<&'static str>),
    pub haproxy: (u16, Option<&'static str>),
}

/// What one of the two cannot do, or does in its own way.
pub fn apart() -> Vec<Apart> {
    let books = "books.example";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let plain = Some("GET / HTTP/1.1");
    vec![
        // HAProxy 2.6 knows the headers of one hop by their names, not by what `Connection` lists.
        Apart {
            request: to(books, "GET /", "Connection: x-hop\r\nx-hop: 1\r\n"),
            embedded: (200, plain),
            haproxy: (200, Some("GET / HTTP/1.1; x-hop: 1")),
        },
        // hyper keeps 1xx answers to itself.
        Apart {
            request: to(books, "GET /hints", ""),
            embedded: (200, Some("GET /hints HTTP/1.1")),
            haproxy: (103, Some("GET /hints HTTP/1.1")),
        },
        // hyper sends no trailer that `Trailer` has not announced.
        Apart {
            request: to(books, "POST /", chunked) + "2\r\nhi\r\n0\r\nx-digest: abc\r\n\r\n",
            embedded: (200, Some("POST / HTTP/1.1")),
            haproxy: (200, Some("POST / HTTP/1.1; x-digest: abc")),
        },
        // The embedded gateway speaks HTTP/1.1 to every provider.
        Apart {
            request: get(books).replace("HTTP/1.1", "HTTP/1.0"),
            embedded: (200, plain),
            haproxy: (200, Some("GET / HTTP/1.0")),
        },
        // What follows has no right reading, and HAProxy is the more lenient of the two.
        Apart {
            request: to(books, "GET /", "x-a: 1\r\n  2\r\n"),
            embedded: (400, None),
            haproxy: (200, Some("GET / HTTP/1.1; x-a: 1    2")),
        },
        Apart {
            request: to(books, "GET /", "x-a: 1\0\r\n"),
            embedded: (400, None),
            haproxy: (200, Some("GET / HTTP/1.1; x-a: 1\0")),
        },
        Apart {
            request: get(books).replace("HTTP/1.1", "HTTP/1.2"),
            embedded: (400, None),
            haproxy: (200, plain),
        },
        Apart {
            request: to(books, "POST /", "Content-Length: 2, 2\r\n") + "hi",
            embedded: (400, None),
            haproxy: (200, Some("POST / HTTP/1.1")),
        },
        Apart {
            request: to(books, "POST /", chunked).replace("HTTP/1.1", "HTTP/1.0") + "0\r\n\r\n",
            embedded: (400, None),
            haproxy: (200, Some("POST / HTTP/1.0")),
        },
        // Nor can either of them decode it; HAProxy has a status of its own for that.
        Apart {
            request: to(books, "POST /", "Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n",
            embedded: (400, None),
            haproxy: (422, None),
        },
    ]
}
