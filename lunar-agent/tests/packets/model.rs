//! What the kernel should know after some answers, to be compared with what it knows.

use std::{collections::HashMap, net::IpAddr};

use lunar_common::{
    names::{NamedKey, PLACES, Place},
    net::Address,
    time::KtimeNs,
};

use crate::{
    harness::{CGROUP, Counted, Taken},
    policy::Policy,
    reading::{Answer, Reading},
};

/// When an answer was read: not before the first time, not after the second.
pub type When = (KtimeNs, KtimeNs);

/// A pattern that an address should be known by.
struct Held {
    pattern: u32,
    blocks: bool,
    /// Between which its expiry lies.
    expires: (Place, Place),
    /// The name that was learned first.
    wire: Vec<u8>,
}

/// What should be known. Nothing expires while it is in use.
pub struct Model<'a> {
    policy: &'a Policy,
    known: HashMap<Address, Vec<Held>>,
    pub counted: Counted,
}

impl<'a> Model<'a> {
    pub fn new(policy: &'a Policy) -> Self {
        Self { policy, known: HashMap::new(), counted: Counted::default() }
    }

    /// Addresses that should be known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes in what a packet is.
    pub fn meet(&mut self, reading: &Reading, when: When) {
        match reading {
            Reading::Other => {}
            Reading::Malformed => self.counted.malformed += 1,
            Reading::Unasked => self.counted.unasked += 1,
            Reading::Answer(answer) => self.learn(answer, when),
        }
    }

    /// Takes in an answer to a question that was asked.
    pub fn learn(&mut self, answer: &Answer, when: When) {
        self.counted.answers += 1;
        let learns = answer.found && answer.of_addresses;
        let Some(matched) = self.policy.of_name(&answer.name).filter(|_| learns) else { return };
        let mut whole = answer.ended && !answer.truncated && answer.count <= 64;
        let counts = |address: Address| !matched.wanted || leads_somewhere(address.into());
        for found in answer.addresses.iter().filter(|found| counts(found.address)) {
            let place = |now| place_at(matched.pattern, now, found.ttl);
            let expires = (place(when.0), place(when.1));
            let new =
                Held { pattern: matched.pattern, blocks: matched.blocks, expires, wire: answer.name.clone() };
            let held = self.known.entry(found.address).or_default();
            if let Some(own) = held.iter_mut().find(|held| held.pattern == matched.pattern) {
                own.expires.0.0 = own.expires.0.0.max(expires.0.0);
                own.expires.1.0 = own.expires.1.0.max(expires.1.0);
            } else if held.len() < PLACES {
                held.push(new);
            } else if let Some(gives_way) = held.iter_mut().find(|held| matched.blocks && !held.blocks) {
                *gives_way = new;
                whole = false;
            } else {
                whole = false;
            }
        }
        if !whole {
            self.counted.misses += 1;
        }
    }

    /// Compares, and begins anew.
    pub fn check(&mut self, taken: &Taken, context: &str) {
        assert_eq!(taken.counted, self.counted, "{context}");
        assert_eq!(taken.known, self.known.len() as u64, "{context}");
        let ip = |address: Address| IpAddr::from(address);
        let names: HashMap<_, _> = taken.named.iter().copied().collect();
        let mut named = 0;
        for (key, learned) in &taken.learned {
            assert_eq!(key.cgroup, CGROUP, "{context}");
            let Some(held) = self.known.get(&key.address) else {
                panic!("{context}: {} should not be known", ip(key.address))
            };
            let mut places: Vec<Place> = learned.places.into_iter().map(Place).filter(|p| p.0 != 0).collect();
            for held in held {
                let place = places.iter().position(|place| place.pattern() == held.pattern);
                let place = places.remove(place.unwrap_or_else(|| panic!("{context}: {}", ip(key.address))));
                let (from, to) = held.expires;
                assert!((from.0..=to.0).contains(&place.0), "{context}: {place:?} not in {:?}", held.expires);
                let key = NamedKey { cgroup: CGROUP, address: key.address, pattern: held.pattern, pad: 0 };
                let name = names.get(&key).unwrap_or_else(|| panic!("{context}: no name for {key:?}"));
                assert_eq!(&name.wire[..name.length as usize], held.wire, "{context}");
                named += 1;
            }
            assert_eq!(places, [], "{context}: {} has more patterns", ip(key.address));
        }
        assert_eq!(taken.learned.len(), self.known.len(), "{context}: some are not known");
        assert_eq!(taken.named.len(), named, "{context}");
        *self = Self::new(self.policy);
    }
}

/// Seconds for which an address counts at the least, and after that, in the harness.
const LEAST: u64 = 30;
const AFTER: u64 = 600;

/// A pattern's place, for an address that was answered at that time with this TTL in seconds.
pub fn place_at(pattern: u32, at: KtimeNs, ttl: u32) -> Place {
    let seconds = u64::from(ttl).clamp(LEAST, 86_400) + AFTER;
    // About a millisecond is the unit.
    Place((at.0 + seconds * 1_000_000_000) >> 20 << 24 | u64::from(pattern))
}

/// Whether a gateway could reach what an application means by an address; in the standard library's words.
fn leads_somewhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let nowhere = v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast();
            !nowhere && v4.octets()[0] != 0
        }
        IpAddr::V6(v6) => {
            let nowhere = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast();
            !nowhere && !v6.is_unicast_link_local()
        }
    }
}
