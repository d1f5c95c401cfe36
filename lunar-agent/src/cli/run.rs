//! `lunar-agent run`.

use clap::Args;

use super::{block_on, sources::ConfigArgs};
use crate::{config::Config, daemon, telemetry};

const EXAMPLES: &str = "\
Examples:
  # A gateway on this host that asks for SO_ORIGINAL_DST, and one target
  sudo lunar-agent run --gateway 127.0.0.1:8000 --handoff original-dst --target cgroup:/sys/fs/cgroup/system.slice/checkout.service

  # A gateway elsewhere that reads the PROXY protocol; the whole cgroup of a process
  sudo lunar-agent run --gateway gateway.internal:8000 --handoff proxy-protocol --target pid:4711

  # Everything from a file
  sudo lunar-agent run --config /etc/lunar/agent.toml";

/// Run the daemon in the foreground
///
/// Logs go to standard error. SIGHUP reads the configuration anew, as `lunar-agent reload` does. SIGTERM leaves the interception in place for a restart, bounded by the lease
/// (failsafe.on_stop); a second signal exits at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    sources: ConfigArgs,
}

impl RunArgs {
    /// Runs until a signal stops it.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn run(self) -> anyhow::Result<()> {
        let sources = self.sources.into_sources();
        let loaded = Config::load(sources.clone())?;
        telemetry::log_to_stderr(loaded.config.log_level);
        Ok(block_on(daemon::run(sources, loaded))??)
    }
}
