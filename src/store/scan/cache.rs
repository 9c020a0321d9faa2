//! What scans found, in `scans.sqlite` of the state directory.
//!
//! Keyed by device, inode and ctime of the path and by what was looked for; a row whose digest does not fit is a miss.
//! A file that cannot be used is said once and worked without; a corrupt one is set aside as `scans.sqlite.corrupt` and
//! begun anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Identity, Index};
use crate::store::cache_file::{self, is_corrupt, today};
use crate::store::path::StorePath;

/// Of this layout; a file of an older one is begun anew.
const VERSION: i64 = 2;

/// The file's name in a state directory.
pub const FILE: &str = "scans.sqlite";

/// What scans found.
pub struct ScanCache {
    file: PathBuf,
    connection: Mutex<Option<Connection>>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the cache of scans {file}: {problem}")]
pub struct ScanCacheError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Debug, thiserror::Error)]
enum CannotUse {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("it was written by a newer nixview (version {0})")]
    Newer(i64),
}

impl ScanCache {
    /// Opens the cache in a state directory, which is made if it is missing.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let connection = match connect(&file) {
            Err(CannotUse::Sqlite(error)) if is_corrupt(&error) => {
                set_aside(&file, &error).and_then(|()| connect(&file))
            }
            other => other,
        };
        let connection = match connection {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "scans are not remembered: the cache cannot be used");
                None
            }
        };
        Self { file, connection: Mutex::new(connection) }
    }

    /// A cache that remembers nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { file: PathBuf::new(), connection: Mutex::new(None) }
    }

    /// What a scan of that path for these candidates found.
    #[must_use]
    pub fn get(&self, identity: &Identity, candidates: &Index) -> Option<Vec<StorePath>> {
        let key = key(identity, candidates);
        let row = self.asked(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT found, digest, used FROM scans WHERE key = ?1")?;
            let row = statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            row.optional()
        });
        let (found, stored, used): (String, Vec<u8>, i64) = row??;
        if digest(&key, &found)[..] != stored[..] {
            tracing::warn!("a scan in the cache fails its digest and is not used");
            return None;
        }
        let found: Vec<StorePath> = found.lines().map(str::parse).collect::<Result<_, _>>().ok()?;
        if used < today() {
            self.asked(|c| c.execute("UPDATE scans SET used = ?2 WHERE key = ?1", params![key, today()]));
        }
        found.iter().all(|path| candidates.contains(path)).then_some(found)
    }

    /// Remembers what a scan found.
    pub fn put(&self, identity: &Identity, candidates: &Index, found: &[StorePath]) {
        let key = key(identity, candidates);
        let found: String = found.iter().map(|path| format!("{path}\n")).collect();
        self.asked(|connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO scans VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![key, found, digest(&key, &found), today()])
        });
    }

    /// Removes what was not used since `age` ago, or with `dry_run` only counts it; the number of scans.
    ///
    /// # Errors
    /// If the cache cannot be used.
    pub fn prune(&self, age: Duration, dry_run: bool) -> Result<u64, ScanCacheError> {
        let failed = |problem: String| ScanCacheError { file: self.file.clone(), problem };
        let limit = today().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let guard = self.connection.lock();
        let connection = guard.as_ref().ok_or_else(|| failed("it cannot be used".to_owned()))?;
        let count: rusqlite::Result<i64> =
            connection.query_row("SELECT count(*) FROM scans WHERE used <= ?1", [limit], |row| row.get(0));
        let count = count.map_err(|error| failed(error.to_string()))?;
        if !dry_run {
            let removed = connection.execute("DELETE FROM scans WHERE used <= ?1", [limit]);
            removed.map_err(|error| failed(error.to_string()))?;
        }
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// Asks the file. An error is said and no answer; a file that turns out to be corrupt is set aside.
    fn asked<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut guard = self.connection.lock();
        match ask(guard.as_ref()?) {
            Ok(answer) => Some(answer),
            Err(error) if is_corrupt(&error) => {
                *guard = None;
                match set_aside(&self.file, &error).and_then(|()| connect(&self.file)) {
                    Ok(connection) => *guard = Some(connection),
                    Err(error) => tracing::warn!(%error, "scans are not remembered any more"),
                }
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the cache of scans does not answer");
                None
            }
        }
    }
}

fn set_aside(file: &Path, error: &rusqlite::Error) -> Result<(), CannotUse> {
    let aside = cache_file::set_aside(file)?;
    tracing::warn!(file = %file.display(), %error, set_aside = %aside.display(), "the cache of scans is corrupt and begun anew");
    Ok(())
}

