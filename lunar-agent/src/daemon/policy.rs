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
use serde::Serialize;
use tokio::time::Instant;

use super::{DaemonError, agent::Agent, names::named_key, renewal::Plan};
use crate::{
    config,
    control::{
        Answer, MAX_MESSAGE,
        policy::{Change, Entry, Known, List, Resolution, View, Wants},
    },
    kernel::layout::{duration, now},
    policy::{Host, PolicyEntry, wire},
};
pub(super) use by_hand::ByHand;
use by_hand::{Refusal, changed};

/// Entries that are listed; what is beyond is counted.
const LISTED_ENTRIES: usize = 2_000;
/// Bytes of JSON that entries and addresses may take, which leaves room for 65,535 ports. Rows alone bound nothing: a target
/// chooses the names that it learns.
const LISTED_BYTES: usize = MAX_MESSAGE / 4 * 3;

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
        let entries = shown.into_iter().map(|(list, entry, number, text)| {
            let id = match &entry.host {
                Host::Name(pattern) => self.generation.policy.ids.get(pattern),
                Host::Net(_) => None,
            };
            let of_pattern = id.and_then(|id| known.get(&id)).map_or(&[][..], Vec::as_slice);
            let row = Entry {
                list,
                entry: text,
                source: self.source_of(list, entry, &by_hand),
                hits: self.generation.policy.hits(number),
                known: matches!(entry.host, Host::Name(_)).then_some(of_pattern.len()),
                addresses: Vec::new(),
                resolution: self.resolution_of(entry, of_pattern),
            };
            (row, of_pattern.iter().map(move |(key, expires)| self.known(*key, id.unwrap_or(0), *expires)))
        });
        let entries = listed(entries, LISTED_BYTES);
        Ok(View {
            wants: if policy.allow.is_empty() { Wants::Everything } else { Wants::Listed },
            ports: policy.ports.clone(),
            quic: policy.quic.to_string(),
            dry_run: policy.dry_run,
            count,
            entries,
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

    /// What the agent's own resolution of an entry came to, of which these addresses are known.
    fn resolution_of(&self, entry: &PolicyEntry, known: &[(LearnedKey, KtimeNs)]) -> Option<Resolution> {
        let Host::Name(pattern) = &entry.host else { return None };
        let state = self.names.state(pattern.name()?)?;
        Some(Resolution {
            answered_ms: state.answered.map(|at| millis(at.elapsed())),
            next_in_ms: state.next.map(|at| millis(at.saturating_duration_since(Instant::now()))),
            failure: state.failure.as_ref().map(ToString::to_string),
            failures: state.failures,
            in_use: known.iter().any(|(key, _)| key.cgroup == 0),
        })
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

/// Entries and their addresses, as far as they fit into so many bytes of JSON. Entries come first; what they leave is divided
/// among those that have addresses, lest one target's names push out everybody else's.
fn listed<A: Iterator<Item = Known>>(
    entries: impl Iterator<Item = (Entry, A)>,
    mut room: usize,
) -> Vec<Entry> {
    let fits =
        |row: &Entry, room: &mut usize| room.checked_sub(bytes_of(row)).map(|left| *room = left).is_some();
    let rows: Vec<_> = entries.take_while(|(row, _)| fits(row, &mut room)).collect();
    let mut sharing = rows.iter().filter(|(row, _)| row.known.is_some_and(|known| known > 0)).count();
    let list = |(mut row, addresses): (Entry, A)| {
        if row.known.is_some_and(|known| known > 0) {
            let mut share = room / sharing;
            sharing -= 1;
            room -= share;
            for known in addresses {
                let Some(left) = share.checked_sub(bytes_of(&known)) else { break };
                share = left;
                row.addresses.push(known);
            }
            room += share;
            row.addresses.sort_by(|a, b| (&a.name, a.address, &a.from).cmp(&(&b.name, b.address, &b.from)));
        }
        row
    };
    rows.into_iter().map(list).collect()
}

/// Bytes that something takes in a list in JSON, with its comma.
fn bytes_of(row: &impl Serialize) -> usize {
    serde_json::to_vec(row).map_or(usize::MAX, |json| json.len() + 1)
}

/// The text of a name that is kept.
fn name_in(named: &Named) -> Option<String> {
    wire::to_text(&named.wire[..named.length.min(LONGEST_NAME) as usize])
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
