//! What is known of names: the addresses that a target learned from DNS answers, and for how long; the layouts of the maps
//! that hold it (like [`crate::abi`], of whose version they are part) and the decisions about them.

mod asked;
mod missed;
mod place;

pub use asked::{Asked, QUESTIONS, Resolver, VALID_FOR};
pub use missed::{Missed, PLACES as MISSED_PLACES};
pub use place::{PLACES, Place, Put, put, put_in_the_way};

use crate::{
    net::Address,
    policy::Answer,
    time::{KtimeNs, SpanNs},
};

/// Addresses that can be known at one time, of all targets together. Beyond it an answer is not stored, which is a miss.
pub const MAX_LEARNED: u32 = 131_072;
/// Addresses that one target can know.
pub const MAX_LEARNED_PER_TARGET: u64 = 16_384;
/// The longest TTL that is believed: a day.
pub const LONGEST_TTL: u32 = 86_400;

/// An address as one target knows it. Two targets may be told different things.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LearnedKey {
    /// Id of the target's cgroup; 0: what the agent itself found out, which holds for all.
    pub cgroup: u64,
    /// The address.
    pub address: Address,
}

/// The names of an address, by the patterns of the policy that they match.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Learned {
    /// Raw [`Place`]s. Each is read and written as one.
    pub places: [u64; PLACES],
}

impl Learned {
    /// The places that are taken at `now`.
    pub fn holding(self, now: KtimeNs) -> impl Iterator<Item = Place> {
        self.places.into_iter().map(Place).filter(move |place| place.holds(now))
    }

    /// Whether any is.
    pub fn holds(self, now: KtimeNs) -> bool {
        self.holding(now).next().is_some()
    }
}

/// One name that an address was learned by, for people and for a policy that changes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NamedKey {
    /// See [`LearnedKey::cgroup`].
    pub cgroup: u64,
    /// The address.
    pub address: Address,
    /// The pattern's id, as in [`Place::pattern`].
    pub pattern: u32,
    /// Always zero.
    pub pad: u32,
}

/// The name itself: the first by which the pattern was matched since the address has been known by it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Since when the address has been known by the pattern.
    pub since: KtimeNs,
    /// Length of `wire`.
    pub length: u32,
    /// Always zero.
    pub pad: u32,
    /// The name as in the message.
    pub wire: [u8; 256],
}

/// Counts of a target.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameCounts {
    /// Addresses that it knows. The programs count up; the agent counts anew when it has swept.
    pub known: u64,
    /// Connects made before the agent found out that their address is wanted. The agent's.
    pub missed: u64,
}

/// What the policy says of the names that a pattern matches.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameAnswer {
    /// Raw [`Answer`].
    pub answer: u32,
    /// Non-zero: the agent knows its addresses, so an answer that cannot be read is no miss.
    pub known: u16,
    /// Non-zero: it keeps something direct, whatever else is said of the same addresses.
    pub blocks: u16,
}

impl NameAnswer {
    /// The answer.
    #[inline(always)]
    pub const fn get(self) -> Answer {
        Answer(self.answer)
    }
}

/// When an address that was answered with this TTL (seconds) is no longer believed to have the name.
#[inline(always)]
pub fn expiry(now: KtimeNs, ttl: u32, min_ttl: SpanNs, grace: SpanNs) -> KtimeNs {
    let ttl = if ttl > LONGEST_TTL { LONGEST_TTL } else { ttl };
    let ttl = SpanNs::from_ms(u64::from(ttl) * 1000);
    now.after(if ttl < min_ttl { min_ttl } else { ttl }).after(grace)
}

const _: () = {
    assert!(size_of::<LearnedKey>() == 24);
    assert!(size_of::<Learned>() == 32);
    assert!(size_of::<NamedKey>() == 32);
    assert!(size_of::<Named>() == 272);
    assert!(size_of::<NameAnswer>() == 8);
    assert!(size_of::<NameCounts>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_for_its_ttl_or_the_least_and_then_the_grace() {
        let (now, min, grace) = (KtimeNs(5), SpanNs::from_ms(30_000), SpanNs::from_ms(600_000));
        let after = |ttl| expiry(now, ttl, min, grace).since(now).0 / crate::time::NS_PER_MS / 1000;
        assert_eq!(
            [0, 29, 30, 31, 86_400, 86_401, u32::MAX].map(after),
            [630, 630, 630, 631, 87_000, 87_000, 87_000]
        );
    }
}
