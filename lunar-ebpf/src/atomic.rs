//! Atomic operations on map values. The BPF target has no compare-and-swap in `core::sync::atomic`, and an atomic
//! *load* makes LLVM abort there; the intrinsics compile to single BPF instructions (`-Ctarget-cpu=v3`).

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    ptr::read_volatile,
};

use lunar_common::failsafe::{Cell, Word};

/// Adds to a counter that other CPUs, or a task that preempts this one, may be adding to.
#[inline(always)]
pub fn add(counter: *mut u64, value: u64) {
    // SAFETY: callers pass a pointer into a live map value, aligned to 8 bytes by the value's layout.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Replaces `old` by `new`; says whether the value was still `old`.
#[inline(always)]
pub fn swap(at: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as in `add`.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(at, old, new).1 }
}

/// The same for 32 bits.
#[inline(always)]
pub fn swap32(at: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: as in `add`, aligned to 4 bytes.
    unsafe { atomic_cxchg::<u32, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(at, old, new).1 }
}

/// Reads a value that others write: one load, never merged or repeated.
#[inline(always)]
pub fn load<T: Copy>(at: *const T) -> T {
    // SAFETY: as in `add`; the map value is live and aligned.
    unsafe { read_volatile(at) }
}

/// A failsafe word in its map.
pub struct WordCell(pub *mut u64);

impl Cell for WordCell {
    #[inline(always)]
    fn load(&self) -> Word {
        Word(load(self.0))
    }

    #[inline(always)]
    fn swap(&self, old: Word, new: Word) -> bool {
        swap(self.0, old.0, new.0)
    }
}
