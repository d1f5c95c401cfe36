//! The processes that listen at a local endpoint: who is exempt, whose cgroup answers `SO_ORIGINAL_DST`, and the
//! sockets by which the kernel knows that somebody listens.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use procfs::{
    net::TcpState,
    process::{FDTarget, Process, all_processes},
};

/// What a look at a local endpoint has shown.
#[derive(Default, Debug)]
pub struct Found {
    /// The sockets that take its connections, by holder.
    pub held: Vec<Held>,
    /// Somebody listens, but no process that can be looked into.
    pub hidden: bool,
}

/// A listening socket in the hands of a process.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Held {
    /// The process.
    pub pid: u32,
    /// Its descriptor.
    pub fd: i32,
    /// The socket.
    pub inode: u64,
}

impl Held {
    /// Whether the process still holds that socket: one `readlink`, cheap enough for every second.
    pub fn stands(&self) -> bool {
        fs::read_link(format!("/proc/{}/fd/{}", self.pid, self.fd))
            .is_ok_and(|link| link.as_os_str() == format!("socket:[{}]", self.inode).as_str())
    }

    /// Copies the socket out of its process (5.6+, `CAP_SYS_PTRACE`). Whoever keeps the copy keeps the socket
    /// listening after its process has died, so it is to be closed at once.
    ///
    /// # Errors
    /// If the process is gone or may not be looked into.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        // SAFETY: both calls take plain numbers; the descriptors they return are new and owned here.
        unsafe {
            let pidfd = own(libc::syscall(libc::SYS_pidfd_open, self.pid, 0))?;
            own(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), self.fd, 0))
        }
    }
}

/// # Safety
/// `fd` is what a system call returned that makes a descriptor.
unsafe fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The sockets of this network namespace that take connections to `endpoint`, and who holds them.
///
/// # Errors
/// If the kernel does not tell the sockets.
pub fn find(endpoint: SocketAddr) -> io::Result<Found> {
    // A gateway that reloads hands its sockets from one process to another, which may have been looked at before it had
    // them.
    const LOOKS: u32 = 3;
    let mut found = look(endpoint)?;
    for _ in 1..LOOKS {
        if !found.hidden {
            break;
        }
        found = look(endpoint)?;
    }
    Ok(found)
}

fn look(endpoint: SocketAddr) -> io::Result<Found> {
    let inodes = listening(endpoint)?;
    if inodes.is_empty() {
        return Ok(Found::default());
    }
    // Processes come and go while they are looked at; what cannot be read is not the gateway.
    let mut held: Vec<Held> = all_processes()
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .flat_map(|process| held_by(&process, &inodes))
        .collect();
    held.sort();
    // One that ended meanwhile took its sockets along.
    let hidden = held.is_empty() && !listening(endpoint)?.is_disjoint(&inodes);
    Ok(Found { held, hidden })
}

/// Those of the sockets `inodes` that a process holds.
fn held_by(process: &Process, inodes: &BTreeSet<u64>) -> Vec<Held> {
    let Ok(descriptors) = process.fd() else { return Vec::new() };
    descriptors
        .filter_map(Result::ok)
        .filter_map(|d| match d.target {
            FDTarget::Socket(inode) if inodes.contains(&inode) => {
                Some(Held { pid: process.pid().cast_unsigned(), fd: d.fd, inode })
            }
            _ => None,
        })
        .collect()
}

/// Those of `pids` that hold one of the sockets: the workers that a gateway has started since.
pub fn held_by_new(pids: impl IntoIterator<Item = u32>, inodes: &BTreeSet<u64>) -> Vec<Held> {
    pids.into_iter()
        .filter_map(|pid| Process::new(pid.cast_signed()).ok())
        .flat_map(|process| held_by(&process, inodes))
        .collect()
}

/// The sockets of this network namespace that take connections to `endpoint`, whoever holds them.
///
/// # Errors
/// If the kernel does not tell.
pub fn listening(endpoint: SocketAddr) -> io::Result<BTreeSet<u64>> {
    // A kernel built without CONFIG_INET_DIAG tells its sockets only as text, with all that are no listeners.
    let sockets = listening_by_diag().or_else(|_| listening_by_procfs())?;
    Ok(sockets.into_iter().filter(|(local, _)| takes(*local, endpoint)).map(|(_, inode)| inode).collect())
}

