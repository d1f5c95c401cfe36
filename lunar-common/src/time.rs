//! Time as the kernel programs measure it.

/// Nanoseconds per millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// A moment on the kernel's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds since boot.
///
/// The kernel side reads it with `bpf_ktime_get_ns` or `bpf_ktime_get_coarse_ns`, user space with
/// `clock_gettime(CLOCK_MONOTONIC)`: the same clock, so deadlines can be compared across the two.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct KtimeNs(pub u64);

/// A span of time in nanoseconds. `core::time::Duration` would drag a division into BPF.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct SpanNs(pub u64);

impl SpanNs {
    /// A span of whole milliseconds.
    #[inline(always)]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * NS_PER_MS)
    }
}

impl KtimeNs {
    /// Time since `earlier`; zero if `earlier` is later, as the coarse clock may lag a tick.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> SpanNs {
        SpanNs(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` later.
    #[inline(always)]
    pub const fn after(self, span: SpanNs) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}
