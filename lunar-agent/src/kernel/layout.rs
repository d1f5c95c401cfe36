//! The ABI's structures as values of aya's maps.

use std::{io, time::Duration};

use aya::Pod;
use lunar_common::{
    abi::{
        Attachment, Control, Counters, Endpoint, RecordKey, RelayAt, RelayLife, RelayTotals, Settings, Syns,
        TargetEntry, Totals,
    },
    names::{Learned, LearnedKey, NameAnswer, Named, NamedKey},
    net::Destination,
    policy::{BoundaryV4, BoundaryV6, Bucket, PortRule},
    time::{KtimeNs, SpanNs},
};

use super::sys;

/// One of the structures of `lunar_common`, which cannot name aya's trait.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Value<T>(pub T);

macro_rules! pod {
    ($($structure:ty),+) => {
        $(
            // SAFETY: `repr(C)`, integers and arrays of them only, padding explicit (asserted in lunar-common).
            unsafe impl Pod for Value<$structure> {}
        )+
    };
}
pod!(
    Attachment,
    Control,
    Counters,
    Endpoint,
    RelayAt,
    RelayLife,
    RelayTotals,
    Settings,
    Syns,
    TargetEntry,
    Totals,
    PortRule,
    Bucket,
    BoundaryV4,
    BoundaryV6,
    Learned,
    LearnedKey,
    NameAnswer,
    Named,
    NamedKey,
    RecordKey,
    Destination
);

/// Now, on the clock of the kernel's programs.
pub fn now() -> KtimeNs {
    KtimeNs(sys::monotonic_ns())
}

/// A duration as the kernel's programs hold it.
pub fn span(duration: Duration) -> SpanNs {
    SpanNs(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// A span as a duration.
pub const fn duration(span: SpanNs) -> Duration {
    Duration::from_nanos(span.0)
}

/// Text in a field of fixed size, cut at a character's boundary.
pub fn put_text<const N: usize>(field: &mut [u8; N], text: &str) -> u16 {
    let mut len = text.len().min(N);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    *field = [0; N];
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    len as u16
}

/// Text out of a field of fixed size; what is not text is shown as such.
pub fn text(field: &[u8], len: u16) -> String {
    String::from_utf8_lossy(&field[..usize::from(len).min(field.len())]).into_owned()
}

/// How a redirected SYN is bounded: first retransmission timeout in jiffies, and retransmissions.
///
/// With one retransmission the kernel gives up at the first timer that runs out when three times the first timeout has
/// passed (net/ipv4/tcp_timer.c, `retransmits_timed_out`): after one timeout and a doubled one, or, where the first
/// `tcp_syn_linear_timeouts` do not double (6.5 and later; 4 by default, and each network namespace has its own), after
/// three single ones. Retransmissions beyond the configured one never get their turn. (Exactly one linear timeout
/// makes it four: one, one and two.)
pub fn syn_bound(connect_timeout: Duration) -> (u32, u32) {
    const RETRIES: u32 = 1;
    const TIMEOUTS: u64 = 3;
    let ticks = connect_timeout.as_millis() as u64 * sys::ticks_per_second() / 1000 / TIMEOUTS;
    (ticks.clamp(1, u64::from(u32::MAX)) as u32, RETRIES)
}

/// An error of the kind that aya wraps, as the operating system's where there is one.
pub fn os_error(error: &aya::maps::MapError) -> Option<&io::Error> {
    match error {
        aya::maps::MapError::SyscallError(e) => Some(&e.io_error),
        _ => None,
    }
}
