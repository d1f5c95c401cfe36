//! The relay's process: its socket, its listeners, and how one relay takes the place of another.
//!
//! The agent opens listening sockets inside each target's network namespace and passes them here over a unix socket
//! ([`wire`], [`client`]); the kernel's programs send connects to them as long as the relay's lease is fresh. An upgrade is
//! a second relay on the same socket: it asks the first for all that it has ([`succession`]), accepts beside it, and says so;
//! only then does the first stop accepting, and end when its last connection has ended or `drain_timeout` is over.

mod accept;
pub mod client;
mod lives;
mod seat;
mod server;
mod serving;
mod succession;
pub mod wire;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

pub use client::{Client, ClientError, ready, start};
pub use lives::{end_all, settle_dead};
pub use wire::Hello;

use crate::{
    kernel::{
        KernelError,
        breaker::Breaker,
        features::Capabilities,
        pins::Pins,
        relay::{Records, RelayCounts},
    },
    memory,
    relay::{counts::Counts, gateways::Gateways},
};
use lives::OwnLife;
use server::{Bound, Server};
use serving::{ServeError, Serving};
use succession::{Inherited, Predecessor};

/// Threads that serve: the work is the kernel's for the most part, and targets want the other cores.
const MAX_WORKERS: usize = 4;
/// From one look at the socket and at the memory to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so many connections there is memory to give back.
const MANY_CONNECTIONS: usize = 64;
/// Open files that a process may usually have.
const USUAL_FILES: u64 = 1_024;
/// How long tasks may take to see that the process ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a relay ends with, or cannot start with.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The kernel side.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// The control socket.
    #[error("control socket {path}: {source}")]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Another relay starts at the same moment.
    #[error("another relay is starting on {0}: that one will serve")]
    Starting(PathBuf),
    /// Too many relays live.
    #[error(
        "{} relays live: try again when one of them has finished its last requests",
        lunar_common::abi::MAX_RELAYS
    )]
    Crowded,
    /// What the relay before served by is wrong for this version.
    #[error("the relay on {socket} goes on, its settings are refused here: {reason}")]
    Inherited {
        /// Where it is.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The process itself.
    #[error("cannot set up the process: {0}")]
    Process(#[from] io::Error),
    /// A task without which a relay is none has panicked.
    #[error("a defect has ended {0}")]
    Defect(&'static str),
}

/// Why a relay ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It was told to.
    Signal(&'static str),
    /// It has handed over.
    Moved,
    /// Nobody can ask it any more, or the kernel does not: its path or its pins are another's, or gone.
    Replaced,
    /// A task has panicked.
    Defect(&'static str),
}

/// Where the relay of an agent with this socket has its own.
pub fn socket_beside(agent: &Path) -> PathBuf {
    match agent.file_name() {
        // Two agents in one folder have a relay each.
        Some(name) if name != "agent.sock" => {
            let mut name = name.to_owned();
            name.push(".relay");
            agent.with_file_name(name)
        }
        _ => agent.with_file_name("relay.sock"),
    }
}

/// Runs a relay until a signal, or another relay on the same socket, ends it.
///
/// # Errors
/// What kept it from starting, or a defect.
pub fn run(socket: &Path, pins: &Path) -> Result<(), ProcessError> {
    Capabilities::effective().check_relay().map_err(KernelError::from)?;
    memory::few_arenas();
    let files = raise_file_limit();
    let build = build()?;
    let pins = Pins::new(pins);
    let (breaker, records) = (Breaker::open(&pins)?, Records::open(&pins)?);
    let identity = pins.identity()?;
    let on_socket = |source| ProcessError::Socket { path: socket.to_owned(), source };
    server::make_folder(socket).map_err(on_socket)?;
    let starting = lock(socket)?;
    let lives = RelayCounts::open(&pins)?;
    settle_dead(&lives);
    let settled = RelayCounts::open(&pins)?;
    let life = OwnLife::take(lives).ok_or(ProcessError::Crowded)?;
    let counts = Counts::new(RelayCounts::open(&pins)?, life.place());
    let home = File::open("/proc/thread-self/ns/net")?.into();
    let runtime = runtime()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let (ends, mut ended) = mpsc::unbounded_channel();
    let gateways = Gateways::new(breaker);
    let serving =
        Serving::new(runtime.handle().clone(), home, records, files, ends.clone(), (gateways, counts));
    let serving = Arc::new(serving);

    let predecessor = Predecessor::find(socket);
    if let Some(predecessor) = &predecessor {
        adopt(&serving, predecessor.inherit(&settled))
            .map_err(|e| ProcessError::Inherited { socket: socket.to_owned(), reason: e.to_string() })?;
    }
    let (listener, bound) = Bound::listen(socket).map_err(on_socket)?;
    if let Some(predecessor) = predecessor {
        predecessor.taken();
    }
    let server = Server {
        serving: Arc::clone(&serving),
        runtime: runtime.handle().clone(),
        ends,
        build,
        pins: identity,
    };
    server.start(listener)?;
    drop(starting);
    tracing::info!(socket = %socket.display(), namespaces = serving.served().len(), "relay ready");

    let end = runtime.block_on(watch(&serving, &bound, (&pins, identity), &mut signals, &mut ended));
    bound.remove();
    runtime.block_on(drain(&serving, &life, &mut signals, end));
    let cut_off = life.cut_off();
    tracing::info!(connections = serving.connections(), requests = cut_off, "drained");
    runtime.shutdown_timeout(LAST_WORDS);
    drop(life);
    match end {
        End::Defect(what) => Err(ProcessError::Defect(what)),
        End::Signal(_) | End::Moved | End::Replaced => Ok(()),
    }
}

/// Serves what the relay before has served. A namespace that is refused goes direct until the agent names it again.
fn adopt(serving: &Serving, inherited: Inherited) -> Result<(), ServeError> {
    for (namespace, fds) in inherited.namespaces {
        if let Err(e) = serving.serve(namespace, fds) {
            tracing::warn!(netns = namespace.cookie, error = %e, "a network namespace was not taken over");
        }
    }
    inherited.setup.map_or(Ok(()), |setup| serving.configure(setup))
}

/// Waits for what ends the relay.
async fn watch(
    serving: &Serving,
    bound: &Bound,
    (pins, identity): (&Pins, u32),
    signals: &mut Signals,
    ended: &mut mpsc::UnboundedReceiver<End>,
) -> End {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut most = 0;
    loop {
        tokio::select! {
            name = signals.next() => return End::Signal(name),
            Some(end) = ended.recv() => return end,
            _ = look.tick() => {
                let open = serving.connections();
                most = open.max(most);
                if open == 0 && std::mem::take(&mut most) >= MANY_CONNECTIONS {
                    memory::trim();
                }
                let ours = bound.is_ours() && pins.identity().is_ok_and(|id| id == identity);
                if !ours && !serving.moves() {
                    return End::Replaced;
                }
            }
        }
    }
}

/// Accepts nothing more and lets the connections end.
async fn drain(serving: &Serving, life: &OwnLife, signals: &mut Signals, end: End) {
    tracing::info!(why = ?end, connections = serving.connections(), "draining");
    life.drains();
    let relay = serving.relay();
    if let Some(relay) = &relay {
        relay.drain();
    }
    if end != End::Moved {
        serving.close(end != End::Replaced).await;
    }
    let timeout = relay.map_or(Duration::ZERO, |relay| relay.settings().setup.drain_timeout);
    let until = Instant::now() + timeout;
    // One that has handed over does already what a first signal asks for: systemd sends one to all processes of a unit.
    if !matches!(end, End::Signal(_)) {
        tokio::select! {
            () = serving.drained() => return,
            () = tokio::time::sleep_until(until) => return,
            _ = signals.next() => {}
        }
    }
    tokio::select! {
        () = serving.drained() => {}
        () = tokio::time::sleep_until(until) => {}
        name = signals.next() => tracing::warn!(signal = name, "ends at once"),
    }
}

/// The signals that end a relay.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells two builds of this program apart, also of one version: where its file is, and when it was written. To be asked at
/// the start, before another takes the file's place.
///
/// # Errors
/// If the program's file cannot be looked at.
pub fn build() -> io::Result<String> {
    let file = fs::metadata("/proc/self/exe")?;
    Ok(format!("{}:{}:{}.{:09}", file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// The right to start on `socket`. The kernel gives it back when the process ends, however it ends.
fn lock(socket: &Path) -> Result<Flock<File>, ProcessError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let failed = |source| ProcessError::Socket { path: path.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(ProcessError::Starting(socket.to_owned())),
        Err((_, e)) => Err(failed(e.into())),
    }
}

fn runtime() -> io::Result<Runtime> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("relay")
        .enable_all()
        .build()
}

/// A few sockets for each connection are more than the usual 1,024 allow. Returns how many files may be open.
fn raise_file_limit() -> usize {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!(error = %e, "the limit of open files stays low");
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL_FILES, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}
