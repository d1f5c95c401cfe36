//! The gateway's processes: followed as they come and go, so that its own connections are exempt, its cgroup answers
//! `SO_ORIGINAL_DST`, and the kernel knows whether it listens.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::{self, Write},
    net::SocketAddr,
};

use lunar_common::{
    abi::{Attachment, MAX_ENDPOINTS, endpoint as flags},
    time::KtimeNs,
};

use tokio::time::Instant;

use super::{
    agent::{Agent, HANDED_OVER},
    settings::is_here,
};
use crate::{
    config::{GatewayProcess, Handoff},
    gateway::{endpoint::Endpoint, listener::Held},
    kernel::{
        KernelError,
        attach::{self, Owner},
        program::Program,
    },
    targets::cgroup::{Cgroup, CgroupError},
};

/// What is known of the gateway's processes. What is known of an endpoint is known of its address: another may get its
/// slot.
#[derive(Default)]
pub(super) struct Gateways {
    /// By slot: whose sockets the kernel was shown last.
    pub(super) shown: HashMap<u32, SocketAddr>,
    /// By endpoint: who listens there, as last shown.
    pub(super) held: HashMap<SocketAddr, Vec<Held>>,
    /// Endpoints where somebody listens whom the agent may not look into.
    pub(super) hidden: BTreeSet<SocketAddr>,
    /// Endpoints whose listening sockets cannot be shown to the kernel.
    pub(super) unwatchable: BTreeSet<SocketAddr>,
    /// By endpoint where nobody is seen to listen: a probe that ended well after this began after the last listener had
    /// gone.
    pub(super) unseen: HashMap<SocketAddr, KtimeNs>,
    /// By cgroup id: where the original destination is answered, or new listeners are noticed.
    pub(super) answering: HashMap<u64, Attended>,
    /// Cgroups on which something may be attached that is not wanted any longer, and until when connections may be
    /// under way that need it.
    leaving: VecDeque<(Instant, u64)>,
    /// By endpoint: why it would not be told the original destination.
    untold: HashMap<SocketAddr, String>,
    /// By endpoint: why its first handshake is missing.
    unshaken: HashMap<SocketAddr, String>,
    /// Endpoints that have shaken hands.
    handshaken: BTreeSet<SocketAddr>,
    /// Processes exempted by the agent.
    pub(super) exempt: BTreeSet<u32>,
    /// Why a process of the gateway is not exempt.
    pub(super) not_exempt: Option<String>,
}

impl Gateways {
    /// Why the endpoint in this slot takes no connection.
    pub(super) fn problem(&self, slot: u32) -> Option<String> {
        let address = self.shown.get(&slot)?;
        let both: Vec<&str> = [&self.untold, &self.unshaken]
            .iter()
            .filter_map(|m| m.get(address))
            .map(String::as_str)
            .collect();
        (!both.is_empty()).then(|| both.join("; "))
    }

    /// Why a process of the gateway is not exempt.
    pub(super) fn not_exempt(&self) -> Option<String> {
        self.not_exempt.clone()
    }

    /// What is attached to this cgroup and not wanted is to be detached then.
    pub(super) fn leave(&mut self, cgroup_id: u64, until: Instant) {
        self.leaving.push_back((until, cgroup_id));
    }

    /// An endpoint that has shaken hands with the agent before this one.
    pub(super) fn trust(&mut self, endpoint: SocketAddr) {
        self.handshaken.insert(endpoint);
    }

    /// Enters the result of a handshake. Why the first is missing is said where whoever started the agent looks.
    pub(super) fn handshaken(&mut self, endpoint: SocketAddr, failure: Option<&str>) {
        match failure {
            None => {
                self.unshaken.remove(&endpoint);
                if self.handshaken.insert(endpoint) {
                    tracing::info!(%endpoint, "handshake done");
                }
            }
            Some(reason) if !self.handshaken.contains(&endpoint) => {
                let problem = format!("no handshake yet: {reason}");
                if self.unshaken.get(&endpoint) != Some(&problem) {
                    let line = format!("error: {endpoint}: {problem}; traffic is direct until it succeeds");
                    // Whoever read it may be gone, which is no reason to stop; `status` says the same.
                    let _ = writeln!(io::stdout(), "{line}");
                    self.unshaken.insert(endpoint, problem);
                }
            }
            Some(_) => {}
        }
    }

