//! `lunar-agent reload`.

use clap::Args;

use super::{PlaceArgs, ask::ask_to};
use crate::control::Request;

/// Apply the configuration anew, as a whole or not at all
///
/// The agent reads its file again; its flags and environment stay those it was started with. A configuration with
/// anything wrong in it changes nothing: what is wrong is said, and the one of before stays in force. No connection
/// is missed or dropped. Targets attached by hand stay; paths.socket and paths.pins cannot change.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent config check && sudo lunar-agent reload
  sudo systemctl reload lunar-agent")]
pub struct ReloadArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

impl ReloadArgs {
    /// Asks the agent.
    ///
    /// # Errors
    /// If there is no agent, or it refuses the configuration.
    pub fn run(self) -> anyhow::Result<()> {
        ask_to(self.place, &Request::Reload {})
    }
}
