//! Locks by inode number, which cost nothing while nobody holds them.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use crate::vfs::Ino;

/// One lock for each inode number.
///
/// All numbers of one call are taken at once or not at all, so that their order does not matter. A holder must not
/// ask for more of the same set.
#[derive(Debug, Default)]
pub(super) struct KeyedLocks {
    held: Mutex<HashSet<u64>>,
    freed: Condvar,
}

/// Held locks; dropping it frees them.
#[derive(Debug)]
pub(super) struct KeyedGuard<'a> {
    locks: &'a KeyedLocks,
    keys: Vec<u64>,
}

impl KeyedLocks {
    /// Waits until none of `inos` is held, and takes all.
    pub(super) fn lock(&self, inos: &[Ino]) -> KeyedGuard<'_> {
        let keys: Vec<u64> = inos.iter().map(|i| i.0).collect();
        let mut held = self.held.lock();
        while keys.iter().any(|k| held.contains(k)) {
            self.freed.wait(&mut held);
        }
        held.extend(&keys);
        KeyedGuard { locks: self, keys }
    }
}

impl Drop for KeyedGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        for key in &self.keys {
            held.remove(key);
        }
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_key_is_held_by_one_and_others_are_free() {
        let locks = KeyedLocks::default();
        let (sent, got) = mpsc::channel();
        thread::scope(|scope| {
            let first = locks.lock(&[Ino(1), Ino(2), Ino(1)]);
            drop(locks.lock(&[Ino(3)]));
            let (locks, started) = (&locks, sent.clone());
            scope.spawn(move || {
                let _second = locks.lock(&[Ino(2), Ino(3)]);
                started.send("second").unwrap();
            });
            sent.send("first").unwrap();
            drop(first);
            assert_eq!(got.iter().take(2).collect::<Vec<_>>(), ["first", "second"]);
        });
        assert!(locks.held.lock().is_empty());
    }
}
