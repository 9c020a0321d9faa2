//! Extended attributes.
//!
//! Access control lists are refused as by a file system that has none (`EOPNOTSUPP`, and no listing names them):
//! permissions are checked by the kernel's FUSE side, from mode and owner alone. A list that is stored and not obeyed is
//! worse than none: the group bits of the mode then are its mask, and would be the group's.

use super::copy_up::Need;
use super::node::Source;
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Errno, Ino, XattrMode};

/// What attributes that hold access control lists start with (acl(5)): `access` and `default`.
const ACCESS_LIST: &[u8] = b"system.posix_acl_";

fn refuse_access_list(name: &[u8]) -> Outcome<()> {
    if name.starts_with(ACCESS_LIST) { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    fn is_lower(&self, ino: Ino) -> Outcome<bool> {
        Ok(self.table.lock().get(ino)?.source == Source::Lower)
    }

    pub(super) fn get_xattr(&self, ino: Ino, name: &[u8]) -> Outcome<Vec<u8>> {
        refuse_access_list(name)?;
        Ok(if self.is_lower(ino)? {
            self.lower.get_xattr(&self.lower_object(ino)?, name)?
        } else {
            self.upper()?.get_xattr(&self.upper_object(ino)?, name)?
        })
    }

    pub(super) fn list_xattr(&self, ino: Ino) -> Outcome<Vec<Vec<u8>>> {
        let mut names = if self.is_lower(ino)? {
            self.lower.list_xattr(&self.lower_object(ino)?)?
        } else {
            self.upper()?.list_xattr(&self.upper_object(ino)?)?
        };
        names.retain(|name| !name.starts_with(ACCESS_LIST));
        Ok(names)
    }

    pub(super) fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Outcome<()> {
        let upper = self.upper()?;
        refuse_access_list(name)?;
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
        refuse_access_list(name)?;
        if self.is_lower(ino)? {
            drop(self.get_xattr(ino, name)?);
        }
        let remove = |object: &U::Object| upper.remove_xattr(object, name);
        if !self.copy_up(ino, Need::Metadata, &remove)? {
            remove(&self.upper_object(ino)?)?;
        }
        Ok(())
    }
}
