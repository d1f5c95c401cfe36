//! The headers that frame a message, and those that speak of its connection.

use super::{Framing, NotUnderstood, OURS, Version};

/// What they say together.
#[derive(Default)]
pub(super) struct Frame {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    /// `Connection` has the option, and `Upgrade` is there.
    upgrade: (bool, bool),
    removes: bool,
}

impl Frame {
    /// Hears one header.
    pub fn hear(&mut self, name: &str, value: &[u8], version: Version) -> Result<(), NotUnderstood> {
        if name.eq_ignore_ascii_case("content-length") {
            // Equal ones are refused as well: not every reader takes them for one.
            let length = body_length(value).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(NotUnderstood::Length)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked || version == Version::Http10 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(NotUnderstood::Encoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            value.split(|&b| b == b',').map(<[u8]>::trim_ascii).for_each(|option| self.option(option));
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.upgrade.1 = true;
        }
        Ok(())
    }

    fn option(&mut self, option: &[u8]) {
        self.close |= option.eq_ignore_ascii_case(b"close");
        self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        self.upgrade.0 |= option.eq_ignore_ascii_case(b"upgrade");
        let needed = [&b"host"[..], b"content-length", b"transfer-encoding"];
        let prefix = option.get(..OURS.len());
        self.removes |= needed.iter().any(|name| option.eq_ignore_ascii_case(name))
            || prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(OURS.as_bytes()));
    }

    /// The body's framing by these headers; `None` where they name none.
    pub fn framing(&self) -> Result<Option<Framing>, NotUnderstood> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(NotUnderstood::LengthAndEncoding),
            (None, true) => Ok(Some(Framing::Chunked)),
            (length, false) => Ok(length.map(Framing::Length)),
        }
    }

    /// Whether the connection may be used again after the message (RFC 9112 section 9.3).
    pub fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Whether `Connection` says `keep-alive`.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether another protocol is wanted; HTTP/1.0 cannot want one (RFC 9110 section 7.8).
    pub fn upgrade(&self, version: Version) -> bool {
        self.upgrade == (true, true) && version == Version::Http11
    }

    /// Whether the next hop is asked to remove a header that decides where the message goes or ends.
    pub fn removes_needed(&self) -> bool {
        self.removes
    }
}

/// Digits only: `u64::from_str` takes a sign. Readers differ in how large a number they take; no body has 2^63 bytes.
fn body_length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok().filter(|&length| i64::try_from(length).is_ok())
}

/// What a header says that may be there once.
#[derive(Default)]
pub(super) enum Once<T> {
    #[default]
    Absent,
    Said(T),
    /// Twice, or in a way that says nothing.
    Unclear,
}

impl<T> Once<T> {
    pub fn hear(&mut self, value: Option<T>) {
        *self = match (&self, value) {
            (Self::Absent, Some(value)) => Self::Said(value),
            _ => Self::Unclear,
        };
    }

    pub fn get(self) -> Option<T> {
        match self {
            Self::Said(value) => Some(value),
            Self::Absent | Self::Unclear => None,
        }
    }
}
