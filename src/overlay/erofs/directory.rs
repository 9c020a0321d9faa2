//! The data of directories: blocks, each with entries of 12 bytes and then their names.

use super::BLOCK;
use super::layout::Inode;
use crate::overlay::tree::Content;

/// The size of an entry without its name (`struct erofs_dirent`).
const DIRENT: usize = 12;

/// A name of a directory, and the index of its inode.
pub(super) struct Dirent<'n> {
    pub(super) name: &'n [u8],
    pub(super) inode: usize,
}

/// The length of the data of a directory: all blocks are full but the last, which ends with its
/// last name.
pub(super) fn size(dirents: &[Dirent<'_>]) -> usize {
    blocks(dirents).fold(0_usize, |size, block| {
        size.next_multiple_of(BLOCK) + block.iter().map(|dirent| DIRENT + dirent.name.len()).sum::<usize>()
    })
}

/// Appends the data of a directory to what ends at the beginning of a block, or has room for it in
/// its last one.
pub(super) fn write(dirents: &[Dirent<'_>], inodes: &[Inode<'_>], image: &mut Vec<u8>) {
    for (index, block) in blocks(dirents).enumerate() {
        if index > 0 {
            image.resize(image.len().next_multiple_of(BLOCK), 0);
        }
        let mut name_at = block.len() * DIRENT;
        for dirent in block {
            let inode = inodes.get(dirent.inode);
            image.extend_from_slice(&inode.map_or(0, Inode::number).to_le_bytes());
            // A block has 4096 bytes.
            image.extend_from_slice(&u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
            image.extend_from_slice(&[inode.map_or(0, file_type), 0]);
            name_at += dirent.name.len();
        }
        for dirent in block {
            image.extend_from_slice(dirent.name);
        }
    }
}

/// The entries block by block: as many in each as it holds.
fn blocks<'d, 'n>(mut rest: &'d [Dirent<'n>]) -> impl Iterator<Item = &'d [Dirent<'n>]> {
    std::iter::from_fn(move || {
        let mut space = BLOCK;
        let fits = |dirent: &&Dirent<'_>| {
            let left = space.checked_sub(DIRENT + dirent.name.len());
            space = left.unwrap_or(space);
            left.is_some()
        };
        let (block, after) = rest.split_at(rest.iter().take_while(fits).count());
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// The types of directory entries (`FT_REG_FILE`, `FT_DIR`, `FT_SYMLINK` of linux/fs_types.h).
fn file_type(inode: &Inode<'_>) -> u8 {
    match inode.node.content {
        Content::File(_) | Content::Hole(_) => 1,
        Content::Directory(_) => 2,
        Content::Symlink(_) => 7,
    }
}
