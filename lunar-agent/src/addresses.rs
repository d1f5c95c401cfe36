//! Following the addresses of this host: the kernel tells when one comes or goes (`rtnetlink(7)`).
//!
//! What has changed is not read from the messages. Some may be lost when many come at once, so whoever is told looks
//! at all addresses anyway.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// From one change that is told to the next. Where containers come and go there are hundreds, and whoever is told may
/// have much to do.
const APART: Duration = Duration::from_secs(1);

/// Notices when an address is added to this network namespace or taken from it, IPv4 or IPv6.
pub struct AddressChanges {
    socket: AsyncFd<Socket>,
    told: Option<Instant>,
}

impl AddressChanges {
    /// From now on, in the calling thread's network namespace. Must be called within the runtime.
    ///
    /// # Errors
    /// When the kernel gives no such socket.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        socket.bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
        // SAFETY: the socket keeps its one file descriptor open until it is dropped, which only the AsyncFd does.
        let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self { socket: watched.map_err(io::Error::from)?, told: None })
    }

    /// Waits for a change. Those of the second after one was told are one, told when it is over. May be dropped at any
    /// time, and then misses nothing.
    ///
    /// # Errors
    /// When nothing can be noticed any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Some(told) = self.told {
                tokio::time::sleep_until(told + APART).await;
            }
            let any = drain(self.socket.get_ref())?;
            ready.clear_ready();
            if any {
                self.told = Some(Instant::now());
                return Ok(());
            }
        }
    }
}

/// Reads all that is there. Returns whether that was anything.
fn drain(socket: &Socket) -> io::Result<bool> {
    let mut any = false;
    loop {
        // Only that there is a message matters: the kernel drops what does not fit.
        let mut start = [0_u8; 64];
        match socket.recv(&mut start.as_mut_slice(), 0) {
            Ok(_) => any = true,
            // More came than the socket could hold: certainly a change.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => any = true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(any),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
