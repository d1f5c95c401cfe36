//! The Lunar Gateway's wire contract (DESIGN section 5): each request says in `x-lunar-host` which provider it is for.

mod exchange;
mod headers;
pub mod names;
pub mod refusal;
mod turns;
pub mod wanted;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{net::TcpStream, sync::mpsc};

use self::{
    exchange::Provider,
    names::{Given, Names},
    refusal::Refusal,
};
use super::{Event, Options, destination::canonical};

/// How long a client may take over a request head, and may rest between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What `--lunar` can be told; [`LunarOptions::default`] has the defaults.
#[derive(Clone, Debug)]
pub struct LunarOptions {
    /// Names with given addresses; all others are looked up as the host does.
    pub given: Vec<Given>,
    /// Names that policy denies.
    pub denied: Vec<String>,
    /// How long a provider that has the whole request, or takes no more of it, may be silent before it answers.
    pub answer_timeout: Duration,
}

impl Default for LunarOptions {
    fn default() -> Self {
        Self { given: Vec::new(), denied: Vec::new(), answer_timeout: Duration::from_secs(60) }
    }
}

/// The gateway of every connection.
pub struct Lunar {
    names: Names,
    denied: BTreeSet<String>,
    provider: Provider,
    draining: AtomicBool,
}

/// What a client gets: a provider's body, as it comes, or our own.
type Body = Either<Incoming, Full<Bytes>>;

/// A request as the gateway's output tells it. Its query is left out: that is where secrets are.
#[derive(Debug)]
pub struct Asked {
    method: Method,
    path: String,
    /// Each with its value, as it came.
    ours: Vec<String>,
}

impl Asked {
    fn new(head: &Parts) -> Self {
        // The value's debug form escapes what is no text.
        let ours = headers::ours(&head.headers).map(|(name, value)| format!("{name}: {value:?}")).collect();
        Self { method: head.method.clone(), path: head.uri.path().to_owned(), ours }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        for (index, header) in self.ours.iter().enumerate() {
            write!(f, "{}{header}", if index == 0 { " with " } else { ", " })?;
        }
        Ok(())
    }
}

impl Lunar {
    /// A gateway with these options.
    pub fn new(options: &Options, lunar: LunarOptions) -> Self {
        Self {
            names: Names::new(lunar.given),
            denied: lunar.denied.iter().map(|name| wanted::normal(name)).collect(),
            provider: Provider {
                mark: options.mark,
                connect_timeout: options.connect_timeout,
                answer_timeout: lunar.answer_timeout,
            },
            draining: AtomicBool::new(false),
        }
    }

    /// From now on every request is answered with error 10.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Serves every request of `client` and tells `log` once of each how it went. `open` is held as long as the
    /// connection, or one that it was upgraded to, is open.
    pub async fn serve(
        self: Arc<Self>,
        client: TcpStream,
        peer: SocketAddr,
        open: mpsc::Sender<Infallible>,
        log: impl Fn(Event) + Clone + Send + Sync + 'static,
    ) {
        let peer = canonical(peer);
        // Each piece of an answer goes on at once; a failure costs only latency.
        let _ = client.set_nodelay(true);
        let service = service_fn(move |request| {
            let (gateway, log, open) = (self.clone(), log.clone(), open.clone());
            async move { Ok::<_, Infallible>(gateway.answer(request, peer, open, log).await) }
        });
        let mut server = auto::Builder::new(TokioExecutor::new());
        let mut http1 = server.http1();
        http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        // A client that has said all still wants its answer.
        http1.half_close(true);
        // A provider's own headers, and nothing that it did not say.
        http1.preserve_header_case(true).auto_date_header(false);
        server.http2().timer(TokioTimer::new()).auto_date_header(false);
        // An error of the connection is the client's own business; hyper has answered 400 to what is no HTTP.
        let _ = server.serve_connection_with_upgrades(TokioIo::new(client), service).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        open: mpsc::Sender<Infallible>,
        log: impl Fn(Event),
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let asked = Asked::new(&head);
        match self.pass(head, body, open).await {
            Ok((destination, response)) => {
                let status = response.status();
                log(Event::Passed { client, destination, asked, status });
                response.map(Either::Left)
            }
            Err(refusal) => {
                let response = refusal.response();
                log(Event::Answered { client, asked, refusal });
                response.map(Either::Right)
            }
        }
    }

    /// Brings a request to its provider and the answer back.
    async fn pass(
        &self,
        head: Parts,
        body: Incoming,
        open: mpsc::Sender<Infallible>,
    ) -> Result<(SocketAddr, Response<Incoming>), Refusal> {
        let wanted = wanted::wanted(&head, &self.denied, self.draining.load(Ordering::Relaxed))?;
        let addresses = self.names.resolve(&wanted.name, wanted.port).await?;
        let (stream, address) = self.provider.connect(&wanted.name, &addresses).await?;
        let response = self.provider.exchange(stream, address, head, body, &wanted.host, open).await?;
        Ok((address, response))
    }
}

/// What is told of an answer that the gateway gave by itself: status and error as the client sees them, and why.
pub fn told(refusal: &Refusal) -> String {
    match refusal.answer() {
        (status, Some(code)) => format!("{} with x-lunar-error {code}: {refusal}", status.as_u16()),
        (status, None) => format!("{}: {refusal}", status.as_u16()),
    }
}

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
