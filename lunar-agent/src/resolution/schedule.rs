//! Which name is looked up when. Pure: time, answers and randomness come in, names come out.
//!
//! A name is asked for again before the TTL of its answer ends. One that fails is tried again ever more seldom and
//! keeps its addresses meanwhile. Few look-ups are under way at a time and they begin one after the other, because
//! ten thousand questions at once are an attack on the host's own resolver.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::error::LookupError;

/// How many look-ups may be under way at a time.
const IN_FLIGHT: usize = 16;
/// From the beginning of one look-up to that of the next, at least.
const PACE: Duration = Duration::from_millis(2);
/// A shorter TTL is taken for this: no server is asked for the same name all the time. In the meantime the addresses of
/// before stay in effect, for `min_ttl`.
const SHORTEST: Duration = Duration::from_secs(5);
/// A longer TTL is not relied upon.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Shares of the TTL at which a name is asked for again.
const REFRESH: [f64; 2] = [0.7, 0.9];
/// From a first failure to the next try; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Shares of that time which are really waited for.
const RETRY: [f64; 2] = [0.75, 1.0];
/// How many names `status` lists; a DNS that is down is one problem and not ten thousand.
const NAMED: usize = 5;

/// An address and the TTL that its answer had.
pub type Answer = (IpAddr, Duration);

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameState {
    /// Those of the last good answer, each with its TTL as received.
    pub addresses: Vec<Answer>,
    /// When that came.
    pub answered: Option<Instant>,
    /// When it is asked for again; `None` while it is being asked for.
    pub next: Option<Instant>,
    /// Why the last look-up failed, if it did.
    pub failure: Option<LookupError>,
    /// How many have failed since the last good answer.
    pub failures: u32,
}

/// The names that are followed.
#[derive(Debug, Default)]
pub struct Schedule {
    names: BTreeMap<Arc<str>, NameState>,
    /// Every name that is not being asked for, by its `next`.
    due: BTreeSet<(Instant, Arc<str>)>,
    in_flight: usize,
    /// No look-up begins before.
    paced: Option<Instant>,
}

impl Schedule {
    /// Follows these names and no others. What is known of those that stay is kept.
    pub fn follow(&mut self, names: &BTreeSet<String>, now: Instant) {
        let due = &mut self.due;
        self.names.retain(|name, state| {
            let stays = names.contains(&**name);
            if let (false, Some(next)) = (stays, state.next) {
                due.remove(&(next, Arc::clone(name)));
            }
            stays
        });
        for name in names {
            if !self.names.contains_key(name.as_str()) {
                let name: Arc<str> = name.as_str().into();
                self.due.insert((now, Arc::clone(&name)));
                self.names.insert(name, NameState { next: Some(now), ..NameState::default() });
            }
        }
    }

    /// When the next look-up may begin. `None` if there is none, or only the end of another makes room for it.
    pub fn next_wake(&self) -> Option<Instant> {
        let (at, _) = self.due.first().filter(|_| self.in_flight < IN_FLIGHT)?;
        Some(self.paced.map_or(*at, |paced| paced.max(*at)))
    }

    /// Takes a name that is to be looked up now. Its end has to be told by [`Schedule::on_done`].
    pub fn begin(&mut self, now: Instant) -> Option<Arc<str>> {
        self.next_wake().filter(|at| *at <= now)?;
        let (_, name) = self.due.pop_first()?;
        if let Some(state) = self.names.get_mut(&name) {
            state.next = None;
        }
        self.in_flight += 1;
        self.paced = Some(now + PACE);
        Some(name)
    }

    /// A look-up has ended. `random` lies between 0 and 1. Returns whether the name is still followed.
    pub fn on_done(
        &mut self,
        name: &Arc<str>,
        result: Result<Vec<Answer>, LookupError>,
        now: Instant,
        random: f64,
    ) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(state) = self.names.get_mut(name) else { return false };
        let wait = match result {
            Ok(addresses) => {
                state.addresses = addresses;
                state.answered = Some(now);
                state.failure = None;
                state.failures = 0;
                between(REFRESH, lifetime(&state.addresses), random)
            }
            Err(failure) => {
                state.failure = Some(failure);
                state.failures = state.failures.saturating_add(1);
                between(RETRY, retry(state.failures), random)
            }
        };
        // A name that was given up and is wanted again has a time already when the old look-up ends.
        if let Some(before) = state.next.replace(now + wait) {
            self.due.remove(&(before, Arc::clone(name)));
        }
        self.due.insert((now + wait, Arc::clone(name)));
        true
    }

    /// What is known of a name; `None` if it is not followed.
    pub fn state(&self, name: &str) -> Option<&NameState> {
        self.names.get(name)
    }

    /// What a person should know: names that cannot be resolved, those without any address first, a few of them by
    /// name.
    pub fn problems(&self) -> Vec<String> {
        let failing = |bare: bool| {
            self.names.iter().filter(move |(_, s)| s.failures > 0 && s.answered.is_none() == bare)
        };
        let mut problems: Vec<String> = failing(true)
            .chain(failing(false))
            .take(NAMED)
            .filter_map(|(name, s)| problem(name, s))
            .collect();
        let more = failing(true).count() + failing(false).count() - problems.len();
        if more > 0 {
            problems.push(format!("and {more} more {} cannot be resolved", names(more)));
        }
        let silent = self.names.values().filter(|s| s.failures == 0 && s.answered.is_none()).count();
        if silent > 0 {
            problems.push(format!("{silent} {} of the policy not resolved yet", names(silent)));
        }
        problems
    }
}

fn problem(name: &str, state: &NameState) -> Option<String> {
    let reason = state.failure.as_ref()?;
    let meanwhile = if state.answered.is_some() { "; using the addresses of before" } else { "" };
    Some(format!("{name} cannot be resolved: {reason}{meanwhile}"))
}

const fn names(count: usize) -> &'static str {
    if count == 1 { "name" } else { "names" }
}

/// From an answer to the end of its TTL.
fn lifetime(addresses: &[Answer]) -> Duration {
    let shortest = addresses.iter().map(|(_, ttl)| *ttl).min().unwrap_or_default();
    shortest.clamp(SHORTEST, LONGEST)
}

fn retry(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(LAST_RETRY.as_secs().ilog2() + 1);
    (FIRST_RETRY * 2_u32.pow(doublings)).min(LAST_RETRY)
}

fn between([least, most]: [f64; 2], whole: Duration, random: f64) -> Duration {
    whole.mul_f64(least + (most - least) * random.clamp(0.0, 1.0))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
