//! What the C library keeps of memory that is no longer used.

/// Gives back to the kernel what is not used.
pub fn trim() {
    // SAFETY: malloc_trim has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets few threads have a heap of their own, of which each would keep its peak. To be called before there are any.
pub fn few_arenas() {
    // SAFETY: mallopt has no preconditions; a value that it does not know changes nothing.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
