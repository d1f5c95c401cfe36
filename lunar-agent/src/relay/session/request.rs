//! One request of an application, and what has been seen of its body.

use std::task::{Context, Poll};

use bytes::Buf;
use tokio::{io::AsyncWrite, net::TcpStream, time::Instant};
use uuid::{Builder, Uuid};

use super::{
    flow::{Failed, Flow, Flowed},
    wire::Wire,
};
use crate::relay::{http::head::RequestHead, replay::Situation};

/// A request whose head is complete.
pub struct Request {
    /// What the head says.
    pub head: RequestHead,
    /// The head as it came.
    pub raw: Box<[u8]>,
    /// What it is called, in all attempts.
    pub id: Uuid,
    /// When its head was complete.
    pub begun: Instant,
    /// Its way to whoever answers it.
    pub upload: Upload,
}

impl Request {
    /// Takes the head off the front of what was read; `keep` bytes of the body are kept for a replay.
    pub fn take(head: RequestHead, client: &mut Wire<TcpStream>, keep: usize) -> Self {
        let raw = client.input.get(..head.length).unwrap_or_default().into();
        client.input.advance(head.length);
        let upload =
            Upload { flow: Flow::upload(head.framing), kept: Some(Vec::new()), keep, state: State::Going };
        let id = Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        Self { head, raw, id, begun: Instant::now(), upload }
    }

    /// What stands now.
    pub fn situation(&self) -> Situation {
        Situation { body_whole: self.upload.kept.is_some(), age: self.begun.elapsed() }
    }
}

/// The way of a request to whoever answers it.
pub struct Upload {
    flow: Flow,
    /// What has been read of the body, while it is all of it.
    kept: Option<Vec<u8>>,
    keep: usize,
    state: State,
}

/// How far a request has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is more of it, or there may be.
    Going,
    /// All of it has been passed on.
    Over,
    /// The application ended before it did; all that came has been passed on.
    Cut,
    /// Whoever should take it no longer does.
    Refused,
    /// What comes next is no body.
    Malformed,
    /// The application's connection has failed.
    Gone,
}

impl Upload {
    /// Begins anew, with `head` and all of the body that was read. That is all there was, unless more was read than is kept.
    pub fn begin(&mut self, mut head: Vec<u8>, client: &mut Wire<TcpStream>) {
        head.extend_from_slice(self.kept.as_deref().unwrap_or_default());
        self.flow.again(head.into(), client);
        self.state = State::Going;
    }

    /// Puts what has not been sent back to the front of what was read, for somebody who passes on everything.
    pub fn give_back(&mut self, client: &mut Wire<TcpStream>) {
        self.flow.give_back(client);
    }

    /// How far it has gone.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether all of the body that was read is kept.
    pub fn whole(&self) -> bool {
        self.kept.is_some()
    }

    /// From now on nothing need be kept.
    pub fn forget(&mut self) {
        self.kept = None;
    }

    /// Nothing more of it goes to anybody.
    pub fn refuse(&mut self) {
        self.state = State::Refused;
    }

    /// Bytes, with the head, that were taken since it began anew.
    pub fn sent(&self) -> u64 {
        self.flow.sent
    }

    /// Whether it is not for the application to go on.
    pub fn waits_for_the_other_side(&self) -> bool {
        self.state != State::Going || self.flow.blocked()
    }

    /// Moves on as far as it goes at the moment.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Wire<TcpStream>,
        to: &mut (impl AsyncWrite + Unpin),
    ) {
        if self.state != State::Going {
            return;
        }
        let Self { flow, kept, keep, .. } = self;
        let moved = flow.poll(cx, client, to, |bytes| match kept {
            Some(so_far) if so_far.len() + bytes.len() <= *keep => so_far.extend_from_slice(bytes),
            Some(_) => *kept = None,
            None => {}
        });
        if let Poll::Ready(moved) = moved {
            self.state = match moved {
                Ok(Flowed::Over) => State::Over,
                Ok(Flowed::Cut) => State::Cut,
                Ok(Flowed::Malformed) => State::Malformed,
                Err(Failed::Sink) => State::Refused,
                Err(Failed::Source) => State::Gone,
            };
        }
    }
}
