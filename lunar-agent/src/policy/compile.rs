//! Compiles the policy's entries into the tables that the kernel looks up, in which one look-up of the longest match gives the
//! whole answer.

use super::entry::{Host, PolicyEntry};
use super::pattern::Pattern;
use super::{
    internal::INTERNAL,
    ports::{Asked, PortTable, TooMany, rule},
};
use arrays::{divide, outline};
use ipnet::IpNet;
use lunar_common::{
    abi::MAX_PORT_RULES,
    policy::{Answer, BoundaryV4, BoundaryV6, Bucket, PORTS_PER_RULE, PortRule, SEARCH_STEPS},
};
use names::NamedAnswer;
use ranges::{Prefix, Space, Swept, V4, V6, sweep};
use sayings::{Sayings, Says};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

mod arrays;
pub mod names;
mod ranges;
mod sayings;

/// What the tables are made of.
///
/// The entries are numbered from 1, those of `allow` before those of `block`; see [`Answer::entry`].
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The allow list; empty: every external address is wanted.
    pub allow: &'a [PolicyEntry],
    /// The block list.
    pub block: &'a [PolicyEntry],
    /// Ports intercepted for every wanted address.
    pub ports: &'a [u16],
    /// Whether port 443 is left alone where it is one of `ports`.
    pub tls_direct: bool,
    /// Internal networks besides [`INTERNAL`]: the host's own addresses and the gateway's.
    pub internal: &'a [IpNet],
    /// The gateway's endpoints. Whoever connects to one is there already; redirected, the gateway would be told to connect to
    /// itself.
    pub gateway: &'a [SocketAddr],
}

impl Rules<'_> {
    /// Whom each entry speaks of, what it says, and its number.
    fn entries(&self) -> impl Iterator<Item = (&Host, Says, u32)> {
        let allow = self.allow.iter().map(|entry| (&entry.host, Says::Allow(entry.port)));
        let block = self.block.iter().map(|entry| (&entry.host, Says::Block(entry.port)));
        allow.chain(block).zip(1..).map(|((host, says), number)| (host, says, number))
    }
}

/// The tables, as they lie in the maps of the same names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Two bits per port, see [`lunar_common::policy::PortClass`].
    pub ports: Vec<u64>,
    /// Port rules by the index of an [`Answer`]; the first is empty and stands for none.
    pub rules: Vec<PortRule>,
    /// Outline of IPv4, two bits for each block.
    pub outline_v4: Vec<u64>,
    /// Outline of IPv6, two bits for each block of `2000::/3`.
    pub outline_v6: Vec<u64>,
    /// One bucket for each value of an IPv4 address' top 16 bits.
    pub buckets_v4: Vec<Bucket>,
    /// One bucket for each value of an IPv6 address' top 16 bits.
    pub buckets_v6: Vec<Bucket>,
    /// Boundaries of the divided IPv4 buckets; empty if none is.
    pub boundaries_v4: Vec<BoundaryV4>,
    /// Boundaries of the divided IPv6 buckets; empty if none is.
    pub boundaries_v6: Vec<BoundaryV6>,
    /// Answers for names, one for each pattern that an entry names, sorted by pattern.
    pub names: Vec<NamedAnswer>,
}

/// Why a policy cannot be compiled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// A [`PortRule`] is too small for an address.
    #[error(
        "the policy's entries name {count} ports {purpose} for {address} (the innermost is for {net}); an address can \
         have {PORTS_PER_RULE}: name fewer, or put them into policy.ports, which is for every address"
    )]
    PortsOfAddress {
        /// The first address concerned.
        address: IpAddr,
        /// The innermost network that an entry names around it.
        net: IpNet,
        /// What the ports are there for, "to intercept" or "to block".
        purpose: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A [`PortRule`] is too small for a name.
    #[error(
        "the policy's entries name {count} ports {purpose} for {pattern}; a name can have {PORTS_PER_RULE}: name fewer, \
         or put them into policy.ports, which is for every address"
    )]
    PortsOfName {
        /// The pattern, whose names inherit the ports of the suffixes around it.
        pattern: Pattern,
        /// What the ports are there for, "to intercept" or "to block".
        purpose: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The map of port rules is too small.
    #[error(
        "the policy's entries with ports make more than {max} different combinations, at the latest with {host}; give \
         more entries the same ports, or put the ports into policy.ports",
        max = MAX_PORT_RULES - 1
    )]
    PortRules {
        /// Whose entries did not fit any more.
        host: Host,
    },
    /// The kernel's search would not reach the end of a bucket.
    #[error(
        "the policy's entries divide {net} into {count} ranges, and {max} can be searched; merge neighbouring entries",
        max = 1 << SEARCH_STEPS
    )]
    RangesOfBucket {
        /// The bucket's network.
        net: IpNet,
        /// Its ranges.
        count: usize,
    },
}

