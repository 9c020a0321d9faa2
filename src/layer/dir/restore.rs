//! Taking changes back.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::RenameFlags;

use super::{DirObject, DirUpper, Format, error, marks, unless, whiteout};
use crate::layer::Restore;
use crate::sys;
use crate::vfs::{Errno, Name};

impl Restore for DirUpper {
    fn make_transparent(&self, dir: &DirObject) -> io::Result<()> {
        let drop_mark = |mark: &str| {
            marks::owner_may_write(dir.as_fd(), || sys::xattr::remove(dir.as_fd(), mark.as_bytes()))
        };
        // It means nothing as long as the directory is opaque.
        if let Some(mark) = self.format.redirect_name() {
            unless(drop_mark(&mark), &[Errno::ENODATA])?;
        }
        let removed = match self.format {
            Format::Trusted | Format::User => drop_mark(&self.format.opaque_name()),
            Format::Files => sys::names::unlink(dir.as_fd(), whiteout::OPAQUE_FILE),
        };
        unless(removed, &[Errno::ENODATA, Errno::ENOENT]).map(drop)
    }

    /// As the trait says: what was there is moved into the work directory by one rename, and removed there.
    fn discard(&self, dir: &DirObject, name: &Name) -> io::Result<()> {
        if whiteout::is_reserved(self.format, name) {
            return Err(error(Errno::ENOENT));
        }
        // An object wins over a whiteout file of its name: without that, nothing has changed yet.
        let hidden = self.format == Format::Files && whiteout::remove_file(dir, name)?;
        let Some(object) = unless(sys::open::open_path(dir.as_fd(), name.as_bytes()), &[Errno::ENOENT])?
        else {
            return if hidden { Ok(()) } else { Err(error(Errno::ENOENT)) };
        };
        // Moving a directory changes its own "..": its owner must be allowed to write to it.
        let moved = marks::owner_may_write(object.as_fd(), || {
            self.work.create(|work, free| {
                sys::names::rename((dir.as_fd(), name.as_bytes()), (work, free), RenameFlags::NOREPLACE)
            })
        });
        moved.map(drop)
    }
}
