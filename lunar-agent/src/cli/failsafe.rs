//! `lunar-agent failsafe`.

use anyhow::Context;
use clap::{Args, Subcommand};
use lunar_common::abi::MAX_ENDPOINTS;

use super::{
    PlaceArgs,
    config::Output,
    output::{say, say_line},
    status,
};
use crate::kernel::{KernelError, breaker::Breaker, pins::Pins, predecessor::force_others};

/// Show the breaker, or bypass the gateway by hand
///
/// These work on the kernel's maps themselves, whether an agent runs or not.
#[derive(Debug, Subcommand)]
pub enum FailsafeCommand {
    /// Show each endpoint's breaker as it is at this moment
    #[command(after_help = "\
Examples:
  sudo lunar-agent failsafe show
  sudo lunar-agent failsafe show -o json")]
    Show(ShowArgs),
    /// Send everything direct until `resume`; survives a restart of the agent
    #[command(after_help = "\
Examples:
  sudo lunar-agent failsafe bypass")]
    Bypass(PlaceArgs),
    /// End a bypass and close every breaker
    #[command(after_help = "\
Examples:
  sudo lunar-agent failsafe resume")]
    Resume(PlaceArgs),
}

/// What `failsafe show` takes.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl FailsafeCommand {
    /// Carries it out.
    ///
    /// # Errors
    /// If nothing is pinned, or this user may not open it.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Show(args) => {
                let status = status::from_pins(&args.place.paths()?.pins)?;
                match args.output {
                    Output::Json => say_line(&serde_json::to_string_pretty(&status.gateway)?),
                    Output::Table => say(&status::gateway_table(&status.gateway)),
                }
            }
            Self::Bypass(place) => {
                force(&place, true, |breaker| breaker.force(true))?;
                say_line("bypassed: everything goes direct until `lunar-agent failsafe resume`")
            }
            Self::Resume(place) => {
                force(&place, false, |breaker| {
                    for slot in 0..MAX_ENDPOINTS {
                        breaker.word(slot).close();
                    }
                    breaker.force(false);
                })?;
                say_line("resumed: every breaker is closed")
            }
        }
    }
}

/// Works on the breaker of this version, and forces or frees what agents of other versions have pinned.
fn force(place: &PlaceArgs, bypass: bool, own: impl FnOnce(&Breaker)) -> anyhow::Result<()> {
    let pins = Pins::new(&place.paths()?.pins);
    let absent = match Breaker::open(&pins) {
        Ok(breaker) => {
            own(&breaker);
            None
        }
        // An agent of another version runs, or ran: this program's package is newer.
        Err(e @ (KernelError::NoPins(_) | KernelError::Abi { .. })) => Some(e),
        Err(e) => return Err(e).context("the failsafe's maps cannot be opened"),
    };
    let others = force_others(&pins, matches!(absent, Some(KernelError::Abi { .. })), bypass)?;
    match absent {
        Some(e) if others == 0 => Err(e).context("the failsafe's maps cannot be opened"),
        _ => Ok(()),
    }
}