/// Compiles `rules`.
///
/// # Errors
/// If an address, a name, all port rules together or a bucket have more than the kernel's tables hold.
pub fn compile(rules: &Rules<'_>) -> Result<Tables, CompileError> {
    let ports = PortTable::new(rules.ports, rules.allow.iter().filter_map(|e| e.port), rules.tls_direct);
    let mut answers = Answers::new(&ports, rules);
    let (v4, v6) = prefixes(rules);
    let v4 = answers.merge(&V4, sweep(&V4, v4))?;
    let v6 = answers.merge(&V6, sweep(&V6, v6))?;
    let (buckets_v4, boundaries_v4) = divide(&V4, &v4, |start, answer| BoundaryV4 {
        // `start` came from 32 bits.
        start: start as u32,
        answer: answer.0,
    })?;
    let (buckets_v6, boundaries_v6) = divide(&V6, &v6, |start, answer| BoundaryV6 {
        high: (start >> 64) as u64,
        low: start as u64,
        answer: answer.0,
        pad: 0,
    })?;
    let (outline_v4, outline_v6) = (outline(0, 32, &v4), outline(1 << 125, 125, &v6));
    let names = names::compile(rules, &mut answers)?;
    let rules = answers.rules;
    let ports = ports.into_words();
    Ok(Tables {
        names,
        ports,
        rules,
        outline_v4,
        outline_v6,
        buckets_v4,
        buckets_v6,
        boundaries_v4,
        boundaries_v6,
    })
}

/// The prefixes of each family.
fn prefixes(rules: &Rules<'_>) -> (Vec<Prefix>, Vec<Prefix>) {
    let internal = INTERNAL.iter().chain(rules.internal).map(|net| (*net, Says::Internal, 0));
    let gateway = rules.gateway.iter().map(|at| (at.ip().into(), Says::Block(Some(at.port())), 0));
    let entries = rules.entries().filter_map(|(host, says, number)| match host {
        Host::Net(net) => Some((*net, says, number)),
        Host::Name(_) => None,
    });
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (net, says, entry) in internal.chain(entries).chain(gateway) {
        let length = net.prefix_len();
        match net.network() {
            IpAddr::V4(ip) => v4.push(Prefix { first: ip.to_bits().into(), length, says, entry }),
            IpAddr::V6(ip) => v6.push(Prefix { first: ip.to_bits(), length, says, entry }),
        }
    }
    (v4, v6)
}

/// Turns sayings into answers and gathers their port rules.
struct Answers<'a> {
    ports: &'a PortTable,
    all_external: bool,
    /// Whether a name may make any address wanted, on any port that an entry names.
    names_want: bool,
    rules: Vec<PortRule>,
    index: HashMap<PortRule, u16>,
}

/// Why there is no answer.
enum Full {
    Ports(TooMany),
    Rules,
}

impl<'a> Answers<'a> {
    fn new(ports: &'a PortTable, rules: &Rules<'_>) -> Self {
        let none = PortRule::default();
        Self {
            ports,
            all_external: rules.allow.is_empty(),
            names_want: rules.allow.iter().any(|entry| matches!(entry.host, Host::Name(_))),
            rules: vec![none],
            index: HashMap::from([(none, 0)]),
        }
    }

    /// The answers of all ranges, neighbours with the same answer as one.
    fn merge(&mut self, space: &Space, swept: Swept) -> Result<Vec<(u128, Answer)>, CompileError> {
        let mut known = vec![None; swept.networks.len()];
        let mut ranges: Vec<(u128, Answer)> = Vec::with_capacity(swept.ranges.len());
        for (first, place) in swept.ranges {
            let answer = match known[place] {
                Some(answer) => answer,
                None => {
                    let network = &swept.networks[place];
                    let net = || space.net(network.first, network.length);
                    let answer = self.of_addresses(&network.sayings).map_err(|full| match full {
                        Full::Ports(TooMany { purpose, count }) => CompileError::PortsOfAddress {
                            address: (space.address)(first),
                            net: net(),
                            purpose,
                            count,
                        },
                        Full::Rules => CompileError::PortRules { host: Host::Net(net()) },
                    })?;
                    *known[place].insert(answer)
                }
            };
            if ranges.last().is_none_or(|range| range.1 != answer) {
                ranges.push((first, answer));
            }
        }
        Ok(ranges)
    }

    fn of_addresses(&mut self, of: &Sayings) -> Result<Answer, Full> {
        let wanted = if self.all_external { !of.internal } else { of.allowed };
        let asked = match self.names_want {
            true => Asked::ByAnybody,
            false if wanted => Asked::ByItself,
            false => Asked::Never,
        };
        self.answer(of, wanted, asked)
    }

    /// The answer for what is `wanted` unless blocked, and whose blocked ports are `asked` for unless all of it is blocked.
    fn answer(&mut self, of: &Sayings, wanted: bool, asked: Asked) -> Result<Answer, Full> {
        let asked = if of.blocked { Asked::Never } else { asked };
        let rule = rule(self.ports, asked, &of.extra, &of.blocked_ports).map_err(Full::Ports)?;
        let answer = Answer::new(wanted, self.place(rule).ok_or(Full::Rules)?).by(of.entry());
        Ok(if of.blocked { answer.block() } else { answer })
    }

    /// The index of a rule, which is entered where it is new and there is room.
    fn place(&mut self, rule: PortRule) -> Option<u16> {
        if let Some(&index) = self.index.get(&rule) {
            return Some(index);
        }
        let index = u16::try_from(self.rules.len()).ok().filter(|&i| u32::from(i) < MAX_PORT_RULES)?;
        self.rules.push(rule);
        self.index.insert(rule, index);
        Some(index)
    }
}

#[cfg(test)]
mod tests;
