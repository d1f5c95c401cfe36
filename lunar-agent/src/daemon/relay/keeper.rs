//! The thread that keeps a relay alive and listening where targets are. What it does may take its time: enter network namespaces,
//! start a process, wait for its answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::TcpListener,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::PathBuf,
    process::Child,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

use lunar_common::{abi::RelayAt, net::NetworkOrder};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::sync::oneshot;

use super::{
    listen::{self, Listeners},
    plan::{Plan, Served},
};
use crate::{
    kernel::{
        KernelError,
        pins::Pins,
        relay::{RelayCounts, RelayPlaces},
    },
    relay::{
        process::{self, Client, ClientError, Hello},
        setup::Setup,
    },
    targets::netns::{self, NetnsId},
};

/// From one look at the targets' network namespaces to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a relay may take to start.
const START: Duration = Duration::from_secs(5);
/// From one attempt to start one to the next.
const START_AGAIN: Duration = Duration::from_secs(2);

/// What the keeper is told.
pub(super) enum Command {
    /// A process of a target, whose network namespace may be a new one.
    Process(u32),
    /// Look at once, since something else may be wanted, and say when all is in its place.
    Look(Option<oneshot::Sender<()>>),
    /// The relay with this process id has ended.
    Ended(u32),
}

/// What is wanted of a relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// What it is to serve by.
    pub(super) setup: Arc<Setup>,
    /// The folders of the targets' cgroups.
    pub(super) cgroups: Vec<PathBuf>,
}

/// What the keeper knows, for `status`.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// The relay that serves.
    pub(super) relay: Option<Hello>,
    /// Why there is none, or not all is in effect.
    pub(super) problem: Option<String>,
    /// Network namespaces that it listens in.
    pub(super) namespaces: BTreeSet<NetnsId>,
}