    /// Forgets all that is known of other addresses than these.
    fn keep_only(&mut self, endpoints: &BTreeSet<SocketAddr>) {
        self.held.retain(|address, _| endpoints.contains(address));
        self.hidden.retain(|address| endpoints.contains(address));
        self.unwatchable.retain(|address| endpoints.contains(address));
        self.unseen.retain(|address, _| endpoints.contains(address));
        self.untold.retain(|address, _| endpoints.contains(address));
        self.unshaken.retain(|address, _| endpoints.contains(address));
        self.handshaken.retain(|address| endpoints.contains(address));
    }
}

/// A cgroup of the gateway, and what is attached to it.
pub(super) struct Attended {
    cgroup: Cgroup,
    programs: &'static [Program],
}

/// What is to be attached to a gateway's cgroup.
const fn programs(handoff: Handoff) -> &'static [Program] {
    match handoff {
        Handoff::OriginalDst => &Program::GATEWAY,
        _ => &Program::LISTENING,
    }
}

/// The cgroups of those who hold the sockets, each once for each process.
fn cgroups_of(held: &[Held]) -> impl Iterator<Item = Result<Cgroup, CgroupError>> {
    let pids: BTreeSet<u32> = held.iter().map(|h| h.pid).collect();
    pids.into_iter().map(Cgroup::of_process)
}

impl Agent {
    /// Looks at the gateway's processes and brings the kernel's knowledge up to date.
    pub(super) fn watch_gateways(&mut self) {
        self.forget_dead_cgroups();
        self.forget_departed();
        for endpoint in self.endpoints.clone() {
            if let Err(e) = self.follow_endpoint(&endpoint) {
                tracing::error!(endpoint = %endpoint.address, error = %e, "the gateway's processes cannot be followed");
            }
            // A look through all processes takes its time.
            self.beat_if_due();
        }
        self.exempt_processes();
        self.write_unready();
        // After the look: what is wanted is known now.
        self.finish_leaving_gateways();
    }

