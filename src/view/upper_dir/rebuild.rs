//! Another tree in the place of an upper's own, in one step.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::RenameFlags;

use super::error::Tried;
use super::layout::{DATA, Layout, NIX, TREE, directory};
use super::{UpperDir, UpperError, WORK, image};
use crate::layer::dir::{self, DirUpper, Format};
use crate::sys;

/// Below the work directory: the new root, and its own work directory, until it takes its place.
const NEW_ROOT: &[u8] = b"new-root";
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
        let new = new_root(work.as_fd(), self.meta.format, owner).tried("make a new tree", &self.path)?;
        let new = new.with_base(self.layout.base());
        let filled = fill(&new);
        drop(new);
        let filled = match filled {
            Ok(filled) => filled,
            Err(error) => {
                dir::clear(work.as_fd()).tried("remove what is left in 'work'", &self.path)?;
                return Err(error);
            }
        };
        let put = self.put(work.as_fd());
        let root = put.tried("put a new tree in place of the old one", &self.path)?;
        // Opening it empties the work directory, and so removes the old tree.
        let layer =
            DirUpper::open(&root, &work, Some(self.meta.format)).tried("open the new tree", &self.path)?;
        self.layer = layer.with_base(self.layout.base()).with_ceiling(self.meta.limit.map(image::ceiling));
        self.own()?;
        Ok(filled)
    }

    /// Exchanges the new root, which is on the disk by then, with the old one; answers the new one.
    fn put(&self, work: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let durable = !self.meta.temporary;
        if durable {
            sys::file::sync_filesystem(sys::open::open_listing(work)?.as_fd())?;
        }
        let tree = match self.layout {
            Layout::Tree => Some(sys::open::open_directory(self.top(), TREE)?),
            Layout::Data => None,
        };
        let place = match &tree {
            Some(tree) => (tree.as_fd(), NIX),
            None => (self.top(), DATA),
        };
        sys::names::rename((work, NEW_ROOT), place, RenameFlags::EXCHANGE)?;
        if durable {
            for changed in [place.0, work] {
                sys::file::sync(sys::open::open_listing(changed)?.as_fd(), false)?;
            }
        }
        sys::open::open_directory(place.0, place.1)
    }

    /// Notes that all of a new tree was written by nixview.
    fn own(&mut self) -> Result<(), UpperError> {
        if self.layout == Layout::Data {
            return Ok(());
        }
        self.meta.own = Some(self.tree_id()?);
        self.meta.old_redirects = false;
        self.meta.write(self.dir.as_fd(), &self.path)
    }
}

fn new_root(work: BorrowedFd<'_>, format: Format, owner: (u32, u32)) -> io::Result<DirUpper> {
    dir::clear(work)?;
    let (root, _) = directory(work, NEW_ROOT, Some(owner))?;
    let (new_work, _) = directory(work, NEW_WORK, None)?;
    DirUpper::open(&root, &new_work, Some(format))
}
