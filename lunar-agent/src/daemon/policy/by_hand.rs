//! What a person changes of a running agent's policy: lists in, lists out. Lists may be long, and the one task that keeps
//! the lease fresh waits meanwhile, so each change takes time as they grow and no more.

use std::collections::HashSet;

use super::super::DaemonError;
use crate::{
    config,
    control::policy::{Change, List},
    policy::{PolicyEntry, PolicyEntryError},
};

/// Entries of one change that are told one by one.
const TOLD: usize = 100;
/// Entries that a sentence names.
const NAMED: usize = 8;

/// Entries that were added by hand, which a reload keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct ByHand {
    allow: Vec<PolicyEntry>,
    block: Vec<PolicyEntry>,
}

/// Why the policy is not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Entry(#[from] PolicyEntryError),
    #[error("{0} is in neither list; `lunar-agent policy show` lists what is")]
    Unknown(PolicyEntry),
    #[error("{0} is in the list already")]
    Already(PolicyEntry),
    #[error(
        "{0} is the last entry of the allow list, and with an empty one every external address is wanted: allow another \
         first, or block what is not to be redirected"
    )]
    LastAllowed(PolicyEntry),
    #[error(
        "the allow list is empty, so every external address is wanted; with {0} in it nothing else would be: put it into \
         policy.allow and reload, if that is meant"
    )]
    FirstAllowed(PolicyEntry),
    #[error("the policy is as before: {0}")]
    Daemon(#[from] DaemonError),
}

impl Refusal {
    pub(super) fn is_usage(&self) -> bool {
        match self {
            Self::Daemon(e) => e.is_usage(),
            _ => true,
        }
    }
}

impl ByHand {
    /// The policy of a configuration, and what was added to it by hand.
    pub(in crate::daemon) fn added_to(&self, mut policy: config::Policy) -> config::Policy {
        // Where the configuration wants everything, an entry by hand would turn that into itself alone.
        if !policy.allow.is_empty() {
            add(&mut policy.allow, &self.allow);
        }
        add(&mut policy.block, &self.block);
        policy
    }

    /// What a person should know: what was allowed by hand and is not in effect under this policy.
    pub(in crate::daemon) fn dormant(&self, policy: &config::Policy) -> Option<String> {
        if !policy.allow.is_empty() || self.allow.is_empty() {
            return None;
        }
        let mut named: Vec<String> = self.allow.iter().take(NAMED).map(ToString::to_string).collect();
        if self.allow.len() > NAMED {
            named.push(format!("and {} more", self.allow.len() - NAMED));
        }
        Some(format!(
            "allowed by hand and not in effect: {}. policy.allow is empty, so every external address is wanted; a reload \
             with an entry there brings them back, `lunar-agent policy remove` forgets them",
            named.join(", ")
        ))
    }

    /// All of them, each with its list.
    pub(super) fn all(&self) -> HashSet<(List, &PolicyEntry)> {
        let allow = self.allow.iter().map(|entry| (List::Allow, entry));
        allow.chain(self.block.iter().map(|entry| (List::Block, entry))).collect()
    }
}

fn add(to: &mut Vec<PolicyEntry>, entries: &[PolicyEntry]) {
    let there: HashSet<&PolicyEntry> = to.iter().collect();
    let new: Vec<_> = entries.iter().filter(|entry| !there.contains(entry)).cloned().collect();
    to.extend(new);
}

/// The policy after changes, what of it is by hand, and what to tell of it.
pub(super) fn changed(
    policy: &config::Policy,
    by_hand: &ByHand,
    change: Change,
    texts: &[String],
) -> Result<(config::Policy, ByHand, Vec<String>), Refusal> {
    let entries: Vec<PolicyEntry> = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let (mut policy, mut by_hand) = (policy.clone(), by_hand.clone());
    let done = match change {
        Change::Allow => {
            if let Some(first) = entries.first().filter(|_| policy.allow.is_empty()) {
                return Err(Refusal::FirstAllowed(first.clone()));
            }
            put_in(&mut policy.allow, &mut by_hand.allow, &entries)?;
            "allowed"
        }
        Change::Block => {
            put_in(&mut policy.block, &mut by_hand.block, &entries)?;
            "blocked"
        }
        Change::Remove => {
            take_out(&mut policy, &mut by_hand, &entries)?;
            "removed"
        }
    };
    Ok((policy, by_hand, told(done, &entries)))
}

fn put_in(
    list: &mut Vec<PolicyEntry>,
    by_hand: &mut Vec<PolicyEntry>,
    entries: &[PolicyEntry],
) -> Result<(), Refusal> {
    let mut there: HashSet<&PolicyEntry> = list.iter().collect();
    if let Some(again) = entries.iter().find(|entry| !there.insert(entry)) {
        return Err(Refusal::Already(again.clone()));
    }
    list.extend_from_slice(entries);
    by_hand.extend_from_slice(entries);
    Ok(())
}

fn take_out(
    policy: &mut config::Policy,
    by_hand: &mut ByHand,
    entries: &[PolicyEntry],
) -> Result<(), Refusal> {
    // What is by hand need not be in effect.
    let lists = [&policy.allow, &policy.block, &by_hand.allow, &by_hand.block];
    let mut there: HashSet<&PolicyEntry> = lists.into_iter().flatten().collect();
    if let Some(unknown) = entries.iter().find(|entry| !there.remove(entry)) {
        return Err(Refusal::Unknown(unknown.clone()));
    }
    let gone: HashSet<&PolicyEntry> = entries.iter().collect();
    let stays = |entry: &PolicyEntry| !gone.contains(entry);
    if let Some(last) = policy.allow.last().filter(|_| !policy.allow.iter().any(stays)) {
        return Err(Refusal::LastAllowed(last.clone()));
    }
    for list in [&mut policy.allow, &mut policy.block, &mut by_hand.allow, &mut by_hand.block] {
        list.retain(stays);
    }
    Ok(())
}

fn told(done: &str, entries: &[PolicyEntry]) -> Vec<String> {
    if entries.len() > TOLD {
        return vec![format!("{done} {} entries", entries.len())];
    }
    entries.iter().map(|entry| format!("{done} {entry}")).collect()
}

#[cfg(test)]
mod tests;