    /// Looks again while others listen than the look has found: what came or went meanwhile is not to wait for a second.
    fn follow_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        const LOOKS: u32 = 4;
        for _ in 0..LOOKS {
            if !self.watch_endpoint(endpoint)? || !self.has_other_listeners(endpoint.address) {
                break;
            }
        }
        Ok(())
    }

    /// Brings the kernel's knowledge of one endpoint up to date; says whether it was shown other listeners.
    fn watch_endpoint(&mut self, endpoint: &Endpoint) -> Result<bool, KernelError> {
        let local = is_here(endpoint.address.ip(), &self.own_addresses);
        let held = if local { self.look_for_listeners(endpoint) } else { Vec::new() };
        if self.config.gateway.handoff == Handoff::Lunar {
            return self.follow_behind_relay(endpoint, held);
        }
        // Before the kernel hears of a new listener: no connection may get there whose destination nobody tells.
        if self.config.gateway.handoff == Handoff::OriginalDst {
            self.answer_for(endpoint, local, &held);
            self.write_unready();
        } else {
            // As a handoff before a reload or restart may have left it. While its verdicts are attached they count on it.
            self.gateways.untold.remove(&endpoint.address);
            if !self.swapping {
                self.flag_endpoint(endpoint.slot, flags::RECORD, false)?;
            }
            self.attend_where_it_listens(&held);
        }
        self.show_listeners(endpoint, local, held)
    }

    /// The kernel hands connections to the relay, which finds out by itself whether the gateway listens. Its processes are
    /// exempt all the same.
    fn follow_behind_relay(&mut self, endpoint: &Endpoint, held: Vec<Held>) -> Result<bool, KernelError> {
        self.gateways.untold.remove(&endpoint.address);
        if !self.swapping {
            self.flag_endpoint(endpoint.slot, flags::RECORD, false)?;
            self.flag_endpoint(endpoint.slot, flags::LOCAL, false)?;
        }
        self.gateways.shown.insert(endpoint.slot, endpoint.address);
        let other = self.gateways.held.get(&endpoint.address) != Some(&held);
        self.gateways.held.insert(endpoint.address, held);
        Ok(other)
    }

    /// Whether a gateway's handshake said that it wants to know the tenant.
    pub(super) fn is_managed(&self, slot: u32) -> bool {
        self.state.endpoint(slot).is_ok_and(|entry| entry.flags & flags::MANAGED != 0)
    }

    /// An address that is no endpoint any more takes what is known of it along, and its sockets out of the kernel's
    /// map: the next one in its slot is not to be taken for it.
    fn forget_departed(&mut self) {
        self.gateways.keep_only(&self.endpoints.iter().map(|e| e.address).collect());
        let stays =
            |slot: u32, address| self.endpoints.iter().any(|e| e.slot == slot && e.address == address);
        let left: Vec<u32> =
            self.gateways.shown.iter().filter(|(s, a)| !stays(**s, **a)).map(|(slot, _)| *slot).collect();
        for slot in left {
            match self.state.clear_listeners(slot) {
                Ok(()) => drop(self.gateways.shown.remove(&slot)),
                Err(e) => tracing::error!(slot, error = %e, "the sockets of an endpoint that is gone remain"),
            }
        }
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
            GatewayProcess::Auto if local && self.is_watched(endpoint, held) && held.is_empty() => Ok(()),
            GatewayProcess::Auto if local => self.answer_where_it_listens(endpoint.address, held),
            // A gateway elsewhere learns the destination from Host or SNI.
            GatewayProcess::Auto => Ok(()),
        };
        let asked = local || matches!(self.config.gateway.process, GatewayProcess::Selector(_));
        let asks = asked && self.config.gateway.process != GatewayProcess::None;
        let record = asks && answering.is_ok();
        if let Err(e) = self.flag_endpoint(endpoint.slot, flags::RECORD, record) {
            tracing::error!(endpoint = %endpoint.address, error = %e, "original destinations are not recorded");
        }
        let untold = &mut self.gateways.untold;
        match answering {
            Ok(()) => {
                if untold.remove(&endpoint.address).is_some() {
                    tracing::info!(endpoint = %endpoint.address, "the gateway is told the original destinations");
                }
            }
            Err(problem) if untold.get(&endpoint.address) != Some(&problem) => {
                tracing::warn!(endpoint = %endpoint.address, problem, "takes no connection");
                untold.insert(endpoint.address, problem);
            }
            Err(_) => {}
        }
    }

    /// Sets a flag of an endpoint, or takes it away; says whether that changed it.
    pub(super) fn flag_endpoint(&mut self, slot: u32, flag: u16, on: bool) -> Result<bool, KernelError> {
        let mut entry = self.state.endpoint(slot)?;
        let before = entry.flags;
        entry.flags = if on { before | flag } else { before & !flag };
        if entry.flags == before {
            return Ok(false);
        }
        self.state.set_endpoint(slot, entry)?;
        Ok(true)
    }

    fn answer_where_it_listens(&mut self, endpoint: SocketAddr, held: &[Held]) -> Result<(), String> {
        if held.is_empty() {
            return Err(self.why_nobody(endpoint).to_owned());
        }
        let mut told = false;
        let mut gone = None;
        for found in cgroups_of(held) {
            match found {
                Ok(cgroup) => {
                    self.answer_in(cgroup)?;
                    told = true;
                }
                // A worker that has ended since it was seen asks for nothing.
                Err(e @ CgroupError::Process { .. }) => gone = Some(e),
                Err(e) => return Err(format!("the listening process: {e}")),
            }
        }
        match gone {
            // All of them have ended since they were seen: nobody listens, which the kernel finds as well.
            Some(e) if !told && held.iter().any(Held::stands) => Err(format!("the listening process: {e}")),
            _ => Ok(()),
        }
    }

    /// Has the kernel notice at once when a gateway that needs no more than that begins to listen. Where it cannot (the
    /// root cgroup), the agent's next look does.
    fn attend_where_it_listens(&mut self, held: &[Held]) {
        for cgroup in cgroups_of(held).filter_map(Result::ok) {
            if let Err(reason) = self.answer_in(cgroup) {
                tracing::debug!(reason, "new listeners are noticed only once a second");
            }
        }
    }

    fn why_nobody(&self, endpoint: SocketAddr) -> &'static str {
        if !self.gateways.hidden.contains(&endpoint) {
            "no process of this network namespace listens there, so nothing can tell it the original destination; \
             start it, or set gateway.process"
        } else if self.capabilities.can_copy_sockets() {
            "somebody listens there, but none of the processes that the agent sees, so nothing can tell it the \
             original destination; run the agent in the host's process id namespace, or set gateway.process"
        } else {
            "somebody listens there, but without CAP_SYS_PTRACE the agent cannot look into processes for who it is, \
             so nothing can tell it the original destination; grant CAP_SYS_PTRACE, or set gateway.process"
        }
    }

    /// Attaches the gateway's programs to one of its cgroups.
    fn answer_in(&mut self, cgroup: Cgroup) -> Result<(), String> {
        let wanted = programs(self.config.gateway.handoff);
        let attended = self.gateways.answering.get(&cgroup.id);
        if attended.is_some_and(|a| wanted.iter().all(|p| a.programs.contains(p))) {
            return Ok(());
        }
        self.attach_gateway(&cgroup).map_err(|e| e.to_string())?;
        if self.config.gateway.handoff == Handoff::OriginalDst {
            tracing::info!(cgroup = %cgroup.path.display(), "original destinations are answered");
        }
        self.gateways.answering.insert(cgroup.id, Attended { cgroup, programs: wanted });
        Ok(())
    }

    fn attach_gateway(&mut self, cgroup: &Cgroup) -> Result<(), KernelError> {
        attach::attach(
            &self.pins,
            &mut self.state,
            &self.generation,
            Owner::Gateway(cgroup.id),
            programs(self.config.gateway.handoff),
            cgroup,
            Attachment::default(),
        )
    }

    /// Swaps the programs of a new generation in on the gateway's cgroups.
    pub(super) fn reattach_gateways(&mut self) -> Result<(), KernelError> {
        let cgroups: Vec<Cgroup> = self.gateways.answering.values().map(|a| a.cgroup.clone()).collect();
        cgroups.iter().try_for_each(|cgroup| self.attach_gateway(cgroup))
    }

    /// Looks anew where original destinations are to be answered. Elsewhere it ends when the connections that are under
    /// way have been told theirs.
    pub(super) fn answer_anew(&mut self) {
        let before = std::mem::take(&mut self.gateways.answering);
        // The kernel may not have been shown who listens: with a relay it does not want to know.
        self.gateways.held.clear();
        self.watch_gateways();
        let until = Instant::now() + self.under_way() + HANDED_OVER;
        before.into_keys().for_each(|id| self.gateways.leave(id, until));
    }

    /// Detaches what is not wanted any longer, where it has been long enough.
    fn finish_leaving_gateways(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = self.gateways.leaving.pop_front_if(|(until, _)| *until <= now) {
            let wanted = self.gateways.answering.get(&id).map_or(&[][..], |attended| attended.programs);
            if let Err(e) = attach::detach_others(&self.pins, Owner::Gateway(id), wanted) {
                tracing::error!(cgroup_id = id, error = %e, "what a former gateway had attached still is");
                self.gateways.leave(id, now + HANDED_OVER);
            }
        }
    }

    /// A cgroup that is gone took its attachment with it.
    fn forget_dead_cgroups(&mut self) {
        let dead = |a: &&Attended| !a.cgroup.exists();
        let dead: Vec<u64> = self.gateways.answering.values().filter(dead).map(|a| a.cgroup.id).collect();
        for id in dead {
            self.gateways.answering.remove(&id);
            if let Err(e) = attach::detach(&self.pins, Owner::Gateway(id)) {
                tracing::warn!(error = %e, "the pins of a dead cgroup remain");
            }
        }
    }

    /// Tells the kernel which endpoints may take connections.
    pub(super) fn write_unready(&self) {
        let shy = |e: &&Endpoint| {
            let waits = self.probes.need_a_handshake() && !self.gateways.handshaken.contains(&e.address);
            waits || self.gateways.untold.contains_key(&e.address)
        };
        let mut slots = self.endpoints.iter().filter(shy).fold(0, |slots, e| slots | 1 << e.slot);
        // What was held back before stays so until the last of the old verdicts is swapped.
        if self.swapping {
            slots |= self.state.breaker.unready();
        }
        self.state.breaker.set_unready(slots);
    }
}

const _: () = assert!(MAX_ENDPOINTS <= 32, "the slots that are not ready are bits of a u32");
