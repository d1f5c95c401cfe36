//! From networks, which nest or lie apart, to disjoint ranges of addresses.
//!
//! One pass over the networks in the order of their first addresses, with a stack of those that enclose the present one, meets every
//! address at which the answer can change: where a network begins, and where it ends and its parent goes on. Each network on
//! the stack carries what it and all around it say together, so an answer is whole and nobody searches twice.
//! O(n log n), for the sort.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::sayings::{Sayings, Says};

/// A family's addresses, as numbers of so many bits.
pub(super) struct Space {
    pub bits: u8,
    pub address: fn(u128) -> IpAddr,
}

// Its numbers have 32 bits, so the cast loses none.
pub(super) const V4: Space = Space { bits: 32, address: |n| IpAddr::V4(Ipv4Addr::from_bits(n as u32)) };
pub(super) const V6: Space = Space { bits: 128, address: |n| IpAddr::V6(Ipv6Addr::from_bits(n)) };

impl Space {
    pub fn last(&self) -> u128 {
        u128::MAX >> (128 - self.bits)
    }

    pub fn net(&self, first: u128, length: u8) -> IpNet {
        IpNet::new_assert((self.address)(first), length)
    }
}

/// A network as a range of numbers, and what one entry says of it.
#[derive(Clone, Copy)]
pub(super) struct Prefix {
    pub first: u128,
    pub length: u8,
    pub says: Says,
    /// The entry's number; 0: none of the user's.
    pub entry: u32,
}

/// A network, and what its entries and those of all networks around it say.
#[derive(Clone, Default)]
pub(super) struct Network {
    pub first: u128,
    pub length: u8,
    pub sayings: Sayings,
}

impl Network {
    /// The last address.
    fn last(&self, space: &Space) -> u128 {
        // A shift by all 128 bits is none in Rust.
        self.first | space.last().checked_shr(self.length.into()).unwrap_or(0)
    }
}

/// What [`sweep`] finds: ranges in order, each a first address and the place of its network.
pub(super) struct Swept {
    pub networks: Vec<Network>,
    pub ranges: Vec<(u128, usize)>,
}

pub(super) fn sweep(space: &Space, mut prefixes: Vec<Prefix>) -> Swept {
    // The enclosing before the enclosed; one network's entries side by side.
    prefixes.sort_unstable_by_key(|prefix| (prefix.first, prefix.length, prefix.entry));
    let mut networks = vec![Network::default()];
    let mut ranges = vec![(0, 0)];
    // The networks around the present address, the innermost last. The whole space is always among them.
    let mut around = vec![0];
    for of_one_net in prefixes.chunk_by(|a, b| (a.first, a.length) == (b.first, b.length)) {
        let Prefix { first, length, .. } = of_one_net[0];
        leave(space, &networks, &mut around, &mut ranges, first);
        let mut sayings = networks[around[around.len() - 1]].sayings.clone();
        sayings.hear(of_one_net.iter().map(|prefix| (prefix.says, prefix.entry)));
        around.push(networks.len());
        begin(&mut ranges, first, networks.len());
        networks.push(Network { first, length, sayings });
    }
    // No prefix begins after the last address, so what still encloses it ends with or before it.
    leave(space, &networks, &mut around, &mut ranges, space.last());
    Swept { networks, ranges }
}

/// Leaves the networks that end before `next`; after each the one around it goes on.
fn leave(
    space: &Space,
    networks: &[Network],
    around: &mut Vec<usize>,
    ranges: &mut Vec<(u128, usize)>,
    next: u128,
) {
    while let [.., outer, inner] = around[..] {
        let last = networks[inner].last(space);
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
