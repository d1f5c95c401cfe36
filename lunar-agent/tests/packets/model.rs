//! What the kernel should know after some answers, to be compared with what it knows.

use std::{collections::HashMap, net::IpAddr};

use lunar_common::{
    names::{NamedKey, PLACES, Place, expiry},
    net::Address,
    time::KtimeNs,
};

use crate::{
    harness::{CGROUP, Counted, GRACE, MIN_TTL, Taken},
    policy::Policy,
    reading::{Answer, Reading},
};

/// When an answer was read: not before the first time, not after the second.
pub type When = (KtimeNs, KtimeNs);

/// A pattern that an address should be known by.
struct Held {
    pattern: u32,
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
        let Some(matched) = self.policy.of_name(&answer.name).filter(|_| answer.found) else { return };
        let mut whole = answer.ended && !answer.truncated && answer.count <= 64;
        for found in answer.addresses.iter().filter(|found| leads_somewhere(found.address.into())) {
            let place = |now| Place::new(matched.pattern, expiry(now, found.ttl, MIN_TTL, GRACE));
            let expires = (place(when.0), place(when.1));
            let held = self.known.entry(found.address).or_default();
            if let Some(own) = held.iter_mut().find(|held| held.pattern == matched.pattern) {
                own.expires.0.0 = own.expires.0.0.max(expires.0.0);
                own.expires.1.0 = own.expires.1.0.max(expires.1.0);
            } else if held.len() < PLACES {
                held.push(Held { pattern: matched.pattern, expires, wire: answer.name.clone() });
            } else {
                whole = false;
            }
        }
        if !whole && matched.wanted {
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
