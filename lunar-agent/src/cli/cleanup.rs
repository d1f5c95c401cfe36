//! `lunar-agent cleanup`.

use std::io::ErrorKind;

use clap::Args;

use super::PlaceArgs;
use crate::kernel::{KernelError, pins::Pins};

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
                println!("nothing is pinned at {}", root.display());
                return Ok(());
            }
            lock => lock?,
        };
        let removed = pins.remove_all()?;
        println!("removed {} pins from {}; traffic goes direct", removed.len(), root.display());
        Ok(())
    }
}
