//! The relay's listening sockets inside a target's network namespace: made by a thread that enters it and comes back.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use lunar_common::abi::MARK;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel::netns_cookie;

/// How many connections may wait for the relay to accept them; what `net.core.somaxconn` makes less of.
const BACKLOG: i32 = 4096;

/// How long a connection from within the namespace to itself may take.
const LOOPBACK: Duration = Duration::from_millis(500);

/// The listeners of one network namespace. Where IPv6 is switched off there is none for it.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) v4: TcpListener,
    pub(super) v6: Option<TcpListener>,
}

/// Does something inside a network namespace.
///
/// # Errors
/// If it cannot be entered.
pub(super) fn inside<T>(netns: &File, home: &File, work: impl FnOnce() -> T) -> io::Result<T> {
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let done = work();
    if let Err(e) = setns(home.as_fd(), CloneFlags::CLONE_NEWNET) {
        // This thread would do everything else there too.
        tracing::error!(error = %e, "a thread cannot leave a target's network namespace: the agent ends");
        std::process::abort();
    }
    Ok(done)
}

/// The cookie of the network namespace that the thread is in.
///
/// # Errors
/// If there is no socket to be had there.
pub(super) fn cookie() -> io::Result<u64> {
    netns_cookie()
}

/// Listens in the network namespace that the thread is in, and proves that a connection gets there. For IPv6 only where that leads
/// anywhere: an application that tries both is to see at once, as without us, that it does not.
///
/// # Errors
/// Why there is none for IPv4: every loopback device that is up has its addresses.
pub(super) fn listen(wants_v6: bool) -> io::Result<Listeners> {
    // Every address of 127/8, so that the kernel's programs can spread connections over many; none but `lo` leads there.
    let v4 = listen_on((Ipv4Addr::UNSPECIFIED, 0).into(), Ipv4Addr::new(127, 255, 254, 1).into());
    let v4 = v4?;
    let v6 = wants_v6.then(|| listen_on((Ipv6Addr::LOCALHOST, 0).into(), Ipv6Addr::LOCALHOST.into()));
    Ok(Listeners { v4, v6: v6.and_then(Result::ok) })
}

fn listen_on(address: SocketAddr, at: std::net::IpAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Nobody outside gets to `::1`, and a socket bound to `lo` would not answer one that has another address of this namespace.
        socket.set_only_v6(true)?;
    } else {
        socket.bind_device(Some(b"lo"))?;
    }
    // The kernel chooses a port that none of the application's own sockets has.
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let port = socket.local_addr()?.as_socket().map_or(0, |a| a.port());
    prove(&socket, SocketAddr::new(at, port))?;
    Ok(socket.into())
}

/// Connects to it, exempt from interception. Without a loopback device that is up there is no way.
fn prove(listener: &Socket, at: SocketAddr) -> io::Result<()> {
    let client = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    client.set_mark(MARK)?;
    client.connect_timeout(&at.into(), LOOPBACK)?;
    // Not left for the relay, which would take it for a stranger's. A stranger may have come first, and waits no longer.
    let mine = client.local_addr()?;
    while listener.accept()?.1 != mine {}
    Ok(())
}
