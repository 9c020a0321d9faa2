//! The tables of the closure cache and their migrations.

use rusqlite::{Connection, TransactionBehavior};

/// `application_id` of the file: "nxvw".
const APPLICATION: i32 = 0x6e78_7677;

/// Each statement brings the file from the version of its index to the next; never changed once released.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE closures (
        key       BLOB PRIMARY KEY,    -- SHA-256 over mode, database and roots
        stamp     TEXT,                -- the database's identity, where nothing can have changed unnoticed since
        count     INTEGER NOT NULL,
        nar_size  INTEGER,
        names     BLOB NOT NULL,       -- base names, sorted, each followed by a newline
        ids       BLOB NOT NULL,       -- ValidPaths.id of each, little-endian, 8 bytes each
        digest    BLOB NOT NULL,       -- SHA-256 over all of the above
        used      INTEGER NOT NULL     -- day of the last use, seconds since 1970
    ) WITHOUT ROWID",
    // What is short comes first, what is long lies in a table (not in an index), and the names count in the digest by
    // their own. What was remembered is computed again.
    "DROP TABLE closures;
     CREATE TABLE closures (
        key       BLOB NOT NULL UNIQUE, -- SHA-256 over mode, database and roots
        stamp     TEXT,                 -- the database's identity, where nothing can have changed unnoticed since
        count     INTEGER NOT NULL,
        nar_size  INTEGER,
        used      INTEGER NOT NULL,     -- day of the last use, seconds since 1970
        digest    BLOB NOT NULL,        -- SHA-256 over key, stamp, count, nar_size, SHA-256 of the names, ids
        ids       BLOB NOT NULL,        -- ValidPaths.id of each, little-endian, 8 bytes each
        names     BLOB NOT NULL         -- base names, sorted, each followed by a newline
    )",
    // A row is an answer for one state of the database alone: equal ids do not mean equal references.
    "DROP TABLE closures;
     CREATE TABLE closures (
        key       BLOB NOT NULL UNIQUE, -- SHA-256 over mode, database and roots
        stamp     TEXT NOT NULL,        -- the database's identity
        count     INTEGER NOT NULL,
        nar_size  INTEGER,
        used      INTEGER NOT NULL,     -- day of the last use, seconds since 1970
        digest    BLOB NOT NULL,        -- SHA-256 over key, stamp, count, nar_size, SHA-256 of the names
        names     BLOB NOT NULL         -- base names, sorted, each followed by a newline
    )",
];

/// Why a file cannot be used as a cache.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("it was written by a newer nixview (version {0})")]
    Newer(i64),
    #[error("it is a database of another program")]
    Foreign,
}

fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// True if the tables are of the newest version.
pub(super) fn is_current(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(version(connection)? == newest())
}

/// Brings the tables to the newest version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    let newest = newest();
    if is_current(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, inside the lock: another process may have migrated meanwhile.
    let current = version(&transaction)?;
    if current > newest {
        return Err(SchemaError::Newer(current));
    }
    let application = transaction.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0))?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && tables > 0 {
        return Err(SchemaError::Foreign);
    }
    for step in MIGRATIONS.iter().skip(usize::try_from(current).unwrap_or(usize::MAX)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", newest)?;
    transaction.commit()?;
    Ok(())
}
