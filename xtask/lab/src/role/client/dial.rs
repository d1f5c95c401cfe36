//! Opening and connecting a socket exactly as asked, and naming what went wrong as the kernel names it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, getpeername, getsockopt, setsockopt, sockopt,
};
use serde::Serialize;

/// The kind of socket an application may use to reach an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    V4,
    V6,
    /// An IPv6 socket for an IPv4 address, `::ffff:a.b.c.d`
    Mapped,
}

#[derive(Debug, Clone, Args)]
pub(super) struct Dial {
    /// The kind of socket; without it, that of the address
    #[arg(long)]
    socket: Option<Kind>,
    /// A non-blocking socket: connect, poll, SO_ERROR
    #[arg(long)]
    nonblocking: bool,
    /// Bind to this source address first
    #[arg(long)]
    bind: Option<IpAddr>,
    /// Bind to this device first (SO_BINDTODEVICE)
    #[arg(long)]
    device: Option<OsString>,
    /// Set IPV6_V6ONLY
    #[arg(long)]
    v6only: bool,
    /// Set SO_MARK (needs CAP_NET_ADMIN)
    #[arg(long)]
    mark: Option<u32>,
    /// Set SO_LINGER 0: close with a reset, which leaves no TIME_WAIT behind
    #[arg(long)]
    linger0: bool,
    /// How long to wait for anything, in ms (a blocking connect waits as long as the kernel does)
    #[arg(long, default_value_t = 10_000)]
    timeout: u64,
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Kernel(Errno),
    /// Our own `--timeout`
    NoAnswer,
    /// The other side closed before it said anything
    Closed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(errno) => write!(f, "{errno:?}"),
            Self::NoAnswer => f.write_str("no answer"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// Failures counted by name.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Failures(BTreeMap<String, u32>);

impl Failures {
    pub(super) fn add(&mut self, failure: Failure) {
        *self.0.entry(failure.to_string()).or_default() += 1;
    }
}

impl Dial {
    /// `to` in the form that this kind of socket connects to, and that getpeername is expected to give.
    pub(super) fn resolve(&self, to: SocketAddr) -> Result<SocketAddr> {
        match (self.socket, to.ip()) {
            (None, _) | (Some(Kind::V4), IpAddr::V4(_)) | (Some(Kind::V6), IpAddr::V6(_)) => Ok(to),
            (Some(Kind::Mapped), IpAddr::V4(ip)) => {
                Ok(SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()))
            }
            (Some(kind), _) => bail!("a socket of kind {kind:?} cannot reach {to}"),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    /// A socket to reach `to` (already resolved), with everything set that was asked for.
    pub(super) fn open(&self, to: SocketAddr, kind: SockType) -> Result<OwnedFd> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let mut flags = SockFlag::SOCK_CLOEXEC;
        flags.set(SockFlag::SOCK_NONBLOCK, self.nonblocking);
        let fd = socket::socket(family, kind, flags, None)?;
        if self.v6only {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        if let Some(mark) = self.mark {
            setsockopt(&fd, sockopt::Mark, &mark)?;
        }
        if let Some(device) = &self.device {
            setsockopt(&fd, sockopt::BindToDevice, device)?;
        }
        if self.linger0 {
            setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        }
        if let Some(source) = self.bind {
            let source = match source {
                IpAddr::V4(ip) if to.is_ipv6() => IpAddr::V6(ip.to_ipv6_mapped()),
                other => other,
            };
            socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        }
        Ok(fd)
    }

    /// Connects, whichever way the socket blocks. Returns how long that took.
    pub(super) fn connect(&self, fd: &OwnedFd, to: SocketAddr) -> Result<Duration, Failure> {
        let to = SockaddrStorage::from(to);
        let begun = Instant::now();
        match socket::connect(fd.as_raw_fd(), &to) {
            Err(Errno::EINPROGRESS) => {
                if !ready(fd, PollFlags::POLLOUT, self.timeout())? {
                    return Err(Failure::NoAnswer);
                }
                match getsockopt(fd, sockopt::SocketError)? {
                    0 => {}
                    code => return Err(Errno::from_raw(code).into()),
                }
            }
            outcome => outcome?,
        }
        Ok(begun.elapsed())
    }

    /// The first line that the other side sends, without its newline.
    pub(super) fn read_line(&self, fd: &OwnedFd) -> Result<String, Failure> {
        let deadline = Instant::now() + self.timeout();
        let (mut line, mut buffer) = (Vec::new(), [0; 256]);
        loop {
            if !ready(fd, PollFlags::POLLIN, deadline.saturating_duration_since(Instant::now()))? {
                return Err(Failure::NoAnswer);
            }
            let read = nix::unistd::read(fd, &mut buffer)?;
            line.extend_from_slice(&buffer[..read]);
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                line.truncate(end);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if read == 0 {
                return Err(Failure::Closed);
            }
        }
    }
}

/// Undoes the connect of a socket (connect to AF_UNSPEC).
pub(super) fn disconnect(fd: &OwnedFd) -> nix::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `nowhere`, which has as many.
    let result = unsafe { libc::connect(fd.as_raw_fd(), &raw const nowhere, length) };
    Errno::result(result).map(drop)
}

/// What getpeername says.
pub(super) fn peer(fd: &OwnedFd) -> nix::Result<SocketAddr> {
    let name: SockaddrStorage = getpeername(fd.as_raw_fd())?;
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => Ok(SocketAddr::from(*v4)),
        (_, Some(v6)) => Ok(SocketAddr::from(*v6)),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// Waits for `events`; false when `patience` ran out.
pub(super) fn ready(fd: &OwnedFd, events: PollFlags, patience: Duration) -> nix::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(reason) => return Err(reason),
        }
    }
}
