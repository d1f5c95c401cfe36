//! The relay's end of its socket: a thread that accepts, and one for each client. They are few, and they neither wait for
//! the runtime that serves nor keep it from serving.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
    },
    unistd::geteuid,
};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    End,
    client::PATIENCE,
    seat::Seat,
    serving::{ServeError, Serving},
    wire::{Answer, Hello, Request, Wire, WireError},
};

/// Clients at one time.
const PLACES: usize = 16;
/// How long another relay may take from the last thing that it is given until it serves.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// A socket at a path, as long as no other has taken the path.
pub(super) struct Bound {
    path: PathBuf,
    id: (u64, u64),
}

impl Bound {
    /// Listens at `path`, in place of what is there: at no moment is there nothing.
    pub fn listen(path: &Path) -> io::Result<(UnixListener, Self)> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        remove(&new)?;
        // A moment in which others could connect would be a hole: bind under a mask, then say the mode.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&new);
        umask(before);
        let listener = listener?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        let id = id(&new)?;
        fs::rename(&new, path)?;
        Ok((listener, Self { path: path.to_owned(), id }))
    }

    /// Whether it is still this one's.
    pub fn is_ours(&self) -> bool {
        id(&self.path).is_ok_and(|id| id == self.id)
    }

    /// Removes it, if it is. (Another that takes the path between the look and the removal is found out by its own.)
    pub fn remove(&self) {
        if self.is_ours()
            && let Err(e) = remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %e, "control socket not removed");
        }
    }
}

/// Makes the folder of the socket, which nobody else can reach into.
pub(super) fn make_folder(socket: &Path) -> io::Result<()> {
    match socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => fs::DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What clients are answered with.
#[derive(Clone)]
pub(super) struct Server {
    pub serving: Arc<Serving>,
    pub runtime: Handle,
    pub ends: mpsc::UnboundedSender<End>,
    /// See [`Hello`].
    pub build: String,
    /// See [`Hello`].
    pub pins: u32,
}

impl Server {
    /// Serves clients on threads of its own, until the process ends.
    pub fn start(self, listener: UnixListener) -> io::Result<()> {
        let places = Arc::new(AtomicUsize::new(0));
        let accept = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => self.admit(stream, &places),
                    Err(e) => {
                        tracing::warn!(error = %e, "control socket: cannot accept");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        thread::Builder::new().name("control".to_owned()).spawn(accept).map(drop)
    }

    fn admit(&self, stream: UnixStream, places: &Arc<AtomicUsize>) {
        if Seat::taken(places) >= PLACES {
            return tracing::warn!("control socket: too many clients");
        }
        match getsockopt(&stream, PeerCredentials) {
            Ok(peer) if peer.uid() == geteuid().as_raw() => {}
            Ok(peer) => return tracing::warn!(uid = peer.uid(), "control socket: another user is refused"),
            Err(e) => return tracing::warn!(error = %e, "control socket: a client cannot be told"),
        }
        let (server, seat) = (self.clone(), Seat::take(places));
        let client = move || {
            let _seat = seat;
            if let Err(e) = server.client(&Wire::new(stream)) {
                tracing::debug!(error = %e, "control socket: a client is gone");
            }
        };
        if let Err(e) = thread::Builder::new().name("client".to_owned()).spawn(client) {
            tracing::warn!(error = %e, "control socket: no thread for a client");
        }
    }

    fn client(&self, wire: &Wire) -> Result<(), WireError> {
        loop {
            let (request, fds) = match wire.receive(None, PATIENCE) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err(e) => {
                    // What comes behind it cannot be told apart.
                    wire.send(&Answer::Refused { reason: e.to_string() }, &[], PATIENCE).ok();
                    return Err(e);
                }
            };
            if request == (Request::TakeOver {}) {
                return self.hand_over(wire);
            }
            wire.send(&self.answer(request, fds), &[], PATIENCE)?;
        }
    }

    fn answer(&self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        let done = match request {
            Request::Hello {} if self.serving.ended() => Err(ServeError::Moved),
            Request::Hello {} => return Answer::Hello(self.hello()),
            Request::Configure(setup) => self.serving.configure(*setup),
            Request::Serve(namespace) => self.serving.serve(namespace, fds),
            Request::Leave { cookie } => self.serving.leave(cookie),
            Request::TakeOver {} | Request::Taken {} => {
                return Answer::Refused { reason: "nothing was taken over".to_owned() };
            }
        };
        done.map_or_else(refusal, |()| Answer::Done)
    }

    fn hello(&self) -> Hello {
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: self.build.clone(),
            pins: self.pins,
            pid: std::process::id(),
            served: self.serving.served(),
            trouble: self.serving.trouble(),
        }
    }

    /// Gives another relay all that it needs, and ends when it says that it serves. If it does not, nothing has changed.
    fn hand_over(&self, wire: &Wire) -> Result<(), WireError> {
        let (setup, handed) = match self.serving.hand_over() {
            Ok(handed) => handed,
            Err(e) => return wire.send(&refusal(e), &[], PATIENCE),
        };
        let give = || {
            wire.send(&Answer::Setup(setup.map(Box::new)), &[], PATIENCE)?;
            for namespace in &handed {
                wire.send(&Answer::Served(namespace.namespace()), &namespace.fds(), PATIENCE)?;
            }
            wire.send(&Answer::End, &[], PATIENCE)?;
            match wire.receive(Some(TAKEN_WITHIN), PATIENCE)? {
                Some((Request::Taken {}, _)) => Ok(()),
                _ => Err(WireError::Ended),
            }
        };
        if let Err(e) = give() {
            self.serving.resume();
            tracing::warn!(error = %e, "another relay was to take over and did not: this one goes on");
            return Err(e);
        }
        let namespaces = handed.len();
        // The last copies of the listeners but for those that accept.
        drop(handed);
        self.runtime.block_on(self.serving.close(false));
        tracing::info!(namespaces, "handed over");
        self.ends.send(End::Moved).ok();
        wire.send(&Answer::Done, &[], PATIENCE)
    }
}

fn refusal(error: ServeError) -> Answer {
    match error {
        ServeError::Moved => Answer::Moved,
        other => Answer::Refused { reason: other.to_string() },
    }
}
