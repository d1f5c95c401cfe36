//! What a storm's client writes down of each connect: 20 bytes, so that ten minutes at 1,000 connects/s are 12 MB and
//! nothing has to be thrown away before it is known what matters.

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

/// What came of one connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The provider answered and was called by the gateway.
    Gateway,
    /// The provider answered and was called by the client itself.
    Direct,
    /// connect(2) failed with this errno; ETIMEDOUT also when the client's own patience ended.
    ConnectFailed(u16),
    /// Connected, then ended before the provider's line; 0 for an end of file.
    Dropped(u16),
    /// Connected, and no line came within the client's patience.
    Silent,
    /// The line was that of another provider, or no provider's.
    Astray,
}

/// One connect. Times are of CLOCK_MONOTONIC, which all processes of the machine share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Right before connect(2), ns.
    pub start: u64,
    /// From there until connected or failed, µs.
    pub connect_us: u32,
    /// From there until the outcome was known, µs.
    pub took_us: u32,
    pub outcome: Outcome,
}

/// The nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn now() -> u64 {
    // Cannot fail: every kernel has this clock.
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

impl Record {
    /// Bytes of a record in a file.
    pub const SIZE: usize = 20;

    /// When connect(2) had its result, ns.
    pub fn connected(&self) -> u64 {
        self.start + u64::from(self.connect_us) * 1000
    }

    /// When the outcome was known, ns.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.took_us) * 1000
    }

    /// Whether the application got what it asked for, whichever way.
    pub fn is_good(&self) -> bool {
        matches!(self.outcome, Outcome::Gateway | Outcome::Direct)
    }

    /// Whether connect(2) failed although its handshake had been done: a SYN that is refused says ECONNREFUSED.
    pub fn is_reset(&self) -> bool {
        let reset = [Errno::ECONNRESET, Errno::EPIPE].map(|errno| errno as u16);
        matches!(self.outcome, Outcome::ConnectFailed(errno) if reset.contains(&errno))
    }

    pub fn bytes(&self) -> [u8; Self::SIZE] {
        let (kind, errno) = match self.outcome {
            Outcome::Gateway => (0_u16, 0),
            Outcome::Direct => (1, 0),
            Outcome::ConnectFailed(errno) => (2, errno),
            Outcome::Dropped(errno) => (3, errno),
            Outcome::Silent => (4, 0),
            Outcome::Astray => (5, 0),
        };
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.connect_us.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.took_us.to_le_bytes());
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..].copy_from_slice(&errno.to_le_bytes());
        bytes
    }

    /// None of bytes that no record has.
    pub fn read(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(short(at)) | u32::from(short(at + 2)) << 16;
        let outcome = match (short(16), short(18)) {
            (0, _) => Outcome::Gateway,
            (1, _) => Outcome::Direct,
            (2, errno) => Outcome::ConnectFailed(errno),
            (3, errno) => Outcome::Dropped(errno),
            (4, _) => Outcome::Silent,
            (5, _) => Outcome::Astray,
            _ => return None,
        };
        let start = u64::from(word(0)) | u64::from(word(4)) << 32;
        Some(Self { start, connect_us: word(8), took_us: word(12), outcome })
    }

    /// For people: what happened, and when after `origin`.
    pub fn tell(&self, origin: u64) -> String {
        let what = match self.outcome {
            Outcome::Gateway => "went through the gateway".to_owned(),
            Outcome::Direct => "went direct".to_owned(),
            Outcome::ConnectFailed(errno) => format!("connect failed with {}", name(errno)),
            Outcome::Dropped(0) => "dropped with an end of file".to_owned(),
            Outcome::Dropped(errno) => format!("dropped with {}", name(errno)),
            Outcome::Silent => "connected and never answered".to_owned(),
            Outcome::Astray => "answered by another than it called".to_owned(),
        };
        let begun = (self.start as f64 - origin as f64) / 1e6;
        format!("{what}: begun at {begun:+.3} ms, took {:.3} ms", f64::from(self.took_us) / 1e3)
    }
}

fn name(errno: u16) -> String {
    format!("{:?}", Errno::from_raw(i32::from(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for outcome in [
            Outcome::Gateway,
            Outcome::Direct,
            Outcome::ConnectFailed(111),
            Outcome::Dropped(104),
            Outcome::Silent,
            Outcome::Astray,
        ] {
            let record = Record { start: u64::MAX - 7, connect_us: 70_000, took_us: u32::MAX, outcome };
            assert_eq!(Record::read(&record.bytes()), Some(record));
        }
        assert_eq!(Record::read(&[0xff; Record::SIZE]), None);
    }

    #[test]
    fn a_failure_is_told_with_its_errno_and_time() {
        let outcome = Outcome::ConnectFailed(111);
        let record = Record { start: 1_500_000, connect_us: 20, took_us: 20, outcome };
        assert_eq!(
            record.tell(2_000_000),
            "connect failed with ECONNREFUSED: begun at -0.500 ms, took 0.020 ms"
        );
    }
}
