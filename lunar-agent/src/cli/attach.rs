//! `lunar-agent attach` and `detach`.

use clap::Args;

use super::{PlaceArgs, ask::ask_to};
use crate::control::Request;

/// Intercept more targets
///
/// Until the agent restarts: what is to last belongs into its configuration.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent attach cgroup:/sys/fs/cgroup/system.slice/checkout.service
  sudo lunar-agent attach pid:4711 pid:4712")]
pub struct AttachArgs {
    /// What to intercept: cgroup:PATH, or pid:N for the whole cgroup of a process
    #[arg(required = true, value_name = "SELECTOR")]
    selectors: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Leave targets alone again
///
/// Connections that are open stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent detach cgroup:/sys/fs/cgroup/system.slice/checkout.service
  sudo lunar-agent detach checkout")]
pub struct DetachArgs {
    /// Selector or name of a target, as `status` shows it
    #[arg(required = true, value_name = "SELECTOR")]
    selectors: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

impl AttachArgs {
    /// Asks the agent.
    ///
    /// # Errors
    /// If there is no agent, or it refuses.
    pub fn run(self) -> anyhow::Result<()> {
        ask_to(self.place, &Request::Attach { selectors: self.selectors })
    }
}

impl DetachArgs {
    /// Asks the agent.
    ///
    /// # Errors
    /// If there is no agent, or it refuses.
    pub fn run(self) -> anyhow::Result<()> {
        ask_to(self.place, &Request::Detach { selectors: self.selectors })
    }
}
