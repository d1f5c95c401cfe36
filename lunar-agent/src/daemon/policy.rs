//! The policy of a running agent: shown, and changed by hand.

mod by_hand;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lunar_common::{
    dns::question::LONGEST_NAME,
    names::{Learned, LearnedKey, Named},
    time::KtimeNs,
};
use tokio::time::Instant;

use super::{DaemonError, agent::Agent, names::named_key, renewal::Plan};
use crate::{
    config,
    control::{
        Answer,
        policy::{Change, Entry, Known, List, Resolution, View, Wants},
    },
    kernel::layout::{duration, now},
    policy::{Host, PolicyEntry, wire},
};
pub(super) use by_hand::ByHand;
use by_hand::{Refusal, changed};

/// Entries that are listed, and addresses in all; what is beyond is counted. An answer has four megabytes.
const LISTED_ENTRIES: usize = 2_000;
const LISTED_ADDRESSES: usize = 10_000;

impl Agent {
    /// Changes the policy, all of it or not at all.
    pub(super) fn change_policy(&mut self, change: Change, entries: &[String]) -> Answer {
        match self.try_to_change(change, entries) {
            Ok(told) => {
                tracing::info!(change = told.join(", "), "policy changed by hand");
                Answer::Done(told)
            }
            Err(e) => Answer::Refused { done: Vec::new(), reason: e.to_string(), usage: e.is_usage() },
        }
    }

    fn try_to_change(&mut self, change: Change, entries: &[String]) -> Result<Vec<String>, Refusal> {
        let (policy, by_hand, told) = changed(&self.config.policy, &self.by_hand, change, entries)?;
        // What was by hand and not in effect is forgotten, and nothing else changes.
        if policy != self.config.policy {
            let config = Arc::new(config::Config { policy, ..(*self.config).clone() });
            self.renew(Plan {
                config,
                own_addresses: self.own_addresses.clone(),
                endpoints: self.endpoints.clone(),
                targets: self.targets.clone(),
            })?;
        }
        self.by_hand = by_hand;
        Ok(told)
    }

    /// The policy in effect, with the entries that have `containing` in them.
    pub(super) fn view_policy(&self, containing: &str) -> Result<View, DaemonError> {
        let policy = &self.config.policy;
        let allow = policy.allow.iter().map(|entry| (List::Allow, entry));
        let block = policy.block.iter().map(|entry| (List::Block, entry));
        let containing = containing.to_ascii_lowercase();
        let mut shown: Vec<_> = allow
            .chain(block)
            .zip(1..)
            .map(|((list, entry), number)| (list, entry, number, entry.to_string()))
            .filter(|(.., text)| text.contains(&containing))
            .collect();
        let count = shown.len();
        shown.truncate(LISTED_ENTRIES);
        let (known, by_hand) = (self.known_by_pattern()?, self.by_hand.all());
        let mut room = LISTED_ADDRESSES;
        let entries = shown.into_iter().map(|(list, entry, number, text)| Entry {
            list,
            entry: text,
            source: self.source_of(list, entry, &by_hand),
            hits: self.generation.policy.hits(number),
            ..self.known_of(entry, &known, &mut room)
        });
        Ok(View {
            wants: if policy.allow.is_empty() { Wants::Everything } else { Wants::Listed },
            ports: policy.ports.clone(),
            quic: policy.quic.to_string(),
            dry_run: policy.dry_run,
            count,
            entries: entries.collect(),
        })
    }

    fn source_of(&self, list: List, entry: &PolicyEntry, by_hand: &HashSet<(List, &PolicyEntry)>) -> String {
        let key = match list {
            List::Allow => "policy.allow",
            List::Block => "policy.block",
        };
        if by_hand.contains(&(list, entry)) {
            return "by hand".to_owned();
        }
        self.reloads.source(key).map_or_else(|| "configuration".to_owned(), |source| source.to_string())
    }

    /// The addresses that anybody knows, by the number of the pattern that their name matches.
    fn known_by_pattern(&self) -> Result<HashMap<u32, Vec<(LearnedKey, KtimeNs)>>, DaemonError> {
        let now = now();
        let mut all: HashMap<u32, Vec<_>> = HashMap::new();
        let places = |learned: Learned| learned.holding(now);
        for (key, learned) in self.state.known.all()? {
            for place in places(learned) {
                all.entry(place.pattern()).or_default().push((key, place.expires()));
            }
        }
        Ok(all)
    }

    /// What is known of an entry's name, in an entry with nothing else.
    fn known_of(
        &self,
        entry: &PolicyEntry,
        known: &HashMap<u32, Vec<(LearnedKey, KtimeNs)>>,
        room: &mut usize,
    ) -> Entry {
        let none = Entry {
            list: List::Allow,
            entry: String::new(),
            source: String::new(),
            hits: None,
            known: None,
            addresses: Vec::new(),
            resolution: None,
        };
        let Host::Name(pattern) = &entry.host else { return none };
        let id = self.generation.policy.ids.get(pattern);
        let of_pattern = id.and_then(|id| Some((id, known.get(&id)?)));
        let (id, of_pattern) = of_pattern.map_or((0, &[][..]), |(id, all)| (id, all.as_slice()));
        let mut addresses: Vec<Known> =
            of_pattern.iter().take(*room).map(|(key, expires)| self.known(*key, id, *expires)).collect();
        *room -= addresses.len();
        addresses.sort_by(|a, b| (&a.name, a.address, &a.from).cmp(&(&b.name, b.address, &b.from)));
        let resolution = pattern.name().and_then(|name| self.names.state(name)).map(|state| Resolution {
            answered_ms: state.answered.map(|at| millis(at.elapsed())),
            next_in_ms: state.next.map(|at| millis(at.saturating_duration_since(Instant::now()))),
            failure: state.failure.as_ref().map(ToString::to_string),
            failures: state.failures,
            in_use: of_pattern.iter().any(|(key, _)| key.cgroup == 0),
        });
        Entry { known: Some(of_pattern.len()), addresses, resolution, ..none }
    }

    /// The name by which an address is known under a pattern.
    pub(super) fn name_of(&self, key: LearnedKey, pattern: u32) -> Option<String> {
        self.state.known.name(named_key(key, pattern)).as_ref().and_then(name_in)
    }

    fn known(&self, key: LearnedKey, pattern: u32, expires: KtimeNs) -> Known {
        let named = self.state.known.name(named_key(key, pattern));
        let target = self.targets.iter().find(|t| t.cgroup.id == key.cgroup).map(|t| t.name.clone());
        let now = now();
        Known {
            address: IpAddr::from(key.address),
            name: named.as_ref().and_then(name_in),
            from: match key.cgroup {
                0 => "agent".to_owned(),
                _ => target.unwrap_or_else(|| "a former target".to_owned()),
            },
            age_ms: named.map(|named| millis(duration(now.since(named.since)))),
            expires_in_ms: millis(duration(expires.since(now))),
        }
    }
}

/// The text of a name that is kept.
fn name_in(named: &Named) -> Option<String> {
    wire::to_text(&named.wire[..named.length.min(LONGEST_NAME) as usize])
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
