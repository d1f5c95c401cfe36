//! How an opinion is looked up in the maps: by the kernel's programs at each connect, and by `explain` in the same maps.

use crate::{
    names::{LearnedKey, NameAnswer, PLACES, Place},
    opinion::Opinion,
    policy::{Answer, BoundaryV4, BoundaryV6, Bucket, Family, PortRule, V4, V6, search, skim},
    time::KtimeNs,
};

/// The maps of the policy and of what is known of names, by [`crate::abi::maps`]' names.
pub trait Maps {
    /// A word of `OUTLINE_V4`.
    fn outline_v4(&self, word: u32) -> Option<u64>;
    /// A word of `OUTLINE_V6`.
    fn outline_v6(&self, word: u32) -> Option<u64>;
    /// One of `BUCKETS_V4`.
    fn bucket_v4(&self, bucket: u32) -> Option<Bucket>;
    /// One of `BUCKETS_V6`.
    fn bucket_v6(&self, bucket: u32) -> Option<Bucket>;
    /// One of `BOUNDARIES_V4`.
    fn boundary_v4(&self, boundary: u32) -> Option<BoundaryV4>;
    /// One of `BOUNDARIES_V6`.
    fn boundary_v6(&self, boundary: u32) -> Option<BoundaryV6>;
    /// One of `PORT_RULES`.
    fn port_rule(&self, rule: u32) -> Option<PortRule>;
    /// The places of an entry of `LEARNED`.
    fn learned(&self, key: &LearnedKey) -> Option<[u64; PLACES]>;
    /// One of `NAME_ANSWERS`.
    fn name_answer(&self, pattern: u32) -> Option<NameAnswer>;
}

/// What the entries of addresses say of an IPv4 one, with a port in host order.
#[inline(always)]
pub fn of_v4(maps: &impl Maps, key: V4, port: u16) -> Opinion {
    let answer = skim(key, |i| maps.outline_v4(i)).unwrap_or_else(|| {
        search(key, maps.bucket_v4(key.bucket()).unwrap_or_default(), |i| maps.boundary_v4(i))
    });
    opinion(maps, answer, port)
}

/// What the entries of addresses say of an IPv6 one, with a port in host order.
#[inline(always)]
pub fn of_v6(maps: &impl Maps, key: V6, port: u16) -> Opinion {
    let answer = skim(key, |i| maps.outline_v6(i)).unwrap_or_else(|| {
        search(key, maps.bucket_v6(key.bucket()).unwrap_or_default(), |i| maps.boundary_v6(i))
    });
    opinion(maps, answer, port)
}

/// What is said of a destination, given the entries of its address and how to ask what the names of the address say, as the
/// target knows it by its cgroup's id, and as the agent does by 0. Whoever blocks an address has the last word, so then names
/// are not asked.
#[inline(always)]
pub fn joined(of_address: Opinion, cgroup: u64, of_known: impl Fn(u64) -> Opinion) -> Opinion {
    if of_address.blocked() {
        return of_address;
    }
    of_address.and(of_known(cgroup).and(of_known(0)).of_all_names())
}

/// What the names of an address say that is known in one place, with a port in host order.
#[inline(always)]
pub fn of_known(maps: &impl Maps, key: &LearnedKey, port: u16, now: KtimeNs) -> Opinion {
    let Some(places) = maps.learned(key) else { return Opinion::NONE };
    let mut all = Opinion::NONE;
    for place in places {
        let place = Place(place);
        if place.holds(now)
            && let Some(name) = maps.name_answer(place.pattern())
        {
            all = all.and(opinion(maps, name.get(), port));
        }
    }
    all
}

/// What an answer says of a port in host order.
#[inline(always)]
pub fn opinion(maps: &impl Maps, answer: Answer, port: u16) -> Opinion {
    let rule = if answer.rule() == 0 { None } else { maps.port_rule(u32::from(answer.rule())) };
    Opinion::of(answer, rule.as_ref(), port)
}
