//! The superblock (`struct erofs_super_block`).

use super::layout::{Inode, Layout};
use super::{BLOCK, BLOCK_BITS};

/// Where it begins, and where the first inode lies: the root's number has 16 bits.
const START: usize = 1024;
pub(super) const END: usize = START + 128;

/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xE0F5_E1E2;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`, `EROFS_FEATURE_COMPAT_MTIME`.
const COMPATIBLE: u32 = 1 | 2;

/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`: kernels before 5.15 refuse an image that has it.
const CHUNKED_FILE: u32 = 4;

/// Writes it into an image that is whole otherwise.
pub(super) fn write(layout: &Layout<'_>, image: &mut [u8]) {
    let root = layout.inodes.first().map_or(0, Inode::number);
    let incompatible = if layout.has_holes { CHUNKED_FILE } else { 0 };
    let mut fields = Vec::with_capacity(END - START);
    fields.extend_from_slice(&MAGIC.to_le_bytes());
    fields.extend_from_slice(&[0; 4]);
    fields.extend_from_slice(&COMPATIBLE.to_le_bytes());
    fields.extend_from_slice(&[BLOCK_BITS, 0]);
    fields.extend_from_slice(&u16::try_from(root).unwrap_or_default().to_le_bytes());
    fields.extend_from_slice(&(layout.inodes.len() as u64).to_le_bytes());
    // The time of building.
    fields.extend_from_slice(&[0; 12]);
    fields.extend_from_slice(&layout.blocks.to_le_bytes());
    // Inodes are numbered from block 0 on, and no attributes are shared; UUID and name of the
    // volume.
    fields.extend_from_slice(&[0; 4 + 4 + 16 + 16]);
    fields.extend_from_slice(&incompatible.to_le_bytes());
    let Some(block) = image.get_mut(START..BLOCK) else { return };
    for (byte, field) in block.iter_mut().zip(fields) {
        *byte = field;
    }
    let checksum = crc32c(block).to_le_bytes();
    for (byte, part) in block.iter_mut().skip(4).zip(checksum) {
        *byte = part;
    }
}

/// CRC-32C as the kernel computes it for the superblock: over the rest of the block, without the
/// inversion at the end.
///
/// Bit by bit: it is 3072 bytes an image, which take 20 µs.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the catalogue of CRC algorithms (CRC-32/ISCSI).
    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }
}
