//! The questions to the database, one function each, all inside one read transaction.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{PathInfo, Registered};
use crate::store::path::{StoreDir, StorePath};
use crate::store::references::ReferenceError;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum QueryError {
    Sqlite(rusqlite::Error),
    Unknown(StorePath),
    Malformed(String),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl QueryError {
    pub(super) fn told(self, origin: String) -> ReferenceError {
        match self {
            Self::Unknown(path) => ReferenceError::Unknown { path, origin },
            Self::Malformed(problem) => ReferenceError::Broken { origin, problem },
            Self::Sqlite(error) => {
                ReferenceError::Broken { origin, problem: format!("it cannot be queried: {error}") }
            }
        }
    }
}

/// The closure in one statement. `?1`: ids of the roots as a JSON list.
const REACH: &str = "WITH RECURSIVE reached(id) AS (
        SELECT value FROM json_each(?1)
        UNION SELECT Refs.reference FROM reached CROSS JOIN Refs ON Refs.referrer = reached.id
    )
    SELECT reached.id, path, narSize FROM reached LEFT JOIN ValidPaths ON ValidPaths.id = reached.id";

/// The same through the valid outputs of derivations.
const REACH_WITH_OUTPUTS: &str = "WITH RECURSIVE reached(id) AS (
        SELECT value FROM json_each(?1)
        UNION SELECT Refs.reference FROM reached CROSS JOIN Refs ON Refs.referrer = reached.id
        UNION SELECT ValidPaths.id FROM reached
            CROSS JOIN DerivationOutputs ON DerivationOutputs.drv = reached.id
            CROSS JOIN ValidPaths ON ValidPaths.path = DerivationOutputs.path
    )
    SELECT reached.id, path, narSize FROM reached LEFT JOIN ValidPaths ON ValidPaths.id = reached.id";

pub(super) fn check_schema(c: &Connection) -> Result<(), QueryError> {
    let other = |what: String| QueryError::Malformed(format!("it is not of Nix's schema 10: {what}"));
    for (table, statement) in [
        ("ValidPaths", "SELECT id, path, narSize, deriver FROM ValidPaths LIMIT 0"),
        ("Refs", "SELECT referrer, reference FROM Refs LIMIT 0"),
        ("DerivationOutputs", "SELECT drv, id, path FROM DerivationOutputs LIMIT 0"),
    ] {
        if !is_table(c, table)? {
            return Err(other(format!("{table} is no table")));
        }
        c.prepare(statement).map_err(|error| other(error.to_string()))?;
    }
    Ok(())
}

/// True if the database has a table of this name, and not a view, which may have rows without end, nor a virtual table.
pub(super) fn is_table(c: &Connection, name: &str) -> rusqlite::Result<bool> {
    let mut statement = c.prepare_cached(
        "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type = 'table' AND rootpage > 0",
    )?;
    statement.query_row([name], |row| Ok(row.get::<_, i64>(0)? == 1))
}

/// A store path in a column; the database's text is not trusted.
fn path_at(row: &Row<'_>, column: usize, dir: &StoreDir) -> Result<StorePath, QueryError> {
    match row.get_ref(column)? {
        ValueRef::Text(text) => dir.parse(text).map_err(|error| QueryError::Malformed(error.to_string())),
        _ => Err(QueryError::Malformed("a path is not a text".to_owned())),
    }
}

/// Rows whose path is none that Nix makes today: a whole list leaves them out and logs them once.
#[derive(Default)]
struct Odd {
    count: u64,
    first: Option<String>,
}

