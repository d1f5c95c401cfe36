//! One message on its way from one connection to another: a head, and a body whose end is looked for as it passes.

use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{bounds::HEADS, wire::Wire};
use crate::relay::http::{
    body::{BodyScanner, Progress},
    head::Framing,
};

/// How a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flowed {
    /// All of the message has been passed on.
    Over,
    /// The source ended before the message did; all that came has been passed on.
    Cut,
    /// What comes next is no body. All before it has been passed on.
    Malformed,
}

/// Which side a flow failed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Sink,
}

/// A message under way.
#[derive(Debug)]
pub struct Flow {
    /// What goes first.
    first: Bytes,
    /// How many bytes at the front of the source's input are known to belong to the message, and go next.
    ready: usize,
    scanner: BodyScanner,
    until_close: bool,
    malformed: bool,
    flushed: bool,
    /// Bytes that the sink has taken.
    pub sent: u64,
}

impl Flow {
    /// `first`, then `raw` bytes of the source's input, then a body.
    pub fn new(first: Bytes, raw: usize, framing: Framing) -> Self {
        Self {
            first,
            ready: raw,
            scanner: BodyScanner::new(framing, HEADS),
            until_close: framing == Framing::UntilClose,
            malformed: false,
            flushed: true,
            sent: 0,
        }
    }

    /// The body of a request.
    pub fn upload(framing: Framing) -> Self {
        let scanner = BodyScanner::of_request(framing, HEADS);
        Self { scanner, ..Self::new(Bytes::new(), 0, framing) }
    }

    /// Begins anew with another sink: `first` stands for all that has been read of the message.
    pub fn again<S>(&mut self, first: Bytes, from: &mut Wire<S>) {
        from.input.advance(self.ready);
        (self.first, self.ready, self.sent) = (first, 0, 0);
    }

    /// Puts what has not been sent back to the front of the source's input, for somebody who passes on everything.
    pub fn give_back<S>(&mut self, from: &mut Wire<S>) {
        if !self.first.is_empty() {
            let mut all = BytesMut::from(&*std::mem::take(&mut self.first));
            all.extend_from_slice(&from.input);
            from.input = all;
        }
        self.ready = 0;
    }

    /// Whether there is something that the sink has not taken.
    pub fn blocked(&self) -> bool {
        !self.first.is_empty() || self.ready > 0
    }

    /// Moves on. `keep` is shown each byte of the body before it goes.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<A>,
        to: &mut B,
        mut keep: impl FnMut(&[u8]),
    ) -> Poll<Result<Flowed, Failed>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            if let Some(rest) = from.input.get(self.ready..).filter(|rest| !rest.is_empty())
                && !self.malformed
                && !self.scanner.over()
            {
                let scanned = self.scanner.scan(rest);
                keep(rest.get(..scanned.taken).unwrap_or_default());
                self.ready += scanned.taken;
                self.malformed = matches!(scanned.state, Progress::Malformed(_));
            }
            if self.blocked() {
                let body = from.input.get(..self.ready).unwrap_or_default();
                let to = Pin::new(&mut *to);
                // Most messages are in one part, which costs the kernel less to take than a list of one.
                let taken = ready!(match (self.first.is_empty(), body.is_empty()) {
                    (true, _) => to.poll_write(cx, body),
                    (false, true) => to.poll_write(cx, &self.first),
                    (false, false) => {
                        to.poll_write_vectored(cx, &[IoSlice::new(&self.first), IoSlice::new(body)])
                    }
                });
                let taken = taken.map_err(|_| Failed::Sink)?;
                if taken == 0 {
                    return Poll::Ready(Err(Failed::Sink));
                }
                self.flushed = false;
                self.sent += taken as u64;
                let of_first = taken.min(self.first.len());
                self.first.advance(of_first);
                from.input.advance(taken - of_first);
                self.ready -= taken - of_first;
                continue;
            }
            if !self.flushed {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Failed::Sink)?;
                self.flushed = true;
            }
            if self.scanner.over() {
                return Poll::Ready(Ok(Flowed::Over));
            }
            if self.malformed {
                return Poll::Ready(Ok(Flowed::Malformed));
            }
            if from.ended {
                return Poll::Ready(Ok(if self.until_close { Flowed::Over } else { Flowed::Cut }));
            }
            ready!(from.poll_fill(cx)).map_err(|_| Failed::Source)?;
        }
    }
}
