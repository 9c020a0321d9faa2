//! Closures that were computed before, in `closures.sqlite` of the state directory.
//!
//! A row is an answer only if its digest fits *and* it still holds: either the database's files have the same
//! [`Stamp`] as when it was stored (then the database is not even opened by us again),
//! or, in mode `runtime`, one query finds every member registered under the same `ValidPaths.id`. In the modes `build`
//! and `dev` the closure depends on what else is valid, so only an unchanged stamp counts.
//!
//! The cache never makes a question fail: a file that cannot be used is said once with `tracing::warn` and worked
//! without; a corrupt one is set aside as `closures.sqlite.corrupt` and begun anew.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::resolve::dev_roots;
use super::schema::{SchemaError, migrate};
use super::{Closure, ClosureError, Mode};
use crate::store::database::{Registered, Stamp};
use crate::store::{Database, Location, StorePath};

/// How long a writer is waited for.
const BUSY: Duration = Duration::from_millis(500);

/// Closures that were computed before.
///
/// May be used by many threads and processes at once.
pub struct Cache {
    file: PathBuf,
    connection: Mutex<Option<Connection>>,
    warned: AtomicBool,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The database was not asked: its files are unchanged.
    Unchanged,
    /// Every member is still registered.
    Checked,
    /// It was computed.
    Computed,
}

/// A row that passed its digest.
struct Row {
    closure: Closure,
    ids: Vec<i64>,
    stamp: Option<String>,
}

