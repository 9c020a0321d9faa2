//! File trees as a store has them, and how they are written to disk.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::{nar, store_path};

/// A file system object; all that a Nix archive can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A regular file. What no piece covers is a hole.
    File {
        /// Length in bytes.
        size: u64,
        /// Offset and bytes, in order, not overlapping.
        pieces: Vec<(u64, Vec<u8>)>,
        /// Mode 0555 instead of 0444.
        executable: bool,
    },
    /// A symbolic link and its target.
    Symlink(String),
    /// A directory, sorted by name.
    Directory(BTreeMap<String, Tree>),
}

impl Tree {
    /// A regular file.
    #[must_use]
    pub fn file(contents: impl Into<Vec<u8>>) -> Tree {
        let contents = contents.into();
        Tree::File { size: contents.len() as u64, pieces: vec![(0, contents)], executable: false }
    }

    /// An executable file.
    #[must_use]
    pub fn program(contents: impl Into<Vec<u8>>) -> Tree {
        let contents = contents.into();
        Tree::File { size: contents.len() as u64, pieces: vec![(0, contents)], executable: true }
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(target: impl Into<String>) -> Tree {
        Tree::Symlink(target.into())
    }

    /// A directory out of paths below it; the directories between are made.
    #[must_use]
    pub fn dir<const N: usize>(entries: [(&str, Tree); N]) -> Tree {
        let mut root = BTreeMap::new();
        for (path, tree) in entries {
            let mut at = &mut root;
            let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
            for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
                let Tree::Directory(inner) =
                    at.entry(parent.to_owned()).or_insert_with(|| Tree::Directory(BTreeMap::new()))
                else {
                    panic!("{path}: '{parent}' is not a directory");
                };
                at = inner;
            }
            at.insert(name.to_owned(), tree);
        }
        Tree::Directory(root)
    }

    /// The contents of a regular file with its holes as zeros; nothing for other objects.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let Tree::File { size, pieces, .. } = self else { return Vec::new() };
        let mut bytes = vec![0; *size as usize];
        for (offset, piece) in pieces {
            bytes[*offset as usize..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    /// Whether the text occurs in a name, a link's target or a file: what Nix's scan for references sees.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let found = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        match self {
            Tree::File { pieces, .. } => pieces.iter().any(|(_, piece)| found(piece)),
            Tree::Symlink(target) => target.contains(text),
            Tree::Directory(entries) => {
                entries.iter().any(|(name, child)| name.contains(text) || child.mentions(text))
            }
        }
    }

    /// Writes the tree as Nix leaves it: modes 0444 and 0555, times 1, equal objects as one inode in `links`.
    ///
    /// # Errors
    /// What the file system says, also if `path` exists.
    pub fn write(&self, path: &Path, links: &Path) -> io::Result<()> {
        match self {
            Tree::Directory(entries) => {
                fs::create_dir(path)?;
                for (name, child) in entries {
                    child.write(&path.join(name), links)?;
                }
                fs::set_permissions(path, Permissions::from_mode(0o555))?;
                return set_old(path);
            }
            Tree::Symlink(target) => symlink(target, path)?,
            Tree::File { size, pieces, executable } => {
                let file = File::create_new(path)?;
                file.set_len(*size)?;
                for (offset, piece) in pieces {
                    file.write_all_at(piece, *offset)?;
                }
                file.set_permissions(Permissions::from_mode(if *executable { 0o555 } else { 0o444 }))?;
                if *size == 0 {
                    return set_old(path); // Nix does not optimise empty files.
                }
            }
        }
        set_old(path)?;
        let link = links.join(store_path::base32(&nar::of(self).sha256));
        match fs::hard_link(path, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path)?;
                fs::hard_link(&link, path)
            }
            done => done,
        }
    }
}

/// Sets access and modification time to the first second of 1970, as Nix does; of a link, not of its target.
///
/// # Errors
/// What the file system says.
pub fn set_old(path: &Path) -> io::Result<()> {
    let old = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: old, last_modification: old };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
