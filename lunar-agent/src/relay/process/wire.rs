//! Messages between an agent and a relay, and between two relays: JSON behind its length (u32, little endian) on a unix
//! socket. File descriptors go with the first byte of their message.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::relay::setup::Setup;

/// The longest message, in bytes. A policy of 100,000 names has some megabytes.
pub const MAX_MESSAGE: usize = 64 << 20;
/// File descriptors of one message: a network namespace, a listener of each family.
pub const MAX_FDS: usize = 3;
/// As many as the kernel passes at once (`SCM_MAX_FD`): room for all, so that none is lost track of.
const SCM_MAX_FD: usize = 253;
/// Bytes of the length.
const PREFIX: usize = size_of::<u32>();

/// What a relay is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Who are you?
    Hello {},
    /// Serve by these settings.
    Configure(Box<Setup>),
    /// Serve a network namespace, which comes with the message, and in this order the listeners that are true.
    Serve(Namespace),
    /// Stop listening in a network namespace.
    Leave {
        /// Its cookie.
        cookie: u64,
    },
    /// Hand everything over to the relay that asks.
    TakeOver {},
    /// It serves now.
    Taken {},
}

/// What a relay answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// Done.
    Done,
    /// Not done.
    Refused {
        /// Why, in a sentence.
        reason: String,
    },
    /// Not done, because another relay takes this one's place: it can be asked at the same path, now or very soon.
    Moved,
    /// To [`Request::TakeOver`], the first: what is served by, if anything was said yet.
    Setup(Option<Box<Setup>>),
    /// The next: what is served, with its file descriptors as in [`Request::Serve`].
    Served(Namespace),
    /// The last.
    End,
}

/// A network namespace that is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Namespace {
    /// Its cookie.
    pub cookie: u64,
    /// There is a listener for IPv4.
    pub v4: bool,
    /// There is a listener for IPv6.
    pub v6: bool,
}

/// Who a relay is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the program.
    pub version: String,
    /// Tells two builds of one version apart, see [`build`](super::build).
    pub build: String,
    /// The pins it serves by, see [`Pins::identity`](crate::kernel::pins::Pins::identity).
    pub pins: u32,
    /// Its process.
    pub pid: u32,
    /// Cookies of the network namespaces that it serves.
    pub served: Vec<u64>,
    /// Why the gateway cannot be reached, if it could not be the last time.
    pub trouble: Option<String>,
}

/// Why a message was not sent or not received.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The other side was too slow.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// The other side ended in the middle.
    #[error("the other side closed the connection")]
    Ended,
    /// A message is too long.
    #[error("a message of {0} bytes, {MAX_MESSAGE} are allowed")]
    Long(usize),
    /// A message has too many file descriptors.
    #[error("a message with {0} file descriptors, {MAX_FDS} are allowed")]
    Fds(usize),
    /// It is no message of ours.
    #[error("not a message that this version knows: {0}")]
    Json(#[from] serde_json::Error),
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Wire(UnixStream);

impl Wire {
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub fn stream(&self) -> &UnixStream {
        &self.0
    }

    /// Sends a message within `limit`.
    pub fn send(
        &self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), WireError> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_MESSAGE);
        let length = length.ok_or(WireError::Long(body.len()))?.to_le_bytes();
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[] } else { &rights[..] };
        let mut timed = Timed::new(&self.0, limit);
        timed.arm()?;
        let parts = [IoSlice::new(&length), IoSlice::new(&body)];
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(|e| timed.error(e.into()))?;
        let rest = [&length[sent.min(PREFIX)..], &body[sent.saturating_sub(PREFIX)..]];
        rest.iter().try_for_each(|rest| timed.write_all(rest)).map_err(|e| timed.error(e))
    }

    /// Receives a message; `None` if there comes none any more. It may be `patience` until it begins (for ever, without
    /// one), and `limit` until it has ended.
    pub fn receive<T: DeserializeOwned>(
        &self,
        patience: Option<Duration>,
        limit: Duration,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, WireError> {
        self.0.set_read_timeout(patience)?;
        let mut length = [0; PREFIX];
        let slow = patience.unwrap_or(limit);
        let (count, fds) = first_bytes(&self.0, &mut length).map_err(|e| timed_out(e, slow))?;
        if count == 0 {
            return Ok(None);
        }
        if fds.len() > MAX_FDS {
            return Err(WireError::Fds(fds.len()));
        }
        let mut timed = Timed::new(&self.0, limit);
        timed.read_exact(&mut length[count..]).map_err(|e| timed.error(e))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(WireError::Long(length));
        }
        // It grows with what comes: a length alone is not to cost memory.
        let mut body = Vec::new();
        (&mut timed).take(length as u64).read_to_end(&mut body).map_err(|e| timed.error(e))?;
        if body.len() < length {
            return Err(WireError::Ended);
        }
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }
}

/// Receives bytes with the file descriptors that come with them; none, if the other side has ended.
fn first_bytes(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    let mut parts = [IoSliceMut::new(bytes)];
    let received = loop {
        match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::Error::EINTR) => {}
            done => break done?,
        }
    };
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made them for us, and nobody else knows of them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((received.bytes, fds))
}

fn timed_out(error: io::Error, limit: Duration) -> WireError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WireError::Slow(limit),
        io::ErrorKind::UnexpectedEof => WireError::Ended,
        _ => WireError::Socket(error),
    }
}

/// A stream whose reads and writes end, all together, within a limit.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
    limit: Duration,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a UnixStream, limit: Duration) -> Self {
        Self { stream, until: Instant::now() + limit, limit }
    }

    /// Bounds the next call by what is left of the time.
    fn arm(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }

    fn error(&self, error: io::Error) -> WireError {
        timed_out(error, self.limit)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.arm()?;
        let mut stream = self.stream;
        stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
