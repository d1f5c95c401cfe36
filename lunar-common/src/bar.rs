//! A bar between one target and one endpoint: no port was free for a connect.
//!
//! One source address has about 28,000 of them for one endpoint. The next connects would fare no better, and to their
//! own destinations they would not fail at all: they go direct for a while, twice as long each time, and then one of
//! them tries again.
//!
//! The word holds the time at which the bar falls, in nanoseconds of the kernel's monotonic clock, with the number of
//! doublings in its lowest bits. It is stored as one; of two that are written at a time either will do.

use crate::{
    abi::{MAX_ENDPOINTS, MAX_TARGETS},
    time::{KtimeNs, SpanNs},
};

/// Entries of the map of bars.
pub const PLACES: u32 = MAX_TARGETS * MAX_ENDPOINTS;

/// The entry of a target's bar to an endpoint, both by slot.
#[inline(always)]
pub const fn place(target: u32, endpoint: u32) -> u32 {
    target * MAX_ENDPOINTS + endpoint
}

/// How long the first bar lasts.
const FIRST: SpanNs = SpanNs(1_000_000_000);
/// The most doublings: 64 s.
const MOST: u64 = 6;
/// The bits of the number of doublings.
const DOUBLINGS: u64 = 0x7;

/// A bar; zero is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bar(pub u64);

impl Bar {
    #[inline(always)]
    const fn falls(self) -> u64 {
        self.0 & !DOUBLINGS
    }

    #[inline(always)]
    const fn span(doublings: u64) -> u64 {
        FIRST.0 << doublings
    }

    /// Whether connects of the target do not go to the endpoint. One that would last longer than any can is no bar, but
    /// something else that somebody wrote there.
    #[inline(always)]
    pub const fn holds(self, now: KtimeNs) -> bool {
        let left = self.falls().wrapping_sub(now.0);
        left != 0 && left <= Self::span(MOST)
    }

    /// How long it still holds.
    pub const fn remaining(self, now: KtimeNs) -> SpanNs {
        if self.holds(now) { SpanNs(self.falls() - now.0) } else { SpanNs(0) }
    }

    /// After a connect found no port. Those that were decided before the bar was there change nothing. One
    /// soon after it fell (within as long as it lasted) makes the next twice as long.
    #[inline(always)]
    pub const fn raised(self, now: KtimeNs) -> Self {
        if self.holds(now) {
            return self;
        }
        let before = self.0 & DOUBLINGS;
        let recent = self.0 != 0 && now.0.wrapping_sub(self.falls()) < Self::span(before);
        let doublings = match (recent, before < MOST) {
            (true, true) => before + 1,
            (true, false) => MOST,
            (false, _) => 0,
        };
        Self((now.0 + Self::span(doublings)) & !DOUBLINGS | doublings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_doubles_while_attempts_fail_and_begins_anew_after_peace() {
        let mut now = KtimeNs(77 * SECOND);
        let mut bar = Bar::default();
        assert!(!bar.holds(now));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            bar = bar.raised(now);
            assert!(bar.holds(KtimeNs(now.0 + seconds * SECOND - 8)), "{seconds}");
            assert_eq!(bar.raised(KtimeNs(now.0 + 5)), bar, "what was under way changes nothing");
            now = KtimeNs(now.0 + seconds * SECOND);
            assert!(!bar.holds(now), "{seconds}");
        }
        let peace = KtimeNs(now.0 + 64 * SECOND);
        assert_eq!(bar.raised(peace).remaining(peace).0.div_ceil(8) * 8, SECOND);
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_map_it_never_lasts_longer_than_the_longest(word: u64, now in 0..1_u64 << 60) {
            let (bar, now) = (Bar(word), KtimeNs(now));
            let raised = bar.raised(now);
            prop_assert!(raised.holds(now));
            prop_assert!(raised.remaining(now).0 <= 64 * SECOND);
            prop_assert!(!bar.holds(now) || raised == bar);
        }
    }
}
