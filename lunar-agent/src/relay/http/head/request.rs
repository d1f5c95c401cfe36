//! The head of a request.

use std::{mem::MaybeUninit, ops::Range};

use http::Method;

use super::{
    Framing, Host, Limits, MAX_HEADERS, NotUnderstood, OURS, Version, fields,
    fields::{Frame, Once},
    length, version, window,
};

/// What an HTTP/2 connection with prior knowledge begins with (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The header that is for the relay alone.
pub const ALLOW: &str = "x-lunar-allow";
/// The one of ours that an application sets and the gateway reads.
const CONSUMER_TAG: &str = "x-lunar-consumer-tag";

/// What a whole head says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// Its bytes, with the empty line; the body begins behind them.
    pub length: usize,
    /// The method; never CONNECT.
    pub method: Method,
    /// The version.
    pub version: Version,
    /// The host of the `Host` header.
    pub host: Host,
    /// The port of the `Host` header, if it names one, never 0.
    pub port: Option<u16>,
    /// Where in the head the target lies, which is in origin form.
    pub target: Range<usize>,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client would use the connection again.
    pub persists: bool,
    /// Whether the client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// Whether the client would switch to another protocol.
    pub wants_upgrade: bool,
    /// What `x-lunar-allow` says.
    pub allow: Allow,
    /// The lines of `x-lunar-allow`, with CR LF. They go no further.
    pub allow_lines: Vec<Range<usize>>,
    /// The lines of all other `x-lunar-` headers but `x-lunar-consumer-tag`, with CR LF. An application has no say in what they
    /// mean to the gateway.
    pub forged_lines: Vec<Range<usize>>,
}

/// What a request's `x-lunar-allow` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allow {
    /// It is not there.
    Unsaid,
    /// `true`: through the gateway.
    Forced,
    /// Anything else, also several that differ: not through the gateway.
    Forbidden,
}

impl Allow {
    /// Hears one `x-lunar-allow`.
    pub fn hear(&mut self, value: &[u8]) {
        let forced = value == b"true" && *self != Self::Forbidden;
        *self = if forced { Self::Forced } else { Self::Forbidden };
    }
}

impl RequestHead {
    /// Whether the request may be executed twice with the same effect as once (RFC 9110 section 9.2.2). Unknown methods are not.
    pub fn idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

/// Reads a request's head from the first of `bytes`, which may go on behind it. `None`: it is incomplete.
///
/// Reads from the start each time; what that can cost is bounded by `limits`.
///
/// # Errors
/// If it is not understood. More bytes would not change that.
pub fn read_request(bytes: &[u8], limits: Limits) -> Result<Option<RequestHead>, NotUnderstood> {
    let window = window(bytes, limits)?;
    if bytes.starts_with(HTTP2_PREFACE) {
        return Err(NotUnderstood::Http2);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Ok(None);
    }
    let mut places = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let places = &mut places[..limits.headers.min(MAX_HEADERS)];
    let outcome = parsed.parse_with_uninit_headers(window, places);
    let Some(length) = length(outcome, window, limits)? else { return Ok(None) };
    let (method, path) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| NotUnderstood::Syntax(httparse::Error::Token))?;
    if method == Method::CONNECT || !is_origin_form(path) {
        return Err(NotUnderstood::Target);
    }
    let target = path.as_ptr().addr() - window.as_ptr().addr();
    let target = target..target + path.len();
    let version = version(parsed.version);

    let (mut frame, mut host, mut expects_continue) = (Frame::default(), Once::Absent, false);
    let (mut allow, mut allow_lines, mut forged_lines) = (Allow::Unsaid, Vec::new(), Vec::new());
    for field in fields(&window[..length], parsed.headers)? {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            host.hear(Some(field.value));
        } else if is("expect") {
            expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
        } else if is(ALLOW) {
            allow.hear(field.value);
            allow_lines.push(field.line);
        } else if is_forged(field.name) {
            forged_lines.push(field.line);
        } else {
            frame.hear(field.name, field.value, version)?;
        }
    }
    let (host, port) =
        Host::read(host.get().ok_or(NotUnderstood::HostCount)?).map_err(NotUnderstood::Host)?;
    let framing = frame.framing()?.unwrap_or(Framing::None);
    if frame.removes_needed() {
        return Err(NotUnderstood::Connection);
    }
    Ok(Some(RequestHead {
        length,
        method,
        version,
        host,
        port,
        target,
        framing,
        persists: frame.persists(version),
        expects_continue: expects_continue && version == Version::Http11,
        wants_upgrade: frame.upgrade(version),
        allow,
        allow_lines,
        forged_lines,
    }))
}

/// Whether a header that an application sends is one of ours, which it has no say in.
pub fn is_forged(name: &str) -> bool {
    let ours = name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS));
    ours && !name.eq_ignore_ascii_case(CONSUMER_TAG)
}

/// A path and query of bytes that nobody refuses or cuts off, also not `http::Uri` and HAProxy.
pub fn is_origin_form(path: &str) -> bool {
    let good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>' | b'`');
    path.starts_with('/') && path.bytes().all(good)
}
