//! The head of a response.

use std::{mem::MaybeUninit, time::Duration};

use http::{HeaderValue, Method, response::Parts};

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
    /// The head of a final response that did not come as HTTP/1: what it says of the gateway. How its body ends and whether the
    /// connection persists is not its head's business there.
    pub fn of(response: &Parts, indicators: &[ErrorIndicator]) -> Self {
        let status = response.status.as_u16();
        let mut said = Said::new(status, indicators);
        for (name, value) in &response.headers {
            said.hear(name.as_str(), value.as_bytes());
        }
        Self {
            length: 0,
            version: Version::Http11,
            status,
            framing: Framing::None,
            persists: true,
            keep_alive: false,
            error_code: said.error_code.get(),
            retry: retry(said.after, said.sequence_id),
            indicated: said.indicated,
        }
    }

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
    let mut said = Said::new(status, indicators);
    for field in fields(&window[..length], parsed.headers)? {
        if !said.hear(field.name, field.value) {
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
        error_code: said.error_code.get(),
        retry: retry(said.after, said.sequence_id),
        indicated: said.indicated && status >= 200,
    }))
}

/// What a response says of the gateway.
struct Said<'i> {
    indicators: &'i [ErrorIndicator],
    indicated: bool,
    error_code: Once<u32>,
    after: Once<Duration>,
    sequence_id: Once<HeaderValue>,
}

impl<'i> Said<'i> {
    fn new(status: u16, indicators: &'i [ErrorIndicator]) -> Self {
        let indicated = indicators.iter().any(|indicator| indicator.is_status(status));
        let (error_code, after, sequence_id) = (Once::Absent, Once::Absent, Once::Absent);
        Self { indicators, indicated, error_code, after, sequence_id }
    }

    /// Hears one header; whether it is one of the gateway's own.
    fn hear(&mut self, name: &str, value: &[u8]) -> bool {
        let is = |ours: &str| name.eq_ignore_ascii_case(ours);
        self.indicated |= self.indicators.iter().any(|indicator| indicator.is_header(name, value));
        if is("x-lunar-error") {
            self.error_code.hear(number(value));
        } else if is("x-lunar-retry-after") {
            self.after.hear(seconds(value));
        } else if is("x-lunar-sequence-id") {
            self.sequence_id.hear(opaque(value));
        } else {
            return false;
        }
        true
    }
}

fn retry(after: Once<Duration>, sequence_id: Once<HeaderValue>) -> Option<Retry> {
    after.get().zip(sequence_id.get()).map(|(after, sequence_id)| Retry { after, sequence_id })
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
