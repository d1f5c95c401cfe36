//! The compiled policy: which addresses are wanted, and on which ports.
//!
//! The agent flattens all entries, with what each inherits from its ancestors, into disjoint ranges:
//! one sorted list of *boundaries* per family, each the first address of a range and the range's
//! [`Answer`]. Three tables lead to it, each a plain array, whose look-up the verifier inlines:
//!
//! 1. the *outline*: two bits for each of 2^20 blocks of addresses, which say that all of the block is
//!    wanted, or all of it not, or that it has to be looked at. 256 KiB for a family, which stay in a core's
//!    cache: with 100,000 random entries nine look-ups of ten end here, after one access.
//! 2. the *buckets*: for each value of the top 16 bits the answer, or which boundaries to search;
//! 3. the *boundaries*, by binary search, one to three steps for random entries.
//!
//! For comparison: a hash of single addresses costs 90 ns at 100,000 random keys, an LPM trie of CIDRs 450.

use crate::net::Address;

/// Buckets of a family: one per value of the top 16 bits.
pub const BUCKETS: u32 = 1 << 16;

/// Steps of the binary search: enough for 2^20 boundaries in one bucket. Of 64 bits, so that the counter has a stack slot of
/// its own where registers are short: half a slot is forgotten when the other half is written, and then the kernel's
/// verifier sees a loop without end.
pub const SEARCH_STEPS: u64 = 20;

/// The most extra or blocked ports that one address can have.
pub const PORTS_PER_RULE: usize = 8;

/// What the policy says of an address, or of a name.
///
/// Bit 31: wanted. Bit 30: blocked by an entry, which wins over whatever else is said of the same address. Bits 12 to 25:
/// number of the entry that says so, for its hits. Bits 0 to 11: index of the [`PortRule`], 0 for none.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Answer(pub u32);

const WANTED: u32 = 1 << 31;
const BLOCKED: u32 = 1 << 30;
const ENTRY_AT: u32 = 12;

/// Entries whose hits are counted; the entry's number in an [`Answer`] is less, and 0 is none.
pub const COUNTED_ENTRIES: u32 = 1 << 14;

impl Answer {
    /// Nothing is wanted from this address.
    pub const UNWANTED: Self = Self(0);

    /// An answer without an entry's number, from its parts.
    pub const fn new(wanted: bool, rule: u16) -> Self {
        Self((wanted as u32) << 31 | rule as u32 & ((1 << ENTRY_AT) - 1))
    }

    /// The same, blocked.
    pub const fn block(self) -> Self {
        Self(self.0 & !WANTED | BLOCKED)
    }

    /// The same, said by the entry of this number; one that is too great is not counted.
    pub const fn by(self, entry: u32) -> Self {
        let counted = if entry < COUNTED_ENTRIES { entry } else { 0 };
        Self(self.0 & !((COUNTED_ENTRIES - 1) << ENTRY_AT) | counted << ENTRY_AT)
    }

    /// Whether connections to the address are wanted, port rules aside.
    #[inline(always)]
    pub const fn wanted(self) -> bool {
        self.0 & WANTED != 0
    }

    /// Whether an entry blocks all of it.
    #[inline(always)]
    pub const fn blocked(self) -> bool {
        self.0 & BLOCKED != 0
    }

    /// Number of the entry that says so; 0: none, or not counted.
    #[inline(always)]
    pub const fn entry(self) -> u32 {
        self.0 >> ENTRY_AT & (COUNTED_ENTRIES - 1)
    }

    /// Index of the address' port rule; 0: none.
    #[inline(always)]
    pub const fn rule(self) -> u16 {
        (self.0 & ((1 << ENTRY_AT) - 1)) as u16
    }
}

/// Ports that entries name for an address; unused places are 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PortRule {
    /// Ports intercepted for this address besides the general ones, host order.
    pub extra: [u16; PORTS_PER_RULE],
    /// Ports of this address that stay direct, host order.
    pub blocked: [u16; PORTS_PER_RULE],
}

impl PortRule {
    /// Whether an entry adds `port` to the intercepted ones.
    #[inline(always)]
    pub fn adds(&self, port: u16) -> bool {
        holds(&self.extra, port)
    }

