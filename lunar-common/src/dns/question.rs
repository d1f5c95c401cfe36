//! Which question a message asks or answers, as one number: only who asked it, of whom, with which id, gets it again.

use super::{HEADER, Message, sip::Sip};
use crate::net::Destination;

/// The longest name on the wire, with all its length bytes and the root's (RFC 1035 section 2.3.4).
pub const LONGEST_NAME: u32 = 255;
/// Steps of [`Labels`]: the most labels that a name can have, and the root.
pub const LABELS: u32 = 128;
/// Steps of [`Tagger`]: the most words that a name can fill.
pub const WORDS: u32 = 32;

/// QTYPE for whatever there is (RFC 8482 says how little that may be).
const ANY: u16 = 255;

/// What a step of a walk found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// There is more.
    On,
    /// The end.
    End,
    /// Nothing that may be there.
    Bad,
}

/// The walk over the labels of the question's name, to its end.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// Where the next label begins; at the end, what follows the name.
    pub at: u32,
}

impl Labels {
    /// At the beginning of the question.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { at: HEADER }
    }

    /// Walks over one label. A question's name is not compressed: there is nothing before it to point to.
    #[inline(always)]
    pub fn step<M: Message + ?Sized>(&mut self, message: &M) -> Walk {
        let Some([length]) = message.read::<1>(self.at) else { return Walk::Bad };
        if length > 63 {
            return Walk::Bad;
        }
        self.at += 1 + u32::from(length);
        let so_far = self.at - HEADER;
        match length {
            _ if so_far > LONGEST_NAME => Walk::Bad,
            0 => Walk::End,
            _ => Walk::On,
        }
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::new()
    }
}

/// A question and the server it goes to, as a number that is not 0. Case does not matter in the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag(pub u64);

/// A tag in the making.
#[derive(Clone, Copy, Debug)]
pub struct Tagger {
    sip: Sip,
    end: u32,
}

impl Tagger {
    /// Begins, for a question with this id, to or from this server, whose name ends before `end`.
    #[inline(always)]
    pub const fn new(key: [u64; 2], id: u16, server: &Destination, end: u32) -> Self {
        let [high, low] = server.address.halves();
        let sip = Sip::new(key).word(high).word(low).word((server.port.raw() as u64) << 16 | id as u64);
        Self { sip, end }
    }

    /// Takes up to eight bytes of the name: its nth word. A place that was carried from step to step would keep the
    /// verifier from seeing that one step is like the other.
    #[inline(always)]
    pub fn step<M: Message + ?Sized>(&mut self, message: &M, nth: u32) -> Walk {
        let at = HEADER + nth * 8;
        if at >= self.end {
            return Walk::End;
        }
        let left = self.end - at;
        // The last word may overlap the one before: what it repeats is shifted out. The header lies before the name.
        let (at, surplus) = if left >= 8 { (at, 0) } else { (self.end - 8, 8 - left) };
        let Some(bytes) = message.read::<8>(at) else { return Walk::Bad };
        self.sip = self.sip.word(lower_case(u64::from_le_bytes(bytes) >> (surplus * 8)));
        Walk::On
    }

    /// Ends with the question's type and class; `None` if they are not there.
    #[inline(always)]
    pub fn end<M: Message + ?Sized>(self, message: &M) -> Option<Tag> {
        let kind: [u8; 4] = message.read(self.end)?;
        let hash = self.sip.end(u32::from_le_bytes(kind));
        Some(Tag(if hash == 0 { 1 } else { hash }))
    }
}

/// Whether the question whose name ends before `end` asks for addresses: of type A, AAAA or ANY, in the Internet.
#[inline(always)]
pub fn asks_for_addresses<M: Message + ?Sized>(message: &M, end: u32) -> bool {
    let Some(kind) = message.read::<4>(end) else { return false };
    let (kind, class) = (u16::from_be_bytes([kind[0], kind[1]]), u16::from_be_bytes([kind[2], kind[3]]));
    class == super::CLASS_IN && matches!(kind, super::records::A | super::records::AAAA | ANY)
}

/// Turns the capital letters among eight bytes into small ones. Length bytes are all below them.
#[inline(always)]
const fn lower_case(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let low = word & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let beyond_z = low + ONES * (0x7f - b'Z' as u64);
    let capital = (from_a ^ beyond_z) & !word & (ONES * 0x80);
    word | capital >> 2
}

/// The tag of a message's question, and where the question ends.
pub fn tag<M: Message + ?Sized>(
    message: &M,
    key: [u64; 2],
    id: u16,
    server: &Destination,
) -> Option<(Tag, u32)> {
    let mut labels = Labels::new();
    let walked = (0..LABELS).map(|_| labels.step(message)).find(|walk| *walk != Walk::On);
    if walked != Some(Walk::End) {
        return None;
    }
    let mut tagger = Tagger::new(key, id, server, labels.at);
    let walked = (0..=WORDS).map(|nth| tagger.step(message, nth)).find(|walk| *walk != Walk::On);
    if walked != Some(Walk::End) {
        return None;
    }
    Some((tagger.end(message)?, labels.at + 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn letters_alone_change_and_as_the_standard_library_says(bytes: [u8; 8]) {
            let expected = u64::from_le_bytes(bytes.map(|b| b.to_ascii_lowercase()));
            prop_assert_eq!(lower_case(u64::from_le_bytes(bytes)), expected);
        }
    }
}
