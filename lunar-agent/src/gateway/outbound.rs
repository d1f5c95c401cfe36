//! Outbound TCP connections that carry the socket mark by which the kernel program knows its own side.

use std::{fmt, io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Why an outbound connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The process may not set `SO_MARK`; without it the kernel program would redirect this very socket.
    #[error(
        "socket mark {mark:#x}: not permitted; give the process CAP_NET_ADMIN (CAP_NET_RAW also does from Linux 5.17)"
    )]
    MarkNotPermitted {
        /// The value that was refused.
        mark: u32,
    },
    /// No socket could be made ready, for example because the process has no file descriptor left.
    #[error("socket for {address}: {}", Reason(.source))]
    Socket {
        /// Where the connection should have gone.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connect itself failed.
    #[error("connect to {address}: {}", Reason(.source))]
    Connect {
        /// Where the connection should have gone.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Connects to `address` from a socket that carries `SO_MARK` = `mark` from its first packet on.
///
/// `mark` is in host byte order; 0 is the kernel's value for "unmarked" and needs no capability.
/// There is no time limit of its own; drop the future to give up.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(address: SocketAddr, mark: u32) -> Result<TcpStream, ConnectError> {
    let socket = socket(address, mark)?;
    socket.connect(address).await.map_err(|source| ConnectError::Connect { address, source })
}

fn socket(address: SocketAddr, mark: u32) -> Result<TcpSocket, ConnectError> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(|source| ConnectError::Socket { address, source })?;
    if mark != 0 {
        SockRef::from(&socket).set_mark(mark).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => ConnectError::MarkNotPermitted { mark },
            _ => ConnectError::Socket { address, source },
        })?;
    }
    Ok(socket)
}

/// Proves once that this process may set `SO_MARK` = `mark`, so that a lack of it is told at start.
///
/// # Errors
/// See [`ConnectError`]; nothing is connected.
pub fn check_mark(mark: u32) -> Result<(), ConnectError> {
    socket(SocketAddr::from(([127, 0, 0, 1], 0)), mark).map(drop)
}

/// An I/O error in a few words, without the "(os error N)" of the standard library.
pub struct Reason<'a>(pub &'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            io::ErrorKind::ConnectionRefused => f.write_str("refused"),
            io::ErrorKind::TimedOut => f.write_str("timed out"),
            io::ErrorKind::NetworkUnreachable => f.write_str("network unreachable"),
            io::ErrorKind::HostUnreachable => f.write_str("host unreachable"),
            io::ErrorKind::ConnectionReset => f.write_str("reset"),
            _ => {
                let text = self.0.to_string();
                f.write_str(text.split(" (os error").next().unwrap_or(&text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short() {
        let of = |errno| Reason(&io::Error::from_raw_os_error(errno)).to_string();
        assert_eq!(of(libc::ECONNREFUSED), "refused");
        assert_eq!(of(libc::ENETUNREACH), "network unreachable");
        assert_eq!(of(libc::EMFILE), "Too many open files");
    }

    #[tokio::test]
    async fn the_mark_is_on_the_socket_before_it_connects() {
        // Needs CAP_NET_ADMIN, as the agent does.
        let socket = socket(SocketAddr::from(([127, 0, 0, 1], 1)), 0x4c55)
            .expect("run this test with CAP_NET_ADMIN: it sets SO_MARK, and fails rather than skips");
        assert_eq!(SockRef::from(&socket).mark().expect("SO_MARK is readable"), 0x4c55);
    }

    #[test]
    fn a_mark_without_the_capability_is_named() {
        // The raw system call changes this one thread only; libc's setresuid would change them all.
        let unprivileged = std::thread::spawn(|| {
            // SAFETY: setresuid takes three integers and touches no memory of ours.
            unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            runtime.block_on(async { (check_mark(7), check_mark(0)) })
        });
        let (marked, unmarked) = unprivileged.join().expect("the thread ends");
        assert!(matches!(marked, Err(ConnectError::MarkNotPermitted { mark: 7 })), "{marked:?}");
        assert!(unmarked.is_ok(), "{unmarked:?}");
    }
}
