//! Whose turn it is while a request is on its way: only the provider's silence counts against the provider.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{sync::watch, time::sleep};

/// Who must do something next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// The client owes more of the body.
    Client,
    /// The provider has yet to take what there is, or to answer.
    Provider,
}

/// A request's body on its way to the provider.
pub struct Upload {
    body: Incoming,
    turn: watch::Sender<Turn>,
}

/// What is seen of it from where the answer is waited for.
pub struct Turns(watch::Receiver<Turn>);

/// Watches `body` being sent.
pub fn watched(body: Incoming) -> (Upload, Turns) {
    let (turn, turns) = watch::channel(Turn::Provider);
    (Upload { body, turn }, Turns(turns))
}

impl Turns {
    /// What `answer` brings, or `None` if it is the provider's turn for `limit` without anything happening.
    pub async fn wait<T>(mut self, answer: impl Future<Output = T>, limit: Duration) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let turn = *self.0.borrow_and_update();
            tokio::select! {
                biased;
                answer = &mut answer => return Some(answer),
                // The body is gone, and with it the last change, when all of it was sent.
                Ok(()) = self.0.changed() => {}
                () = sleep(limit), if turn == Turn::Provider => return None,
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.turn.send_replace(if polled.is_pending() { Turn::Client } else { Turn::Provider });
        Poll::Ready(ready!(polled))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
