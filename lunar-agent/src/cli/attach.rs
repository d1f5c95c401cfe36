//! `lunar-agent attach` and `detach`.

use clap::Args;

use super::{PlaceArgs, exit::Usage, output::say_line, runtime};
use crate::control::{Answer, Request, client};

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
        ask(self.place, &Request::Attach { selectors: self.selectors })
    }
}

impl DetachArgs {
    /// Asks the agent.
    ///
    /// # Errors
    /// If there is no agent, or it refuses.
    pub fn run(self) -> anyhow::Result<()> {
        ask(self.place, &Request::Detach { selectors: self.selectors })
    }
}

/// Asks the agent, and prints what it has done.
pub(super) fn ask(place: PlaceArgs, request: &Request) -> anyhow::Result<()> {
    let socket = place.paths()?.socket;
    let (done, refusal) = match runtime()?.block_on(client::ask(&socket, request))? {
        Answer::Done(lines) => (lines, None),
        Answer::Refused { done, reason, usage } => (done, Some((reason, usage))),
        Answer::Status(_) => return Err(anyhow::anyhow!("the agent answered another question")),
    };
    done.iter().try_for_each(|line| say_line(line))?;
    match refusal {
        None => Ok(()),
        Some((reason, true)) => Err(Usage(reason).into()),
        Some((reason, false)) => Err(anyhow::anyhow!(reason)),
    }
}
