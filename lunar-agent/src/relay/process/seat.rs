//! One of a number that is bounded: a connection of a namespace, a client of the control socket.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One that is there, until it is dropped.
#[must_use]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// Whether it is one too many is for the caller to ask before ([`Seat::taken`]).
    pub fn take(seats: &Arc<AtomicUsize>) -> Self {
        seats.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seats))
    }

    /// How many there are.
    pub fn taken(seats: &AtomicUsize) -> usize {
        seats.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
