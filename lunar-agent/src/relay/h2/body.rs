//! Bodies on their way through: a request's, kept for a replay as it goes, and an answer's.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    Via,
    failure::{self, Reset},
    under_way::UnderWay,
    upstream::Permit,
};
use crate::relay::http::head::is_forged;

/// A request's body, which several attempts may send.
pub struct Source<B = Incoming>(Arc<Mutex<Kept<B>>>);

struct Kept<B> {
    body: B,
    /// How much is kept.
    limit: usize,
    /// What was read so far. Copied: the frames share buffers much larger than they are.
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    /// All has been read.
    ended: bool,
    /// The application has broken it off.
    broken: bool,
    /// More was read than is kept.
    overflown: bool,
    /// No other attempt follows, so nothing need be kept.
    last: bool,
    /// The number of the attempt that reads.
    attempt: u32,
}

impl<B> Source<B> {
    /// Of which up to `limit` bytes are kept.
    pub fn new(body: B, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            body,
            limit,
            bytes: BytesMut::new(),
            trailers: None,
            ended: false,
            broken: false,
            overflown: false,
            last: false,
            attempt: 0,
        })))
    }

    /// The body from its start, for another attempt; the one before gets no more of it.
    pub fn attempt(&self) -> Upload<B> {
        let mut kept = self.lock();
        kept.attempt += 1;
        Upload { kept: Arc::clone(&self.0), attempt: kept.attempt, at: 0, done: false }
    }

    /// Whether all that was read is still kept.
    pub fn whole(&self) -> bool {
        !self.lock().overflown
    }

    /// Whether the application has broken it off.
    pub fn broken(&self) -> bool {
        self.lock().broken
    }

    /// No other attempt follows.
    pub fn release(&self) {
        self.lock().last = true;
    }

    fn lock(&self) -> MutexGuard<'_, Kept<B>> {
        lock(&self.0)
    }
}

fn lock<B>(kept: &Mutex<Kept<B>>) -> MutexGuard<'_, Kept<B>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub enum UploadError<E: std::error::Error + 'static> {
    /// The application broke it off.
    #[error(transparent)]
    Application(#[from] E),
    /// Another attempt sends it.
    #[error("another attempt sends this body")]
    Superseded,
}

/// One attempt's view of a request's body.
pub struct Upload<B = Incoming> {
    kept: Arc<Mutex<Kept<B>>>,
    attempt: u32,
    /// How much it has had of what is kept.
    at: usize,
    /// It has had everything.
    done: bool,
}

impl<B> Kept<B> {
    /// Enters what was read and, as long as that may be wanted again, keeps it.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended = true;
        }
        let Some(data) = frame.data_ref() else { return };
        if self.last {
            // An earlier attempt may have left something.
            self.bytes = BytesMut::new();
            self.overflown |= !data.is_empty();
        }
        if self.overflown {
            return;
        }
        if self.bytes.len() + data.len() > self.limit {
            self.overflown = true;
            self.bytes = BytesMut::new();
        } else {
            self.bytes.extend_from_slice(data);
        }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    type Data = Bytes;
    type Error = UploadError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let upload = &mut *self;
        let mut kept = lock(&upload.kept);
        if kept.attempt != upload.attempt {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(again) = kept.bytes.get(upload.at..).filter(|again| !again.is_empty()) {
            let again = Bytes::copy_from_slice(again);
            upload.at += again.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if upload.done || kept.ended {
            let trailers = kept.trailers.clone().filter(|_| !upload.done);
            upload.done = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match ready!(Pin::new(&mut kept.body).poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    drop_forged(trailers);
                }
                kept.keep(&frame);
                upload.at = kept.bytes.len();
                upload.done = kept.ended;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                kept.broken = true;
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                kept.ended = true;
                upload.done = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let kept = lock(&self.kept);
        let read = kept.body.is_end_stream() || kept.ended;
        self.done || self.at == kept.bytes.len() && read && kept.trailers.is_none()
    }

    /// None, so that hyper adds no length that the application has not said.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What the gateway is told in headers of ours is the relay's to say, wherever they stand.
fn drop_forged(trailers: &mut HeaderMap) {
    let names: Vec<_> = trailers.keys().filter(|name| is_forged(name.as_str())).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// An answer's body on its way to the application.
pub struct Download {
    body: Incoming,
    via: Via,
    under_way: UnderWay,
    /// The stream is open as long as its answer is.
    _permit: Permit,
}

impl Download {
    /// Of an answer that came this way.
    pub fn new(body: Incoming, via: Via, under_way: UnderWay, permit: Permit) -> Self {
        Self { body, via, under_way, _permit: permit }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Reset;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(polled.map(|frame| {
            frame.map_err(|error| {
                // A reset of the stream alone may be the provider's own, passed on.
                if !failure::is_reset(&error) {
                    self.under_way.relay().counts.one(self.via.failed());
                }
                Reset::with(failure::reason(&error))
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// None, so that hyper adds no length that was not said.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests;
