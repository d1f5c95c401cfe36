//! Two connections joined byte for byte, for what is not understood or not ours to read.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    bounds::{HALF_LOOK, PROVIDER_CONNECT},
    flow::Failed,
    wire::Wire,
};
use crate::{
    kernel::relay::Count,
    relay::{
        Relay,
        place::Place,
        upstream::{Stream, end_on_drop, has_failed, reset_on_drop, tune},
    },
};

/// Joins an application with its provider, until both have ended.
pub async fn to_provider(client: Wire<TcpStream>, original: SocketAddr, place: &Place, relay: &Relay) {
    match place.connect(original, PROVIDER_CONNECT).await {
        Ok(stream) => {
            tune(&stream);
            relay.counts.one(Count::Spliced);
            join(client, Wire::new(Stream::Plain(stream), bytes::BytesMut::new())).await;
        }
        Err(error) => {
            tracing::debug!(%error, provider = %original, "a provider cannot be reached");
            relay.counts.one(Count::ProviderFailed);
            reset_on_drop(&client.stream);
        }
    }
}

/// Joins two connections, until both have ended. The end of one direction is passed on as what it is; a reset ends both.
pub async fn join(client: Wire<TcpStream>, upstream: Wire<Stream>) {
    both_ways(Joint { client, upstream, down: Way::default(), up: Way::default(), reset: false }).await;
}

/// Passes on what comes from `upstream` until that ends, and nothing of what the application sends. Returns its connection, unless
/// that has been reset.
pub async fn answer(client: Wire<TcpStream>, upstream: Wire<Stream>) -> Option<Wire<TcpStream>> {
    let up = Way { unflushed: false, over: true };
    let joint = both_ways(Joint { client, upstream, down: Way::default(), up, reset: false }).await;
    (!joint.reset).then_some(joint.client)
}

async fn both_ways(mut joint: Joint) -> Joint {
    // Whatever cuts this off is no end in order to either side.
    reset_on_drop(&joint.client.stream);
    reset_on_drop(joint.upstream.stream.tcp());
    if poll_fn(|cx| joint.poll(cx, false)).await == Now::Half {
        // A side that has ended may be gone altogether, which nothing but its socket says.
        while timeout(HALF_LOOK, poll_fn(|cx| joint.poll(cx, true))).await.is_err() {
            if joint.a_side_has_failed() {
                joint.reset = true;
                break;
            }
        }
    }
    if !joint.reset {
        end_on_drop(&joint.client.stream);
        end_on_drop(joint.upstream.stream.tcp());
    }
    joint
}

/// What there is to wait for.
#[derive(PartialEq, Eq)]
enum Now {
    /// Nothing.
    Over,
    /// One direction.
    Half,
}

struct Joint {
    client: Wire<TcpStream>,
    upstream: Wire<Stream>,
    down: Way,
    up: Way,
    reset: bool,
}

impl Joint {
    /// Ready once both directions are over or a side has failed; with `half` false also when one side has ended.
    fn poll(&mut self, cx: &mut Context<'_>, half: bool) -> Poll<Now> {
        let Self { client, upstream, down, up, reset } = self;
        for way in [down.poll(cx, upstream, &mut client.stream), up.poll(cx, client, &mut upstream.stream)] {
            match way {
                Poll::Ready(Err(Failed::Source)) => {
                    *reset = true;
                    return Poll::Ready(Now::Over);
                }
                // What that side has said before it failed still goes to the other; its end shows there.
                Poll::Ready(Err(Failed::Sink)) => *reset = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match (down.over && up.over, client.ended || upstream.ended || up.over || *reset) {
            (true, _) => Poll::Ready(Now::Over),
            (false, true) if !half => Poll::Ready(Now::Half),
            (false, _) => Poll::Pending,
        }
    }

    fn a_side_has_failed(&self) -> bool {
        has_failed(&self.client.stream) || has_failed(self.upstream.stream.tcp())
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    unflushed: bool,
    over: bool,
}

impl Way {
    fn poll<A, B>(&mut self, cx: &mut Context<'_>, from: &mut Wire<A>, to: &mut B) -> Poll<Result<(), Failed>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        let moved = self.advance(cx, from, to);
        self.over |= moved.is_ready();
        moved
    }

    fn advance<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<A>,
        to: &mut B,
    ) -> Poll<Result<(), Failed>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        while !self.over {
            if !from.input.is_empty() {
                let taken =
                    ready!(Pin::new(&mut *to).poll_write(cx, &from.input)).map_err(|_| Failed::Sink)?;
                if taken == 0 {
                    return Poll::Ready(Err(Failed::Sink));
                }
                from.input.advance(taken);
                self.unflushed = true;
            } else if self.unflushed {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Failed::Sink)?;
                self.unflushed = false;
            } else if from.ended {
                return Pin::new(&mut *to).poll_shutdown(cx).map_err(|_| Failed::Sink);
            } else {
                ready!(from.poll_fill(cx)).map_err(|_| Failed::Source)?;
            }
        }
        Poll::Ready(Ok(()))
    }
}
