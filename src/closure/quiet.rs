//! Reading the cache while nobody writes to it: the file alone, without locks, log and shared memory.
//!
//! Opening a database with a write-ahead log creates two files and removes them again, which costs more than the answer.
//! As long as there is no log, all that was committed is in the file, and SQLite may take it as immutable. A writer can
//! come meanwhile: what is read then is torn, fails its digest or looks damaged, and counts as not found. So nothing that
//! is found here is said to be damaged, and nothing is set aside: the file is opened properly next.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::row::{self, Found, Key, Row};
use super::schema;

/// The row, if it is there, whole, and the file is quiet.
pub(super) fn find(file: &Path, key: &Key) -> Option<Row> {
    // SQLite would wait for the writer of a FIFO.
    if !std::fs::symlink_metadata(file).is_ok_and(|found| found.is_file()) {
        return None;
    }
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    match std::fs::symlink_metadata(log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Ok(log) if log.len() == 0 => {}
        Ok(_) | Err(_) => return None,
    }
    match look(file, key) {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%error, "the closure cache is opened with its log");
            None
        }
    }
}

fn look(file: &Path, key: &Key) -> rusqlite::Result<Option<Row>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(crate::store::database::uri(file, "immutable=1"), flags)?;
    if !schema::is_current(&connection)? {
        return Ok(None);
    }
    Ok(match row::find(&connection, key)? {
        Some(Found::Row(row)) => Some(row),
        Some(Found::Damaged) | None => None,
    })
}
