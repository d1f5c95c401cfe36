//! The policy that the packets meet.

use std::collections::HashMap;

use lunar_agent::policy::{
    Pattern, PolicyEntry,
    compile::{Rules, Tables, compile, names::NamedAnswer},
    ids::Ids,
};

/// A policy, compiled.
pub struct Policy {
    pub tables: Tables,
    pub ids: Ids,
    /// What it makes of each pattern's names, by the pattern's text.
    matches: HashMap<String, Match>,
}

/// What the policy makes of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    /// Id of the pattern.
    pub pattern: u32,
    pub wanted: bool,
    /// It keeps all of the name direct, or a port of it.
    pub blocks: bool,
}

impl Policy {
    pub fn new(allow: &[&str], block: &[&str]) -> Self {
        let entries = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<PolicyEntry>>();
        let (allow, block) = (&entries(allow)[..], &entries(block)[..]);
        let rules = Rules { allow, block, ports: &[80, 443], tls_direct: false, internal: &[], gateway: &[] };
        let tables = compile(&rules).unwrap();
        let ids = Ids::default().next(tables.names.iter().map(|named| &named.pattern));
        let found = |named: &NamedAnswer| {
            let pattern = ids.get(&named.pattern).unwrap();
            let (wanted, blocks) = (named.answer.wanted(), blocks(&tables, named));
            (named.pattern.to_string(), Match { pattern, wanted, blocks })
        };
        let matches = tables.names.iter().map(found).collect();
        Self { tables, ids, matches }
    }

    /// The one that most tests use: names alone, below a suffix, with a port, blocked, blocked below what is wanted, and wanted
    /// below that.
    pub fn usual() -> Self {
        Self::new(
            &[
                "api.stripe.com",
                "*.openai.com",
                "internal.corp:8443",
                "*.deep.ads.openai.com",
                "one.example",
                "two.example",
                "three.example",
                "four.example",
                "five.example",
            ],
            &["*.ads.openai.com", "tracker.example", "*.blocked.example"],
        )
    }

    /// Id of a pattern.
    pub fn id(&self, pattern: &str) -> u32 {
        self.ids.get(&pattern.parse::<Pattern>().unwrap()).unwrap()
    }

    /// Whether an answer keeps something direct.
    pub fn blocks(&self, named: &NamedAnswer) -> bool {
        blocks(&self.tables, named)
    }

    /// What it makes of a name on the wire.
    pub fn of_name(&self, wire: &[u8]) -> Option<Match> {
        let mut labels = Vec::new();
        let mut rest = wire;
        while let Some((length @ 1.., after)) = rest.split_first() {
            let (label, after) = after.split_at(usize::from(*length));
            if label.iter().any(|b| !b.is_ascii_graphic() || *b == b'.') {
                return None;
            }
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            rest = after;
        }
        let below = |depth: usize| self.matches.get(&format!("*.{}", labels[depth..].join(".")));
        self.matches.get(&labels.join(".")).or_else(|| (1..labels.len()).find_map(below)).copied()
    }
}

fn blocks(tables: &Tables, named: &NamedAnswer) -> bool {
    let ports = tables.rules[usize::from(named.answer.rule())].blocked;
    named.answer.blocked() || ports.iter().any(|port| *port != 0)
}
