//! A request that goes to the gateway, and what follows if the gateway fails it.

use std::sync::Arc;

use bytes::BytesMut;
use http::HeaderValue;

use super::{
    Left, Party, Session, Then,
    attempt::Answer,
    bounds::{FRESH, REUSABLE},
    request::{Request, State},
    unwanted,
    wire::Wire,
};
use crate::{
    kernel::{layout::now, relay::Count},
    relay::{
        gateways::Admitted,
        http::{
            head::Host,
            rewrite::{Handover, Scheme, for_gateway},
        },
        replay::{AtGateway, Exchange, Mode, Next},
        setup::{Endpoint, Settings},
        upstream::{Speaks, Stream, reset_on_drop},
    },
};

impl Session {
    /// Has a request answered by the gateway, or by the provider if the gateway fails it and that may be.
    pub(super) async fn by_gateway(
        &mut self,
        request: &mut Request,
        settings: &Settings,
        mut admitted: Admitted,
    ) -> Then {
        let mut exchange = Exchange::new(settings.rules, request.head.idempotent());
        let mut sequence_id = None;
        loop {
            let reached = self.at_gateway(request, settings, admitted, sequence_id.as_ref()).await;
            let outcome = match &reached {
                Err(unsent) => *unsent,
                Ok((Answer::Head(head), _)) => AtGateway::Answered(head),
                Ok((Answer::NotUnderstood, _)) => AtGateway::NotUnderstood,
                // A request that broke off may be left without an answer.
                Ok((Answer::Lost { .. }, _)) if request.upload.state() == State::Cut => return Then::Close,
                Ok((Answer::Lost { .. } | Answer::GivenUp, _)) => AtGateway::Lost,
                Ok((Answer::Gone, _)) => return Then::Gone,
                Ok((Answer::Malformed, upstream)) => {
                    // An end in order could be taken for the end of the body.
                    reset_on_drop(upstream.stream.tcp());
                    AtGateway::BrokenOff
                }
            };
            let step = exchange.gateway(outcome, request.situation());
            if let Some(outcome) = step.settle {
                self.relay.gateways.settle(settings, admitted, outcome, now());
            }
            match (step.next, reached) {
                (Next::Pass, Ok((Answer::Head(head), upstream))) => {
                    self.relay.counts.one(Count::Gateway);
                    let (then, left) = self.pass(request, &head, upstream, Party::Gateway).await;
                    if matches!(left, Left::Broken) {
                        self.relay.counts.one(Count::Closed);
                        return Then::Reset;
                    }
                    self.put_back(settings, admitted, left);
                    return then;
                }
                (Next::Pass, Ok((_, upstream))) => {
                    self.relay.counts.one(Count::Gateway);
                    return Then::Answer(Box::new(upstream));
                }
                (Next::Pass, Err(_)) | (Next::Close, _) => {
                    self.relay.counts.one(Count::Closed);
                    return Then::Reset;
                }
                (Next::Direct(attempt), reached) => {
                    self.put_back(settings, admitted, not_passed(request, reached));
                    self.relay.counts.one(Count::Replayed);
                    return self.by_provider(request, settings, Some((attempt, admitted))).await;
                }
                (Next::Retry { after, sequence_id: id }, reached) => {
                    self.put_back(settings, admitted, not_passed(request, reached));
                    self.relay.counts.one(Count::Retried);
                    if self.pause(after).await.is_err() {
                        return Then::Gone;
                    }
                    sequence_id = Some(id);
                    match self.relay.gateways.admit(settings, now()) {
                        Ok(again) => admitted = again,
                        Err(_) => {
                            self.relay.counts.one(Count::Replayed);
                            return self.by_provider(request, settings, None).await;
                        }
                    }
                }
            }
        }
    }

    /// One attempt.
    ///
    /// # Errors
    /// [`AtGateway::ConnectFailed`] or [`AtGateway::NotAsked`]: no byte of the request has been sent.
    async fn at_gateway(
        &mut self,
        request: &mut Request,
        settings: &Settings,
        admitted: Admitted,
        sequence_id: Option<&HeaderValue>,
    ) -> Result<(Answer, Wire<Stream>), AtGateway<'static>> {
        let relay = Arc::clone(&self.relay);
        let endpoint = settings.setup.endpoints.get(admitted.nth).ok_or(AtGateway::NotAsked)?;
        let twice = request.head.idempotent() && settings.rules.mode != Mode::Never;
        let oldest = if twice { REUSABLE } else { FRESH };
        let mut pooled = relay.pool.take(&settings.setup, endpoint, oldest, !twice);
        loop {
            let head =
                self.handed_over(request, settings, endpoint, sequence_id).ok_or(AtGateway::NotAsked)?;
            let used = pooled.is_some();
            let stream = match pooled.take() {
                Some(stream) => stream,
                None => match Box::pin(relay.pool.connect(&settings.setup, endpoint, Speaks::Http1)).await {
                    Ok(stream) => stream,
                    Err(error) if error.is_ours() => return Err(AtGateway::NotAsked),
                    Err(_) => return Err(AtGateway::ConnectFailed),
                },
            };
            let mut upstream = Wire::new(stream, BytesMut::new());
            let given_up = || relay.gateways.opened(settings, admitted, now());
            let answer = self.ask(request, settings, &mut upstream, head, given_up).await;
            if let Answer::Lost { untouched: true, .. } = answer {
                let unsent = request.upload.sent() == 0;
                // It lay unused, and the gateway closed it just then. That is no failure of the gateway's.
                if used && request.upload.whole() && (twice || unsent) {
                    continue;
                }
                if unsent {
                    return Err(AtGateway::ConnectFailed);
                }
            }
            return Ok((answer, upstream));
        }
    }

    /// The head for the gateway; there is one if the request has a name to go by.
    fn handed_over(
        &self,
        request: &Request,
        settings: &Settings,
        endpoint: &Endpoint,
        sequence_id: Option<&HeaderValue>,
    ) -> Option<Vec<u8>> {
        let Host::Name(host) = &request.head.host else { return None };
        let handover = Handover {
            host,
            port: self.original.port(),
            scheme: Scheme::Http,
            request_id: request.id,
            tenant: settings.tenant_for(endpoint),
            sequence_id,
        };
        Some(for_gateway(&request.raw, &request.head, &handover))
    }

    fn put_back(&self, settings: &Settings, admitted: Admitted, left: Left) {
        if let (Left::Reusable(stream), Some(endpoint)) = (left, settings.setup.endpoints.get(admitted.nth)) {
            self.relay.pool.put(&settings.setup, endpoint, stream);
        }
    }
}

/// What remains of a connection whose answer is not passed on.
fn not_passed<E>(request: &Request, reached: Result<(Answer, Wire<Stream>), E>) -> Left {
    match reached {
        Ok((Answer::Head(head), upstream)) => unwanted(request, &head, upstream),
        _ => Left::Nothing,
    }
}
