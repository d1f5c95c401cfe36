//! Compiles the policy's entries into the tables that the kernel looks up.
//!
//! Networks either nest or lie apart. So one pass over them in the order of their first addresses, with a stack of
//! those that enclose the present one, meets every address at which the answer can change: where a network begins, and
//! where it ends and its parent goes on. Each network on the stack carries what it and all around it say together,
//! so an answer is whole and nobody searches twice. O(n log n), for the sort.

use super::entry::{Host, PolicyEntry};
use super::{
    internal::INTERNAL,
    ports::{PortSet, PortTable, TooMany, rule},
};
use ipnet::IpNet;
use lunar_common::{
    abi::MAX_PORT_RULES,
    policy::{
        Answer, BLOCKS, BLOCKS_PER_WORD, BUCKETS, BoundaryV4, BoundaryV6, Bucket, Outline, PORTS_PER_RULE,
        PortRule, SEARCH_STEPS,
    },
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What the tables are made of.
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
    /// The map of port rules is too small.
    #[error(
        "the policy's entries with ports make more than {max} different combinations, at the latest with {net}; give \
         more entries the same ports, or put the ports into policy.ports",
        max = MAX_PORT_RULES - 1
    )]
    PortRules {
        /// The network whose entries did not fit any more.
        net: IpNet,
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
/// If an address, all port rules together or a bucket have more than the kernel's tables hold.
pub fn compile(rules: &Rules<'_>) -> Result<Tables, CompileError> {
    let ports = PortTable::new(rules.ports, rules.allow.iter().filter_map(|e| e.port), rules.tls_direct);
    let mut answers = Answers::new(&ports, rules.allow.is_empty());
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
    let rules = answers.rules;
    let ports = ports.into_words();
    Ok(Tables { ports, rules, outline_v4, outline_v6, buckets_v4, buckets_v6, boundaries_v4, boundaries_v6 })
}

/// A family's addresses, as numbers of so many bits.
struct Space {
    bits: u8,
    address: fn(u128) -> IpAddr,
}

// Its numbers have 32 bits, so the cast loses none.
const V4: Space = Space { bits: 32, address: |n| IpAddr::V4(Ipv4Addr::from_bits(n as u32)) };
const V6: Space = Space { bits: 128, address: |n| IpAddr::V6(Ipv6Addr::from_bits(n)) };

impl Space {
    fn last(&self) -> u128 {
        u128::MAX >> (128 - self.bits)
    }

    fn net(&self, first: u128, length: u8) -> IpNet {
        IpNet::new_assert((self.address)(first), length)
    }
}

/// What an entry says of its network.
#[derive(Clone, Copy)]
enum Says {
    Internal,
    Allow(Option<u16>),
    Block(Option<u16>),
}

/// A network as a range of numbers, and what one entry says of it.
#[derive(Clone, Copy)]
struct Prefix {
    first: u128,
    length: u8,
    says: Says,
}

/// The prefixes of each family.
fn prefixes(rules: &Rules<'_>) -> (Vec<Prefix>, Vec<Prefix>) {
    let internal = INTERNAL.iter().chain(rules.internal).map(|net| (net, Says::Internal));
    let allow = rules.allow.iter().filter_map(|entry| Some((net_of(entry)?, Says::Allow(entry.port))));
    let block = rules.block.iter().filter_map(|entry| Some((net_of(entry)?, Says::Block(entry.port))));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (net, says) in internal.chain(allow).chain(block) {
        let length = net.prefix_len();
        match net.network() {
            IpAddr::V4(ip) => v4.push(Prefix { first: ip.to_bits().into(), length, says }),
            IpAddr::V6(ip) => v6.push(Prefix { first: ip.to_bits(), length, says }),
        }
    }
    (v4, v6)
}

fn net_of(entry: &PolicyEntry) -> Option<&IpNet> {
    match &entry.host {
        Host::Net(net) => Some(net),
        Host::Name(_) => None,
    }
}

/// What a network's entries and those of all networks around it say.
#[derive(Clone, Default)]
struct Sayings {
    first: u128,
    length: u8,
    internal: bool,
    allowed: bool,
    blocked: bool,
    extra: PortSet,
    blocked_ports: PortSet,
}

impl Sayings {
    fn hear(&mut self, says: Says) {
        match says {
            Says::Internal => self.internal = true,
            Says::Allow(port) => {
                self.allowed = true;
                port.into_iter().for_each(|p| self.extra.insert(p));
            }
            Says::Block(None) => self.blocked = true,
            Says::Block(Some(port)) => self.blocked_ports.insert(port),
        }
    }

    /// The last address of the network.
    fn last(&self, space: &Space) -> u128 {
        // A shift by all 128 bits is none in Rust.
        self.first | space.last().checked_shr(self.length.into()).unwrap_or(0)
    }
}

/// What [`sweep`] finds: ranges in order, each a first address and the place of its sayings.
struct Swept {
    sayings: Vec<Sayings>,
    ranges: Vec<(u128, usize)>,
}

fn sweep(space: &Space, mut prefixes: Vec<Prefix>) -> Swept {
    // The enclosing before the enclosed; one network's entries side by side.
    prefixes.sort_unstable_by_key(|prefix| (prefix.first, prefix.length));
    let mut sayings = vec![Sayings::default()];
    let mut ranges = vec![(0, 0)];
    // The networks around the present address, the innermost last. The whole space is always among them.
    let mut around = vec![0];
    for of_one_net in prefixes.chunk_by(|a, b| (a.first, a.length) == (b.first, b.length)) {
        let Prefix { first, length, .. } = of_one_net[0];
        leave(space, &sayings, &mut around, &mut ranges, first);
        let mut inner = Sayings { first, length, ..sayings[around[around.len() - 1]].clone() };
        of_one_net.iter().for_each(|prefix| inner.hear(prefix.says));
        around.push(sayings.len());
        begin(&mut ranges, first, sayings.len());
        sayings.push(inner);
    }
    // No prefix begins after the last address, so what still encloses it ends with or before it.
    leave(space, &sayings, &mut around, &mut ranges, space.last());
    Swept { sayings, ranges }
}

/// Leaves the networks that end before `next`; after each the one around it goes on.
fn leave(
    space: &Space,
    sayings: &[Sayings],
    around: &mut Vec<usize>,
    ranges: &mut Vec<(u128, usize)>,
    next: u128,
) {
    while let [.., outer, inner] = around[..] {
        let last = sayings[inner].last(space);
        if last >= next {
            break;
        }
        around.pop();
        begin(ranges, last + 1, outer);
    }
}

/// A range begins; the one that began at the same address is empty.
fn begin(ranges: &mut Vec<(u128, usize)>, first: u128, sayings: usize) {
    match ranges.last_mut() {
        Some(range) if range.0 == first => range.1 = sayings,
        _ => ranges.push((first, sayings)),
    }
}

/// Turns sayings into answers and gathers their port rules.
struct Answers<'a> {
    ports: &'a PortTable,
    all_external: bool,
    rules: Vec<PortRule>,
    index: HashMap<PortRule, u16>,
}

