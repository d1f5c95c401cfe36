//! The places in which relays count what is under way, so that it is known when one has died.

use std::sync::atomic::Ordering;

use lunar_common::abi::MAX_RELAYS;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use procfs::process::Process;

use crate::kernel::relay::{Count, Life, RelayCounts};

/// In the place of a process id: what a dead process left is being settled. No process has such an id.
const SETTLING: u32 = u32::MAX;
/// Value of `RelayLife::phase`: takes connections.
const SERVES: u32 = 1;
/// Finishes what it has begun.
const DRAINS: u32 = 2;

/// The place of this process; given back when dropped.
pub(super) struct OwnLife {
    counts: RelayCounts,
    place: u32,
}

impl OwnLife {
    /// Takes a free place; `None` if so many relays live.
    pub fn take(counts: RelayCounts) -> Option<Self> {
        let pid = std::process::id();
        let started = started(pid).unwrap_or_default();
        let place = (0..MAX_RELAYS).find(|place| {
            let taken = counts.life(*place).pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        })?;
        let life = counts.life(place);
        life.started.store(started, Ordering::Release);
        life.phase.store(SERVES, Ordering::Release);
        Some(Self { counts, place })
    }

    pub const fn place(&self) -> u32 {
        self.place
    }

    /// Says that it finishes what it has begun.
    pub fn drains(&self) {
        self.counts.life(self.place).phase.store(DRAINS, Ordering::Release);
    }

    /// Counts what is still under way as lost: the process ends now. Returns how many requests.
    pub fn cut_off(&self) -> u64 {
        let lost = self.counts.life(self.place).requests.load(Ordering::Acquire);
        self.counts.add(Count::Lost, lost);
        lost
    }
}

impl Drop for OwnLife {
    fn drop(&mut self) {
        free(self.counts.life(self.place));
    }
}

/// Counts as lost what was under way in relays whose process is gone, and frees their places. Processes are looked up by
/// the ids of this process's PID namespace: all relays and agents of the same pins have to be in the same.
pub fn settle_dead(counts: &RelayCounts) {
    for life in (0..MAX_RELAYS).map(|place| counts.life(place)) {
        let pid = life.pid.load(Ordering::Acquire);
        if pid == 0 || lives(pid, life.started.load(Ordering::Acquire)) {
            continue;
        }
        // Only one settles it, and nobody takes the place meanwhile.
        if life.pid.compare_exchange(pid, SETTLING, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let requests = life.requests.load(Ordering::Acquire);
            counts.add(Count::Lost, requests);
            free(life);
            tracing::warn!(pid, requests, "a relay has died; requests that were under way in it are lost");
        }
    }
}

/// Tells all relays that serve to end: connects go direct at once, and each finishes the requests that it has begun. Those that do so
/// already are not told again: a second signal would cut their requests off.
pub fn end_all(counts: &RelayCounts) {
    for life in counts.lives().into_iter().filter(|life| life.phase == SERVES) {
        let Ok(pid) = i32::try_from(life.pid) else { continue };
        if lives(life.pid, life.started)
            && let Err(e) = signal::kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            tracing::warn!(pid, error = %e, "a relay is not told to end");
        }
    }
}

/// Kills a relay that does not answer, if it is one.
pub(super) fn kill(counts: &RelayCounts, pid: u32) {
    let known = counts.lives().into_iter().find(|life| life.pid == pid);
    if known.is_some_and(|life| lives(pid, life.started))
        && let Ok(raw) = i32::try_from(pid)
    {
        match signal::kill(Pid::from_raw(raw), Signal::SIGKILL) {
            Ok(()) => tracing::warn!(pid, "a relay that hangs was killed"),
            Err(e) => tracing::warn!(pid, error = %e, "a relay that hangs could not be killed"),
        }
    }
}

fn free(life: Life<'_>) {
    life.requests.store(0, Ordering::Release);
    life.connections.store(0, Ordering::Release);
    life.phase.store(0, Ordering::Release);
    life.started.store(0, Ordering::Release);
    life.pid.store(0, Ordering::Release);
}

/// Whether a process lives that started then; 0: it has just taken its place, and its id is enough.
fn lives(pid: u32, since: u64) -> bool {
    started(pid).is_some_and(|started| since == 0 || since == started)
}

/// When a process started, in clock ticks since boot. `None` if it is gone, or only waits for its parent to notice.
fn started(pid: u32) -> Option<u64> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_place_is_taken_told_apart_and_given_back() {
        let own = OwnLife::take(RelayCounts::in_memory()).expect("a free place");
        let life = own.counts.life(own.place());
        assert_eq!(life.pid.load(Ordering::Relaxed), std::process::id());
        assert_eq!(life.phase.load(Ordering::Relaxed), SERVES);
        assert_ne!(life.started.load(Ordering::Relaxed), 0);
        own.drains();
        assert_eq!(life.phase.load(Ordering::Relaxed), DRAINS);
        settle_dead(&own.counts);
        assert_eq!(life.pid.load(Ordering::Relaxed), std::process::id(), "it lives");
    }

    #[test]
    fn there_is_no_place_beside_as_many_relays_as_may_live() {
        let counts = RelayCounts::in_memory();
        for place in 0..MAX_RELAYS {
            counts.life(place).pid.store(std::process::id(), Ordering::Relaxed);
        }
        assert!(OwnLife::take(counts).is_none());
    }

    #[test]
    fn requests_of_the_dead_are_lost_and_those_of_the_living_are_not() {
        let counts = RelayCounts::in_memory();
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let since = started(child.id()).expect("it runs");
        let enter = |place: u32, pid: u32, since: u64, requests: u64| {
            let life = counts.life(place);
            life.pid.store(pid, Ordering::Relaxed);
            life.started.store(since, Ordering::Relaxed);
            life.requests.store(requests, Ordering::Relaxed);
            life.connections.store(9, Ordering::Relaxed);
        };
        enter(0, child.id(), since, 3);
        // Its id is somebody else's by now.
        enter(1, child.id(), since + 1, 4);
        // It has not said yet when it started.
        enter(2, child.id(), 0, 5);
        settle_dead(&counts);
        let pids = || [0, 1, 2].map(|place| counts.life(place).pid.load(Ordering::Relaxed));
        assert_eq!((counts.get(Count::Lost), pids()), (4, [child.id(), 0, child.id()]));
        // Nobody has waited for it yet.
        child.kill().expect("it runs");
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        settle_dead(&counts);
        assert_eq!((counts.get(Count::Lost), pids()), (12, [0; 3]));
        assert_eq!(counts.life(0).connections.load(Ordering::Relaxed), 0);
        child.wait().expect("it has ended");
    }
}
