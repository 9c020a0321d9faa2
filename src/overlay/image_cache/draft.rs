//! A file that is being written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::RenameFlags;

use super::directory::Directory;
use crate::sys;
use crate::sys::lock::{Flock, flock_within};
use crate::vfs::Errno;

/// What the names of drafts begin with.
pub(super) const PREFIX: &str = "draft-";

/// A file without its name, removed when it is dropped before it has one. Its lock is held until
/// then and longer, so that a sweep tells it from the draft of a dead process.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    name: String,
    directory: OwnedFd,
    published: bool,
}

impl Draft {
    /// Makes an empty one with these permissions.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(directory: &Directory, permissions: u16) -> io::Result<Self> {
        let mut number = 0_u64;
        loop {
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            number += 1;
            let file = match sys::names::create_file(directory.as_fd(), name.as_bytes(), permissions) {
                Err(error) if Errno::of(&error) == Errno::EEXIST => continue,
                answer => answer?,
            };
            sys::file::set_permissions(file.as_fd(), permissions)?;
            let directory_fd = directory.as_fd().try_clone_to_owned()?;
            // A sweep may have taken it for that of a dead process before it was locked.
            if flock_within(&file, Flock::Alone, Duration::ZERO)?
                && sys::names::leads_to(directory.as_fd(), name.as_bytes(), file.as_fd())?
            {
                return Ok(Self { file: file.into(), name, directory: directory_fd, published: false });
            }
        }
    }

    /// Writes all of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives it its name, in the place of what has it.
    pub(super) fn rename(&mut self, directory: &Directory, name: &str) -> io::Result<()> {
        let (from, to) = (self.name.as_bytes(), name.as_bytes());
        sys::names::rename((directory.as_fd(), from), (directory.as_fd(), to), RenameFlags::empty())?;
        self.published = true;
        Ok(())
    }

    /// Gives it its name after its content has reached the disk.
    pub(super) fn publish(&mut self, directory: &Directory, name: &str) -> io::Result<()> {
        sys::file::sync(self.file.as_fd(), false)?;
        self.rename(directory, name)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = sys::names::unlink(self.directory.as_fd(), self.name.as_bytes())
        {
            tracing::warn!(%error, name = self.name, "could not remove the draft of an image");
        }
    }
}
