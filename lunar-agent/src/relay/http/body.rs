//! Finds the end of a body in the bytes that pass, and changes none.
//!
//! Chunks are read by the grammar (RFC 9112 section 7.1) and the same strict rules as heads: each line ends in CR LF, and what another
//! reader might take for the end of a line is malformed. White space behind a chunk's size, which some servers fill their lines
//! up with, is taken: it leaves nobody a choice.

use super::head::{Framing, Limits, is_forged};

/// The most bytes of a chunk's line behind the digits, without CR LF.
const MAX_EXTENSION: usize = 1024;
/// The most digits of a chunk's size: 64 bits.
const MAX_DIGITS: u8 = 16;
/// How much of a trailer's name is looked at: a byte more than the longest that makes a difference.
const MAX_NAME: usize = 21;

/// Where a body stands after some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// How many of the bytes belong to it.
    pub taken: usize,
    /// What comes next.
    pub state: Progress,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More of the body; all bytes were taken.
    More,
    /// Nothing: it is over.
    Over,
    /// A byte that no body has, right behind those that were taken.
    Malformed(Malformed),
}

/// Why a chunked body is malformed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// No digit, too many, or something else than an extension behind them.
    #[error("a chunk has no size of 1 to 16 hexadecimal digits")]
    Size,
    /// A control character, or too many bytes.
    #[error("a chunk's extension has a control character, or more than {MAX_EXTENSION} bytes")]
    Extension,
    /// A line or a chunk that does not end in CR LF.
    #[error("a line or a chunk does not end in CR LF")]
    LineEnd,
    /// A trailer with a bad name or value, a folded one, or too many; in a request also one of ours, in which an application
    /// has no say.
    #[error("a trailer is malformed or forged, or the trailers are too large")]
    Trailer,
}

/// Scans one body.
#[derive(Clone, Debug)]
pub struct BodyScanner {
    at: At,
    limits: Limits,
    /// Bytes and lines of the trailers.
    trailers: Limits,
    /// The beginning of a trailer's name, where names matter.
    name: Option<([u8; MAX_NAME], usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Bytes(u64),
    UntilClose,
    Size {
        digits: u8,
        size: u64,
    },
    /// Behind the digits; only white space so far, or an extension.
    Extension {
        bytes: usize,
        begun: bool,
        size: u64,
    },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Over,
    Malformed(Malformed),
}

impl BodyScanner {
    /// At the start of a body; `limits` bound all its trailers together.
    pub fn new(framing: Framing, limits: Limits) -> Self {
        let at = match framing {
            Framing::None | Framing::Length(0) => At::Over,
            Framing::Length(length) => At::Bytes(length),
            Framing::Chunked => At::Size { digits: 0, size: 0 },
            Framing::UntilClose => At::UntilClose,
        };
        Self { at, limits, trailers: Limits { bytes: 0, headers: 0 }, name: None }
    }

    /// The same for a request's body, whose trailers may be [forged](is_forged) as headers may.
    pub fn of_request(framing: Framing, limits: Limits) -> Self {
        Self { name: Some(([0; MAX_NAME], 0)), ..Self::new(framing, limits) }
    }

    /// Whether the body is over; one without bytes is from the start, one until the connection closes never.
    pub fn over(&self) -> bool {
        self.at == At::Over
    }

