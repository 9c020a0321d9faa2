//! The changes of a view as an OCI image layer, and back.
//!
//! What the OCI image specification calls a layer (layer.md, `application/vnd.oci.image.layer.v1.tar`): a tar archive of what was added and
//! changed, in which an empty file `.wh.NAME` stands for a name that was removed, and `.wh..wh..opq` for all names of the directory that it
//! is in. Here it is made of an upper's tree, and the other way round. The root of the view is the directory `nix/` of the archive, or where else
//! the store directory lies.
//!
//! - `entry`: one member, without its content; `pax`: the records of PAX headers.
//! - `write`, `encode`: from an upper to an archive. `read`, `apply`, `plan`: from an archive, which is hostile, to an upper.
//! - `compress`: gzip and zstd, and the digests.

use std::io;

use crate::vfs::{FileKind, Name};

mod apply;
mod compress;
mod encode;
mod entry;
mod pax;
mod plan;
mod read;
mod write;

pub use apply::{Imported, Source, Target, import};
pub use compress::{Compression, Digests, OtherCompression, Sink, decompressed};
pub use write::{ExportError, Exported, Exporting, export};

/// What the names of whiteouts start with.
const WHITEOUT: &[u8] = b".wh.";

/// What the names of marks start with that concern the directory that they are in; all but [`OPAQUE`] mean nothing any more.
const DIRECTORY_MARK: &[u8] = b".wh..wh.";

/// The name that stands for all names of the lower directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The size of a block of an archive, in bytes.
const BLOCK: usize = 512;

/// Why an archive cannot be imported.
#[derive(Debug, thiserror::Error)]
#[error("{}at byte {offset} of the archive: {problem}", entry.as_ref().map(|name| format!("entry '{name}', ")).unwrap_or_default())]
pub struct ImportError {
    /// The member's name as the archive has it, escaped; `None` if none was read yet.
    pub entry: Option<String>,
    /// Where its header begins in the archive, uncompressed.
    pub offset: u64,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a member of an archive.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is no member that a layer can have, or one that must not be.
    #[error("{0}")]
    Refused(String),
    /// The archive is longer than it may be.
    #[error("it is longer than the {0} bytes that an archive may have, uncompressed")]
    TooLarge(u64),
    /// It is a device node, and none is to be made.
    #[error("it is a device node")]
    Device,
    /// The archive cannot be read, or the upper not be written.
    #[error("cannot {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

impl Problem {
    fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

/// Says what was tried when something failed.
trait Tried<T> {
    fn tried(self, action: &'static str) -> Result<T, Problem>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, action: &'static str) -> Result<T, Problem> {
        self.map_err(|error| Problem::Io(action, error.into()))
    }
}

/// Names of attributes that mean something to overlayfs or to an upper, whoever's they are: they never go in or out.
fn is_private(attribute: &[u8]) -> bool {
    const PRIVATE: [&[u8]; 4] =
        [b"trusted.overlay.", b"user.overlay.", b"trusted.nixview.", b"user.nixview."];
    PRIVATE.iter().any(|prefix| attribute.starts_with(prefix))
}

/// True for what would be a whiteout in the format of overlayfs.
fn is_zero_device(kind: FileKind, rdev: u64) -> bool {
    kind == FileKind::CharDevice && rdev == 0
}

/// A path of an archive: names joined by slashes below a prefix.
fn joined(prefix: &[Name], path: &[Name]) -> Vec<u8> {
    let names: Vec<&[u8]> = prefix.iter().chain(path).map(Name::as_bytes).collect();
    names.join(&b'/')
}

#[cfg(test)]
mod tests;
