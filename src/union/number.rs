//! Inode numbers and directory cookies: functions of names, and of the upper's own numbers.
//!
//! All numbers are positive and below 2^53, which a double holds exactly. Each kind has a range of its own:
//!
//! | from | below | number of |
//! |---|---|---|
//! | 1 | 2 | the root |
//! | 3 | 2^31 | a path in the lower: hash of the path |
//! | 2^31 | 2^32 | the upper's number below 2^31 |
//! | 2^32 | 2^52 | a path in the lower whose short number another path has |
//! | 2^52 | 2^52 + 2^51 | the upper's number below 2^51 |
//! | 2^52 + 2^51 | 2^53 | any other number of the upper: hash of it |
//!
//! A number of the lower is the same on every host and in every mount, and tells nothing of the store's disk. Hashes can
//! collide: the inode table tries [`candidates`](Candidates) in order until one is free.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vfs::{Ino, Name};

/// The smallest number without a special meaning: 0 is no inode, 1 the root; the cookies 1 and 2 are those of `.` and `..`.
const FIRST: u64 = 3;

/// The upper's numbers below this have the first range of the upper.
const SHORT: u64 = 1 << 31;

/// The start of the second range of the lower.
const LONG: u64 = 1 << 32;

/// The start of the second range of the upper.
const UPPER_LONG: u64 = 1 << 52;

/// The upper's numbers below this have the second range of the upper, the others the third.
const UPPER_EXACT: u64 = 1 << 51;

/// The top bit: holders of the upper have it.
const TOP: u64 = 1 << 63;

/// The hash of a path in the lower: 128 bits of SHA-256, so that two paths with one hash need not be thought of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathHash(u64, u64);

impl PathHash {
    /// The hash of the root.
    pub(super) const ROOT: Self = Self(0, Ino::ROOT.0);

    /// The hash of the path `name` below the directory with this one.
    pub(super) fn child(self, name: &Name) -> Self {
        let Self(first, second) = self;
        hash(&[&first.to_le_bytes(), &second.to_le_bytes(), name.as_bytes()])
    }

    /// The hash of a path from the root of the lower.
    pub(super) fn of_names(path: &[Name]) -> Self {
        path.iter().fold(Self::ROOT, |parent, name| parent.child(name))
    }

    /// The number of the path, unless another path has it: below 2^31.
    pub(super) fn number(self) -> u64 {
        FIRST + self.0 % (SHORT - FIRST)
    }

    fn long_number(self) -> u64 {
        LONG + (self.0 >> 11) % (UPPER_LONG - LONG)
    }
}

fn hash(parts: &[&[u8]]) -> PathHash {
    let digest = parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part)).finalize();
    let word =
        |skip: usize| digest.iter().skip(skip).take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    PathHash(word(0), word(8))
}

/// The inode that a number belongs to, also while the kernel does not know the inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holder(pub(super) u64);

impl Holder {
    /// The inode at a path of the lower. The number has 31 further bits of the hash.
    pub(super) fn path(hash: PathHash) -> Self {
        Self(hash.1 & !TOP)
    }

    /// The inode with this number in the upper.
    pub(super) fn upper(ino: u64) -> Self {
        Self(ino | TOP)
    }
}

/// The numbers that an inode may get, the best first. There is always a further one.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    best: [Option<u64>; 2],
    seed: u64,
    tried: u64,
    /// Where further ones are.
    start: u64,
    length: u64,
}

impl Candidates {
    /// The candidates of what the lower has at a path.
    pub(super) fn of_path(hash: PathHash) -> Self {
        let best = [Some(hash.number()), Some(hash.long_number())];
        Self { best, seed: hash.0, tried: 0, start: LONG, length: UPPER_LONG - LONG }
    }

