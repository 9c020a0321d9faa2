//! What store paths take, measured before, in `usage.sqlite` of the state directory. What was read of their contents is there
//! too (`content_cache`).
//!
//! A row is an answer while the path is the one that was measured: registered in Nix's database under the same row and the
//! same inode (a repair replaces the files and keeps the row), or, where nothing registers it, the same inode with the
//! same ctime. How it is laid out on the disk can change under a
//! registered path, when files are replaced by hard links (`nix-store --optimise`, `auto-optimise-store`) or links go (a
//! collection); each of these changes the directory `.links` of the store, so that a row counts only while that is as it
//! was. A file that cannot be used is said once and worked without; a corrupt one is set aside as
//! `usage.sqlite.corrupt` and begun anew.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::prelude::*;
use rusqlite::{Connection, OpenFlags, params};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::content_cache;
use super::measure::Measure;
use crate::store::cache_file::{self, is_corrupt};
use crate::store::parallel::with_threads;

/// Of this layout; a file of another one is begun anew.
const VERSION: i64 = 3;

/// The file's name in a state directory.
const FILE: &str = "usage.sqlite";

/// How long a writer is waited for.
const BUSY: Duration = Duration::from_secs(1);

/// What makes a store path the one that was measured.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Which {
    /// `ValidPaths.id`, which is never given again; inode and birth of what is there: Nix replaces a path that it
    /// repairs, or whose files an optimisation joins with others, and changes nothing in place.
    Registered(i64, String),
    /// Device, inode and ctime.
    Inode(String),
}

impl Which {
    /// The identity of what is at `path` now.
    ///
    /// # Errors
    /// As statx(2).
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::Inode(stamp(path)?))
    }

    /// The identity of what is at `path` now, which Nix's database has in this row.
    ///
    /// # Errors
    /// As statx(2).
    pub fn registered(row: i64, path: &Path) -> io::Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        let time = if has_birth { found.stx_btime } else { found.stx_ctime };
        Ok(Self::Registered(row, format!("{}:{}.{}", found.stx_ino, time.tv_sec, time.tv_nsec)))
    }

    /// True if that is its text.
    fn is(&self, text: &str) -> bool {
        text == self.text()
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Registered(id, inode) => format!("row {id} {inode}"),
            Self::Inode(stamp) => format!("inode {stamp}"),
        }
    }
}

fn stamp(path: &Path) -> io::Result<String> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let changed = found.stx_ctime;
    Ok(format!(
        "{}:{}:{}:{}.{}",
        found.stx_dev_major, found.stx_dev_minor, found.stx_ino, changed.tv_sec, changed.tv_nsec
    ))
}

/// The state of the hard links of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinksStamp(String);

impl LinksStamp {
    /// As it is now in the store directory `store`.
    ///
    /// # Errors
    /// As statx(2), but for there being none.
    pub fn of(store: &Path) -> io::Result<Self> {
        match stamp(&store.join(".links")) {
            Ok(stamp) => Ok(Self(stamp)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self("none".to_owned())),
            Err(error) => Err(error),
        }
    }
}

/// What was measured before, of one store.
pub struct Cache {
    file: PathBuf,
    /// The store directory, by which rows of several stores are told apart.
    store: String,
    connection: Option<Connection>,
}

#[derive(Debug, thiserror::Error)]
enum CannotUse {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Cache {
    /// Opens the cache in a state directory, which is made if it is missing, for the store directory `store`.
    #[must_use]
    pub fn open(state_dir: &Path, store: &Path) -> Self {
        let file = state_dir.join(FILE);
        let connection = match connect(&file) {
            Err(CannotUse::Sqlite(error)) if is_corrupt(&error) => begin_anew(&file, &error),
            other => other,
        };
        let connection = connection
            .inspect_err(|error| {
                tracing::warn!(file = %file.display(), %error, "what paths take is not remembered: the cache cannot be used");
            })
            .ok();
        Self { file, store: store.display().to_string(), connection }
    }

    /// What is known of `paths` (base name, and which path it is, if it is there), which are sorted by name, in their order.
    pub fn get(&mut self, paths: &[(&str, Option<&Which>)], links: &LinksStamp) -> Vec<Option<Measure>> {
        let nothing = vec![None; paths.len()];
        let Some(connection) = &self.connection else { return nothing };
        let found = if paths.len() <= FEW {
            read_few(connection, &self.store, paths, links)
        } else {
            read_many(&self.file, &self.store, paths, links)
        };
        match found {
            Ok(found) => found,
            Err(error) => {
                self.failed(&error);
                nothing
            }
        }
    }

