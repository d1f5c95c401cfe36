//! SipHash-1-3 (Aumasson and Bernstein, 2012) over words: short, and with a secret key nobody can find two questions of the
//! same hash, as they can with FNV.

/// A hash in the making.
#[derive(Clone, Copy, Debug)]
pub struct Sip {
    v: [u64; 4],
    words: u64,
}

impl Sip {
    /// Begins, with a secret key.
    #[inline(always)]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v: [
                key[0] ^ 0x736f_6d65_7073_6575,
                key[1] ^ 0x646f_7261_6e64_6f6d,
                key[0] ^ 0x6c79_6765_6e65_7261,
                key[1] ^ 0x7465_6462_7974_6573,
            ],
            words: 0,
        }
    }

    /// Eight bytes more, little-endian.
    #[inline(always)]
    pub const fn word(mut self, word: u64) -> Self {
        self.v[3] ^= word;
        self = self.round();
        self.v[0] ^= word;
        self.words += 1;
        self
    }

    /// Ends with four bytes more, little-endian.
    #[inline(always)]
    pub const fn end(mut self, tail: u32) -> u64 {
        let last = (self.words * 8 + 4) << 56 | tail as u64;
        self = self.word(last);
        self.v[2] ^= 0xff;
        self = self.round().round().round();
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    #[inline(always)]
    const fn round(mut self) -> Self {
        let v = &mut self.v;
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_hash_of_the_standard_library(words: Vec<u64>, tail: u32) {
            // SipHash-1-3 with a key of zero.
            let mut theirs = DefaultHasher::new();
            words.iter().for_each(|word| theirs.write(&word.to_le_bytes()));
            theirs.write(&tail.to_le_bytes());
            let ours = words.iter().fold(Sip::new([0; 2]), |sip, word| sip.word(*word)).end(tail);
            prop_assert_eq!(ours, theirs.finish());
        }

        #[test]
        fn the_key_matters(key: [u64; 2], other: [u64; 2], word: u64) {
            prop_assume!(key != other);
            prop_assert_ne!(Sip::new(key).word(word).end(0), Sip::new(other).word(word).end(0));
        }
    }
}
