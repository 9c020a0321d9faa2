//! Opening Nix's database without writing to it and, where possible, without leaving anything behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::stamp::{Stamp, beside, copy};
use crate::sys::open::proc_path;
use crate::sys::sqlite::follow_descriptors;

/// How the database is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The file alone, without locks: nothing is in a write-ahead log. Leaves nothing behind. Whoever reads compares
    /// the stamps before and after, as a writer is not kept out.
    Immutable,
    /// Together with its write-ahead log and SQLite's locks, beside a writer.
    Shared,
    /// A private copy of the file and its log: the log cannot be read in place (a read-only disk, a reader without
    /// the right to write beside it).
    Copied,
}

/// An open database.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) access: Access,
    /// What the connection was opened on.
    pub(super) stamp: Stamp,
    /// The copy, removed with this.
    _copy: Option<Scratch>,
}

/// How the paths of private copies begin; on disk, as a database may be larger than memory.
const SCRATCH: &[&str] = &["/var/tmp/nixview-db-", "/tmp/nixview-db-"];

/// A directory for a private copy, with its lock (flock(2)) as long as it is used.
struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

/// The way to a database.
#[derive(Debug)]
pub(super) struct Way {
    /// The file as it is opened.
    pub(super) file: PathBuf,
    /// How the path of a private copy begins; `None`: as one of [`SCRATCH`].
    pub(super) scratch: Option<PathBuf>,
    /// What `file` leads through.
    _held: Option<Arc<OwnedFd>>,
}

impl Way {
    /// By its path.
    pub(super) fn by_path(file: PathBuf) -> Self {
        Self { file, scratch: None, _held: None }
    }

    /// Through the directory of the file: whatever is mounted over that later.
    pub(super) fn through(dir: Arc<OwnedFd>, name: &OsStr, scratch: PathBuf) -> std::io::Result<Self> {
        follow_descriptors()?;
        let file = Path::new(&proc_path(dir.as_fd())).join(name);
        Ok(Self { file, scratch: Some(scratch), _held: Some(dir) })
    }
}

/// How often a copy is tried that a writer changed meanwhile.
const COPY_ATTEMPTS: usize = 5;

/// Why it could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(
        "it changed {COPY_ATTEMPTS} times while it was copied; try again when less is written to the store"
    )]
    Busy,
}

/// Opens it in the cheapest way that sees everything that is committed.
///
/// With `readonly_shm` SQLite makes no `-shm`: without one that is there already it does not open the log (and a copy is
/// read), and with one that no writer holds it keeps the index in memory (`unixOpenSharedMemory`,
/// `walBeginShmUnreliable`).
pub(super) fn open(way: &Way) -> Result<Opened, OpenError> {
    let database = way.file.as_path();
    let stamp = Stamp::take(database)?;
    if !stamp.has_log() {
        let connection = connect(database, "immutable=1")?;
        return Ok(Opened { connection, access: Access::Immutable, stamp, _copy: None });
    }
    match connect(database, "mode=ro&readonly_shm=1") {
        Ok(connection) => Ok(Opened { connection, access: Access::Shared, stamp, _copy: None }),
        Err(error) if needs_copy(&error) => copied(way),
        Err(error) => Err(error.into()),
    }
}

/// Opens a private copy, whatever is in the log.
pub(super) fn copied(way: &Way) -> Result<Opened, OpenError> {
    let database = way.file.as_path();
    for _ in 0..COPY_ATTEMPTS {
        let before = Stamp::take(database)?;
        let dir = scratch(way)?;
        let target = dir.dir.path().join("db.sqlite");
        for ending in ["", "-wal", "-journal"] {
            copy(&beside(database, ending), &beside(&target, ending))?;
        }
        if Stamp::take(database)?.is_same(&before) {
            // Our own files: SQLite may recover the log in them.
            let connection = connect(&target, "mode=rw")?;
            return Ok(Opened { connection, access: Access::Copied, stamp: before, _copy: Some(dir) });
        }
    }
    Err(OpenError::Busy)
}

fn scratch(way: &Way) -> std::io::Result<Scratch> {
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    let places = match &way.scratch {
        Some(place) => vec![place.as_path()],
        None => SCRATCH.iter().map(Path::new).collect(),
    };
    for place in places {
        match Scratch::make(place) {
            Ok(dir) => return Ok(dir),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Scratch {
    fn make(place: &Path) -> std::io::Result<Self> {
        let prefix = place.file_name().unwrap_or_default();
        let dir =
            tempfile::Builder::new().prefix(prefix).tempdir_in(place.parent().unwrap_or(Path::new("/")))?;
        let lock = File::open(dir.path())?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { dir, _lock: lock })
    }
}

/// True if the log cannot be used in place.
pub(super) fn needs_copy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
    )
}

fn connect(database: &Path, how: &str) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let flags = if how == "mode=rw" {
        flags
    } else {
        (flags - OpenFlags::SQLITE_OPEN_READ_WRITE) | OpenFlags::SQLITE_OPEN_READ_ONLY
    };
    let connection = Connection::open_with_flags(uri(database, how), flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // The first look at the file: whether it is a database, and its log can be read.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// The `file:` URI of a database of SQLite's with a query such as `immutable=1` (RFC 8089;
/// <https://www.sqlite.org/uri.html>).
#[must_use]
pub fn uri(path: &Path, query: &str) -> PathBuf {
    let mut text = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    PathBuf::from(format!("{text}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_stay_one_file_name() {
        assert_eq!(uri(Path::new("/a b?c#d%"), "mode=ro").as_os_str(), "file:/a%20b%3Fc%23d%25?mode=ro");
    }
}
