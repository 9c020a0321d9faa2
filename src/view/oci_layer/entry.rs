//! One member of an archive, without its content.

use crate::vfs::{FileKind, Timespec};

/// A member, as its headers say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// The path in the archive, without a slash at its end.
    pub(super) path: Vec<u8>,
    /// What it is.
    pub(super) body: Body,
    /// Low 12 bits of the mode.
    pub(super) permissions: u16,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Last change of the content.
    pub(super) mtime: Timespec,
    /// Extended attributes, sorted by name.
    pub(super) xattrs: Vec<Xattr>,
}

/// Name and value of an extended attribute.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// What a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// A regular file of this length; in the archive, all of it or the stretches of data that follow each other.
    File {
        /// In bytes.
        size: u64,
        /// Offset and length of each stretch, in order; `None` if all of it is there.
        data: Option<Vec<(u64, u64)>>,
    },
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// Another name of the member with this path.
    HardLink(Vec<u8>),
    /// A device or FIFO.
    Node {
        /// Which.
        kind: FileKind,
        /// Device number; 0 for FIFOs.
        rdev: u64,
    },
}

impl Body {
    /// A regular file that is in the archive whole.
    pub(super) fn file(size: u64) -> Self {
        Self::File { size, data: None }
    }
}
