//! In the place of an agent of another ABI.

use std::time::Duration;

use tokio::time::Instant;

use super::agent::Agent;
use crate::kernel::{KernelError, predecessor::Predecessor};

/// How long after the last SYN of an agent of another version could be answered its gateway may take to ask for the
/// original destination.
const HANDED_OVER: Duration = Duration::from_secs(1);

impl Agent {
    /// Ends the verdicts of an agent of another version, and lets its connections that are under way come through.
    pub(super) fn succeed(&mut self, predecessor: Predecessor) -> Result<(), KernelError> {
        predecessor.end_verdicts()?;
        let until = Instant::now() + self.under_way + HANDED_OVER;
        self.predecessor = Some((predecessor, until));
        Ok(())
    }

    pub(super) fn forget_predecessor(&mut self, predecessor: Predecessor) {
        let pins = predecessor.describe();
        match predecessor.remove() {
            Ok(waiting) => {
                self.waiting_sockets = waiting;
                tracing::info!(pins, "pins of another version removed");
            }
            Err(e) => {
                tracing::error!(pins, error = %e, "pins of another version remain until the next start")
            }
        }
    }
}
