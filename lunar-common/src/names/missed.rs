//! Connects that went direct because nothing was known of their address, kept for a while: if the address turns out to be
//! wanted, they were misses.

use crate::{
    net::Address,
    time::{KtimeNs, SpanNs},
};

/// Addresses that are remembered. Two that want the same place take it from each other, so in a flood some misses go unseen.
pub const PLACES: u32 = 1 << 14;
/// For how long.
const RECENT: SpanNs = SpanNs::from_ms(60_000);
/// Bits of the word that hold the time, in units of 2^30 ns (about a second); below them is the number of connects.
const TIME: u32 = 32;
const UNIT: u32 = 30;

/// Connects of one target to one address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Missed {
    /// Which target and address; 0: none.
    pub tag: u64,
    /// When the last was, and how many.
    pub word: u64,
}

impl Missed {
    /// The tag of an address of the target with this cgroup, and its place.
    #[inline(always)]
    pub const fn tag(cgroup: u64, address: Address) -> (u64, u32) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [high, low] = address.halves();
        let mut tag = cgroup.wrapping_mul(ODD);
        tag = (tag ^ tag >> 32 ^ high).wrapping_mul(ODD);
        tag = (tag ^ tag >> 32 ^ low).wrapping_mul(ODD);
        tag = tag ^ tag >> 32 | 1;
        (tag, (tag >> 32) as u32 & (PLACES - 1))
    }

    /// The same place with one connect more.
    #[inline(always)]
    pub const fn noted(self, tag: u64, now: KtimeNs) -> Self {
        let before = self.recent(tag, now);
        let count = if before < u32::MAX as u64 { before + 1 } else { before };
        Self { tag, word: now.0 >> UNIT << TIME | count }
    }

    /// How many of these connects were made lately.
    #[inline(always)]
    pub const fn recent(self, tag: u64, now: KtimeNs) -> u64 {
        let at = KtimeNs(self.word >> TIME << UNIT);
        if self.tag == tag && now.since(at).0 < RECENT.0 { self.word & ((1 << TIME) - 1) } else { 0 }
    }
}

const _: () = assert!(size_of::<Missed>() == 16);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn connects_are_counted_until_they_are_long_ago() {
        let (tag, _) = Missed::tag(7, address("203.0.113.9"));
        let (other, _) = Missed::tag(8, address("203.0.113.9"));
        let at = |sec: u64| KtimeNs(sec * 1_000_000_000);
        let mut place = Missed::default();
        assert_eq!(place.recent(tag, at(100)), 0);
        place = place.noted(tag, at(100)).noted(tag, at(120)).noted(tag, at(140));
        assert_eq!((place.recent(tag, at(190)), place.recent(other, at(190))), (3, 0));
        assert_eq!(place.recent(tag, at(202)), 0);
        assert_eq!(
            place.noted(tag, at(300)).recent(tag, at(300)),
            1,
            "what was long ago is not counted along"
        );
        assert_eq!(place.noted(other, at(141)).recent(tag, at(141)), 0, "the place is another's");
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        let places: std::collections::HashSet<u32> = (0..1000_u32)
            .map(|n| Missed::tag(42, Address::from_v4_raw((0x0a00_0000 + n).to_be())).1)
            .collect();
        assert!(places.len() > 950, "{}", places.len());
        let tags: std::collections::HashSet<u64> =
            (0..1000).map(|cgroup| Missed::tag(cgroup, address("2001:db8::1")).0).collect();
        assert_eq!(tags.len(), 1000);
    }
}
