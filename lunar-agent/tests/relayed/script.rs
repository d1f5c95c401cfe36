//! HTTP/1 as the tests' own providers and gateways read it: plainly. They are asked by the relay, by HAProxy and by real
//! clients only, and never by what is malformed.

use std::io::{self, BufRead, Read};

/// The head of a request or answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it came, with the empty line.
    pub raw: Vec<u8>,
    /// Its first line.
    pub line: String,
    /// Names in lower case, values without white space around them.
    pub headers: Vec<(String, String)>,
}

impl Message {
    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a header that is there once.
    pub fn one(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// Reads a head. `None` if the other side ends the connection first.
pub fn read_head(from: &mut impl BufRead) -> Option<Message> {
    let mut raw = Vec::new();
    while !raw.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut raw).ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&raw).into_owned();
    let mut lines = text.lines();
    let line = lines.next()?.to_owned();
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Some(Message { raw, line, headers })
}

/// Reads the body of a request and forgets it: how many bytes it had.
pub fn skip_body(from: &mut impl BufRead, head: &Message) -> Option<u64> {
    if head.one("transfer-encoding") == Some("chunked") {
        let mut total = 0;
        while let size @ 1.. = u64::from_str_radix(line(from)?.trim(), 16).ok()? {
            total += skip(from, size)?;
            line(from)?;
        }
        // Trailers, and the empty line.
        while !line(from)?.trim().is_empty() {}
        return Some(total);
    }
    skip(from, head.one("content-length").map_or(Some(0), |length| length.parse().ok())?)
}

fn skip(from: &mut impl BufRead, length: u64) -> Option<u64> {
    let read = io::copy(&mut from.take(length), &mut io::sink()).ok()?;
    (read == length).then_some(read)
}

fn line(from: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    (from.read_line(&mut line).ok()? > 0).then_some(line)
}
