//! What a relay serves: settings and network namespaces, as it is told.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use nix::sched::{CloneFlags, setns};
use socket2::SockRef;
use tokio::{net::TcpListener, runtime::Handle, sync::mpsc, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    End,
    accept::{self, Door},
    wire::Namespace,
};
use crate::{
    kernel::{netns_cookie, relay::Records},
    relay::{
        Relay,
        counts::Counts,
        gateways::Gateways,
        place::Place,
        setup::{Settings, Setup, SetupError},
        upstream::tune,
    },
};

/// From one heartbeat to the next: a fifth of the lease (`abi::RELAY_LEASE`).
const BEAT_EVERY: Duration = Duration::from_millis(100);
/// How long a connect that the kernel has sent here may take to arrive: its handshake is made within `connect(2)`, but a
/// busy machine may do it a little later.
const ARRIVAL: Duration = Duration::from_millis(20);

/// Why something is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// The settings are wrong.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// There are too few or too many file descriptors.
    #[error("{came} file descriptors came with a message that speaks of {wanted}")]
    Fds {
        /// How many came.
        came: usize,
        /// How many should have.
        wanted: usize,
    },
    /// It is no network namespace.
    #[error("the network namespace cannot be entered: {0}")]
    Enter(io::Error),
    /// The namespace is another.
    #[error("the network namespace has the cookie {found}, not {said}")]
    Namespace {
        /// What was said.
        said: u64,
        /// What it is.
        found: u64,
    },
    /// A listener is none.
    #[error("a file descriptor is no TCP socket that listens")]
    NoListener,
    /// Something else.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another relay takes over.
    #[error("another relay takes over")]
    Moved,
}

/// What becomes of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It serves.
    Serves,
    /// Another is about to take over.
    HandsOver,
    /// It accepts nothing any more.
    Ended,
}

/// What this process serves.
pub(super) struct Serving {
    runtime: Handle,
    home: OwnedFd,
    records: Arc<Records>,
    ends: mpsc::UnboundedSender<End>,
    /// Connections there may be.
    most: usize,
    heart: Vital,
    doors: Vital,
    /// The applications' connections.
    connections: TaskTracker,
    state: Mutex<State>,
}

