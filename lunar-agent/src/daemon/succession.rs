//! In the place of an agent of another ABI.

use tokio::time::Instant;

use super::agent::{Agent, HANDED_OVER};
use crate::kernel::{KernelError, predecessor::Predecessor};

impl Agent {
    /// Ends the verdicts of an agent of another version, and lets its connections that are under way come through.
    pub(super) fn succeed(&mut self, predecessor: Predecessor) -> Result<(), KernelError> {
        predecessor.end_verdicts()?;
        let until = Instant::now() + self.under_way() + HANDED_OVER;
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
