//! A tree of files in memory: what a made-up layer of an overlayfs holds.

use crate::vfs::{Name, Timespec};

/// A tree whose top is a directory. The entries of every directory are sorted bytewise, and each
/// name is there once.
///
/// Every inode belongs to user 0 and group 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree(Node);

/// An inode with one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The low 12 bits of the mode. A symbolic link has 0777, whatever this says.
    pub permissions: u16,
    /// The time of modification.
    pub mtime: Timespec,
    /// What overlayfs reads of it.
    pub marks: Vec<Mark>,
    /// What it is.
    pub content: Content,
}

/// The kind of an inode, and what it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A directory.
    Directory(Vec<Entry>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A regular file of this length without data. Its bytes are zeros; overlayfs reads those of
    /// another layer.
    Hole(u64),
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// What has the name.
    pub node: Node,
}

/// An extended attribute in overlayfs's namespace `trusted.overlay.`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mark {
    /// A regular file whose data is in a lower layer.
    Metacopy,
    /// A directory through which no lower layer shows, except where a redirect leads.
    Opaque,
    /// The path, from the root of the layers, at which lower layers have the inode. It begins with
    /// `/`.
    Redirect(Vec<u8>),
}

impl Mark {
    /// The attribute's name.
    #[must_use]
    pub fn name(&self) -> &'static [u8] {
        match self {
            Self::Metacopy => b"trusted.overlay.metacopy",
            Self::Opaque => b"trusted.overlay.opaque",
            Self::Redirect(_) => b"trusted.overlay.redirect",
        }
    }

    /// The attribute's value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        match self {
            Self::Metacopy => b"",
            Self::Opaque => b"y",
            Self::Redirect(path) => path,
        }
    }
}

/// Two entries of one directory have one name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is there twice")]
pub struct Double(pub Name);

impl Node {
    /// A directory.
    #[must_use]
    pub fn directory(permissions: u16, mtime: Timespec, entries: Vec<Entry>) -> Self {
        Self { permissions, mtime, marks: Vec::new(), content: Content::Directory(entries) }
    }

    /// The same with a mark more.
    #[must_use]
    pub fn marked(mut self, mark: Mark) -> Self {
        self.marks.push(mark);
        self
    }

    /// The entries of a directory; none of anything else.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Directory(entries) => entries,
            _ => &[],
        }
    }
}

impl Tree {
    /// The tree below a directory with these entries, which may come in any order, as those below
    /// them.
    ///
    /// # Errors
    /// If a name is there twice in one directory.
    pub fn new(permissions: u16, mtime: Timespec, entries: Vec<Entry>) -> Result<Self, Double> {
        let mut top = Node::directory(permissions, mtime, entries);
        let mut unsorted = vec![&mut top];
        while let Some(node) = unsorted.pop() {
            node.marks.sort_by_key(Mark::name);
            let Content::Directory(entries) = &mut node.content else { continue };
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            let twice = entries.windows(2).find_map(|pair| match pair {
                [a, b] if a.name == b.name => Some(a.name.clone()),
                _ => None,
            });
            if let Some(name) = twice {
                return Err(Double(name));
            }
            unsorted.extend(entries.iter_mut().map(|entry| &mut entry.node));
        }
        Ok(Self(top))
    }

    /// Its top: a directory.
    #[must_use]
    pub fn top(&self) -> &Node {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    fn file(name: &str) -> Entry {
        let node = Node { content: Content::File(Vec::new()), ..directory("x", vec![]).node };
        Entry { name: Name::new(name.as_bytes()).unwrap(), node }
    }

    fn directory(name: &str, entries: Vec<Entry>) -> Entry {
        Entry {
            name: Name::new(name.as_bytes()).unwrap(),
            node: Node::directory(0o755, Timespec::default(), entries),
        }
    }

    #[test]
    fn entries_are_sorted_at_every_depth_and_come_once() {
        let inner = vec![file("b"), file("a"), file("-"), file("B")];
        let tree = Tree::new(0o755, Timespec::default(), vec![file("z"), directory("d", inner)]).unwrap();
        let names = |node: &Node| node.entries().iter().map(|e| e.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(tree.top()), ["d", "z"]);
        assert_eq!(names(&tree.top().entries().first().unwrap().node), ["-", "B", "a", "b"]);
        let twice = Tree::new(0o755, Timespec::default(), vec![directory("d", vec![file("a"), file("a")])]);
        assert_eq!(twice.unwrap_err().to_string(), "'a' is there twice");
    }
}