impl<'a> Answers<'a> {
    fn new(ports: &'a PortTable, all_external: bool) -> Self {
        let none = PortRule::default();
        Self { ports, all_external, rules: vec![none], index: HashMap::from([(none, 0)]) }
    }

    /// The answers of all ranges, neighbours with the same answer as one.
    fn merge(&mut self, space: &Space, swept: Swept) -> Result<Vec<(u128, Answer)>, CompileError> {
        let mut known = vec![None; swept.sayings.len()];
        let mut ranges: Vec<(u128, Answer)> = Vec::with_capacity(swept.ranges.len());
        for (first, place) in swept.ranges {
            let answer = match known[place] {
                Some(answer) => answer,
                None => *known[place].insert(self.answer(space, first, &swept.sayings[place])?),
            };
            if ranges.last().is_none_or(|range| range.1 != answer) {
                ranges.push((first, answer));
            }
        }
        Ok(ranges)
    }

    fn answer(&mut self, space: &Space, address: u128, of: &Sayings) -> Result<Answer, CompileError> {
        let named = if self.all_external { !of.internal } else { of.allowed };
        let wanted = named && !of.blocked;
        let rule = rule(self.ports, wanted, &of.extra, &of.blocked_ports).map_err(
            |TooMany { purpose, count }| CompileError::PortsOfAddress {
                address: (space.address)(address),
                net: space.net(of.first, of.length),
                purpose,
                count,
            },
        )?;
        if let Some(&index) = self.index.get(&rule) {
            return Ok(Answer::new(wanted, index));
        }
        let free = u16::try_from(self.rules.len()).ok().filter(|&index| u32::from(index) < MAX_PORT_RULES);
        let Some(index) = free else {
            return Err(CompileError::PortRules { net: space.net(of.first, of.length) });
        };
        self.rules.push(rule);
        self.index.insert(rule, index);
        Ok(Answer::new(wanted, index))
    }
}

