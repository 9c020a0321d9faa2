//! Nix's own database (`db.sqlite`, schema 10), read-only.
//!
//! | the database | how it is read ([`Access`]) | what stays behind |
//! |---|---|---|
//! | closed by its last writer: no log, or an empty one | the file alone (`immutable=1`) | nothing |
//! | a writer has it open, or was killed, and its log can be used | `mode=ro` | the `-shm` and `-wal` that were there |
//! | the log has no index (`-shm`): its writer was killed long ago, or the disk is an image of another machine's | a private copy with its log | nothing |
//!
//! Without locks a writer is not kept out: every answer is given only if the [`Stamp`] is the same before and after the
//! query; else the database is opened again, and at last copied.

mod open;
mod query;
mod realised;
mod records;
mod stamp;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::derivation::{Derivation, Modulo};
use super::graph;
use super::location::Location;
use super::path::StorePath;
use super::references::{OutputPath, Reached, ReferenceError, References};

pub use open::{Access, uri};
pub use records::{Links, OutputRecord, PathRecord, RealisationRecord, Records};
pub use stamp::Stamp;

use open::{OpenError, Opened, Way};

/// What the database says of a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// `ValidPaths.id`: never given again, so a path that was collected and registered again has another one.
    pub id: i64,
    /// The size of its NAR in bytes.
    pub nar_size: Option<u64>,
    /// The derivation that it was built from, as far as it is known; it need not be valid.
    pub deriver: Option<StorePath>,
}

/// A valid path and its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The path.
    pub path: StorePath,
    /// `ValidPaths.id`.
    pub id: i64,
    /// The size of its NAR in bytes.
    pub nar_size: Option<u64>,
}

/// Nix's database of a store.
pub struct Database {
    location: Location,
    /// As people know it.
    file: PathBuf,
    way: Way,
    opened: Mutex<Opened>,
}

/// How often a query is tried that a writer disturbed, before the database is copied.
const ATTEMPTS: usize = 3;

impl Database {
    /// Opens the database of a store.
    ///
    /// # Errors
    /// [`ReferenceError::Broken`] if there is none, it cannot be read in any way, or is not of the known schema.
    pub fn open(location: &Location) -> Result<Self, ReferenceError> {
        let Some(file) = location.database_file() else {
            return Err(ReferenceError::Broken {
                origin: format!("the store {}", location.real.display()),
                problem: "it has no Nix database (no ../var/nix beside it)".to_owned(),
            });
        };
        Self::by(location, file.clone(), Way::by_path(file))
    }

