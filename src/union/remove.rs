//! Removing names; where the lower has one, a whiteout stands in its place.

use super::node::Held;
use super::place::{FoundOf, PlaceOf};
use super::record::{self, Done, Intent};
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Errno, Ino, Name};

/// What is to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A directory, which must be empty.
    Directory,
    /// Anything else.
    Other,
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    pub(super) fn remove(&self, parent: Ino, name: &Name, kind: Kind) -> Outcome<()> {
        let place = self.place(parent)?;
        let found = self.find(&place, name)?.ok_or(Errno::ENOENT)?;
        Self::check_kind(&found, kind)?;
        let upper = self.upper()?;
        // The directory to be removed is locked too, so that nothing is made in it meanwhile.
        let mut locked = vec![parent];
        loop {
            let place = self.changeable_place(parent)?;
            let Some(dir) = &place.upper else { return Err(Errno::ESTALE) };
            let _changing = self.lock_names(&locked);
            if !self.is_current(&place)? {
                continue;
            }
            let found = self.find(&place, name)?.ok_or(Errno::ENOENT)?;
            Self::check_kind(&found, kind)?;
            let node = self.table.lock().identify(parent, name, &found.identity);
            if kind == Kind::Directory {
                if let Some(ino) = node.filter(|ino| !locked.contains(ino)) {
                    locked = vec![parent, ino];
                    continue;
                }
                self.check_empty(&found)?;
            }
            let whiteout = self.lower_has(&place, name)?;
            let intending = self.intend(|| {
                let object = found.source().upper();
                Ok(Intent::Remove { link: record::link(parent, name), object, ino: node.map(|ino| ino.0) })
            })?;
            self.hold(node, found.upper.as_ref());
            upper.remove(dir, name, whiteout)?;
            self.unlinked(node, (parent, name), found);
            intending.done(Some(Done::Changed));
            return Ok(());
        }
    }

    fn check_kind(found: &FoundOf<L, U>, kind: Kind) -> Outcome<()> {
        match (kind, found.is_directory()) {
            (Kind::Directory, false) => Err(Errno::ENOTDIR),
            (Kind::Other, true) => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }

    /// `ENOTEMPTY` if a name shows in a directory.
    pub(super) fn check_empty(&self, found: &FoundOf<L, U>) -> Outcome<()> {
        let inside = PlaceOf::<L, U> {
            ino: Ino(0),
            changes: 0,
            source: found.source(),
            linked: true,
            upper: found.upper.clone(),
            lower: found.lower.clone(),
        };
        if self.names(&inside)?.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }

    /// Tells the table that a name is gone; the objects stay with the node, if it is known and has no other name.
    pub(super) fn unlinked(&self, node: Option<Ino>, link: (Ino, &Name), found: FoundOf<L, U>) {
        if let Some(ino) = node {
            let held = Held { lower: found.lower, lower_at: None, upper: found.upper };
            let dropped = self.table.lock().remove_link(ino, link.0, link.1, held);
            self.purge(dropped);
            self.listings.purge(ino);
        }
    }
}
