//! A derivation parses or says where not; what parses is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nixview::store::{Derivation, StoreDir};

fuzz_target!(|text: &[u8]| {
    match Derivation::parse(text) {
        Ok(derivation) => {
            let again = Derivation::parse(&derivation.to_aterm(&StoreDir::default()));
            assert_eq!(again, Ok(derivation));
        }
        Err(error) => assert!(error.offset <= text.len()),
    }
});
