//! The thread that keeps a relay alive and listening where targets are. What it does may take its time: enter network namespaces,
//! start a process, wait for its answer.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    link::{Link, LinkError},
    namespaces::{Namespaces, ServeError},
};
use crate::{
    kernel::{KernelError, pins::Pins},
    relay::setup::Setup,
    targets::netns::NetnsId,
};

/// From one look at the targets' network namespaces to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the keeper is told.
pub(super) enum Command {
    /// A process of a target, whose network namespace may be a new one.
    Process(u32),
    /// Look at once, since something else may be wanted, and say when all is in its place.
    Look(Option<oneshot::Sender<()>>),
    /// The relay with this process id has ended.
    Ended(u32),
    /// End, all relays first, and say when that is done.
    Stop(oneshot::Sender<()>),
}

/// What is wanted of a relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// What it is to serve by.
    pub(super) setup: Arc<Setup>,
    /// The folders of the targets' cgroups.
    pub(super) cgroups: Vec<PathBuf>,
}

/// What is wanted at the moment; no relay, without it.
pub(super) type Wanted = Arc<Mutex<Option<Arc<Wish>>>>;

/// What the keeper knows, for `status`.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// The version of the relay that serves.
    pub(super) version: Option<String>,
    /// Why there is none, or not all is in effect.
    pub(super) problem: Option<String>,
    /// Network namespaces that it listens in.
    pub(super) namespaces: BTreeSet<NetnsId>,
}

/// Why not all is as it should be.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

pub(super) struct Keeper {
    link: Link,
    namespaces: Namespaces,
    wanted: Wanted,
    next_look: Instant,
    report: Arc<Mutex<Report>>,
    /// Commands about processes that wait.
    pending: Arc<AtomicUsize>,
}

impl Keeper {
    pub(super) fn new(
        root: PathBuf,
        socket: PathBuf,
        wanted: Wanted,
        report: Arc<Mutex<Report>>,
        pending: Arc<AtomicUsize>,
        commands: Sender<Command>,
    ) -> Result<Self, KernelError> {
        let namespaces = Namespaces::new(&Pins::new(&root))?;
        let link = Link::new(root, socket, commands)?;
        Ok(Self { link, namespaces, wanted, next_look: Instant::now(), report, pending })
    }

    /// Works until it is stopped.
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
                    Command::Process(pid) => {
                        self.pending.fetch_sub(1, Ordering::Relaxed);
                        processes.insert(pid);
                    }
                    Command::Look(done) => {
                        waiting.extend(done);
                        look = true;
                    }
                    Command::Ended(pid) => {
                        if self.link.ended(pid) {
                            self.namespaces.of_none();
                            look = true;
                        }
                    }
                    Command::Stop(done) => {
                        self.let_go();
                        let _gone = done.send(());
                        return;
                    }
                }
            }
            match self.wish() {
                Some(wish) => {
                    if look {
                        self.next_look = Instant::now() + LOOK_EVERY;
                    }
                    let trouble = self.work(&wish, look, &processes).err();
                    self.tell(trouble.as_ref());
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
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn work(&mut self, wish: &Wish, look: bool, processes: &BTreeSet<u32>) -> Result<(), Trouble> {
        if look {
            self.link.check();
        }
        if self.link.ensure()? {
            let served = self.link.hello().map(|hello| hello.served.clone()).unwrap_or_default();
            // Before it is configured, and beats: from then on whatever is entered is used.
            self.namespaces.of_another_relay(&served)?;
        }
        self.link.configure(&wish.setup)?;
        let met = self.namespaces.meet(&mut self.link, processes);
        if look {
            self.namespaces.look(&mut self.link, wish)?;
        }
        Ok(met?)
    }

    /// No relay is wanted: it listens nowhere, and finishes what it has begun.
    fn let_go(&mut self) {
        if let Err(e) = self.namespaces.leave_all(&mut self.link) {
            tracing::warn!(error = %e, "not all network namespaces are left");
        }
        self.link.end();
        self.tell(None);
    }

    fn tell(&mut self, trouble: Option<&Trouble>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let relay = self.link.hello();
        let problem = match trouble {
            // Until then what was wrong before still is.
            Some(Trouble::Link(LinkError::Soon)) => report.problem.clone(),
            Some(trouble) => Some(trouble.to_string()),
            None => self.namespaces.problem().or_else(|| {
                let trouble = relay.and_then(|hello| hello.trouble.as_ref());
                trouble.map(|trouble| format!("it cannot reach the gateway: {trouble}"))
            }),
        };
        if trouble.is_some()
            && let Some(problem) = problem.as_ref().filter(|problem| report.problem.as_ref() != Some(problem))
        {
            tracing::warn!(problem, "the relay is not as it should be");
        }
        *report = Report {
            version: relay.map(|hello| hello.version.clone()),
            problem,
            namespaces: self.namespaces.served(),
        };
    }
}
