//! The agent's half of the socket, and how it starts a relay.

use std::{
    io,
    os::{
        fd::BorrowedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::wire::{Answer, Hello, Namespace, Request, Wire, WireError};
use crate::relay::setup::Setup;

/// How long a relay may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// From one look for a relay that starts to the next.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a relay did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// None can be asked.
    #[error("no relay answers at {socket}: {source}")]
    Connect {
        /// Where it was looked for.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It could not be talked to.
    #[error("the relay at {socket}: {source}")]
    Wire {
        /// Where it is.
        socket: PathBuf,
        /// What happened.
        source: WireError,
    },
    /// It said no.
    #[error("the relay at {socket} refused: {reason}")]
    Refused {
        /// Where it is.
        socket: PathBuf,
        /// Why, as it said.
        reason: String,
    },
    /// Another relay takes its place: connect again.
    #[error("the relay at {0} hands over to another: ask that one")]
    Moved(PathBuf),
    /// It said something else.
    #[error("the relay at {0} gave another answer than was asked for")]
    Confused(PathBuf),
}

/// A connection to a relay. After a [`ClientError::Wire`] it is of no more use.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    pub(super) wire: Wire,
}

impl Client {
    /// Connects to the relay at `socket`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if there is none.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
        Ok(Self { socket: socket.to_owned(), wire: Wire::new(stream) })
    }

    /// The relay's process, as the kernel knows it: also of one that does not answer.
    ///
    /// # Errors
    /// [`ClientError::Connect`] with the kernel's answer.
    pub fn pid(&self) -> Result<u32, ClientError> {
        let peer = getsockopt(self.wire.stream(), PeerCredentials)
            .map_err(|e| ClientError::Connect { socket: self.socket.clone(), source: e.into() })?;
        Ok(peer.pid().cast_unsigned())
    }

    /// Asks who it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn hello(&mut self) -> Result<Hello, ClientError> {
        match self.ask(&Request::Hello {}, &[])? {
            Answer::Hello(hello) => Ok(hello),
            other => Err(self.odd(other)),
        }
    }

    /// Tells it what to serve by.
    ///
    /// # Errors
    /// See [`ClientError`]; refused if the setup is wrong, and then the one before stays in effect.
    pub fn configure(&mut self, setup: &Setup) -> Result<(), ClientError> {
        self.tell(&Request::Configure(Box::new(setup.clone())), &[])
    }

    /// Lets it serve the network namespace `netns`, whose cookie is `cookie`, by these listening sockets, which are in it.
    /// They take the place of those of before. The relay gets copies: whoever closes his own leaves the sockets to it.
    ///
    /// # Errors
    /// See [`ClientError`]; refused if the file descriptors are not what they should be.
    pub fn serve(
        &mut self,
        cookie: u64,
        netns: BorrowedFd<'_>,
        v4: Option<BorrowedFd<'_>>,
        v6: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        let namespace = Namespace { cookie, v4: v4.is_some(), v6: v6.is_some() };
        let fds: Vec<_> = [Some(netns), v4, v6].into_iter().flatten().collect();
        self.tell(&Request::Serve(namespace), &fds)
    }

    /// Ends its listening in a network namespace. Connections go on. One that is not served is no error.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn leave(&mut self, cookie: u64) -> Result<(), ClientError> {
        self.tell(&Request::Leave { cookie }, &[])
    }

    pub(super) fn tell(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.ask(request, fds)? {
            Answer::Done => Ok(()),
            other => Err(self.odd(other)),
        }
    }

    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        let failed = |source| ClientError::Wire { socket: self.socket.clone(), source };
        self.wire.send(request, fds, PATIENCE).map_err(failed)?;
        match self.wire.receive(Some(PATIENCE), PATIENCE).map_err(failed)? {
            Some((answer, _)) => Ok(answer),
            None => Err(failed(WireError::Ended)),
        }
    }

    fn odd(&self, answer: Answer) -> ClientError {
        let socket = self.socket.clone();
        match answer {
            Answer::Refused { reason } => ClientError::Refused { socket, reason },
            Answer::Moved => ClientError::Moved(socket),
            _ => ClientError::Confused(socket),
        }
    }
}

/// Starts a relay: this very program, in a session of its own, so that it outlives whoever starts it. Where one serves at
/// `socket` already it takes that one's place. Returns without waiting, see [`ready`].
///
/// # Errors
/// If there can be no process.
pub fn start(socket: &Path, pins: &Path) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("relay").arg("--socket").arg(socket).arg("--pins").arg(pins).stdin(Stdio::null());
    // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    command.spawn()
}

/// Waits until a relay answers at `socket`.
///
/// # Errors
/// The last refusal, when `timeout` is over.
pub fn ready(socket: &Path, timeout: Duration) -> Result<Hello, ClientError> {
    let until = Instant::now() + timeout;
    loop {
        match Client::connect(socket).and_then(|mut client| client.hello()) {
            Err(_) if Instant::now() < until => thread::sleep(LOOK_EVERY),
            done => return done,
        }
    }
}
