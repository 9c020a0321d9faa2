//! Changing the names of directories: their locks, and the count that makes lookups look again.

use super::locks::KeyedGuard;
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Ino, Name};

/// A change of names in directories whose locks are held: what was looked up before or during it is not believed.
pub(super) struct Changing<'a, L: Lower, U: Upper> {
    fs: &'a UnionFs<L, U>,
    directories: Vec<Ino>,
    /// Dropped after the change was counted as done.
    _locks: KeyedGuard<'a>,
}

impl<L: Lower, U: Upper> Drop for Changing<'_, L, U> {
    fn drop(&mut self) {
        self.fs.count_change(&self.directories);
    }
}

/// A lookup that is taken back when this is dropped.
pub(super) struct Pinned<'a, L: Lower, U: Upper> {
    fs: &'a UnionFs<L, U>,
    pub(super) ino: Ino,
}

impl<L: Lower, U: Upper> Drop for Pinned<'_, L, U> {
    fn drop(&mut self) {
        let dropped = self.fs.table.lock().unlook(self.ino);
        self.fs.purge(dropped);
    }
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Locks directories and begins a change of their names, until the answer is dropped.
    pub(super) fn lock_names(&self, directories: &[Ino]) -> Changing<'_, L, U> {
        let mut directories = directories.to_vec();
        directories.sort_unstable();
        directories.dedup();
        let locks = self.directories.lock(&directories);
        self.count_change(&directories);
        Changing { fs: self, directories, _locks: locks }
    }

    fn count_change(&self, directories: &[Ino]) {
        let mut table = self.table.lock();
        for ino in directories {
            if let Ok(node) = table.get_mut(*ino) {
                node.changes += 1;
            }
        }
    }

    /// Looks a name up so that its node exists until the answer is dropped.
    pub(super) fn pin(&self, parent: Ino, name: &Name) -> Outcome<Option<Pinned<'_, L, U>>> {
        let entry = self.find_entry(parent, name)?;
        Ok(entry.map(|entry| Pinned { fs: self, ino: entry.attr.ino }))
    }
}
