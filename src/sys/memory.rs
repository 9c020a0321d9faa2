//! The memory of a process that has little to do for a long time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks as large as that are what `fuser` reads requests into, one for each thread.
const REQUESTS: usize = 16 << 20;

const PAGE: usize = 4096;

/// So much of them is used: the longest request that is no write (one of an extended attribute), its head, and a page for the
/// alignment; or what [`expect_requests`] said.
static USED: AtomicUsize = AtomicUsize::new((64 << 10) + 2 * PAGE);

/// Where they are; the place of one that was freed is 0. More threads than that have no view.
static BLOCKS: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

/// From here on requests have up to `longest` bytes beside their head: the memory for them is made.
pub fn expect_requests(longest: usize) {
    let longest = longest + 2 * PAGE;
    if USED.fetch_max(longest, Ordering::Relaxed) >= longest {
        return;
    }
    for block in BLOCKS.iter().map(|block| block.load(Ordering::Relaxed)).filter(|block| *block != 0) {
        populate(block, longest);
    }
}

/// Has the kernel make the pages of `length` bytes at `address`.
fn populate(address: usize, length: usize) {
    let page = std::ptr::without_provenance_mut::<libc::c_void>(address & !(PAGE - 1));
    // SAFETY: pages that are there stay as they are, and for addresses without memory it is an error; a kernel before 5.14
    // refuses.
    unsafe { libc::madvise(page, length, libc::MADV_POPULATE_WRITE) };
}

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
        if layout.size() >= REQUESTS {
            for place in &BLOCKS {
                // One that is another's stays.
                place.compare_exchange(block.addr(), 0, Ordering::Relaxed, Ordering::Relaxed).ok();
            }
        }
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
            let address = block.addr();
            let free = |place: &AtomicUsize| {
                place.compare_exchange(0, address, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            };
            // Entered first: who raises what is used meanwhile finds it, or is found.
            BLOCKS.iter().any(free);
            populate(address, USED.load(Ordering::Relaxed));
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
