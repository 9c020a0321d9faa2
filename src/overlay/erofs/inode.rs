//! An inode with its attributes (`struct erofs_inode_extended`, `erofs_xattr_ibody_header`,
//! `erofs_xattr_entry`).

use super::layout::{Data, Inode, Layout};
use super::{BLOCK, NO_BLOCK};
use crate::overlay::tree::{Content, Mark, Node};

/// The size of an inode without attributes.
const INODE: usize = 64;

/// The size of what attributes begin with.
const ATTRIBUTES: usize = 12;

/// The size of what an attribute begins with.
const ATTRIBUTE: usize = 4;

/// The prefix `trusted.`, which is stored as a number, and that number.
const PREFIX: &[u8] = b"trusted.";
const TRUSTED: u8 = 4;

/// The size of the address of a chunk.
pub(super) const CHUNK: usize = 4;

/// The most bits that a chunk has beyond those of a block.
pub(super) const MAX_CHUNK_BITS: u8 = 31;

/// The size of an inode with its attributes; `None` if it does not fit a block.
pub(super) fn head(node: &Node) -> Option<usize> {
    let head = INODE + attributes(node);
    (head + CHUNK <= BLOCK).then_some(head)
}

/// The name of a mark without the prefix.
fn suffix(mark: &Mark) -> &'static [u8] {
    let name = mark.name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// The size of an inode's attributes: 0 if it has none.
fn attributes(node: &Node) -> usize {
    let one = |mark: &Mark| (ATTRIBUTE + suffix(mark).len() + mark.value().len()).next_multiple_of(4);
    if node.marks.is_empty() { 0 } else { ATTRIBUTES + node.marks.iter().map(one).sum::<usize>() }
}

/// Appends an inode, its attributes, and what of its data is beside it. All sizes were checked by
/// [`head`].
pub(super) fn write<'t>(layout: &Layout<'t>, index: usize, inode: &Inode<'t>, image: &mut Vec<u8>) {
    let short = |size: usize| u16::try_from(size).unwrap_or(u16::MAX).to_le_bytes();
    let node = inode.node;
    let (kind, permissions) = match node.content {
        Content::Directory(_) => (libc::S_IFDIR, node.permissions),
        Content::Symlink(_) => (libc::S_IFLNK, 0o777),
        Content::File(_) | Content::Hole(_) => (libc::S_IFREG, node.permissions),
    };
    let mode = u16::try_from(kind).unwrap_or_default() | (permissions & 0o7777);
    // `EROFS_INODE_FLAT_PLAIN`, `EROFS_INODE_FLAT_INLINE`, `EROFS_INODE_CHUNK_BASED`.
    let (data_layout, place) = match inode.data {
        Data::Blocks(block) => (0, block),
        Data::Beside => (2, NO_BLOCK),
        Data::Hole(bits) => (4, u32::from(bits)),
    };
    let size = attributes(node);
    let count = if size == 0 { 0 } else { (size - ATTRIBUTES) / 4 + 1 };
    // Bit 0: the inode has 64 bytes.
    image.extend_from_slice(&short(1 | data_layout << 1));
    image.extend_from_slice(&short(count));
    image.extend_from_slice(&mode.to_le_bytes());
    image.extend_from_slice(&[0; 2]);
    image.extend_from_slice(&inode.size.to_le_bytes());
    image.extend_from_slice(&place.to_le_bytes());
    image.extend_from_slice(&u32::try_from(index + 1).unwrap_or(u32::MAX).to_le_bytes());
    // Owner and group.
    image.extend_from_slice(&[0; 8]);
    image.extend_from_slice(&node.mtime.seconds.to_le_bytes());
    image.extend_from_slice(&node.mtime.nanoseconds.to_le_bytes());
    image.extend_from_slice(&inode.links().to_le_bytes());
    image.extend_from_slice(&[0; 16]);
    if !node.marks.is_empty() {
        image.extend_from_slice(&[0; ATTRIBUTES]);
    }
    for mark in &node.marks {
        let (name, value) = (suffix(mark), mark.value());
        image.extend_from_slice(&[u8::try_from(name.len()).unwrap_or(u8::MAX), TRUSTED]);
        image.extend_from_slice(&short(value.len()));
        image.extend_from_slice(name);
        image.extend_from_slice(value);
        image.resize(image.len().next_multiple_of(4), 0);
    }
    match inode.data {
        Data::Beside => layout.write_data(index, inode, image),
        Data::Hole(_) => image.extend_from_slice(&NO_BLOCK.to_le_bytes()),
        Data::Blocks(_) => {}
    }
}
