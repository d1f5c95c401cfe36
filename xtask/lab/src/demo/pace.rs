//! How long everything takes.

use std::time::Duration;

/// The times of a demo.
#[derive(Debug)]
pub(super) struct Pace {
    /// From one call to the next.
    pub(super) every: Duration,
    /// A phase that a person is to take in.
    pub(super) long: Duration,
    /// One that only confirms.
    pub(super) short: Duration,
    /// `failsafe.exit_cooldown_after_sec`, whole seconds.
    pub(super) cooldown: Duration,
    /// `failsafe.lease`
    pub(super) lease: Duration,
}

impl Pace {
    /// About half a minute, for people.
    pub(super) const FULL: Self = Self {
        every: Duration::from_millis(250),
        long: Duration::from_secs(4),
        short: Duration::from_millis(2500),
        cooldown: Duration::from_secs(5),
        lease: Duration::from_secs(3),
    };

    /// About twelve seconds, for CI.
    pub(super) const BRIEF: Self = Self {
        every: Duration::from_millis(125),
        long: Duration::from_millis(1500),
        short: Duration::from_secs(1),
        cooldown: Duration::from_secs(3),
        lease: Duration::from_millis(1500),
    };
}
