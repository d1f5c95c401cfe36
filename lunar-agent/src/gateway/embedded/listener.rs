//! Listening sockets, and an accept loop that outlives a shortage of file descriptors.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// How many connections the kernel holds for us while we are busy; it caps this at `net.core.somaxconn` by itself.
const BACKLOG: i32 = 4096;
/// How long accepting rests when there is no file descriptor or memory: as a rule connections end meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address`; an IPv6 one takes IPv4 too, as v4-mapped addresses.
///
/// # Errors
/// The kernel's, for example `EADDRINUSE`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A gateway that comes back must not wait for the TIME_WAIT of its former life.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever; gives each connection to `take` and each error that calls for a pause to `tell`.
pub async fn accept_each(
    listener: TcpListener,
    mut take: impl FnMut(TcpStream, SocketAddr),
    tell: impl Fn(io::Error),
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(stream, peer),
            Err(error) if needs_pause(&error) => {
                tell(error);
                tokio::time::sleep(PAUSE).await;
            }
            // Anything else concerns the one connection that was taken off the queue (accept(2), "Error handling").
            Err(_) => {}
        }
    }
}

/// Whether an accept error stays until something is freed; retrying at once would spin.
fn needs_pause(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Raises the soft limit of open files to the hard one: a forwarded connection takes two.
///
/// # Errors
/// The kernel's.
pub fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortages_pause_and_broken_connections_do_not() {
        let pauses = |errno| needs_pause(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(pauses(errno), "{errno}");
        }
        for errno in [libc::ECONNABORTED, libc::EPERM, libc::EINTR, libc::ENETDOWN] {
            assert!(!pauses(errno), "{errno}");
        }
    }

    #[tokio::test]
    async fn a_wildcard_ipv6_listener_takes_ipv4() {
        let listener = listen("[::]:0".parse().expect("an address")).expect("listen");
        let port = listener.local_addr().expect("a bound address").port();
        let _client = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        let (_, peer) = listener.accept().await.expect("accept");
        assert!(peer.is_ipv6(), "{peer}");
    }
}
