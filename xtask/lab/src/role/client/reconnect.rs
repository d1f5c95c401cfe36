//! One socket, several connects.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use clap::Args;
use nix::sys::socket::SockType;
use serde_json::{Value, json};

use super::dial::{Dial, Failure, disconnect, peer};

#[derive(Debug, Args)]
pub struct Reconnect {
    /// The first address
    #[arg(long)]
    to: SocketAddr,
    /// The next addresses, in order
    #[arg(long, required = true, num_args = 1..)]
    then: Vec<SocketAddr>,
    #[command(flatten)]
    dial: Dial,
    /// Read the first line that the other side sends
    #[arg(long)]
    read_line: bool,
}

impl Reconnect {
    pub(super) fn run(&self) -> Result<Value> {
        let first = self.dial.resolve(self.to)?;
        let fd = self.dial.open(first, SockType::Stream)?;
        let mut steps = Vec::new();
        for (turn, to) in [self.to].iter().chain(&self.then).enumerate() {
            let to = self.dial.resolve(*to)?;
            if to.is_ipv4() != first.is_ipv4() {
                bail!(
                    "one socket cannot reach both {first} and {to}: use --socket mapped for the IPv4 address"
                );
            }
            if turn > 0 {
                let outcome = disconnect(&fd).err().map(|errno| Failure::from(errno).to_string());
                steps.push(json!({"step": "disconnect", "error": outcome}));
            }
            let connected = self.dial.connect(&fd, to).err().map(|failure| failure.to_string());
            let name =
                peer(&fd).map_or_else(|errno| Failure::from(errno).to_string(), |name| name.to_string());
            let mut step =
                json!({"step": "connect", "to": to.to_string(), "error": connected, "peername": name});
            if self.read_line && connected.is_none() {
                step["line"] = self.dial.read_line(&fd).unwrap_or_else(|failure| failure.to_string()).into();
            }
            steps.push(step);
        }
        Ok(json!({"steps": steps}))
    }
}
