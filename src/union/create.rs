//! Making files, directories, symbolic links and nodes.
//!
//! What is made is drafted complete and gets its name by one rename, over a whiteout if there is one. A new directory
//! is always opaque: else what the lower has, or will have, under its path would show through it.

use super::node::Source;
use super::place::{Found, PlaceOf};
use super::{Outcome, UnionFs};
use crate::layer::{Lower, NewObject, Upper};
use crate::vfs::{Caller, Entry, Errno, FileKind, Ino, Name, OpenFlags, Opened};

/// The bit that new entries of a directory inherit the group by, and new directories themselves.
const SET_GID: u16 = 0o2000;

impl<L: Lower, U: Upper> UnionFs<L, U> {
    pub(super) fn make_node(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
        rdev: u64,
    ) -> Outcome<Entry> {
        let new = match FileKind::from_mode(mode) {
            None | Some(FileKind::Regular) => NewObject::File,
            Some(FileKind::Directory) => return Err(Errno::EPERM),
            Some(FileKind::Symlink) => return Err(Errno::EINVAL),
            // As overlayfs: what would be taken for a whiteout cannot be made.
            Some(FileKind::CharDevice) if rdev == 0 => return Err(Errno::EPERM),
            Some(kind) => NewObject::Node { kind, rdev },
        };
        let permissions = u16::try_from(mode & 0o7777).unwrap_or_default();
        self.make(caller, parent, name, &new, permissions)
    }

    pub(super) fn make_directory(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        permissions: u16,
    ) -> Outcome<Entry> {
        self.make(caller, parent, name, &NewObject::Directory { opaque: true }, permissions)
    }

    pub(super) fn make_symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        target: &[u8],
    ) -> Outcome<Entry> {
        self.make(caller, parent, name, &NewObject::Symlink(target), 0o777)
    }

    pub(super) fn create_file(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        permissions: u16,
        flags: OpenFlags,
    ) -> Outcome<(Entry, Opened)> {
        let entry = loop {
            match self.make(caller, parent, name, &NewObject::File, permissions) {
                // Removed again before it was found: make it after all.
                Err(Errno::EEXIST) if !flags.has(libc::O_EXCL) => {
                    if let Some(entry) = self.find_entry(parent, name)? {
                        break entry;
                    }
                }
                made => break made?,
            }
        };
        match self.open_file(entry.attr.ino, flags) {
            Ok(opened) => Ok((entry, opened)),
            Err(errno) => {
                let dropped = self.table.lock().forget(entry.attr.ino, 1);
                self.purge(dropped);
                Err(errno)
            }
        }
    }

    fn make(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        new: &NewObject<'_>,
        permissions: u16,
    ) -> Outcome<Entry> {
        let place = self.place(parent)?;
        if self.find(&place, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let upper = self.upper()?;
        loop {
            let place = self.changeable_place(parent)?;
            let Some(dir) = &place.upper else { return Err(Errno::ESTALE) };
            let above = upper.stat(dir)?;
            let (gid, inherited) = match above.permissions & SET_GID {
                0 => (caller.gid, 0),
                bit if matches!(new, NewObject::Directory { .. }) => (above.gid, bit),
                _ => (above.gid, 0),
            };
            let draft = upper.draft(new, permissions | inherited, caller.uid, gid)?;
            let object = upper.draft_object(&draft);
            let _changing = self.lock_names(&[parent]);
            if !self.is_current(&place)? {
                continue;
            }
            if self.find(&place, name)?.is_some() {
                return Err(Errno::EEXIST);
            }
            upper.publish(draft, dir, name)?;
            return self.enter(&place, name, object);
        }
    }

    /// The entry of an upper object that has just got a name; the directory's lock is held.
    pub(super) fn enter(&self, place: &PlaceOf<L, U>, name: &Name, object: U::Object) -> Outcome<Entry> {
        let upper = self.upper()?;
        let stat = upper.stat(&object)?;
        let origin = upper.origin(&object)?;
        let identity = super::node::Identity { kind: stat.kind, source: Source::Upper(stat.ino), origin };
        let found = Found { identity, stat, upper: Some(object), lower: None };
        let (ino, generation) = {
            let mut table = self.table.lock();
            let ino = table.intern(place.ino, name, &identity, 1);
            (ino, table.get(ino)?.generation)
        };
        self.keep(ino, &found);
        Ok(Entry { attr: self.found_attr(ino, &found), generation })
    }

    /// A directory in which names will be changed: in the upper, and not removed. The caller holds no locks.
    pub(super) fn changeable_place(&self, ino: Ino) -> Outcome<PlaceOf<L, U>> {
        self.upper()?;
        loop {
            if !self.table.lock().is_linked(ino) {
                return Err(Errno::ENOENT);
            }
            self.copy_up_directory(ino)?;
            let place = self.place(ino)?;
            if place.upper.is_some() {
                return Ok(place);
            }
        }
    }
}
