//! The policy of a running agent: shown, changed by hand, asked about a host.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

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
    policy::{Host, PolicyEntry, PolicyEntryError, wire},
};

/// Entries that are listed, and addresses in all; what is beyond is counted. An answer has four megabytes.
const LISTED_ENTRIES: usize = 2_000;
const LISTED_ADDRESSES: usize = 10_000;

/// Entries that were added by hand, which a reload keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct ByHand {
    allow: Vec<PolicyEntry>,
    block: Vec<PolicyEntry>,
}

/// Why the policy is not changed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
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
    fn is_usage(&self) -> bool {
        match self {
            Self::Daemon(e) => e.is_usage(),
            _ => true,
        }
    }
}

impl ByHand {
    /// The policy of a configuration, and what was added to it by hand.
    pub(super) fn added_to(&self, mut policy: config::Policy) -> config::Policy {
        // Where the configuration wants everything, an entry by hand would turn that into itself alone.
        if !policy.allow.is_empty() {
            add(&mut policy.allow, &self.allow);
        }
        add(&mut policy.block, &self.block);
        policy
    }

    fn has(&self, list: List, entry: &PolicyEntry) -> bool {
        match list {
            List::Allow => self.allow.contains(entry),
            List::Block => self.block.contains(entry),
        }
    }
}

fn add(to: &mut Vec<PolicyEntry>, entries: &[PolicyEntry]) {
    for entry in entries {
        if !to.contains(entry) {
            to.push(entry.clone());
        }
    }
}

/// The policy after changes, what of it is by hand, and what to tell of it.
fn changed(
    policy: &config::Policy,
    by_hand: &ByHand,
    change: Change,
    entries: &[String],
) -> Result<(config::Policy, ByHand, Vec<String>), Refusal> {
    let (mut policy, mut by_hand, mut told) = (policy.clone(), by_hand.clone(), Vec::new());
    for text in entries {
        let entry: PolicyEntry = text.parse()?;
        match change {
            Change::Allow if policy.allow.is_empty() => return Err(Refusal::FirstAllowed(entry)),
            Change::Allow => {
                put_in(&mut policy.allow, &mut by_hand.allow, &entry)?;
                told.push(format!("allowed {entry}"));
            }
            Change::Block => {
                put_in(&mut policy.block, &mut by_hand.block, &entry)?;
                told.push(format!("blocked {entry}"));
            }
            Change::Remove => {
                let before = (policy.allow.len(), policy.block.len());
                for list in [&mut policy.allow, &mut policy.block, &mut by_hand.allow, &mut by_hand.block] {
                    list.retain(|e| *e != entry);
                }
                if before == (policy.allow.len(), policy.block.len()) {
                    return Err(Refusal::Unknown(entry));
                }
                if before.0 != 0 && policy.allow.is_empty() {
                    return Err(Refusal::LastAllowed(entry));
                }
                told.push(format!("removed {entry}"));
            }
        }
    }
    Ok((policy, by_hand, told))
}

fn put_in(
    list: &mut Vec<PolicyEntry>,
    by_hand: &mut Vec<PolicyEntry>,
    entry: &PolicyEntry,
) -> Result<(), Refusal> {
    if list.contains(entry) {
        return Err(Refusal::Already(entry.clone()));
    }
    list.push(entry.clone());
    by_hand.push(entry.clone());
    Ok(())
}

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
        let config = Arc::new(config::Config { policy, ..(*self.config).clone() });
        self.renew(Plan {
            config,
            own_addresses: self.own_addresses.clone(),
            endpoints: self.endpoints.clone(),
            targets: self.targets.clone(),
        })?;
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
        let known = self.known_by_pattern()?;
        let mut room = LISTED_ADDRESSES;
        let entries = shown.into_iter().map(|(list, entry, number, text)| Entry {
            list,
            entry: text,
            source: self.source_of(list, entry),
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

    fn source_of(&self, list: List, entry: &PolicyEntry) -> String {
        let key = match list {
            List::Allow => "policy.allow",
            List::Block => "policy.block",
        };
        if self.by_hand.has(list, entry) {
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
