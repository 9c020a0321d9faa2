//! Objects that have no name yet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;

use super::work::Temporary;
use super::{DirObject, DirUpper, error, marks};
use crate::layer::NewObject;
use crate::sys;
use crate::vfs::{Errno, FileKind};

/// A new object in the work directory; dropped, it is removed.
#[derive(Debug)]
pub struct DirDraft {
    pub(super) place: Temporary,
    pub(super) object: DirObject,
    /// A regular file as it was created, open for reading and writing whatever its mode says now.
    pub(super) file: Option<OwnedFd>,
}

/// Makes a draft. Its mode is set last: a change of owner clears bits of it.
pub(super) fn create(
    upper: &DirUpper,
    new: &NewObject<'_>,
    permissions: u16,
    uid: u32,
    gid: u32,
) -> io::Result<DirDraft> {
    let mut file = None;
    let (place, ()) = match new {
        NewObject::File => {
            let (place, created) =
                upper.work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
            file = Some(created);
            (place, ())
        }
        NewObject::Directory { .. } => {
            upper.work.create(|dir, name| sys::names::create_directory(dir, name, 0o700))?
        }
        NewObject::Symlink(target) => {
            upper.work.create(|dir, name| sys::names::create_symlink(dir, name, target))?
        }
        NewObject::Node { kind: FileKind::CharDevice, rdev: 0 } => {
            // As it is it would be a whiteout.
            let (place, created) =
                upper.work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
            marks::set_device(created.as_fd(), upper.format)?;
            (place, ())
        }
        NewObject::Node { kind, rdev } => {
            let file_type = node_type(*kind)?;
            upper.work.create(|dir, name| sys::names::create_node(dir, name, file_type, 0o600, *rdev))?
        }
    };
    let (dir, name) = place.place();
    let object = DirObject::new(sys::open::open_path(dir, name)?);
    let draft = DirDraft { place, object, file };
    let object = draft.object.as_fd();
    if matches!(new, NewObject::Directory { opaque: true }) {
        marks::set_opaque(object, upper.format)?;
    }
    let made = sys::stat::stat(object)?;
    if (made.stx_uid, made.stx_gid) != (uid, gid) {
        sys::attr::set_owner(object, Some(uid), Some(gid))?;
    }
    if !matches!(new, NewObject::Symlink(_)) {
        sys::attr::set_permissions(object, permissions & 0o7777)?;
    }
    Ok(draft)
}

/// The type of a node; `EINVAL` for what is none.
fn node_type(kind: FileKind) -> io::Result<FileType> {
    match kind {
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => {
            Ok(FileType::from_raw_mode(kind.mode_bits()))
        }
        FileKind::Regular | FileKind::Directory | FileKind::Symlink => Err(error(Errno::EINVAL)),
    }
}