/// Tasks without which a relay is none, and what ends them.
#[derive(Default)]
struct Vital {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Vital {
    async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct State {
    phase: Phase,
    /// Until there are settings.
    unused: Option<(Gateways, Counts)>,
    relay: Option<Arc<Relay>>,
    served: BTreeMap<u64, Served>,
}

#[derive(Clone)]
struct Served {
    place: Arc<Place>,
    listeners: [Option<Arc<TcpListener>>; 2],
    open: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// A network namespace as it is handed over.
pub(super) struct Handed(Served);

impl Handed {
    pub fn namespace(&self) -> Namespace {
        let [v4, v6] = self.0.listeners.each_ref().map(Option::is_some);
        Namespace { cookie: self.0.place.cookie, v4, v6 }
    }

    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.0.listeners.iter().flatten().map(|listener| listener.as_fd());
        std::iter::once(self.0.place.netns().as_fd()).chain(listeners).collect()
    }
}

impl Serving {
    /// Serves nothing yet. `home` is the network namespace of this process, which may open so many `files`.
    pub fn new(
        runtime: Handle,
        home: OwnedFd,
        records: Records,
        files: usize,
        ends: mpsc::UnboundedSender<End>,
        unused: (Gateways, Counts),
    ) -> Self {
        let state =
            State { phase: Phase::Serves, unused: Some(unused), relay: None, served: BTreeMap::new() };
        Self {
            runtime,
            home,
            records: Arc::new(records),
            ends,
            most: (files / accept::FILES).max(1),
            heart: Vital::default(),
            doors: Vital::default(),
            connections: TaskTracker::new(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving_state(&self) -> Result<MutexGuard<'_, State>, ServeError> {
        let state = self.state();
        if state.phase == Phase::Serves { Ok(state) } else { Err(ServeError::Moved) }
    }

    /// What connections share; `None` before there are settings.
    pub fn relay(&self) -> Option<Arc<Relay>> {
        self.state().relay.clone()
    }

    /// Cookies of the network namespaces.
    pub fn served(&self) -> Vec<u64> {
        self.state().served.keys().copied().collect()
    }

    /// Changes the settings. With the first begin accepting and beating.
    pub fn configure(&self, setup: Setup) -> Result<(), ServeError> {
        let settings = Settings::new(setup)?;
        let mut state = self.serving_state()?;
        if let Some(relay) = &state.relay {
            relay.set_settings(settings);
            tracing::info!("settings changed");
        } else if let Some((gateways, counts)) = state.unused.take() {
            let relay = Arc::new(Relay::new(settings, gateways, counts));
            self.spawn(
                &self.heart,
                "the heartbeat",
                beat(Arc::clone(&relay), self.connections.clone(), self.most, self.heart.stop.clone()),
            );
            for served in state.served.values() {
                self.open(served, &relay);
            }
            state.relay = Some(relay);
        }
        Ok(())
    }

    /// Why the gateway cannot be reached.
    pub fn trouble(&self) -> Option<String> {
        self.state().relay.as_ref().and_then(|relay| relay.pool.trouble())
    }

    /// Serves a network namespace in place of what was served for its cookie.
    pub fn serve(&self, namespace: Namespace, fds: Vec<OwnedFd>) -> Result<(), ServeError> {
        let wanted = 1 + usize::from(namespace.v4) + usize::from(namespace.v6);
        let came = fds.len();
        let mut fds = fds.into_iter();
        let Some(netns) = fds.next().filter(|_| came == wanted) else {
            return Err(ServeError::Fds { came, wanted });
        };
        let cookie = namespace.cookie;
        check_namespace(netns.as_fd(), cookie)?;
        let mut listener = |there: bool| {
            fds.by_ref().take(usize::from(there)).map(|fd| self.listener(fd)).next().transpose()
        };
        let listeners = [listener(namespace.v4)?, listener(namespace.v6)?];
        let place = Arc::new(Place::new(netns, self.home.try_clone()?, cookie));
        let mut state = self.serving_state()?;
        let before = state.served.remove(&cookie);
        let open = before.as_ref().map(|before| Arc::clone(&before.open)).unwrap_or_default();
        let served = Served { place, listeners, open, stop: self.doors.stop.child_token() };
        if let Some(relay) = &state.relay {
            self.open(&served, relay);
        }
        state.served.insert(cookie, served);
        drop(state);
        if let Some(before) = before {
            before.stop.cancel();
        }
        tracing::debug!(netns = cookie, "a network namespace is served");
        Ok(())
    }

    /// Ends the listening in a network namespace; its connections go on.
    pub fn leave(&self, cookie: u64) -> Result<(), ServeError> {
        if let Some(served) = self.serving_state()?.served.remove(&cookie) {
            served.stop.cancel();
            tracing::debug!(netns = cookie, "a network namespace is no longer served");
        }
        Ok(())
    }

    /// What another relay needs to take over. Nothing changes until it has, or [`Serving::resume`].
    pub fn hand_over(&self) -> Result<(Option<Setup>, Vec<Handed>), ServeError> {
        let mut state = self.serving_state()?;
        state.phase = Phase::HandsOver;
        let setup = state.relay.as_ref().map(|relay| relay.settings().setup.clone());
        Ok((setup, state.served.values().cloned().map(Handed).collect()))
    }

    /// The other relay did not take over.
    pub fn resume(&self) {
        let mut state = self.state();
        if state.phase == Phase::HandsOver {
            state.phase = Phase::Serves;
        }
    }

    /// Whether another relay is about to take over, or has.
    pub fn moves(&self) -> bool {
        self.state().phase != Phase::Serves
    }

    /// Whether it accepts nothing any more.
    pub fn ended(&self) -> bool {
        self.state().phase == Phase::Ended
    }

    /// Stops beating and accepting. `alone`: no other relay has taken over, so the kernel is to send connects direct.
    /// What it has sent here before is accepted.
    pub async fn close(&self, alone: bool) {
        self.state().phase = Phase::Ended;
        self.heart.end().await;
        if alone && let Some(relay) = self.relay() {
            relay.gateways.rest();
            tokio::time::sleep(ARRIVAL).await;
        }
        self.doors.end().await;
        self.state().served.clear();
    }

    /// Waits until no connection of an application is left.
    pub async fn drained(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// How many there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn listener(&self, fd: OwnedFd) -> Result<Arc<TcpListener>, ServeError> {
        let socket = SockRef::from(&fd);
        let is_tcp = socket.local_addr().is_ok_and(|local| local.as_socket().is_some());
        if !is_tcp || !socket.is_listener().unwrap_or(false) {
            return Err(ServeError::NoListener);
        }
        // What is accepted has it from the start (`tcp_create_openreq_child`), and no system call is made for each connection.
        tune(&fd);
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        let _inside = self.runtime.enter();
        Ok(Arc::new(TcpListener::from_std(listener)?))
    }

    /// Begins to accept.
    fn open(&self, served: &Served, relay: &Arc<Relay>) {
        for listener in served.listeners.iter().flatten() {
            let door = Door {
                listener: Arc::clone(listener),
                place: Arc::clone(&served.place),
                open: Arc::clone(&served.open),
                relay: Arc::clone(relay),
                records: Arc::clone(&self.records),
                connections: self.connections.clone(),
                most: self.most,
            };
            self.spawn(&self.doors, "accepting", door.serve(served.stop.clone()));
        }
    }

    fn spawn(&self, kind: &Vital, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let ends = self.ends.clone();
        let guarded = async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // It fails only when the process ends anyway.
                ends.send(End::Defect(what)).ok();
            }
        };
        kind.tasks.spawn_on(guarded, &self.runtime);
    }
}

/// Renews the lease, from the runtime that serves: when that hangs, the lease ends. It also does while there is no room for another
/// connection, which is better off direct than waiting.
async fn beat(relay: Arc<Relay>, connections: TaskTracker, most: usize, stop: CancellationToken) {
    let mut every = tokio::time::interval(BEAT_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = every.tick() => {
                if connections.len() < most {
                    relay.gateways.beat();
                } else {
                    relay.gateways.rest();
                }
            }
        }
    }
}

/// Looks at a network namespace from a thread of its own: this one stays where it is.
fn check_namespace(netns: BorrowedFd<'_>, said: u64) -> Result<(), ServeError> {
    let look = || -> io::Result<u64> {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        netns_cookie()
    };
    let found = thread::scope(|scope| {
        let looking = thread::Builder::new().spawn_scoped(scope, look)?;
        looking.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    });
    match found.map_err(ServeError::Enter)? {
        found if found == said => Ok(()),
        found => Err(ServeError::Namespace { said, found }),
    }
}
