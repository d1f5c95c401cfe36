//! The gateway's processes: followed as they come and go, so that its own connections are exempt, its cgroup answers
//! `SO_ORIGINAL_DST`, and the kernel knows whether it listens.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::fd::OwnedFd,
};

use lunar_common::{
    abi::{Attachment, LISTENERS_PER_ENDPOINT, MAX_ENDPOINTS, endpoint as flags},
    time::{KtimeNs, SpanNs},
};

use super::{agent::Agent, settings::is_here};
use crate::{
    config::{GatewayProcess, Handoff},
    gateway::{
        endpoint::Endpoint,
        listener::{self, Held},
    },
    kernel::{
        KernelError,
        attach::{self, Owner},
        generation::Generation,
        layout::{now, span},
        pins::Pins,
        state::State,
    },
    targets::cgroup::Cgroup,
};

/// What is known of the gateway's processes.
#[derive(Default)]
pub(super) struct Gateways {
    /// By endpoint slot: who listens there, as last seen.
    held: HashMap<u32, Vec<Held>>,
    /// By cgroup id: where the original destination is answered.
    answering: HashMap<u64, Cgroup>,
    /// By endpoint slot where nobody is seen to listen: a probe that ended well after this began after the last
    /// listener had gone.
    unseen: HashMap<u32, KtimeNs>,
    /// By endpoint slot: why it takes no connection.
    problems: HashMap<u32, String>,
    /// Endpoint slots that have shaken hands.
    handshaken: BTreeSet<u32>,
    /// Processes exempted by the agent.
    exempt: BTreeSet<u32>,
}

impl Gateways {
    pub(super) fn problem(&self, slot: u32) -> Option<String> {
        self.problems.get(&slot).cloned()
    }

    /// Whether this cgroup answers for the original destination.
    pub(super) fn answers_for(&self, cgroup_id: u64) -> bool {
        self.answering.contains_key(&cgroup_id)
    }

    /// Enters the result of a handshake. The first is said where whoever started the agent looks.
    pub(super) fn handshaken(&mut self, slot: u32, address: &str, failure: Option<&str>) {
        match failure {
            None => {
                if self.handshaken.insert(slot) {
                    tracing::info!(endpoint = address, "handshake done");
                }
            }
            Some(reason) if !self.handshaken.contains(&slot) => {
                let problem = format!("no handshake yet: {reason}");
                if self.problems.insert(slot, problem.clone()).as_ref() != Some(&problem) {
                    println!("error: {address}: {problem}; traffic is direct until it succeeds");
                }
            }
            Some(_) => {}
        }
    }

    /// Swaps the programs of a new generation in.
    pub(super) fn reattach(
        &self,
        pins: &Pins,
        state: &mut State,
        generation: &Generation,
    ) -> Result<(), KernelError> {
        self.answering.values().try_for_each(|c| attach_gateway(pins, state, generation, c))
    }
}

fn attach_gateway(
    pins: &Pins,
    state: &mut State,
    generation: &Generation,
    cgroup: &Cgroup,
) -> Result<(), KernelError> {
    attach::attach(pins, state, generation, Owner::Gateway(cgroup.id), cgroup, Attachment::default())
}

impl Agent {
    /// Looks at the gateway's processes and brings the kernel's knowledge up to date.
    pub(super) fn watch_gateways(&mut self) {
        self.forget_dead_cgroups();
        for endpoint in self.endpoints.clone() {
            if let Err(e) = self.watch_endpoint(&endpoint) {
                tracing::error!(endpoint = %endpoint.address, error = %e, "the gateway's processes cannot be followed");
            }
        }
        if let Err(e) = self.exempt_processes() {
            tracing::error!(error = %e, "the gateway's processes cannot be exempted");
        }
        self.write_unready();
    }

