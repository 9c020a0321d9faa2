//! A writer of EROFS images: uncompressed, and a function of the tree alone.
//!
//! The subset that a closure layer needs: extended inodes, extended attributes beside their inode,
//! data beside the inode or in whole blocks, and chunk-based files without data. It follows the
//! kernel's `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`; images that have no
//! file without data use no feature that Linux 5.4 lacks, the others need 5.15. Blocks have 4096
//! bytes, which kernels with larger pages read since 6.4.
//!
//! ```text
//! 0       1024         1152
//! | zeros | superblock | inodes, breadth first: 64 bytes, attributes, data | data in whole blocks |
//! ```
//!
//! An inode lies in one block, with its attributes and the data beside it, so that no reader has to
//! put parts together. There is no time of building and no UUID.

mod directory;
mod inode;
mod layout;
mod superblock;

use crate::overlay::tree::Tree;
use layout::Layout;

/// The size of a block in bytes, as a power of two.
const BLOCK_BITS: u8 = 12;

/// The size of a block in bytes.
const BLOCK: usize = 1 << BLOCK_BITS;

/// Inodes lie at multiples of this many bytes; the number of an inode is its position in this unit.
const SLOT: usize = 32;

/// The address of a block that is not there.
const NO_BLOCK: u32 = u32::MAX;

/// The format cannot hold the tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an EROFS image cannot hold {0}")]
pub struct TooLarge(&'static str);

/// The image of a tree. Time and memory are linear in the number of entries and the bytes of files.
///
/// # Errors
/// If the attributes of an inode do not fit a block, a file has more than 2^43 bytes, or the image
/// has 2^32 blocks.
pub fn image(tree: &Tree) -> Result<Vec<u8>, TooLarge> {
    let layout = Layout::of(tree)?;
    let mut image = Vec::with_capacity(layout.blocks as usize * BLOCK);
    image.resize(superblock::END, 0);
    for (index, inode) in layout.inodes.iter().enumerate() {
        image.resize(inode.position, 0);
        inode::write(&layout, index, inode, &mut image);
    }
    for (index, inode) in layout.inodes.iter().enumerate() {
        if let Some(block) = inode.first_block() {
            image.resize(block as usize * BLOCK, 0);
            layout.write_data(index, inode, &mut image);
        }
    }
    image.resize(layout.blocks as usize * BLOCK, 0);
    superblock::write(&layout, &mut image);
    Ok(image)
}

#[cfg(test)]
mod reader;
#[cfg(test)]
mod tests;
