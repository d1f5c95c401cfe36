//! What is known of names, looked after: what has expired is swept out, what was learned under another policy is entered
//! anew, and what the agent itself finds out is added.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use lunar_common::{
    names::{Learned, LearnedKey, NameCounts, Named, NamedKey, Place, Put, expiry, put},
    net::Address,
    time::{KtimeNs, SpanNs},
};
use tokio::time::Instant;

use super::agent::Agent;
use crate::{
    kernel::{
        KernelError,
        layout::{now, span},
        program::Program,
    },
    policy::{Host, PolicyEntry, wire},
    resolution::{Answered, Resolved},
};

/// From one sweep to the next.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long what has expired stays: a target that learns it again meanwhile need not enter it anew.
const LINGER: SpanNs = SpanNs::from_ms(60_000);

impl Agent {
    /// Whether the policy has names.
    fn has_names(&self) -> bool {
        self.generation.of_target().contains(&Program::Answers)
    }

    /// Other names are in effect: what was learned under those of before is entered under these.
    pub(super) fn names_changed(&mut self) {
        let exact = exact_names(self.config.policy.allow.iter().chain(&self.config.policy.block));
        self.names.follow(&exact, self.config.policy.min_ttl, Instant::now());
        if let Err(e) = self.relearn().and_then(|()| self.mark_known(&exact)) {
            tracing::error!(error = %e, "what was learned of names is not all in effect");
        }
    }

    /// Enters each address that is known under the pattern that its name matches now.
    fn relearn(&mut self) -> Result<(), KernelError> {
        let now = now();
        for (key, learned) in self.state.known.all()? {
            self.beat_if_due();
            let mut anew = Learned::default();
            for place in learned.holding(now) {
                let old = named_key(key, place.pattern());
                let name = self.state.known.name(old);
                // Without the name, which is lost only where its map was full, the pattern has to be the same still.
                let pattern = match &name {
                    Some(name) => self.generation.policy.of_name(&name.wire).map(|(id, _)| id),
                    None => self.generation.policy.has(place.pattern()).then_some(place.pattern()),
                };
                if let Some(id) = pattern
                    && let Some(put) = put(&anew.places, id, place.expires(), now)
                {
                    anew.places[put.at] = put.place.0;
                }
                if pattern != Some(place.pattern()) {
                    self.state.known.forget_name(old)?;
                    if let (Some(id), Some(name)) = (pattern, name) {
                        self.state.known.put_name(named_key(key, id), name)?;
                    }
                }
            }
            if anew == Learned::default() {
                // Emptied first: what a target learns again in this moment stays.
                self.state.known.put(key, anew)?;
                self.state.known.forget(key, now)?;
            } else if !learned.holding(now).eq(anew.holding(now)) {
                self.state.known.put(key, anew)?;
            }
        }
        Ok(())
    }

    /// Says of which names the agent knows the addresses.
    fn mark_known(&mut self, names: &BTreeSet<String>) -> Result<(), KernelError> {
        for name in names {
            let answered = self.names.state(name).is_some_and(|state| !state.addresses.is_empty());
            let of_name = wire::from_text(name).and_then(|wire| self.generation.policy.of_name(&wire));
            if let Some((id, _)) = of_name.filter(|_| answered) {
                self.generation.policy.set_known(id, true)?;
            }
        }
        Ok(())
    }

    /// The agent's own resolution of a name has ended.
    pub(super) fn on_name(&mut self, answered: Answered) {
        if let Some(resolved) = self.names.on_done(answered, Instant::now())
            && let Err(e) = self.enter(&resolved)
        {
            tracing::warn!(name = resolved.name, error = %e, "its addresses are not all in effect");
        }
    }

