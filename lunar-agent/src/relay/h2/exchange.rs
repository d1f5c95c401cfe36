//! One request and its answer: by way of the gateway, of the provider, or of one after the other.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, request::Parts, response};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::copy_bidirectional,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Via,
    body::{Download, Source},
    failure::{ConnectError, Failure, Reset},
    pool, request,
    under_way::UnderWay,
    upstream::{Greets, Open, Permit, Upstream, open},
};
use crate::{
    kernel::{layout::now, relay::Count},
    relay::{
        Relay,
        gateways::Admitted,
        http::{
            head::{Host, ResponseHead},
            rewrite::{Handover, Scheme},
        },
        place::Place,
        replay::{AtGateway, AtProvider, DirectAttempt, Exchange, Mode, Next, Situation},
        route::{Gateway, Route, route},
        setup::Settings,
    },
};

/// How long connecting to a provider may take: as long as kernels try, so that nobody is worse off.
const PROVIDER_CONNECT: Duration = Duration::from_secs(120);
/// How long its greeting is waited for.
const PROVIDER_GREETING: Duration = Duration::from_secs(1);
/// How the end of a provider is noticed that says nothing any more. An application's own pings are answered here, so they no longer
/// notice it; and a provider may count pings that its client did not mean, so it is TCP that asks.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);
/// How often a request that waits looks at the failsafe.
const LOOK: Duration = Duration::from_millis(250);

/// A connection of an application.
pub struct Session {
    original: SocketAddr,
    place: Arc<Place>,
    relay: Arc<Relay>,
    /// How many of its streams are open.
    streams: Arc<watch::Sender<usize>>,
    /// The connections to its provider.
    provider: Upstream,
}

/// A request on its way.
struct Asked {
    head: Parts,
    body: Source,
    idempotent: bool,
    settings: Arc<Settings>,
    under_way: UnderWay,
}

impl Session {
    /// One that was meant for `original`, in this place.
    pub fn new(
        original: SocketAddr,
        place: Arc<Place>,
        relay: Arc<Relay>,
        streams: Arc<watch::Sender<usize>>,
    ) -> Self {
        Self { original, place, relay, streams, provider: Upstream::default() }
    }

    /// Brings a request where it belongs, and the answer back.
    ///
    /// # Errors
    /// If its stream is to be reset.
    pub async fn answer(&self, request: Request<Incoming>) -> Result<Response<Download>, Reset> {
        let under_way = UnderWay::new(&self.relay, &self.streams);
        let settings = self.relay.settings();
        let (head, body) = request.into_parts();
        let read = request::read(&head);
        let admitted = self.relay.gateways.admit(&settings, now());
        let gateway = admitted.err().unwrap_or(Gateway::Usable);
        let route = match &read {
            Ok(asked) => route(asked, self.original, &settings.policy, gateway),
            Err(why) => (*why).into(),
        };
        let idempotent = head.method.is_idempotent();
        let body = Source::new(body, settings.setup.replay_buffer);
        let asked = Asked { head, body, idempotent, settings, under_way };
        match (route, admitted, read.map(|read| read.host)) {
            (Route::Gateway, Ok(admitted), Ok(Host::Name(name))) => {
                self.by_gateway(asked, &name, admitted).await
            }
            (Route::Gateway | Route::Direct(_) | Route::Splice(_), ..) => self.direct(asked).await,
        }
    }

    async fn direct(&self, mut asked: Asked) -> Result<Response<Download>, Reset> {
        self.relay.counts.one(Count::Direct);
        let application = asked.head.extensions.remove::<OnUpgrade>();
        let mut answer = self.at_provider(&asked).await;
        let provider = answer.as_mut().ok().and_then(|answer| answer.head.extensions.remove::<OnUpgrade>());
        if let (Some(application), Some(provider)) = (application, provider) {
            let under_way = UnderWay::new(&self.relay, &self.streams);
            tokio::spawn(tunnel(application, provider, under_way));
        }
        self.provider_said(asked, answer)
    }

    async fn by_gateway(
        &self,
        asked: Asked,
        name: &str,
        mut admitted: Admitted,
    ) -> Result<Response<Download>, Reset> {
        let begun = Instant::now();
        let settings = Arc::clone(&asked.settings);
        let situation = || Situation { body_whole: asked.body.whole(), age: begun.elapsed() };
        let mut exchange = Exchange::new(settings.rules, asked.idempotent);
        let request_id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        let mut sequence_id = None;
        loop {
            let endpoint = settings.setup.endpoints.get(admitted.nth);
            let head = request::for_gateway(
                &asked.head,
                &Handover {
                    host: name,
                    port: self.original.port(),
                    scheme: Scheme::Http,
                    request_id,
                    tenant: endpoint.and_then(|endpoint| settings.tenant_for(endpoint)),
                    sequence_id: sequence_id.as_ref(),
                },
            );
            let answer = self.at_gateway(&asked, &head, admitted).await;
            if matches!(answer, Err(Failure::TooLarge)) {
                return self.direct(asked).await;
            }
            if asked.body.broken() {
                // The application's own doing, which shows nothing.
                return Err(Reset::with(h2::Reason::CANCEL));
            }
            let said = answer.as_ref().map(|answer| answer.said(&settings));
            let step = exchange.gateway(outcome(&said), situation());
            if let Some(outcome) = step.settle {
                self.relay.gateways.settle(&settings, admitted, outcome, now());
            }
            match (step.next, answer) {
                (Next::Pass, Ok(answer)) => {
                    self.relay.counts.one(Count::Gateway);
                    return Ok(answer.pass(asked, Via::Gateway));
                }
                (Next::Direct(attempt), _) => return self.replay(asked, admitted, attempt).await,
                (Next::Retry { after, sequence_id: again }, answer) => {
                    drop(answer);
                    sequence_id = Some(again);
                    sleep(after).await;
                }
                (Next::Pass | Next::Close, answer) => {
                    return Err(self.failed(Via::Gateway, &answer.err().unwrap_or(Failure::Ended)));
                }
            }
            match self.relay.gateways.admit(&settings, now()) {
                Ok(again) => admitted = again,
                // As if it could not be connected to, but that is nothing new about it.
                Err(_) => match exchange.gateway(AtGateway::ConnectFailed, situation()).next {
                    Next::Direct(attempt) => return self.replay(asked, admitted, attempt).await,
                    Next::Pass | Next::Close | Next::Retry { .. } => {
                        return Err(self.failed(Via::Gateway, &Failure::Ended));
                    }
                },
            }
            self.relay.counts.one(Count::Retried);
        }
    }

