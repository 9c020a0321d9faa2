//! Which derivations an expression had, and beside it which variables a derivation, in `locks.sqlite` of the state directory.
//!
//! Remembering never makes locking fail: a file that cannot be used is said once and worked without, a corrupt one is set
//! aside as `locks.sqlite.corrupt`. A row whose digest does not fit is no answer.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::digest::{Digest, Fields};
use super::evaluate::Evaluated;
use crate::store::{StorePath, cache_file};

/// The file in the state directory.
pub const FILE: &str = "locks.sqlite";

/// `user_version` of the file.
const VERSION: i64 = 1;

/// How long a writer is waited for.
const BUSY: Duration = Duration::from_millis(500);

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS evaluations (
        key     BLOB PRIMARY KEY,   -- SHA-256 over all that decides the result
        result  TEXT NOT NULL,      -- a line each: base name of the .drv, '!', output
        digest  BLOB NOT NULL,      -- SHA-256 over key and result
        used    INTEGER NOT NULL    -- seconds since 1970
    ) WITHOUT ROWID;
    -- An older nixview does not look at it, so that the version need not change.
    CREATE TABLE IF NOT EXISTS environments (
        key     BLOB PRIMARY KEY,   -- SHA-256 over store, .drv, bash and the version of recording
        result  TEXT NOT NULL,      -- JSON as in a lock
        digest  BLOB NOT NULL,      -- SHA-256 over key and result
        used    INTEGER NOT NULL    -- seconds since 1970
    )";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("it was written by a newer nixview (version {0})")]
    Newer(i64),
    #[error("it cannot be set aside: {0}")]
    SetAside(#[from] std::io::Error),
}

/// What expressions evaluated to before.
#[derive(Debug)]
pub struct Memory {
    pub(super) connection: Option<Connection>,
}

impl Memory {
    /// Opens it in a state directory, which is made if it is missing.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let opened = match connect(&file) {
            Err(error) if is_corrupt(&error) => set_aside(&file).and_then(|()| connect(&file)),
            other => other,
        };
        match opened {
            Ok(connection) => Self { connection: Some(connection) },
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "evaluations are not remembered");
                Self { connection: None }
            }
        }
    }

    /// What was remembered for exactly this.
    pub(super) fn get(&self, key: &Digest) -> Option<Vec<Evaluated>> {
        let connection = self.connection.as_ref()?;
        let row = connection.query_row(
            "SELECT result, digest FROM evaluations WHERE key = ?1",
            [key.as_bytes()],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)),
        );
        let (result, digest) = match row.optional() {
            Ok(row) => row?,
            Err(error) => {
                tracing::warn!(%error, "what was remembered of evaluations cannot be read");
                return None;
            }
        };
        if digest != row_digest(key, &result).as_bytes() {
            tracing::warn!("what was remembered of an evaluation fails its digest and is not used");
            return None;
        }
        let answer =
            result.lines().map(parse_line).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())?;
        let touched = connection
            .execute("UPDATE evaluations SET used = ?2 WHERE key = ?1", params![key.as_bytes(), now()]);
        if let Err(error) = touched {
            tracing::debug!(%error, "the day of use is not noted");
        }
        Some(answer)
    }

    /// Remembers; false if it could not.
    pub(super) fn put(&self, key: &Digest, evaluated: &[Evaluated]) -> bool {
        let Some(connection) = self.connection.as_ref() else { return false };
        let lines = evaluated.iter().map(|e| format!("{}!{}\n", e.derivation, e.output));
        let result: String = lines.collect();
        let digest = row_digest(key, &result);
        let stored = connection.execute(
            "INSERT OR REPLACE INTO evaluations VALUES (?1, ?2, ?3, ?4)",
            params![key.as_bytes(), result, digest.as_bytes(), now()],
        );
        if let Err(error) = &stored {
            tracing::warn!(%error, "the evaluation is not remembered");
        }
        stored.is_ok()
    }

    /// Forgets the evaluations that were not used since `age` ago, or only counts them; how many.
    ///
    /// # Errors
    /// A description, if the file cannot be used.
    pub fn prune(&self, age: Duration, dry_run: bool) -> Result<u64, String> {
        self.prune_table("evaluations", age, dry_run)
    }

    /// As [`Memory::prune`], of one table.
    pub(super) fn prune_table(&self, table: &str, age: Duration, dry_run: bool) -> Result<u64, String> {
        let connection = self.connection.as_ref().ok_or("it cannot be used")?;
        let limit = now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let counted = if dry_run {
            connection
                .query_row(&format!("SELECT count(*) FROM {table} WHERE used <= ?1"), [limit], |row| {
                    row.get::<_, i64>(0)
                })
                .map(i64::unsigned_abs)
        } else {
            connection.execute(&format!("DELETE FROM {table} WHERE used <= ?1"), [limit]).map(|n| n as u64)
        };
        counted.map_err(|error| error.to_string())
    }
}

