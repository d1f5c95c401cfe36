//! Connections to the gateway, used again.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use lunar_common::abi::MARK;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::ClientConfig;

use super::{
    Stream,
    tls::{self, Speaks, TlsError},
    trouble::Trouble,
    tune,
};
use crate::{
    gateway::outbound::{self, ConnectError, Reason},
    relay::setup::{Endpoint, Setup},
};

/// How long a connection may lie unused. Gateways close theirs after some time, and the less often that meets a request the better.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// How many may lie unused for an endpoint. Under load all but a few are under way at one moment and back at the next; those beyond
/// this would be closed and opened again each time.
const MAX_SHELF: usize = 1024;

/// Why the gateway cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The connect.
    #[error("{}", without_address(.0))]
    Connect(#[from] ConnectError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// One of them took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Whoever speaks of it says the address anyway.
fn without_address(error: &ConnectError) -> String {
    match error {
        ConnectError::Connect { source, .. } => format!("connect: {}", Reason(source)),
        ConnectError::Socket { source, .. } => format!("socket: {}", Reason(source)),
        ConnectError::MarkNotPermitted { .. } => error.to_string(),
    }
}

impl ReachError {
    /// Whether it is this side's own, and shows nothing of the gateway.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Socket { .. } | ConnectError::MarkNotPermitted { .. })
            | Self::Tls(TlsError::Roots(_) | TlsError::Setup(_) | TlsError::Name(_)) => true,
            Self::Connect(ConnectError::Connect { .. })
            | Self::Tls(TlsError::OtherProtocol | TlsError::Handshake(_))
            | Self::TimedOut(_) => false,
        }
    }
}

/// Connections to the gateway's endpoints that lie unused, and the way to new ones.
#[derive(Default)]
pub struct Pool {
    shelves: Arc<Mutex<Shelves>>,
    tls: OnceLock<Arc<ClientConfig>>,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Shelves {
    /// Few enough to look through.
    all: Vec<Shelf>,
    /// Whether somebody looks after those that lie too long.
    swept: bool,
}

struct Shelf {
    address: SocketAddr,
    /// Whose certificate was asked for.
    tls: Option<Box<str>>,
    /// The longest unused first.
    idle: Vec<(Instant, Stream)>,
}

impl Pool {
    /// A connection that was used before, lies no longer than `oldest`, and that the gateway has not closed; `sure`: not even in
    /// this very moment.
    pub fn take(&self, setup: &Setup, endpoint: &Endpoint, oldest: Duration, sure: bool) -> Option<Stream> {
        let oldest = oldest.min(MAX_IDLE);
        loop {
            let (since, stream) = self.lock().shelf(setup, endpoint)?.idle.pop()?;
            if since.elapsed() >= oldest {
                // It may do for a request that is less delicate, and those below it are older still.
                self.keep(setup, endpoint, since, stream);
                return None;
            }
            let quiet = if sure { stream.is_quiet() } else { stream.was_quiet() };
            if quiet {
                return Some(stream);
            }
        }
    }

    /// Takes back a connection on which the gateway has answered everything.
    pub fn put(&self, setup: &Setup, endpoint: &Endpoint, stream: Stream) {
        self.keep(setup, endpoint, Instant::now(), stream);
    }

    fn keep(&self, setup: &Setup, endpoint: &Endpoint, since: Instant, stream: Stream) {
        let mut shelves = self.lock();
        let idle = match shelves.shelf(setup, endpoint) {
            Some(shelf) => &mut shelf.idle,
            None => {
                let (address, tls) = key(setup, endpoint);
                shelves.all.push(Shelf { address, tls: tls.map(Into::into), idle: Vec::new() });
                let Some(shelf) = shelves.all.last_mut() else { return };
                &mut shelf.idle
            }
        };
        if idle.len() >= MAX_SHELF {
            return;
        }
        idle.push((since, stream));
        if !std::mem::replace(&mut shelves.swept, true) {
            tokio::spawn(sweep(Arc::clone(&self.shelves)));
        }
    }

    /// A new connection from the relay's own network namespace, marked as the relay's.
    ///
    /// # Errors
    /// See [`ReachError`].
    pub async fn connect(
        &self,
        setup: &Setup,
        endpoint: &Endpoint,
        speaks: Speaks,
    ) -> Result<Stream, ReachError> {
        let made = self.make(setup, endpoint, speaks).await;
        match &made {
            Ok(_) => self.trouble_lock().over(),
            Err(reason) => self.failed(endpoint, reason),
        }
        made
    }

    /// Why the gateway could not be reached when that was last tried; `None` if it could.
    pub fn trouble(&self) -> Option<String> {
        self.trouble_lock().last.clone()
    }

    /// Enters why an endpoint could not be reached, and tells of it now and then.
    pub fn failed(&self, endpoint: &Endpoint, reason: &impl fmt::Display) {
        let address = endpoint.address;
        if self.trouble_lock().failed(&format!("{address}: {reason}"), Instant::now()) {
            tracing::warn!(endpoint = %address, %reason, "the gateway cannot be reached");
        }
    }

    async fn make(&self, setup: &Setup, endpoint: &Endpoint, speaks: Speaks) -> Result<Stream, ReachError> {
        let limit = setup.connect_timeout;
        let late = |_| ReachError::TimedOut(limit);
        let stream = timeout(limit, outbound::connect(endpoint.address, MARK)).await.map_err(late)??;
        tune(&stream);
        if !setup.supports_tls {
            return Ok(Stream::Plain(stream));
        }
        let config = match self.tls.get() {
            Some(config) => config,
            None => {
                let native = tls::native()?;
                self.tls.get_or_init(|| native)
            }
        };
        let handshake = tls::handshake(config, speaks, &endpoint.host, stream);
        let stream = timeout(limit, Box::pin(handshake)).await.map_err(late)??;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Trusts `roots`, whatever the host trusts.
    #[cfg(test)]
    pub(crate) fn trust(&self, roots: tokio_rustls::rustls::RootCertStore) {
        assert!(self.tls.set(tls::config(roots).expect("a sound configuration")).is_ok());
    }

    fn trouble_lock(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key<'a>(setup: &Setup, endpoint: &'a Endpoint) -> (SocketAddr, Option<&'a str>) {
    (endpoint.address, setup.supports_tls.then_some(&*endpoint.host))
}

impl Shelves {
    fn shelf(&mut self, setup: &Setup, endpoint: &Endpoint) -> Option<&mut Shelf> {
        let wanted = key(setup, endpoint);
        self.all.iter_mut().find(|shelf| (shelf.address, shelf.tls.as_deref()) == wanted)
    }
}

/// Closes what lies too long, until nothing lies there.
async fn sweep(shelves: Arc<Mutex<Shelves>>) {
    loop {
        sleep(MAX_IDLE / 4).await;
        let mut shelves = shelves.lock().unwrap_or_else(PoisonError::into_inner);
        for shelf in &mut shelves.all {
            shelf.idle.retain(|(since, _)| since.elapsed() < MAX_IDLE);
        }
        shelves.all.retain(|shelf| !shelf.idle.is_empty());
        if shelves.all.is_empty() {
            shelves.swept = false;
            return;
        }
    }
}
