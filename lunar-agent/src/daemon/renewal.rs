//! One generation in the place of another while connections come: on a reload, and when addresses change.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lunar_common::abi::{Endpoint as Entry, TargetEntry};
use tokio::time::Instant;

use super::{DaemonError, agent::Agent, endpoints::held, settings};
use crate::{
    config::Config,
    gateway::endpoint::Endpoint,
    kernel::{KernelError, attach, features::Capabilities, generation::Generation, pins::Pins, state::State},
    memory,
    policy::ids::Ids,
    targets::set::{Target, TargetSet},
};

/// All that a generation is made from, and where it is attached.
pub(super) struct Plan {
    pub(super) config: Arc<Config>,
    pub(super) own_addresses: BTreeSet<IpAddr>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) targets: TargetSet,
}

impl Plan {
    /// Loads the generation that follows one with these numbers for its name patterns. Nothing is in effect yet.
    pub(super) fn load(
        &self,
        pins: &Pins,
        before: &Ids,
        capabilities: Capabilities,
    ) -> Result<Generation, DaemonError> {
        let tables = settings::tables(&self.config, &self.own_addresses, &self.endpoints)?;
        let compiled = settings::settings(&self.config, &self.own_addresses, &self.endpoints, &tables.names);
        let ids = before.next(tables.names.iter().map(|named| &named.pattern));
        let log = settings::kernel_log(&self.config);
        Ok(Generation::load(pins, compiled, &tables, ids, capabilities, log)?)
    }
}

/// What the maps said before a renewal, for the way back.
struct Entries {
    endpoints: Vec<(u32, Entry)>,
    targets: Vec<(u32, Option<TargetEntry>)>,
}

impl Agent {
    /// Puts a plan in effect everywhere, or else leaves the one that is in effect.
    pub(super) fn renew(&mut self, mut plan: Plan) -> Result<(), DaemonError> {
        self.beat();
        let generation = plan.load(&self.pins, &self.generation.policy.ids, self.capabilities)?;
        let entries = self.entries(&plan.targets)?;
        // A shorter lease would be over before the next heartbeat.
        self.beat();
        self.exchange(&mut plan);
        let generation_before = std::mem::replace(&mut self.generation, generation);
        let before = plan;
        let before_timeout = before.config.gateway.connect_timeout;
        let slower = before_timeout.max(self.slower_before.0);
        self.slower_before = (slower, Instant::now() + slower);
        self.swapping = true;
        self.names_will_change();
        let swapped = self.swap_in(&before);
        self.swapping = false;
        if let Err(e) = swapped {
            let mut failed = before;
            self.exchange(&mut failed);
            self.generation = generation_before;
            self.swap_back(&failed, &entries);
            self.names_changed();
            return Err(e.into());
        }
        self.write_unready();
        if let Err(e) = self.retire_slots() {
            tracing::error!(error = %e, "the slots of former endpoints are not free");
        }
        self.let_go(&before.targets);
        self.names_changed();
        self.wish_relay(true);
        self.follow_kernel_log();
        memory::trim();
        Ok(())
    }

    /// Exchanges what is in effect with `plan`.
    fn exchange(&mut self, plan: &mut Plan) {
        std::mem::swap(&mut self.config, &mut plan.config);
        std::mem::swap(&mut self.own_addresses, &mut plan.own_addresses);
        std::mem::swap(&mut self.endpoints, &mut plan.endpoints);
        std::mem::swap(&mut self.targets, &mut plan.targets);
    }

    fn entries(&self, targets: &TargetSet) -> Result<Entries, KernelError> {
        let endpoints =
            self.endpoints.iter().map(|e| self.state.endpoint(e.slot).map(|entry| (e.slot, entry)));
        let targets = targets.iter().map(|t| self.state.target(t.slot).map(|entry| (t.slot, entry)));
        Ok(Entries {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            targets: targets.collect::<Result<_, _>>()?,
        })
    }

    /// Link by link, the new programs take the place of those of `before`; then come the targets that are new. Those
    /// that are no longer wanted go last ([`Agent::let_go`]): at no moment is a connect missed that both want.
    fn swap_in(&mut self, before: &Plan) -> Result<(), KernelError> {
        let given_away = self.prepare_endpoints(&held(&before.endpoints))?;
        // While programs of both generations decide, the endpoints of both are looked after.
        let new = self.endpoints.clone();
        let only_before = before.endpoints.iter().filter(|old| new.iter().all(|e| e.slot != old.slot));
        self.endpoints.extend(only_before.cloned());
        self.watch_gateways();
        self.endpoints = new;
        let attached = before.targets.together_with(&self.targets);
        for target in before.targets.without(&self.targets) {
            attach::retell(&mut self.state, target.cgroup.id, attached.attachment(target))?;
        }
        let (kept, added): (Vec<_>, Vec<_>) = self
            .targets
            .iter()
            .cloned()
            .partition(|t| before.targets.iter().any(|o| o.cgroup.id == t.cgroup.id));
        // One whose cgroup is gone has nothing to swap, and another may have taken its path.
        for target in kept.iter().filter(|t| t.cgroup.exists()) {
            match self.attach(target, attached.attachment(target)) {
                // It has died meanwhile; `watch_targets` says so.
                Err(_) if !target.cgroup.exists() => {}
                attached => attached?,
            }
            self.beat();
        }
        for target in &added {
            self.attach(target, attached.attachment(target))?;
            tracing::info!(target = target.name, cgroup = %target.cgroup.path.display(), "attached");
            self.beat();
        }
        self.reattach_gateways()?;
        self.generation.publish(&self.pins)?;
        self.open_endpoints(&given_away)?;
        self.state.forget_syns()?;
        self.state = State::open(&self.pins)?;
        Ok(())
    }

    /// Detaches the targets of before that are no longer wanted.
    fn let_go(&mut self, before: &TargetSet) {
        let gone: Vec<Target> = before.without(&self.targets).cloned().collect();
        for target in &gone {
            match self.forget_target(target) {
                Ok(()) => tracing::info!(target = target.name, "no longer a target"),
                Err(e) => tracing::error!(target = target.name, error = %e, "not wholly detached"),
            }
        }
    }

    /// Puts the generation in effect back where a newer one could not be swapped in everywhere. Where that fails too,
    /// the newer programs stay: their endpoints are in slots of their own.
    fn swap_back(&mut self, failed: &Plan, entries: &Entries) {
        let say = |e: KernelError| tracing::error!(error = %e, "the old generation is not back everywhere");
        let added: Vec<Target> = failed.targets.without(&self.targets).cloned().collect();
        for target in added {
            self.let_go_of(target.slot, target.cgroup.id).unwrap_or_else(say);
        }
        for (slot, entry) in &entries.targets {
            self.state.set_target(*slot, *entry).unwrap_or_else(say);
        }
        for (slot, entry) in &entries.endpoints {
            self.state.set_endpoint(*slot, *entry).unwrap_or_else(say);
        }
        let targets: Vec<Target> = self.targets.iter().filter(|t| t.cgroup.exists()).cloned().collect();
        for target in targets {
            self.attach(&target, self.targets.attachment(&target)).unwrap_or_else(say);
        }
        self.reattach_gateways().unwrap_or_else(say);
        self.generation.publish(&self.pins).unwrap_or_else(say);
        self.answer_anew();
        self.retire_slots().unwrap_or_else(say);
    }
}
