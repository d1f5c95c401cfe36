//! One side of a session: a connection, and what has been read of it.

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::bounds::CHUNK;

/// The room that is worth a read.
const MIN_ROOM: usize = 2 << 10;

/// A connection, and what has been read of it and not been used.
#[derive(Debug)]
pub struct Wire<S> {
    /// The connection.
    pub stream: S,
    /// What has been read. Holds no memory while it is empty and nothing comes.
    pub input: BytesMut,
    /// Whether the other side has ended its direction.
    pub ended: bool,
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// A connection of which `input` has been read.
    pub fn new(stream: S, input: BytesMut) -> Self {
        Self { stream, input, ended: false }
    }

    /// Reads more behind what is there, and says whether there was more. Once it has ended it is not to be called again.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.input.capacity() - self.input.len() < MIN_ROOM {
            self.input.reserve(CHUNK);
        }
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match read {
            Poll::Pending => {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                Poll::Pending
            }
            Poll::Ready(read) => {
                let more = read? > 0;
                self.ended = !more;
                Poll::Ready(Ok(more))
            }
        }
    }

    /// Reads ahead, a bounded amount, to learn of the connection's end. Pending unless it has failed.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.input.len() < CHUNK {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}
