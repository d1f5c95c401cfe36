//! A network namespace whose targets the relay serves.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use lunar_common::abi::MARK;
use nix::sched::{CloneFlags, setns};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// One network namespace.
#[derive(Debug)]
pub struct Place {
    netns: OwnedFd,
    home: OwnedFd,
    /// Its cookie.
    pub cookie: u64,
}

impl Place {
    /// The network namespace behind `netns`, with this cookie; `home` is the one that the relay's threads are in.
    pub fn new(netns: OwnedFd, home: OwnedFd, cookie: u64) -> Self {
        Self { netns, home, cookie }
    }

    /// Its file descriptor, for a relay that takes over.
    pub fn netns(&self) -> &OwnedFd {
        &self.netns
    }

    /// Connects to `to` from within it, by its routes and with its addresses; the socket is marked as the relay's.
    ///
    /// # Errors
    /// What the kernel says, or that it took longer than `timeout`.
    pub async fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let connecting = self.socket(to)?.connect(to);
        let stream =
            tokio::time::timeout(timeout, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A socket belongs to the namespace that its maker is in; where it is used from later does not matter.
    fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        // Nothing waits between the two, so nothing else runs on this thread meanwhile.
        setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        if let Err(e) = setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET) {
            // This thread would do everything else there too.
            tracing::error!(error = %e, "a thread cannot leave a target's network namespace: the relay ends");
            std::process::abort();
        }
        let socket = socket?;
        SockRef::from(&socket).set_mark(MARK)?;
        Ok(socket)
    }
}