fn parse_line(line: &str) -> Option<Evaluated> {
    let (path, output) = line.split_once('!')?;
    Some(Evaluated { derivation: path.parse::<StorePath>().ok()?, output: output.to_owned() })
}

fn row_digest(key: &Digest, result: &str) -> Digest {
    let mut fields = Fields::new("nixview evaluation 1");
    fields.add(key.as_bytes());
    fields.add(result.as_bytes());
    fields.finish()
}

fn connect(file: &Path) -> Result<Connection, Unusable> {
    if let Some(dir) = file.parent()
        && let Err(error) = std::fs::create_dir_all(dir)
    {
        tracing::debug!(%error, dir = %dir.display(), "the state directory cannot be made");
    }
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(Unusable::Newer(version));
    }
    connection.execute_batch(SCHEMA)?;
    if version < VERSION {
        connection.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(connection)
}

fn is_corrupt(error: &Unusable) -> bool {
    matches!(error, Unusable::Sqlite(error) if cache_file::is_corrupt(error))
}

fn set_aside(file: &Path) -> Result<(), Unusable> {
    let aside = cache_file::set_aside(file)?;
    tracing::warn!(aside = %aside.display(), "what was remembered of evaluations is corrupt and set aside");
    Ok(())
}

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn result() -> Vec<Evaluated> {
        let derivation: StorePath = "dddddddddddddddddddddddddddddddd-env.drv".parse().unwrap();
        ["out", "dev"].map(|o| Evaluated { derivation: derivation.clone(), output: o.to_owned() }).to_vec()
    }

    #[test]
    fn what_is_put_is_got_by_the_same_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = Digest::of(b"key");
        assert!(Memory::open(dir.path()).put(&key, &result()));
        let memory = Memory::open(dir.path());
        assert_eq!(memory.get(&key), Some(result()));
        assert_eq!(memory.get(&Digest::of(b"other")), None);
    }

    #[test]
    fn a_row_that_was_changed_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let key = Digest::of(b"key");
        let memory = Memory::open(dir.path());
        assert!(memory.put(&key, &result()));
        let other = Connection::open(dir.path().join(FILE)).unwrap();
        other.execute("UPDATE evaluations SET result = replace(result, 'dev', 'bin')", []).unwrap();
        assert_eq!(memory.get(&key), None);
        other.execute("UPDATE evaluations SET result = x'ff00'", []).unwrap();
        assert_eq!(memory.get(&key), None);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_worked_without() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), vec![b'x'; 5000]).unwrap();
        let key = Digest::of(b"key");
        assert!(Memory::open(dir.path()).put(&key, &result()), "begun anew");
        assert!(dir.path().join("locks.sqlite.corrupt").exists());
        let newer = Connection::open(dir.path().join(FILE)).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(Memory::open(dir.path()).get(&key), None);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(!Memory::open(&file).put(&key, &result()));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path());
        for key in [b"a", b"b"] {
            assert!(memory.put(&Digest::of(key), &result()));
        }
        let other = Connection::open(dir.path().join(FILE)).unwrap();
        other
            .execute(
                "UPDATE evaluations SET used = used - 7200 WHERE key = ?1",
                [Digest::of(b"a").as_bytes()],
            )
            .unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(memory.prune(hour, true), Ok(1));
        assert_eq!(memory.prune(hour, false), Ok(1));
        assert_eq!(memory.prune(hour, false), Ok(0));
        assert_eq!(memory.get(&Digest::of(b"a")), None);
        assert!(memory.get(&Digest::of(b"b")).is_some());
    }
}
