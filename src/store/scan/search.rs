//! Finding hash parts in bytes, as Nix finds them: every run of 32 digits that is the hash part of a candidate.
//!
//! Nix searches the NAR of a path (`RefScanSink` in `src/libstore/references.cc`, later `RefScanSink` of
//! `src/libutil/references.cc`). In a NAR each name, target and content stands alone between bytes that are no digits
//! (their lengths end in zeros), so that searching each of them finds the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use crate::store::nixbase32::is_digit;
use crate::store::path::{HASH_LEN, StorePath};

/// Paths that are looked for, by their hash parts; many scans may look for the same.
pub struct Index {
    paths: Vec<StorePath>,
    by_hash: HashMap<[u8; HASH_LEN], usize>,
    digest: [u8; 32],
}

impl Index {
    /// Of these paths. Of two with the same hash part (which no store has) the first is found.
    #[must_use]
    pub fn new(mut paths: Vec<StorePath>) -> Self {
        paths.sort_unstable();
        paths.dedup();
        let mut by_hash = HashMap::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            if let Ok(hash) = path.hash_part().as_bytes().try_into() {
                by_hash.entry(hash).or_insert(index);
            }
        }
        let mut hash = Sha256::new();
        for path in &paths {
            hash.update(path.as_str());
            hash.update("\n");
        }
        Self { paths, by_hash, digest: hash.finalize().into() }
    }

    /// The paths, sorted, each once.
    #[must_use]
    pub fn paths(&self) -> &[StorePath] {
        &self.paths
    }

    /// True if `path` is looked for.
    #[must_use]
    pub fn contains(&self, path: &StorePath) -> bool {
        self.paths.binary_search(path).is_ok()
    }

    /// SHA-256 of the paths.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// What is looked for, and what of it was found; shared by the threads of a scan.
pub struct Candidates<'a> {
    index: &'a Index,
    found: Vec<AtomicBool>,
}

impl<'a> Candidates<'a> {
    /// Nothing is found yet.
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        Self { index, found: index.paths.iter().map(|_| AtomicBool::new(false)).collect() }
    }

    /// Searches a text that stands alone.
    pub fn search(&self, text: &[u8]) {
        let mut at = 0;
        while let Some(window) = text.get(at..at + HASH_LEN) {
            // From the end: a byte that is no digit rules out every window that holds it.
            if let Some(last) = window.iter().rposition(|byte| !is_digit(*byte)) {
                at += last + 1;
                continue;
            }
            if let Some(found) = self.index.by_hash.get(window).and_then(|index| self.found.get(*index)) {
                found.store(true, Ordering::Relaxed);
            }
            at += 1;
        }
    }

    /// Searches a stream in pieces of the buffer's size, each with the last 31 bytes before it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn search_stream(&self, mut stream: impl std::io::Read, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut kept = 0;
        loop {
            let read = match stream.read(buffer.get_mut(kept..).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = kept + read;
            self.search(buffer.get(..end).unwrap_or_default());
            kept = end.min(HASH_LEN - 1);
            buffer.copy_within(end - kept..end, 0);
        }
    }

    /// What was found, sorted.
    #[must_use]
    pub fn found(&self) -> Vec<StorePath> {
        let is_found = self.found.iter().map(|found| found.load(Ordering::Relaxed));
        self.index
            .paths
            .iter()
            .zip(is_found)
            .filter(|(_, found)| *found)
            .map(|(path, _)| path.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;
    use proptest::prelude::*;

    fn path(letter: char) -> StorePath {
        format!("{}-{letter}", String::from(letter).repeat(32)).parse().unwrap()
    }

    /// Every window, one by one.
    fn naive(paths: &[StorePath], text: &[u8]) -> Vec<StorePath> {
        let holds = |p: &&StorePath| text.windows(32).any(|w| w == p.hash_part().as_bytes());
        paths.iter().filter(holds).cloned().collect()
    }

    #[test]
    fn hashes_are_found_anywhere_also_inside_longer_runs() {
        let all = [path('a'), path('b'), path('c')];
        let text = format!("x{}0/{}", all[0].hash_part(), all[2].hash_part());
        let index = Index::new(all.to_vec());
        let candidates = Candidates::new(&index);
        candidates.search(text.as_bytes());
        assert_eq!(candidates.found(), [path('a'), path('c')]);
    }

    proptest! {
        #[test]
        fn a_stream_in_any_pieces_is_as_the_whole(
            text in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'/')], 0..400),
            places in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_usize), 0..4),
            size in 32..80_usize,
        ) {
            let all = [path('a'), path('b'), "abababababababababababababababab-x".parse().unwrap()];
            let mut text = text;
            for (at, which) in places {
                let at = at.index(text.len() + 1);
                text.splice(at..at, all[which].hash_part().bytes());
            }
            let index = Index::new(all.to_vec());
            let candidates = Candidates::new(&index);
            candidates.search_stream(text.as_slice(), &mut vec![0; size]).unwrap();
            let mut sorted = all.to_vec();
            sorted.sort();
            prop_assert_eq!(candidates.found(), naive(&sorted, &text));
        }
    }
}
