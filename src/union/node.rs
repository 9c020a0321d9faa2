//! An inode of the view, as long as the kernel knows it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

use super::number::{Candidates, Holder, PathHash};
use super::record::NodeRecord;
use crate::vfs::{Errno, FileKind, Generation, Ino, Name};

/// Which layers have an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Source {
    /// The lower, at the path that the table knows ([`Table::lower_path`](super::inode_table::Table::lower_path)).
    Lower,
    /// The upper, as this inode number of the layer.
    Upper(u64),
    /// A directory of the lower that shows through one of the upper.
    Both(u64),
}

impl Source {
    /// The number within the upper, if the upper has it.
    pub(super) fn upper(self) -> Option<u64> {
        match self {
            Self::Lower => None,
            Self::Upper(ino) | Self::Both(ino) => Some(ino),
        }
    }

    /// True if the lower shows.
    pub(super) fn has_lower(self) -> bool {
        matches!(self, Self::Lower | Self::Both(_))
    }
}

/// A name of an inode: the directory and the name in it.
pub(super) type Link = (Ino, Name);

/// The names that are known of an inode; none once it was removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Links {
    None,
    One(Link),
    #[allow(clippy::box_collection, reason = "hard links are rare, and every node pays for the size")]
    Many(Box<Vec<Link>>),
}

impl Links {
    pub(super) fn first(&self) -> Option<&Link> {
        match self {
            Self::None => None,
            Self::One(link) => Some(link),
            Self::Many(links) => links.first(),
        }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Link> {
        match self {
            Self::None => [].iter(),
            Self::One(link) => std::slice::from_ref(link).iter(),
            Self::Many(links) => links.iter(),
        }
    }

    pub(super) fn all(&self) -> Vec<Link> {
        self.iter().cloned().collect()
    }

    pub(super) fn contains(&self, parent: Ino, name: &Name) -> bool {
        match self {
            Self::None => false,
            Self::One((p, n)) => *p == parent && n == name,
            Self::Many(links) => links.iter().any(|(p, n)| *p == parent && n == name),
        }
    }

    pub(super) fn add(&mut self, link: Link) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(link),
            Self::One(first) => Self::Many(Box::new(vec![first, link])),
            Self::Many(mut links) => {
                links.push(link);
                Self::Many(links)
            }
        };
    }

    /// Takes a name away; false if it was none of them.
    pub(super) fn remove(&mut self, parent: Ino, name: &Name) -> bool {
        if !self.contains(parent, name) {
            return false;
        }
        *self = match std::mem::replace(self, Self::None) {
            Self::Many(mut links) => {
                links.retain(|(p, n)| *p != parent || n != name);
                match (links.pop(), links.is_empty()) {
                    (None, _) => Self::None,
                    (Some(last), true) => Self::One(last),
                    (Some(last), false) => {
                        links.push(last);
                        Self::Many(links)
                    }
                }
            }
            _ => Self::None,
        };
        true
    }
}

/// Where a directory is in the lower: the names from its root.
pub(super) type LowerPath = Arc<[Name]>;

/// Objects that a node keeps because no path leads to them.
#[derive(Clone, Debug)]
pub(super) struct Held<LO, UO> {
    /// Given: the content is the lower's, also if the metadata is the upper's already.
    pub(super) lower: Option<LO>,
    /// Where the lower has that, if it is remembered.
    pub(super) lower_at: Option<LowerPath>,
    /// The upper's inode.
    pub(super) upper: Option<UO>,
}

/// An inode of the view. About 130 bytes and its name; objects of the layers are not kept with it.
#[derive(Debug)]
pub(super) struct Node<LO, UO> {
    pub(super) kind: FileKind,
    pub(super) source: Source,
    pub(super) generation: Generation,
    /// Hash of the path in the lower, of directories in which the lower shows; the base of their children's numbers.
    pub(super) path_hash: PathHash,
    /// Where the lower has a directory that was moved. `None`: under its name in the directory where its parent is.
    pub(super) moved: Option<LowerPath>,
    pub(super) links: Links,
    /// How often the kernel was told of it and has not forgotten it.
    pub(super) lookups: u64,
    /// Links of known nodes that name this directory.
    pub(super) children: u32,
    /// Open handles.
    pub(super) opens: u32,
    /// Open handles through which the kernel reads the lower's file by itself.
    pub(super) lower_opens: u32,
    /// Changes of a directory's names; odd while one is being made.
    pub(super) changes: u64,
    /// A copy is being given its name: the lower's file must not be opened for passthrough now.
    pub(super) publishing: bool,
    pub(super) held: Option<Box<Held<LO, UO>>>,
}

impl<LO, UO> Node<LO, UO> {
    pub(super) fn new(kind: FileKind, source: Source, generation: Generation, path_hash: PathHash) -> Self {
        Self {
            kind,
            source,
            generation,
            path_hash,
            moved: None,
            links: Links::None,
            lookups: 0,
            children: 0,
            opens: 0,
            lower_opens: 0,
            changes: 0,
            publishing: false,
            held: None,
        }
    }

