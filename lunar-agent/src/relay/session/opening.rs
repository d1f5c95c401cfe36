//! What comes first: the head of a request, something else, or silence.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Session,
    bounds::HEADS,
    provider::{Kept, connect},
    reading::worth_a_try,
    wire::Wire,
};
use crate::relay::{
    http::head::{NotUnderstood, RequestHead, read_request},
    upstream::Stream,
};

/// What a connection, or the next request on it, begins with.
pub enum Opening {
    /// A head, at the front of what was read.
    Request(RequestHead),
    /// Something for the provider as it is.
    Apart,
    /// Words of the provider's, at the front of what was read of it, or its end.
    Joined(Box<Wire<Stream>>),
    /// The preface of HTTP/2.
    Http2,
    /// Nothing, for too long.
    Idle,
    /// Nothing, and the provider cannot be reached.
    Failed,
    /// The end.
    Over,
    /// A reset.
    Gone,
}

impl Session {
    /// Reads the next head; `new`: it is the first one.
    pub(super) async fn opening(&mut self, new: bool) -> Opening {
        if self.client.input.is_empty()
            && let Some(opening) = if new { self.first_bytes().await } else { self.more_bytes().await }
        {
            return opening;
        }
        let mut tried = 0;
        let client = &mut self.client;
        let reading = poll_fn(|cx| {
            loop {
                if worth_a_try(tried, &client.input) {
                    tried = client.input.len();
                    match read_request(&client.input, HEADS) {
                        Ok(Some(head)) => return Poll::Ready(Opening::Request(head)),
                        Ok(None) => {}
                        Err(NotUnderstood::Http2) => return Poll::Ready(Opening::Http2),
                        Err(why) => {
                            tracing::debug!(%why, "a request is not understood");
                            return Poll::Ready(Opening::Apart);
                        }
                    }
                }
                if client.ended {
                    return Poll::Ready(Opening::Apart);
                }
                match ready!(client.poll_fill(cx)) {
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Opening::Gone),
                }
            }
        });
        // Somebody slow is the provider's to bear with, as without us.
        timeout(self.patience.head, reading).await.unwrap_or(Opening::Apart)
    }

    /// Waits for the next request. `None`: it has begun.
    async fn more_bytes(&mut self) -> Option<Opening> {
        if self.client.ended {
            return Some(Opening::Over);
        }
        let client = &mut self.client;
        match timeout(self.patience.idle, poll_fn(|cx| client.poll_fill(cx))).await {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => Some(Opening::Over),
            Ok(Err(_)) => Some(Opening::Gone),
            Err(_) => Some(Opening::Idle),
        }
    }

    /// Waits for whoever speaks first. `None`: the application has.
    async fn first_bytes(&mut self) -> Option<Opening> {
        let client = &mut self.client;
        if let Ok(begun) = timeout(self.patience.silence, poll_fn(|cx| client.poll_fill(cx))).await {
            return begin(&begun);
        }
        let client = &mut self.client;
        let connected = tokio::select! {
            biased;
            // The gateway may have the answer, whatever its provider does.
            begun = poll_fn(|cx| client.poll_fill(cx)) => return begin(&begun),
            connected = connect(&self.place, self.original) => connected,
        };
        let Some(stream) = connected else {
            let begun = timeout(self.patience.unreachable, poll_fn(|cx| client.poll_fill(cx))).await;
            return begun.map_or(Some(Opening::Failed), |begun| begin(&begun));
        };
        let mut provider = Wire::new(stream, BytesMut::new());
        match poll_fn(|cx| poll_either(cx, client, &mut provider)).await {
            Spoke::Provider => Some(Opening::Joined(Box::new(provider))),
            Spoke::Application(begun) => {
                self.provider = Some(Kept::new(provider.stream));
                begin(&begun)
            }
        }
    }
}

/// What the first that came from an application, or its end, is the opening of. `None`: of a request, perhaps.
fn begin(begun: &io::Result<bool>) -> Option<Opening> {
    match begun {
        Ok(true) => None,
        // It may be waiting for what the provider says.
        Ok(false) => Some(Opening::Apart),
        Err(_) => Some(Opening::Gone),
    }
}

/// Who spoke first.
enum Spoke {
    Provider,
    Application(io::Result<bool>),
}

fn poll_either(
    cx: &mut Context<'_>,
    client: &mut Wire<TcpStream>,
    provider: &mut Wire<Stream>,
) -> Poll<Spoke> {
    if let Poll::Ready(begun) = client.poll_fill(cx) {
        return Poll::Ready(Spoke::Application(begun));
    }
    provider.poll_fill(cx).map(|_| Spoke::Provider)
}
