//! A lock is refused, or it is canonical: what is read is printed, and that is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nixview::lock::EnvLock;

fuzz_target!(|text: &[u8]| {
    if let Ok(lock) = EnvLock::parse(text, "fuzz") {
        let printed = lock.print().expect("what was read can be printed");
        let again = EnvLock::parse(printed.as_bytes(), "fuzz").expect("what is printed can be read");
        assert_eq!(again.print().expect("it is printed again"), printed);
    }
});
