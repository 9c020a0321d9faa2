//! The names of a directory that does not change, so that a missing one costs no system call.
//!
//! Programs look for the same few libraries in one directory after another, so that most names that they ask for are missing. Once a
//! directory has lacked several names, it is listed, and a digest of each name is kept with its object. A digest that is not among them
//! is that of a missing name; any other is asked for.
//!
//! File systems may find a name under other spellings, or without listing it. So letters count in either case, and nothing is concluded of names
//! that begin with a dot or are not ASCII, nor from a listing with a name that is not ASCII.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys;
use crate::vfs::{Errno, Name};

/// How many names a directory lacks before it is listed: a listing costs about as much as three of them.
const MISSED: u8 = 3;

/// A directory of more names is not remembered. The digests of one take 16 KiB at most.
const NAMES_MAX: usize = 4096;

/// What is known of a directory's names.
#[derive(Debug, Default)]
pub(super) struct Names {
    missed: AtomicU8,
    /// Digests in order; `None` if nothing can be concluded from the listing.
    listed: OnceLock<Option<Box<[u32]>>>,
}

impl Names {
    /// True if the directory is known to lack `name`.
    pub(super) fn lack(&self, name: &Name) -> bool {
        let Some(Some(digests)) = self.listed.get() else { return false };
        let bytes = name.as_bytes();
        bytes.is_ascii() && !bytes.starts_with(b".") && digests.binary_search(&digest(bytes)).is_err()
    }

    /// Notes that `dir` lacked a name; lists it once that was often enough. A listing that fails tells nothing.
    pub(super) fn missed(&self, dir: BorrowedFd<'_>) {
        if self.listed.get().is_none() && self.missed.fetch_add(1, Ordering::Relaxed) + 1 >= MISSED {
            self.listed.get_or_init(|| list(dir).unwrap_or_default());
        }
    }
}

/// The digests of all names; `None` if there are too many of them, or one is not ASCII.
fn list(dir: BorrowedFd<'_>) -> io::Result<Option<Box<[u32]>>> {
    let listing = sys::open::open_listing(dir)?;
    let mut digests = Vec::new();
    let listed = sys::dirent::for_each_name(listing.as_fd(), |bytes, _, _| {
        if digests.len() == NAMES_MAX || !bytes.is_ascii() {
            return Err(Errno::EOVERFLOW.into());
        }
        digests.push(digest(bytes));
        Ok(())
    });
    if listed.is_err() {
        return Ok(None);
    }
    digests.sort_unstable();
    Ok(Some(digests.into()))
}

/// Two names have the same digest if they differ in the case of letters alone; others may.
fn digest(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.to_ascii_lowercase().hash(&mut hasher);
    // Half of the bits: as many as are kept.
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs::{self, File};

    use super::super::{DirLower, DirObject};
    use super::*;
    use crate::layer::Lower;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    /// What is known of the names of a directory with these files after it lacked so many.
    fn after(missed: u8, files: &[&str]) -> Names {
        let temp = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(temp.path().join(file), "").unwrap();
        }
        let (names, dir) = (Names::default(), File::open(temp.path()).unwrap());
        (0..missed).for_each(|_| names.missed(dir.as_fd()));
        names
    }

    #[test]
    fn a_directory_is_listed_once_it_has_lacked_several_names() {
        assert!(!after(MISSED - 1, &["libz.so"]).lack(&name("libm.so")));
        let names = after(MISSED, &["libz.so"]);
        assert!(names.lack(&name("libm.so")));
        assert!(!names.lack(&name("libz.so")));
        assert!(after(MISSED, &[]).lack(&name("libz.so")), "also of an empty one");
    }

    #[test]
    fn a_directory_that_lacked_several_names_is_asked_no_more_but_the_top_is() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("member")).unwrap();
        let lower = DirLower::new(&File::open(temp.path()).unwrap()).unwrap();
        let top = lower.root().unwrap();
        let member = lower.lookup(&top, &name("member")).unwrap();
        let missing = |dir: &DirObject, text: &str| {
            lower.lookup(dir, &name(text)).is_err_and(|error| Errno::of(&error) == Errno::ENOENT)
        };
        for dir in [&top, &member] {
            assert!((0..MISSED).all(|n| missing(dir, &format!("lib{n}.so"))));
        }
        // What nobody may do tells who is asked.
        for path in ["late", "member/late"] {
            fs::write(temp.path().join(path), "").unwrap();
        }
        assert!(!missing(&top, "late"), "paths of a store come");
        assert!(missing(&member, "late"));
        assert!(!missing(&lower.lookup(&top, &name("member")).unwrap(), "late"), "another object asks anew");
    }

    #[test]
    fn what_a_file_system_may_find_without_listing_it_is_asked_for() {
        let names = after(MISSED, &["Makefile"]);
        for asked in ["Makefile", "makefile", "MAKEFILE", ".snapshot", "\u{212a}elvin"] {
            assert!(!names.lack(&name(asked)), "{asked}");
        }
        assert!(
            !after(MISSED, &["\u{212a}"]).lack(&name("k")),
            "the sign of kelvin is a k on some file systems"
        );
    }

    #[test]
    fn a_large_directory_is_not_remembered() {
        let files: Vec<String> = (0..=NAMES_MAX).map(|n| n.to_string()).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert!(!after(MISSED, &files).lack(&name("x")));
        assert!(after(MISSED, files.get(1..).unwrap()).lack(&name("x")));
    }
}
