//! `lunar-agent cleanup`.

use std::{io::ErrorKind, time::Duration};

use clap::Args;

use super::{PlaceArgs, output::say_line};
use crate::{
    kernel::{KernelError, pins::Pins, relay::RelayCounts},
    relay::process,
};

/// How long the last connections may need their programs: the default `gateway.connect_timeout`, and a second to be
/// handed over.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// Remove every pin and link that this program ever made; traffic goes direct
///
/// Refused while an agent runs. Other programs on the same hooks are not touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent cleanup
  sudo lunar-agent cleanup --config /etc/lunar/agent.toml")]
pub struct CleanupArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

impl CleanupArgs {
    /// Removes the pins.
    ///
    /// # Errors
    /// If an agent runs, or something cannot be removed.
    pub fn run(self) -> anyhow::Result<()> {
        let root = self.place.paths()?.pins;
        let pins = Pins::new(&root);
        let _lock = match pins.lock() {
            Err(KernelError::Sys { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return say_line(&format!("nothing is pinned at {}", root.display()));
            }
            lock => lock?,
        };
        // Without the pins a relay has nothing to serve by.
        if let Ok(counts) = RelayCounts::open(&pins) {
            process::end_all(&counts);
        }
        let removed = pins.remove_all(UNDER_WAY)?;
        say_line(&format!("removed {} pins from {}; traffic goes direct", removed.len(), root.display()))
    }
}
