//! Who listens at the endpoints of this host, and how the kernel comes to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::fd::OwnedFd,
};

use lunar_common::{
    abi::{LISTENERS_PER_ENDPOINT, endpoint as flags},
    time::SpanNs,
};

use super::agent::Agent;
use crate::{
    gateway::{
        endpoint::Endpoint,
        listener::{self, Found, Held},
    },
    kernel::{
        KernelError,
        layout::{now, span},
    },
    targets::cgroup::Cgroup,
};

impl Agent {
    /// Who listens at a local endpoint.
    pub(super) fn look_for_listeners(&mut self, endpoint: &Endpoint) -> Vec<Held> {
        let address = endpoint.address;
        let mut held = self.gateways.held.get(&address).cloned().unwrap_or_default();
        // A reload may bring a socket of its own before the old one closes (SO_REUSEPORT).
        let changed = self.has_other_listeners(address);
        if held.is_empty() || changed || !held.iter().all(Held::stands) {
            let found = listener::find(address).unwrap_or_else(|e| {
                tracing::debug!(endpoint = %address, error = %e, "the kernel does not tell who listens");
                Found { held: Vec::new(), hidden: true }
            });
            held = found.held;
            if found.hidden {
                self.gateways.hidden.insert(address);
            } else {
                self.gateways.hidden.remove(&address);
            }
        } else {
            held.extend(Self::new_workers(&held));
        }
        if !held.is_empty() {
            self.gateways.unseen.remove(&address);
        } else if !self.gateways.unseen.contains_key(&address) {
            // A probe under way may have connected to whoever has gone; at the start there is none.
            let under_way = if self.gateways.held.contains_key(&address) {
                span(self.config.health.timeout)
            } else {
                SpanNs(0)
            };
            self.gateways.unseen.insert(address, now().after(under_way));
        }
        held
    }

    /// Whether others listen at an endpoint than those that are known.
    pub(super) fn has_other_listeners(&self, endpoint: SocketAddr) -> bool {
        let held = self.gateways.held.get(&endpoint);
        let known: BTreeSet<u64> = held.into_iter().flatten().map(|h| h.inode).collect();
        listener::listening(endpoint).is_ok_and(|now| now != known)
    }

    /// Tells the kernel of the sockets that listen at an endpoint, and whether they say all. Returns whether these are
    /// others than before.
    pub(super) fn show_listeners(
        &mut self,
        endpoint: &Endpoint,
        local: bool,
        held: Vec<Held>,
    ) -> Result<bool, KernelError> {
        let (slot, address) = (endpoint.slot, endpoint.address);
        let watched = local && self.is_watched(endpoint, &held);
        // At first sight the places may hold what an agent before this one left there.
        let first = !self.gateways.shown.contains_key(&slot);
        let other =
            first || self.gateways.held.get(&address).map_or(!held.is_empty(), |before| *before != held);
        if other {
            self.gateways.shown.insert(slot, address);
            self.gateways.held.insert(address, held.clone());
            match self.offer_listeners(slot, &held) {
                // Those who are gone took their sockets along: that is what the kernel is to see, until the next look.
                Ok(0) if held.iter().any(Held::stands) => {
                    self.cannot_watch(address, "none of them can be copied");
                }
                Ok(_) => {
                    self.gateways.unwatchable.remove(&address);
                }
                Err(e) => self.cannot_watch(address, &e.to_string()),
            }
        }
        let watched = watched && !self.gateways.unwatchable.contains(&address);
        self.flag_endpoint(slot, flags::LOCAL, watched)?;
        Ok(other)
    }

    /// The sockets cannot be shown to the kernel (an MPTCP one, or `pidfd_getfd` is denied): a listener that dies is noticed
    /// by failed connects and probes only.
    fn cannot_watch(&mut self, address: SocketAddr, reason: &str) {
        if self.gateways.unwatchable.insert(address) {
            tracing::warn!(endpoint = %address, reason, "its listening sockets cannot be watched; failures tell of its end");
        }
    }

    /// Whether the sockets tell the kernel if somebody listens. They say nothing where somebody listens who cannot be
    /// looked into, or where a probe's connect succeeds although nobody is seen to listen (NAT, a socket of another
    /// network namespace).
    pub(super) fn is_watched(&self, endpoint: &Endpoint, held: &[Held]) -> bool {
        let hidden = self.gateways.hidden.contains(&endpoint.address);
        let answers_unseen = || {
            let since = self.gateways.unseen.get(&endpoint.address);
            // A handshake connects to another port.
            !self.probes.shake_hands()
                && since.is_some_and(|since| self.is_healthy_since(endpoint.slot, *since))
        };
        self.capabilities.can_copy_sockets() && (!held.is_empty() || !hidden && !answers_unseen())
    }

    /// Processes that have joined the holders' cgroups since and hold the sockets too. The root cgroup is nobody's
    /// target, so nobody in it has to be exempt.
    fn new_workers(held: &[Held]) -> Vec<Held> {
        let known: BTreeSet<u32> = held.iter().map(|h| h.pid).collect();
        let inodes: BTreeSet<u64> = held.iter().map(|h| h.inode).collect();
        let cgroups: BTreeMap<u64, Cgroup> =
            known.iter().filter_map(|pid| Cgroup::of_process(*pid).ok()).map(|c| (c.id, c)).collect();
        let new = cgroups.values().flat_map(processes_of).filter(|pid| !known.contains(pid));
        listener::held_by_new(new, &inodes)
    }

    /// Copies the sockets into the kernel's map, one of each, and closes the copies: a copy that stayed open would
    /// keep a dead gateway's socket listening. Returns how many are in it.
    pub(super) fn offer_listeners(&mut self, slot: u32, held: &[Held]) -> Result<u32, KernelError> {
        let held = if self.capabilities.can_copy_sockets() { held } else { &[] };
        let mut seen = BTreeSet::new();
        let sockets: Vec<OwnedFd> = held
            .iter()
            .filter(|h| seen.len() < LISTENERS_PER_ENDPOINT as usize && seen.insert(h.inode))
            .filter_map(|h| {
                h.copy().inspect_err(|e| tracing::debug!(pid = h.pid, error = %e, "socket not copied")).ok()
            })
            .collect();
        self.state.show_listeners(slot, &sockets)
    }
}

/// The processes that are in a cgroup itself.
pub(super) fn processes_of(cgroup: &Cgroup) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
