//! UDP sockets, connected or not: the connect hooks see the former, the sendmsg hooks the latter, and both must leave most alone.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use anyhow::Result;
use clap::Args;
use nix::sys::socket::{MsgFlags, SockType, SockaddrStorage, send, sendto};
use serde_json::{Value, json};

use super::dial::{Dial, Failures, peer};

#[derive(Debug, Args)]
pub struct Udp {
    /// The address the application means to reach
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Name the address with each send, and do not connect
    #[arg(long)]
    unconnected: bool,
    #[command(flatten)]
    dial: Dial,
}

impl Udp {
    pub(super) fn run(&self) -> Result<Value> {
        let to = self.dial.resolve(self.to)?;
        let (mut ok, mut matches, mut other, mut failed) = (0, 0, Vec::new(), Failures::default());
        for _ in 0..self.count {
            let fd = self.dial.open(to, SockType::Datagram)?;
            if self.unconnected {
                match sendto(fd.as_raw_fd(), b"x", &SockaddrStorage::from(to), MsgFlags::empty()) {
                    Ok(_) => ok += 1,
                    Err(errno) => failed.add(errno.into()),
                }
                continue;
            }
            if let Err(failure) = self.dial.connect(&fd, to) {
                failed.add(failure);
                continue;
            }
            let name = peer(&fd)?;
            if name == to {
                matches += 1;
            } else if other.len() < 16 {
                other.push(name.to_string());
            }
            match send(fd.as_raw_fd(), b"x", MsgFlags::empty()) {
                Ok(_) => ok += 1,
                Err(errno) => failed.add(errno.into()),
            }
        }
        Ok(json!({"ok": ok, "failed": failed, "peername_matches": matches, "peername_other": other}))
    }
}
