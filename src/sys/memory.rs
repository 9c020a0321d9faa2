//! The memory of a process that has little to do for a long time.

use std::alloc::{GlobalAlloc, Layout, System};

/// Blocks as large as that are what `fuser` reads requests into, one for each thread.
const REQUESTS: usize = 16 << 20;

/// So much of them is ever used: the longest request, its head, and a page for the alignment.
const LONGEST_REQUEST: usize = (256 << 10) + 2 * PAGE;

const PAGE: usize = 4096;

/// The system's allocator, but for memory that the kernel copies requests into: that is there from the beginning.
///
/// A process that is killed gets no more memory. If it needs some for the request that the kernel copies at that moment, the
/// kernel answers that request by itself, with `EIO` (fs/fuse/dev.c, `fuse_dev_do_read`), and no other server is asked.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: all blocks are the system allocator's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc_zeroed(layout) };
        if layout.size() >= REQUESTS && !block.is_null() {
            let page = block.map_addr(|address| address & !(PAGE - 1));
            // SAFETY: the pages are mapped, and stay as they are; a kernel before 5.14 refuses.
            unsafe { libc::madvise(page.cast(), LONGEST_REQUEST, libc::MADV_POPULATE_WRITE) };
        }
        block
    }
}

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
