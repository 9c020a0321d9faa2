//! One remembered closure: what it is found by, and what makes it an answer.

use std::os::unix::ffi::OsStrExt;

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::names::Names;
use super::{Closure, Mode};
use crate::store::{Location, StorePath};

/// SHA-256 of what a row is found by.
pub(super) type Key = [u8; 32];

/// What was found under a key.
pub(super) enum Found {
    /// A row that passed its digest.
    Row(Row),
    /// A row that did not, or that was not written by us.
    Damaged,
}

/// A row that passed its digest.
pub(super) struct Row {
    pub(super) closure: Closure,
    /// The database's identity when it was stored.
    pub(super) stamp: String,
    /// The day of its last use, as [`super::cache::Cache`] counts them.
    pub(super) used: i64,
}

/// What a row is found by: mode, where the database is, the store directory, and the roots.
pub(super) fn key(location: &Location, roots: &[StorePath], mode: Mode) -> Key {
    let mut roots: Vec<&StorePath> = roots.iter().collect();
    roots.sort_unstable();
    roots.dedup();
    let mut hash = Sha256::new();
    for part in
        [mode.as_str().as_bytes(), location.dir.as_str().as_bytes(), location.real.as_os_str().as_bytes()]
    {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for root in roots {
        hash.update(root.as_str());
        hash.update("\n");
    }
    hash.finalize().into()
}

/// Everything that an answer is made of, the names by their own digest: they are hashed once for both.
fn digest(key: &Key, stamp: &str, count: i64, nar_size: Option<i64>, names: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update(stamp);
    hash.update("\0");
    hash.update(count.to_le_bytes());
    hash.update(nar_size.unwrap_or(-1).to_le_bytes());
    hash.update(names);
    hash.finalize().into()
}

/// The columns of a row but its names.
struct Columns {
    rowid: i64,
    stamp: String,
    count: i64,
    nar_size: Option<i64>,
    used: i64,
    digest: Vec<u8>,
}

/// Looks for a row.
pub(super) fn find(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Found>> {
    // Both reads see the same commit.
    let transaction = connection.unchecked_transaction()?;
    let mut statement = transaction
        .prepare_cached("SELECT rowid, stamp, count, nar_size, used, digest FROM closures WHERE key = ?1")?;
    let found = statement.query_row([key], |row| {
        Ok(Columns {
            rowid: row.get(0)?,
            stamp: row.get(1)?,
            count: row.get(2)?,
            nar_size: row.get(3)?,
            used: row.get(4)?,
            digest: row.get(5)?,
        })
    });
    let columns = match found {
        Ok(columns) => columns,
        // A column of another type: the row was not written by us.
        Err(rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)) => {
            return Ok(Some(Found::Damaged));
        }
        Err(error) => return Err(error).optional(),
    };
    // Read in place, not by way of a column: the names are long.
    let blob = transaction.blob_open("main", "closures", "names", columns.rowid, true)?;
    let mut names = vec![0; blob.len()];
    blob.read_at_exact(&mut names, 0)?;
    Ok(Some(Row::checked(key, columns, names).map_or(Found::Damaged, Found::Row)))
}

/// Remembers a closure, in place of what was under its key.
pub(super) fn put(
    connection: &Connection,
    key: &Key,
    stamp: &str,
    closure: &Closure,
    today: i64,
) -> rusqlite::Result<()> {
    let count = i64::try_from(closure.count()).unwrap_or(i64::MAX);
    let nar_size = closure.nar_size().and_then(|size| i64::try_from(size).ok());
    let digest = digest(key, stamp, count, nar_size, closure.raw_digest());
    let names = closure.names.as_bytes();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO closures (key, stamp, count, nar_size, used, digest, names)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![key, stamp, count, nar_size, today, digest, names])?;
    Ok(())
}

impl Row {
    /// The row, if its digest fits and it is well formed.
    fn checked(key: &Key, row: Columns, names: Vec<u8>) -> Option<Self> {
        let Columns { stamp, count, nar_size, .. } = row;
        let of_names: [u8; 32] = Sha256::digest(&names).into();
        if digest(key, &stamp, count, nar_size, &of_names)[..] != row.digest[..] {
            return None;
        }
        let count = usize::try_from(count).ok()?;
        let names = Names::written(names, count)?;
        let nar_size = nar_size.and_then(|size| u64::try_from(size).ok());
        Some(Self { closure: Closure::of(names, of_names, nar_size), stamp, used: row.used })
    }
}
