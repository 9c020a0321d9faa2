//! The set of names that a view shows of a store: compact, and quick to ask.

use crate::store::path::StorePath;
use crate::vfs::Name;

/// The members of a closure: base names of store paths, sorted bytewise, in one block of memory.
///
/// About the length of the names and 4 bytes each: 60 to 80 bytes a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// All names, one after the other.
    names: Box<[u8]>,
    /// Where each name ends.
    ends: Box<[u32]>,
}

impl Members {
    /// The set of these paths, given in any order, with or without repetitions.
    ///
    /// # Errors
    /// Answers the number of bytes if all names together are longer than 4 GiB (fifty million paths).
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p StorePath>) -> Result<Self, usize> {
        Self::of_names(paths.into_iter().map(StorePath::as_str))
    }

    /// The set of these base names, given in any order, with or without repetitions.
    ///
    /// # Errors
    /// As [`Members::new`].
    pub fn of_names<'p>(names: impl IntoIterator<Item = &'p str>) -> Result<Self, usize> {
        let mut sorted: Vec<&str> = names.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut names = Vec::with_capacity(sorted.iter().map(|name| name.len()).sum());
        let mut ends = Vec::with_capacity(sorted.len());
        for name in sorted {
            names.extend_from_slice(name.as_bytes());
            ends.push(u32::try_from(names.len()).map_err(|_| names.len())?);
        }
        Ok(Self { names: names.into(), ends: ends.into() })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// True if this name is a member. Logarithmic, in memory alone.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return true,
            }
        }
        false
    }

    /// All names, sorted bytewise.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Memory that the set takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.len() + size_of_val(&*self.ends)
    }

    /// The name at an index; empty past the end.
    fn get(&self, index: usize) -> &[u8] {
        let end = |at: usize| self.ends.get(at).map_or(0, |end| *end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        self.names.get(start..end(index)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    fn path(number: u32) -> StorePath {
        StorePath::from_base_name(format!("{number:032}-package-{number}.0").as_bytes()).unwrap()
    }

    #[test]
    fn all_members_are_found_and_nothing_else() {
        for count in [0, 1, 2, 3, 100, 1000] {
            let paths: Vec<StorePath> = (0..count).rev().map(|n| path(n * 2)).collect();
            let members = Members::new(paths.iter().chain(paths.first())).unwrap();
            assert_eq!(members.len(), paths.len());
            assert_eq!(members.is_empty(), count == 0);
            for number in 0..count {
                let name = |n| Name::new(path(n).as_str().as_bytes()).unwrap();
                assert!(members.contains(&name(number * 2)));
                assert!(!members.contains(&name(number * 2 + 1)));
            }
            for other in ["a", "zzz", "00000000000000000000000000000000-package-0.", ".links"] {
                assert!(!members.contains(&Name::new(other.as_bytes()).unwrap()));
            }
            let sorted: Vec<&[u8]> = members.iter().collect();
            assert!(sorted.is_sorted());
            assert_eq!(sorted.len(), paths.len());
        }
    }

    #[test]
    fn the_set_is_small() {
        let paths: Vec<StorePath> = (0..10_000).map(path).collect();
        assert!(Members::new(&paths).unwrap().bytes() < paths.len() * 100);
    }
}
