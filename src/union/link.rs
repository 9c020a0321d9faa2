//! Further names for inodes.

use super::copy_up::Need;
use super::record::{self, Intent};
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Entry, Errno, FileKind, Ino, Name};

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Links an inode, which is copied up first.
    pub(super) fn make_link(&self, ino: Ino, parent: Ino, name: &Name) -> Outcome<Entry> {
        let place = self.place(parent)?;
        if self.find(&place, name)?.is_some() || self.is_part(&place, name)? {
            return Err(Errno::EEXIST);
        }
        {
            let table = self.table.lock();
            if table.get(ino)?.kind == FileKind::Directory {
                return Err(Errno::EPERM);
            }
            if !table.is_linked(ino) {
                return Err(Errno::ENOENT);
            }
        }
        let upper = self.upper()?;
        self.copy_up(ino, Need::Metadata, &|_| Ok(()))?;
        loop {
            let place = self.changeable_place(parent)?;
            let Some(dir) = &place.upper else { return Err(Errno::ESTALE) };
            let object = self.upper_object(ino)?;
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
            upper.link(&object, dir, name)?;
            let entry = self.enter(&place, name, object, intending.id())?;
            intending.settled();
            return Ok(entry);
        }
    }
}