    fn watch_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let local = is_here(endpoint.address.ip(), &self.own_addresses);
        let held = if local { self.look_for_listeners(endpoint) } else { Vec::new() };
        // Before the kernel hears of a new listener: no connection may get there whose destination nobody tells.
        if self.config.gateway.handoff == Handoff::OriginalDst {
            self.answer_for(endpoint, local, &held);
            self.write_unready();
        }
        if local { self.show_listeners(endpoint, held) } else { Ok(()) }
    }

    /// Sees to it that the gateway is told the original destinations, or else that it takes no connection.
    fn answer_for(&mut self, endpoint: &Endpoint, local: bool, held: &[Held]) {
        let answering = match &self.config.gateway.process {
            GatewayProcess::None => Ok(()),
            GatewayProcess::Selector(selector) => match Cgroup::find(selector) {
                Ok(cgroup) => self.answer_in(cgroup),
                Err(e) => Err(format!("gateway.process: {e}")),
            },
            // The kernel finds no listener either: the connect goes direct, and counts.
            GatewayProcess::Auto if local && self.is_watched(endpoint.slot, held) && held.is_empty() => {
                Ok(())
            }
            GatewayProcess::Auto if local => self.answer_where_it_listens(held),
            // A gateway elsewhere learns the destination from Host or SNI.
            GatewayProcess::Auto => Ok(()),
        };
        let asked = local || matches!(self.config.gateway.process, GatewayProcess::Selector(_));
        let asks = asked && self.config.gateway.process != GatewayProcess::None;
        let record = asks && answering.is_ok();
        if let Err(e) = self.flag_endpoint(endpoint.slot, flags::RECORD, record) {
            tracing::error!(endpoint = %endpoint.address, error = %e, "original destinations are not recorded");
        }
        match answering {
            Ok(()) => {
                if self.gateways.problems.remove(&endpoint.slot).is_some() {
                    tracing::info!(endpoint = %endpoint.address, "the gateway is told the original destinations");
                }
            }
            Err(problem) if self.gateways.problems.get(&endpoint.slot) != Some(&problem) => {
                tracing::warn!(endpoint = %endpoint.address, problem, "takes no connection");
                self.gateways.problems.insert(endpoint.slot, problem);
            }
            Err(_) => {}
        }
    }

    /// Who listens at a local endpoint.
    fn look_for_listeners(&mut self, endpoint: &Endpoint) -> Vec<Held> {
        let slot = endpoint.slot;
        let mut held = self.gateways.held.get(&slot).cloned().unwrap_or_default();
        if held.is_empty() || !held.iter().all(Held::stands) {
            held = listener::find(endpoint.address);
        } else {
            held.extend(self.new_workers(&held));
        }
        if !held.is_empty() {
            self.gateways.unseen.remove(&slot);
        } else if !self.gateways.unseen.contains_key(&slot) {
            // A probe under way may have connected to whoever has gone; at the start there is none.
            let under_way = if self.gateways.held.contains_key(&slot) {
                span(self.config.health.timeout)
            } else {
                SpanNs(0)
            };
            self.gateways.unseen.insert(slot, now().after(under_way));
        }
        held
    }

    /// Tells the kernel of the sockets that listen at a local endpoint, and whether they say all.
    fn show_listeners(&mut self, endpoint: &Endpoint, held: Vec<Held>) -> Result<(), KernelError> {
        let slot = endpoint.slot;
        let watched = self.is_watched(slot, &held);
        if self.gateways.held.get(&slot).map_or(!held.is_empty(), |before| *before != held) {
            self.offer_listeners(slot, &held)?;
            self.gateways.held.insert(slot, held);
        }
        self.flag_endpoint(slot, flags::LOCAL, watched)
    }

    /// Whether the sockets tell the kernel if somebody listens. They say nothing where a probe's connect succeeds
    /// although nobody is seen to listen (NAT, a socket of another network namespace).
    fn is_watched(&self, slot: u32, held: &[Held]) -> bool {
        let answers_unseen = || {
            // A handshake connects to another port.
            !self.probes.shake_hands()
                && self.gateways.unseen.get(&slot).is_some_and(|since| self.is_healthy_since(slot, *since))
        };
        self.capabilities.can_copy_sockets() && (!held.is_empty() || !answers_unseen())
    }

    fn flag_endpoint(&mut self, slot: u32, flag: u16, on: bool) -> Result<(), KernelError> {
        let mut entry = self.state.endpoint(slot)?;
        let before = entry.flags;
        entry.flags = if on { before | flag } else { before & !flag };
        if entry.flags != before {
            self.state.set_endpoint(slot, entry)?;
        }
        Ok(())
    }

    /// Processes that have joined the gateway's cgroups since and hold its sockets too.
    fn new_workers(&self, held: &[Held]) -> Vec<Held> {
        let known: BTreeSet<u32> = held.iter().map(|h| h.pid).collect();
        let inodes: BTreeSet<u64> = held.iter().map(|h| h.inode).collect();
        let new = self.gateways.answering.values().flat_map(processes_of).filter(|pid| !known.contains(pid));
        listener::held_by_new(new, &inodes)
    }

    /// Copies the sockets into the kernel's map, one of each, and closes the copies: a copy that stayed open would
    /// keep a dead gateway's socket listening.
    fn offer_listeners(&mut self, slot: u32, held: &[Held]) -> Result<(), KernelError> {
        if !self.capabilities.can_copy_sockets() {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let sockets: Vec<OwnedFd> = held
            .iter()
            .filter(|h| seen.len() < LISTENERS_PER_ENDPOINT as usize && seen.insert(h.inode))
            .filter_map(|h| {
                h.copy().inspect_err(|e| tracing::debug!(pid = h.pid, error = %e, "socket not copied")).ok()
            })
            .collect();
        self.state.set_listeners(slot, &sockets)
    }

    fn answer_where_it_listens(&mut self, held: &[Held]) -> Result<(), String> {
        if held.is_empty() {
            return Err(
                "no process of this network namespace listens there, so nothing can tell it the original \
                        destination; start it, or set gateway.process"
                    .to_owned(),
            );
        }
        let pids: BTreeSet<u32> = held.iter().map(|h| h.pid).collect();
        let cgroups: Vec<Cgroup> = pids
            .into_iter()
            .map(|pid| Cgroup::of_process(pid).map_err(|e| format!("the listening process: {e}")))
            .collect::<Result<_, _>>()?;
        cgroups.into_iter().try_for_each(|c| self.answer_in(c))
    }

    /// Attaches the programs that answer `SO_ORIGINAL_DST` to a cgroup of the gateway.
    fn answer_in(&mut self, cgroup: Cgroup) -> Result<(), String> {
        if self.gateways.answering.contains_key(&cgroup.id) {
            return Ok(());
        }
        attach_gateway(&self.pins, &mut self.state, &self.generation, &cgroup).map_err(|e| e.to_string())?;
        tracing::info!(cgroup = %cgroup.path.display(), "original destinations are answered");
        self.gateways.answering.insert(cgroup.id, cgroup);
        Ok(())
    }

    /// A cgroup that is gone took its attachment with it.
    fn forget_dead_cgroups(&mut self) {
        let dead: Vec<u64> = self.gateways.answering.values().filter(|c| !c.exists()).map(|c| c.id).collect();
        for id in dead {
            self.gateways.answering.remove(&id);
            if let Err(e) = attach::detach(&self.pins, Owner::Gateway(id)) {
                tracing::warn!(error = %e, "the pins of a dead cgroup remain");
            }
        }
    }

    /// Exempts those who hold the gateway's sockets, and no longer those who are gone: a process id comes round again.
    /// The kernel exempts by itself who asks for an original destination; such a process stays while it lives in one
    /// of the gateway's cgroups.
    fn exempt_processes(&mut self) -> Result<(), KernelError> {
        let wanted: BTreeSet<u32> = self.gateways.held.values().flatten().map(|h| h.pid).collect();
        for pid in wanted.difference(&self.gateways.exempt) {
            self.state.exempt(*pid, true)?;
        }
        for pid in self.state.exempt_processes()? {
            if !wanted.contains(&pid) && !self.is_in_a_gateways_cgroup(pid) {
                self.state.exempt(pid, false)?;
            }
        }
        self.gateways.exempt = wanted;
        Ok(())
    }

    fn is_in_a_gateways_cgroup(&self, pid: u32) -> bool {
        Cgroup::of_process(pid).is_ok_and(|c| self.gateways.answering.contains_key(&c.id))
    }

    /// Tells the kernel which endpoints may take connections.
    pub(super) fn write_unready(&self) {
        let shy = |e: &&Endpoint| {
            let waits = self.probes.shake_hands() && !self.gateways.handshaken.contains(&e.slot);
            waits || self.gateways.problems.contains_key(&e.slot)
        };
        let slots = self.endpoints.iter().filter(shy).fold(0, |slots, e| slots | 1 << e.slot);
        self.state.set_unready(slots);
    }
}

fn processes_of(cgroup: &Cgroup) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

const _: () = assert!(MAX_ENDPOINTS <= 32, "the slots that are not ready are bits of a u32");
