//! A registration parses or names a line that is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nixview::store::{StoreDir, registration};

fuzz_target!(|text: &[u8]| {
    match registration::parse(&StoreDir::default(), text, "fuzz") {
        Ok(all) => assert!(all.roots().len() <= all.count()),
        Err(error) => {
            let lines = text.iter().filter(|byte| **byte == b'\n').count() + 2;
            assert!((1..=lines).contains(&error.line));
        }
    }
});
