//! Extended attributes.
//!
//! Access control lists are kept where the upper's file system keeps them: the kernel's FUSE side then checks access by
//! them, and the upper keeps the mode in step. Else, and in views without an upper, they are refused as by a file
//! system that has none (`EOPNOTSUPP`, and no listing names them): a list that is stored and not obeyed is worse than
//! none, since the group bits of the mode then are its mask, and would be the group's. Lists of the lower count where its
//! owners do; where these are replaced, the ids in the lists mean nobody, and the lists are not shown.

use super::copy_up::Need;
use super::node::Source;
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::access_list::is_access_list;
use crate::vfs::{Errno, Ino, XattrMode};

impl<L: Lower, U: Upper> UnionFs<L, U> {
    fn is_lower(&self, ino: Ino) -> Outcome<bool> {
        Ok(self.table.lock().get(ino)?.source == Source::Lower)
    }

    fn refuse_access_list(&self, name: &[u8]) -> Outcome<()> {
        if is_access_list(name) && !self.access_lists { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }

    /// The attributes of an object of the lower that show, and go with it when it is copied up.
    pub(super) fn lower_xattrs(&self, object: &L::Object) -> Outcome<Vec<Vec<u8>>> {
        let mut names = self.lower.list_xattr(object)?;
        names.retain(|name| !is_access_list(name) || self.shows_lower_lists());
        Ok(names)
    }

    fn shows_lower_lists(&self) -> bool {
        self.access_lists && self.options.owner.is_none()
    }

    fn get_lower_xattr(&self, ino: Ino, name: &[u8]) -> Outcome<Vec<u8>> {
        let list = is_access_list(name);
        if list && !self.shows_lower_lists() {
            return Err(Errno::ENODATA);
        }
        match self.lower.get_xattr(&self.lower_object(ino)?, name).map_err(Errno::from) {
            // The kernel asks for lists to check access, and takes this as an error of that.
            Err(Errno::EOPNOTSUPP) if list => Err(Errno::ENODATA),
            answer => answer,
        }
    }

    pub(super) fn get_xattr(&self, ino: Ino, name: &[u8]) -> Outcome<Vec<u8>> {
        self.refuse_access_list(name)?;
        if self.is_lower(ino)? {
            return self.get_lower_xattr(ino, name);
        }
        Ok(self.upper()?.get_xattr(&self.upper_object(ino)?, name)?)
    }

    pub(super) fn list_xattr(&self, ino: Ino) -> Outcome<Vec<Vec<u8>>> {
        if self.is_lower(ino)? {
            return self.lower_xattrs(&self.lower_object(ino)?);
        }
        let mut names = self.upper()?.list_xattr(&self.upper_object(ino)?)?;
        names.retain(|name| !is_access_list(name) || self.access_lists);
        Ok(names)
    }

    pub(super) fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Outcome<()> {
        let upper = self.upper()?;
        self.refuse_access_list(name)?;
        // What must fail is not worth a copy.
        if mode != XattrMode::Set && self.is_lower(ino)? {
            match (mode, self.get_xattr(ino, name)) {
                (XattrMode::Create, Ok(_)) => return Err(Errno::EEXIST),
                (XattrMode::Create, Err(Errno::ENODATA)) => {}
                (_, answer) => drop(answer?),
            }
        }
        let set = |object: &U::Object| upper.set_xattr(object, name, value, mode);
        if !self.copy_up(ino, Need::Metadata, &set)? {
            set(&self.upper_object(ino)?)?;
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Outcome<()> {
        let upper = self.upper()?;
        self.refuse_access_list(name)?;
        let removed = self.remove_present_xattr(upper, ino, name);
        match removed {
            // As the file systems of Linux: without a list there is nothing to do.
            Err(Errno::ENODATA) if is_access_list(name) => Ok(()),
            answer => answer,
        }
    }

    fn remove_present_xattr(&self, upper: &U, ino: Ino, name: &[u8]) -> Outcome<()> {
        if self.is_lower(ino)? {
            drop(self.get_lower_xattr(ino, name)?);
        }
        let remove = |object: &U::Object| upper.remove_xattr(object, name);
        if !self.copy_up(ino, Need::Metadata, &remove)? {
            remove(&self.upper_object(ino)?)?;
        }
        Ok(())
    }
}