    /// Remembers what paths take, in one transaction.
    pub fn put(&mut self, measured: &[(&str, &Which, &Measure)], links: &LinksStamp) {
        let Some(connection) = &mut self.connection else { return };
        if let Err(error) = write(connection, &self.store, measured, links) {
            self.failed(&error);
        }
    }

    /// Does what needs the file, given it and the store; `None`, and said, if there is none or it fails.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection, &str) -> rusqlite::Result<T>,
    ) -> Option<T> {
        let done = work(self.connection.as_mut()?, &self.store);
        done.inspect_err(|error| self.failed(error)).ok()
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        tracing::warn!(file = %self.file.display(), %error, "the cache of what paths take is not used");
        self.connection = None;
        if is_corrupt(error) {
            self.connection = begin_anew(&self.file, error).ok();
        }
    }
}

fn begin_anew(file: &Path, error: &rusqlite::Error) -> Result<Connection, CannotUse> {
    let aside = cache_file::set_aside(file)?;
    tracing::warn!(file = %file.display(), %error, set_aside = %aside.display(), "the cache of what paths take is corrupt and begun anew");
    connect(file)
}

fn connect(file: &Path) -> Result<Connection, CannotUse> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != VERSION {
        transaction.execute_batch(
            "DROP TABLE IF EXISTS paths;
             CREATE TABLE paths (
                store TEXT NOT NULL, name TEXT NOT NULL, which TEXT NOT NULL, links TEXT NOT NULL, measure BLOB NOT NULL,
                PRIMARY KEY (store, name)
             ) WITHOUT ROWID",
        )?;
        transaction.execute_batch(content_cache::TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok(connection)
}

/// So many paths are looked for one by one; of more, all rows of the store are read.
const FEW: usize = 10_000;

/// What a row says, if it is of the path that is asked for. One that cannot be read is measured again.
fn measure(row: &rusqlite::Row<'_>, which: Option<&Which>) -> rusqlite::Result<Option<Measure>> {
    let text = row.get_ref(0)?.as_str()?;
    if !which.is_some_and(|which| which.is(text)) {
        return Ok(None);
    }
    Ok(postcard::from_bytes(row.get_ref(1)?.as_blob()?).ok())
}

fn read_few(
    connection: &Connection,
    store: &str,
    paths: &[(&str, Option<&Which>)],
    links: &LinksStamp,
) -> rusqlite::Result<Vec<Option<Measure>>> {
    let transaction = connection.unchecked_transaction()?;
    let mut found = vec![None; paths.len()];
    let mut statement = transaction
        .prepare_cached("SELECT which, measure FROM paths WHERE store = ?1 AND name = ?2 AND links = ?3")?;
    for ((name, which), slot) in paths.iter().zip(&mut found) {
        let mut rows = statement.query(params![store, name, links.0])?;
        if let Some(row) = rows.next()? {
            *slot = measure(row, *which)?;
        }
    }
    Ok(found)
}

/// As many at once as there are processors, each over a connection of its own: a row is an answer for itself.
fn read_many(
    file: &Path,
    store: &str,
    paths: &[(&str, Option<&Which>)],
    links: &LinksStamp,
) -> rusqlite::Result<Vec<Option<Measure>>> {
    let mut found = vec![None; paths.len()];
    let work = || {
        let part = paths.len().div_ceil(rayon::current_num_threads());
        let parts = paths.par_chunks(part).zip(found.par_chunks_mut(part));
        parts.try_for_each(|(paths, found)| read_range(file, store, paths, links, found))
    };
    match with_threads(work) {
        Ok(read) => read?,
        // Without threads it takes longer.
        Err(_) => read_range(file, store, paths, links, &mut found)?,
    }
    Ok(found)
}

/// All rows of the store from the first to the last of `paths`: both are in the order of names, so that it is one way through.
fn read_range(
    file: &Path,
    store: &str,
    paths: &[(&str, Option<&Which>)],
    links: &LinksStamp,
    found: &mut [Option<Measure>],
) -> rusqlite::Result<()> {
    let (Some((first, _)), Some((last, _))) = (paths.first(), paths.last()) else { return Ok(()) };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY)?;
    let mut statement = connection.prepare(
        "SELECT which, measure, name FROM paths WHERE store = ?1 AND links = ?2 AND name BETWEEN ?3 AND ?4 ORDER BY name",
    )?;
    let mut rows = statement.query(params![store, links.0, first, last])?;
    let mut wanted = paths.iter().zip(found).peekable();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(2)?.as_str()?;
        while wanted.next_if(|((path, _), _)| *path < name).is_some() {}
        if let Some(((_, which), slot)) = wanted.next_if(|((path, _), _)| *path == name) {
            *slot = measure(row, *which)?;
        }
    }
    Ok(())
}

