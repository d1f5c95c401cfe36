//! A request that goes to its provider, and the connection there, which the next one may use.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Left, Party, Session, Then,
    attempt::Answer,
    bounds::{FRESH, PROVIDER_CONNECT, REUSABLE},
    request::{Request, State},
    splice,
    wire::Wire,
};
use crate::{
    kernel::{layout::now, relay::Count},
    relay::{
        gateways::Admitted,
        http::rewrite::for_provider,
        place::Place,
        replay::{AtProvider, DirectAttempt, Mode},
        setup::Settings,
        upstream::{Stream, tune},
    },
};

/// A connection to the provider that lies unused.
pub struct Kept {
    stream: Stream,
    since: Instant,
}

impl Kept {
    /// One that lies unused from now on.
    pub fn new(stream: Stream) -> Self {
        Self { stream, since: Instant::now() }
    }

    /// The connection, if it lies no longer than `oldest` and the provider has not closed it.
    fn good(self, oldest: std::time::Duration) -> Option<Stream> {
        (self.since.elapsed() < oldest && self.stream.is_quiet()).then_some(self.stream)
    }
}

impl Session {
    /// Has a request answered by its provider; `replayed` if the gateway has failed it.
    pub(super) async fn by_provider(
        &mut self,
        request: &mut Request,
        settings: &Settings,
        replayed: Option<(DirectAttempt, Admitted)>,
    ) -> Then {
        let reached = self.at_provider(request, settings).await;
        let outcome = match &reached {
            Some((Answer::Head(head), _)) => AtProvider::Answered(head),
            Some((Answer::NotUnderstood, _)) => AtProvider::NotUnderstood,
            _ => AtProvider::Failed,
        };
        // What follows is the same for a request that was never at the gateway; what it shows is not.
        if let Some((attempt, admitted)) = replayed
            && let Some(outcome) = attempt.ended(outcome).settle
        {
            self.relay.gateways.settle(settings, admitted, outcome, now());
        }
        match reached {
            Some((Answer::Head(head), upstream)) => {
                let (then, left) = self.pass(request, &head, upstream, Party::Provider).await;
                match left {
                    Left::Reusable(stream) => self.provider = Some(Kept::new(stream)),
                    Left::Broken => self.relay.counts.one(Count::ProviderFailed),
                    Left::Nothing => {}
                }
                then
            }
            Some((Answer::NotUnderstood | Answer::Malformed, upstream)) => self.joined(request, upstream),
            Some((Answer::Gone, _)) => Then::Gone,
            Some((Answer::Lost { .. }, _)) if request.upload.state() == State::Cut => Then::Close,
            Some((Answer::Lost { in_order: true, .. }, _)) => {
                self.relay.counts.one(Count::ProviderFailed);
                Then::Close
            }
            Some((Answer::Lost { .. } | Answer::GivenUp, _)) | None => {
                self.relay.counts.one(Count::ProviderFailed);
                Then::Reset
            }
        }
    }

    /// One attempt. `None`: the provider cannot be reached.
    async fn at_provider(
        &mut self,
        request: &mut Request,
        settings: &Settings,
    ) -> Option<(Answer, Wire<Stream>)> {
        let twice = request.head.idempotent() && settings.rules.mode != Mode::Never;
        let mut kept = self.provider.take().and_then(|kept| kept.good(if twice { REUSABLE } else { FRESH }));
        loop {
            let used = kept.is_some();
            let stream = match kept.take() {
                Some(stream) => stream,
                None => connect(&self.place, self.original).await?,
            };
            let mut upstream = Wire::new(stream, BytesMut::new());
            let head = for_provider(&request.raw, &request.head);
            let answer = self.ask(request, settings, &mut upstream, head, || false).await;
            let unsent = request.upload.sent() == 0;
            let stale = used && matches!(answer, Answer::Lost { untouched: true, .. });
            // It lay unused, and the provider closed it just then.
            if stale && request.upload.whole() && (twice || unsent) {
                continue;
            }
            return Some((answer, upstream));
        }
    }

    /// Joins the application with its provider.
    pub(super) async fn apart(mut self) {
        match self.provider.take().and_then(|kept| kept.good(FRESH)) {
            Some(stream) => {
                self.relay.counts.one(Count::Spliced);
                splice::join(self.client, Wire::new(stream, BytesMut::new())).await;
            }
            None => splice::to_provider(self.client, self.original, &self.place, &self.relay).await,
        }
    }
}

/// Connects to a provider from where its application is.
pub async fn connect(place: &Place, original: SocketAddr) -> Option<Stream> {
    match place.connect(original, PROVIDER_CONNECT).await {
        Ok(stream) => {
            tune(&stream);
            Some(Stream::Plain(stream))
        }
        Err(error) => {
            tracing::debug!(%error, provider = %original, "a provider cannot be reached");
            None
        }
    }
}
