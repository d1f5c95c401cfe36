//! The gateway's processes are exempt: their own connections are never redirected.

use std::collections::BTreeSet;

use super::agent::Agent;
use crate::{kernel::KernelError, targets::cgroup::Cgroup};

impl Agent {
    /// Exempts those who hold the gateway's sockets, and no longer those who are gone: a process id comes round again.
    /// The kernel exempts by itself who asks for an original destination; such a process stays while it lives in one
    /// of the gateway's cgroups.
    pub(super) fn exempt_processes(&mut self) {
        let problem = self.bring_exempt_up_to_date().err().map(|e| e.to_string());
        if problem != self.gateways.not_exempt {
            match &problem {
                Some(error) => tracing::error!(error, "a process of the gateway is not exempt"),
                None => tracing::info!("the gateway's processes are exempt"),
            }
            self.gateways.not_exempt = problem;
        }
    }

    fn bring_exempt_up_to_date(&mut self) -> Result<(), KernelError> {
        let wanted: BTreeSet<u32> = self.gateways.held.values().flatten().map(|h| h.pid).collect();
        // First: a full map gets room.
        for pid in self.state.exempt_processes()? {
            if !wanted.contains(&pid) && !self.is_in_a_gateways_cgroup(pid) {
                self.state.exempt(pid, false)?;
            }
        }
        self.gateways.exempt.retain(|pid| wanted.contains(pid));
        let mut done = Ok(());
        for pid in wanted {
            if !self.gateways.exempt.contains(&pid) {
                match self.state.exempt(pid, true) {
                    Ok(()) => drop(self.gateways.exempt.insert(pid)),
                    Err(e) => done = Err(e),
                }
            }
        }
        done
    }

    fn is_in_a_gateways_cgroup(&self, pid: u32) -> bool {
        Cgroup::of_process(pid).is_ok_and(|c| self.gateways.answering.contains_key(&c.id))
    }
}
