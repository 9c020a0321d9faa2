//! Changing metadata and lengths.

use super::copy_up::Need;
use super::place::Side;
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Attr, Errno, FileKind, Handle, Ino, SetAttr};

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Changes attributes. On an inode of the lower the change and the copy are one step.
    pub(super) fn set_attributes(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        changes: &SetAttr,
    ) -> Outcome<Attr> {
        let upper = self.upper()?;
        let kind = self.table.lock().get(ino)?.kind;
        match (changes.size, kind) {
            (None, _) | (_, FileKind::Regular) => {}
            (_, FileKind::Directory) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if *changes == SetAttr::default() {
            return self.attributes(ino, handle);
        }
        if let Some(open) = handle.and_then(|h| self.handles.get(h))
            && open.ino == ino
            && open.side == Side::Upper
        {
            open.file.set_attr(changes)?;
            return self.attributes(ino, handle);
        }
        let need = match changes.size {
            None => Need::Metadata,
            Some(0) => Need::Truncated,
            Some(_) => Need::Content,
        };
        if !self.copy_up(ino, need, &|object| upper.set_attr(object, changes))? {
            upper.set_attr(&self.upper_object(ino)?, changes)?;
        }
        self.attributes(ino, handle)
    }
}
