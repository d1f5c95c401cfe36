//! The far end of the connections: accepts and closes, as quickly as it can.

use std::{
    net::{SocketAddr, TcpListener},
    thread,
};

use anyhow::{Context, Result};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Listen {
    /// Where to listen
    #[arg(required = true)]
    on: Vec<SocketAddr>,
}

impl Listen {
    pub(super) fn run(&self) -> Result<()> {
        let listeners = self
            .on
            .iter()
            .map(|at| TcpListener::bind(at).with_context(|| format!("cannot listen on {at}")))
            .collect::<Result<Vec<_>>>()?;
        println!("ready");
        thread::scope(|scope| {
            for listener in &listeners {
                // A connection that was reset before it was accepted is an error of that connection alone.
                scope.spawn(move || listener.incoming().for_each(drop));
            }
        });
        Ok(())
    }
}
