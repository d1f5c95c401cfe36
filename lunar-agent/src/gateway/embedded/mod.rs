//! The embedded gateway: real but small, for trying things and for tests. It forwards every connection to its
//! original destination, byte for byte; or, with [`Options::lunar`], each request to the provider that it names.

pub mod destination;
pub mod forward;
mod health;
mod listener;
pub mod lunar;
mod original;
pub mod proxy_header;

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use self::{
    forward::{Failure, Forwarder},
    lunar::{Asked, Lunar, LunarOptions, refusal::Refusal},
};
use super::outbound::{self, ConnectError, Reason};

/// What the gateway is to do; [`Options::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where redirected connections arrive; at least one, port 0 for any free one.
    pub listen: Vec<SocketAddr>,
    /// Take the original destination from a PROXY protocol header, and only from there.
    pub accept_proxy: bool,
    /// Speak the Lunar Gateway's contract instead: the destination is in each request's headers.
    pub lunar: Option<LunarOptions>,
    /// Where health checks and handshakes are answered.
    pub health: Vec<SocketAddr>,
    /// What a handshake says of `managed`.
    pub managed: bool,
    /// `SO_MARK` of outbound sockets, host byte order; 0 for none.
    pub mark: u32,
    /// How long a PROXY header may take.
    pub header_timeout: Duration,
    /// How long connecting to an original destination, or to one address of a provider, may take.
    pub connect_timeout: Duration,
    /// How long open connections may go on after the first signal.
    pub drain_timeout: Duration,
}

impl Options {
    /// Listens on `listen`, with `SO_ORIGINAL_DST`, no health endpoint, no mark.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            accept_proxy: false,
            lunar: None,
            health: Vec::new(),
            managed: false,
            mark: 0,
            header_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// An address cannot be listened on.
    #[error("listen on {address}: {}; choose an address of this host and a free port", Reason(.source))]
    Listen {
        /// The address as given.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process may not mark its sockets.
    #[error(transparent)]
    Mark(#[from] ConnectError),
    /// The signal handlers cannot be installed.
    #[error("signal handlers: {}", Reason(.0))]
    Signals(#[source] io::Error),
}

/// What happened; its text is one line of the gateway's output.
#[derive(Debug)]
pub enum Event {
    /// A listener is ready, on this actual address.
    Listening(SocketAddr),
    /// The health endpoint is ready, on this actual address.
    ServingHealth(SocketAddr),
    /// A connection reached its original destination.
    Forwarded {
        /// The peer as the kernel saw it.
        client: SocketAddr,
        /// Its original destination.
        destination: SocketAddr,
    },
    /// A connection was closed without being forwarded.
    Failed {
        /// The peer as the kernel saw it.
        client: SocketAddr,
        /// Why.
        reason: Failure,
    },
    /// A provider answered a request.
    Passed {
        /// The peer as the kernel saw it.
        client: SocketAddr,
        /// The provider.
        destination: SocketAddr,
        /// What was asked.
        asked: Asked,
        /// What was answered.
        status: StatusCode,
    },
    /// The gateway answered a request by itself.
    Answered {
        /// The peer as the kernel saw it.
        client: SocketAddr,
        /// What was asked.
        asked: Asked,
        /// Why, which is also what.
        refusal: Refusal,
    },
    /// Accepting rests for a moment.
    AcceptPaused(io::Error),
    /// The limit of open files stays as it is.
    FileLimit(io::Error),
    /// The first signal came.
    Stopping,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening(address) => write!(f, "listening on {address}"),
            Self::ServingHealth(address) => write!(f, "serving health on {address}"),
            Self::Forwarded { client, destination } => write!(f, "forwarded {client} -> {destination}"),
            Self::Failed { client, reason } => write!(f, "failed {client}: {reason}"),
            Self::Passed { client, destination, asked, status } => {
                write!(f, "forwarded {client} -> {destination}: {asked}: {}", status.as_u16())
            }
            Self::Answered { client, asked, refusal } => {
                write!(f, "failed {client}: {asked}: {}", lunar::told(refusal))
            }
            Self::AcceptPaused(error) => write!(f, "accepting rests: {}", Reason(error)),
            Self::FileLimit(error) => write!(f, "open files limit not raised: {}", Reason(error)),
            Self::Stopping => f.write_str("stopping; a second signal stops at once"),
        }
    }
}

/// How the gateway learns where what it accepts is to go.
#[derive(Clone)]
enum Way {
    /// A connection has an original destination.
    Original(Arc<Forwarder>),
    /// Each request names its provider.
    Lunar(Arc<Lunar>),
}

impl Way {
    /// Serves one connection to its end; `open` is held as long.
    async fn serve(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        open: mpsc::Sender<Infallible>,
        log: impl Fn(Event) + Clone + Send + Sync + 'static,
    ) {
        match self {
            Self::Original(forwarder) => {
                forwarder.serve(stream, peer, log).await;
                drop(open);
            }
            Self::Lunar(gateway) => gateway.serve(stream, peer, open, log).await,
        }
    }
}

/// Runs the gateway until SIGTERM or SIGINT, then lets open connections end within `drain_timeout`, or until the
/// second signal. Each event goes to `log` as it happens.
///
/// Every connection that is still open when this returns ends with the runtime.
///
/// # Errors
/// See [`GatewayError`]; all of them come before the first connection is taken.
pub async fn run(
    options: Options,
    log: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> Result<(), GatewayError> {
    let (told, signals) = mpsc::channel(2);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).map_err(GatewayError::Signals)?;
        let told = told.clone();
        tokio::spawn(async move { while signal.recv().await.is_some() && told.send(()).await.is_ok() {} });
    }
    serve(options, log, signals).await
}

