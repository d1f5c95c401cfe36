//! Policy entries and destinations: drawn from a fixed seed, so that every run measures the same.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// A block of addresses, the first as 128 bits in host order (IPv4 in its mapped form), the prefix length likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    first: u128,
    prefix: u32,
}

/// `::ffff:0:0/96`.
const MAPPED: u128 = 0xffff_0000_0000;

/// The global unicast blocks that IANA has given to the registries as /12 (and 2001::/16): IPv6 addresses in use lie
/// in these, and not evenly over 2000::/3.
const REGISTRIES: [(u16, u32); 6] =
    [(0x2001, 16), (0x2400, 12), (0x2600, 12), (0x2800, 12), (0x2a00, 12), (0x2c00, 12)];

impl Block {
    /// The block of `prefix` (as the family counts it) bits around an address.
    fn around(family: Family, address: u128, prefix: u32) -> Self {
        let prefix = if family == Family::V4 { prefix + 96 } else { prefix };
        Self { first: address & (u128::MAX << (128 - prefix)), prefix }
    }

    fn last(self) -> u128 {
        self.first | u128::MAX.checked_shr(self.prefix).unwrap_or(0)
    }

    /// As in a configuration file.
    pub(super) fn text(self) -> String {
        match (Ipv6Addr::from(self.first).to_ipv4_mapped(), self.prefix) {
            (Some(v4), 128) => v4.to_string(),
            (Some(v4), prefix) => format!("{v4}/{}", prefix - 96),
            (None, 128) => Ipv6Addr::from(self.first).to_string(),
            (None, prefix) => format!("{}/{prefix}", Ipv6Addr::from(self.first)),
        }
    }
}

/// Blocks as in a configuration file.
pub(super) fn texts(blocks: &[Block]) -> Vec<String> {
    blocks.iter().map(|block| block.text()).collect()
}

/// An external address, every one equally likely.
fn draw(rng: &mut fastrand::Rng, family: Family) -> u128 {
    loop {
        let address = match family {
            Family::V4 => MAPPED | u128::from(rng.u32(..)),
            Family::V6 => {
                let (top, prefix) = REGISTRIES[rng.usize(..REGISTRIES.len())];
                let mask = u128::MAX >> prefix;
                u128::from(top) << 112 | rng.u128(..) & mask
            }
        };
        if is_external(address) {
            return address;
        }
    }
}

/// Whether an address is neither internal (DESIGN section 6) nor of a documentation range: the lab's own.
fn is_external(address: u128) -> bool {
    let v6 = Ipv6Addr::from(address);
    match v6.to_ipv4_mapped() {
        Some(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            let reserved = v4.octets()[0] == 0 || v4.octets()[0] >= 224;
            !(reserved
                || shared
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || documents(v4))
        }
        None => v6.segments()[..2] != [0x2001, 0xdb8],
    }
}

fn documents(v4: Ipv4Addr) -> bool {
    v4.is_documentation()
}

/// Single addresses.
pub(super) fn addresses(seed: u64, family: Family, count: usize) -> Vec<Block> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| Block { first: draw(&mut rng, family), prefix: 128 }).collect()
}

/// Blocks of every size, that leave most of the address space to destinations: four of each length from /8 to /15 (IPv4)
/// or /16 to /23 (IPv6), the rest spread evenly over the lengths from /16 to /32 or from /24 to /64 and /128.
pub(super) fn mixed_blocks(seed: u64, family: Family, count: usize) -> Vec<Block> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (large, mut small) = match family {
        Family::V4 => (8..16, (16..=32).collect::<Vec<u32>>()),
        Family::V6 => (16..24, (24..=64).collect()),
    };
    if family == Family::V6 {
        small.push(128);
    }
    let few: Vec<u32> = large.flat_map(|prefix| [prefix; 4]).collect();
    (0..count)
        .map(|i| {
            let prefix = few.get(i).copied().unwrap_or_else(|| small[i % small.len()]);
            Block::around(family, draw(&mut rng, family), prefix)
        })
        .collect()
}

/// External addresses, every one equally likely that none of the blocks covers.
pub(super) fn destinations(seed: u64, family: Family, count: usize, policies: &[&[Block]]) -> Vec<Ipv6Addr> {
    let covered = merge(policies.iter().flat_map(|p| p.iter().copied()));
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| draw(&mut rng, family))
        .filter(|address| !covers(&covered, *address))
        .take(count)
        .map(Ipv6Addr::from)
        .collect()
}

/// The single addresses themselves, in random order.
pub(super) fn members(seed: u64, blocks: &[Block]) -> Vec<Ipv6Addr> {
    let mut list: Vec<_> = blocks.iter().map(|b| Ipv6Addr::from(b.first)).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut list);
    list
}

/// Sorted ranges, first and last, without overlap.
fn merge(blocks: impl Iterator<Item = Block>) -> Vec<(u128, u128)> {
    let mut ranges: Vec<_> = blocks.map(|b| (b.first, b.last())).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn covers(ranges: &[(u128, u128)], address: u128) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after > 0 && ranges[after - 1].1 >= address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_as_in_a_configuration() {
        let address = MAPPED | 0x0808_0808;
        assert_eq!(Block::around(Family::V4, address, 32).text(), "8.8.8.8");
        assert_eq!(Block::around(Family::V4, address, 10).text(), "8.0.0.0/10");
        assert_eq!(Block::around(Family::V6, 0x2a00_u128 << 112 | 5, 64).text(), "2a00::/64");
        assert_eq!(Block::around(Family::V6, 0x2a00_u128 << 112 | 5, 128).text(), "2a00::5");
    }

    #[test]
    fn no_destination_is_covered_or_internal() {
        for family in [Family::V4, Family::V6] {
            let blocks = mixed_blocks(1, family, 2_000);
            for to in destinations(2, family, 2_000, &[&blocks]) {
                let to = u128::from(to);
                assert!(is_external(to));
                assert!(!blocks.iter().any(|b| b.first <= to && to <= b.last()));
            }
        }
    }
}
