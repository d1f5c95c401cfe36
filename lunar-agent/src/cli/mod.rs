//! The command line: one file for each verb, parsing and printing only.

mod ask;
pub mod attach;
pub mod cleanup;
pub mod config;
pub mod exit;
pub mod explain;
pub mod failsafe;
pub mod gateway;
mod output;
pub mod policy;
pub mod relay;
pub mod reload;
pub mod run;
pub mod sources;
pub mod status;
mod table;

use std::mem::ManuallyDrop;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

pub use config::ConfigCommand;
pub use sources::{ConfigArgs, PlaceArgs};

/// Sends a container's outbound API calls through a gateway, and straight to the provider while the gateway is in
/// trouble
#[derive(Debug, Parser)]
#[command(
    name = "lunar-agent",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  sudo lunar-agent run --gateway 127.0.0.1:8000 --target cgroup:/sys/fs/cgroup/system.slice/checkout.service
  sudo lunar-agent status
  sudo lunar-agent failsafe bypass

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not permitted."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    Run(run::RunArgs),
    /// Intercept more targets
    Attach(attach::AttachArgs),
    /// Leave targets alone again
    Detach(attach::DetachArgs),
    /// Apply the configuration anew, as a whole or not at all
    Reload(reload::ReloadArgs),
    /// Show gateway, failsafe, targets and counters
    Status(status::StatusArgs),
    /// Show the breaker, or bypass the gateway by hand
    #[command(subcommand)]
    Failsafe(failsafe::FailsafeCommand),
    /// Show the policy, ask about a host, change it until the agent restarts
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Say what would become of a connect, step by step
    Explain(explain::ExplainArgs),
    /// Validate the configuration, or print what is in effect and why
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run the embedded gateway: it forwards each connection to its original destination
    Gateway(gateway::GatewayArgs),
    /// Run the relay: it reads what the kernel redirects and hands each request to the gateway
    Relay(relay::RelayArgs),
    /// Remove every pin and link that this program ever made; traffic goes direct
    Cleanup(cleanup::CleanupArgs),
}

impl Command {
    /// Carries the command out.
    ///
    /// # Errors
    /// What went wrong; [`exit::code`] says which exit code that is.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Run(args) => args.run(),
            Self::Attach(args) => args.run(),
            Self::Detach(args) => args.run(),
            Self::Reload(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Failsafe(command) => command.run(),
            Self::Policy(command) => command.run(),
            Self::Explain(args) => args.run(),
            Self::Config(command) => config::run(command),
            Self::Gateway(args) => Ok(block_on(args.run())??),
            Self::Relay(args) => args.run(),
            Self::Cleanup(args) => args.run(),
        }
    }
}

/// Does `work` to its end, on one thread: the daemon's work is a few calls a second. A name that is being looked up on a thread
/// of the runtime's own is not waited for, also when the work panics.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = ManuallyDrop::new(runtime.context("cannot start the runtime")?);
    let ended = runtime.block_on(work);
    ManuallyDrop::into_inner(runtime).shutdown_background();
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_every_verb_has_examples() {
        Cli::command().debug_assert();
        fn examples(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                assert!(command.render_long_help().to_string().contains("Examples:"), "{path}");
            }
            let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            for name in names.iter().filter(|n| *n != "help") {
                examples(command.find_subcommand_mut(name).expect("it was listed"), &path);
            }
        }
        examples(&mut Cli::command(), "");
    }
}
