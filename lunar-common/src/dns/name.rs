//! A question's name as the key of the policy's names: reversed, in small letters, so that the longest prefix is the most
//! specific entry. An exact name ends in NUL, a suffix in a dot; a look-up always ends in NUL.

use super::question::LONGEST_NAME;

/// Bytes of a key.
pub const KEY: usize = 256;
/// Place of the NUL that ends a key in the space where it is written: the name grows from there downwards, so that it need
/// not be turned round.
pub const END: usize = 260;
/// That space: a key may begin with the NUL, and four bytes before it hold its length.
pub const SPACE: usize = END + KEY + 4;

/// What is to be written of one byte of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Letter {
    /// This.
    Write(u8),
    /// Nothing more: the name has ended.
    End,
    /// The name cannot be an entry's.
    Bad,
}

/// The walk over the bytes of a name on the wire.
#[derive(Clone, Copy, Default, Debug)]
pub struct Letters {
    /// Bytes left of the present label.
    pub left: u32,
}

impl Letters {
    /// Takes the next byte. The first one of a name yields a dot, in the place of the NUL.
    #[inline(always)]
    pub fn step(&mut self, byte: u8) -> Letter {
        if self.left == 0 {
            self.left = u32::from(byte);
            return match byte {
                0 => Letter::End,
                1..=63 => Letter::Write(b'.'),
                _ => Letter::Bad,
            };
        }
        self.left -= 1;
        match FOLDED[byte as usize] {
            0 => Letter::Bad,
            letter => Letter::Write(letter),
        }
    }
}

/// Small letters; 0 for a dot inside a label, which would imitate another name, and for what cannot be printed. A table,
/// because one load is cheaper for the verifier than three branches.
static FOLDED: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0x21_u8;
    while byte <= 0x7e {
        table[byte as usize] = byte.to_ascii_lowercase();
        byte += 1;
    }
    table[b'.' as usize] = 0;
    table
};

/// The key of a name on the wire: its length in bits, and its bytes; `None` for one that cannot be an entry's.
pub fn key(wire: &[u8]) -> Option<(u32, [u8; KEY])> {
    let mut space = [0; SPACE];
    let mut letters = Letters::default();
    for (i, byte) in wire.iter().enumerate().take(LONGEST_NAME as usize) {
        match letters.step(*byte) {
            Letter::Write(letter) => space[END - i] = letter,
            Letter::Bad => return None,
            Letter::End if i == 0 => return None,
            Letter::End => {
                space[END] = 0;
                let start = END - (i - 1);
                let mut key = [0; KEY];
                key[..i].copy_from_slice(&space[start..=END]);
                return Some((i as u32 * 8, key));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(wire: &[u8]) -> Option<String> {
        key(wire).map(|(bits, key)| String::from_utf8_lossy(&key[..bits as usize / 8]).into_owned())
    }

    #[test]
    fn a_name_is_written_backwards_with_a_nul() {
        assert_eq!(text(b"\x03API\x06openai\x03com\0").as_deref(), Some("moc.ianepo.ipa\0"));
        assert_eq!(text(b"\x01a\0 rest").as_deref(), Some("a\0"));
        for bad in [
            &b"\0"[..],
            b"",
            b"\x03ab",
            b"\x03a.b\0",
            b"\x02a\0\0",
            b"\x02a \0",
            b"\x02a\x7f\0",
            b"\x40",
            b"\xc0\x0c",
        ] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_longest_name_has_its_place() {
        let mut wire: Vec<u8> =
            [63, 63, 63, 61].into_iter().flat_map(|n| [vec![n], vec![b'x'; n.into()]].concat()).collect();
        wire.push(0);
        assert_eq!(wire.len(), LONGEST_NAME as usize);
        assert_eq!(key(&wire).map(|(bits, _)| bits), Some(254 * 8));
        wire.insert(0, b'x');
        wire[0] = 1;
        wire.insert(1, b'y');
        assert_eq!(key(&wire), None);
    }
}
