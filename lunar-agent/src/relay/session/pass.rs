//! An answer on its way to the application, while the rest of the request may still be on its own.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, net::TcpStream, time::timeout};

use super::{
    Party,
    bounds::HALF_LOOK,
    flow::{Failed, Flow, Flowed},
    request::{State, Upload},
    wire::Wire,
};
use crate::relay::upstream::{Stream, has_failed};

/// How the passing of an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    /// Answer and request are over.
    Whole,
    /// The answer is over, and nobody takes the rest of the request.
    Early,
    /// The connection ended in order, and the answer was not over.
    Cut,
    /// The connection failed, and the answer was not over.
    Broken,
    /// What comes next, in either direction, is no body.
    Malformed,
    /// The application has gone.
    Gone,
}

/// An answer under way.
pub struct Pass<'a> {
    /// The application's side.
    pub client: &'a mut Wire<TcpStream>,
    /// Whoever answers.
    pub upstream: &'a mut Wire<Stream>,
    /// The request.
    pub upload: &'a mut Upload,
    /// The answer.
    pub answer: &'a mut Flow,
    /// Whether whoever answers reads the rest of a request that it has answered.
    pub reads_on: bool,
    /// Who answers.
    pub from: Party,
}

impl Pass<'_> {
    /// Passes the answer on.
    pub async fn pass(mut self) -> Passed {
        self.upload.forget();
        let (mut over, mut shut) = (false, false);
        loop {
            // Only one that has ended may be gone without a sign.
            let ended = self.client.ended;
            let step = poll_fn(|cx| self.poll(cx, &mut over, &mut shut, ended));
            let step = if ended { timeout(HALF_LOOK, step).await } else { Ok(step.await) };
            match step {
                Ok(Some(passed)) => return passed,
                Ok(None) => {}
                Err(_) if has_failed(&self.client.stream) => return Passed::Gone,
                Err(_) => {}
            }
        }
    }

    /// `None`: the application's side has ended, and did not before.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        over: &mut bool,
        shut: &mut bool,
        ended: bool,
    ) -> Poll<Option<Passed>> {
        self.upload.poll(cx, self.client, &mut self.upstream.stream);
        if self.upload.state() == State::Malformed && self.from == Party::Gateway {
            self.upload.refuse();
        }
        if self.upload.state() == State::Cut && !*shut {
            *shut = Pin::new(&mut self.upstream.stream).poll_shutdown(cx).is_ready();
        }
        if !*over {
            match self.answer.poll(cx, self.upstream, &mut self.client.stream, |_| {}) {
                Poll::Ready(Ok(Flowed::Over)) => *over = true,
                Poll::Ready(Ok(Flowed::Malformed)) => return Poll::Ready(Some(Passed::Malformed)),
                Poll::Ready(Ok(Flowed::Cut)) => return Poll::Ready(Some(Passed::Cut)),
                Poll::Ready(Err(Failed::Source)) => return Poll::Ready(Some(Passed::Broken)),
                Poll::Ready(Err(Failed::Sink)) => return Poll::Ready(Some(Passed::Gone)),
                Poll::Pending => {}
            }
        }
        match (self.upload.state(), *over) {
            (State::Gone, _) => return Poll::Ready(Some(Passed::Gone)),
            (State::Malformed, _) => return Poll::Ready(Some(Passed::Malformed)),
            (State::Over, true) => return Poll::Ready(Some(Passed::Whole)),
            (State::Going, true) if self.reads_on => {}
            (State::Going | State::Cut | State::Refused, true) => return Poll::Ready(Some(Passed::Early)),
            (State::Going, false) => {}
            (State::Over | State::Cut | State::Refused, false) => {
                if self.client.poll_failure(cx).is_ready() {
                    return Poll::Ready(Some(Passed::Gone));
                }
            }
        }
        if self.client.ended && !ended { Poll::Ready(None) } else { Poll::Pending }
    }
}
