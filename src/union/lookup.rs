//! Finding names, and the attributes of inodes.

use super::handles::Open;
use super::node::Source;
use super::place::{FoundOf, PlaceOf, Side};
use super::{Outcome, UnionFs, attr};
use crate::layer::{Lower, Upper};
use crate::vfs::{Attr, Entry, Errno, FileKind, Handle, Ino, Name};

/// How often a lookup looks again without the lock because names were changed meanwhile.
const PATIENCE: usize = 3;

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// The entry under a name, with a lookup counted.
    pub(super) fn find_entry(&self, parent: Ino, name: &Name) -> Outcome<Option<Entry>> {
        let place = self.place(parent)?;
        self.find_entry_in(place, name)
    }

    /// The entry under a name of a directory that was resolved already.
    pub(super) fn find_entry_in(&self, place: PlaceOf<L, U>, name: &Name) -> Outcome<Option<Entry>> {
        let mut place = place;
        for attempt in 0.. {
            if attempt > 0 {
                place = self.look_again(place)?;
            }
            let lock = (attempt >= PATIENCE).then(|| self.directories.lock(&[place.ino]));
            if lock.is_some() {
                match self.refreshed(&place)? {
                    Some(now) => place = now,
                    None => continue,
                }
            }
            if place.changes % 2 == 1 {
                drop(lock);
                drop(self.directories.lock(&[place.ino]));
                continue;
            }
            let found = self.find(&place, name)?;
            let mut table = self.table.lock();
            let now = table.get(place.ino)?;
            if now.changes != place.changes || now.source != place.source {
                continue;
            }
            let Some(found) = found else { return Ok(None) };
            let ino = table.intern(place.ino, name, &found.identity, 1);
            let generation = table.get(ino)?.generation;
            drop(table);
            self.keep(ino, &found);
            return Ok(Some(Entry { attr: self.found_attr(ino, &found), generation }));
        }
        Ok(None)
    }

    /// A place with the count of changes as it is now; `None` if its objects are not right any more.
    fn refreshed(&self, place: &PlaceOf<L, U>) -> Outcome<Option<PlaceOf<L, U>>> {
        let table = self.table.lock();
        let node = table.get(place.ino)?;
        let linked = table.is_linked(place.ino);
        let same = node.source == place.source;
        Ok(same.then(|| PlaceOf::<L, U> { changes: node.changes, linked, ..place.clone() }))
    }

    fn look_again(&self, place: PlaceOf<L, U>) -> Outcome<PlaceOf<L, U>> {
        match self.refreshed(&place)? {
            Some(place) => Ok(place),
            None => self.place(place.ino),
        }
    }

    /// Keeps the objects that a lookup opened: what was looked up is often opened next.
    pub(super) fn keep(&self, ino: Ino, found: &FoundOf<L, U>) {
        if let (Some(number), Some(object)) = (found.source().upper(), &found.upper) {
            self.caches.keep_upper(ino, number, object);
        }
        if let Some(object) = &found.lower {
            self.caches.keep_lower(ino, object);
        }
    }

    pub(super) fn found_attr(&self, ino: Ino, found: &FoundOf<L, U>) -> Attr {
        match found.source() {
            Source::Lower => attr::of_lower(ino, &found.stat, self.options.owner, 1),
            Source::Upper(_) | Source::Both(_) => attr::of_upper(ino, &found.stat, found.source()),
        }
    }

    /// The attributes of an inode, also one without a name.
    pub(super) fn attributes(&self, ino: Ino, handle: Option<Handle>) -> Outcome<Attr> {
        let (source, linked, content) = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            let linked = table.is_linked(ino);
            let detached = node.source != Source::Lower && !linked && node.reads_lower();
            (node.source, linked, detached)
        };
        if source == Source::Lower {
            let stat = self.lower.stat(&self.lower_object(ino)?)?;
            return Ok(attr::of_lower(ino, &stat, self.options.owner, u32::from(linked)));
        }
        if let Some(open) = handle.and_then(|h| self.handles.get(h))
            && let Open { side: Side::Upper, file, .. } = &*open
        {
            return Ok(attr::of_upper(ino, &file.stat()?, source));
        }
        let shown = attr::of_upper(ino, &self.upper()?.stat(&self.upper_object(ino)?)?, source);
        if !content {
            return Ok(shown);
        }
        Ok(attr::with_content(shown, &self.lower.stat(&self.lower_object(ino)?)?))
    }

    pub(super) fn read_link(&self, ino: Ino) -> Outcome<Vec<u8>> {
        let (kind, source) = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            (node.kind, node.source)
        };
        match (kind, source) {
            (FileKind::Symlink, Source::Lower) => Ok(self.lower.read_link(&self.lower_object(ino)?)?),
            (FileKind::Symlink, _) => Ok(self.upper()?.read_link(&self.upper_object(ino)?)?),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn parent_of(&self, ino: Ino) -> Outcome<Ino> {
        let table = self.table.lock();
        let node = table.get(ino)?;
        match node.links.first() {
            Some((parent, _)) => Ok(*parent),
            None if ino == Ino::ROOT => Ok(Ino::ROOT),
            None => Err(Errno::ESTALE),
        }
    }
}