    /// Takes the bytes that follow those that were taken before.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            taken += match self.at {
                At::Over | At::Malformed(_) => break,
                At::UntilClose => rest.len(),
                At::Bytes(left) => self.pass(rest, left, At::Bytes, At::Over),
                At::Data(left) => self.pass(rest, left, At::Data, At::DataCr),
                line => {
                    self.at = self.step(line, rest[0]);
                    // The byte that makes it malformed is not taken.
                    usize::from(!matches!(self.at, At::Malformed(_)))
                }
            };
        }
        let state = match self.at {
            At::Over => Progress::Over,
            At::Malformed(why) => Progress::Malformed(why),
            _ => Progress::More,
        };
        Scanned { taken, state }
    }

    /// Passes bytes that mean nothing.
    fn pass(&mut self, rest: &[u8], left: u64, more: fn(u64) -> At, then: At) -> usize {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        self.at = match left - taken as u64 {
            0 => then,
            left => more(left),
        };
        taken
    }

    /// One byte outside the data.
    fn step(&mut self, at: At, byte: u8) -> At {
        let line_feed = |next: At| if byte == b'\n' { next } else { At::Malformed(Malformed::LineEnd) };
        match at {
            At::Size { digits, size } => size_digit(digits, size, byte),
            At::Extension { bytes, begun, size } => extension(bytes, begun, size, byte),
            At::SizeLf(0) => line_feed(At::TrailerStart),
            At::SizeLf(size) => line_feed(At::Data(size)),
            At::DataCr if byte == b'\r' => At::DataLf,
            At::DataCr => At::Malformed(Malformed::LineEnd),
            At::DataLf => line_feed(At::Size { digits: 0, size: 0 }),
            At::TrailerLf => line_feed(At::TrailerStart),
            At::LastLf => line_feed(At::Over),
            At::TrailerStart if byte == b'\r' => At::LastLf,
            At::TrailerStart | At::TrailerName | At::TrailerValue => self.trailer(at, byte),
            // They take no single bytes.
            At::Bytes(_) | At::UntilClose | At::Data(_) | At::Over | At::Malformed(_) => at,
        }
    }

    fn trailer(&mut self, at: At, byte: u8) -> At {
        self.trailers.bytes += 1;
        self.trailers.headers += usize::from(at == At::TrailerStart);
        if self.trailers.bytes > self.limits.bytes || self.trailers.headers > self.limits.headers {
            return At::Malformed(Malformed::Trailer);
        }
        match (at, byte) {
            (At::TrailerName, b':') if self.forged() => At::Malformed(Malformed::Trailer),
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerStart | At::TrailerName, byte) if is_token(byte) => {
                self.hear_name(at, byte);
                At::TrailerName
            }
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, b'\n') => At::Malformed(Malformed::LineEnd),
            (At::TrailerValue, byte) if is_text(byte) => At::TrailerValue,
            _ => At::Malformed(Malformed::Trailer),
        }
    }
}

impl BodyScanner {
    fn hear_name(&mut self, at: At, byte: u8) {
        let Some((name, length)) = &mut self.name else { return };
        if at == At::TrailerStart {
            *length = 0;
        }
        if let Some(place) = name.get_mut(*length) {
            *place = byte;
            *length += 1;
        }
    }

    fn forged(&self) -> bool {
        let name = self.name.as_ref().and_then(|(name, length)| name.get(..*length));
        name.and_then(|name| std::str::from_utf8(name).ok()).is_some_and(is_forged)
    }
}

fn size_digit(digits: u8, size: u64, byte: u8) -> At {
    if let Some(digit) = char::from(byte).to_digit(16)
        && digits < MAX_DIGITS
    {
        return At::Size { digits: digits + 1, size: size << 4 | u64::from(digit) };
    }
    match byte {
        b'\r' | b';' | b' ' | b'\t' if digits > 0 => extension(0, false, size, byte),
        b'\n' if digits > 0 => At::Malformed(Malformed::LineEnd),
        _ => At::Malformed(Malformed::Size),
    }
}

fn extension(bytes: usize, begun: bool, size: u64, byte: u8) -> At {
    let more = |begun| At::Extension { bytes: bytes + 1, begun, size };
    match byte {
        b'\r' => At::SizeLf(size),
        b'\n' => At::Malformed(Malformed::LineEnd),
        _ if bytes == MAX_EXTENSION => At::Malformed(Malformed::Extension),
        b' ' | b'\t' | b';' => more(begun || byte == b';'),
        byte if begun && is_text(byte) => more(true),
        _ if begun => At::Malformed(Malformed::Extension),
        _ => At::Malformed(Malformed::Size),
    }
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a field's value may have: no control character but the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests;