impl Odd {
    /// The path in a column; `None`, and counted, if it is odd.
    fn path_at(
        &mut self,
        row: &Row<'_>,
        column: usize,
        dir: &StoreDir,
    ) -> Result<Option<StorePath>, QueryError> {
        match path_at(row, column, dir) {
            Err(QueryError::Malformed(problem)) => {
                self.count += 1;
                self.first.get_or_insert(problem);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn log(self) {
        if let Some(first) = self.first {
            tracing::warn!(rows = self.count, %first, "rows of Nix's database that name no store path are left out");
        }
    }
}

fn size_at(row: &Row<'_>, column: usize) -> Result<Option<u64>, QueryError> {
    // 0 is what Nix stores for an unknown size.
    Ok(row.get::<_, Option<i64>>(column)?.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0))
}

pub(super) fn full(dir: &StoreDir, path: &StorePath) -> String {
    format!("{dir}/{path}")
}

pub(super) fn json<T: serde::Serialize>(all: &[T]) -> Result<String, QueryError> {
    serde_json::to_string(all).map_err(|error| QueryError::Malformed(error.to_string()))
}

pub(super) fn info(c: &Connection, dir: &StoreDir, path: &StorePath) -> Result<Option<PathInfo>, QueryError> {
    let mut statement = c.prepare_cached("SELECT id, narSize, deriver FROM ValidPaths WHERE path = ?1")?;
    let mut rows = statement.query([full(dir, path)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let deriver = match row.get_ref(2)? {
        ValueRef::Null | ValueRef::Text(b"") => None,
        // It need not be valid, so that an odd one spoils nothing.
        _ => match path_at(row, 2, dir) {
            Err(QueryError::Malformed(_)) => None,
            told => Some(told?),
        },
    };
    Ok(Some(PathInfo { id: row.get(0)?, nar_size: size_at(row, 1)?, deriver }))
}

fn collect(rows: &mut rusqlite::Rows<'_>, dir: &StoreDir) -> Result<Vec<Registered>, QueryError> {
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(Registered { id: row.get(0)?, path: path_at(row, 1, dir)?, nar_size: size_at(row, 2)? });
    }
    all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

pub(super) fn registered(
    c: &Connection,
    dir: &StoreDir,
    paths: &[StorePath],
) -> Result<Vec<Registered>, QueryError> {
    let list: Vec<String> = paths.iter().map(|path| full(dir, path)).collect();
    let mut statement = c.prepare_cached(
        "SELECT id, path, narSize FROM ValidPaths WHERE path IN (SELECT value FROM json_each(?1))",
    )?;
    collect(&mut statement.query([json(&list)?])?, dir)
}

/// Out of the index alone, which has them in order: a million paths lie in memory as they are walked through later.
pub(super) fn all_registered(c: &Connection, dir: &StoreDir) -> Result<Vec<(StorePath, i64)>, QueryError> {
    let mut statement = c.prepare_cached("SELECT path, id FROM ValidPaths ORDER BY path")?;
    let mut rows = statement.query([])?;
    let mut all: Vec<(StorePath, i64)> = Vec::new();
    let mut odd = Odd::default();
    while let Some(row) = rows.next()? {
        let Some(path) = odd.path_at(row, 0, dir)? else { continue };
        if let Some((last, _)) = all.last().filter(|(last, _)| *last >= path) {
            return Err(QueryError::Malformed(format!("its index of paths has {path} after {last}")));
        }
        all.push((path, row.get(1)?));
    }
    odd.log();
    Ok(all)
}

pub(super) fn references(
    c: &Connection,
    dir: &StoreDir,
    path: &StorePath,
) -> Result<Option<Vec<StorePath>>, QueryError> {
    let Some(info) = info(c, dir, path)? else { return Ok(None) };
    let mut statement = c.prepare_cached(
        "SELECT reference, path, narSize FROM Refs LEFT JOIN ValidPaths ON id = reference WHERE referrer = ?1",
    )?;
    let mut rows = statement.query([info.id])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        if matches!(row.get_ref(1)?, ValueRef::Null) {
            return Err(dangling(dir, path, row.get(0)?));
        }
        all.push(path_at(row, 1, dir)?);
    }
    all.sort_unstable();
    Ok(Some(all))
}

fn dangling(dir: &StoreDir, referrer: &StorePath, id: i64) -> QueryError {
    QueryError::Malformed(format!(
        "{dir}/{referrer} refers to row {id}, which does not exist; `nix-store --verify` repairs it"
    ))
}

pub(super) fn reach(
    c: &Connection,
    dir: &StoreDir,
    roots: &[StorePath],
    include_outputs: bool,
) -> Result<Vec<Registered>, QueryError> {
    let found = registered(c, dir, roots)?;
    for root in roots {
        if found.binary_search_by(|row| row.path.cmp(root)).is_err() {
            return Err(QueryError::Unknown(root.clone()));
        }
    }
    let ids: Vec<i64> = found.iter().map(|row| row.id).collect();
    let mut statement = c.prepare_cached(if include_outputs { REACH_WITH_OUTPUTS } else { REACH })?;
    let mut rows = statement.query([json(&ids)?])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        if matches!(row.get_ref(1)?, ValueRef::Null) {
            return Err(referrer_of(c, dir, id)?);
        }
        all.push(Registered { id, path: path_at(row, 1, dir)?, nar_size: size_at(row, 2)? });
    }
    all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// The error for a row that is referred to and missing.
fn referrer_of(c: &Connection, dir: &StoreDir, id: i64) -> Result<QueryError, QueryError> {
    let mut statement = c.prepare(
        "SELECT path FROM Refs JOIN ValidPaths ON id = referrer WHERE reference = ?1 ORDER BY path LIMIT 1",
    )?;
    let mut rows = statement.query([id])?;
    match rows.next()? {
        Some(row) => Ok(dangling(dir, &path_at(row, 0, dir)?, id)),
        None => Ok(QueryError::Malformed(format!("row {id} is referred to and does not exist"))),
    }
}

/// The outputs of a derivation; without the path of one that is odd.
pub(super) fn outputs(
    c: &Connection,
    dir: &StoreDir,
    derivation: &StorePath,
) -> Result<Vec<(String, Option<StorePath>)>, QueryError> {
    let mut statement = c.prepare_cached(
        "SELECT DerivationOutputs.id, DerivationOutputs.path FROM ValidPaths
         JOIN DerivationOutputs ON drv = ValidPaths.id WHERE ValidPaths.path = ?1",
    )?;
    let mut rows = statement.query([full(dir, derivation)])?;
    let mut all = Vec::new();
    let mut odd = Odd::default();
    while let Some(row) = rows.next()? {
        all.push((row.get(0)?, odd.path_at(row, 1, dir)?));
    }
    odd.log();
    Ok(all)
}

/// The path of a realised output of a content-addressed derivation; `id` is `sha256:HASH` of the derivation.
pub(super) fn realisation(
    c: &Connection,
    dir: &StoreDir,
    id: &str,
    output: &str,
) -> Result<Option<StorePath>, QueryError> {
    let mut statement = c.prepare_cached(
        "SELECT path FROM Realisations JOIN ValidPaths ON ValidPaths.id = outputPath
         WHERE drvPath = ?1 AND outputName = ?2",
    )?;
    let text: Option<String> = statement.query_row([id, output], |row| row.get(0)).optional()?;
    text.map(|t| dir.parse(t.as_bytes()).map_err(|e| QueryError::Malformed(e.to_string()))).transpose()
}

/// True if the store has content-addressed derivations that were built; older databases have no such table.
pub(super) fn has_realisations(c: &Connection) -> Result<bool, QueryError> {
    if !is_table(c, "Realisations")? {
        return Ok(false);
    }
    Ok(c.query_row("SELECT EXISTS (SELECT 1 FROM Realisations)", [], |row| row.get(0))?)
}

/// True if the paths of a derivation's outputs are known from its `.drv` file.
pub(super) fn has_outputs(c: &Connection, derivation: i64) -> Result<bool, QueryError> {
    let mut statement = c.prepare_cached("SELECT EXISTS (SELECT 1 FROM DerivationOutputs WHERE drv = ?1)")?;
    Ok(statement.query_row([derivation], |row| row.get(0))?)
}

/// How many valid paths refer to each path that is referred to; itself counts as any other.
pub(super) fn referrer_counts(c: &Connection, dir: &StoreDir) -> Result<Vec<(StorePath, u64)>, QueryError> {
    let mut statement = c.prepare(
        "SELECT path, count(*) FROM Refs CROSS JOIN ValidPaths ON ValidPaths.id = Refs.reference
         GROUP BY Refs.reference ORDER BY path",
    )?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    let mut odd = Odd::default();
    while let Some(row) = rows.next()? {
        let count: i64 = row.get(1)?;
        if let Some(path) = odd.path_at(row, 0, dir)? {
            all.push((path, count.unsigned_abs()));
        }
    }
    odd.log();
    Ok(all)
}

pub(super) fn valid_paths(c: &Connection, dir: &StoreDir) -> Result<Vec<StorePath>, QueryError> {
    let mut statement = c.prepare("SELECT path FROM ValidPaths ORDER BY path")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    let mut odd = Odd::default();
    while let Some(row) = rows.next()? {
        all.extend(odd.path_at(row, 0, dir)?);
    }
    odd.log();
    Ok(all)
}
