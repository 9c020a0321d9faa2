//! Another tree in the place of an upper's own, in one step.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::RenameFlags;

use super::error::Tried;
use super::{DATA, UpperDir, UpperError, WORK, image, tree};
use crate::layer::dir::{self, DirUpper, Format};
use crate::sys;

/// Below the work directory: the new tree, and its own work directory, until it takes its place.
const NEW_DATA: &[u8] = b"new-data";
const NEW_WORK: &[u8] = b"new-work";

impl UpperDir {
    /// Replaces the tree by what `fill` makes of an empty one, whose root belongs to `owner`.
    ///
    /// One rename, after all of the new tree is on the disk: whatever fails or is killed before leaves the tree that was there, and what
    /// it leaves in the work directory goes at the next start. The old tree is removed.
    ///
    /// # Errors
    /// Those of `fill`; [`UpperError::Io`].
    pub fn rebuild<T, E: From<UpperError>>(
        &mut self,
        owner: (u32, u32),
        fill: impl FnOnce(&DirUpper) -> Result<T, E>,
    ) -> Result<T, E> {
        let work = sys::open::open_directory(self.top(), WORK).tried("open 'work'", &self.path)?;
        let new = new_tree(work.as_fd(), self.meta.format, owner).tried("make a new tree", &self.path)?;
        let filled = fill(&new);
        drop(new);
        let filled = match filled {
            Ok(filled) => filled,
            Err(error) => {
                dir::clear(work.as_fd()).tried("remove what is left in 'work'", &self.path)?;
                return Err(error);
            }
        };
        let put = put(self.top(), work.as_fd(), !self.meta.temporary);
        put.tried("put a new tree in place of 'data'", &self.path)?;
        let data = sys::open::open_directory(self.top(), DATA).tried("open 'data'", &self.path)?;
        // Opening it empties the work directory, and so removes the old tree.
        let layer = DirUpper::open(&data, &work, Some(self.meta.format)).tried("open 'data'", &self.path)?;
        self.layer = layer.with_ceiling(self.meta.limit.map(image::ceiling));
        Ok(filled)
    }
}

fn new_tree(work: BorrowedFd<'_>, format: Format, owner: (u32, u32)) -> io::Result<DirUpper> {
    dir::clear(work)?;
    let data = tree(work, NEW_DATA, Some(owner))?;
    let new_work = tree(work, NEW_WORK, None)?;
    DirUpper::open(&data, &new_work, Some(format))
}

fn put(top: BorrowedFd<'_>, work: BorrowedFd<'_>, durable: bool) -> io::Result<()> {
    if durable {
        sys::file::sync_filesystem(sys::open::open_listing(work)?.as_fd())?;
    }
    sys::names::rename((work, NEW_DATA), (top, DATA), RenameFlags::EXCHANGE)?;
    if durable {
        for changed in [top, work] {
            sys::file::sync(sys::open::open_listing(changed)?.as_fd(), false)?;
        }
    }
    Ok(())
}