    /// Enters the addresses of a name for all targets.
    fn enter(&mut self, resolved: &Resolved) -> Result<(), KernelError> {
        let Some(wire) = wire::from_text(&resolved.name) else { return Ok(()) };
        let Some((id, answer)) = self.generation.policy.of_name(&wire) else { return Ok(()) };
        let policy = &self.config.policy;
        let (min_ttl, grace, now) = (span(policy.min_ttl), span(policy.dns_grace), now());
        let mut fresh = Vec::new();
        for (ip, ttl) in resolved.addresses.iter().filter(|(ip, _)| !Address::from(*ip).is_nowhere_else()) {
            let key = LearnedKey { cgroup: 0, address: Address::from(*ip) };
            let mut learned = self.state.known.get(key)?.unwrap_or_default();
            let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
            let Some(Put { at, was, place }) =
                put(&learned.places, id, expiry(now, seconds, min_ttl, grace), now)
            else {
                tracing::debug!(name = resolved.name, address = %ip, "serves too many patterns to keep another");
                continue;
            };
            learned.places[at] = place.0;
            self.state.known.put(key, learned)?;
            if was.pattern() != id || !was.holds(now) {
                self.state.known.put_name(named_key(key, id), named(&wire, now))?;
                fresh.push(key.address);
            }
        }
        self.generation.policy.set_known(id, true)?;
        if answer.wanted() {
            self.count_missed(&fresh, now);
        }
        Ok(())
    }

    /// Connects that targets made lately to addresses that turn out to be wanted were misses.
    fn count_missed(&self, addresses: &[Address], now: KtimeNs) {
        for target in self.targets.iter() {
            let missed = |address: &Address| self.state.known.take_missed(target.cgroup.id, *address, now);
            let missed: u64 = addresses.iter().map(missed).sum();
            if missed != 0 {
                let counts = self.state.known.counts(target.slot);
                let missed = counts.missed.saturating_add(missed);
                self.state.known.set_counts(target.slot, NameCounts { missed, ..counts });
            }
        }
    }

    /// Sweeps out what has expired, and counts what each target knows.
    pub(super) fn sweep_names(&mut self) {
        if self.has_names()
            && let Err(e) = self.sweep()
        {
            tracing::warn!(error = %e, "what has expired of names is still there");
        }
    }

    fn sweep(&mut self) -> Result<(), KernelError> {
        let now = now();
        let long_ago = KtimeNs(now.0.saturating_sub(LINGER.0));
        let mut known: HashMap<u64, u64> = HashMap::new();
        for (key, learned) in self.state.known.all()? {
            self.beat_if_due();
            let expired = |place: &Place| place.0 != 0 && !place.holds(long_ago);
            for place in learned.places.into_iter().map(Place).filter(expired) {
                self.state.known.forget_name(named_key(key, place.pattern()))?;
            }
            if learned.holds(long_ago) {
                *known.entry(key.cgroup).or_default() += 1;
            } else {
                self.state.known.forget(key, now)?;
            }
        }
        for target in self.targets.iter() {
            let known = known.get(&target.cgroup.id).copied().unwrap_or(0);
            let counts = self.state.known.counts(target.slot);
            self.state.known.set_counts(target.slot, NameCounts { known, ..counts });
        }
        Ok(())
    }
}

/// The names among entries that are no suffixes, for the agent to resolve.
fn exact_names<'a>(entries: impl Iterator<Item = &'a PolicyEntry>) -> BTreeSet<String> {
    let exact = |entry: &PolicyEntry| match &entry.host {
        Host::Name(pattern) => pattern.name().map(str::to_owned),
        Host::Net(_) => None,
    };
    entries.filter_map(exact).collect()
}

/// The key of the name by which an address is known under a pattern.
pub(super) const fn named_key(key: LearnedKey, pattern: u32) -> NamedKey {
    NamedKey { cgroup: key.cgroup, address: key.address, pattern, pad: 0 }
}

fn named(wire: &[u8], since: KtimeNs) -> Named {
    let mut named = Named { since, length: wire.len() as u32, pad: 0, wire: [0; 256] };
    named.wire[..wire.len()].copy_from_slice(wire);
    named
}