fn write(
    connection: &mut Connection,
    store: &str,
    measured: &[(&str, &Which, &Measure)],
    links: &LinksStamp,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement =
            transaction.prepare_cached("INSERT OR REPLACE INTO paths VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (name, which, measure) in measured {
            let bytes = postcard::to_stdvec(measure)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            statement.execute(params![store, name, which.text(), links.0, bytes])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::usage::measure::Linked;

    fn example() -> Measure {
        let linked = vec![Linked { device: 1, inode: 2, blocks: 8, names: 3, here: 2 }];
        Measure { files: 4, apparent: 10, blocks: 16, nar: 200, linked, ..Measure::default() }
    }

    #[test]
    fn a_measure_is_found_for_the_same_path_and_links_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let none = LinksStamp::of(&store).unwrap();
        let (one, other) =
            (Which::Registered(7, "1:2.3".to_owned()), Which::Registered(8, "1:2.3".to_owned()));
        let repaired = Which::Registered(7, "1:2.4".to_owned());
        let mut cache = Cache::open(dir.path(), &store);
        cache.put(&[("a", &one, &example())], &none);
        let mut again = Cache::open(dir.path(), &store);
        assert_eq!(
            again.get(&[("a", Some(&one)), ("b", Some(&one)), ("c", None), ("a", Some(&other))], &none),
            [Some(example()), None, None, None]
        );
        assert_eq!(
            again.get(&[("a", Some(&repaired))], &none),
            [None],
            "the row is the same, the files are not"
        );
        assert_eq!(again.get(&[("a", Some(&one))], &none), [Some(example())]);
        assert_eq!(
            Cache::open(dir.path(), dir.path()).get(&[("a", Some(&one))], &none),
            [None],
            "another store"
        );
        std::fs::create_dir(store.join(".links")).unwrap();
        let some = LinksStamp::of(&store).unwrap();
        assert_eq!(again.get(&[("a", Some(&one))], &some), [None], "the store was optimised");
        again.put(&[("a", &one, &example())], &some);
        std::fs::write(store.join(".links/x"), "").unwrap();
        assert_ne!(LinksStamp::of(&store).unwrap(), some);
    }

    #[test]
    fn of_many_paths_the_same_is_found_as_of_few() {
        let dir = tempfile::tempdir().unwrap();
        let links = LinksStamp::of(dir.path()).unwrap();
        let names: Vec<String> = (0..2 * FEW).map(|n| format!("{n:06}")).collect();
        let which = Which::Registered(1, String::new());
        let of = |n: usize| Measure { files: n as u64, ..Measure::default() };
        let measures: Vec<Measure> = (0..names.len()).map(of).collect();
        // Every third is not known.
        let known: Vec<_> =
            names.iter().zip(&measures).enumerate().filter(|(n, _)| !n.is_multiple_of(3)).collect();
        let rows: Vec<_> = known.iter().map(|(_, (name, m))| (name.as_str(), &which, *m)).collect();
        let mut cache = Cache::open(dir.path(), dir.path());
        cache.put(&rows, &links);
        // And every second is asked for.
        let asked: Vec<_> = names.iter().step_by(2).map(|name| (name.as_str(), Some(&which))).collect();
        assert_eq!(asked.len(), FEW);
        let few = cache.get(&asked, &links);
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), Some(&which))).collect();
        let many = cache.get(&all, &links);
        assert_eq!(few, many.iter().step_by(2).cloned().collect::<Vec<_>>());
        let expected = |n: usize| if n.is_multiple_of(3) { None } else { Some(of(n)) };
        assert!(many.iter().enumerate().all(|(n, found)| *found == expected(n)));
    }

    #[test]
    fn a_corrupt_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), vec![b'x'; 9000]).unwrap();
        let which = Which::at(dir.path()).unwrap();
        let links = LinksStamp::of(dir.path()).unwrap();
        let mut cache = Cache::open(dir.path(), dir.path());
        cache.put(&[("a", &which, &example())], &links);
        assert_eq!(cache.get(&[("a", Some(&which))], &links), [Some(example())]);
        assert!(dir.path().join("usage.sqlite.corrupt").exists());
    }
}
