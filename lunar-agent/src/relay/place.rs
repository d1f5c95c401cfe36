//! A network namespace whose targets the relay serves.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use lunar_common::abi::MARK;
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt::IpBindAddressNoPort},
};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// One network namespace, as connections leave it.
#[derive(Clone, Debug)]
pub struct Place {
    netns: Arc<OwnedFd>,
    home: Arc<OwnedFd>,
    /// The address they leave from; without it, the one that the routes say.
    from: Option<IpAddr>,
    /// Its cookie.
    pub cookie: u64,
}

impl Place {
    /// The network namespace behind `netns`, with this cookie; `home` is the one that the relay's threads are in.
    pub fn new(netns: OwnedFd, home: OwnedFd, cookie: u64) -> Self {
        Self { netns: Arc::new(netns), home: Arc::new(home), from: None, cookie }
    }

    /// The same for an application whose socket has this address. `None` if that is a loopback one, which says nothing: its socket
    /// has it from the redirection.
    pub fn bound_to(&self, address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        (!address.is_loopback()).then(|| Self { from: Some(address), ..self.clone() })
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
        if let Some(from) = self.from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
            // The port is for the connect to choose, so that as many are free as without the bind (ip(7)).
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind((from, 0).into())?;
        }
        Ok(socket)
    }
}