    /// The candidates of what the upper alone has; `origin` is the number that was stored with it.
    pub(super) fn of_upper(ino: u64, origin: Option<u64>) -> Self {
        let origin = origin.filter(|number| is_of_path(*number));
        let best = [origin, Some(of_upper(ino))];
        let start = UPPER_LONG | UPPER_EXACT;
        Self { best, seed: ino, tried: 0, start, length: UPPER_EXACT }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> u64 {
        if let Some(best) = self.best.iter_mut().find_map(Option::take) {
            return best;
        }
        self.tried += 1;
        self.start + hash(&[&self.seed.to_le_bytes(), &self.tried.to_le_bytes(), b"/"]).0 % self.length
    }
}

/// The number of an inode that was born in the upper, unless another inode has it.
pub(super) fn of_upper(ino: u64) -> u64 {
    match ino {
        ..SHORT => SHORT | ino,
        SHORT..UPPER_EXACT => UPPER_LONG | ino,
        UPPER_EXACT.. => UPPER_LONG | UPPER_EXACT | (hash(&[&ino.to_le_bytes()]).0 % UPPER_EXACT),
    }
}

/// True for a number that belongs to the upper's inode `ino` and that no other inode can have.
pub(super) fn is_exact(number: u64, ino: u64) -> bool {
    ino < UPPER_EXACT && number == of_upper(ino)
}

/// True for a number that a path of the lower may have.
fn is_of_path(number: u64) -> bool {
    (FIRST..SHORT).contains(&number) || (LONG..UPPER_LONG).contains(&number)
}

/// The position of a name in listings of its directory, which are in the order of positions. 63 bits, of which the upper 31 are at
/// least 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position(u64);

impl Position {
    /// The position of a name, unless another name of the directory has it.
    pub(super) fn of(name: &Name) -> Self {
        let PathHash(first, second) = hash(&[&Ino::ROOT.0.to_le_bytes(), name.as_bytes()]);
        Self((FIRST + first % (SHORT - FIRST)) << 32 | second >> 32)
    }

    /// The next position.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// True if one short cookie cannot stand for both.
    pub(super) fn is_close_to(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32
    }

    /// The cookie of a name with this position: below 2^31, which 32-bit programs need, if the name is `alone`, which means
    /// that no other name of the listing [is close](Self::is_close_to).
    pub(super) fn cookie(self, alone: bool) -> u64 {
        if alone { self.0 >> 32 } else { self.0 }
    }

    /// The last position that a listing that goes on after a cookie leaves out.
    pub(super) fn of_cookie(cookie: u64) -> Self {
        Self(if cookie < LONG { cookie << 32 | (LONG - 1) } else { cookie })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::collections::HashSet;

    use super::*;

    /// The greatest integer that a double holds together with all below it.
    const LARGEST: u64 = (1 << 53) - 1;

    fn name(text: &[u8]) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn numbers_are_what_they_always_were() {
        let store = PathHash::ROOT.child(&name(b"store"));
        // By hand: sha256sum of 8 zero bytes, a 1, 7 zero bytes and the name; the first 8 bytes modulo 2^31 - 3, and 3.
        assert_eq!(store.number(), 242_958_187, "changing numbers breaks what programs remember");
        let path = [name(b"store"), name(b"x")];
        assert_eq!(PathHash::of_names(&path), store.child(&name(b"x")));
        // Of 1, 7 zero bytes and the name.
        assert_eq!(Position::of(&name(b"store")), Position(0x2e48_b3fe_17ad_a4b4));
    }

    #[test]
    fn every_candidate_is_below_two_to_the_53rd_and_in_the_range_of_its_kind() {
        let hashes = (0..500).map(|n| PathHash::of_names(&[name(format!("p{n}").as_bytes())]));
        for hash in hashes.chain([PathHash(0, 0), PathHash(u64::MAX, u64::MAX)]) {
            let mut all = Candidates::of_path(hash);
            let first = all.next();
            assert!(is_of_path(first) && first < SHORT, "32-bit programs see it");
            for _ in 0..20 {
                assert!((LONG..UPPER_LONG).contains(&all.next()));
            }
        }
        let numbers = [0, 1, 12, SHORT - 1, SHORT, LONG, UPPER_EXACT - 1, UPPER_EXACT, TOP, u64::MAX];
        let mut seen = HashSet::new();
        for ino in numbers {
            let mut all = Candidates::of_upper(ino, None);
            for _ in 0..20 {
                let number = all.next();
                assert!(number > 1 && number <= LARGEST && !is_of_path(number), "{ino}: {number}");
                assert!(seen.insert(number));
            }
            assert_eq!(u32::try_from(of_upper(ino)).is_ok(), ino < SHORT);
            assert_eq!(is_exact(of_upper(ino), ino), ino < UPPER_EXACT);
        }
    }

    #[test]
    fn an_origin_is_tried_first_if_a_path_may_have_it() {
        for good in [FIRST, SHORT - 1, LONG, UPPER_LONG - 1] {
            assert_eq!(Candidates::of_upper(5, Some(good)).next(), good);
        }
        for bad in [0, 1, 2, SHORT, of_upper(6), UPPER_LONG, 1 << 62, u64::MAX] {
            assert_eq!(Candidates::of_upper(5, Some(bad)).next(), of_upper(5));
        }
    }
}