    /// The inode that its number belongs to, also once the kernel has forgotten it.
    pub(super) fn holder(&self) -> Holder {
        self.source.upper().map_or_else(|| Holder::path(self.path_hash), Holder::upper)
    }

    /// True if reads are to be answered by the lower.
    pub(super) fn reads_lower(&self) -> bool {
        self.source == Source::Lower || self.held.as_ref().is_some_and(|h| h.lower.is_some())
    }

    /// True if the kernel may ask for it after its last name is gone, of which one is left: for a directory that is somebody's
    /// working directory, for a file that is open; without opens (`passes_through` false) nobody knows which are.
    pub(super) fn outlives_its_name(&self, passes_through: bool) -> bool {
        let one = !matches!(&self.links, Links::Many(_));
        one && (self.kind == FileKind::Directory || self.opens > 0 || !passes_through)
    }

    /// What has to be remembered of it.
    pub(super) fn record(&self) -> NodeRecord<'_> {
        NodeRecord {
            kind: self.kind.mode_bits(),
            source: self.source,
            generation: self.generation.0,
            path_hash: self.path_hash,
            lookups: self.lookups,
            moved: self.moved.as_deref().map(bytes),
            links: self.links.iter().map(|(parent, name)| (parent.0, Bytes::new(name.as_bytes()))).collect(),
            reads: self.held.as_ref().and_then(|h| h.lower_at.as_deref()).map(bytes),
            held: self.held.as_ref().is_some_and(|h| h.upper.is_some()),
        }
    }

    /// The node that was remembered; what it holds is not part of that.
    ///
    /// # Errors
    /// `EINVAL` if it is the memory of no node.
    pub(super) fn restored(record: &NodeRecord<'_>) -> Result<Self, Errno> {
        let kind = FileKind::from_mode(record.kind).ok_or(Errno::EINVAL)?;
        let mut node = Self::new(kind, record.source, Generation(record.generation), record.path_hash);
        node.lookups = record.lookups;
        node.moved = record.moved.as_deref().map(names).transpose()?.map(Into::into);
        for (parent, name) in &record.links {
            node.links.add((Ino(*parent), Name::new(name)?));
        }
        Ok(node)
    }

    /// True if nobody can ask for it any more.
    pub(super) fn is_unused(&self) -> bool {
        self.lookups == 0 && self.children == 0 && self.opens == 0
    }
}

/// The bytes of names, as they are remembered.
pub(super) fn bytes(path: &[Name]) -> Vec<&Bytes> {
    path.iter().map(|name| Bytes::new(name.as_bytes())).collect()
}

/// Names that were remembered.
///
/// # Errors
/// As [`Name::new`].
pub(super) fn names(path: &[&Bytes]) -> Result<Vec<Name>, Errno> {
    path.iter().map(|name| Name::new(name)).collect()
}

/// What decides the number of an inode that was found under a name.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) kind: FileKind,
    pub(super) source: Source,
    /// The number that was stored with the upper's inode.
    pub(super) origin: Option<u64>,
    /// Where the lower has it, if a redirect tells ([`Node::moved`]).
    pub(super) moved: Option<LowerPath>,
}

impl Identity {
    /// What the lower has, under the same name as the view.
    pub(super) fn of_lower(kind: FileKind) -> Self {
        Self { kind, source: Source::Lower, origin: None, moved: None }
    }

    /// What the upper alone has, with the number that was stored with it.
    pub(super) fn of_upper(kind: FileKind, ino: u64, origin: Option<u64>) -> Self {
        Self { kind, source: Source::Upper(ino), origin, moved: None }
    }

    /// A directory of both layers, and where the lower has it if a redirect tells.
    pub(super) fn of_both(ino: u64, moved: Option<LowerPath>) -> Self {
        Self { kind: FileKind::Directory, source: Source::Both(ino), origin: None, moved }
    }

    /// The numbers to try.
    pub(super) fn candidates(&self, path_hash: PathHash) -> Candidates {
        match self.source {
            Source::Lower | Source::Both(_) => Candidates::of_path(path_hash),
            Source::Upper(ino) => Candidates::of_upper(ino, self.origin),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node<[u8; 8], [u8; 8]>>() <= 144, "{}", size_of::<Node<[u8; 8], [u8; 8]>>());
    }

    #[test]
    fn links_come_and_go() {
        let name = |n: u8| Name::new(&[n]).unwrap();
        let mut links = Links::None;
        for n in b'a'..=b'c' {
            links.add((Ino(1), name(n)));
        }
        assert!(!links.remove(Ino(2), &name(b'a')));
        assert!(links.remove(Ino(1), &name(b'a')));
        assert!(links.contains(Ino(1), &name(b'c')) && !links.contains(Ino(1), &name(b'a')));
        assert!(links.remove(Ino(1), &name(b'c')));
        assert_eq!(links, Links::One((Ino(1), name(b'b'))));
        assert!(links.remove(Ino(1), &name(b'b')));
        assert_eq!(links, Links::None);
    }
}
