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
}

const _: () = {
    assert!(size_of::<Resolver>() == 32 + 16 * QUESTIONS);
    assert!(core::mem::offset_of!(Resolver, asked) == 32);
    assert!(QUESTIONS.is_power_of_two());
};