impl Cache {
    /// Opens the cache in a state directory, which is made if it is missing.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("closures.sqlite");
        let cache = Self { file, connection: Mutex::new(None), warned: AtomicBool::new(false) };
        let opened = match connect(&cache.file) {
            Err(error) if is_corrupt(&error) => cache.set_aside(&error).and_then(|()| connect(&cache.file)),
            other => other,
        };
        match opened {
            Ok(connection) => *cache.connection.lock() = Some(connection),
            Err(error) => cache.warn(&error),
        }
        cache
    }

    /// A cache that remembers nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { file: PathBuf::new(), connection: Mutex::new(None), warned: AtomicBool::new(true) }
    }

    /// The closure of `roots`, remembered or computed.
    ///
    /// # Errors
    /// As [`super::resolve`]; never because of the cache.
    pub fn closure(
        &self,
        database: &Database,
        roots: &[StorePath],
        mode: Mode,
    ) -> Result<Closure, ClosureError> {
        self.find(database, roots, mode).map(|(closure, _)| closure)
    }

    /// The closure of `roots` in the store at `location`; its database is opened only if something changed.
    ///
    /// # Errors
    /// As [`super::resolve`]; never because of the cache.
    pub fn closure_at(
        &self,
        location: &Location,
        roots: &[StorePath],
        mode: Mode,
    ) -> Result<(Closure, Found), ClosureError> {
        if let Some(closure) = self.unchanged(location, roots, mode) {
            return Ok((closure, Found::Unchanged));
        }
        self.find(&Database::open(location)?, roots, mode)
    }

    /// As [`Cache::closure`], and how the answer came about.
    ///
    /// # Errors
    /// As [`super::resolve`]; never because of the cache.
    pub fn find(
        &self,
        database: &Database,
        roots: &[StorePath],
        mode: Mode,
    ) -> Result<(Closure, Found), ClosureError> {
        let key = key(database.location(), roots, mode);
        let stamp = database.stamp()?;
        let stamp_text = stamp.is_settled().then(|| stamp.to_string());
        if let Some(row) = self.row(&key) {
            if row.stamp.is_some() && row.stamp == stamp_text {
                return Ok((row.closure, Found::Unchanged));
            }
            if mode == Mode::Runtime && database.still_registered(row.closure.paths(), &row.ids)? {
                self.store(&key, stamp_text.as_deref(), &row.closure, &row.ids);
                return Ok((row.closure, Found::Checked));
            }
        }
        let members = match mode {
            Mode::Runtime => database.reach(roots, false)?,
            Mode::Build => database.reach(roots, true)?,
            Mode::Dev => database.reach(&dev_roots(database, roots)?, false)?,
        };
        let ids: Vec<i64> = members.iter().map(|m: &Registered| m.id).collect();
        let nar_size = members.iter().map(|m| m.nar_size).sum();
        let closure = Closure::new(members.into_iter().map(|m| m.path).collect(), nar_size);
        self.store(&key, stamp_text.as_deref(), &closure, &ids);
        Ok((closure, Found::Computed))
    }

    /// The closure, if it was stored for this very state of the database's files; the database is not opened.
    #[must_use]
    pub fn unchanged(&self, location: &Location, roots: &[StorePath], mode: Mode) -> Option<Closure> {
        let stamp = Stamp::take(&location.database_file()?).ok()?;
        if !stamp.is_settled() {
            return None;
        }
        let row = self.row(&key(location, roots, mode))?;
        (row.stamp? == stamp.to_string()).then_some(row.closure)
    }

    /// Removes what was not used since `age` ago; the number of rows.
    ///
    /// # Errors
    /// If the cache cannot be used.
    pub fn prune(&self, age: Duration) -> Result<usize, CacheError> {
        let limit = today().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let failed = |problem: String| CacheError { file: self.file.clone(), problem };
        let guard = self.connection.lock();
        let connection = guard.as_ref().ok_or_else(|| failed("it cannot be used".to_owned()))?;
        connection
            .execute("DELETE FROM closures WHERE used <= ?1", [limit])
            .map_err(|error| failed(error.to_string()))
    }

    /// The number of rows that [`Cache::prune`] would remove.
    ///
    /// # Errors
    /// If the cache cannot be used.
    pub fn stale(&self, age: Duration) -> Result<usize, CacheError> {
        let limit = today().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let failed = |problem: String| CacheError { file: self.file.clone(), problem };
        let guard = self.connection.lock();
        let connection = guard.as_ref().ok_or_else(|| failed("it cannot be used".to_owned()))?;
        let count = connection
            .query_row("SELECT count(*) FROM closures WHERE used <= ?1", [limit], |row| row.get::<_, i64>(0));
        let count = count.map_err(|error| failed(error.to_string()))?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// The number of closures that are remembered; 0 if the cache cannot be used.
    #[must_use]
    pub fn count(&self) -> usize {
        self.asked(|c| c.query_row("SELECT count(*) FROM closures", [], |row| row.get::<_, i64>(0)))
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    }

    /// Asks the file; an error is said and no answer.
    fn asked<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut guard = self.connection.lock();
        let answer = ask(guard.as_ref()?);
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                let error = CannotUse::Sqlite(error);
                self.warn(&error);
                if is_corrupt(&error) {
                    *guard = None;
                    if let Ok(fresh) = self.set_aside(&error).and_then(|()| connect(&self.file)) {
                        *guard = Some(fresh);
                    }
                }
                None
            }
        }
    }

    fn row(&self, key: &[u8]) -> Option<Row> {
        let mut is_stale = false;
        let found = self.asked(|c| {
            let mut statement = c.prepare_cached(
                "SELECT stamp, count, nar_size, names, ids, digest, used FROM closures WHERE key = ?1",
            )?;
            let row = statement.query_row([key], |row| {
                is_stale = row.get::<_, i64>(6)? < today();
                Ok(Row::checked(
                    key,
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get_ref(3)?.as_blob()?,
                    row.get_ref(4)?.as_blob()?,
                    row.get_ref(5)?.as_blob()?,
                ))
            });
            match row {
                // A column of another type: the row was not written by us.
                Err(
                    rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..),
                ) => Ok(None),
                other => other.optional(),
            }
        });
        let row = found??;
        if row.is_none() {
            tracing::warn!(file = %self.file.display(), "a closure in the cache fails its digest and is not used");
        } else if is_stale {
            self.asked(|c| c.execute("UPDATE closures SET used = ?2 WHERE key = ?1", params![key, today()]))?;
        }
        row
    }

    fn store(&self, key: &[u8], stamp: Option<&str>, closure: &Closure, ids: &[i64]) {
        let names = names(closure);
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let count = i64::try_from(closure.count()).unwrap_or(i64::MAX);
        let nar_size = closure.nar_size().and_then(|size| i64::try_from(size).ok());
        let digest = digest(key, stamp, count, nar_size, &names, &ids);
        let stored = self.asked(|c| {
            c.prepare_cached("INSERT OR REPLACE INTO closures VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
                .execute(params![key, stamp, count, nar_size, names, ids, digest, today()])
        });
        if stored.is_none() {
            tracing::debug!(file = %self.file.display(), "the closure is not remembered");
        }
    }

    fn set_aside(&self, error: &CannotUse) -> Result<(), CannotUse> {
        let aside = self.file.with_extension("sqlite.corrupt");
        tracing::warn!(file = %self.file.display(), %error, set_aside = %aside.display(), "the closure cache is corrupt and begun anew");
        for ending in ["-wal", "-shm"] {
            let mut name = self.file.clone().into_os_string();
            name.push(ending);
            match std::fs::remove_file(name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(std::fs::rename(&self.file, aside)?)
    }

    fn warn(&self, error: &CannotUse) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(file = %self.file.display(), %error, "closures are not remembered: the cache cannot be used");
        }
    }
}

