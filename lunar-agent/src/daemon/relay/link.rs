//! The relay that the agent talks to: found, started, told what to serve by, and looked after as a process.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    path::PathBuf,
    process::Child,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::keeper::Command;
use crate::{
    kernel::{KernelError, features::Capabilities, pins::Pins, relay::RelayCounts},
    relay::{
        process::{self, Client, ClientError, Hello, wire::WireError},
        setup::Setup,
    },
};

/// How long a relay may take to start.
const START: Duration = Duration::from_secs(5);
/// How long one may take to hand over to another.
const HANDING_OVER: Duration = Duration::from_secs(1);
/// From one attempt to start one to the next.
const START_AGAIN: Duration = Duration::from_secs(2);

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    #[error("it ended as soon as it had started; its log says why")]
    Ended,
    #[error("it has just been started, and ended; it will be started again")]
    Soon,
}

pub(super) struct Link {
    root: PathBuf,
    socket: PathBuf,
    /// What tells this build of the program from others, and these pins from others.
    build: String,
    pins: u32,
    counts: RelayCounts,
    client: Option<(Client, Hello)>,
    /// What the relay was told last.
    configured: Option<Arc<Setup>>,
    children: Vec<Child>,
    next_start: Instant,
    /// Whether a relay of another build gives way: once, for an agent that was upgraded. Whoever takes over later was told to by
    /// somebody else.
    replaces: bool,
    commands: Sender<Command>,
}

impl Link {
    pub(super) fn new(
        root: PathBuf,
        socket: PathBuf,
        commands: Sender<Command>,
    ) -> Result<Self, KernelError> {
        let pins = Pins::new(&root);
        Ok(Self {
            build: process::build().map_err(KernelError::sys("look at", "this program"))?,
            pins: pins.identity()?,
            counts: RelayCounts::open(&pins)?,
            root,
            socket,
            client: None,
            configured: None,
            children: Vec::new(),
            next_start: Instant::now(),
            replaces: true,
            commands,
        })
    }

    /// Who it is, if there is one.
    pub(super) fn hello(&self) -> Option<&Hello> {
        self.client.as_ref().map(|(_, hello)| hello)
    }

    /// One that has handed over, or hangs, is no longer ours: its successor is, or another is started.
    pub(super) fn check(&mut self) {
        self.reap();
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

    /// Sees to it that there is one. Says whether it is another than before.
    pub(super) fn ensure(&mut self) -> Result<bool, LinkError> {
        if self.client.is_some() {
            return Ok(false);
        }
        match self.find() {
            Ok((client, hello)) if self.suits(&hello) => self.adopt(client, hello),
            Ok((_, hello)) => {
                tracing::info!(
                    pid = hello.pid,
                    version = hello.version,
                    "a relay of another build, or of other pins, is replaced"
                );
                self.start()?;
            }
            Err(_) => self.start()?,
        }
        self.replaces = false;
        Ok(true)
    }

    /// Whoever answers at the socket.
    fn greet(&self) -> Result<(Client, Hello), ClientError> {
        let mut client = Client::connect(&self.socket)?;
        let hello = client.hello()?;
        Ok((client, hello))
    }

    /// Whoever serves. One that is just handing over is not nobody: its successor is there in a moment.
    fn find(&self) -> Result<(Client, Hello), ClientError> {
        let until = Instant::now() + HANDING_OVER;
        loop {
            let found = self.greet();
            let moves = matches!(
                found,
                Err(ClientError::Moved(_)
                    | ClientError::Wire { source: WireError::Ended | WireError::Socket(_), .. })
            );
            if !moves || Instant::now() >= until {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn suits(&self, hello: &Hello) -> bool {
        hello.pins == self.pins && (hello.build == self.build || !self.replaces)
    }

    fn start(&mut self) -> Result<(), LinkError> {
        Capabilities::effective().check_relay().map_err(KernelError::from)?;
        let now = Instant::now();
        if now < self.next_start {
            return Err(LinkError::Soon);
        }
        self.next_start = now + START_AGAIN;
        let mut child = process::start(&self.socket, &self.root).map_err(LinkError::Start)?;
        let (pid, until) = (child.id(), now + START);
        loop {
            let found = self.greet();
            match found {
                // Until the new one has taken over, the old one answers.
                Ok((client, hello)) if hello.pid == pid => {
                    self.children.push(child);
                    self.adopt(client, hello);
                    return Ok(());
                }
                _ if matches!(child.try_wait(), Ok(Some(_))) => return Err(LinkError::Ended),
                Err(e) if Instant::now() >= until => {
                    self.children.push(child);
                    return Err(e.into());
                }
                Ok(_) if Instant::now() >= until => {
                    self.children.push(child);
                    return Err(LinkError::Soon);
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn adopt(&mut self, client: Client, hello: Hello) {
        tracing::info!(pid = hello.pid, version = hello.version, "relay found");
        watch(hello.pid, self.commands.clone());
        self.configured = None;
        self.client = Some((client, hello));
    }

    /// Tells it what to serve by, unless it knows.
    pub(super) fn configure(&mut self, setup: &Arc<Setup>) -> Result<(), LinkError> {
        if self.configured.as_ref().is_some_and(|known| Arc::ptr_eq(known, setup) || known == setup) {
            return Ok(());
        }
        self.ask(|client| client.configure(setup))?;
        self.configured = Some(Arc::clone(setup));
        Ok(())
    }

    /// Has it listen in a network namespace.
    pub(super) fn serve(
        &mut self,
        cookie: u64,
        netns: BorrowedFd<'_>,
        v4: Option<BorrowedFd<'_>>,
        v6: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        self.ask(|client| client.serve(cookie, netns, v4, v6))
    }

    /// Has it leave one.
    pub(super) fn leave(&mut self, cookie: u64) -> Result<(), ClientError> {
        self.ask(|client| client.leave(cookie))
    }

    /// A connection over which something has failed is of no more use.
    fn ask(&mut self, ask: impl FnOnce(&mut Client) -> Result<(), ClientError>) -> Result<(), ClientError> {
        let Some((client, _)) = &mut self.client else { return Ok(()) };
        let answer = ask(client);
        if !matches!(answer, Ok(()) | Err(ClientError::Refused { .. })) {
            self.client = None;
        }
        answer
    }

    /// A relay's process has ended; says whether it was the one that serves.
    pub(super) fn ended(&mut self, pid: u32) -> bool {
        self.reap();
        process::settle_dead(&self.counts);
        // Handed over or dead: in the first case its successor has the listeners, and the next look finds them.
        let ours = self.client.take_if(|(_, hello)| hello.pid == pid).is_some();
        if ours {
            tracing::info!(pid, "the relay has ended");
        }
        ours
    }

    /// No relay is wanted: each finishes what it has begun.
    pub(super) fn end(&mut self) {
        self.client = None;
        process::end_all(&self.counts);
        self.reap();
    }

    fn reap(&mut self) {
        self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }
}

/// Waits on a thread of its own for the end of a process.
fn watch(pid: u32, commands: Sender<Command>) {
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
