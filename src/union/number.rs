//! Inode numbers and directory cookies: pure functions of names.
//!
//! What the lower has is numbered by a 63-bit hash of its path in the view, so that a number is the same on every
//! host and in every mount, and tells nothing of the store's disk. What was born in the upper has the upper's own
//! number with the top bit set. The root is 1.

use sha2::{Digest, Sha256};

use crate::vfs::{Ino, Name};

/// The bit that numbers of the upper have and numbers of paths do not.
const UPPER: u64 = 1 << 63;

/// The smallest number that means nothing special: 0 is no inode, 1 the root; cookies 1 and 2 are `.` and `..`.
const FIRST: u64 = 3;

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(bytes).finalize();
    let head = digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    (head & !UPPER).max(FIRST)
}

/// The hash of the path `name` below the directory with the path hash `parent`; the root's is 1.
pub(super) fn of_path(parent: u64, name: &Name) -> u64 {
    hash(parent, name.as_bytes())
}

/// The hash of a path from the root of the lower.
pub(super) fn of_names(path: &[Name]) -> u64 {
    path.iter().fold(Ino::ROOT.0, of_path)
}

/// The `n`-th number to try, from 1 on, where `number` is taken by another inode.
pub(super) fn probe(number: u64, n: u64) -> u64 {
    hash(number ^ n, b"/")
}

/// The number of an inode that was born in the upper.
pub(super) fn of_upper(ino: u64) -> u64 {
    ino | UPPER
}

/// True for a number that may be stored as the origin of the upper inode `upper`.
pub(super) fn is_origin(number: u64, upper: u64) -> bool {
    number >= FIRST && (number & UPPER == 0 || number == of_upper(upper))
}

/// The position of a name in listings of its directory: 63 bits, at least 3.
pub(super) fn cookie(name: &Name) -> u64 {
    hash(Ino::ROOT.0, name.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn numbers_are_what_they_always_were() {
        let store = of_path(1, &Name::new(b"store").unwrap());
        assert_eq!(
            store, 0x4217_2146_a1bd_ec39,
            "changing numbers breaks what programs remember: {store:#x}"
        );
        let [first, second] = [&b"store"[..], b"x"].map(|name| Name::new(name).unwrap());
        assert_eq!(of_names(&[first, second.clone()]), of_path(store, &second));
        assert_ne!(probe(store, 1), probe(store, 2));
        assert!(is_origin(store, 5) && is_origin(of_upper(5), 5));
        assert!(!is_origin(of_upper(6), 5) && !is_origin(0, 5) && !is_origin(1, 5));
    }
}