    /// Whether an entry blocks some port alone.
    pub fn blocks_any(&self) -> bool {
        self.blocked != [0; PORTS_PER_RULE]
    }

    /// Whether an entry blocks `port` alone.
    #[inline(always)]
    pub fn blocks(&self, port: u16) -> bool {
        holds(&self.blocked, port)
    }
}

#[inline(always)]
fn holds(ports: &[u16; PORTS_PER_RULE], port: u16) -> bool {
    port != 0 && ports.contains(&port)
}

/// What is known of a port before the address is looked at. 65,536 of them, two bits each.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortClass {
    /// No entry and no list names it.
    Ignored = 0,
    /// Intercepted for every wanted address.
    Intercepted = 1,
    /// Intercepted only for the addresses whose entry adds it.
    ByEntry = 2,
    /// Would be intercepted, but `tls = "direct"` leaves it alone.
    TlsDirect = 3,
}

/// Ports per word of the class table.
pub const PORTS_PER_WORD: u32 = 32;

impl PortClass {
    /// The class of `port` out of the table's word number `port / 32`.
    #[inline(always)]
    pub const fn of(word: u64, port: u16) -> Self {
        match word >> (port as u32 % PORTS_PER_WORD * 2) & 3 {
            0 => Self::Ignored,
            1 => Self::Intercepted,
            2 => Self::ByEntry,
            _ => Self::TlsDirect,
        }
    }

    /// Enters the class of `port` into its word.
    pub const fn enter(self, word: &mut u64, port: u16) {
        let at = port as u32 % PORTS_PER_WORD * 2;
        *word = *word & !(3 << at) | (self as u64) << at;
    }
}

/// One bucket: `count` boundaries from index `at`, the first of them at the bucket's own start; or, with
/// `count` 0, the answer for the whole bucket in `at`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// Index of the first boundary, or the raw answer.
    pub at: u32,
    /// Number of boundaries; 0: undivided.
    pub count: u32,
}

/// Blocks of a family's outline.
pub const BLOCKS: u32 = 1 << 20;

/// Blocks per word of an outline.
pub const BLOCKS_PER_WORD: u32 = 32;

/// What the outline says of a block of addresses.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outline {
    /// None of it is wanted.
    Unwanted = 0,
    /// All of it is wanted, on the general ports.
    Wanted = 1,
    /// It is divided, or has a port rule: look further.
    Divided = 2,
}

impl Outline {
    /// What the outline's word number `block / 32` says of `block`.
    #[inline(always)]
    pub const fn of(word: u64, block: u32) -> Self {
        match word >> (block % BLOCKS_PER_WORD * 2) & 3 {
            0 => Self::Unwanted,
            1 => Self::Wanted,
            _ => Self::Divided,
        }
    }

    /// Enters what is to be said of `block` into its word, which said nothing else of it before.
    pub const fn enter(self, word: &mut u64, block: u32) {
        *word |= (self as u64) << (block % BLOCKS_PER_WORD * 2);
    }

    /// Enters the same of many blocks, whole words at a time.
    pub fn enter_all(self, words: &mut [u64], blocks: core::ops::Range<u32>) {
        const EVERY_BLOCK: u64 = u64::MAX / 3;
        let mut block = blocks.start;
        while block < blocks.end {
            let word = &mut words[(block / BLOCKS_PER_WORD) as usize];
            if block.is_multiple_of(BLOCKS_PER_WORD) && blocks.end - block >= BLOCKS_PER_WORD {
                *word = self as u64 * EVERY_BLOCK;
                block += BLOCKS_PER_WORD;
            } else {
                self.enter(word, block);
                block += 1;
            }
        }
    }
}

/// An address family as the table sees it: how to split it into bucket and remainder.
pub trait Family: Copy {
    /// A boundary as it lies in the map.
    type Boundary: Copy;
    /// The outline's block of this address, if the outline covers it.
    fn block(self) -> Option<u32>;
    /// The bucket of this address.
    fn bucket(self) -> u32;
    /// Whether the range that begins at `boundary` begins after this address.
    fn before(self, boundary: &Self::Boundary) -> bool;
    /// The answer of the range that begins at `boundary`.
    fn answer(boundary: &Self::Boundary) -> Answer;
}

