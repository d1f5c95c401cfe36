//! Reading DNS messages (RFC 1035 section 4.1) as far as the policy needs it: which question a message asks or answers,
//! and which addresses the answer has. Follows nothing, trusts nothing: every read is checked against the message, every
//! walk has a step that can be taken a bounded number of times, by a loop here and by `bpf_loop` in the kernel.

pub mod name;
pub mod question;
pub mod records;
pub mod sip;

/// Length of a message's header.
pub const HEADER: u32 = 12;
/// The port that answers come from.
pub const PORT: u16 = 53;
/// `IN`, the only class that has addresses.
const CLASS_IN: u16 = 1;

/// The bytes of a message, from its first.
pub trait Message {
    /// `N` bytes from `at` on; `None` where the message ends before.
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
}

impl Message for [u8] {
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

/// A message's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The id, as it lies in the message.
    pub id: u16,
    flags: u16,
    questions: u16,
    /// Records that it says its answer has.
    pub answers: u16,
}

impl Header {
    /// Reads it.
    #[inline(always)]
    pub fn read<M: Message + ?Sized>(message: &M) -> Option<Self> {
        let b: [u8; HEADER as usize] = message.read(0)?;
        Some(Self {
            id: u16::from_ne_bytes([b[0], b[1]]),
            flags: u16::from_be_bytes([b[2], b[3]]),
            questions: u16::from_be_bytes([b[4], b[5]]),
            answers: u16::from_be_bytes([b[6], b[7]]),
        })
    }

    /// Whether the message asks one question in the ordinary way.
    #[inline(always)]
    pub const fn asks(self) -> bool {
        self.flags & 0xf800 == 0 && self.questions == 1
    }

    /// Whether it answers one.
    #[inline(always)]
    pub const fn replies(self) -> bool {
        self.flags & 0xf800 == 0x8000 && self.questions == 1
    }

    /// Whether the message is neither a query nor the answer to one, but a NOTIFY or an UPDATE, say.
    #[inline(always)]
    pub const fn is_of_another_kind(self) -> bool {
        self.flags & 0x7800 != 0
    }

    /// Whether the answer was too long and is not whole (TC).
    #[inline(always)]
    pub const fn truncated(self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// Whether the server found the name (RCODE 0).
    #[inline(always)]
    pub const fn found(self) -> bool {
        self.flags & 0x000f == 0
    }
}

#[cfg(test)]
mod tests;