fn connect(file: &Path) -> Result<Connection, CannotUse> {
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
        ..VERSION => {
            transaction.execute_batch(
                "DROP TABLE IF EXISTS scans;
                 CREATE TABLE scans (
                    key BLOB PRIMARY KEY, found TEXT NOT NULL, digest BLOB NOT NULL, used INTEGER NOT NULL
                 ) WITHOUT ROWID",
            )?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        newer => return Err(CannotUse::Newer(newer)),
    }
    transaction.commit()?;
    Ok(connection)
}

fn key(identity: &Identity, candidates: &Index) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(identity.device.0.to_le_bytes());
    hash.update(identity.device.1.to_le_bytes());
    hash.update(identity.inode.to_le_bytes());
    hash.update(identity.changed.0.to_le_bytes());
    hash.update(identity.changed.1.to_le_bytes());
    hash.update(candidates.digest());
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
        let (index, some) = (Index::new(all.clone()), Index::new(all[..2].to_vec()));
        let one = Identity { device: (1, 2), inode: 3, changed: (4, 5) };
        let cache = ScanCache::open(dir.path());
        cache.put(&one, &index, &all[1..]);
        cache.put(&Identity { inode: 4, ..one }, &index, &[]);
        drop(cache);
        let cache = ScanCache::open(dir.path());
        assert_eq!(cache.get(&one, &index).unwrap(), all[1..]);
        assert_eq!(cache.get(&one, &some), None);
        assert_eq!(cache.get(&Identity { changed: (4, 6), ..one }, &index), None);
        assert!(cache.get(&Identity { inode: 4, ..one }, &index).unwrap().is_empty());
        let other = Connection::open(dir.path().join("scans.sqlite")).unwrap();
        other.execute("UPDATE scans SET found = ?1", [format!("{}\n", all[0])]).unwrap();
        assert_eq!(cache.get(&one, &index), None, "a changed row is a miss");
        assert_eq!(ScanCache::none().get(&one, &index), None);
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_what_is_old_is_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, "this is not a database, but long enough to be read as one").unwrap();
        let one = Identity { device: (1, 2), inode: 3, changed: (4, 5) };
        let cache = ScanCache::open(dir.path());
        assert!(file.with_extension("sqlite.corrupt").exists());
        cache.put(&one, &Index::new(Vec::new()), &[]);
        assert_eq!(cache.get(&one, &Index::new(Vec::new())), Some(Vec::new()));
        drop(cache);
        let bytes = std::fs::read(&file).unwrap();
        let page = bytes.len() / 2;
        let damaged = [&bytes[..page], &vec![0xee; bytes.len() - page][..]].concat();
        std::fs::write(&file, damaged).unwrap();
        let cache = ScanCache::open(dir.path());
        assert_eq!(cache.get(&one, &Index::new(Vec::new())), None, "its table is damaged");
        cache.put(&one, &Index::new(Vec::new()), &[]);
        assert_eq!(cache.get(&one, &Index::new(Vec::new())), Some(Vec::new()), "begun anew");

        assert_eq!(cache.prune(Duration::from_secs(86_400), false).unwrap(), 0, "used today");
        assert_eq!(cache.prune(Duration::ZERO, true).unwrap(), 1);
        assert_eq!(cache.prune(Duration::ZERO, false).unwrap(), 1);
        assert_eq!(cache.get(&one, &Index::new(Vec::new())), None);
        assert!(ScanCache::none().prune(Duration::ZERO, false).is_err());
    }

    #[test]
    fn a_file_of_an_older_layout_is_begun_anew_and_one_of_a_newer_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let set = |sql: &str| Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        set("CREATE TABLE scans (key BLOB PRIMARY KEY, found TEXT, digest BLOB); PRAGMA user_version = 1");
        let one = Identity { device: (1, 2), inode: 3, changed: (4, 5) };
        let cache = ScanCache::open(dir.path());
        cache.put(&one, &Index::new(Vec::new()), &[]);
        assert_eq!(cache.get(&one, &Index::new(Vec::new())), Some(Vec::new()));
        drop(cache);
        set("PRAGMA user_version = 99");
        assert_eq!(ScanCache::open(dir.path()).get(&one, &Index::new(Vec::new())), None);
        let version: i64 = Connection::open(&file)
            .unwrap()
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 99);
    }
}