    /// Opens the database of a store in `dir`, the directory of its file, whatever is mounted over that by now. A private
    /// copy, where one is needed, is a directory whose path begins with `scratch`, locked (flock(2)) while it is used.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(
        location: &Location,
        dir: &Arc<OwnedFd>,
        scratch: PathBuf,
    ) -> Result<Self, ReferenceError> {
        let file = location.database_file().unwrap_or_default();
        let way = Way::through(Arc::clone(dir), file.file_name().unwrap_or_default(), scratch);
        let way = way.map_err(|error| broken(&file, &error.into()))?;
        Self::by(location, file, way)
    }

    fn by(location: &Location, file: PathBuf, way: Way) -> Result<Self, ReferenceError> {
        let opened = open::open(&way).map_err(|error| broken(&file, &error))?;
        let database = Self { location: location.clone(), file, way, opened: Mutex::new(opened) };
        database.read(query::check_schema)?;
        Ok(database)
    }

    /// The store it belongs to.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How it is read at the moment.
    #[must_use]
    pub fn access(&self) -> Access {
        self.opened.lock().access
    }

    /// The identity of the database's files now.
    ///
    /// # Errors
    /// [`ReferenceError::Broken`] if they cannot be looked at.
    pub fn stamp(&self) -> Result<Stamp, ReferenceError> {
        Stamp::take(&self.way.file).map_err(|error| broken(&self.file, &error.into()))
    }

    /// What is recorded of a path; `None` if it is not valid.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn info(&self, path: &StorePath) -> Result<Option<PathInfo>, ReferenceError> {
        self.read(|c| query::info(c, &self.location.dir, path))
    }

    /// The rows of those of `paths` that are valid, sorted by path, in one query.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn registered(&self, paths: &[StorePath]) -> Result<Vec<Registered>, ReferenceError> {
        self.read(|c| query::registered(c, &self.location.dir, paths))
    }

    /// All valid paths, sorted, and the row of each. A row that names no store path is logged and left out.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn all_registered(&self) -> Result<Vec<(StorePath, i64)>, ReferenceError> {
        self.read(|c| query::all_registered(c, &self.location.dir))
    }

    /// Everything reachable from `roots` with its rows, sorted by path; with `include_outputs` also through the valid
    /// outputs of each derivation, as `nix-store -qR --include-outputs`.
    ///
    /// # Errors
    /// [`ReferenceError::Unknown`] for a root that is not valid; [`ReferenceError::Broken`] for a reference to a row
    /// that does not exist, naming the referrer.
    pub fn reach(
        &self,
        roots: &[StorePath],
        include_outputs: bool,
    ) -> Result<Vec<Registered>, ReferenceError> {
        self.read(|c| {
            if include_outputs {
                realised::reach(c, &self.location, roots)
            } else {
                query::reach(c, &self.location.dir, roots, false)
            }
        })
    }

    /// All that is recorded of `paths` (sorted, each once), in one transaction. Derivers that are not among them are left out.
    ///
    /// # Errors
    /// [`ReferenceError::Unknown`] for a path that is not valid; [`ReferenceError::Broken`] with [`Links::Closed`] for a
    /// reference to one that is not among them.
    pub fn records(&self, paths: &[StorePath], links: Links) -> Result<Records, ReferenceError> {
        self.read(|c| records::records(c, &self.location.dir, paths, links))
    }

    /// The fewest of `paths` (sorted, each once) from which references among them lead to all others, sorted. As roots they
    /// keep all from Nix's collector, which follows references alone.
    ///
    /// # Errors
    /// [`ReferenceError::Unknown`] for a path that is not valid.
    pub fn fewest_roots(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, ReferenceError> {
        let records = self.records(paths, Links::Within)?;
        let mut below = vec![Vec::new(); paths.len()];
        for (referrer, reference) in records.references {
            if let Some(below) = below.get_mut(referrer) {
                below.push(reference);
            }
        }
        Ok(graph::roots(&below).into_iter().filter_map(|node| paths.get(node).cloned()).collect())
    }

    /// How many valid paths refer to each path that is referred to, sorted by path; a path that refers to itself counts as any other.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn referrer_counts(&self) -> Result<Vec<(StorePath, u64)>, ReferenceError> {
        self.read(|c| query::referrer_counts(c, &self.location.dir))
    }

    /// All valid paths, sorted. A row that names no store path is logged and left out.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn valid_paths(&self) -> Result<Vec<StorePath>, ReferenceError> {
        self.read(|c| query::valid_paths(c, &self.location.dir))
    }

    /// Answers from one state of the database.
    fn read<T>(
        &self,
        ask: impl Fn(&Connection) -> Result<T, query::QueryError>,
    ) -> Result<T, ReferenceError> {
        let mut opened = self.opened.lock();
        for attempt in 0.. {
            let disturbed = match opened.access {
                Access::Immutable => !self.stamp()?.is_same(&opened.stamp),
                Access::Copied => attempt == 0 && !self.stamp()?.is_same(&opened.stamp),
                Access::Shared => false,
            };
            if !disturbed {
                let answer = consistent(&opened.connection, &ask);
                let trusted = match opened.access {
                    Access::Immutable => self.stamp()?.is_same(&opened.stamp),
                    // The log's index went out of use meanwhile.
                    Access::Shared => {
                        !matches!(&answer, Err(query::QueryError::Sqlite(e)) if open::needs_copy(e))
                    }
                    Access::Copied => true,
                };
                if trusted {
                    return answer.map_err(|error| error.told(self.origin()));
                }
            }
            *opened = match attempt {
                ..ATTEMPTS => open::open(&self.way),
                _ => open::copied(&self.way),
            }
            .map_err(|error| broken(&self.file, &error))?;
        }
        Err(broken(&self.file, &OpenError::Busy))
    }
}

/// Asks inside one read transaction, so that all statements see the same commit.
fn consistent<T>(
    connection: &Connection,
    ask: impl Fn(&Connection) -> Result<T, query::QueryError>,
) -> Result<T, query::QueryError> {
    let transaction = connection.unchecked_transaction()?;
    let answer = ask(&transaction);
    transaction.finish()?;
    answer
}

fn origin_of(file: &Path) -> String {
    format!("the Nix database {}", file.display())
}

fn broken(file: &Path, error: &OpenError) -> ReferenceError {
    ReferenceError::Broken { origin: origin_of(file), problem: format!("it cannot be read: {error}") }
}

impl References for Database {
    fn origin(&self) -> String {
        origin_of(&self.file)
    }

