//! `lunar-agent relay`.

use std::path::PathBuf;

use clap::Args;
use tracing::level_filters::LevelFilter;

use crate::{relay::process, telemetry};

const EXAMPLES: &str = "\
Examples:
  # Beside an agent with default paths
  sudo lunar-agent relay

  # The same with paths of one's own; where a relay serves already, this one takes its place
  sudo lunar-agent relay --socket /run/lunar/relay.sock --pins /sys/fs/bpf/lunar";

/// Run the relay: it reads what the kernel redirects and hands each request to the gateway
///
/// The agent starts it where none runs, and tells it what to serve. A relay on the same socket is an upgrade: it takes over
/// the listening sockets, and the one before ends when its last requests have. Logs go to standard error. SIGTERM lets
/// connects go direct and requests finish; a second signal ends it at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RelayArgs {
    /// The unix socket between agent and relay
    #[arg(long, value_name = "PATH", env = "LUNAR_RELAY_SOCKET", default_value = "/run/lunar/relay.sock")]
    socket: PathBuf,

    /// The agent's pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/lunar")]
    pins: PathBuf,

    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "LUNAR_INTERCEPTOR_LOG_LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

impl RelayArgs {
    /// Runs until a signal, or another relay, ends it.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn run(self) -> anyhow::Result<()> {
        telemetry::log_to_stderr(self.log_level);
        Ok(process::run(&self.socket, &self.pins)?)
    }
}
