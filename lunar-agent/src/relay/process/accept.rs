//! One listening socket: connections that the kernel redirected are taken up, others are refused.

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::seat::Seat;
use crate::{
    kernel::relay::{Count, Records},
    relay::{Relay, place::Place, session},
};

/// Connections of one namespace that are read. With some KiB for each, one namespace cannot take the memory of all; those
/// beyond cost no more than the two sockets.
const MAX_CONNECTIONS: usize = 4_096;
/// How long a connect to a provider may take that nobody asks about: as a system's own connect is given up by most clients.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Open files for each connection: its own, one to the gateway, and one to its provider. A connection that is accepted while
/// there are none for the others would be lost; one that waits is not.
pub(super) const FILES: usize = 3;
/// How long to wait where a connection cannot be accepted because something is used up.
const WAIT: Duration = Duration::from_millis(10);
/// Connections that are accepted when the listening has ended: as many as there may wait (`net.core.somaxconn`).
const BACKLOG: usize = 4_096;
/// A failure that repeats is told of so often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A listening socket of a network namespace, and all that it takes to serve what comes in.
pub(super) struct Door {
    pub listener: Arc<TcpListener>,
    pub place: Arc<Place>,
    /// Connections of the namespace.
    pub open: Arc<AtomicUsize>,
    pub relay: Arc<Relay>,
    pub records: Arc<Records>,
    /// Connections of all namespaces.
    pub connections: TaskTracker,
    /// And how many there may be.
    pub most: usize,
}

impl Door {
    /// Accepts until it is to stop, and then what has come in before.
    pub async fn serve(self, stop: CancellationToken) {
        let mut told = Told::default();
        while !stop.is_cancelled() {
            if self.connections.len() >= self.most {
                told.warn(|| tracing::warn!(most = self.most, "open files are used up: connections wait"));
                tokio::time::sleep(WAIT).await;
                continue;
            }
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take_up(stream, peer),
                Err(e) => {
                    let netns = self.place.cookie;
                    told.warn(|| tracing::warn!(netns, error = %e, "cannot accept a connection"));
                    if is_shortage(&e) {
                        tokio::time::sleep(WAIT).await;
                    }
                }
            }
        }
        // What waits would be reset with the socket.
        for (stream, peer) in std::iter::from_fn(|| self.accept_waiting()).take(BACKLOG) {
            self.take_up(stream, peer);
        }
    }

    /// One that waits to be accepted, if any does.
    fn accept_waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        let (socket, peer) = SockRef::from(&*self.listener).accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(socket.into()).ok()?, peer.as_socket()?))
    }

    /// Never waits: a connection that has been accepted is either served or refused, whenever the listening ends.
    fn take_up(&self, stream: TcpStream, peer: SocketAddr) {
        let original = stream.local_addr().map(|local| self.records.take(self.place.cookie, peer, local));
        let original = match original {
            Ok(Ok(Some(original))) => original,
            Ok(Ok(None)) => {
                self.relay.counts.one(Count::Unknown);
                return reset(&stream);
            }
            Ok(Err(e)) => {
                tracing::error!(error = %e, "a connection is lost: its destination cannot be told");
                return reset(&stream);
            }
            Err(e) => return tracing::debug!(error = %e, "a connection ended before it was taken up"),
        };
        self.relay.counts.one(Count::Accepted);
        let read = Seat::taken(&self.open) < MAX_CONNECTIONS;
        let seat = Seat::take(&self.open);
        let bound = self.place.bound_to(peer.ip()).map(Arc::new);
        let place = bound.unwrap_or_else(|| Arc::clone(&self.place));
        let relay = Arc::clone(&self.relay);
        // Boxed, because it is moved several times on its way to the runtime, and large.
        let work = Box::pin(async move {
            let _seat = seat;
            if read {
                session::serve(stream, original, place, relay).await;
            } else {
                splice(stream, original, &place, &relay).await;
            }
        });
        self.connections.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(%original, "a defect of the relay has cost a connection");
            }
        });
    }
}

/// When a failure that repeats was told of.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    fn warn(&mut self, warn: impl FnOnce()) {
        if self.0.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.0 = Some(Instant::now());
            warn();
        }
    }
}

/// Whether accepting again at once would fail again (accept(2)).
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Closes a connection as a port does on which nobody listens.
fn reset(stream: &TcpStream) {
    // If that fails the application sees an end instead of a reset.
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
}

/// Joins a connection with its provider, unread.
async fn splice(mut stream: TcpStream, original: SocketAddr, place: &Place, relay: &Relay) {
    let _open = relay.counts.connection();
    relay.counts.one(Count::Crowded);
    match place.connect(original, CONNECT_TIMEOUT).await {
        Ok(mut provider) => {
            if tokio::io::copy_bidirectional(&mut stream, &mut provider).await.is_err() {
                // What was cut off is not to look whole.
                reset(&stream);
                reset(&provider);
            }
        }
        Err(e) => {
            tracing::debug!(%original, error = %e, "a provider cannot be reached");
            relay.counts.one(Count::ProviderFailed);
            reset(&stream);
        }
    }
}
