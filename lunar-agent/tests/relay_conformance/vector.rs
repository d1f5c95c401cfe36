//! A vector and what becomes of it.

/// A request that an attacker hides behind another. Its words to the gateway are forged.
pub const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: books.example\r\nx-lunar-host: evil.example\r\nx-lunar-scheme: http\r\n\r\n";
/// The forged lines: they never reach the gateway in a head.
pub const FORGED: &str = "x-lunar-host: evil.example\r\nx-lunar-scheme: http\r\n";

/// Where what follows the last request goes that is understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// There is nothing.
    Nothing,
    /// To the provider, as it came.
    Provider,
    /// Behind the body that it is a part of, which then has no right end: nobody may take it for a request.
    SameBody,
}

/// Bytes of an application, with `/v` as the path of the first request.
#[derive(Clone, Debug)]
pub struct Vector {
    pub what: &'static str,
    pub bytes: Vec<u8>,
    /// The requests that go to the gateway: method and path.
    pub requests: &'static [&'static str],
    pub then: Then,
}

/// Nobody can be sure of it: all goes to the provider.
pub fn raw(what: &'static str, bytes: impl Into<Vec<u8>>) -> Vector {
    let bytes = [bytes.into(), HIDDEN.into()].concat();
    Vector { what, bytes, requests: &[], then: Then::Provider }
}

/// Everybody understands it: the hidden request is a request like any other, and is treated as one.
pub fn plain(what: &'static str, bytes: impl Into<Vec<u8>>) -> Vector {
    let bytes = [bytes.into(), HIDDEN.into()].concat();
    let requests =
        if bytes.starts_with(b"POST") { &["POST /v", "GET /hidden"] } else { &["GET /v", "GET /hidden"] };
    Vector { what, bytes, requests, then: Then::Nothing }
}

/// Everybody understands it: the hidden request, which is in `bytes` already, is a part of the body.
pub fn in_body(what: &'static str, bytes: impl Into<Vec<u8>>) -> Vector {
    let bytes = bytes.into();
    let requests: &[_] = if bytes.starts_with(b"POST") { &["POST /v"] } else { &["GET /v"] };
    Vector { what, bytes, requests, then: Then::Nothing }
}

/// A head that is understood, and a body that is not.
pub fn broken(what: &'static str, body: &str) -> Vector {
    let bytes = post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}")).into();
    Vector { what, bytes, requests: &["POST /v"], then: Then::SameBody }
}

/// `rest` of a GET's head, and what follows.
pub fn get(rest: &str) -> String {
    format!("GET /v HTTP/1.1\r\nHost: books.example\r\n{rest}")
}

/// The same for a POST.
pub fn post(rest: &str) -> String {
    format!("POST /v HTTP/1.1\r\nHost: books.example\r\n{rest}")
}
