//! Closures that were computed before, in `closures.sqlite` of the state directory.
//!
//! A row is an answer only if its digest fits *and* the database's files have the same [`Stamp`] as when it was stored:
//! then nothing of what the closure follows from has changed, neither rows nor references (a path that is registered
//! again keeps its row and may get other references), and the database is not even opened. To compare all references of
//! the members would cost what computing costs. What was computed of a database that was written to a moment ago is not
//! stored.
//!
//! The usual answer, of a file that nobody writes to, is read without SQLite's locks (`quiet`); the file is opened for
//! writing when something is to be stored.
//!
//! The cache never makes a question fail: a file that cannot be used is said once with `tracing::warn` and worked
//! without; a corrupt one is set aside as `closures.sqlite.corrupt` and begun anew.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, params};

use super::quiet;
use super::resolve::dev_roots;
use super::row::{self, Key, Row, key};
use super::schema::{SchemaError, migrate};
use super::{Closure, ClosureError, Mode};
use crate::store::cache_file::{self, today};
use crate::store::database::Stamp;
use crate::store::{Database, Location, StorePath};

/// How long a writer is waited for.
const BUSY: Duration = Duration::from_millis(500);

/// Closures that were computed before.
///
/// May be used by many threads and processes at once.
pub struct Cache {
    file: PathBuf,
    opened: Mutex<Opened>,
    warned: AtomicBool,
}

/// The file of a cache.
enum Opened {
    /// Opened when it is needed.
    Unopened,
    Open(Connection),
    /// There is none, or it was said why it cannot be used.
    Unusable,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The database was not asked: its files are unchanged.
    Unchanged,
    /// It was computed.
    Computed,
}

impl Cache {
    /// The cache in a state directory. Nothing is opened yet; the directory is made when something is to be stored.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        Self {
            file: state_dir.join("closures.sqlite"),
            opened: Mutex::new(Opened::Unopened),
            warned: AtomicBool::new(false),
        }
    }

    /// A cache that remembers nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { file: PathBuf::new(), opened: Mutex::new(Opened::Unusable), warned: AtomicBool::new(true) }
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
        let stamp = stamp.is_settled().then(|| stamp.to_string());
        if let Some(stamp) = &stamp
            && let Some(row) = self.row(&key)
            && row.stamp == *stamp
        {
            return Ok((row.closure, Found::Unchanged));
        }
        let members = match mode {
            Mode::Runtime => database.reach(roots, false)?,
            Mode::Build => database.reach(roots, true)?,
            Mode::Dev => database.reach(&dev_roots(database, roots)?, false)?,
        };
        let nar_size = members.iter().map(|m| m.nar_size).sum();
        let closure = Closure::new(members.into_iter().map(|m| m.path).collect(), nar_size);
        if let Some(stamp) = &stamp {
            self.store(&key, stamp, &closure);
        }
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
        (row.stamp == stamp.to_string()).then_some(row.closure)
    }

    /// Removes what was not used since `age` ago; the number of rows.
    ///
    /// # Errors
    /// If the cache cannot be used.
    pub fn prune(&self, age: Duration) -> Result<usize, CacheError> {
        self.must(|c| c.execute("DELETE FROM closures WHERE used <= ?1", [limit(age)]))
    }

    /// The number of rows that [`Cache::prune`] would remove.
    ///
    /// # Errors
    /// If the cache cannot be used.
    pub fn stale(&self, age: Duration) -> Result<usize, CacheError> {
        let count = "SELECT count(*) FROM closures WHERE used <= ?1";
        let count = self.must(|c| c.query_row(count, [limit(age)], |row| row.get::<_, i64>(0)))?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    fn must<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, CacheError> {
        let failed = |problem: String| CacheError { file: self.file.clone(), problem };
        let mut opened = self.opened.lock();
        let connection =
            self.connection(&mut opened).ok_or_else(|| failed("it cannot be used".to_owned()))?;
        ask(connection).map_err(|error| failed(error.to_string()))
    }

    /// The number of closures that are remembered; 0 if the cache cannot be used.
    #[must_use]
    pub fn count(&self) -> usize {
        self.asked(|c| c.query_row("SELECT count(*) FROM closures", [], |row| row.get::<_, i64>(0)))
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    }

    /// The open file; opened now if it was not before. A corrupt one is set aside.
    fn connection<'o>(&self, opened: &'o mut Opened) -> Option<&'o Connection> {
        if matches!(opened, Opened::Unopened) {
            let connected = match connect(&self.file) {
                Err(error) if is_corrupt(&error) => self.set_aside(&error).and_then(|()| connect(&self.file)),
                other => other,
            };
            *opened = match connected {
                Ok(connection) => Opened::Open(connection),
                Err(error) => {
                    self.warn(&error);
                    Opened::Unusable
                }
            };
        }
        match opened {
            Opened::Open(connection) => Some(connection),
            Opened::Unopened | Opened::Unusable => None,
        }
    }

    /// Asks the file; an error is said and no answer.
    fn asked<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut opened = self.opened.lock();
        let answer = ask(self.connection(&mut opened)?);
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                let error = CannotUse::Sqlite(error);
                self.warn(&error);
                if is_corrupt(&error) {
                    *opened = Opened::Unusable;
                    if self.set_aside(&error).is_ok() {
                        *opened = Opened::Unopened;
                    }
                }
                None
            }
        }
    }

    fn row(&self, key: &Key) -> Option<Row> {
        let quiet = match *self.opened.lock() {
            Opened::Unopened => quiet::find(&self.file, key),
            Opened::Open(_) | Opened::Unusable => None,
        };
        let row = match quiet {
            Some(row) => row,
            None => match self.asked(|c| row::find(c, key))?? {
                row::Found::Row(row) => row,
                row::Found::Damaged => {
                    tracing::warn!(file = %self.file.display(), "a closure in the cache fails its digest and is not used");
                    return None;
                }
            },
        };
        if row.used < today() {
            self.asked(|c| c.execute("UPDATE closures SET used = ?2 WHERE key = ?1", params![key, today()]));
        }
        Some(row)
    }

    fn store(&self, key: &Key, stamp: &str, closure: &Closure) {
        if self.asked(|c| row::put(c, key, stamp, closure, today())).is_none() {
            tracing::debug!(file = %self.file.display(), "the closure is not remembered");
        }
    }

    fn set_aside(&self, error: &CannotUse) -> Result<(), CannotUse> {
        let aside = cache_file::set_aside(&self.file)?;
        tracing::warn!(file = %self.file.display(), %error, set_aside = %aside.display(), "the closure cache is corrupt and begun anew");
        Ok(())
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
    cache_file::is_corrupt(error)
}

fn connect(file: &Path) -> Result<Connection, CannotUse> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // SQLite would wait for the reader of a FIFO.
    if std::fs::symlink_metadata(file).is_ok_and(|found| !found.is_file()) {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(error.into());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Of a new file: rows are long.
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A lost row is computed again.
    connection.pragma_update(None, "synchronous", "normal")?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// What was last used on this day or before is older than `age`.
fn limit(age: Duration) -> i64 {
    today().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}
