//! One connection of an application, from its first byte to its end.
//!
//! What is decided is decided by the pure functions of [`http`](super::http), [`route`](super::route) and [`replay`](super::replay).
//! Here are the sockets: bytes go on as they came, at most a chunk of them lies in the relay, and a connection at rest holds none.
//!
//! ```text
//! opening ──► request ──► gateway ──► attempt ──► pass ──► opening …
//!    │           │           └──► provider ──► attempt ──┘
//!    └──► splice └──► splice
//! ```

mod attempt;
mod bounds;
mod flow;
mod gateway;
mod opening;
mod pass;
mod provider;
mod reading;
mod request;
pub mod splice;
mod wire;

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};

use self::{
    attempt::{Answer, Attempt},
    bounds::{GATEWAY_HEAD, LINGER, PATIENCE, Patience},
    flow::Flow,
    opening::Opening,
    pass::{Pass, Passed},
    provider::Kept,
    request::{Request, State},
};
use super::{
    Relay, h2,
    http::{
        body::{BodyScanner, Progress},
        head::{RequestHead, ResponseHead, ResponseTo, Version},
        rewrite,
    },
    place::Place,
    route::{Gateway, Route, route},
    setup::Settings,
    upstream::{Stream, end_on_drop, reset_on_drop},
};
use crate::kernel::{layout::now, relay::Count};

pub use wire::Wire;

/// Serves a connection that the kernel redirected, and that its application meant for `original`.
pub async fn serve(stream: TcpStream, original: SocketAddr, place: Arc<Place>, relay: Arc<Relay>) {
    Session::new(stream, original, place, relay).run().await;
}

/// A connection being served.
struct Session {
    client: Wire<TcpStream>,
    original: SocketAddr,
    place: Arc<Place>,
    relay: Arc<Relay>,
    /// A connection to the provider that can be used again.
    provider: Option<Kept>,
    patience: Patience,
}

/// What follows on a request.
enum Then {
    /// The next one.
    Next,
    /// The end, in order.
    Close,
    /// The end, by a reset, which nobody takes for the end of an answer.
    Reset,
    /// The end: the application has gone.
    Gone,
    /// Whatever follows goes to the provider, with what was read.
    Apart,
    /// Whatever follows goes to and fro on this connection.
    Join(Box<Wire<Stream>>),
    /// Whatever follows on this connection goes to the application, which is not read any more.
    Answer(Box<Wire<Stream>>),
}

/// Who answers a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Party {
    /// The gateway. It gets requests that are understood, and nothing else: in other bytes it might find a request, with headers
    /// that are ours to write.
    Gateway,
    /// The provider, which gets what the application sends.
    Provider,
}

/// What remains of a connection that an answer came by.
enum Left {
    /// It can be used again.
    Reusable(Stream),
    /// The answer broke off.
    Broken,
    /// Nothing to speak of.
    Nothing,
}

impl Session {
    fn new(stream: TcpStream, original: SocketAddr, place: Arc<Place>, relay: Arc<Relay>) -> Self {
        // Until an end is one in order: whatever cuts this off, what came so far is not to look whole.
        reset_on_drop(&stream);
        let client = Wire::new(stream, BytesMut::new());
        Self { client, original, place, relay, provider: None, patience: PATIENCE }
    }

