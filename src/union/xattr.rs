//! Extended attributes.

use super::copy_up::Need;
use super::node::Source;
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Errno, Ino, XattrMode};

impl<L: Lower, U: Upper> UnionFs<L, U> {
    fn is_lower(&self, ino: Ino) -> Outcome<bool> {
        Ok(self.table.lock().get(ino)?.source == Source::Lower)
    }

    pub(super) fn get_xattr(&self, ino: Ino, name: &[u8]) -> Outcome<Vec<u8>> {
        Ok(if self.is_lower(ino)? {
            self.lower.get_xattr(&self.lower_object(ino)?, name)?
        } else {
            self.upper()?.get_xattr(&self.upper_object(ino)?, name)?
        })
    }

    pub(super) fn list_xattr(&self, ino: Ino) -> Outcome<Vec<Vec<u8>>> {
        Ok(if self.is_lower(ino)? {
            self.lower.list_xattr(&self.lower_object(ino)?)?
        } else {
            self.upper()?.list_xattr(&self.upper_object(ino)?)?
        })
    }

    pub(super) fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Outcome<()> {
        let upper = self.upper()?;
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
