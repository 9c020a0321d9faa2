//! First uses: what is looked up, listed, read as a link and opened, told once of each inode while somebody wants to know.
//!
//! Where nobody does, a request pays one relaxed load. Where somebody does, a request about something that was told already pays a
//! look into a table; only the first use is told, before the request is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::vfs::{Ino, Whereabouts};

/// Tables, so that threads seldom wait for each other.
const TABLES: usize = 16;

/// How something is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Use {
    /// Its name was looked up.
    LookedUp,
    /// A directory was listed.
    Listed,
    /// A symbolic link was read.
    LinkRead,
    /// A file was opened; or, where the kernel opens without asking, read.
    Opened,
}

/// Who is told of first uses.
pub trait Witness: Send + Sync {
    /// Something was used in this way for the first time. Called by several threads at once, without any lock.
    fn used(&self, how: Use, place: &Whereabouts);
}

/// What was used since somebody began to want to know.
pub struct Uses {
    on: AtomicBool,
    every_open: bool,
    seen: [Mutex<HashMap<u64, u8>>; TABLES],
    witness: Arc<dyn Witness>,
}

/// A use that is about to be made.
pub(super) struct Intended(Use, Ino, Whereabouts);

impl Uses {
    /// Nobody wants to know yet. With `every_open` the kernel is made to ask for each open, also where it could go without.
    #[must_use]
    pub fn new(witness: Arc<dyn Witness>, every_open: bool) -> Self {
        let seen = std::array::from_fn(|_| Mutex::default());
        Self { on: AtomicBool::new(false), every_open, seen, witness }
    }

    /// From here on the witness is told, also of what it was told in an earlier time.
    pub fn begin(&self) {
        self.forget();
        self.on.store(true, Ordering::SeqCst);
    }

    /// From here on it is not told.
    pub fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
        self.forget();
    }

    fn forget(&self) {
        for table in &self.seen {
            *table.lock() = HashMap::new();
        }
    }

    pub(super) fn every_open(&self) -> bool {
        self.every_open
    }

    fn table(&self, ino: Ino) -> Option<&Mutex<HashMap<u64, u8>>> {
        self.seen.get(ino.0 as usize % TABLES)
    }

    /// Notes something that was used.
    #[inline]
    pub(super) fn note(&self, how: Use, ino: Ino, place: impl FnOnce() -> Option<Whereabouts>) {
        if self.on.load(Ordering::Relaxed)
            && let Some(intended) = self.found(how, ino, place)
        {
            self.made(intended);
        }
    }

    /// What is about to be used, if that is new: where it is then may change by the use.
    #[inline]
    pub(super) fn intend(
        &self,
        how: Use,
        ino: Ino,
        place: impl FnOnce() -> Option<Whereabouts>,
    ) -> Option<Intended> {
        if self.on.load(Ordering::Relaxed) { self.found(how, ino, place) } else { None }
    }

    #[cold]
    fn found(&self, how: Use, ino: Ino, place: impl FnOnce() -> Option<Whereabouts>) -> Option<Intended> {
        let seen = self.table(ino)?.lock().get(&ino.0).copied().unwrap_or_default();
        if seen & bit(how) != 0 {
            return None;
        }
        Some(Intended(how, ino, place()?))
    }

    /// Notes that what was intended was done.
    pub(super) fn made(&self, Intended(how, ino, place): Intended) {
        let Some(table) = self.table(ino) else { return };
        let new = {
            let mut table = table.lock();
            let seen = table.entry(ino.0).or_default();
            let new = *seen & bit(how) == 0;
            *seen |= bit(how);
            new
        };
        if new {
            self.witness.used(how, &place);
        }
    }
}

fn bit(how: Use) -> u8 {
    1 << how as u8
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<(Use, String)>>);

    impl Witness for Told {
        fn used(&self, how: Use, place: &Whereabouts) {
            self.0.lock().push((how, String::from_utf8(place.path.clone()).unwrap()));
        }
    }

    fn at(path: &str) -> impl FnOnce() -> Option<Whereabouts> {
        let path = path.as_bytes().to_vec();
        move || Some(Whereabouts { path, upper: false })
    }

    fn nowhere() -> Option<Whereabouts> {
        None
    }

    #[test]
    fn the_first_use_of_each_kind_is_told_once_while_somebody_wants_to_know() {
        let told = Arc::new(Told::default());
        let uses = Uses::new(Arc::clone(&told) as Arc<dyn Witness>, false);
        uses.note(Use::Opened, Ino(2), at("early"));
        assert!(uses.intend(Use::Opened, Ino(2), at("early")).is_none());
        uses.begin();
        for _ in 0..2 {
            uses.note(Use::LookedUp, Ino(2), at("a"));
            uses.note(Use::Opened, Ino(2), at("a"));
            uses.note(Use::Opened, Ino(18), at("b"));
        }
        uses.note(Use::Opened, Ino(3), nowhere);
        uses.note(Use::Opened, Ino(3), at("c"));
        let failed = uses.intend(Use::LinkRead, Ino(4), at("d"));
        assert!(failed.is_some() && uses.intend(Use::LinkRead, Ino(4), at("d")).is_some(), "not made yet");
        uses.end();
        uses.note(Use::Opened, Ino(5), at("late"));
        let first = [(Use::LookedUp, "a"), (Use::Opened, "a"), (Use::Opened, "b"), (Use::Opened, "c")];
        let first = first.map(|(how, path)| (how, path.to_owned()));
        assert_eq!(*told.0.lock(), first);
        uses.begin();
        uses.note(Use::Opened, Ino(2), at("a"));
        assert_eq!(told.0.lock().len(), 5, "what another trace was told is told to this one");
    }

    #[test]
    fn of_two_threads_one_tells() {
        let told = Arc::new(Told::default());
        let uses = Uses::new(Arc::clone(&told) as Arc<dyn Witness>, false);
        uses.begin();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2000).for_each(|n| uses.note(Use::Opened, Ino(n), at("x"))));
            }
        });
        assert_eq!(told.0.lock().len(), 2000);
    }
}
