//! The questions that a socket has asked and that wait for their answers.

use crate::{
    dns::question::Tag,
    net::Destination,
    time::{KtimeNs, SpanNs},
};

/// Questions of one socket that can wait at one time; most resolvers ask two. A resolver that asks hundreds at once through one
/// socket (c-ares) may lose some, which is counted.
pub const QUESTIONS: usize = 128;
/// Places that a question may be in, from the one that its tag names.
const PROBES: usize = 8;
/// How long an answer is waited for. The patience of applications ends much earlier.
pub const VALID_FOR: SpanNs = SpanNs::from_ms(30_000);

/// A question that waits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Its raw [`Tag`]; 0: the place is free. Changed by compare-and-swap: two threads may ask through one socket.
    pub tag: u64,
    /// Raw tag of the same question to the other server that it may be answered by, which waits no longer than this; 0: none.
    pub twin: u64,
    /// When it was asked.
    pub at: KtimeNs,
}

/// What a UDP socket of a target that talks to a DNS server remembers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Resolver {
    /// The server that it was last connected or sent to, as the application named it.
    pub server: Destination,
    /// Target slot + 1 of the innermost target it belongs to.
    pub target: u32,
    /// See [`crate::abi::mark::DECIDED_INSIDE`].
    pub marks: u32,
    /// Always zero.
    pub pad: u32,
    /// The questions.
    pub asked: [Asked; QUESTIONS],
}

impl Asked {
    /// The nth place that a question may be in, of fewer than [`Asked::probes`].
    #[inline(always)]
    pub const fn place(tag: Tag, nth: usize) -> usize {
        (tag.0 as usize).wrapping_add(nth) & (QUESTIONS - 1)
    }

    /// How many there are.
    #[inline(always)]
    pub const fn probes() -> usize {
        PROBES
    }

    /// Whether nothing waits here that could still be answered.
    #[inline(always)]
    pub fn is_free(self, now: KtimeNs) -> bool {
        self.tag == 0 || now.since(self.at) >= VALID_FOR
    }

    /// How well a question with this tag goes here, the least best: it is here already, nothing is, or the one that has waited
    /// longest gives way.
    #[inline(always)]
    pub fn rank(self, tag: Tag, now: KtimeNs) -> u64 {
        if self.tag == tag.0 {
            Self::HERE
        } else if self.is_free(now) {
            Self::FREE
        } else {
            self.at.0.saturating_add(Self::FREE + 1)
        }
    }

    /// The rank of the question's own place.
    pub const HERE: u64 = 0;
    /// The rank of a place where nothing waits.
    pub const FREE: u64 = 1;
}

const _: () = {
    assert!(size_of::<Resolver>() == 32 + 24 * QUESTIONS);
    assert!(core::mem::offset_of!(Resolver, asked) == 32);
    assert!(QUESTIONS.is_power_of_two());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_goes_where_it_is_or_where_none_waits_or_in_the_place_of_the_oldest() {
        let now = KtimeNs(VALID_FOR.0 * 3);
        let waits = |tag, ago| Asked { tag, twin: 0, at: KtimeNs(now.0 - ago) };
        let best = |places: &[Asked]| {
            let ranks: Vec<u64> = places.iter().map(|asked| asked.rank(Tag(7), now)).collect();
            let at = (0..ranks.len()).min_by_key(|at| ranks[*at]).unwrap();
            (at, ranks[at] > Asked::FREE)
        };
        assert_eq!(best(&[waits(1, 5), waits(0, 0), waits(7, 9)]), (2, false));
        assert_eq!(best(&[waits(1, 5), waits(0, 0), waits(2, 9)]), (1, false));
        assert_eq!(
            best(&[waits(1, 5), waits(3, VALID_FOR.0), waits(2, 9)]),
            (1, false),
            "it will not be answered"
        );
        assert_eq!(best(&[waits(1, 5), waits(3, 8), waits(2, 9)]), (2, true));
        assert_eq!(best(&[Asked { tag: 1, twin: 0, at: KtimeNs(u64::MAX) }, waits(2, 9)]), (1, true));
    }
}
