//! What an upper changes against its lower: found by walking both, and taken back.
//!
//! Works over the traits of `layer`, mounted or not: it only reads, and a name that comes or goes meanwhile is as if
//! it had come or gone before. The rule of the union decides what shows.
//!
//! **What counts as a change.** A copy in the upper that equals its original in content and metadata is none. Content
//! is compared by length, then byte by byte. Of times only the mtime counts, since a lower shows no other. An mtime of a directory counts
//! only where nothing in it could have changed it, and never that of the root, which no lower has.

use std::fmt::Write;
use std::io;

use crate::layer::Stat;
use crate::vfs::{FileKind, Name};

mod compare;
mod parts;
mod reset;
mod summary;
mod trees;
mod walk;

pub use parts::Parts;
pub use reset::{Reset, ResetError, reset};
pub use summary::Summary;
pub use trees::{ReadUpper, Trees};
pub(in crate::view) use trees::{Shown, Through};
pub use walk::changes;

/// One path that is not as in the lower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Names from the root of the view; none is the root.
    pub path: Vec<Name>,
    /// How it differs.
    pub what: What,
    /// What the lower has there.
    pub before: Option<Facts>,
    /// What the view has there.
    pub after: Option<Facts>,
    /// Where the lower has the directory that was moved here, if one was.
    pub from: Option<Vec<Name>>,
}

/// How a path differs from the lower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// The lower has nothing there.
    Added,
    /// The view has nothing there. One change for a directory and all that was in it.
    Deleted(Extent),
    /// Another content, or target of a link, or device; and these metadata.
    Modified(Aspects),
    /// The same content with other metadata.
    Metadata(Aspects),
    /// Another kind of object; for a directory of the lower, with all that was in it.
    TypeChanged(Extent),
}

/// A tree of the lower that does not show any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// Names in it, its own included.
    pub names: u64,
    /// Lengths of its regular files, in bytes.
    pub bytes: u64,
}

/// Metadata that differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aspects {
    /// Permission bits.
    pub mode: bool,
    /// User or group.
    pub owner: bool,
    /// Time of the last change of the content.
    pub mtime: bool,
    /// Names of extended attributes that came, went or have another value; sorted.
    pub xattrs: Vec<Vec<u8>>,
}

impl Aspects {
    /// True if no metadata differ.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is told of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// File, directory, …
    pub kind: FileKind,
    /// Length in bytes of a file, or of the target of a link; 0 for anything else.
    pub size: u64,
    /// Low 12 bits of the mode.
    pub permissions: u16,
    /// Owner, as the view shows it.
    pub uid: u32,
    /// Group likewise.
    pub gid: u32,
}

impl Facts {
    fn of(stat: &Stat) -> Self {
        let has_size = matches!(stat.kind, FileKind::Regular | FileKind::Symlink);
        Self {
            kind: stat.kind,
            size: if has_size { stat.size } else { 0 },
            permissions: stat.permissions,
            uid: stat.uid,
            gid: stat.gid,
        }
    }
}

/// What could not be done, where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} '{}': {source}", shown(.path))]
pub struct ChangesError {
    /// What was tried.
    pub action: &'static str,
    /// Names from the root of the view.
    pub path: Vec<Name>,
    /// How it failed, with the errno of the layer.
    pub source: io::Error,
}

/// A path for people, from the root of the view: `/store/x`. What is not printable is escaped.
#[must_use]
pub fn shown(path: &[Name]) -> String {
    let mut text = String::new();
    for name in path {
        if write!(text, "/{name}").is_err() {
            break; // Writing to a String does not fail.
        }
    }
    if text.is_empty() { "/".to_owned() } else { text }
}

/// Makes the errors of a layer into [`ChangesError`].
pub(super) trait At<T> {
    /// What was tried, and where.
    fn at(self, action: &'static str, path: &[Name]) -> Result<T, ChangesError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &[Name]) -> Result<T, ChangesError> {
        self.map_err(|source| ChangesError { action, path: path.to_vec(), source: source.into() })
    }
}

#[cfg(test)]
mod tests;
