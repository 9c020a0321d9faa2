//! An open regular file of a directory layer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{error, read, write};
use crate::layer::{LayerFile, Stat};
use crate::sys;
use crate::vfs::{Errno, SeekTarget, SetAttr};

/// An open regular file. Several calls at once are fine: none uses the descriptor's offset, except
/// [`seek`](LayerFile::seek), which only moves it.
#[derive(Clone, Debug)]
pub struct DirFile(Arc<OwnedFd>);

impl DirFile {
    pub(super) fn new(descriptor: Arc<OwnedFd>) -> Self {
        Self(descriptor)
    }
}

impl LayerFile for DirFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        sys::file::read_at(self.0.as_fd(), offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        sys::file::write_at(self.0.as_fd(), offset, data)
    }

    fn stat(&self) -> io::Result<Stat> {
        read::stat(&self.0)
    }

    /// As [`Upper::set_attr`](crate::layer::Upper::set_attr); a length needs an open for writing (`EINVAL`).
    fn set_attr(&self, changes: &SetAttr) -> io::Result<()> {
        let file = self.0.as_fd();
        if let Some(length) = changes.size {
            sys::file::set_length(file, length)?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            sys::attr::set_owner(file, changes.uid, changes.gid)?;
        }
        if let Some(permissions) = changes.permissions {
            sys::file::set_permissions(file, permissions)?;
        }
        write::set_times(file, changes)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        sys::file::sync(self.0.as_fd(), data_only)
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        sys::file::allocate(self.0.as_fd(), mode, offset, length)
    }

    fn seek(&self, offset: u64, target: SeekTarget) -> io::Result<u64> {
        match target {
            SeekTarget::Data => {
                sys::copy::next_data(self.0.as_fd(), offset)?.ok_or_else(|| error(Errno::ENXIO))
            }
            SeekTarget::Hole => sys::copy::next_hole(self.0.as_fd(), offset),
        }
    }

    fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.0))
    }
}
