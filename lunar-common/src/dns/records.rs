//! The records of an answer. Their names are passed over: only who was asked can have put an address there, whatever
//! aliases (CNAME) led to it.

use super::{CLASS_IN, Message};
use crate::net::Address;

/// Records that are looked at, the first of an answer.
pub const MOST: u32 = 64;
/// Steps of [`Records`], each a label or a record: what an answer of so many records with names of some length needs.
pub const STEPS: u32 = 512;

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;

/// What a step found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing of interest.
    Nothing,
    /// An address, and for how many seconds it holds.
    Address(Address, u32),
    /// The end of the answer.
    End,
    /// Nothing that may be there, or the end of the message too early.
    Bad,
}

/// The walk over an answer's records.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    at: u32,
    left: u32,
}

impl Records {
    /// At the first of `count` records.
    #[inline(always)]
    pub const fn new(at: u32, count: u32) -> Self {
        Self { at, left: count }
    }

    /// Takes one label of a record's name, or the record. `length`: of the message.
    #[inline(always)]
    pub fn step<M: Message + ?Sized>(&mut self, message: &M, length: u32) -> Found {
        if self.left == 0 {
            return Found::End;
        }
        let Some([label]) = message.read::<1>(self.at) else { return Found::Bad };
        let label = u32::from(label);
        match label {
            1..=63 => {
                self.at += 1 + label;
                return Found::Nothing;
            }
            64..=191 => return Found::Bad,
            _ => {}
        }
        // The root has one byte, a pointer two; then type, class, TTL and the length of the data.
        let at = self.at + 1 + (label >> 7);
        let Some(f) = message.read::<10>(at) else { return Found::Bad };
        let kind = u16::from_be_bytes([f[0], f[1]]);
        let class = u16::from_be_bytes([f[2], f[3]]);
        let ttl = u32::from_be_bytes([f[4], f[5], f[6], f[7]]);
        let size = u32::from(u16::from_be_bytes([f[8], f[9]]));
        let data = at + 10;
        self.at = data + size;
        self.left -= 1;
        if self.at > length {
            return Found::Bad;
        }
        // RFC 2181 section 8: a TTL with the highest bit set counts as zero.
        let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        match (kind, class, size) {
            (A, CLASS_IN, 4) => match message.read::<4>(data) {
                Some(octets) => Found::Address(Address::from_v4_raw(u32::from_ne_bytes(octets)), ttl),
                None => Found::Bad,
            },
            (AAAA, CLASS_IN, 16) => match message.read::<16>(data) {
                Some(octets) => Found::Address(Address::from_octets(octets), ttl),
                None => Found::Bad,
            },
            (A, CLASS_IN, _) | (AAAA, CLASS_IN, _) => Found::Bad,
            _ => Found::Nothing,
        }
    }
}

/// The addresses of an answer whose records begin at `at`, and whether it was read to its end.
#[cfg(test)]
pub fn addresses(message: &[u8], at: u32, count: u32) -> (Vec<(Address, u32)>, bool) {
    let mut records = Records::new(at, count);
    let mut addresses = Vec::new();
    for _ in 0..STEPS {
        match records.step(message, message.len() as u32) {
            Found::Nothing => {}
            Found::Address(address, ttl) => addresses.push((address, ttl)),
            Found::End => return (addresses, true),
            Found::Bad => return (addresses, false),
        }
    }
    (addresses, false)
}