/// Why a network namespace is not served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("network namespace of pid {pid}: {source}")]
    Enter { pid: u32, source: io::Error },
    #[error(
        "the relay cannot listen in the network namespace of pid {pid}, so connects there go direct: {source}; is its loopback device up?"
    )]
    Listen { pid: u32, source: io::Error },
    #[error(
        "targets are in more network namespaces than a relay can listen in; connects in the others go direct"
    )]
    Full,
    #[error(transparent)]
    Relay(#[from] ClientError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

pub(super) struct Keeper {
    pins: PathBuf,
    socket: PathBuf,
    home: File,
    places: RelayPlaces,
    counts: RelayCounts,
    /// What tells this build of the program from others.
    build: String,
    began: Instant,
    /// What is wanted at the moment; no relay, without it.
    wish: Arc<Mutex<Option<Arc<Wish>>>>,
    /// What the relay was told last.
    configured: Option<Arc<Setup>>,
    client: Option<(Client, Hello)>,
    children: Vec<Child>,
    next_start: Instant,
    plan: Plan,
    /// Whether what earlier agents left has been looked through.
    adopted: bool,
    next_look: Instant,
    report: Arc<Mutex<Report>>,
    /// To itself.
    commands: SyncSender<Command>,
}

impl Keeper {
    pub(super) fn new(
        root: PathBuf,
        socket: PathBuf,
        wish: Arc<Mutex<Option<Arc<Wish>>>>,
        report: Arc<Mutex<Report>>,
        commands: SyncSender<Command>,
    ) -> Result<Self, KernelError> {
        let pins = Pins::new(&root);
        let now = Instant::now();
        Ok(Self {
            places: RelayPlaces::open(&pins)?,
            counts: RelayCounts::open(&pins)?,
            home: File::open("/proc/thread-self/ns/net")
                .map_err(KernelError::sys("open", "the agent's network namespace"))?,
            pins: root,
            socket,
            build: process::build().map_err(KernelError::sys("look at", "this program"))?,
            began: now,
            wish,
            configured: None,
            client: None,
            children: Vec::new(),
            next_start: now,
            plan: Plan::default(),
            adopted: false,
            next_look: now,
            report,
            commands,
        })
    }

    /// Works as long as the agent.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let (mut waiting, mut processes) = (Vec::new(), BTreeSet::new());
            let first = if self.wish().is_some() {
                commands.recv_timeout(self.next_look.saturating_duration_since(Instant::now())).ok()
            } else {
                commands.recv().ok()
            };
            let mut look = Instant::now() >= self.next_look;
            for command in first.into_iter().chain(commands.try_iter()) {
                match command {
                    Command::Process(pid) => drop(processes.insert(pid)),
                    Command::Look(done) => {
                        waiting.extend(done);
                        look = true;
                    }
                    Command::Ended(pid) => look |= self.on_ended(pid),
                }
            }
            match self.wish() {
                Some(wish) => {
                    if look {
                        self.next_look = Instant::now() + LOOK_EVERY;
                    }
                    let problem = self.work(&wish, look, &processes).err().map(|e| e.to_string());
                    self.tell(problem);
                }
                None => self.let_go(),
            }
            for done in waiting {
                // Whoever asked may be gone.
                let _gone = done.send(());
            }
        }
    }

    fn wish(&self) -> Option<Arc<Wish>> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One round. The first thing that is wrong is told; the others are done nevertheless.
    fn work(&mut self, wish: &Arc<Wish>, look: bool, processes: &BTreeSet<u32>) -> Result<(), ServeError> {
        if look {
            self.ask_whether_it_serves();
        }
        self.ensure_relay(wish)?;
        let mut wanted = BTreeMap::new();
        for pid in processes {
            if let Ok(id) = NetnsId::of_process(*pid)
                && !self.plan.serves(id)
            {
                wanted.insert(id, *pid);
            }
        }
        let mut result = Ok(());
        if look {
            let all = netns::of_cgroups(wish.cgroups.iter().map(PathBuf::as_path));
            let steps = self.plan.after(&all, self.began.elapsed());
            wanted.extend(steps.serve);
            for served in steps.leave {
                result = result.and(self.leave(served));
            }
        }
        for (id, pid) in wanted {
            match self.serve(id, pid) {
                // It has ended meanwhile.
                Err(ServeError::Enter { .. }) if NetnsId::of_process(pid).ok() != Some(id) => {}
                served => result = result.and(served),
            }
        }
        if look && !std::mem::replace(&mut self.adopted, true) {
            result = result.and(self.forget_strangers());
        }
        result
    }

    /// One that has handed over, or hangs, is no longer ours: its successor is, or another is started.
    fn ask_whether_it_serves(&mut self) {
        if let Some((client, hello)) = &mut self.client {
            match client.hello() {
                Ok(now) => *hello = now,
                Err(e) => {
                    tracing::info!(pid = hello.pid, reason = %e, "the relay no longer serves");
                    self.client = None;
                }
            }
        }
    }

    /// Sees to it that a relay of this build serves by the wish.
    fn ensure_relay(&mut self, wish: &Arc<Wish>) -> Result<(), ServeError> {
        if self.client.is_none() {
            let found = Client::connect(&self.socket).and_then(|mut c| c.hello().map(|hello| (c, hello)));
            match found {
                Ok((client, hello)) if hello.build == self.build => self.adopt(client, hello),
                Ok((_, hello)) => {
                    tracing::info!(
                        pid = hello.pid,
                        version = hello.version,
                        "a relay of another build is replaced"
                    );
                    self.start()?;
                }
                Err(_) => self.start()?,
            }
        }
        let Some((client, _)) = &mut self.client else { return Ok(()) };
        if self.configured.as_ref().is_none_or(|c| !Arc::ptr_eq(c, &wish.setup) && *c != wish.setup) {
            if let Err(e) = client.configure(&wish.setup) {
                if !matches!(e, ClientError::Refused { .. }) {
                    self.client = None;
                }
                return Err(e.into());
            }
            self.configured = Some(Arc::clone(&wish.setup));
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), ServeError> {
        let now = Instant::now();
        if now < self.next_start {
            return Ok(());
        }
        self.next_start = now + START_AGAIN;
        let failed = |source| ClientError::Connect { socket: self.socket.clone(), source };
        self.children.push(process::start(&self.socket, &self.pins).map_err(failed)?);
        let until = now + START;
        loop {
            let hello = process::ready(&self.socket, until.saturating_duration_since(Instant::now()))?;
            // Until the new one has taken over, the old one answers.
            if hello.build == self.build || Instant::now() >= until {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut client = Client::connect(&self.socket)?;
        let hello = client.hello()?;
        self.adopt(client, hello);
        Ok(())
    }

    fn adopt(&mut self, client: Client, hello: Hello) {
        tracing::info!(pid = hello.pid, version = hello.version, "relay found");
        watch(hello.pid, self.commands.clone());
        self.configured = None;
        self.plan.keep(&hello.served);
        self.adopted = false;
        self.client = Some((client, hello));
    }

    /// A relay's process has ended; says whether it is to be looked after at once.
    fn on_ended(&mut self, pid: u32) -> bool {
        self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        process::settle_dead(&self.counts);
        if self.client.as_ref().is_none_or(|(_, hello)| hello.pid != pid) {
            return false;
        }
        // Handed over or dead: in the first case its successor has the listeners, and the next look finds them.
        tracing::info!(pid, "the relay has ended");
        self.client = None;
        self.plan.clear();
        self.adopted = false;
        true
    }

    /// Has the relay listen in the network namespace of a process.
    fn serve(&mut self, id: NetnsId, pid: u32) -> Result<(), ServeError> {
        let Some((client, hello)) = &mut self.client else { return Ok(()) };
        let enter = |source| ServeError::Enter { pid, source };
        let netns = id.open(pid).map_err(enter)?;
        let cookie = listen::inside(&netns, &self.home, listen::cookie).map_err(enter)?.map_err(enter)?;
        let known: BTreeMap<u64, RelayAt> = self.places.all()?.into_iter().collect();
        let seen = self.began.elapsed();
        if let Some(at) = known.get(&cookie)
            && hello.served.contains(&cookie)
            && self.places.listens(*at)
        {
            self.plan.enter(id, Served { cookie, place: at.place, seen });
            return Ok(());
        }
        let taken = known.values().map(|at| at.place).collect();
        let place = known.get(&cookie).map(|at| at.place).or_else(|| self.plan.free_place(&taken));
        let place = place.ok_or(ServeError::Full)?;
        let listened = listen::inside(&netns, &self.home, listen::listen).map_err(enter)?;
        let Listeners { v4, v6 } = listened.map_err(|source| ServeError::Listen { pid, source })?;
        let port = |listener: Option<&TcpListener>| {
            let address = listener.and_then(|l| l.local_addr().ok());
            NetworkOrder::<u16>::from_host(address.map_or(0, |a| a.port()))
        };
        let at = RelayAt { place, port_v4: port(Some(&v4)), port_v6: port(v6.as_ref()) };
        let (v4, v6) = (Some(v4.as_fd()), v6.as_ref().map(AsFd::as_fd));
        // The relay first: the kernel sends nothing to a socket that nobody accepts from.
        if let Err(e) = client.serve(cookie, netns.as_fd(), v4, v6) {
            if !matches!(e, ClientError::Refused { .. }) {
                self.client = None;
            }
            return Err(e.into());
        }
        self.places.set(cookie, at, v4, v6)?;
        self.plan.enter(id, Served { cookie, place, seen });
        tracing::info!(pid, cookie, "the relay listens in the network namespace of a target");
        Ok(())
    }

    fn leave(&mut self, served: Served) -> Result<(), ServeError> {
        self.places.remove(served.cookie)?;
        if let Some((client, _)) = &mut self.client {
            client.leave(served.cookie)?;
        }
        tracing::info!(cookie = served.cookie, "the relay has left a network namespace without targets");
        Ok(())
    }

    /// What an agent or a relay before had, and nobody wants any more.
    fn forget_strangers(&mut self) -> Result<(), ServeError> {
        let ours: BTreeSet<u64> = self.plan.cookies().collect();
        for (cookie, _) in self.places.all()? {
            if !ours.contains(&cookie) {
                self.places.remove(cookie)?;
            }
        }
        if let Some((client, hello)) = &mut self.client {
            for cookie in hello.served.iter().filter(|cookie| !ours.contains(cookie)) {
                client.leave(*cookie)?;
            }
        }
        Ok(())
    }

    /// No relay is wanted: it listens nowhere, and finishes what it has begun.
    fn let_go(&mut self) {
        for served in self.plan.clear() {
            if let Err(e) = self.leave(served) {
                tracing::warn!(error = %e, "a network namespace is not left");
            }
        }
        if self.client.take().is_some() {
            process::end_all(&self.counts);
        }
        self.adopted = false;
        self.tell(None);
    }

    fn tell(&mut self, problem: Option<String>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|problem| report.problem.as_ref() != Some(problem)) {
            tracing::warn!(problem, "not all connects can be handed to a relay");
        }
        *report = Report {
            relay: self.client.as_ref().map(|(_, hello)| hello.clone()),
            problem,
            namespaces: self.plan.served(),
        };
    }
}

/// Waits on a thread of its own for the end of a process.
fn watch(pid: u32, commands: SyncSender<Command>) {
    let wait = move || {
        match pidfd(pid) {
            Ok(process) => {
                let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
                while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
            }
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            // Then the next look notices.
            Err(_) => return,
        }
        // The agent may be about to end.
        let _gone = commands.send(Command::Ended(pid));
    };
    if let Err(e) = std::thread::Builder::new().name("relay-end".to_owned()).spawn(wait) {
        tracing::warn!(error = %e, "that the relay ends is noticed only once a second");
    }
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the result is a new file descriptor, or negative.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
