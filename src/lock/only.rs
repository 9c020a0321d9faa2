//! A lock that keeps a part of its closure: a proposal, to be tried.
//!
//! What it keeps is all that is shown of the closure of its roots, which must be the one that the lock was made of. It can only be less:
//! what is kept must be in that closure, and what the lock starts from must be kept.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::LockError;
use super::format::{EnvLock, LockedClosure};
use super::verify::differs;
use crate::closure::Closure;
use crate::store::{References, StorePath};

/// Which part of the closure is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// The whole closure, of which it is a part.
    pub of: LockedClosure,
    /// What is kept, sorted, each once.
    pub paths: Vec<StorePath>,
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenOnly {
    of: LockedClosure,
    paths: Vec<String>,
}

impl WrittenOnly {
    pub(super) fn read(self) -> Result<Only, String> {
        let path = |text: String| {
            StorePath::from_base_name(text.as_bytes()).map_err(|error| format!("\"only\": {error}"))
        };
        Ok(Only { of: self.of, paths: self.paths.into_iter().map(path).collect::<Result<_, _>>()? })
    }

    pub(super) fn of(only: &Only) -> Self {
        Self { of: only.of.clone(), paths: only.paths.iter().map(ToString::to_string).collect() }
    }
}

impl EnvLock {
    /// Says what is wrong with the part that is kept, without a look at the closure.
    pub(super) fn check_only(&self) -> Result<(), String> {
        let Some(only) = &self.only else { return Ok(()) };
        if !only.paths.is_sorted_by(|a, b| a < b) {
            return Err("the paths in \"only\" are not sorted, or one stands there twice".to_owned());
        }
        if let Some(start) = self.must_keep().find(|start| only.paths.binary_search(start).is_err()) {
            return Err(format!("\"only\" lacks {start}, which the lock starts from"));
        }
        let kept = Closure::new(only.paths.clone(), None);
        let (digest, count) = (kept.digest(), kept.count() as u64);
        if digest != self.closure.digest.to_string() || count != self.closure.count {
            return Err(format!(
                "\"closure\" has {} paths ({}), but \"only\" has {count} ({digest})",
                self.closure.count, self.closure.digest
            ));
        }
        if count > only.of.count {
            return Err("\"only\" has more paths than the closure that it is a part of".to_owned());
        }
        Ok(())
    }

    /// What it starts from, but for derivations that are developed, which are no members.
    fn must_keep(&self) -> impl Iterator<Item = &StorePath> {
        let developed = self.mode == crate::closure::Mode::Dev;
        let roots = self.roots.iter().map(|root| &root.path);
        let roots = roots.filter(move |root| !(developed && root.is_derivation()));
        roots.chain(self.extra_roots.iter().map(|extra| &extra.path))
    }

    /// What is kept of `whole`, the closure of the roots: all of it, unless the lock says less.
    ///
    /// # Errors
    /// If `whole` is another closure than the lock was made of, or lacks what is to be kept.
    pub(super) fn kept(&self, whole: Closure) -> Result<Closure, LockError> {
        let Some(only) = &self.only else { return Ok(whole) };
        differs(&only.of, &whole)?;
        if let Some(foreign) = only.paths.iter().find(|path| !whole.contains(path)) {
            return Err(LockError::Foreign { path: foreign.clone() });
        }
        Ok(Closure::new(only.paths.clone(), self.closure.nar_size))
    }

