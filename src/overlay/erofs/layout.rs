//! Where everything lies in an image.

use std::ops::Range;

use super::directory::{self, Dirent};
use super::{BLOCK, NO_BLOCK, SLOT, TooLarge, inode, superblock};
use crate::overlay::tree::{Content, Node, Tree};

/// All inodes in the order in which they lie, breadth first.
pub(super) struct Layout<'t> {
    pub(super) inodes: Vec<Inode<'t>>,
    /// The length of the image in blocks.
    pub(super) blocks: u32,
    /// True if there is a file without data.
    pub(super) has_holes: bool,
}

/// An inode and its place.
pub(super) struct Inode<'t> {
    pub(super) node: &'t Node,
    /// The index of the directory that has it.
    parent: usize,
    /// The indexes of a directory's entries, in their order.
    children: Range<usize>,
    /// How many of these are directories.
    directories: u32,
    /// The length of the data in bytes.
    pub(super) size: u64,
    /// Where it begins in the image, in bytes.
    pub(super) position: usize,
    pub(super) data: Data,
}

/// Where the data of an inode is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// Right after the inode and its attributes.
    Beside,
    /// In whole blocks from this one on.
    Blocks(u32),
    /// Nowhere: one chunk without an address, of this many bits.
    Hole(u8),
}

impl Inode<'_> {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.node.content, Content::Directory(_))
    }

    /// How many names lead to it: a directory has its own, `.`, and `..` in each directory below.
    pub(super) fn links(&self) -> u32 {
        if self.is_directory() { self.directories.saturating_add(2) } else { 1 }
    }

    /// The number by which directories name it.
    pub(super) fn number(&self) -> u64 {
        (self.position / SLOT) as u64
    }

    pub(super) fn first_block(&self) -> Option<u32> {
        match self.data {
            Data::Blocks(block) if block != NO_BLOCK => Some(block),
            _ => None,
        }
    }
}

impl<'t> Layout<'t> {
    pub(super) fn of(tree: &'t Tree) -> Result<Self, TooLarge> {
        let mut layout = Self { inodes: breadth_first(tree), blocks: 0, has_holes: false };
        let end = layout.place_inodes()?;
        layout.place_data(end)?;
        Ok(layout)
    }

    /// Gives each inode its place; answers where the last one ends.
    fn place_inodes(&mut self) -> Result<usize, TooLarge> {
        let mut end = superblock::END;
        for index in 0..self.inodes.len() {
            let Some(inode) = self.inodes.get(index) else { break };
            let size = self.size(index, inode);
            let head = inode::head(inode.node).ok_or(TooLarge("so many attributes of one inode"))?;
            let (data, beside) = match (&inode.node.content, usize::try_from(size)) {
                (_, Ok(0)) => (Data::Blocks(NO_BLOCK), 0),
                (Content::Hole(length), _) => (Data::Hole(chunk_bits(*length)?), inode::CHUNK),
                (_, Ok(size)) if head + size <= BLOCK => (Data::Beside, size),
                _ => (Data::Blocks(0), 0),
            };
            let mut position = end.next_multiple_of(SLOT);
            if position % BLOCK + head + beside > BLOCK {
                position = position.next_multiple_of(BLOCK);
            }
            end = position + head + beside;
            self.has_holes |= matches!(data, Data::Hole(_));
            if let Some(inode) = self.inodes.get_mut(index) {
                (inode.size, inode.position, inode.data) = (size, position, data);
            }
        }
        Ok(end)
    }

    /// Gives the data that is not beside its inode blocks, from the first one after all inodes on.
    fn place_data(&mut self, end: usize) -> Result<(), TooLarge> {
        let mut block = end.div_ceil(BLOCK) as u64;
        for inode in &mut self.inodes {
            if inode.data == Data::Blocks(0) {
                inode.data = Data::Blocks(address(block)?);
                block = block.saturating_add(inode.size.div_ceil(BLOCK as u64));
            }
        }
        self.blocks = address(block)?;
        Ok(())
    }

    /// The length of an inode's data.
    fn size(&self, index: usize, inode: &Inode<'_>) -> u64 {
        match &inode.node.content {
            Content::Directory(_) => directory::size(&self.dirents(index, inode)) as u64,
            Content::Symlink(bytes) | Content::File(bytes) => bytes.len() as u64,
            Content::Hole(length) => *length,
        }
    }

    /// The entries of a directory with `.` and `..`, sorted bytewise as all others.
    fn dirents<'l>(&'l self, index: usize, inode: &Inode<'t>) -> Vec<Dirent<'l>> {
        let mut dirents = Vec::with_capacity(inode.children.len() + 2);
        let named = inode.node.entries().iter().zip(inode.children.clone());
        dirents.extend(named.map(|(entry, inode)| Dirent { name: entry.name.as_bytes(), inode }));
        let own = [Dirent { name: b".", inode: index }, Dirent { name: b"..", inode: inode.parent }];
        for dirent in own {
            let at = dirents.partition_point(|other| other.name < dirent.name);
            dirents.insert(at, dirent);
        }
        dirents
    }

    /// Appends the data of an inode.
    pub(super) fn write_data(&self, index: usize, inode: &Inode<'t>, image: &mut Vec<u8>) {
        match &inode.node.content {
            Content::Directory(_) => directory::write(&self.dirents(index, inode), &self.inodes, image),
            Content::Symlink(bytes) | Content::File(bytes) => image.extend_from_slice(bytes),
            Content::Hole(_) => {}
        }
    }
}

/// All inodes of a tree, without places.
fn breadth_first(tree: &Tree) -> Vec<Inode<'_>> {
    let inode = |node, parent| Inode {
        node,
        parent,
        children: 0..0,
        directories: 0,
        size: 0,
        position: 0,
        data: Data::Beside,
    };
    let mut inodes = vec![inode(tree.top(), 0)];
    let mut index = 0;
    while let Some(node) = inodes.get(index).map(|inode| inode.node) {
        let first = inodes.len();
        inodes.extend(node.entries().iter().map(|entry| inode(&entry.node, index)));
        let children = first..inodes.len();
        let directories = inodes.iter().skip(first).filter(|inode| inode.is_directory()).count();
        if let Some(inode) = inodes.get_mut(index) {
            inode.children = children;
            inode.directories = u32::try_from(directories).unwrap_or(u32::MAX);
        }
        index += 1;
    }
    inodes
}

/// A block's address, which has 32 bits; the last one means that there is no block.
fn address(block: u64) -> Result<u32, TooLarge> {
    u32::try_from(block).ok().filter(|block| *block != NO_BLOCK).ok_or(TooLarge("so many blocks"))
}

/// The bits of a chunk, beyond those of a block, that holds a file of this length whole.
fn chunk_bits(length: u64) -> Result<u8, TooLarge> {
    let blocks = length.div_ceil(BLOCK as u64).next_power_of_two();
    let bits = blocks.trailing_zeros();
    u8::try_from(bits).ok().filter(|bits| *bits <= inode::MAX_CHUNK_BITS).ok_or(TooLarge("so long a file"))
}
