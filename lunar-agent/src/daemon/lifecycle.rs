//! Targets coming and going.

use std::collections::BTreeSet;

use lunar_common::abi::{Attachment, MAX_TARGETS, TargetEntry};
use tokio::time::Instant;

use super::{
    DaemonError,
    agent::{Agent, HANDED_OVER},
};
use crate::{
    control::Answer,
    kernel::{
        KernelError,
        attach::{self, Owner},
        layout::{now, put_text, span},
    },
    targets::{
        cgroup::{Cgroup, CgroupError},
        selector::Selector,
        set::{AddError, Target, Wish},
    },
};

/// Why a request about a target is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Selector(#[from] crate::targets::SelectorError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error("{0} is not a target; `lunar-agent status` lists them")]
    Unknown(String),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl Agent {
    /// Makes the pinned targets those of the configuration: those that are in both keep slot and counters and get the
    /// new programs without a gap, those that are no longer wanted are detached.
    pub(super) fn take_over(&mut self, wanted: Vec<(String, Cgroup)>) -> Result<(), DaemonError> {
        let fresh = now().since(self.state.breaker.heartbeat()) < span(self.config.failsafe.lease);
        let pinned = self.state.targets()?;
        let slot_of =
            |cgroup: &Cgroup| pinned.iter().find(|(_, e)| e.cgroup_id == cgroup.id).map(|(slot, _)| *slot);
        let kept: BTreeSet<u32> = wanted.iter().filter_map(|(_, cgroup)| slot_of(cgroup)).collect();
        let entry_of = |slot: u32| pinned.iter().find(|(s, _)| *s == slot).map(|(_, entry)| entry);
        for owner in attach::owners(&self.pins)? {
            match owner {
                Owner::Target(slot) if kept.contains(&slot) => {}
                Owner::Target(slot) => match entry_of(slot) {
                    Some(entry) => self.let_go_of(slot, entry.cgroup_id)?,
                    None => attach::detach(&self.pins, owner)?,
                },
                Owner::Gateway(id) => {
                    self.gateways.leave(id, Instant::now() + self.under_way() + HANDED_OVER)
                }
            }
        }
        for (slot, entry) in pinned.iter().filter(|(slot, _)| !kept.contains(slot)) {
            tracing::info!(
                target = crate::kernel::layout::text(&entry.name, entry.name_len),
                "no longer a target"
            );
            self.state.set_target(*slot, None)?;
        }
        if self.targets.slots_taken() + wanted.len() > MAX_TARGETS as usize {
            self.finish_leaving(None);
        }
        // Those that have a slot first: it is not free for the others, whatever the configuration's order.
        let (had, new): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, c)| slot_of(c).is_some());
        for (name, cgroup) in had.into_iter().chain(new) {
            let slot = slot_of(&cgroup);
            self.targets.add(name, cgroup, slot, Wish::Configured)?;
        }
        for target in self.targets.iter().cloned().collect::<Vec<_>>() {
            self.attach(&target, self.targets.attachment(&target))?;
            tracing::info!(target = target.name, cgroup = %target.cgroup.path.display(), "attached");
            // A lease that has ended stays so until everything is in its place.
            if fresh {
                self.beat();
            }
        }
        Ok(())
    }

    /// Enters a target and attaches the generation's programs, or swaps them in.
    pub(super) fn attach(&mut self, target: &Target, attachment: Attachment) -> Result<(), KernelError> {
        let mut entry = TargetEntry {
            cgroup_id: target.cgroup.id,
            name_len: 0,
            path_len: 0,
            attached: 1,
            name: [0; 256],
            path: [0; 1024],
        };
        entry.name_len = put_text(&mut entry.name, &target.name);
        entry.path_len = put_text(&mut entry.path, &target.cgroup.path.to_string_lossy());
        let before = self.state.target(target.slot)?;
        self.state.set_target(target.slot, Some(entry))?;
        let owner = Owner::Target(target.slot);
        let attached = attach::attach(
            &self.pins,
            &mut self.state,
            &self.generation,
            owner,
            self.generation.of_target(),
            &target.cgroup,
            attachment,
        );
        if let Err(e) = attached {
            // What was attached before still is.
            self.state.set_target(target.slot, before)?;
            return Err(e);
        }
        attach::detach_others(&self.pins, owner, self.generation.of_target())?;
        Ok(())
    }

    /// Tells the targets around a cgroup and inside it anew how they lie among the others.
    fn retell_around(&mut self, cgroup: &Cgroup) -> Result<(), KernelError> {
        for target in self.targets.relatives(cgroup) {
            attach::retell(&mut self.state, target.cgroup.id, self.targets.attachment(target))?;
        }
        Ok(())
    }

    pub(super) fn attach_all(&mut self, selectors: &[String]) -> Answer {
        self.one_by_one(selectors, Self::attach_selector)
    }

    fn attach_selector(&mut self, text: &str) -> Result<String, Refusal> {
        let selector: Selector = text.parse()?;
        let cgroup = Cgroup::find(&selector)?;
        if self.targets.slots_taken() >= MAX_TARGETS as usize {
            self.finish_leaving(None);
        }
        let target = self.targets.add(selector.to_string(), cgroup, None, Wish::ByHand)?.clone();
        // The others learn of it first: a connect meanwhile is decided by one of them, once.
        let told = self.retell_around(&target.cgroup);
        let attached = told.and_then(|()| self.attach(&target, self.targets.attachment(&target)));
        if let Err(e) = attached {
            self.targets.remove(|t| t.slot == target.slot);
            self.retell_around(&target.cgroup)?;
            return Err(e.into());
        }
        tracing::info!(target = target.name, cgroup = %target.cgroup.path.display(), "attached");
        Ok(format!("attached {} ({})", target.name, target.cgroup.path.display()))
    }

    pub(super) fn detach_all(&mut self, selectors: &[String]) -> Answer {
        self.one_by_one(selectors, Self::detach_selector)
    }

    /// By name, by selector, or by what a selector means: a target whose cgroup is gone still has its name.
    fn detach_selector(&mut self, text: &str) -> Result<String, Refusal> {
        let meant = text.parse::<Selector>().ok().and_then(|s| Cgroup::find(&s).ok());
        let is_it = |t: &Target| t.name == text || meant.as_ref().is_some_and(|c| c.id == t.cgroup.id);
        let target = self.targets.remove(is_it).ok_or_else(|| Refusal::Unknown(text.to_owned()))?;
        self.forget_target(&target)?;
        tracing::info!(target = target.name, "detached");
        Ok(format!("detached {}", target.name))
    }

    /// Lets go of a target that is none any more.
    pub(super) fn forget_target(&mut self, target: &Target) -> Result<(), KernelError> {
        self.target_problems.remove(&target.slot);
        self.let_go_of(target.slot, target.cgroup.id)?;
        self.state.set_target(target.slot, None)?;
        self.retell_around(&target.cgroup)
    }

    /// Ends a target's verdicts. What follows its connections that are under way stays as long as they may be.
    pub(super) fn let_go_of(&mut self, slot: u32, cgroup_id: u64) -> Result<(), KernelError> {
        attach::end_verdicts(&self.pins, Owner::Target(slot))?;
        self.targets.leave(slot, cgroup_id);
        // One that left, came back and leaves again has its time anew.
        self.leaving.retain(|(_, leaving)| *leaving != slot);
        self.leaving.push_back((Instant::now() + self.under_way(), slot));
        Ok(())
    }

    /// Detaches what is left of the targets that have been let go before `now`; of all, without it.
    pub(super) fn finish_leaving(&mut self, now: Option<Instant>) {
        let before = self.leaving.len();
        while let Some((_, slot)) =
            self.leaving.pop_front_if(|(until, _)| now.is_none_or(|now| *until <= now))
        {
            // Unless it has come back meanwhile.
            if self.targets.left(slot)
                && let Err(e) = attach::detach(&self.pins, Owner::Target(slot))
            {
                tracing::error!(slot, error = %e, "what is left of a former target is still attached");
            }
        }
        if self.leaving.len() < before {
            self.after_detaching();
        }
    }

    /// What detached targets leave in the maps is taken out. It takes as long for one as for a thousand.
    fn after_detaching(&mut self) {
        if let Err(e) = self.state.recount_sockets().and_then(|()| self.state.forget_syns()) {
            tracing::error!(error = %e, "what detached targets left behind is still there");
        }
    }

    /// Does one thing after the other, with a heartbeat between them; stops at the first that cannot be done.
    fn one_by_one(
        &mut self,
        selectors: &[String],
        one: impl Fn(&mut Self, &str) -> Result<String, Refusal>,
    ) -> Answer {
        let mut done = Vec::new();
        for selector in selectors {
            match one(self, selector) {
                Ok(line) => done.push(line),
                Err(e) => {
                    let usage = !matches!(e, Refusal::Kernel(_));
                    return Answer::Refused { done, reason: e.to_string(), usage };
                }
            }
            self.beat();
        }
        Answer::Done(done)
    }

    /// Looks whether the targets still are what they were.
    pub(super) fn watch_targets(&mut self) {
        // Links that cannot be listed are not known to be missing.
        let pinned = self.pins.link_paths().ok();
        let complete = |slot| {
            let programs = self.generation.of_target();
            pinned.as_ref().is_none_or(|p| attach::complete(p, &self.pins, Owner::Target(slot), programs))
        };
        for target in self.targets.iter() {
            let problem = if !target.cgroup.exists() {
                Some(format!("its cgroup is gone: detach {:?}, then attach what took its place", target.name))
            } else if !complete(target.slot) {
                Some(format!(
                    "some of its pinned links were removed: detach {:?}, then attach it",
                    target.name
                ))
            } else {
                None
            };
            match problem {
                Some(problem) if self.target_problems.get(&target.slot) != Some(&problem) => {
                    tracing::warn!(target = target.name, problem, "not in effect");
                    self.target_problems.insert(target.slot, problem);
                }
                Some(_) => {}
                None => {
                    self.target_problems.remove(&target.slot);
                }
            }
        }
    }
}
