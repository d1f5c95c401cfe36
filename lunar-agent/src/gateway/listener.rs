//! The processes that listen at a local endpoint: who is exempt, whose cgroup answers `SO_ORIGINAL_DST`, and the
//! sockets by which the kernel knows that somebody listens.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process, all_processes},
};

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
pub fn find(endpoint: SocketAddr) -> Vec<Held> {
    let inodes = listening_inodes(endpoint);
    if inodes.is_empty() {
        return Vec::new();
    }
    // Processes come and go while they are looked at; what cannot be read is not the gateway.
    let mut held: Vec<Held> = all_processes()
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .flat_map(|process| held_by(&process, &inodes))
        .collect();
    held.sort();
    held
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

fn listening_inodes(endpoint: SocketAddr) -> BTreeSet<u64> {
    let v4 = procfs::net::tcp().unwrap_or_default();
    let v6 = procfs::net::tcp6().unwrap_or_default();
    v4.into_iter().chain(v6).filter(|entry| takes(entry, endpoint)).map(|entry| entry.inode).collect()
}

/// Whether a socket takes connections to `endpoint`: its own address, or any of a family that includes it.
fn takes(entry: &TcpNetEntry, endpoint: SocketAddr) -> bool {
    let local = entry.local_address;
    entry.state == TcpState::Listen
        && local.port() == endpoint.port()
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
        let held = find(address);
        assert_eq!(held.len(), 1, "{held:?}");
        assert_eq!((held[0].pid, held[0].fd), (std::process::id(), listener.as_raw_fd()));
        assert!(held[0].stands());
        let copy = held[0].copy().expect("one's own socket can be copied");
        drop(copy);
        drop(listener);
        assert!(!held[0].stands());
        assert!(find(address).is_empty());
    }

    #[test]
    fn a_wildcard_takes_its_own_family_and_a_dual_stack_one_both() {
        let listener = TcpListener::bind("[::]:0").expect("any address");
        let port = listener.local_addr().expect("bound").port();
        for address in ["127.0.0.1", "::1"] {
            let endpoint = SocketAddr::new(address.parse().expect("an address"), port);
            assert_eq!(find(endpoint).len(), 1, "{endpoint}");
        }
        let v4_only = TcpListener::bind("0.0.0.0:0").expect("any address");
        let port = v4_only.local_addr().expect("bound").port();
        assert!(find(SocketAddr::new("::1".parse().expect("an address"), port)).is_empty());
    }
}
