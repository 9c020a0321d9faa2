//! What a view shows of a layer's metadata.

use super::node::Source;
use crate::layer::Stat;
use crate::vfs::{Attr, Ino};

/// Attributes of an inode of the lower: nothing that tells of others who use the store.
///
/// One link, all times the modification time, space from the length, the owner replaced if the view has one.
/// `links` is 0 for an inode whose name is gone.
pub(super) fn of_lower(ino: Ino, stat: &Stat, owner: Option<(u32, u32)>, links: u32) -> Attr {
    let (uid, gid) = owner.unwrap_or((stat.uid, stat.gid));
    Attr {
        ino,
        kind: stat.kind,
        permissions: stat.permissions,
        nlink: links,
        uid,
        gid,
        rdev: stat.rdev,
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        block_size: 4096,
        atime: stat.mtime,
        mtime: stat.mtime,
        ctime: stat.mtime,
    }
}

/// Attributes of an inode of the upper, as they are; but a directory through which the lower shows has one link (or
/// none, when removed), as before it was copied up, which tells find(1) not to count subdirectories by links.
pub(super) fn of_upper(ino: Ino, stat: &Stat, source: Source) -> Attr {
    let merged = matches!(source, Source::Both(_));
    Attr {
        ino,
        kind: stat.kind,
        permissions: stat.permissions,
        nlink: if merged { stat.nlink.min(1) } else { stat.nlink },
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        size: stat.size,
        blocks: stat.blocks,
        block_size: stat.block_size,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
    }
}

/// `attr` with length, space and time of the content of another inode.
pub(super) fn with_content(attr: Attr, content: &Stat) -> Attr {
    Attr { size: content.size, blocks: content.size.div_ceil(512), mtime: content.mtime, ..attr }
}