/// Addresses and inodes of the listening TCP sockets of this network namespace, by `sock_diag(7)`: the kernel walks
/// its table of listeners only, however many connections there are.
fn listening_by_diag() -> io::Result<Vec<(SocketAddr, u64)>> {
    let mut listening = Vec::new();
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id: any,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
        while take_answers(&socket.recv_from_full()?.0, &mut listening)? {}
    }
    Ok(listening)
}

/// Reads one datagram of a dump. Returns whether there is more to come.
fn take_answers(mut datagram: &[u8], listening: &mut Vec<(SocketAddr, u64)>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = &response.header.socket_id;
                let local = SocketAddr::new(id.source_address, id.source_port);
                listening.push((local, response.header.inode.into()));
            }
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(e) => return Err(e.to_io()),
            _ => {}
        }
        // Messages are padded to four bytes (NLMSG_ALIGN), and the last one need not be.
        let length = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(true)
}

/// The same from `/proc/net`, where there is no `sock_diag`.
fn listening_by_procfs() -> io::Result<Vec<(SocketAddr, u64)>> {
    let v4 = procfs::net::tcp().map_err(io::Error::other)?;
    // Absent where IPv6 is.
    let v6 = procfs::net::tcp6().unwrap_or_default();
    let listening = v4.into_iter().chain(v6).filter(|entry| entry.state == TcpState::Listen);
    Ok(listening.map(|entry| (entry.local_address, entry.inode)).collect())
}

/// Whether a socket takes connections to `endpoint`: its own address, or any of a family that includes it.
fn takes(local: SocketAddr, endpoint: SocketAddr) -> bool {
    local.port() == endpoint.port()
        && (local.ip().to_canonical() == endpoint.ip()
            || local.ip().is_unspecified() && (local.is_ipv6() || endpoint.is_ipv4()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_is_found_as_the_listener_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let held = find(address).expect("sock_diag").held;
        assert_eq!(held.len(), 1, "{held:?}");
        assert_eq!((held[0].pid, held[0].fd), (std::process::id(), listener.as_raw_fd()));
        assert!(held[0].stands());
        let copy = held[0].copy().expect("one's own socket can be copied");
        drop(copy);
        drop(listener);
        assert!(!held[0].stands());
        let found = find(address).expect("sock_diag");
        assert!(found.held.is_empty() && !found.hidden, "{found:?}");
    }

    #[test]
    fn a_wildcard_takes_its_own_family_and_a_dual_stack_one_both() {
        let listener = TcpListener::bind("[::]:0").expect("any address");
        let port = listener.local_addr().expect("bound").port();
        for address in ["127.0.0.1", "::1"] {
            let endpoint = SocketAddr::new(address.parse().expect("an address"), port);
            assert_eq!(find(endpoint).expect("sock_diag").held.len(), 1, "{endpoint}");
        }
        let v4_only = TcpListener::bind("0.0.0.0:0").expect("any address");
        let port = v4_only.local_addr().expect("bound").port();
        let v6 = SocketAddr::new("::1".parse().expect("an address"), port);
        assert!(find(v6).expect("sock_diag").held.is_empty());
    }

    #[test]
    fn sock_diag_and_procfs_tell_the_same() {
        let listeners = ["127.0.0.1:0", "[::1]:0", "[::]:0"].map(|a| TcpListener::bind(a).expect("loopback"));
        let client =
            std::net::TcpStream::connect(listeners[0].local_addr().expect("bound")).expect("loopback");
        let (diag, procfs) = (listening_by_diag().expect("diag"), listening_by_procfs().expect("procfs"));
        for listener in &listeners {
            let address = listener.local_addr().expect("bound");
            let of = |all: &[(SocketAddr, u64)]| all.iter().copied().filter(|(a, _)| *a == address).collect();
            let (by_diag, by_procfs): (Vec<_>, Vec<_>) = (of(&diag), of(&procfs));
            assert_eq!(by_diag.len(), 1, "{address}");
            assert_eq!(by_diag, by_procfs);
        }
        let connected = client.local_addr().expect("connected");
        assert!(!diag.iter().any(|(a, _)| *a == connected), "a connection is no listener");
    }
}
