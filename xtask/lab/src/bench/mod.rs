//! What the interceptor costs: `cargo xtask bench connect`, `bench dns`, `bench relay`, `bench rest` and
//! `bench load`. What is measured, and how, is in docs/benchmarks.md.

mod connect;
mod dns;
mod entries;
mod field;
mod latency;
mod listen;
mod load;
pub(crate) mod machine;
mod policies;
mod programs;
mod relay;
mod report;
mod rest;
pub(crate) mod statistics;
mod worker;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

/// `lunar-lab bench …`
#[derive(Debug, Args)]
#[command(bin_name = "cargo xtask bench")]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Measure what a connect(2) costs: with nothing attached, an empty program, a miss, a hit, iptables REDIRECT
    #[command(
        after_help = "Examples:\n  cargo xtask bench connect\n  cargo xtask bench connect --quick --json out.json"
    )]
    Connect(connect::Connect),
    /// Measure what it costs a target that DNS answers are read: packets, sends, a bulk transfer, verdicts with names
    #[command(
        after_help = "Examples:\n  cargo xtask bench dns\n  cargo xtask bench dns --quick --json out.json"
    )]
    Dns(dns::Dns),
    /// Measure what the relay costs a request, against HAProxy, nginx and no hop: CPU time, latency, memory
    #[command(
        after_help = "Examples:\n  cargo xtask bench relay\n  cargo xtask bench relay --quick no-hop haproxy relay"
    )]
    Relay(relay::Relay),
    /// Measure the agent at rest for a minute: memory, CPU, wake-ups
    #[command(after_help = "Examples:\n  cargo xtask bench rest\n  cargo xtask bench rest --json out.json")]
    Rest(rest::Rest),
    /// Measure an agent with 1,000 targets and 100,000 policy entries: start, restart, attach, detach, status
    #[command(
        after_help = "Examples:\n  cargo xtask bench load\n  cargo xtask bench load --targets 100 --runs 3"
    )]
    Load(load::Load),
    /// Take jobs from standard input, one JSON object per line, and answer one line each
    #[command(hide = true)]
    Worker,
    /// Accept connections and close them
    #[command(hide = true)]
    Listen(listen::Listen),
    /// Take tasks from standard input, one JSON object per line, and answer one line each
    #[command(hide = true)]
    Traffic,
    /// Take and give bytes and packets as fast as it can
    #[command(hide = true)]
    Far(dns::Far),
    /// Give every request the same answer
    #[command(hide = true)]
    Gateway(relay::Gateway),
    /// Take tasks from standard input, one JSON object per line: send requests, answer one line each
    #[command(hide = true)]
    Client,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// When the field cannot be laid out, or a variant did not do what it is named for.
    pub fn run(&self) -> Result<()> {
        match &self.what {
            What::Connect(connect) => connect.run(),
            What::Dns(dns) => dns.run(),
            What::Relay(relay) => relay.run(),
            What::Rest(rest) => rest.run(),
            What::Load(load) => load.run(),
            What::Worker => worker::serve(),
            What::Listen(listen) => listen.run(),
            What::Traffic => dns::traffic::serve(),
            What::Far(far) => far.run(),
            What::Gateway(gateway) => gateway.run(),
            What::Client => relay::client::serve(),
        }
    }
}

/// The program under test, beside this one.
pub(crate) fn agent_binary() -> Result<PathBuf> {
    if cfg!(debug_assertions) {
        bail!("a debug build is not worth measuring: run `cargo xtask …`, which builds for release");
    }
    let agent = crate::lab_binary()?.with_file_name("lunar-agent");
    if !agent.is_file() {
        bail!("{} is not built: run `cargo xtask build --release`", agent.display());
    }
    Ok(agent)
}

pub(crate) fn write_json(path: Option<&Path>, figures: &Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(figures).context("cannot write the figures as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
