//! An application whose own timeout is shorter than the network: it closes while the connect is under way.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{SockType, SockaddrStorage, connect, getsockopt, sockopt};
use serde_json::{Value, json};

use super::dial::{Dial, Failure, ready};

#[derive(Debug, Args)]
pub struct GiveUp {
    /// The address the application means to reach
    #[arg(long)]
    to: SocketAddr,
    /// Close after this time, in ms
    #[arg(long)]
    after: u64,
    #[command(flatten)]
    dial: Dial,
}

impl GiveUp {
    pub(super) fn run(&self) -> Result<Value> {
        let to = self.dial.resolve(self.to)?;
        let fd = self.dial.open(to, SockType::Stream)?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let begun = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
        thread::sleep(Duration::from_millis(self.after));
        let connect = begun.err().map_or_else(|| "ok".to_owned(), |errno| Failure::from(errno).to_string());
        // What there was at the moment of closing.
        let connecting = connect == "EINPROGRESS" && !ready(&fd, PollFlags::POLLOUT, Duration::ZERO)?;
        let error = match getsockopt(&fd, sockopt::SocketError)? {
            0 => Value::Null,
            code => Failure::from(nix::errno::Errno::from_raw(code)).to_string().into(),
        };
        Ok(json!({"connect": connect, "still_connecting": connecting, "so_error": error}))
    }
}
