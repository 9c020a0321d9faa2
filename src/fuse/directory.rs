//! Listings: a directory's entries with attributes, `.` and `..` first.
//!
//! Offsets are cookies of the file system: they mean the same to every request, without an open directory.

use fuser::{Generation, INodeNo, ReplyDirectoryPlus};

use crate::vfs::{self, DirEntry, Flow, Ino, Vfs};

use super::convert::{self, FOREVER};

/// The cookie of `.`; that of `..` follows. Those of names are greater than both.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Fills `reply` with what follows the cookie `offset`.
///
/// The kernel takes only number and type of `.` and `..`, and counts no lookup for them (fs/fuse/readdir.c,
/// `fuse_direntplus_link`).
///
/// # Errors
/// Those of [`Vfs::readdir`], unless entries are in `reply` already, whose lookups count: then they are sent, and the
/// kernel meets the error when it asks for the rest.
pub(super) fn fill(vfs: &impl Vfs, ino: Ino, offset: u64, reply: &mut ReplyDirectoryPlus) -> vfs::Result<()> {
    if offset < DOT && add_dot(reply, ino, DOT, ".") {
        return Ok(());
    }
    if offset < DOT_DOT && add_dot(reply, vfs.parent(ino)?, DOT_DOT, "..") {
        return Ok(());
    }
    let after = if offset <= DOT_DOT { 0 } else { offset };
    let mut taken = 0usize;
    let listed = vfs.readdir(ino, after, true, &mut |entry| {
        if add(reply, entry) {
            Flow::Full
        } else {
            taken += 1;
            Flow::Continue
        }
    });
    match listed {
        Err(error) if taken > 0 => {
            tracing::warn!(%error, "a listing was cut short");
            Ok(())
        }
        answer => answer,
    }
}

/// True if there was no room.
fn add(reply: &mut ReplyDirectoryPlus, entry: &DirEntry) -> bool {
    let attr = convert::attr(&entry.entry.attr);
    let generation = Generation(entry.entry.generation.0);
    let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.name.as_bytes());
    reply.add::<&std::ffi::OsStr>(attr.ino, entry.cookie, name, &FOREVER, &attr, generation)
}

/// True if there was no room.
fn add_dot(reply: &mut ReplyDirectoryPlus, ino: Ino, cookie: u64, name: &str) -> bool {
    let attr =
        fuser::FileAttr { kind: fuser::FileType::Directory, ino: INodeNo(ino.0), ..convert::negative() };
    reply.add(attr.ino, cookie, name, &FOREVER, &attr, Generation(0))
}
