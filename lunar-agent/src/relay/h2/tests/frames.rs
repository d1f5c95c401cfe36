//! HTTP/2 by hand: frames as an application might send them, and what comes back.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::scene::LONG;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITISED: u8 = 0x20;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block in which nothing is compressed (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match text.len() {
                short @ ..127 => block.push(short as u8),
                long => {
                    block.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        block.push((rest % 128) as u8 | 128);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The fields of a request to a wanted host, and more.
pub fn fields<'a>(method: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [(":method", method), (":scheme", "http"), (":authority", "a.example"), (":path", "/")];
    usual.iter().chain(more).copied().collect()
}

/// A whole request without a body.
pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block(&fields("GET", &[])))
}

/// The head of one with a body.
pub fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block(&fields("POST", more)))
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// The connection ended; with this error, if it said.
    End(Option<u32>),
    /// A stream was reset with this error.
    Reset(u32, u32),
    /// A stream was answered.
    Answer(u32),
    /// A ping was.
    Pong([u8; 8]),
}

/// An application's end of a connection.
pub struct Raw {
    stream: TcpStream,
    /// The error of its GOAWAY.
    said: Option<u32>,
}

impl Raw {
    pub async fn connect(to: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(to).await.expect("connect"), said: None }
    }

    /// After the preface and empty settings.
    pub async fn greeted(to: SocketAddr) -> Self {
        let mut raw = Self::connect(to).await;
        raw.send([PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
        raw
    }

    /// What the other side does not take any more is lost.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = timeout(Duration::from_secs(5), self.stream.write_all(bytes.as_ref())).await;
    }

    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(id), payload))
    }

    /// What comes next, without what is usual. After the end there is nothing.
    async fn next(&mut self) -> Came {
        let code = |payload: &[u8], at: usize| {
            payload.get(at..at + 4).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes)
        };
        loop {
            match timeout(LONG, self.frame()).await.expect("something comes") {
                None => return Came::End(self.said),
                Some((GOAWAY, _, _, payload)) => self.said = code(&payload, 4),
                Some((RST_STREAM, _, stream, payload)) => {
                    return Came::Reset(stream, code(&payload, 0).expect("four bytes"));
                }
                Some((HEADERS, _, stream, _)) => return Came::Answer(stream),
                Some((PING, ACK, _, payload)) => return Came::Pong(payload.try_into().expect("eight bytes")),
                Some(_) => {}
            }
        }
    }

    /// All that comes up to what is waited for, or the end.
    pub async fn until(&mut self, enough: impl Fn(Came) -> bool) -> Vec<Came> {
        let mut all = Vec::new();
        loop {
            let came = self.next().await;
            all.push(came);
            if enough(came) || matches!(came, Came::End(_)) {
                return all;
            }
        }
    }

    /// Whether the connection still works. What comes before that shows is lost.
    pub async fn sound(&mut self) -> bool {
        self.send(frame(PING, 0, 0, b"are you?")).await;
        let pong = Came::Pong(*b"are you?");
        self.until(|came| came == pong).await.contains(&pong)
    }
}
