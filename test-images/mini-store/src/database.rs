//! Nix's database of valid paths, schema 10.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rusqlite::{Connection, params};

use crate::STORE_DIR;
use crate::builder::Member;
use crate::store_path::hex;

/// The tables, indexes and the trigger that Nix 2.8 makes when content-addressed derivations are off.
const SCHEMA: &str = "
    CREATE TABLE ValidPaths (
        id integer PRIMARY KEY AUTOINCREMENT NOT NULL, path text UNIQUE NOT NULL, hash text NOT NULL,
        registrationTime integer NOT NULL, deriver text, narSize integer, ultimate integer, sigs text, ca text);
    CREATE TABLE Refs (
        referrer integer NOT NULL, reference integer NOT NULL, PRIMARY KEY (referrer, reference),
        FOREIGN KEY (referrer) REFERENCES ValidPaths(id) ON DELETE CASCADE,
        FOREIGN KEY (reference) REFERENCES ValidPaths(id) ON DELETE RESTRICT);
    CREATE INDEX IndexReferrer ON Refs(referrer);
    CREATE INDEX IndexReference ON Refs(reference);
    CREATE TRIGGER DeleteSelfRefs BEFORE DELETE ON ValidPaths BEGIN
        DELETE FROM Refs WHERE referrer = old.id AND reference = old.id; END;
    CREATE TABLE DerivationOutputs (
        drv integer NOT NULL, id text NOT NULL, path text NOT NULL, PRIMARY KEY (drv, id),
        FOREIGN KEY (drv) REFERENCES ValidPaths(id) ON DELETE CASCADE);
    CREATE INDEX IndexDerivationOutputs ON DerivationOutputs(path);";

/// Writes `STATE/db/db.sqlite` and `STATE/db/schema`, and the empty directories that Nix expects beside them.
///
/// The file is in WAL mode and cleanly closed, as Nix leaves it.
///
/// # Errors
/// If the directory exists, or what SQLite says.
pub fn write(state: &Path, members: &BTreeMap<String, Member>) -> io::Result<()> {
    for dir in ["gcroots", "profiles", "temproots"] {
        fs::create_dir_all(state.join(dir))?;
    }
    fs::create_dir(state.join("db"))?;
    fs::write(state.join("db/schema"), "10")?;
    fill(&state.join("db/db.sqlite"), members).map_err(io::Error::other)
}

fn fill(file: &Path, members: &BTreeMap<String, Member>) -> rusqlite::Result<()> {
    let mut connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    let full = |label: &String| format!("{STORE_DIR}/{}", members[label].base);
    let mut ids = BTreeMap::new();
    for (label, member) in members.iter().filter(|(_, member)| member.tree.is_some()) {
        let hash = format!("sha256:{}", hex(&member.nar.sha256));
        let ultimate = member.deriver.is_some().then_some(1);
        transaction.execute(
            "INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, ca)
             VALUES (?, ?, 1, ?, ?, ?, ?)",
            params![
                full(label),
                hash,
                member.deriver.as_ref().map(full),
                member.nar.size as i64,
                ultimate,
                member.ca
            ],
        )?;
        ids.insert(label, transaction.last_insert_rowid());
    }
    for (label, id) in &ids {
        for reference in &members[*label].references {
            transaction.execute("INSERT INTO Refs VALUES (?, ?)", params![id, ids[reference]])?;
        }
        for (output, of) in &members[*label].outputs {
            transaction
                .execute("INSERT INTO DerivationOutputs VALUES (?, ?, ?)", params![id, output, full(of)])?;
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}
