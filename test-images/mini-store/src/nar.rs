//! The size and the hash of a Nix archive (Dolstra 2006, figure 5.2), without writing one.

use sha2::{Digest, Sha256};

use crate::tree::Tree;

/// What the database records of a path's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nar {
    /// Bytes of the archive.
    pub size: u64,
    /// SHA-256 of the archive.
    pub sha256: [u8; 32],
}

/// Archives a tree into its hash.
#[must_use]
pub fn of(tree: &Tree) -> Nar {
    let mut sink = Sink { hash: Sha256::new(), size: 0 };
    sink.string(b"nix-archive-1");
    sink.node(tree);
    Nar { size: sink.size, sha256: sink.hash.finalize().into() }
}

struct Sink {
    hash: Sha256,
    size: u64,
}

impl Sink {
    fn bytes(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// A string: its length in 8 bytes, itself, zeros up to a multiple of 8.
    fn string(&mut self, string: &[u8]) {
        self.bytes(&(string.len() as u64).to_le_bytes());
        self.bytes(string);
        self.bytes(&[0; 8][..string.len().next_multiple_of(8) - string.len()]);
    }

    fn strings(&mut self, strings: &[&str]) {
        for string in strings {
            self.string(string.as_bytes());
        }
    }

    fn node(&mut self, tree: &Tree) {
        self.strings(&["(", "type"]);
        match tree {
            Tree::File { executable, .. } => {
                self.strings(&["regular"]);
                if *executable {
                    self.strings(&["executable", ""]);
                }
                self.strings(&["contents"]);
                self.string(&tree.bytes());
            }
            Tree::Symlink(target) => self.strings(&["symlink", "target", target]),
            Tree::Directory(entries) => {
                self.strings(&["directory"]);
                for (name, child) in entries {
                    self.strings(&["entry", "(", "name", name, "node"]);
                    self.node(child);
                    self.strings(&[")"]);
                }
            }
        }
        self.strings(&[")"]);
    }
}