/// [`run`] with the signals given: one message for each.
async fn serve(
    options: Options,
    log: impl Fn(Event) + Clone + Send + Sync + 'static,
    mut signals: mpsc::Receiver<()>,
) -> Result<(), GatewayError> {
    outbound::check_mark(options.mark)?;
    if let Err(error) = listener::raise_file_limit() {
        log(Event::FileLimit(error));
    }
    let bind_each =
        |addresses: &[SocketAddr]| addresses.iter().copied().map(bind).collect::<Result<Vec<_>, _>>();
    let health = bind_each(&options.health)?;
    let bound = bind_each(&options.listen)?;
    let way = match &options.lunar {
        Some(lunar) => Way::Lunar(Arc::new(Lunar::new(&options, lunar.clone()))),
        None => Way::Original(Arc::new(Forwarder {
            accept_proxy: options.accept_proxy,
            mark: options.mark,
            header_timeout: options.header_timeout,
            connect_timeout: options.connect_timeout,
            listeners: bound.iter().map(|(_, address)| *address).collect(),
        })),
    };

    let mut accepting = JoinSet::new();
    for (health, address) in health {
        log(Event::ServingHealth(address));
        accepting.spawn(serve_health(health, options.managed, log.clone()));
    }
    // Each open connection holds a sender; the channel closes when the last one has ended.
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    for (listener, address) in bound {
        log(Event::Listening(address));
        accepting.spawn(forward_each(listener, way.clone(), open.clone(), log.clone()));
    }
    drop(open);

    tokio::select! {
        _ = signals.recv() => {}
        // One that takes connections ends only by a panic.
        Some(Err(e)) = accepting.join_next() => std::panic::resume_unwind(e.into_panic()),
    }
    log(Event::Stopping);
    if let Way::Lunar(gateway) = &way {
        gateway.drain();
    }
    accepting.shutdown().await;
    tokio::select! {
        _ = timeout(options.drain_timeout, all_ended.recv()) => {}
        _ = signals.recv() => {}
    }
    Ok(())
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let listen = || {
        let listener = listener::listen(address)?;
        let actual = listener.local_addr()?;
        Ok((listener, actual))
    };
    listen().map_err(|source| GatewayError::Listen { address, source })
}

async fn serve_health(listener: TcpListener, managed: bool, log: impl Fn(Event)) -> Infallible {
    let take = |stream, _| drop(tokio::spawn(health::serve(stream, managed)));
    listener::accept_each(listener, take, |error| log(Event::AcceptPaused(error))).await
}

async fn forward_each(
    listener: TcpListener,
    way: Way,
    open: mpsc::Sender<Infallible>,
    log: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> Infallible {
    let take = |stream, peer| drop(tokio::spawn(way.clone().serve(stream, peer, open.clone(), log.clone())));
    listener::accept_each(listener, take, |error| log(Event::AcceptPaused(error))).await
}

#[cfg(test)]
mod tests;
