//! What is known of names, looked after: what has expired is swept out, what was learned under another policy is entered
//! anew, and what the agent itself finds out is added.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use lunar_common::{
    names::{Learned, LearnedKey, NameCounts, Named, NamedKey, Place, Put, expiry, put, put_in_the_way},
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
    policy::{Host, Pattern, PolicyEntry, wire},
    resolution::{Answered, Resolved},
};

/// From one sweep to the next.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long what has expired stays: a target that learns it again meanwhile need not enter it anew.
const LINGER: SpanNs = SpanNs::from_ms(60_000);
/// Names that `status` lists.
const NAMED_IN_STATUS: usize = 5;

/// What an agent remembers of names besides the maps.
#[derive(Default)]
pub(super) struct NameCare {
    /// Addresses that the agent found out itself and that found no room, by name.
    unstored: BTreeMap<String, usize>,
    /// Why not all that was learned under a policy of before is in effect.
    stuck: Option<String>,
}

impl NameCare {
    /// What a person should know.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let stuck = self.stuck.as_ref().map(|error| {
            let seconds = SWEEP_EVERY.as_secs();
            format!("what was learned of names before the policy changed is not all in effect: {error}; trying again every {seconds} s")
        });
        stuck.into_iter().chain(self.no_room())
    }

    fn no_room(&self) -> Option<String> {
        if self.unstored.is_empty() {
            return None;
        }
        let named: Vec<String> = self
            .unstored
            .iter()
            .take(NAMED_IN_STATUS)
            .map(|(name, count)| format!("{count} of {name}"))
            .collect();
        let more = self.unstored.len() - named.len();
        let more = if more > 0 { format!(" and of {more} more names") } else { String::new() };
        Some(format!(
            "no room for addresses that the agent resolved ({}{more}): an address has four patterns at most, and all targets \
             together 131,072 addresses; use fewer entries, or suffixes",
            named.join(", ")
        ))
    }
}

/// What becomes of the numbers under which things were learned before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// They stay beside the new ones: programs of either generation decide.
    Stay,
    /// They go: only the new programs are left.
    Go,
}

impl Agent {
    /// Whether the policy has names.
    fn has_names(&self) -> bool {
        self.generation.of_target().contains(&Program::Answers)
    }

    /// Other names are about to be in effect: what is known is entered under their numbers too, so that no connect is
    /// missed while the programs are swapped. Those that are attached still pass the new numbers by.
    pub(super) fn names_will_change(&mut self) {
        if let Err(e) = self.relearn(Old::Stay) {
            tracing::warn!(error = %e, "what was learned of names is not all in effect until the policy is");
        }
    }

    /// Other names are in effect: what was learned under those of before is entered under these.
    pub(super) fn names_changed(&mut self) {
        let policy = &self.config.policy;
        let exact = exact_names(policy.allow.iter().chain(&policy.block));
        self.care.unstored.retain(|name, _| exact.contains(name));
        self.names.follow(&exact, Instant::now());
        self.names.keep_all_of(exact_names(policy.block.iter()));
        self.relearn_for_good();
        if let Err(e) = self.state.known.all().and_then(|all| self.mark_known(&all)) {
            tracing::error!(error = %e, "misses of names that the agent knows may be counted wrongly");
        }
    }

    /// Moves what is known to where it belongs. What cannot be moved now is tried again with the next sweep.
    fn relearn_for_good(&mut self) {
        let failed = self.relearn(Old::Go).err();
        if let Some(error) = &failed {
            tracing::error!(%error, "what was learned of names is not all in effect");
        }
        self.care.stuck = failed.map(|e| e.to_string());
    }

    /// Enters each address that is known under the pattern that its name matches in the newest generation.
    ///
    /// # Errors
    /// The last of what went wrong; the others are in their place all the same.
    fn relearn(&mut self, old: Old) -> Result<(), KernelError> {
        let now = now();
        let mut done = Ok(());
        for (key, learned) in self.state.known.all()? {
            self.keep_alive();
            let places = learned.places.into_iter().map(Place).filter(|place| place.0 != 0);
            let moves: Vec<Move> = places.filter_map(|place| self.moved(key, place)).collect();
            if !moves.is_empty()
                && let Err(e) = self.carry_out(key, moves, old, now)
            {
                done = Err(e);
            }
        }
        done
    }

    /// Renews a lease that is a quarter over, also at a start, where nothing is due yet. One that has ended stays so until
    /// everything is in its place.
    fn keep_alive(&mut self) {
        let (age, lease) = (now().since(self.state.breaker.heartbeat()), span(self.config.failsafe.lease));
        if age < lease && age.0 > lease.0 / 4 {
            self.beat();
        }
    }

    /// Where a place belongs in the newest generation, if it is another than where it is.
    fn moved(&self, key: LearnedKey, place: Place) -> Option<Move> {
        let policy = &self.generation.policy;
        let name = self.state.known.name(named_key(key, place.pattern()));
        // Without the name, which is lost only where its map was full, the pattern has to be the same still.
        let to = match &name {
            Some(name) => policy.of_name(&name.wire).map(|(id, _)| id),
            None => policy.has(place.pattern()).then_some(place.pattern()),
        };
        (to != Some(place.pattern())).then_some(Move { place, to, name })
    }

