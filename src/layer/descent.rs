//! The way down to a directory, of which few objects are held.

use crate::vfs::Name;

/// How many of the deepest directories are always held.
const NEAR: usize = 24;

/// How many directories a walk down holds.
const MOST: usize = 96;

/// How many directories are held anew, spread evenly, where a long stretch is looked up again.
const SPREAD: usize = 32;

/// The directories on the way from the root of a layer to one below it.
///
/// A walk down a tree that a container made can be any number of levels deep. Held are the deepest levels, and some of
/// those above, spread evenly; a level between them is looked up again from the next one above it that is held. A walk
/// down a tree and back up thus takes a few look-ups for each directory, and a few hundred descriptors at most.
#[derive(Debug)]
pub struct Descent<O> {
    root: O,
    /// How many names lead to each that is held, and the object; the deepest last.
    held: Vec<(usize, O)>,
}

impl<O: Clone> Descent<O> {
    /// At the root.
    #[must_use]
    pub fn new(root: O) -> Self {
        Self { root, held: Vec::new() }
    }

    /// Goes back up, to the directory that `depth` names lead to.
    pub fn up(&mut self, depth: usize) {
        while self.held.last().is_some_and(|(held, _)| *held > depth) {
            self.held.pop();
        }
    }

    /// Goes down to `object`, to which `depth` names lead, the last of them from the directory where this is.
    pub fn down(&mut self, depth: usize, object: O) {
        self.held.push((depth, object));
        if self.held.len() > MOST {
            self.thin();
        }
    }

    /// Lets go of the directory that leaves the smallest gap.
    fn thin(&mut self) {
        let depths = || self.held.iter().map(|(depth, _)| *depth);
        let above = std::iter::once(0).chain(depths());
        let gaps = above.zip(depths().skip(1)).map(|(above, below)| below - above);
        let candidates = gaps.enumerate().take(self.held.len() - NEAR);
        if let Some((index, _)) = candidates.min_by_key(|(_, gap)| *gap) {
            self.held.remove(index);
        }
    }

    /// The directory where `path` leads. Its names are those that led down to here, as far as they go; `lookup` finds
    /// the next directory under a name.
    ///
    /// # Errors
    /// Those of `lookup`.
    pub fn at<E>(
        &mut self,
        path: &[Name],
        mut lookup: impl FnMut(&O, &Name) -> Result<O, E>,
    ) -> Result<O, E> {
        self.up(path.len());
        let mut at = match self.held.last() {
            Some((depth, object)) => (*depth, object.clone()),
            None => (0, self.root.clone()),
        };
        let missing = path.len() - at.0;
        let stride = missing.div_ceil(SPREAD);
        for name in path.get(at.0..).unwrap_or_default() {
            at = (at.0 + 1, lookup(&at.1, name)?);
            let left = path.len() - at.0;
            if missing <= NEAR {
                self.down(at.0, at.1.clone());
            } else if left < NEAR || left.is_multiple_of(stride) {
                self.held.push((at.0, at.1.clone()));
            }
        }
        Ok(at.1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    /// Objects are their depths. Goes down `levels` and back up, asking for each; answers how many look-ups it took, and
    /// how many objects were held at most.
    fn there_and_back(levels: usize) -> (usize, usize) {
        let name = Name::new(b"d").unwrap();
        let mut path = Vec::new();
        let (mut lookups, mut most) = (0, 0);
        let mut descent = Descent::new(0_usize);
        let mut ask = |descent: &mut Descent<usize>, path: &[Name]| {
            let found: Result<usize, ()> = descent.at(path, |above, _| {
                lookups += 1;
                Ok(above + 1)
            });
            assert_eq!(found, Ok(path.len()));
            most = most.max(descent.held.len());
        };
        for _ in 0..levels {
            path.push(name.clone());
            ask(&mut descent, &path);
        }
        while path.pop().is_some() {
            ask(&mut descent, &path);
        }
        (lookups, most)
    }

    #[test]
    fn the_way_down_and_up_is_in_proportion_to_its_length() {
        for levels in [1, 50, 1000, 12_000, 100_000, 400_000] {
            let (lookups, most) = there_and_back(levels);
            assert!(lookups <= 5 * levels, "{levels} levels take {lookups} look-ups");
            assert!(most < 250, "{most} are held");
        }
    }

    #[test]
    fn siblings_are_found_from_their_parent() {
        let path = |text: &str| -> Vec<Name> {
            text.split('/').map(|part| Name::new(part.as_bytes()).unwrap()).collect()
        };
        let mut descent = Descent::new(String::new());
        let mut lookup =
            |above: &String, name: &Name| -> Result<String, ()> { Ok(format!("{above}/{name}")) };
        assert_eq!(descent.at(&path("a/b/c"), &mut lookup).unwrap(), "/a/b/c");
        descent.up(1);
        assert_eq!(descent.at(&path("a/x/y"), &mut lookup).unwrap(), "/a/x/y");
        assert_eq!(descent.at(&[], &mut lookup).unwrap(), "");
    }
}
