//! What scans found, in `scans.sqlite` of the state directory.
//!
//! Keyed by device, inode and ctime of the path and by what was looked for; a row whose digest does not fit is a miss.
//! A file that cannot be used is said once and worked without.

use std::path::Path;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::Identity;
use crate::store::path::StorePath;

/// Of this layout; a file of another is begun anew.
const VERSION: i64 = 1;

/// What scans found.
pub struct ScanCache {
    connection: Mutex<Option<Connection>>,
}

impl ScanCache {
    /// Opens the cache in a state directory, which is made if it is missing.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("scans.sqlite");
        let connection = match connect(&file) {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "scans are not remembered: the cache cannot be used");
                None
            }
        };
        Self { connection: Mutex::new(connection) }
    }

    /// A cache that remembers nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { connection: Mutex::new(None) }
    }

    /// What a scan of that path for these candidates (sorted) found.
    #[must_use]
    pub fn get(&self, identity: &Identity, candidates: &[StorePath]) -> Option<Vec<StorePath>> {
        let key = key(identity, candidates);
        let guard = self.connection.lock();
        let row = guard.as_ref()?.prepare_cached("SELECT found, digest FROM scans WHERE key = ?1").and_then(
            |mut statement| {
                let row = statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?)));
                row.optional()
            },
        );
        let (found, stored): (String, Vec<u8>) = match row {
            Ok(row) => row?,
            Err(error) => {
                tracing::debug!(%error, "the scan cache cannot be read");
                return None;
            }
        };
        if digest(&key, &found)[..] != stored[..] {
            tracing::warn!("a scan in the cache fails its digest and is not used");
            return None;
        }
        let found: Vec<StorePath> = found.lines().map(str::parse).collect::<Result<_, _>>().ok()?;
        found.iter().all(|path| candidates.binary_search(path).is_ok()).then_some(found)
    }

    /// Remembers what a scan found.
    pub fn put(&self, identity: &Identity, candidates: &[StorePath], found: &[StorePath]) {
        let key = key(identity, candidates);
        let found: String = found.iter().map(|path| format!("{path}\n")).collect();
        let guard = self.connection.lock();
        let Some(connection) = guard.as_ref() else { return };
        let stored = connection
            .prepare_cached("INSERT OR REPLACE INTO scans VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| statement.execute(params![key, found, digest(&key, &found)]));
        if let Err(error) = stored {
            tracing::debug!(%error, "a scan is not remembered");
        }
    }
}

fn connect(file: &Path) -> Result<Connection, Box<dyn std::error::Error>> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut connection = Connection::open(file)?;
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        VERSION => {}
        0 => {
            transaction.execute_batch(
                "CREATE TABLE scans (key BLOB PRIMARY KEY, found TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID",
            )?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        newer => return Err(format!("it was written by a newer nixview (version {newer})").into()),
    }
    transaction.commit()?;
    Ok(connection)
}

fn key(identity: &Identity, candidates: &[StorePath]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(identity.device.0.to_le_bytes());
    hash.update(identity.device.1.to_le_bytes());
    hash.update(identity.inode.to_le_bytes());
    hash.update(identity.changed.0.to_le_bytes());
    hash.update(identity.changed.1.to_le_bytes());
    for path in candidates {
        hash.update(path.as_str());
        hash.update("\n");
    }
    hash.finalize().into()
}

fn digest(key: &[u8], found: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update(found);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;

    #[test]
    fn a_scan_is_remembered_for_the_same_path_and_candidates_alone() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<StorePath> =
            "abc".chars().map(|c| format!("{}-{c}", String::from(c).repeat(32)).parse().unwrap()).collect();
        let one = Identity { device: (1, 2), inode: 3, changed: (4, 5) };
        let cache = ScanCache::open(dir.path());
        cache.put(&one, &all, &all[1..]);
        cache.put(&Identity { inode: 4, ..one }, &all, &[]);
        drop(cache);
        let cache = ScanCache::open(dir.path());
        assert_eq!(cache.get(&one, &all).unwrap(), all[1..]);
        assert_eq!(cache.get(&one, &all[..2]), None);
        assert_eq!(cache.get(&Identity { changed: (4, 6), ..one }, &all), None);
        assert!(cache.get(&Identity { inode: 4, ..one }, &all).unwrap().is_empty());
        let other = Connection::open(dir.path().join("scans.sqlite")).unwrap();
        other.execute("UPDATE scans SET found = ?1", [format!("{}\n", all[0])]).unwrap();
        assert_eq!(cache.get(&one, &all), None, "a changed row is a miss");
        assert_eq!(ScanCache::none().get(&one, &all), None);
    }
}