    async fn run(mut self) {
        let relay = Arc::clone(&self.relay);
        let _open = relay.counts.connection();
        // A new connection counts at once: whoever makes one is about to ask for something, and would miss the answer. What is
        // spliced counts to its end: nobody knows where a request ends in it.
        let mut under_way = Some(relay.counts.request());
        let mut new = true;
        let then = loop {
            let opening = self.opening(new).await;
            under_way.get_or_insert_with(|| relay.counts.request());
            let then = match opening {
                Opening::Request(head) => self.request(head).await,
                Opening::Apart => Then::Apart,
                Opening::Joined(provider) => {
                    self.relay.counts.one(Count::Spliced);
                    Then::Join(provider)
                }
                Opening::Http2 => {
                    // There each stream counts.
                    drop(under_way);
                    let Self { client, original, place, relay, .. } = self;
                    // Frames tell where something ends.
                    end_on_drop(&client.stream);
                    return Box::pin(h2::serve(client.stream, client.input, original, place, relay)).await;
                }
                Opening::Idle => {
                    self.relay.counts.one(Count::Idle);
                    Then::Close
                }
                Opening::Failed => {
                    self.relay.counts.one(Count::ProviderFailed);
                    Then::Reset
                }
                Opening::Over => Then::Close,
                Opening::Gone => Then::Gone,
            };
            match then {
                Then::Next => (new, under_way) = (false, None),
                then => break then,
            }
        };
        match then {
            Then::Next | Then::Gone => {}
            Then::Close => close(self.client).await,
            Then::Reset => reset_on_drop(&self.client.stream),
            Then::Apart => Box::pin(self.apart()).await,
            Then::Join(upstream) => Box::pin(splice::join(self.client, *upstream)).await,
            Then::Answer(upstream) => {
                if let Some(client) = Box::pin(splice::answer(self.client, *upstream)).await {
                    close(client).await;
                }
            }
        }
    }

    /// Serves a request whose head lies at the front of what was read.
    async fn request(&mut self, head: RequestHead) -> Then {
        let settings = self.relay.settings();
        let admitted = self.relay.gateways.admit(&settings, now());
        let gateway = admitted.as_ref().map_or_else(|why| *why, |_| Gateway::Usable);
        let way = route(&head, self.original, &settings.policy, gateway);
        if let Route::Splice(why) = way {
            tracing::debug!(?why, original = %self.original, "a connection is spliced to its provider");
            return Then::Apart;
        }
        let fits = self.fits_the_gateway(&head) && self.body_is_sound(&head);
        let mut request = Request::take(head, &mut self.client, settings.setup.replay_buffer);
        match (way, admitted) {
            (Route::Gateway, Ok(admitted)) if fits => {
                self.by_gateway(&mut request, &settings, admitted).await
            }
            (Route::Gateway | Route::Direct(_) | Route::Splice(_), _) => {
                self.relay.counts.one(Count::Direct);
                self.by_provider(&mut request, &settings, None).await
            }
        }
    }

    /// Whether the gateway has room for a head and the headers that are added.
    fn fits_the_gateway(&self, head: &RequestHead) -> bool {
        let raw = self.client.input.get(..head.length).unwrap_or_default();
        // Each of them ends a line; the request's own line and the empty one are none.
        let headers = raw.iter().filter(|byte| **byte == b'\n').count().saturating_sub(2);
        head.length <= GATEWAY_HEAD.bytes && headers <= GATEWAY_HEAD.headers
    }

    /// Whether what has been read of the body behind a head can be the beginning of one. One that cannot goes to the provider
    /// with all that follows, before the gateway has seen any of it.
    fn body_is_sound(&self, head: &RequestHead) -> bool {
        let body = self.client.input.get(head.length..).unwrap_or_default();
        let scanned = BodyScanner::of_request(head.framing, bounds::HEADS).scan(body);
        !matches!(scanned.state, Progress::Malformed(_))
    }

    /// Sends a request, and waits for the head of the final answer.
    async fn ask(
        &mut self,
        request: &mut Request,
        settings: &Settings,
        upstream: &mut Wire<Stream>,
        head: Vec<u8>,
        given_up: impl Fn() -> bool,
    ) -> Answer {
        request.upload.begin(head, &mut self.client);
        let attempt = Attempt {
            client: &mut self.client,
            upstream,
            upload: &mut request.upload,
            to: ResponseTo::from(&request.head),
            indicators: &settings.indicators,
            expects_continue: request.head.expects_continue,
        };
        attempt.answer(given_up).await
    }

