//! What a relay counts, where it outlives the relay: so that what was under way when one was killed is known.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::kernel::relay::{Count, RelayCounts};

/// The counts of this process.
pub struct Counts {
    counts: RelayCounts,
    place: u32,
}

impl Counts {
    /// Counts in a place of the lives that is this process's.
    pub fn new(counts: RelayCounts, place: u32) -> Self {
        Self { counts, place }
    }

    /// Adds one.
    pub fn one(&self, count: Count) {
        self.counts.add(count, 1);
    }

    /// A counter, of all relays there have been.
    pub fn get(&self, count: Count) -> u64 {
        self.counts.get(count)
    }

    /// A connection, as long as the result lives.
    pub fn connection(&self) -> Under<'_> {
        Under::new(self.counts.life(self.place).connections)
    }

    /// A request under way, as long as the result lives.
    pub fn request(&self) -> Under<'_> {
        Under::new(self.counts.life(self.place).requests)
    }

    /// The number of requests under way in this process, for a guard that outlives a borrow.
    pub(super) fn requests_cell(&self) -> &AtomicU64 {
        self.counts.life(self.place).requests
    }

    /// Requests under way in this process.
    pub fn requests(&self) -> u64 {
        self.counts.life(self.place).requests.load(Ordering::Relaxed)
    }

    /// Connections of applications that are open in this process.
    pub fn connections(&self) -> u64 {
        self.counts.life(self.place).connections.load(Ordering::Relaxed)
    }
}

/// One that is under way.
#[must_use]
pub struct Under<'a>(&'a AtomicU64);

impl<'a> Under<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
