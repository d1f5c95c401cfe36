//! What a server says first. Until it is seen to speak HTTP/2, nothing is sent that it could execute.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// The bytes before a frame's payload (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;
/// The longest payload before anything else is agreed on (section 4.2).
const MAX_PAYLOAD: usize = 16 << 10;
const SETTINGS: u8 = 4;
/// The bytes of one setting.
const SETTING: usize = 6;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];

/// What a server says that it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// The most streams at a time.
    pub streams: Option<u32>,
    /// The largest head, as RFC 9113 section 6.5.2 counts.
    pub head: Option<u32>,
}

/// What a connection's first bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Greeting {
    /// The server's preface: HTTP/2 is spoken (RFC 9113 section 3.4).
    Http2(Terms),
    /// Anything else.
    Other,
}

/// Reads it from the first of a connection's bytes. `None`: it is incomplete.
pub fn read(bytes: &[u8]) -> Option<Greeting> {
    let (head, payload) = bytes.split_first_chunk::<FRAME_HEAD>()?;
    let &[a, b, c, kind, flags, id @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    // The first bit of the id is reserved, and says nothing.
    let stream = u32::from_be_bytes(id) << 1;
    if kind != SETTINGS
        || flags & ACK != 0
        || stream != 0
        || length > MAX_PAYLOAD
        || !length.is_multiple_of(SETTING)
    {
        return Some(Greeting::Other);
    }
    let mut terms = Terms::default();
    for setting in payload.get(..length)?.chunks_exact(SETTING) {
        let Some((name, value)) = setting.split_first_chunk() else { continue };
        let value = value.try_into().map(u32::from_be_bytes).ok();
        // Of several, the last one counts (section 6.5.3).
        match *name {
            MAX_CONCURRENT_STREAMS => terms.streams = value,
            MAX_HEADER_LIST_SIZE => terms.head = value,
            _ => {}
        }
    }
    Some(Greeting::Http2(terms))
}

/// A connection whose greeting is told as it passes.
pub struct Greeted<T> {
    io: T,
    first: Vec<u8>,
    tell: Option<oneshot::Sender<Greeting>>,
}

impl<T> Greeted<T> {
    /// Watches `io`. What is told is lost if the connection ends before its greeting.
    pub fn new(io: T) -> (Self, oneshot::Receiver<Greeting>) {
        let (tell, told) = oneshot::channel();
        (Self { io, first: Vec::new(), tell: Some(tell) }, told)
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(tell) = self.tell.take() else { return };
        let room = (FRAME_HEAD + MAX_PAYLOAD).saturating_sub(self.first.len());
        self.first.extend(bytes.iter().take(room));
        match read(&self.first) {
            Some(greeting) => {
                self.first = Vec::new();
                // Nobody may be waiting any more.
                let _ = tell.send(greeting);
            }
            None => self.tell = Some(tell),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.hear(buf.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const WITH: &[u8] =
        b"\0\0\x18\x04\0\0\0\0\0\0\x04\0\0\xff\xff\0\x03\0\0\0\x64\0\x06\0\0\x20\0\0\x05\0\0\x40\0";
    const TERMS: Terms = Terms { streams: Some(100), head: Some(8192) };

    #[test]
    fn a_settings_frame_is_the_greeting_and_names_the_limits() {
        assert_eq!(read(PLAIN), Some(Greeting::Http2(Terms::default())));
        assert_eq!(read(WITH), Some(Greeting::Http2(TERMS)));
        let behind = [WITH, b"\0\0\0\x04\x01\0\0\0\0"].concat();
        assert_eq!(read(&behind), Some(Greeting::Http2(TERMS)));
    }

    #[test]
    fn anything_else_is_no_greeting() {
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"\0\0\0\x04\x01\0\0\0\0",
            b"\0\0\0\x04\0\0\0\0\x01",
            b"\0\0\x05\x04\0\0\0\0\0",
            b"\x01\0\0\x04\0\0\0\0\0",
            b"\0\0\0\x07\0\0\0\0\0",
            b"220 mail ready\r\n",
        ] {
            assert_eq!(read(other), Some(Greeting::Other), "{other:?}");
        }
    }

    #[test]
    fn no_part_of_a_greeting_is_taken_for_it() {
        for length in 0..WITH.len() {
            assert_eq!(read(&WITH[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), settings in any::<bool>()) {
            let mut bytes = bytes;
            if settings && bytes.len() > 9 {
                bytes[..9].copy_from_slice(b"\0\0\x0c\x04\0\0\0\0\0");
            }
            let _ = read(&bytes);
        }
    }
}