/// Divides ranges into buckets, and makes the boundaries of those with more than one.
fn divide<B>(
    space: &Space,
    ranges: &[(u128, Answer)],
    boundary: impl Fn(u128, Answer) -> B,
) -> Result<(Vec<Bucket>, Vec<B>), CompileError> {
    let shift = space.bits - BUCKETS.ilog2() as u8;
    let mut buckets = Vec::with_capacity(BUCKETS as usize);
    let mut boundaries = Vec::new();
    let mut rest = ranges;
    // The answer at the start of the bucket; the first range replaces it.
    let mut answer = Answer::UNWANTED;
    for number in 0..u128::from(BUCKETS) {
        let start = number << shift;
        if let [first, after @ ..] = rest
            && first.0 == start
        {
            (answer, rest) = (first.1, after);
        }
        let inside;
        (inside, rest) = rest.split_at(rest.partition_point(|range| range.0 >> shift == number));
        if inside.is_empty() {
            buckets.push(Bucket { at: answer.0, count: 0 });
            continue;
        }
        let count = inside.len() + 1;
        if count > 1 << SEARCH_STEPS {
            return Err(CompileError::RangesOfBucket { net: space.net(start, space.bits - shift), count });
        }
        // Fewer than 2^36 boundaries exist, but an index has 32 bits; memory ends long before.
        buckets.push(Bucket { at: boundaries.len() as u32, count: count as u32 });
        boundaries.push(boundary(start, answer));
        boundaries.extend(inside.iter().map(|range| boundary(range.0, range.1)));
        answer = inside[inside.len() - 1].1;
    }
    Ok((buckets, boundaries))
}

/// Outlines the ranges from `first` on, 2^`bits` addresses in all.
fn outline(first: u128, bits: u32, ranges: &[(u128, Answer)]) -> Vec<u64> {
    let size = 1_u128 << (bits - BLOCKS.ilog2());
    let end = first + (size << BLOCKS.ilog2());
    let mut words = vec![0; (BLOCKS / BLOCKS_PER_WORD) as usize];
    for (place, (start, answer)) in ranges.iter().enumerate() {
        let next = ranges.get(place + 1).map_or(end, |next| next.0.min(end));
        let start = (*start).max(first);
        if start >= next {
            continue;
        }
        let says = match answer {
            answer if answer.rule() != 0 => Outline::Divided,
            answer if answer.wanted() => Outline::Wanted,
            _ => Outline::Unwanted,
        };
        // Blocks that it has to itself, and those that it shares with a neighbour.
        let (from, to) = ((start - first).div_ceil(size) as u32, ((next - first) / size) as u32);
        says.enter_all(&mut words, from..to);
        for shared in [(start - first) / size, (next - 1 - first) / size] {
            let block = shared as u32;
            if !(from..to).contains(&block) {
                Outline::Divided.enter(&mut words[(block / BLOCKS_PER_WORD) as usize], block);
            }
        }
    }
    words
}

#[cfg(test)]
mod tests;