    /// Passes on an answer whose head lies at the front of what was read.
    async fn pass(
        &mut self,
        request: &mut Request,
        head: &ResponseHead,
        mut upstream: Wire<Stream>,
        from: Party,
    ) -> (Then, Left) {
        if head.upgrades() {
            return (self.joined(request, upstream), Left::Nothing);
        }
        let spoken = request.head.version == Version::Http11 || head.keep_alive;
        let persists = request.head.persists && head.persists && spoken;
        let closes = persists && self.relay.draining();
        let mut answer = if closes {
            let first = rewrite::closing(upstream.input.get(..head.length).unwrap_or_default());
            upstream.input.advance(head.length);
            Flow::new(Bytes::from(first), 0, head.framing)
        } else {
            Flow::new(Bytes::new(), head.length, head.framing)
        };
        let pass = Pass {
            client: &mut self.client,
            upstream: &mut upstream,
            upload: &mut request.upload,
            answer: &mut answer,
            reads_on: head.persists,
            from,
        };
        match pass.pass().await {
            Passed::Whole => {
                let then = if persists && !closes { Then::Next } else { Then::Close };
                (then, if head.persists { reusable(request, upstream) } else { Left::Nothing })
            }
            Passed::Early => (Then::Close, Left::Nothing),
            Passed::Cut => (Then::Close, Left::Broken),
            Passed::Broken => (Then::Reset, Left::Broken),
            Passed::Malformed => {
                answer.give_back(&mut upstream);
                let then = match from {
                    Party::Gateway => Then::Answer(Box::new(upstream)),
                    Party::Provider => self.joined(request, upstream),
                };
                (then, Left::Nothing)
            }
            Passed::Gone => (Then::Gone, Left::Nothing),
        }
    }

    /// Gives up reading: both sides are joined as they are.
    fn joined(&mut self, request: &mut Request, upstream: Wire<Stream>) -> Then {
        request.upload.give_back(&mut self.client);
        Then::Join(Box::new(upstream))
    }

    /// Waits, unless the application goes meanwhile.
    async fn pause(&mut self, time: Duration) -> Result<(), ()> {
        let client = &mut self.client;
        tokio::select! {
            () = sleep(time) => Ok(()),
            _ = poll_fn(|cx| client.poll_failure(cx)) => Err(()),
        }
    }
}

/// Ends the application's connection in order.
async fn close(mut client: Wire<TcpStream>) {
    end_on_drop(&client.stream);
    if client.ended {
        // Nothing lies unread that would make a reset of it.
        return;
    }
    let ended = async {
        client.stream.shutdown().await?;
        while !client.ended {
            client.input.clear();
            poll_fn(|cx| client.poll_fill(cx)).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    // However it ends, it has ended.
    let _ = timeout(LINGER, ended).await;
}

/// What remains of a connection when an answer is over after which the other side goes on.
fn reusable(request: &Request, upstream: Wire<Stream>) -> Left {
    let clean = upstream.input.is_empty() && !upstream.ended;
    if clean && request.head.persists && request.upload.state() == State::Over {
        Left::Reusable(upstream.stream)
    } else {
        Left::Nothing
    }
}

/// What remains of a connection whose answer is not wanted: it is reusable if all of that has come already.
fn unwanted(request: &Request, head: &ResponseHead, mut upstream: Wire<Stream>) -> Left {
    let mut scanner = BodyScanner::new(head.framing, bounds::HEADS);
    let body = upstream.input.get(head.length..).unwrap_or_default();
    let whole = scanner.over() && body.is_empty()
        || scanner.scan(body) == super::http::body::Scanned { taken: body.len(), state: Progress::Over };
    if !whole || !head.persists {
        return Left::Nothing;
    }
    upstream.input.clear();
    reusable(request, upstream)
}

#[cfg(test)]
mod tests;
