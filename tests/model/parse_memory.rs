//! What reading a damaged text takes of memory: a small multiple of the text, also where Nix 2.8 takes all there is.
//!
//! Allocations are counted for each thread, as other tests run beside this one.
#![allow(unsafe_code, reason = "test code: an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use nixview::store::{Derivation, StoreDir, path_info, registration};

/// The system's allocator, counting.
struct Counting;

thread_local! {
    /// Bytes that this thread has; less than none where another one allocated what this one frees.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let now = NOW.get() + change;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: hands everything to the system's allocator as it came; counting touches no memory of its callers, and allocates
// nothing: the counters need neither an initialisation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise on `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `read` takes beyond what was there before, in bytes.
pub(crate) fn peak_of(read: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    read();
    (PEAK.get() - before).cast_unsigned()
}

/// A derivation of some megabytes: inputs, arguments, a large environment.
fn derivation() -> Vec<u8> {
    let inputs: Vec<String> =
        (0..2000).map(|n| format!("(\"/nix/store/{n:032}-input-{n}.drv\",[\"dev\",\"out\"])")).collect();
    let environment: Vec<String> =
        (0..2000).map(|n| format!("(\"variable{n:05}\",\"{}\")", "value \\n ".repeat(50))).collect();
    format!(
        r#"Derive([("out","/nix/store/{}-x","","")],[{}],[],"x86_64-linux","/bin/sh",["-c","{}"],[{}])"#,
        "0".repeat(32),
        inputs.join(","),
        "a".repeat(1 << 20),
        environment.join(",")
    )
    .into_bytes()
}

#[test]
fn a_damaged_text_takes_no_more_than_a_multiple_of_its_size() {
    let whole = derivation();
    assert!(whole.len() > 2 << 20);
    let parsed = peak_of(|| drop(Derivation::parse(&whole).unwrap()));
    assert!(parsed > whole.len() / 2, "the allocator counts: {parsed}");
    for cut in (0..whole.len()).step_by(whole.len() / 97) {
        let peak = peak_of(|| drop(Derivation::parse(&whole[..cut]).unwrap_err()));
        assert!(peak <= 8 * cut + 4096, "cut to {cut} bytes: {peak} bytes");
    }
    // Everything is an empty element: the smallest text for the largest number of values.
    let empties = format!(r#"Derive([("out","","","")],[],[],"","",[{}"#, "\"\",".repeat(1 << 18));
    let peak = peak_of(|| drop(Derivation::parse(empties.as_bytes()).unwrap_err()));
    assert!(peak <= 16 * empties.len(), "empty arguments: {peak} bytes of {}", empties.len());

    let claims = format!("/nix/store/{}-a\n\n{}\n", "a".repeat(32), u64::MAX);
    let dir = StoreDir::default();
    let peak = peak_of(|| drop(registration::parse(&dir, claims.as_bytes(), "a test").unwrap_err()));
    assert!(peak < 4096, "a registration that claims {} references: {peak} bytes", u64::MAX);
    let list = format!("[{}", "0,".repeat(1 << 18));
    let peak = peak_of(|| drop(path_info::parse(&dir, list.as_bytes(), "a test").unwrap_err()));
    assert!(peak <= 80 * list.len(), "a list that is cut: {peak} bytes of {}", list.len());
}
