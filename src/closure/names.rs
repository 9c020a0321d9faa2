//! The names of a closure in one block of text.

use sha2::{Digest, Sha256};

use crate::store::StorePath;

/// Base names of store paths, sorted bytewise, each once, each followed by a newline: the text that a closure's digest
/// is taken of.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Names {
    text: String,
    count: usize,
}

impl Names {
    /// Of paths that are sorted and unique.
    pub(super) fn of(paths: &[StorePath]) -> Self {
        let mut text = String::with_capacity(paths.iter().map(|path| path.as_str().len() + 1).sum());
        for path in paths {
            text.push_str(path.as_str());
            text.push('\n');
        }
        Self { text, count: paths.len() }
    }

    /// Of a text that [`Names::of`] made of `count` names, its digest being right: it is not looked at name by name.
    pub(super) fn written(text: Vec<u8>, count: usize) -> Option<Self> {
        let text = String::from_utf8(text).ok()?;
        let is_whole = text.is_empty() || text.ends_with('\n');
        is_whole.then_some(Self { text, count })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.text.split_terminator('\n')
    }

    /// Logarithmic, without an index: looks for the line around the middle.
    pub(super) fn contains(&self, name: &str) -> bool {
        let mut open = self.text.as_bytes();
        while !open.is_empty() {
            let (head, tail) = open.split_at(open.len() / 2);
            let start = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            let rest_of_line = tail.iter().position(|byte| *byte == b'\n').unwrap_or(tail.len());
            let end = head.len() + rest_of_line;
            let (Some(before), Some(middle)) = (open.get(..start), open.get(start..end)) else {
                return false;
            };
            match name.as_bytes().cmp(middle) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => open = before,
                std::cmp::Ordering::Greater => open = open.get(end + 1..).unwrap_or_default(),
            }
        }
        false
    }

    /// SHA-256 of the text.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;

    fn path(number: usize) -> StorePath {
        format!("{number:032}-{}", "n".repeat(number % 200 + 1)).parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_again_and_searched() {
        for count in [0, 1, 2, 3, 10, 500] {
            let paths: Vec<StorePath> = (0..count).map(|n| path(2 * n)).collect();
            let names = Names::of(&paths);
            assert!(Names::written(names.as_bytes().to_owned(), count).unwrap() == names);
            assert!(names.iter().eq(paths.iter().map(StorePath::as_str)));
            for n in 0..count {
                assert!(names.contains(path(2 * n).as_str()));
                assert!(!names.contains(path(2 * n + 1).as_str()));
            }
            for other in ["", "\n", "0", "zzz", "00000000000000000000000000000000-"] {
                assert!(!names.contains(other), "{other:?} of {count}");
            }
        }
    }

    #[test]
    fn a_text_that_is_cut_is_refused() {
        let text = Names::of(&[path(1), path(2)]).as_bytes().to_owned();
        assert!(Names::written(text.clone(), 2).is_some());
        assert!(Names::written(text[..text.len() - 1].to_owned(), 2).is_none());
        assert!(Names::written(vec![0xff, b'\n'], 1).is_none());
    }
}