/// An IPv4 address in host order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct V4(pub u32);

/// A range of IPv4 addresses begins here.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BoundaryV4 {
    /// First address, host order.
    pub start: u32,
    /// Raw [`Answer`] of the range.
    pub answer: u32,
}

impl Family for V4 {
    type Boundary = BoundaryV4;

    #[inline(always)]
    fn block(self) -> Option<u32> {
        Some(self.0 >> (32 - BLOCKS.ilog2()))
    }

    #[inline(always)]
    fn bucket(self) -> u32 {
        self.0 >> 16
    }

    #[inline(always)]
    fn before(self, boundary: &BoundaryV4) -> bool {
        self.0 < boundary.start
    }

    #[inline(always)]
    fn answer(boundary: &BoundaryV4) -> Answer {
        Answer(boundary.answer)
    }
}

/// An IPv6 address as two halves in host order (128-bit arithmetic is a library call in BPF).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct V6 {
    /// The upper 64 bits.
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
}

/// A range of IPv6 addresses begins here.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BoundaryV6 {
    /// Upper 64 bits of the first address, host order.
    pub high: u64,
    /// Lower 64 bits of the first address, host order.
    pub low: u64,
    /// Raw [`Answer`] of the range.
    pub answer: u32,
    /// Always zero.
    pub pad: u32,
}

impl Family for V6 {
    type Boundary = BoundaryV6;

    /// Of `2000::/3`, the only part that IANA hands out.
    #[inline(always)]
    fn block(self) -> Option<u32> {
        if self.high >> 61 == 1 {
            Some((self.high >> (61 - BLOCKS.ilog2())) as u32 & (BLOCKS - 1))
        } else {
            None
        }
    }

    #[inline(always)]
    fn bucket(self) -> u32 {
        (self.high >> 48) as u32
    }

    #[inline(always)]
    fn before(self, boundary: &BoundaryV6) -> bool {
        self.high < boundary.high || self.high == boundary.high && self.low < boundary.low
    }

    #[inline(always)]
    fn answer(boundary: &BoundaryV6) -> Answer {
        Answer(boundary.answer)
    }
}

/// The IPv4 key of an address; meaningful only where it is one.
#[inline(always)]
pub const fn v4_key(address: Address) -> V4 {
    V4(u32::from_be(address.v4_raw()))
}

/// The IPv6 key of an address.
#[inline(always)]
pub const fn v6_key(address: Address) -> V6 {
    let words = address.words();
    V6 {
        high: (u32::from_be(words[0]) as u64) << 32 | u32::from_be(words[1]) as u64,
        low: (u32::from_be(words[2]) as u64) << 32 | u32::from_be(words[3]) as u64,
    }
}

/// Looks `key` up in the outline, of which `word(i)` gives the i-th word; `None`: look further.
#[inline(always)]
pub fn skim<F: Family>(key: F, word: impl Fn(u32) -> Option<u64>) -> Option<Answer> {
    let block = key.block()?;
    match Outline::of(word(block / BLOCKS_PER_WORD)?, block) {
        Outline::Unwanted => Some(Answer::UNWANTED),
        Outline::Wanted => Some(Answer::new(true, 0)),
        Outline::Divided => None,
    }
}

/// Looks `key` up in its bucket. `boundary(i)` gives the i-th boundary of the list; where it gives none
/// (which a table made by the agent never does) the address is unwanted: fail open.
#[inline(always)]
pub fn search<F: Family>(key: F, bucket: Bucket, boundary: impl Fn(u32) -> Option<F::Boundary>) -> Answer {
    if bucket.count == 0 {
        return Answer(bucket.at);
    }
    // The last boundary that is not after the key lies in [low, low + span).
    let mut low = bucket.at;
    let mut span = bucket.count;
    for _ in 0..SEARCH_STEPS {
        if span <= 1 {
            break;
        }
        let half = span / 2;
        let Some(middle) = boundary(low + half) else {
            return Answer::UNWANTED;
        };
        if !key.before(&middle) {
            low += half;
        }
        span -= half;
    }
    boundary(low).map_or(Answer::UNWANTED, |b| F::answer(&b))
}

#[cfg(test)]
mod tests;
