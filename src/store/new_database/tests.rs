#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::Path;

use mini_store::MiniStore;
use rusqlite::{Connection, OpenFlags};

use super::*;
use crate::store::database::Links;
use crate::store::database::{OutputRecord, RealisationRecord, uri};
use crate::store::{Database, Location, ReferenceError, StorePath};

/// All rows of a query as text, columns separated by `|`.
fn rows(file: &Path, sql: &str) -> Vec<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(file, "immutable=1"), flags).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let text = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
        let value = |n| row.get::<_, rusqlite::types::Value>(n);
        let values = (0..columns).map(value).collect::<rusqlite::Result<Vec<_>>>()?;
        let shown: Vec<String> = values
            .into_iter()
            .map(|value| match value {
                rusqlite::types::Value::Null => "-".to_owned(),
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            })
            .collect();
        Ok(shown.join("|"))
    };
    statement.query_map([], text).unwrap().map(|row| row.unwrap()).collect()
}

fn paths(store: &MiniStore, bases: &[&str]) -> Vec<StorePath> {
    let mut paths: Vec<StorePath> = bases.iter().map(|base| base.parse().unwrap()).collect();
    paths.sort();
    assert_eq!(paths.len(), bases.len());
    assert!(store.labels().count() > paths.len(), "not all");
    paths
}

/// The rows of the host's database about some paths, as they must be in the new one.
fn expected(store: &MiniStore, paths: &[StorePath], sql: &str) -> Vec<String> {
    let list: Vec<String> = paths.iter().map(|path| format!("'/nix/store/{path}'")).collect();
    rows(&store.database(), &sql.replace("MEMBERS", &list.join(",")))
}

#[test]
fn the_rows_are_those_of_the_host_for_members_and_no_others() {
    let store = MiniStore::temporary();
    let database = Database::open(&Location::open(store.root()).unwrap()).unwrap();
    for bases in [store.closure("env-a"), store.build_closure("env-a.drv"), store.closure("env-b")] {
        let paths = paths(&store, &bases);
        let records = database.records(&paths, Links::Closed).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("db.sqlite");
        write(&file, &StoreDir::default(), &records).unwrap();

        // A deriver that is no member is a name of something that is hidden.
        let columns =
            "path, hash, CASE WHEN deriver IN (MEMBERS) THEN deriver END, narSize, ultimate, sigs, ca";
        let theirs = format!("SELECT {columns}, 1 FROM ValidPaths WHERE path IN (MEMBERS) ORDER BY path");
        let ours = "SELECT path, hash, deriver, narSize, ultimate, sigs, ca, registrationTime FROM ValidPaths ORDER BY id";
        assert_eq!(rows(&file, ours), expected(&store, &paths, &theirs));
        let has_derivations = bases.iter().any(|base| base.ends_with(".drv"));
        assert_eq!(
            rows(&file, "SELECT DISTINCT deriver IS NOT NULL FROM ValidPaths").len() == 2,
            has_derivations
        );
        let named = rows(&store.database(), "SELECT path FROM ValidPaths");
        let hidden = named.iter().filter(|name| !paths.iter().any(|path| name.ends_with(path.as_str())));
        let bytes = std::fs::read(&file).unwrap();
        let outputs = expected(
            &store,
            &paths,
            "SELECT o.path FROM DerivationOutputs o JOIN ValidPaths v ON v.id = drv WHERE v.path IN (MEMBERS)",
        );
        for hidden in hidden.filter(|name| !outputs.contains(name)) {
            assert!(
                !bytes.windows(hidden.len()).any(|window| window == hidden.as_bytes()),
                "{hidden} is named"
            );
        }
        let refs = "SELECT a.path, b.path FROM Refs JOIN ValidPaths a ON a.id = referrer
            JOIN ValidPaths b ON b.id = reference";
        let theirs = format!("{refs} WHERE a.path IN (MEMBERS) ORDER BY a.path, b.path");
        let ours = rows(&file, &format!("{refs} ORDER BY a.path, b.path"));
        assert_eq!(ours, expected(&store, &paths, &theirs));
        assert!(!ours.is_empty());
        let outputs = "SELECT v.path, o.id, o.path FROM DerivationOutputs o JOIN ValidPaths v ON v.id = drv";
        let theirs = format!("{outputs} WHERE v.path IN (MEMBERS) ORDER BY v.path, o.id");
        let ours = rows(&file, &format!("{outputs} ORDER BY v.path, o.id"));
        assert_eq!(ours, expected(&store, &paths, &theirs));
        assert_eq!(ours.is_empty(), bases.iter().all(|base| !base.ends_with(".drv")));

        assert_eq!(rows(&file, "PRAGMA integrity_check"), ["ok"]);
        assert_eq!(rows(&file, "PRAGMA foreign_key_check"), [""; 0]);
        let header = std::fs::read(&file).unwrap();
        assert_eq!(header[18..20], [2, 2], "WAL, as Nix leaves it");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");
        let again = dir.path().join("again.sqlite");
        write(&again, &StoreDir::default(), &records).unwrap();
        assert_eq!(std::fs::read(again).unwrap(), header, "the same records make the same file");
    }
}

