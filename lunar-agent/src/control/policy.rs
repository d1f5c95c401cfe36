//! What is asked and answered about the policy.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which list an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// What is wanted.
    Allow,
    /// What is not, whatever else is said.
    Block,
}

/// A change of the policy by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Adds to the allow list.
    Allow,
    /// Adds to the block list.
    Block,
    /// Takes out of both.
    Remove,
}

/// A host, and the addresses that whoever asks knows it to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPort {
    /// The name in canonical form, if it is one.
    pub name: Option<String>,
    /// Its addresses, or the address that was named.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
}

/// The policy in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// What is wanted besides entries: every external address, or nothing.
    pub wants: Wants,
    /// Ports intercepted for every wanted address.
    pub ports: Vec<u16>,
    /// What happens to UDP port 443 of wanted addresses.
    pub quic: String,
    /// Whether redirects are only counted.
    pub dry_run: bool,
    /// How many entries there are; not all may be listed.
    pub count: usize,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// What is wanted without an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// The allow list is empty.
    Everything,
    /// Only what the allow list names.
    Listed,
}

/// An entry in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its list.
    pub list: List,
    /// Its text.
    pub entry: String,
    /// Where it comes from.
    pub source: String,
    /// Connects that it decided since the policy came into effect; `None` for one that is not counted.
    pub hits: Option<u64>,
    /// How many addresses are known for it; `None` for one that names addresses itself.
    pub known: Option<usize>,
    /// Those addresses; not all may be listed.
    pub addresses: Vec<Known>,
    /// What the agent's own resolution of it came to; `None` where it resolves nothing.
    pub resolution: Option<Resolution>,
}

/// An address that is known by a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The address.
    pub address: IpAddr,
    /// The name, where it is still known.
    pub name: Option<String>,
    /// Who learned it: a target by name, or the agent.
    pub from: String,
    /// Since when, in milliseconds.
    pub age_ms: Option<u64>,
    /// Until when, in milliseconds.
    pub expires_in_ms: u64,
}

/// The agent's own resolution of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// How long ago the last good answer came, in milliseconds.
    pub answered_ms: Option<u64>,
    /// When it is asked for again, in milliseconds; `None` while it is being asked for.
    pub next_in_ms: Option<u64>,
    /// Why the last look-up failed, if it did.
    pub failure: Option<String>,
    /// How many have failed in a row.
    pub failures: u32,
    /// Whether addresses that it has found are in use.
    pub in_use: bool,
}

/// What would become of a connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// To which address; `None` where none is known.
    pub address: Option<IpAddr>,
    /// The reason of the verdict, by its name in the counters.
    pub reason: String,
    /// Whether it would be redirected.
    pub redirected: bool,
    /// Each question that the verdict asked, and its answer.
    pub steps: Vec<Step>,
}

/// A question of the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was asked.
    pub question: String,
    /// What the answer was, and why.
    pub answer: String,
}