    /// Moves some of an address's places. It is read again first, and all that is decided and written about it stands together:
    /// what a program enters in between is lost.
    fn carry_out(
        &mut self,
        key: LearnedKey,
        moves: Vec<Move>,
        old: Old,
        now: KtimeNs,
    ) -> Result<(), KernelError> {
        let Some(learned) = self.state.known.get(key)? else { return Ok(()) };
        let mut anew = learned;
        let (mut gone, mut named) = (Vec::new(), Vec::new());
        for Move { place, to, name } in moves {
            if old == Old::Go {
                for was in anew.places.iter_mut().filter(|was| Place(**was).pattern() == place.pattern()) {
                    *was = 0;
                }
                gone.push(place.pattern());
            }
            let Some(id) = to.filter(|_| place.holds(now)) else { continue };
            // While the old programs decide, nothing that they rely on has to give way.
            let found = match old {
                Old::Stay => put(&anew.places, id, place.expires(), now),
                Old::Go => self.place_for(&anew, id, place.expires(), now),
            };
            if let Some(Put { at, was, place }) = found {
                anew.places[at] = place.0;
                named.extend(name.map(|name| (id, name)));
                if was.0 != 0 && was.pattern() != id {
                    gone.push(was.pattern());
                }
            }
        }
        if anew != learned {
            self.state.known.put(key, anew)?;
        }
        if anew == Learned::default() {
            self.state.known.forget(key, now)?;
        }
        for (id, name) in named {
            self.put_name(named_key(key, id), name);
        }
        gone.iter().try_for_each(|pattern| self.state.known.forget_name(named_key(key, *pattern)))
    }

    /// The place of an address that a pattern gets. Whoever blocks finds one where others do not.
    fn place_for(&self, learned: &Learned, id: u32, expires: KtimeNs, now: KtimeNs) -> Option<Put> {
        let blocks = |pattern| self.generation.policy.blocks(pattern);
        put(&learned.places, id, expires, now)
            .or_else(|| put_in_the_way(&learned.places, id, expires, blocks).filter(|_| blocks(id)))
    }

    /// The kernel does without as well: then `policy show` has no name for the address, and a changed policy keeps it only
    /// while the pattern is the same.
    fn put_name(&mut self, key: NamedKey, name: Named) {
        if let Err(e) = self.state.known.put_name(key, name) {
            tracing::debug!(error = %e, "the name of an address is not kept");
        }
    }

    /// Says of which names the agent knows addresses that hold, given all that anybody knows.
    fn mark_known(&mut self, all: &[(LearnedKey, Learned)]) -> Result<(), KernelError> {
        let now = now();
        let of_agent = all.iter().filter(|(key, _)| key.cgroup == 0);
        let known: HashSet<u32> =
            of_agent.flat_map(|(_, learned)| learned.holding(now)).map(Place::pattern).collect();
        let policy = Arc::clone(&self.config);
        for pattern in exact_patterns(policy.policy.allow.iter().chain(&policy.policy.block)) {
            self.beat_if_due();
            if let Some(id) = self.generation.policy.ids.get(pattern) {
                self.generation.policy.set_known(id, known.contains(&id))?;
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
        let (mut fresh, mut stored, mut unstored) = (Vec::new(), 0, 0);
        for (ip, ttl) in &resolved.addresses {
            let key = LearnedKey { cgroup: 0, address: Address::from(*ip) };
            let seconds = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
            match self.enter_address(key, id, expiry(now, seconds, min_ttl, grace), &wire, now) {
                Ok(Some(new)) => {
                    stored += 1;
                    fresh.extend(new.then_some(key.address));
                }
                Ok(None) => unstored += 1,
                Err(e) => {
                    tracing::warn!(name = resolved.name, address = %ip, error = %e, "not stored");
                    unstored += 1;
                }
            }
        }
        if unstored == 0 {
            self.care.unstored.remove(&resolved.name);
        } else if self.care.unstored.insert(resolved.name.clone(), unstored) != Some(unstored) {
            tracing::warn!(name = resolved.name, unstored, "no room for all of its addresses");
        }
        if stored > 0 {
            self.generation.policy.set_known(id, true)?;
        }
        if answer.wanted() {
            self.count_missed(&fresh, now);
        }
        Ok(())
    }

    /// Enters one address for all targets, known by a pattern until `expires`; says whether it was not known by it before.
    /// `None`: there was no place for another pattern, or one that holds had to give way.
    fn enter_address(
        &mut self,
        key: LearnedKey,
        id: u32,
        expires: KtimeNs,
        wire: &[u8],
        now: KtimeNs,
    ) -> Result<Option<bool>, KernelError> {
        let mut learned = self.state.known.get(key)?.unwrap_or_default();
        let Some(Put { at, was, place }) = self.place_for(&learned, id, expires, now) else {
            return Ok(None);
        };
        learned.places[at] = place.0;
        self.state.known.put(key, learned)?;
        let new = was.pattern() != id || !was.holds(now);
        if new {
            if was.0 != 0 && was.pattern() != id {
                self.state.known.forget_name(named_key(key, was.pattern()))?;
            }
            self.put_name(named_key(key, id), named(wire, now));
        }
        let gave_way = was.pattern() != id && was.holds(now);
        Ok((!gave_way).then_some(new))
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
        if self.care.stuck.is_some() {
            self.relearn_for_good();
        }
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
        let all = self.state.known.all()?;
        for (key, learned) in all.iter().copied() {
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
        self.mark_known(&all)
    }
}

/// A place whose name another pattern matches now, or none.
struct Move {
    place: Place,
    to: Option<u32>,
    name: Option<Named>,
}

/// The patterns among entries that are no suffixes, for the agent to resolve.
fn exact_patterns<'a>(entries: impl Iterator<Item = &'a PolicyEntry>) -> impl Iterator<Item = &'a Pattern> {
    entries.filter_map(|entry| match &entry.host {
        Host::Name(pattern) => pattern.name().map(|_| pattern),
        Host::Net(_) => None,
    })
}

/// Their names.
fn exact_names<'a>(entries: impl Iterator<Item = &'a PolicyEntry>) -> BTreeSet<String> {
    exact_patterns(entries).filter_map(Pattern::name).map(str::to_owned).collect()
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
