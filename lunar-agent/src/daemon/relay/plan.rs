//! What is to be done about the network namespaces, from what is served and what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lunar_common::abi::MAX_RELAYED;

use crate::targets::netns::NetnsId;

/// How long a network namespace may be without a process of a target before it is left: a container that restarts keeps its own.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace that the relay listens in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Served {
    /// Its cookie.
    pub(super) cookie: u64,
    /// Its number among them.
    pub(super) place: u32,
    /// Whether it was to listen for IPv6 as well. Where that is switched off for the loopback device alone it does not.
    pub(super) v6: bool,
    /// When a target was last seen in it, since the keeper began.
    pub(super) seen: Duration,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    served: BTreeMap<NetnsId, Served>,
}

/// What a look leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// To be listened in: a namespace, and a process that is in it.
    pub(super) serve: Vec<(NetnsId, u32)>,
    /// To be left.
    pub(super) leave: Vec<Served>,
}

impl Plan {
    /// After a look at all targets at `now`.
    pub(super) fn after(&mut self, wanted: &BTreeMap<NetnsId, u32>, now: Duration) -> Steps {
        let mut steps = Steps::default();
        for (id, pid) in wanted {
            match self.served.get_mut(id) {
                Some(served) => served.seen = now,
                None => steps.serve.push((*id, *pid)),
            }
        }
        self.served.retain(|_, served| {
            let stays = now.saturating_sub(served.seen) < PATIENCE;
            if !stays {
                steps.leave.push(*served);
            }
            stays
        });
        steps
    }

    /// Forgets all but those with these cookies.
    pub(super) fn keep(&mut self, cookies: &[u64]) {
        self.served.retain(|_, served| cookies.contains(&served.cookie));
    }

    /// The cookies of all.
    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.served.values().map(|served| served.cookie)
    }

    /// Those that are served and wanted, each with a process that is in it.
    pub(super) fn with(&self, wanted: &BTreeMap<NetnsId, u32>) -> Vec<(NetnsId, Served, u32)> {
        let with = |(id, pid): (&NetnsId, &u32)| self.served.get(id).map(|served| (*id, *served, *pid));
        wanted.iter().filter_map(with).collect()
    }

    /// Forgets one.
    pub(super) fn forget(&mut self, id: NetnsId) {
        self.served.remove(&id);
    }

    /// Whether it is served.
    pub(super) fn serves(&self, id: NetnsId) -> bool {
        self.served.contains_key(&id)
    }

    /// Those that are.
    pub(super) fn served(&self) -> BTreeSet<NetnsId> {
        self.served.keys().copied().collect()
    }

    /// Enters one.
    pub(super) fn enter(&mut self, id: NetnsId, served: Served) {
        self.served.insert(id, served);
    }

    /// The lowest number that is nobody's, neither ours nor among `taken`.
    pub(super) fn free_place(&self, taken: &BTreeSet<u32>) -> Option<u32> {
        let ours: BTreeSet<u32> = self.served.values().map(|served| served.place).collect();
        (0..MAX_RELAYED).find(|place| !ours.contains(place) && !taken.contains(place))
    }

    /// Forgets all, and tells which they were.
    pub(super) fn clear(&mut self) -> Vec<Served> {
        std::mem::take(&mut self.served).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::netns::NetnsId;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wanted(pids: &[u32]) -> BTreeMap<NetnsId, u32> {
        pids.iter().map(|pid| (NetnsId::for_test(u64::from(*pid)), *pid)).collect()
    }

    #[test]
    fn a_namespace_is_served_once_and_left_when_it_has_been_empty_for_long() {
        let mut plan = Plan::default();
        let id = NetnsId::for_test(7);
        assert_eq!(plan.after(&wanted(&[7]), at(0)), Steps { serve: vec![(id, 7)], leave: vec![] });
        let served = Served { cookie: 70, place: 0, v6: true, seen: at(0) };
        plan.enter(id, served);
        assert_eq!(plan.after(&wanted(&[7]), at(9)), Steps::default());
        assert_eq!(plan.after(&wanted(&[]), at(13)), Steps::default(), "its container may restart");
        let left = plan.after(&wanted(&[]), at(14));
        assert_eq!(left, Steps { serve: vec![], leave: vec![Served { seen: at(9), ..served }] });
        assert_eq!(plan.after(&wanted(&[]), at(20)), Steps::default(), "once");
        assert_eq!(plan.after(&wanted(&[7]), at(21)).serve, [(id, 7)], "it has come back");
    }

    #[test]
    fn places_are_nobody_elses() {
        let mut plan = Plan::default();
        let served = |place| Served { cookie: 1, place, v6: false, seen: at(0) };
        plan.enter(NetnsId::for_test(1), served(0));
        plan.enter(NetnsId::for_test(2), served(2));
        assert_eq!(plan.free_place(&BTreeSet::from([1])), Some(3));
        assert_eq!(plan.free_place(&(0..MAX_RELAYED).collect()), None);
    }

    #[test]
    fn what_a_successor_does_not_serve_is_served_anew() {
        let mut plan = Plan::default();
        for n in [1, 2] {
            plan.enter(NetnsId::for_test(n), Served { cookie: n * 10, place: 0, v6: false, seen: at(0) });
        }
        plan.keep(&[20, 30]);
        assert_eq!(plan.after(&wanted(&[1, 2]), at(1)).serve, [(NetnsId::for_test(1), 1)]);
    }
}
