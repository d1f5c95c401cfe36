//! The oldest unanswered SYN of an endpoint: once it is older than 200 ms, new connects go direct.
//!
//! Eight start times per endpoint, one cache line. A SYN takes a free slot and clears it when it is
//! answered or given up. With all eight taken a further SYN is not tracked: the eight are older.

use crate::time::{KtimeNs, SpanNs};

/// SYNs tracked per endpoint.
pub const SYN_SLOTS: usize = 8;

/// An unanswered SYN older than this sends new connects direct.
pub const OVERDUE: SpanNs = SpanNs::from_ms(200);

/// No SYN is unanswered for longer than this (`connect_timeout` is at most a minute): an older entry
/// lost its owner, for example to a detached program, and must not hold traffic back for ever.
pub const FORGOTTEN: SpanNs = SpanNs::from_ms(120_000);

/// Whether a tracked start time is that of a SYN that has been unanswered for too long. Zero is a free slot.
#[inline(always)]
pub const fn overdue(started: u64, now: KtimeNs) -> bool {
    let age = now.since(KtimeNs(started)).0;
    started != 0 && age > OVERDUE.0 && age < FORGOTTEN.0
}

/// Whether a new SYN may take the slot: it is free, or was left behind.
#[inline(always)]
pub const fn available(started: u64, now: KtimeNs) -> bool {
    started == 0 || now.since(KtimeNs(started)).0 >= FORGOTTEN.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_old_and_owned_syn_is_overdue() {
        let now = KtimeNs(1_000_000_000_000);
        let ago = |ms: u64| now.0 - SpanNs::from_ms(ms).0;
        assert!(!overdue(0, now));
        assert!(!overdue(ago(200), now));
        assert!(overdue(ago(201), now));
        assert!(overdue(ago(119_999), now));
        assert!(!overdue(ago(120_000), now));
        assert!(available(0, now) && available(ago(120_000), now));
        assert!(!available(ago(201), now));
        assert!(!overdue(now.0 + 5, now), "the coarse clock may lag");
    }
}
