//! One attempt at having a request answered: it goes out, and the head of the final answer comes back, or does not.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use tokio::{io::AsyncWrite, net::TcpStream, time::timeout};

use super::{
    bounds::{HEADS, LOOK},
    reading::worth_a_try,
    request::{State, Upload},
    wire::Wire,
};
use crate::relay::{
    http::head::{ErrorIndicator, ResponseHead, ResponseTo, read_response},
    upstream::{Stream, has_failed},
};

/// How an attempt ended.
#[derive(Debug)]
pub enum Answer {
    /// The head of the final answer lies at the front of what was read.
    Head(ResponseHead),
    /// What was read is no answer that is understood.
    NotUnderstood,
    /// There will be no answer.
    Lost {
        /// Whether the connection ended in order.
        in_order: bool,
        /// Whether nothing came at all.
        untouched: bool,
    },
    /// It was not waited for any longer.
    GivenUp,
    /// The body of the request is none; what came before it has been sent.
    Malformed,
    /// The application has gone.
    Gone,
}

/// An attempt under way.
pub struct Attempt<'a> {
    /// The application's side.
    pub client: &'a mut Wire<TcpStream>,
    /// Whoever is to answer.
    pub upstream: &'a mut Wire<Stream>,
    /// The request.
    pub upload: &'a mut Upload,
    /// How its answer is read.
    pub to: ResponseTo,
    /// What shows that the gateway failed.
    pub indicators: &'a [ErrorIndicator],
    /// Whether the application waits for a 100 before it sends the body.
    pub expects_continue: bool,
}

/// What has come of the answer.
#[derive(Default)]
struct Coming {
    /// How much there was when it was last tried to read the head.
    tried: usize,
    /// Bytes of interim answers at the front of what was read, which go to the application.
    interim: usize,
    any: bool,
    shut: bool,
}

impl Attempt<'_> {
    /// Sends the request and waits for the final answer's head. Interim answers are passed on. While it is the other side's turn,
    /// `given_up` is asked now and then whether to wait no longer.
    pub async fn answer(mut self, given_up: impl Fn() -> bool) -> Answer {
        let mut coming = Coming::default();
        loop {
            if let Ok(answer) = timeout(LOOK, poll_fn(|cx| self.poll(cx, &mut coming))).await {
                return answer;
            }
            if self.client.ended && has_failed(&self.client.stream) {
                return Answer::Gone;
            }
            let held_up = self.expects_continue && !coming.any && self.client.input.is_empty();
            if (self.upload.waits_for_the_other_side() || held_up) && given_up() {
                return Answer::GivenUp;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, coming: &mut Coming) -> Poll<Answer> {
        self.upload.poll(cx, self.client, &mut self.upstream.stream);
        match self.upload.state() {
            State::Malformed => return Poll::Ready(Answer::Malformed),
            State::Gone => return Poll::Ready(Answer::Gone),
            // The other side is to see that it will get no more.
            State::Cut if !coming.shut => {
                coming.shut = Pin::new(&mut self.upstream.stream).poll_shutdown(cx).is_ready();
            }
            State::Cut | State::Going => {}
            State::Over | State::Refused => {
                if self.client.poll_failure(cx).is_ready() {
                    return Poll::Ready(Answer::Gone);
                }
            }
        }
        loop {
            match self.poll_interim(cx, coming) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Answer::Gone),
                Poll::Pending => return Poll::Pending,
            }
            if worth_a_try(coming.tried, &self.upstream.input) {
                coming.tried = self.upstream.input.len();
                match read_response(&self.upstream.input, HEADS, self.to, self.indicators) {
                    Ok(Some(head)) if head.interim() => {
                        (coming.interim, coming.tried) = (head.length, 0);
                        continue;
                    }
                    Ok(Some(head)) => return Poll::Ready(Answer::Head(head)),
                    Ok(None) => {}
                    Err(why) => {
                        tracing::debug!(%why, "an answer is not understood");
                        return Poll::Ready(Answer::NotUnderstood);
                    }
                }
            }
            match ready!(self.upstream.poll_fill(cx)) {
                Ok(true) => coming.any = true,
                Ok(false) => return Poll::Ready(Answer::Lost { in_order: true, untouched: !coming.any }),
                Err(_) => return Poll::Ready(Answer::Lost { in_order: false, untouched: !coming.any }),
            }
        }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>, coming: &mut Coming) -> Poll<io::Result<()>> {
        while let Some(interim) = self.upstream.input.get(..coming.interim).filter(|i| !i.is_empty()) {
            let taken = ready!(Pin::new(&mut self.client.stream).poll_write(cx, interim))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.upstream.input.advance(taken);
            coming.interim -= taken;
        }
        Poll::Ready(Ok(()))
    }
}