    /// Sends the request to its provider because the gateway failed it.
    async fn replay(
        &self,
        asked: Asked,
        admitted: Admitted,
        attempt: DirectAttempt,
    ) -> Result<Response<Download>, Reset> {
        self.relay.counts.one(Count::Replayed);
        let answer = self.at_provider(&asked).await;
        let said = answer.as_ref().map(|answer| answer.said(&asked.settings));
        let step = attempt.ended(said.as_ref().map_or(AtProvider::Failed, AtProvider::Answered));
        if let Some(outcome) = step.settle.filter(|_| !asked.body.broken()) {
            self.relay.gateways.settle(&asked.settings, admitted, outcome, now());
        }
        self.provider_said(asked, answer)
    }

    fn provider_said(
        &self,
        asked: Asked,
        answer: Result<Answer, Failure>,
    ) -> Result<Response<Download>, Reset> {
        match answer {
            Ok(answer) => Ok(answer.pass(asked, Via::Provider)),
            // The application's own doing.
            Err(failure) if asked.body.broken() => Err(failure.reset()),
            Err(failure) => Err(self.failed(Via::Provider, &failure)),
        }
    }

    fn failed(&self, via: Via, failure: &Failure) -> Reset {
        self.relay.counts.one(via.failed());
        tracing::debug!(original = %self.original, ?via, reason = %failure, "a stream is reset");
        failure.reset()
    }

    /// Sends a request to the gateway and waits for the head of its answer, as long as the failsafe does not give the gateway up.
    async fn at_gateway(
        &self,
        asked: &Asked,
        head: &Request<()>,
        admitted: Admitted,
    ) -> Result<Answer, Failure> {
        let settings = &asked.settings;
        let Some(endpoint) = settings.setup.endpoints.get(admitted.nth) else { return Err(Failure::Ended) };
        let upstream = self.relay.h2.of(endpoint, settings);
        let connect = || pool::to_gateway(Arc::clone(&self.relay), endpoint.clone(), Arc::clone(settings));
        let twice = asked.idempotent && settings.rules.mode != Mode::Never;
        let mut answer = std::pin::pin!(upstream.send(connect, head, &asked.body, twice));
        loop {
            if let Ok(answer) = timeout(LOOK, &mut answer).await {
                return answer.map(Answer::new);
            }
            if self.relay.gateways.opened(settings, admitted, now()) {
                // Whatever hangs on these connections, nothing new joins it.
                upstream.retire_all();
                return Err(Failure::Ended);
            }
        }
    }

    async fn at_provider(&self, asked: &Asked) -> Result<Answer, Failure> {
        let connect = || {
            let (place, original) = (Arc::clone(&self.place), self.original);
            async move { to_provider(&place, original).await }
        };
        let head = request::for_provider(&asked.head);
        // It is sent twice only if it was surely not executed: the application would know no more.
        self.provider.send(connect, &head, &asked.body, false).await.map(Answer::new)
    }
}

/// Copies both ways what follows an answer to CONNECT, which ends with either side.
async fn tunnel(application: OnUpgrade, provider: OnUpgrade, under_way: UnderWay) {
    if let (Ok(application), Ok(provider)) = tokio::join!(application, provider) {
        // Each side learns of the other's end by its own.
        let _ = copy_bidirectional(&mut TokioIo::new(application), &mut TokioIo::new(provider)).await;
    }
    drop(under_way);
}

async fn to_provider(place: &Place, original: SocketAddr) -> Result<Open, ConnectError> {
    let stream = place.connect(original, PROVIDER_CONNECT).await?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
    open(stream, Greets::Perhaps(PROVIDER_GREETING)).await
}

/// The head of an answer, and what its stream holds.
struct Answer {
    head: response::Parts,
    body: Incoming,
    permit: Permit,
}

impl Answer {
    fn new((response, permit): (Response<Incoming>, Permit)) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body, permit }
    }

    /// What it says of the gateway.
    fn said(&self, settings: &Settings) -> ResponseHead {
        ResponseHead::of(&self.head, &settings.indicators)
    }

    /// For the application.
    fn pass(self, asked: Asked, via: Via) -> Response<Download> {
        asked.body.release();
        Response::from_parts(self.head, Download::new(self.body, via, asked.under_way, self.permit))
    }
}

fn outcome<'a>(said: &'a Result<ResponseHead, &Failure>) -> AtGateway<'a> {
    match said {
        Ok(head) => AtGateway::Answered(head),
        // A gateway that cannot be spoken to in HTTP/2 is in no trouble.
        Err(Failure::Connect(ConnectError::NotHttp2 | ConnectError::Ours(_))) => AtGateway::NotAsked,
        Err(Failure::Connect(_) | Failure::TooLarge | Failure::Unprocessed(_) | Failure::Rejected) => {
            AtGateway::ConnectFailed
        }
        Err(Failure::Reset(_) | Failure::Ended) => AtGateway::Lost,
    }
}