/// The cache could not be pruned.
#[derive(Debug, thiserror::Error)]
#[error("the closure cache {file}: {problem}")]
pub struct CacheError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
enum CannotUse {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

fn is_corrupt(error: &CannotUse) -> bool {
    let (CannotUse::Sqlite(error) | CannotUse::Schema(SchemaError::Sqlite(error))) = error else {
        return false;
    };
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn connect(file: &Path) -> Result<Connection, CannotUse> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A lost row is computed again.
    connection.pragma_update(None, "synchronous", "normal")?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Days are enough to tell what is not used any more, and a day's first use writes alone.
fn today() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs() / 86_400 * 86_400).unwrap_or(0)
}

/// What a row is found by: mode, where the database is, the store directory, and the roots.
fn key(location: &Location, roots: &[StorePath], mode: Mode) -> [u8; 32] {
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

fn names(closure: &Closure) -> Vec<u8> {
    let mut names = Vec::new();
    for path in closure.paths() {
        names.extend_from_slice(path.as_str().as_bytes());
        names.push(b'\n');
    }
    names
}

fn digest(
    key: &[u8],
    stamp: Option<&str>,
    count: i64,
    nar_size: Option<i64>,
    names: &[u8],
    ids: &[u8],
) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update(stamp.unwrap_or_default());
    hash.update("\0");
    hash.update(count.to_le_bytes());
    hash.update(nar_size.unwrap_or(-1).to_le_bytes());
    hash.update((names.len() as u64).to_le_bytes());
    hash.update(names);
    hash.update(ids);
    hash.finalize().into()
}

impl Row {
    /// The row, if its digest fits and it is well formed.
    fn checked(
        key: &[u8],
        stamp: Option<String>,
        count: i64,
        nar_size: Option<i64>,
        names: &[u8],
        ids: &[u8],
        stored: &[u8],
    ) -> Option<Self> {
        if digest(key, stamp.as_deref(), count, nar_size, names, ids) != stored {
            return None;
        }
        let paths: Vec<StorePath> = names
            .strip_suffix(b"\n")
            .unwrap_or(names)
            .split(|byte| *byte == b'\n')
            .map(StorePath::from_base_name)
            .collect::<Result<_, _>>()
            .ok()?;
        let (whole, rest) = ids.as_chunks::<8>();
        let ids: Vec<i64> = whole.iter().map(|id| i64::from_le_bytes(*id)).collect();
        let sorted = paths.is_sorted_by(|a, b| a < b);
        if !rest.is_empty() || ids.len() != paths.len() || i64::try_from(ids.len()) != Ok(count) || !sorted {
            return None;
        }
        let nar_size = nar_size.and_then(|size| u64::try_from(size).ok());
        Some(Self { closure: Closure::new(paths, nar_size), ids, stamp })
    }
}