    /// The lock that keeps, of `closure`, which is this one's, what it starts from and what `keep` says.
    ///
    /// # Errors
    /// If sizes cannot be read.
    pub fn only(
        &self,
        closure: &Closure,
        keep: impl Fn(&StorePath) -> bool,
        sizes: &dyn References,
    ) -> Result<Self, LockError> {
        let starts: BTreeSet<&StorePath> = self.must_keep().collect();
        let paths = closure.paths().iter().filter(|path| starts.contains(path) || keep(path));
        let paths: Vec<StorePath> = paths.cloned().collect();
        let mut nar_size = Some(0_u64);
        for path in &paths {
            nar_size = nar_size.zip(sizes.nar_size(path)?).and_then(|(sum, size)| sum.checked_add(size));
        }
        let kept = Closure::new(paths.clone(), None);
        let digest = Digest::parse(&kept.digest())
            .map_err(|problem| LockError::Malformed { origin: "the new lock".to_owned(), problem })?;
        // Of a part of a part the whole is that of the first.
        let of = self.only.as_ref().map_or_else(|| self.closure.clone(), |only| only.of.clone());
        Ok(Self {
            closure: LockedClosure { count: kept.count() as u64, digest, nar_size, ..self.closure.clone() },
            only: Some(Only { of, paths }),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use proptest::prelude::*;

    use super::super::format::tests::{path, sample};
    use super::super::format::{ExtraRoot, Root};
    use super::*;
    use crate::store::references::{OutputPath, ReferenceError};

    /// Knows sizes alone.
    struct Sizes;

    impl References for Sizes {
        fn origin(&self) -> String {
            "a test".to_owned()
        }
        fn references(&self, _: &StorePath) -> Result<Vec<StorePath>, ReferenceError> {
            Ok(Vec::new())
        }
        fn is_valid(&self, _: &StorePath) -> Result<bool, ReferenceError> {
            Ok(true)
        }
        fn outputs(&self, _: &StorePath) -> Result<Vec<OutputPath>, ReferenceError> {
            Ok(Vec::new())
        }
        fn nar_size(&self, _: &StorePath) -> Result<Option<u64>, ReferenceError> {
            Ok(Some(10))
        }
    }

    const LETTERS: [char; 8] = ['a', 'b', 'c', 'd', 'f', 'g', 'h', 'i'];

    fn of(members: &[char], roots: &[char], extra: &[char]) -> (EnvLock, Closure) {
        let closure = Closure::new(members.iter().map(|c| path(*c, "x")).collect(), None);
        let mut lock = EnvLock {
            roots: roots.iter().map(|c| Root::plain(path(*c, "x"))).collect(),
            extra_roots: extra
                .iter()
                .map(|c| ExtraRoot { name: c.to_string(), path: path(*c, "x") })
                .collect(),
            ..sample()
        };
        lock.closure.digest = Digest::parse(&closure.digest()).unwrap();
        lock.closure.count = closure.count() as u64;
        (lock, closure)
    }

    #[test]
    fn it_keeps_what_it_starts_from_and_is_read_again() {
        let (lock, closure) = of(&['a', 'b', 'c', 'd'], &['a'], &['d']);
        let small = lock.only(&closure, |kept| *kept == path('b', "x"), &Sizes).unwrap();
        let only = small.only.clone().unwrap();
        assert_eq!(only.paths, [path('a', "x"), path('b', "x"), path('d', "x")]);
        assert_eq!(
            (only.of, small.closure.count, small.closure.nar_size),
            (lock.closure.clone(), 3, Some(30))
        );
        let read = EnvLock::parse(small.print().unwrap().as_bytes(), "t").unwrap();
        assert_eq!(read, small);
        assert_eq!(read.kept(closure.clone()).unwrap().paths(), only.paths);
        // A part of the part is one of the same whole.
        let smaller = small.only(&small.kept(closure.clone()).unwrap(), |_| false, &Sizes).unwrap();
        assert_eq!(smaller.kept(closure).unwrap().count(), 2);
    }

    #[test]
    fn another_closure_and_what_is_not_in_it_are_refused() {
        let (lock, closure) = of(&['a', 'b', 'c'], &['a'], &[]);
        let small = lock.only(&closure, |_| false, &Sizes).unwrap();
        let other = of(&['a', 'b'], &['a'], &[]).1;
        let said = small.kept(other).unwrap_err().to_string();
        assert!(said.contains("2 paths") && said.contains("has 3"), "{said}");
        // One that lies about what it keeps, and about the digest of that.
        let mut lying = small;
        lying.only.as_mut().unwrap().paths = vec![path('a', "x"), path('z', "secret")];
        let kept = Closure::new(lying.only.as_ref().unwrap().paths.clone(), None);
        lying.closure.digest = Digest::parse(&kept.digest()).unwrap();
        lying.closure.count = 2;
        assert!(
            EnvLock::parse(lying.print().unwrap().as_bytes(), "t").is_ok(),
            "nothing tells without the store"
        );
        let said = lying.kept(closure).unwrap_err().to_string();
        assert!(said.contains("secret") && said.contains("not in the closure"), "{said}");
    }

    #[test]
    fn rubbish_is_refused() {
        let (lock, closure) = of(&['a', 'b', 'c'], &['a'], &[]);
        let small = lock.only(&closure, |kept| *kept == path('b', "x"), &Sizes).unwrap();
        let changed = |change: &dyn Fn(&mut Only)| {
            let mut wrong = small.clone();
            change(wrong.only.as_mut().unwrap());
            wrong.print().unwrap_err().to_string()
        };
        assert!(changed(&|only| only.paths.reverse()).contains("not sorted"));
        assert!(changed(&|only| only.paths.push(path('b', "x"))).contains("twice"));
        assert!(changed(&|only| only.paths = vec![path('b', "x")]).contains("which the lock starts from"));
        assert!(changed(&|only| drop(only.paths.pop())).contains("but \"only\" has 1"));
        assert!(changed(&|only| only.of.count = 1).contains("more paths than the closure"));
        let text = small.print().unwrap();
        for (from, to) in [
            ("\"of\": {", "\"off\": {"),
            ("\"paths\": [", "\"paths\": [\n      \"..\","),
            ("\"paths\": [", "\"paths\": [\n      \"/nix/store/x\","),
            ("\"paths\": [", "\"more\": 1,\n    \"paths\": ["),
        ] {
            assert!(text.contains(from), "{text}");
            EnvLock::parse(text.replacen(from, to, 1).as_bytes(), "t").unwrap_err();
        }
    }

    proptest! {
        /// Whatever a lock says that it keeps, what it shows is in the closure of its roots, or it is refused.
        #[test]
        fn it_never_shows_more_than_the_closure(
            members in proptest::sample::subsequence(LETTERS.to_vec(), 1..=8),
            named in proptest::sample::subsequence(LETTERS.to_vec(), 0..=8),
            whole in proptest::sample::subsequence(LETTERS.to_vec(), 1..=8),
        ) {
            let (mut lock, closure) = of(&members, &members[..1], &[]);
            let (claimed, _) = of(&whole, &whole[..1], &[]);
            let paths: Vec<StorePath> = named.iter().map(|c| path(*c, "x")).collect();
            let kept = Closure::new(paths.clone(), None);
            lock.only = Some(Only { of: claimed.closure, paths });
            lock.closure.digest = Digest::parse(&kept.digest()).unwrap();
            lock.closure.count = kept.count() as u64;
            let sound = lock.print().is_ok();
            match lock.kept(closure.clone()) {
                Ok(shown) => {
                    prop_assert!(shown.paths().iter().all(|path| closure.contains(path)));
                    prop_assert_eq!(whole, members);
                    prop_assert!(!sound || shown.contains(&path(LETTERS[0], "x")) || !closure.contains(&path(LETTERS[0], "x")));
                }
                Err(_) => prop_assert!(whole != members || named.iter().any(|c| !members.contains(c))),
            }
        }
    }
}
