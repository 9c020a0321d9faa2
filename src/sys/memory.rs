//! The memory of a process that has little to do for a long time.

/// Keeps the memory of threads small: one arena for all, and large blocks go back to the system when they are freed.
///
/// To be called before threads are started.
pub fn stay_small() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes plain numbers and touches the allocator's settings alone.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        // SAFETY: as above.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024) };
    }
}

/// Gives what was freed back to the system.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim is thread safe and frees only what is free already.
    unsafe {
        libc::malloc_trim(0)
    };
}
