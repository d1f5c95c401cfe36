//! One socket of a target that asks and is answered.

use std::net::IpAddr;

use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use lunar_common::names::{LearnedKey, Place};

use crate::{
    frames::Route,
    harness::{CGROUP, Counted, Kernel, TARGET, Taken, Trial, now},
    messages,
    model::When,
    policy::Policy,
};

/// The programs, and a route to a server.
pub struct Scene {
    pub policy: Policy,
    pub kernel: Kernel,
    pub route: Route,
}

/// The id that questions have here.
pub const ID: u16 = 0x1234;

impl Scene {
    pub fn new(route: Route) -> Self {
        Self::with(route, Policy::usual())
    }

    /// The same with another policy.
    pub fn with(route: Route, policy: Policy) -> Self {
        let kernel = Kernel::new(&policy);
        let mut scene = Self { policy, kernel, route };
        scene.anew(route);
        scene
    }

    /// Puts a new socket, on this route, in the place of the one before.
    pub fn anew(&mut self, route: Route) {
        self.route = route;
        self.kernel.set_trial(&Trial::of(route.server));
    }

    /// Asks.
    pub fn asks(&self, name: &Name, kind: RecordType) {
        self.kernel.send(&self.route.out(&messages::question(ID, name, kind).to_vec().unwrap()));
    }

    /// Is answered; says when.
    pub fn gets(&self, message: &Message) -> When {
        self.gets_bytes(&message.to_vec().unwrap())
    }

    /// The same, with a message as it lies on the wire.
    pub fn gets_bytes(&self, message: &[u8]) -> When {
        let before = now();
        self.kernel.receive(&self.route.back(message));
        (before, now())
    }

    /// Asks and is answered with these addresses.
    pub fn resolves(&self, name: &Name, addresses: &[&str]) -> When {
        let mut reply = messages::reply(ID, name, RecordType::A);
        for ip in addresses {
            reply.add_answer(messages::address(name, 60, ip.parse().unwrap()));
        }
        self.asks(name, RecordType::A);
        self.gets(&reply)
    }
}

impl Taken {
    /// The addresses that are known, sorted, with the patterns of each.
    pub fn addresses(&self) -> Vec<(IpAddr, Vec<u32>)> {
        let patterns = |places: [u64; 4]| {
            let mut all: Vec<_> =
                places.into_iter().filter(|p| *p != 0).map(|p| Place(p).pattern()).collect();
            all.sort_unstable();
            all
        };
        let mut all: Vec<_> = self
            .learned
            .iter()
            .map(|(key, learned)| {
                assert_eq!(key.cgroup, CGROUP);
                (key.address.into(), patterns(learned.places))
            })
            .collect();
        all.sort();
        all
    }

    /// The places of an address.
    pub fn places(&self, ip: &str) -> Vec<Place> {
        let key = LearnedKey { cgroup: CGROUP, address: ip.parse::<IpAddr>().unwrap().into() };
        let found =
            self.learned.iter().find(|(k, _)| *k == key).unwrap_or_else(|| panic!("{ip} is not known"));
        found.1.places.into_iter().map(Place).filter(|p| p.0 != 0).collect()
    }

    /// Asserts that nothing was put in, and that just this was counted.
    pub fn assert_nothing_but(&self, counted: Counted, what: &str) {
        assert_eq!(self.addresses(), [], "{what}");
        assert!(self.named.is_empty(), "{what}");
        assert_eq!((self.counted, self.known), (counted, 0), "{what}");
    }
}

/// A socket that belongs to another target than the program's.
pub fn of_another_target(mut trial: Trial) -> Trial {
    trial.resolver.target = TARGET + 1;
    trial
}
