//! The four of them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, channel::Channel, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lunar_common::failsafe::{Cell, Word};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    kernel::{
        breaker::Breaker,
        relay::{Count, RelayCounts},
    },
    relay::{
        Relay,
        counts::Counts,
        gateways::Gateways,
        place::Place,
        replay::Mode,
        setup::{Endpoint, Settings, Setup},
    },
};

pub const LONG: Duration = Duration::from_secs(20);
pub const REPLAY_BUFFER: usize = 64 << 10;

/// A body of a test's own.
pub type Body = BoxBody<Bytes, Infallible>;
/// What a server does: an answer, or the reason it resets the stream with.
pub type Answer = BoxFuture<'static, Result<Response<Body>, h2::Error>>;

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

pub fn channel() -> (http_body_util::channel::Sender<Bytes, Infallible>, Body) {
    let (sender, body) = Channel::new(1);
    (sender, body.boxed())
}

pub fn answer(response: Response<Body>) -> Answer {
    Box::pin(async { Ok(response) })
}

pub fn reset(reason: h2::Reason) -> Answer {
    Box::pin(async move { Err(reason.into()) })
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: http::Method,
    pub uri: http::Uri,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

/// A server of HTTP/2 with prior knowledge.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Its connections, and the task that takes them.
    pub connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    go_away: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub async fn start(
        limit: u32,
        act: impl Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        Self::on(listener, limit, act)
    }

    pub fn on(
        listener: TcpListener,
        limit: u32,
        act: impl Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("a bound address");
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (sees, takes) = (seen.clone(), connections.clone());
        let (go_away, goes) = watch::channel(());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut goes = goes.clone();
                goes.mark_unchanged();
                let (act, sees) = (act.clone(), sees.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    sees.lock().expect("lock").push(Seen {
                        method: request.method().clone(),
                        uri: request.uri().clone(),
                        headers: request.headers().clone(),
                    });
                    act(request)
                });
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                server.auto_date_header(false).max_concurrent_streams(limit).max_header_list_size(1 << 20);
                // What a test counts as sent has mostly left this side.
                server.max_send_buf_size(16 << 10);
                let connection = server.serve_connection(TokioIo::new(stream), service);
                takes.lock().expect("lock").push(tokio::spawn(async move {
                    let mut connection = std::pin::pin!(connection);
                    tokio::select! {
                        _ = &mut connection => return,
                        _ = goes.changed() => connection.as_mut().graceful_shutdown(),
                    }
                    _ = connection.await;
                }));
            }
        });
        Self { address, seen, connections, go_away, accepting }
    }

    /// Answers with `name` and the body it was sent, trailers too.
    pub async fn echo(name: &'static str) -> Self {
        Self::start(256, echo(name)).await
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    /// Its connections break off, and no other is taken.
    pub async fn die(&self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        self.break_off();
    }

    /// Each of its connections says GOAWAY, and finishes what it has begun.
    pub fn go_away(&self) {
        self.go_away.send_replace(());
    }

    /// How many connections there have been, if none was broken off.
    pub fn connected(&self) -> usize {
        self.connections.lock().expect("lock").len()
    }

    pub fn break_off(&self) {
        self.connections.lock().expect("lock").drain(..).for_each(|connection| connection.abort());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.break_off();
    }
}

pub fn echo(name: &'static str) -> impl Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static {
    move |request| {
        let (head, body) = request.into_parts();
        let mut response = Response::new(body.map_err(|_| unreachable_error()).boxed());
        response.headers_mut().insert("x-by", name.parse().expect("a value"));
        if let Some(length) = head.headers.get("content-length") {
            response.headers_mut().insert("content-length", length.clone());
        }
        answer(response)
    }
}

/// A body that breaks off ends the test's server task, and with it the connection.
fn unreachable_error() -> Infallible {
    panic!("the body that was to be echoed broke off")
}

/// A gateway and a provider, and the relay between.
pub struct Scene {
    pub relay: Arc<Relay>,
    pub gateway: Server,
    pub provider: Server,
    /// Where the application connects to.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Scene {
    pub async fn new(gateway: Server, provider: Server) -> Self {
        Self::with(gateway, provider, |_| {}).await
    }

    pub async fn with(gateway: Server, provider: Server, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup {
            endpoints: vec![Endpoint {
                slot: 3,
                address: gateway.address,
                host: "gateway".to_owned(),
                managed: true,
            }],
            supports_tls: false,
            tenant: "acme".to_owned(),
            connect_timeout: Duration::from_secs(1),
            lease: Duration::from_secs(3600),
            grace: Duration::from_millis(100),
            cooldown: Duration::from_secs(3600),
            threshold: 100,
            allow: vec!["*.example".to_owned()],
            block: vec!["blocked.example".to_owned()],
            ports: vec![provider.address.port()],
            own_addresses: Vec::new(),
            error_indicators: vec!["x-lunar-error".to_owned()],
            replay: Mode::Safe,
            replay_buffer: REPLAY_BUFFER,
            retry_max: 3,
            retry_total: Duration::from_secs(60),
            drain_timeout: LONG,
        };
        change(&mut setup);
        let breaker = Breaker::in_memory();
        breaker.beat();
        let relay = Arc::new(Relay::new(
            Settings::new(setup).expect("settings"),
            Gateways::new(breaker),
            Counts::new(RelayCounts::in_memory(), 0),
        ));
        let netns = || std::fs::File::open("/proc/thread-self/ns/net").expect("open").into();
        let place = Arc::new(Place::new(netns(), netns(), 1));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("a bound address");
        let (original, serving) = (provider.address, relay.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (place, relay) = (place.clone(), serving.clone());
                tokio::spawn(super::super::serve(stream, BytesMut::new(), original, place, relay));
            }
        });
        Self { relay, gateway, provider, address, accepting }
    }

    /// An application's connection.
    pub async fn application(&self) -> http2::SendRequest<Body> {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }

    pub fn count(&self, count: Count) -> u64 {
        self.relay.counts.get(count)
    }

    /// Requests by the gateway, direct, replayed, retried, closed and failed by the provider.
    pub fn counts(&self) -> [u64; 6] {
        use Count::{Closed, Direct, Gateway, ProviderFailed, Replayed, Retried};
        [Gateway, Direct, Replayed, Retried, Closed, ProviderFailed].map(|count| self.count(count))
    }

    pub fn breaker(&self) -> &Breaker {
        self.relay.gateways.breaker()
    }

    /// How many failures the failsafe's word holds.
    pub fn failures(&self) -> u32 {
        self.word().connect_failures()
    }

    pub fn word(&self) -> Word {
        self.breaker().word(3).load()
    }

    /// Waits until nothing is under way any more.
    pub async fn at_rest(&self) {
        tokio::time::timeout(LONG, async {
            while self.relay.counts.requests() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("nothing is under way in the end");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A request to a host with a body.
pub fn request(method: &str, host: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(format!("http://{host}/path?query")).body(body).expect("a request")
}

/// The status, who answered, and the body.
pub async fn told(response: Response<Incoming>) -> (u16, String, Bytes) {
    let by = response.headers().get("x-by").map_or("", |by| by.to_str().expect("text")).to_owned();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, by, body)
}

pub fn reason(error: &hyper::Error) -> Option<h2::Reason> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.reason();
        }
        next = error.source();
    }
    None
}
