//! Chunks of contents, cut where the content says (FastCDC, Xia et al. 2020), so that what two files have in common is found
//! wherever in them it is. The cuts are those of the crate `fastcdc`, whose version is fixed: they are the result.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use fastcdc::v2020::StreamCDC;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::contents::Inode;
use super::digest::{Digesting, Digests, Sha};

/// The shortest that a chunk is, but for the last one of a content; 16 KiB, as casync's.
pub const SHORTEST: u32 = 16 << 10;

/// What chunks are on average; 64 KiB.
pub const AVERAGE: u32 = 64 << 10;

/// The longest that a chunk is; 256 KiB.
pub const LONGEST: u32 = 256 << 10;

/// How chunks are cut, for people and as the key of what is remembered.
pub const PARAMETERS: &str = "FastCDC 2020, 16/64/256 KiB, normalization 1";

/// A piece of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// SHA-256 of it.
    pub digest: Sha,
    /// Length.
    pub length: u32,
}

/// The digests of a content and its chunks, in one reading; at most one chunk is held.
///
/// # Errors
/// As read(2); `InvalidData` if it is not as long as `inode` says.
pub(super) fn chunked(inode: &Inode, source: impl Read) -> io::Result<(Digests, Vec<Chunk>)> {
    let mut digesting = Digesting::new(inode);
    let mut chunks = Vec::new();
    for chunk in StreamCDC::new(source, SHORTEST as usize, AVERAGE as usize, LONGEST as usize) {
        let data = chunk.map_err(io::Error::other)?.data;
        digesting.update(&data);
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        chunks.push(Chunk { digest: Sha256::digest(&data).into(), length });
    }
    Ok((digesting.finish()?, chunks))
}

/// The chunks of many contents, each chunk kept once.
#[derive(Debug, Default)]
pub struct Chunked {
    numbers: HashMap<Sha, u32>,
    lengths: Vec<u32>,
    contents: HashMap<Sha, Vec<u32>>,
}

impl Chunked {
    /// True if the chunks of a content are there.
    #[must_use]
    pub fn has(&self, content: &Sha) -> bool {
        self.contents.contains_key(content)
    }

    /// Adds the chunks of a content.
    ///
    /// # Errors
    /// If there are more than 2³² different ones.
    pub fn add(&mut self, content: Sha, chunks: &[Chunk]) -> io::Result<()> {
        let mut list = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let next = u32::try_from(self.lengths.len()).map_err(io::Error::other)?;
            let number = *self.numbers.entry(chunk.digest).or_insert(next);
            if number == next {
                self.lengths.push(chunk.length);
            }
            list.push(number);
        }
        self.contents.insert(content, list);
        Ok(())
    }

    /// How many different chunks some contents have, and how many bytes those are.
    #[must_use]
    pub fn distinct<'a>(&self, contents: impl Iterator<Item = &'a Sha>) -> (u64, u64) {
        let mut seen = HashSet::new();
        let all = contents.filter_map(|content| self.contents.get(content)).flatten();
        let new = all.filter(|number| seen.insert(**number));
        new.filter_map(|number| self.lengths.get(*number as usize))
            .fold((0, 0), |(count, bytes), length| (count + 1, bytes + u64::from(*length)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;
    use crate::usage::contents::Kind;

    fn cut(bytes: &[u8]) -> (Digests, Vec<Chunk>) {
        let size = bytes.len() as u64;
        let (kind, executable, writable) = (Kind::File, false, false);
        let inode = Inode { device: 1, number: 1, kind, size, blocks: 0, names: 1, executable, writable };
        chunked(&inode, bytes).unwrap()
    }

    /// Bytes without a pattern.
    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_small_content_is_one_chunk_and_that_is_itself() {
        assert!(cut(b"").1.is_empty());
        for length in [1, 5000, SHORTEST as usize] {
            let (digests, chunks) = cut(&noise(length, 1));
            assert_eq!(chunks, [Chunk { digest: digests.content, length: length as u32 }]);
        }
    }

    #[test]
    fn what_moves_is_found_again() {
        let one = noise(2 << 20, 7);
        let two = [&noise(12_345, 9)[..], &one].concat();
        let (first, second) = (cut(&one), cut(&two));
        for (bytes, (digests, chunks)) in [(&one, &first), (&two, &second)] {
            assert_eq!(chunks.iter().map(|c| u64::from(c.length)).sum::<u64>(), bytes.len() as u64);
            assert!(chunks.iter().all(|c| c.length <= LONGEST));
            assert!(chunks[..chunks.len() - 1].iter().all(|c| c.length >= SHORTEST));
            let whole: Sha = Sha256::digest(bytes).into();
            assert_eq!(digests.content, whole);
        }
        let mut all = Chunked::default();
        all.add(first.0.content, &first.1).unwrap();
        all.add(second.0.content, &second.1).unwrap();
        let (of_one, of_both) = ([first.0.content], [first.0.content, second.0.content]);
        assert_eq!(all.distinct(of_one.iter()), (first.1.len() as u64, one.len() as u64));
        let (_, bytes) = all.distinct(of_both.iter());
        let more = bytes - one.len() as u64;
        assert!((12_345..2 * u64::from(LONGEST) + 12_345).contains(&more), "{more}");
    }
}