    fn references(&self, path: &StorePath) -> Result<Vec<StorePath>, ReferenceError> {
        let unknown = || ReferenceError::Unknown { path: path.clone(), origin: self.origin() };
        self.read(|c| query::references(c, &self.location.dir, path))?.ok_or_else(unknown)
    }

    fn is_valid(&self, path: &StorePath) -> Result<bool, ReferenceError> {
        Ok(self.info(path)?.is_some())
    }

    fn outputs(&self, derivation: &StorePath) -> Result<Vec<OutputPath>, ReferenceError> {
        let recorded = self.read(|c| query::outputs(c, &self.location.dir, derivation))?;
        // The file, too: it names the outputs that have no path before they are built.
        let mut outputs = match self.derivation(derivation) {
            Ok(file) => file.output_paths(),
            Err(_) if !recorded.is_empty() => Vec::new(),
            Err(error) => return Err(error),
        };
        for (name, path) in recorded {
            match outputs.iter_mut().find(|output| output.name == name) {
                Some(output) => output.path = path,
                None => outputs.push(OutputPath { name, path }),
            }
        }
        if outputs.iter().any(|output| output.path.is_none()) {
            let realised = self.read(|c| {
                if query::has_realisations(c)? {
                    realised::outputs(c, &self.location, &mut Modulo::new(&self.location), derivation)
                } else {
                    Ok(Vec::new())
                }
            })?;
            for (name, path) in realised {
                for output in outputs.iter_mut().filter(|output| output.name == name && output.path.is_none())
                {
                    output.path = Some(path.clone());
                }
            }
        }
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(outputs)
    }

    fn derivation(&self, derivation: &StorePath) -> Result<Derivation, ReferenceError> {
        Derivation::read(&self.location, derivation)
            .map_err(|error| error.into_reference_error(&self.location))
    }

    fn nar_size(&self, path: &StorePath) -> Result<Option<u64>, ReferenceError> {
        Ok(self.info(path)?.and_then(|info| info.nar_size))
    }

    fn closure(&self, roots: &[StorePath], include_outputs: bool) -> Result<Option<Reached>, ReferenceError> {
        let members = self.reach(roots, include_outputs)?;
        let nar_size = members.iter().map(|m| m.nar_size).sum();
        Ok(Some(Reached { paths: members.into_iter().map(|m| m.path).collect(), nar_size }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs;

    use mini_store::MiniStore;

    use super::*;

    #[test]
    fn a_database_is_read_through_its_directory_whatever_its_path_leads_to() {
        let store = MiniStore::temporary();
        let location = Location::open(store.root()).unwrap();
        let paths = Database::open(&location).unwrap().valid_paths().unwrap();
        let file = store.database();
        let dir = Arc::new(OwnedFd::from(fs::File::open(file.parent().unwrap()).unwrap()));
        let copies = tempfile::tempdir().unwrap();
        let scratch = copies.path().join("copy-");
        // Another directory is at the path now, as below a mount.
        let (nix, hidden) = (store.root().join("nix"), store.root().join("hidden"));
        fs::rename(&nix, &hidden).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "another").unwrap();
        assert!(Database::open(&location).is_err());
        let database = Database::open_in(&location, &dir, scratch.clone()).unwrap();
        assert_eq!((database.access(), database.valid_paths().unwrap()), (Access::Immutable, paths.clone()));
        drop(database);

        // With a log that is used, and with one whose writer is gone: that is copied to where it was said.
        let hidden = hidden.join("var/nix/db");
        let writer = Connection::open(hidden.join("db.sqlite")).unwrap();
        let sql = "PRAGMA journal_mode=WAL; UPDATE ValidPaths SET registrationTime = 7";
        writer.execute_batch(sql).unwrap();
        let database = Database::open_in(&location, &dir, scratch.clone()).unwrap();
        assert_eq!((database.access(), database.valid_paths().unwrap()), (Access::Shared, paths.clone()));
        drop(database);
        let left = tempfile::tempdir().unwrap();
        for name in ["db.sqlite", "db.sqlite-wal"] {
            fs::copy(hidden.join(name), left.path().join(name)).unwrap();
        }
        let dir = Arc::new(OwnedFd::from(fs::File::open(left.path()).unwrap()));
        let names = || fs::read_dir(copies.path()).unwrap().count();
        let database = Database::open_in(&location, &dir, scratch).unwrap();
        assert_eq!((database.access(), database.valid_paths().unwrap()), (Access::Copied, paths));
        assert_eq!(names(), 1);
        drop(database);
        assert_eq!(names(), 0);
        fs::remove_dir_all(&nix).unwrap();
        fs::rename(store.root().join("hidden"), &nix).unwrap();
    }
}
