//! Connections that are kept open: what they take up, nobody else has.

use std::io::{self, Read};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::SockType;
use serde_json::{Value, json};

use super::dial::{Dial, Failures};

#[derive(Debug, Args)]
pub struct Hold {
    #[arg(long)]
    to: SocketAddr,
    /// How many; the first that fails ends the connecting
    #[arg(long)]
    count: u32,
    #[command(flatten)]
    dial: Dial,
}

impl Hold {
    /// Says "holding N" when they are open, and closes them at the end of standard input.
    pub(super) fn run(&self) -> Result<Value> {
        let to = self.dial.resolve(self.to)?;
        let mut held = Vec::new();
        let mut failed = Failures::default();
        for _ in 0..self.count {
            let fd = self.dial.open(to, SockType::Stream)?;
            if let Err(failure) = self.dial.connect(&fd, to) {
                failed.add(failure);
                break;
            }
            held.push(fd);
        }
        println!("holding {}", held.len());
        io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of standard input")?;
        Ok(json!({"held": held.len(), "failed": failed}))
    }
}
