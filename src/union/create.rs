//! Making files, directories, symbolic links and nodes.
//!
//! What is made is drafted complete and gets its name by one rename, over a whiteout if there is one. A new directory
//! is always opaque: else what the lower has, or will have, under its path would show through it. The caller's umask and
//! default access control lists are applied here: the draft is not made in the directory that it will be in.

use super::node::Identity;
use super::place::{Found, PlaceOf};
use super::record::{self, Intent};
use super::{Outcome, UnionFs};
use crate::layer::{Lower, NewObject, Upper};
use crate::vfs::access_list::{self, ACCESS_LIST, DEFAULT_LIST, Inherited};
use crate::vfs::{Caller, Entry, Errno, FileKind, Ino, Name, OpenFlags, Opened, SetAttr, XattrMode};

/// The bit that new entries of a directory inherit the group by, and new directories themselves.
const SET_GID: u16 = 0o2000;

/// Access control lists of a new object, and its mode.
struct InheritedLists {
    permissions: u16,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl InheritedLists {
    /// Gives a draft its lists, and its mode once more: a list can take the bit of the group away.
    fn give<U: Upper>(&self, upper: &U, draft: &U::Object, permissions: u16) -> Outcome<()> {
        for (name, list) in [(ACCESS_LIST, &self.access), (DEFAULT_LIST, &self.default)] {
            if let Some(list) = list {
                upper.set_xattr(draft, name, list, XattrMode::Set)?;
            }
        }
        Ok(upper.set_attr(draft, &SetAttr { permissions: Some(permissions), ..SetAttr::default() })?)
    }
}

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
            Some(FileKind::CharDevice | FileKind::BlockDevice) if rdev != 0 && !self.options.devices => {
                return Err(Errno::EPERM);
            }
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
                    if self.is_part(&self.place(parent)?, name)? {
                        return Err(Errno::EISDIR);
                    }
                }
                made => break made?,
            }
        };
        match self.open_file(entry.attr.ino, flags) {
            Ok(opened) => Ok((entry, opened)),
            Err(errno) => {
                let dropped = self.table.lock().unlook(entry.attr.ino);
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
        if self.find(&place, name)?.is_some() || self.is_part(&place, name)? {
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
            let lists = self.inherited_lists(dir, new, permissions)?;
            let permissions = match (&lists, new) {
                (Some(lists), _) => lists.permissions,
                (None, NewObject::Symlink(_)) => permissions,
                (None, _) => permissions & !caller.umask,
            };
            let draft = upper.draft(new, permissions | inherited, caller.uid, gid)?;
            let object = upper.draft_object(&draft);
            if let Some(lists) = lists {
                lists.give(upper, &object, permissions | inherited)?;
            }
            let _changing = self.lock_names(&[parent]);
            if !self.is_current(&place)? {
                continue;
            }
            if self.find(&place, name)?.is_some() {
                return Err(Errno::EEXIST);
            }
            let intending = self.intend(|| {
                Ok(Intent::Make { link: record::link(parent, name), object: upper.stat(&object)?.ino })
            })?;
            upper.publish(draft, dir, name)?;
            let entry = self.enter(&place, name, object, intending.id())?;
            intending.settled();
            return Ok(entry);
        }
    }

    /// What an object that is made in a directory gets from the default list of that.
    fn inherited_lists(
        &self,
        dir: &U::Object,
        new: &NewObject<'_>,
        permissions: u16,
    ) -> Outcome<Option<InheritedLists>> {
        if !self.access_lists || matches!(new, NewObject::Symlink(_)) {
            return Ok(None);
        }
        let default = match self.upper()?.get_xattr(dir, DEFAULT_LIST).map_err(Errno::from) {
            Err(Errno::ENODATA) => return Ok(None),
            answer => answer?,
        };
        let Inherited { permissions, access } = access_list::inherit(&default, permissions)?;
        let default = matches!(new, NewObject::Directory { .. }).then_some(default);
        Ok(Some(InheritedLists { permissions, access, default }))
    }

    /// The entry of an upper object that has just got a name, by which the intent `settles` was carried out; the directory's
    /// lock is held.
    pub(super) fn enter(
        &self,
        place: &PlaceOf<L, U>,
        name: &Name,
        object: U::Object,
        settles: Option<u64>,
    ) -> Outcome<Entry> {
        let upper = self.upper()?;
        let stat = upper.stat(&object)?;
        let origin = upper.origin(&object)?;
        let identity = Identity::of_upper(stat.kind, stat.ino, origin);
        let found = Found { identity, stat, upper: Some(object), lower: None };
        let (ino, generation) = self.table.lock().intern_made(place.ino, name, &found.identity, settles);
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
