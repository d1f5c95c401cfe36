//! The head of a response.

use std::{mem::MaybeUninit, time::Duration};

use http::{HeaderValue, Method};

use super::{
    ErrorIndicator, Framing, Limits, MAX_HEADERS, NotUnderstood, RequestHead, Version, fields,
    fields::{Frame, Once},
    length, version, window,
};

/// The longest `x-lunar-sequence-id` that is repeated, in bytes.
const MAX_SEQUENCE_ID: usize = 256;

/// What of a request decides how its response is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseTo {
    /// Its method is HEAD, so there is no body.
    pub head: bool,
    /// It wants another protocol, so 101 may answer it.
    pub upgrade: bool,
}

impl From<&RequestHead> for ResponseTo {
    fn from(request: &RequestHead) -> Self {
        Self { head: request.method == Method::HEAD, upgrade: request.wants_upgrade }
    }
}

/// What a whole head says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// Its bytes, with the empty line; the body begins behind them.
    pub length: usize,
    /// The version.
    pub version: Version,
    /// The status, 100 to 999.
    pub status: u16,
    /// How the body ends. After a 101 there is none, and another protocol begins.
    pub framing: Framing,
    /// Whether the server would use the connection again.
    pub persists: bool,
    /// Whether it says so in words, without which a client that speaks HTTP/1.0 takes it for the last one.
    pub keep_alive: bool,
    /// The code of `x-lunar-error`, if there is one and it is a number.
    pub error_code: Option<u32>,
    /// When the gateway wants the same request again.
    pub retry: Option<Retry>,
    /// Whether an error indicator shows.
    pub indicated: bool,
}

/// What `x-lunar-retry-after` and `x-lunar-sequence-id` say together; one of them alone says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// After so much time.
    pub after: Duration,
    /// With this `x-lunar-sequence-id`.
    pub sequence_id: HeaderValue,
}

impl ResponseHead {
    /// Whether another response follows to the same request: 1xx but 101, after which HTTP is over.
    pub fn interim(&self) -> bool {
        self.status < 200 && !self.upgrades()
    }

    /// Whether another protocol begins behind the head.
    pub fn upgrades(&self) -> bool {
        self.status == 101
    }
}

/// Reads a response's head from the first of `bytes`, which may go on behind it. `None`: it is incomplete.
///
/// # Errors
/// If it is not understood. More bytes would not change that.
pub fn read_response(
    bytes: &[u8],
    limits: Limits,
    to: ResponseTo,
    indicators: &[ErrorIndicator],
) -> Result<Option<ResponseHead>, NotUnderstood> {
    let window = window(bytes, limits)?;
    let mut places = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let places = &mut places[..limits.headers.min(MAX_HEADERS)];
    let parser = httparse::ParserConfig::default();
    let outcome = parser.parse_response_with_uninit_headers(&mut parsed, window, places);
    let Some(length) = length(outcome, window, limits)? else { return Ok(None) };
    let version = version(parsed.version);
    let status = parsed.code.unwrap_or_default();
    if status < 100 {
        return Err(NotUnderstood::Status(status));
    }

    let mut frame = Frame::default();
    let (mut error_code, mut after, mut sequence_id) = (Once::Absent, Once::Absent, Once::Absent);
    let mut indicated = indicators.iter().any(|indicator| indicator.is_status(status));
    for field in fields(&window[..length], parsed.headers)? {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        indicated |= indicators.iter().any(|indicator| indicator.is_header(field.name, field.value));
        if is("x-lunar-error") {
            error_code.hear(number(field.value));
        } else if is("x-lunar-retry-after") {
            after.hear(seconds(field.value));
        } else if is("x-lunar-sequence-id") {
            sequence_id.hear(opaque(field.value));
        } else {
            frame.hear(field.name, field.value, version)?;
        }
    }
    let announced = frame.framing()?;
    let (framing, consistent) = match (status, announced) {
        (101, _) if !to.upgrade => return Err(NotUnderstood::Upgrade),
        (100..200, Some(_)) => return Err(NotUnderstood::InterimBody),
        (100..200, None) => (Framing::None, true),
        // It must not announce a body (RFC 9110 section 8.6); if it does, one may follow that the next reader takes for a response.
        (204, announced) => (Framing::None, matches!(announced, None | Some(Framing::Length(0)))),
        (304, _) => (Framing::None, true),
        _ if to.head => (Framing::None, true),
        (_, Some(framing)) => (framing, true),
        (_, None) => (Framing::UntilClose, false),
    };
    Ok(Some(ResponseHead {
        length,
        version,
        status,
        framing,
        persists: consistent && frame.persists(version),
        keep_alive: frame.keep_alive(),
        error_code: error_code.get(),
        retry: after.get().zip(sequence_id.get()).map(|(after, sequence_id)| Retry { after, sequence_id }),
        indicated: indicated && status >= 200,
    }))
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn number(value: &[u8]) -> Option<u32> {
    // `u32::from_str` takes a sign.
    text(value).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Not negative, not infinite, and no more than a [`Duration`] holds.
fn seconds(value: &[u8]) -> Option<Duration> {
    Duration::try_from_secs_f64(text(value)?.parse().ok()?).ok()
}

fn opaque(value: &[u8]) -> Option<HeaderValue> {
    let fits = (1..=MAX_SEQUENCE_ID).contains(&value.len());
    HeaderValue::from_bytes(value).ok().filter(|_| fits)
}