#[test]
fn what_is_not_valid_is_an_error_with_its_path() {
    let store = MiniStore::temporary();
    let database = Database::open(&Location::open(store.root()).unwrap()).unwrap();
    let mut all = paths(&store, &store.closure("env-a"));
    let missing: StorePath = store.path("never").parse().unwrap();
    all.push(missing.clone());
    all.sort();
    match database.records(&all, Links::Closed) {
        Err(ReferenceError::Unknown { path, .. }) => assert_eq!(path, missing),
        other => panic!("{other:?}"),
    }
    // A set that is not closed.
    let env: StorePath = store.path("env-a").parse().unwrap();
    let error = database.records(std::slice::from_ref(&env), Links::Closed).unwrap_err().to_string();
    assert!(error.contains(env.as_str()) && error.contains("no member"), "{error}");
    database.records(&[env], Links::Within).unwrap();
}

#[test]
fn the_digest_tells_all_that_differs() {
    let store = MiniStore::temporary();
    let database = Database::open(&Location::open(store.root()).unwrap()).unwrap();
    let paths = paths(&store, &store.closure("env-a"));
    let records = database.records(&paths, Links::Closed).unwrap();
    let digest = records.digest();
    assert_eq!(database.records(&paths, Links::Within).unwrap().digest(), digest);
    type Change = fn(&mut Records);
    let changes: [Change; 11] = [
        |r| r.references.truncate(1),
        |r| r.references[0].1 += 1,
        |r| {
            r.outputs.push(OutputRecord {
                derivation: 0,
                name: "out".to_owned(),
                path: "/nix/store/x".to_owned(),
            })
        },
        |r| r.paths[0].hash.push('0'),
        |r| r.paths[0].deriver = Some("/nix/store/x.drv".to_owned()),
        |r| r.paths[0].nar_size = None,
        |r| r.paths[0].ultimate = Some(7),
        |r| r.paths[0].signatures = Some("key:0".to_owned()),
        |r| r.paths[0].ca = Some("fixed".to_owned()),
        |r| drop(r.paths.pop()),
        |r| {
            r.realisations.push(RealisationRecord {
                derivation: "sha256:00".to_owned(),
                name: "out".to_owned(),
                path: 0,
                signatures: None,
                references: Vec::new(),
            });
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = records.clone();
        change(&mut other);
        assert_ne!(other.digest(), digest, "change {number}");
    }
}

#[test]
fn realisations_and_their_references_are_taken_over() {
    let record = |number: u32| crate::store::database::PathRecord {
        path: format!("{number:032}-x").parse().unwrap(),
        hash: "sha256:00".to_owned(),
        deriver: None,
        nar_size: Some(1),
        ultimate: None,
        signatures: None,
        ca: None,
    };
    let realisation = |path, references| RealisationRecord {
        derivation: format!("sha256:{path}"),
        name: "out".to_owned(),
        path,
        signatures: Some("key:1".to_owned()),
        references,
    };
    let records = Records {
        paths: vec![record(0), record(1)],
        realisations: vec![realisation(0, vec![]), realisation(1, vec![0])],
        ..Records::default()
    };
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("nix/var/nix/db")).unwrap();
    std::fs::create_dir_all(root.path().join("nix/store")).unwrap();
    write(&root.path().join("nix/var/nix/db/db.sqlite"), &StoreDir::default(), &records).unwrap();
    // Read as a host's, it says the same again; of one member alone only what concerns that.
    let database = Database::open(&Location::open(root.path()).unwrap()).unwrap();
    let all: Vec<StorePath> = records.paths.iter().map(|record| record.path.clone()).collect();
    assert_eq!(database.records(&all, Links::Closed).unwrap(), records);
    let second = database.records(&all[1..], Links::Closed).unwrap();
    assert_eq!(
        second.realisations,
        [RealisationRecord { path: 0, references: vec![], ..realisation(1, vec![]) }]
    );
}
