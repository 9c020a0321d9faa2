//! Path-info JSON parses or says where not; roots are members.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nixview::store::{StoreDir, path_info};

fuzz_target!(|text: &[u8]| {
    match path_info::parse(&StoreDir::default(), text, "fuzz") {
        Ok(all) => assert!(all.roots().iter().all(|root| all.get(root).is_some())),
        Err(error) => assert!(!error.at.is_empty() && !error.problem.is_empty()),
    }
});
