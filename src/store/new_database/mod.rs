//! A new database of Nix's with given records: what Nix itself would have written, in one transaction.
//!
//! The same records give the same rows in the same order. Nothing tells when or where a path was registered.

mod schema;
#[cfg(test)]
mod tests;

use std::path::Path;

use rusqlite::{Connection, ErrorCode, Transaction, params};

use super::database::Records;
use super::path::StoreDir;

pub use schema::{CA_VERSION, VERSION};

/// The time of all registrations: 1 second after the epoch, as the times of all files in a store.
const REGISTERED: i64 = 1;

/// Why it could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write a Nix database: {0}")]
pub struct NewDatabaseError(#[from] rusqlite::Error);

impl NewDatabaseError {
    /// The error number of the system that it stands for, as far as SQLite tells.
    #[must_use]
    pub fn raw_os_error(&self) -> i32 {
        match self.0.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => libc::ENOSPC,
            Some(ErrorCode::ReadOnly) => libc::EROFS,
            Some(ErrorCode::PermissionDenied) => libc::EACCES,
            Some(ErrorCode::OutOfMemory) => libc::ENOMEM,
            _ => libc::EIO,
        }
    }
}

/// Writes the database `file`, which must not exist.
///
/// It is in WAL mode and cleanly closed, as Nix leaves it: nothing is beside it, and whoever opens it needs nothing else. It is
/// not synced.
///
/// # Errors
/// What SQLite says; the file is useless then.
pub fn write(file: &Path, dir: &StoreDir, records: &Records) -> Result<(), NewDatabaseError> {
    let mut connection = Connection::open(file)?;
    // Nobody sees it before it is whole: a crash leaves a draft.
    for (pragma, value) in [("journal_mode", "off"), ("synchronous", "off"), ("temp_store", "memory")] {
        connection.pragma_update(None, pragma, value)?;
    }
    connection.pragma_update(None, "page_size", 4096)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(schema::TABLES)?;
    fill(&transaction, dir, records)?;
    transaction.execute_batch(schema::INDEXES)?;
    if !records.realisations.is_empty() {
        transaction.execute_batch(schema::CA)?;
        realisations(&transaction, records)?;
    }
    transaction.commit()?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.close().map_err(|(_, error)| NewDatabaseError(error))
}

/// The `id` of a row at an index: they are counted from 1.
fn id(index: usize) -> i64 {
    i64::try_from(index).map_or(i64::MAX, |index| index.saturating_add(1))
}

fn fill(transaction: &Transaction<'_>, dir: &StoreDir, records: &Records) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare(
        "INSERT INTO ValidPaths (id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (index, record) in records.paths.iter().enumerate() {
        insert.execute(params![
            id(index),
            format!("{dir}/{}", record.path),
            record.hash,
            REGISTERED,
            record.deriver,
            record.nar_size,
            record.ultimate,
            record.signatures,
            record.ca
        ])?;
    }
    let mut insert = transaction.prepare("INSERT INTO Refs (referrer, reference) VALUES (?, ?)")?;
    for (referrer, reference) in &records.references {
        insert.execute([id(*referrer), id(*reference)])?;
    }
    let mut insert = transaction.prepare("INSERT INTO DerivationOutputs (drv, id, path) VALUES (?, ?, ?)")?;
    for output in &records.outputs {
        insert.execute(params![id(output.derivation), output.name, output.path])?;
    }
    Ok(())
}

fn realisations(transaction: &Transaction<'_>, records: &Records) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare(
        "INSERT INTO Realisations (id, drvPath, outputName, outputPath, signatures) VALUES (?, ?, ?, ?, ?)",
    )?;
    for (index, record) in records.realisations.iter().enumerate() {
        insert.execute(params![
            id(index),
            record.derivation,
            record.name,
            id(record.path),
            record.signatures
        ])?;
    }
    let mut insert =
        transaction.prepare("INSERT INTO RealisationsRefs (referrer, realisationReference) VALUES (?, ?)")?;
    for (index, record) in records.realisations.iter().enumerate() {
        for reference in &record.references {
            insert.execute([id(index), id(*reference)])?;
        }
    }
    Ok(())
}
