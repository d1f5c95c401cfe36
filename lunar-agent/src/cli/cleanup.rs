//! `lunar-agent cleanup`.

use clap::Args;

use super::PlaceArgs;
use crate::kernel::pins::Pins;

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
        if !root.exists() {
            println!("nothing is pinned at {}", root.display());
            return Ok(());
        }
        let pins = Pins::new(&root);
        let _lock = pins.lock()?;
        let removed = pins.remove_all()?;
        println!("removed {} pins from {}; traffic goes direct", removed.len(), root.display());
        Ok(())
    }
}
