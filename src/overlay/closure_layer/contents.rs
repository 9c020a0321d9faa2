//! The contents of members that are files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::ClosureLayerError;
use super::survey::Member;
use crate::sys;
use crate::vfs::Errno;

/// Reads a member that is a file, and leaves its access time.
///
/// # Errors
/// If it cannot be read, or is not the file that was found before.
pub(super) fn read(store: BorrowedFd<'_>, member: &Member) -> Result<Vec<u8>, ClosureLayerError> {
    let failed = |source| ClosureLayerError::Io { action: "read", name: member.name.clone(), source };
    let file = open(store, member.name.as_bytes()).map_err(failed)?;
    let is_same = |file: &File| sys::stat::stat(file.as_fd()).map(|found| member.is(&found));
    let mut file = File::from(file);
    if !is_same(&file).map_err(failed)? {
        return Err(ClosureLayerError::Changed(member.name.clone()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let as_long = sys::stat::stat(file.as_fd()).map_err(failed)?.stx_size == bytes.len() as u64;
    if !as_long || !is_same(&file).map_err(failed)? {
        return Err(ClosureLayerError::Changed(member.name.clone()));
    }
    Ok(bytes)
}

/// Opens it with `O_NOATIME`, which only its owner and root may use. Others open it without.
fn open(store: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match sys::open::open_beneath(store, name, flags | OFlags::NOATIME, 0) {
        Err(error) if Errno::of(&error) == Errno::EPERM => sys::open::open_beneath(store, name, flags, 0),
        answer => answer,
    }
}
