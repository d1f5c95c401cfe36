//! Reads the head of a request or response out of the bytes that came so far.
//!
//! `httparse`, which is hyper's own parser, finds lines, names and values. On top of it everything is refused that
//! requests are smuggled with: what one reader of a chain takes for the end of a message, and another does not.

use std::ops::Range;

use httparse::Header;

mod fields;
mod host;
mod indicator;
mod request;
mod response;

pub use host::{Host, HostProblem};
pub use indicator::{ErrorIndicator, ErrorIndicatorError, ErrorIndicatorProblem};
pub use request::{ALLOW, Allow, RequestHead, is_forged, is_origin_form, read_request};
pub use response::{ResponseHead, ResponseTo, Retry, read_response};

/// How the names of all headers begin that interceptor and gateway tell each other things with.
pub const OURS: &str = "x-lunar-";

/// The most headers of a head, whatever [`Limits`] say: their places lie on the stack.
pub const MAX_HEADERS: usize = 256;

/// How large a head may be; a larger one is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes, with the empty line at the end.
    pub bytes: usize,
    /// Headers; no more than [`MAX_HEADERS`] count.
    pub headers: usize,
}

/// The versions that are understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, and trailers.
    Chunked,
    /// The connection ends with it. Responses only.
    UntilClose,
}

/// Why a head is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// It is too long, or would be.
    #[error("the head is longer than {0} bytes")]
    TooLarge(usize),
    /// It has too many headers.
    #[error("the head has more than {0} headers")]
    TooManyHeaders(usize),
    /// It is the preface of an HTTP/2 connection with prior knowledge (RFC 9113 section 3.4).
    #[error("HTTP/2 is spoken")]
    Http2,
    /// An empty line before the first one, which RFC 9112 section 2.2 lets a server skip.
    #[error("the head begins with an empty line")]
    EmptyLine,
    /// Not HTTP/1.0 or 1.1 at all: a folded line, white space before a colon, a control character, another protocol.
    #[error("it is not HTTP/1.0 or 1.1: {0}")]
    Syntax(httparse::Error),
    /// A line ends in LF alone.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// A target of another form than `/path?query`, or with bytes that not everybody takes.
    #[error("the target is not in origin form")]
    Target,
    /// No `Host`, or several.
    #[error("there is not exactly one Host header")]
    HostCount,
    /// A `Host` that names no host.
    #[error("the Host header {0}")]
    Host(HostProblem),
    /// `Content-Length` several times, as a list, or not a number that a body can have.
    #[error("there is not exactly one valid Content-Length")]
    Length,
    /// `Transfer-Encoding` several times, other than `chunked`, or in HTTP/1.0.
    #[error("the Transfer-Encoding is not just chunked, or there must be none")]
    Encoding,
    /// `Content-Length` and `Transfer-Encoding`.
    #[error("there are both a Content-Length and a Transfer-Encoding")]
    LengthAndEncoding,
    /// `Connection` names a header that the next hop must not do without.
    #[error(
        "the Connection header asks for the removal of a header that decides where the request goes or ends"
    )]
    Connection,
    /// A status below 100.
    #[error("the status {0} does not exist")]
    Status(u16),
    /// A 101 that nobody asked for.
    #[error("the protocol is switched and nobody asked for it")]
    Upgrade,
    /// A 1xx that announces a body.
    #[error("an interim response announces a body")]
    InterimBody,
}

/// One header of a whole head.
struct Field<'b> {
    name: &'b str,
    /// Without the white space around it.
    value: &'b [u8],
    /// Its line in the head, with CR LF.
    line: Range<usize>,
}

/// The part that may be a head.
fn window(bytes: &[u8], limits: Limits) -> Result<&[u8], NotUnderstood> {
    // `httparse` skips such lines, with LF alone, too.
    match bytes.first() {
        Some(b'\r' | b'\n') => Err(NotUnderstood::EmptyLine),
        _ => Ok(&bytes[..bytes.len().min(limits.bytes)]),
    }
}

/// What the parser found, as its length. `None`: more is to come, and may.
fn length(
    parsed: httparse::Result<usize>,
    window: &[u8],
    limits: Limits,
) -> Result<Option<usize>, NotUnderstood> {
    match parsed {
        Ok(httparse::Status::Complete(length)) => Ok(Some(length)),
        Ok(httparse::Status::Partial) if window.len() >= limits.bytes => {
            Err(NotUnderstood::TooLarge(limits.bytes))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            Err(NotUnderstood::TooManyHeaders(limits.headers.min(MAX_HEADERS)))
        }
        Err(error) => Err(NotUnderstood::Syntax(error)),
    }
}

/// The headers of a whole head, once it is certain that each of its lines ends in CR LF, which `httparse` does not ask for.
fn fields<'h, 'b>(
    head: &'b [u8],
    headers: &'h [Header<'b>],
) -> Result<impl Iterator<Item = Field<'b>> + 'h, NotUnderstood>
where
    'b: 'h,
{
    let start = |header: &Header<'b>| header.name.as_ptr().addr() - head.as_ptr().addr();
    // Every LF ends a line, so no other place can have one.
    let ended = |at: usize| head[..at].ends_with(b"\r\n");
    if !head.ends_with(b"\r\n\r\n") || !headers.iter().all(|header| ended(start(header))) {
        return Err(NotUnderstood::LineEnd);
    }
    let ends = headers.iter().skip(1).map(start).chain([head.len() - 2]);
    Ok(headers.iter().zip(ends).map(move |(header, end)| Field {
        name: header.name,
        value: header.value,
        line: start(header)..end,
    }))
}

fn version(minor: Option<u8>) -> Version {
    // There are no others in a whole head.
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

#[cfg(test)]
mod tests;
