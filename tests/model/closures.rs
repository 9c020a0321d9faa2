//! Closures of a tiny store: every mode from every source of references, why, the cache, and damage.
use std::path::Path;
use std::time::{Duration, SystemTime};

use mini_store::MiniStore;
use nixview::closure::cache::Found;
use nixview::closure::{Cache, ClosureError, Mode, resolve, why};
use nixview::store::database::Access;
use nixview::store::recorded::Record;
use nixview::store::scan::cache::ScanCache;
use nixview::store::{
    Database, DerivationFiles, Location, Recorded, ReferenceError, References, StorePath, Unrecorded,
};
use rusqlite::Connection;

fn path(store: &MiniStore, label: &str) -> StorePath {
    store.path(label).parse().unwrap()
}

fn names(paths: &[StorePath]) -> Vec<&str> {
    paths.iter().map(StorePath::as_str).collect()
}

fn open(store: &MiniStore) -> (Location, Database) {
    let location = Location::open(store.root()).unwrap();
    let database = Database::open(&location).unwrap();
    (location, database)
}

pub(crate) fn write(store: &MiniStore, sql: &str) {
    let connection = Connection::open(store.database()).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// Files that were last written long ago, so that their stamp can be trusted.
pub(crate) fn settle(store: &MiniStore) {
    let file = std::fs::File::open(store.database()).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let started = SystemTime::now();
    while !nixview::store::database::Stamp::take(&store.database()).unwrap().is_settled() {
        assert!(started.elapsed().unwrap() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_built(store: &MiniStore, label: &str) -> bool {
    store.real(label).symlink_metadata().is_ok()
}

#[test]
fn every_source_tells_the_closures_of_all_members() {
    let store = MiniStore::temporary();
    let (location, database) = open(&store);
    let files = DerivationFiles::new(location.clone(), Database::open(&location).unwrap());
    let scanned = Unrecorded::open(&location, ScanCache::none()).unwrap();
    let mut recorded = Recorded::new("all of them");
    for valid in database.valid_paths().unwrap() {
        let references = database.references(&valid).unwrap();
        assert!(recorded.insert(valid, Record { references, ..Record::default() }));
    }
    let sources: [(&str, &dyn References); 4] =
        [("database", &database), ("files", &files), ("scan", &scanned), ("recorded", &recorded)];
    let labels: Vec<&str> = store.labels().filter(|label| is_built(&store, label)).collect();
    assert!(labels.len() > 15);
    for label in labels {
        let root = path(&store, label);
        for (kind, source) in sources {
            if kind == "scan" && scanned.is_superset(&root) {
                continue;
            }
            let told = resolve(source, std::slice::from_ref(&root), Mode::Runtime).unwrap();
            assert_eq!(names(told.paths()), store.closure(label), "{label} from {kind}");
            if root.is_derivation() && kind != "recorded" {
                let told = resolve(source, std::slice::from_ref(&root), Mode::Build).unwrap();
                assert_eq!(names(told.paths()), store.build_closure(label), "{label} to build from {kind}");
            }
        }
    }
}

#[test]
fn missing_paths_name_their_referrer() {
    let store = MiniStore::temporary();
    let (location, database) = open(&store);
    let stranger: StorePath = "00000000000000000000000000000000-x".parse().unwrap();
    let told = resolve(&database, std::slice::from_ref(&stranger), Mode::Runtime);
    assert!(
        matches!(told, Err(ClosureError::Source(ReferenceError::Unknown { ref path, .. })) if *path == stranger)
    );
    let mut recorded = Recorded::new("a list with a hole");
    let root = path(&store, "env-a");
    assert!(
        recorded.insert(root.clone(), Record { references: vec![stranger.clone()], ..Record::default() })
    );
    let said = resolve(&recorded, std::slice::from_ref(&root), Mode::Runtime).unwrap_err().to_string();
    assert_eq!(said, format!("{root} refers to {stranger}, which is not known to a list with a hole"));
    write(
        &store,
        &format!(
            "PRAGMA foreign_keys = off; INSERT INTO Refs SELECT id, 999999 FROM ValidPaths WHERE path = '{}'",
            store.logical("env-a")
        ),
    );
    let said = resolve(&database, std::slice::from_ref(&root), Mode::Runtime).unwrap_err().to_string();
    assert!(said.contains(root.as_str()) && said.contains("999999"), "{said}");
    let said = resolve(&database, std::slice::from_ref(&root), Mode::Dev).unwrap_err().to_string();
    assert!(said.contains("is not a derivation"), "{said}");
    std::fs::remove_file(location.database_file().unwrap()).unwrap();
    let said = Database::open(&location).err().unwrap().to_string();
    assert!(said.contains("db.sqlite"), "{said}");
}

/// Nix 2.4 to 2.18 made names that Nix refuses now, and a database may be damaged.
#[test]
fn a_row_with_an_odd_name_spoils_only_what_needs_it() {
    let store = MiniStore::temporary();
    let (_, database) = open(&store);
    let counts = database.referrer_counts().unwrap();
    let all = database.valid_paths().unwrap();
    let odd = ["/nix/store/00000000000000000000000000000000-.-x", "/nix/store/short", "/tmp", ""];
    for (id, name) in (900_000..).zip(odd) {
        write(
            &store,
            &format!(
                "INSERT INTO ValidPaths (id, path, hash, registrationTime) VALUES ({id}, '{name}', 'sha256:0', 1);
                 INSERT INTO Refs SELECT {id}, id FROM ValidPaths WHERE path = '{0}';
                 INSERT INTO Refs SELECT id, {id} FROM ValidPaths WHERE path = '{1}';
                 UPDATE ValidPaths SET deriver = '{name}' WHERE path = '{0}'",
                store.logical("env-a"),
                store.logical("env-b"),
            ),
        );
    }
    assert_eq!(database.valid_paths().unwrap(), all);
    assert_eq!(database.all_registered().unwrap().into_iter().map(|(path, _)| path).collect::<Vec<_>>(), all);
    let counted =
        |counts: &[(StorePath, u64)]| counts.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    let mut expected = counted(&counts);
    expected.push(path(&store, "env-a"));
    expected.sort();
    expected.dedup();
    assert_eq!(counted(&database.referrer_counts().unwrap()), expected);
    assert_eq!(database.info(&path(&store, "env-a")).unwrap().unwrap().deriver, None);
    let told = resolve(&database, &[path(&store, "env-a")], Mode::Runtime).unwrap();
    assert_eq!(names(told.paths()), store.closure("env-a"));
    let said = resolve(&database, &[path(&store, "env-b")], Mode::Runtime).unwrap_err().to_string();
    assert!(said.contains("is not a store path"), "{said}");
}

#[test]
fn why_tells_the_shortest_chain() {
    let letter = |c: char| -> StorePath { format!("{}-{c}", String::from(c).repeat(32)).parse().unwrap() };
    let mut all = Recorded::new("a test");
    for (from, to) in [('a', "cb"), ('b', "d"), ('c', "da"), ('d', "f"), ('f', "f"), ('g', "f"), ('x', "")] {
        let references = to.chars().map(letter).collect();
        assert!(all.insert(letter(from), Record { references, ..Record::default() }));
    }
    let chain = |roots: &str, target: char| {
        let roots: Vec<StorePath> = roots.chars().map(letter).collect();
        let chain = why(&all, &roots, Mode::Runtime, &letter(target)).unwrap();
        chain.map(|paths| paths.iter().map(|p| p.name().to_owned()).collect::<String>())
    };
    assert_eq!(chain("a", 'f').as_deref(), Some("abdf"), "of two chains the first in order");
    assert_eq!(chain("ag", 'f').as_deref(), Some("gf"));
    assert_eq!(chain("a", 'a').as_deref(), Some("a"));
    assert_eq!(chain("a", 'x'), None);
}

#[test]
fn the_cache_answers_only_while_it_holds() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let (location, database) = open(&store);
    let roots = [path(&store, "env-a")];
    let cache = Cache::open(state.path());
    settle(&store);
    let (first, how) = cache.find(&database, &roots, Mode::Runtime).unwrap();
    assert_eq!((how, names(first.paths())), (Found::Computed, store.closure("env-a")));
    assert_eq!(cache.find(&database, &roots, Mode::Runtime).unwrap(), (first.clone(), Found::Unchanged));
    assert_eq!(
        cache.closure_at(&location, &roots, Mode::Runtime).unwrap(),
        (first.clone(), Found::Unchanged)
    );
    // Something else is registered.
    write(
        &store,
        "INSERT INTO ValidPaths (path, hash, registrationTime)
         VALUES ('/nix/store/00000000000000000000000000000000-x', 'sha256:0', 1)",
    );
    assert_eq!(cache.find(&database, &roots, Mode::Runtime).unwrap(), (first.clone(), Found::Computed));
    // A member is collected and registered again: another row.
    let member = first.paths().iter().find(|p| **p != roots[0]).unwrap();
    write(
        &store,
        &format!(
            "PRAGMA foreign_keys = off; UPDATE ValidPaths SET id = 777777 WHERE path = '/nix/store/{member}'"
        ),
    );
    let told = cache.find(&database, &roots, Mode::Runtime);
    assert!(told.is_err(), "the old row is still referred to: {told:?}");
    assert_eq!(cache.count(), 1);
    assert_eq!(cache.prune(Duration::from_secs(3600)).unwrap(), 0, "it was used today");
    assert_eq!(cache.prune(Duration::ZERO).unwrap(), 1, "everything is older than nothing");
}

#[test]
fn a_fresh_stamp_is_not_trusted() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let (location, database) = open(&store);
    write(&store, "CREATE TABLE now (x)");
    let roots = [path(&store, "env-a")];
    let cache = Cache::open(state.path());
    assert_eq!(cache.find(&database, &roots, Mode::Runtime).unwrap().1, Found::Computed);
    assert!(cache.unchanged(&location, &roots, Mode::Runtime).is_none());
    assert_eq!(cache.find(&database, &roots, Mode::Runtime).unwrap().1, Found::Computed);
    assert_eq!(cache.count(), 0, "what cannot be an answer is not stored");
}

/// `nix-store --load-db` of a path that is valid keeps its row and replaces its references.
#[test]
fn other_references_of_the_same_rows_are_another_closure() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let (_, database) = open(&store);
    let (root, other) = (path(&store, "env-a"), path(&store, "env-b"));
    let roots = [root.clone()];
    settle(&store);
    let cache = Cache::open(state.path());
    let before = cache.closure(&database, &roots, Mode::Runtime).unwrap();
    assert!(!before.contains(&other));
    write(
        &store,
        &format!(
            "INSERT INTO Refs SELECT a.id, b.id FROM ValidPaths a, ValidPaths b
             WHERE a.path = '/nix/store/{root}' AND b.path = '/nix/store/{other}'"
        ),
    );
    settle(&store);
    for _ in 0..2 {
        let told = cache.closure(&database, &roots, Mode::Runtime).unwrap();
        assert_eq!(told, resolve(&database, &roots, Mode::Runtime).unwrap());
        assert!(told.contains(&other));
    }
    write(
        &store,
        &format!(
            "DELETE FROM Refs WHERE referrer = (SELECT id FROM ValidPaths WHERE path = '/nix/store/{root}')"
        ),
    );
    assert_eq!(cache.closure(&database, &roots, Mode::Runtime).unwrap().paths(), roots);
}

#[test]
fn a_build_closure_follows_what_becomes_valid() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let (_, database) = open(&store);
    let roots = [path(&store, "partial.drv")];
    let cache = Cache::open(state.path());
    settle(&store);
    let before = cache.closure(&database, &roots, Mode::Build).unwrap();
    assert_eq!(cache.find(&database, &roots, Mode::Build).unwrap().1, Found::Unchanged);
    write(
        &store,
        &format!(
            "INSERT INTO ValidPaths (path, hash, registrationTime) VALUES ('{}', 'sha256:0', 1)",
            store.logical("partial-doc")
        ),
    );
    let after = cache.closure(&database, &roots, Mode::Build).unwrap();
    assert!(!before.contains(&path(&store, "partial-doc")) && after.contains(&path(&store, "partial-doc")));
}

fn cached(state: &Path, database: &Database, roots: &[StorePath]) -> Found {
    Cache::open(state).find(database, roots, Mode::Runtime).unwrap().1
}

#[test]
fn a_cache_that_was_tampered_with_or_damaged_is_a_miss() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let (_, database) = open(&store);
    settle(&store);
    let roots = [path(&store, "env-a")];
    let file = state.path().join("closures.sqlite");
    assert_eq!(cached(state.path(), &database, &roots), Found::Computed);
    assert_eq!(cached(state.path(), &database, &roots), Found::Unchanged);
    for change in [
        "UPDATE closures SET names = substr(names, 1, 80)",
        "UPDATE closures SET nar_size = 7",
        "UPDATE closures SET stamp = 'db:'",
        "UPDATE closures SET names = 'text'",
        "UPDATE closures SET key = zeroblob(32)",
    ] {
        // Some changes do not fit the table: then nothing is changed, and the row holds.
        let changed = Connection::open(&file).unwrap().execute_batch(change).is_ok();
        let expected = if changed { Found::Computed } else { Found::Unchanged };
        assert_eq!(cached(state.path(), &database, &roots), expected, "{change}");
        assert_eq!(cached(state.path(), &database, &roots), Found::Unchanged, "after {change}");
    }
    std::fs::write(&file, "this is not a database, but long enough to be read as one").unwrap();
    assert_eq!(cached(state.path(), &database, &roots), Found::Computed);
    assert!(state.path().join("closures.sqlite.corrupt").exists());
    assert_eq!(cached(state.path(), &database, &roots), Found::Unchanged);
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_eq!(
        cached(state.path(), &database, &roots),
        Found::Computed,
        "of a newer nixview: worked without"
    );
    let nowhere = state.path().join("closures.sqlite/below/a/file");
    assert_eq!(cached(&nowhere, &database, &roots), Found::Computed, "no directory: worked without");
}

#[test]
fn two_writers_and_many_readers_get_the_same() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let expected = store.closure("env-b").join(" ");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (_, database) = open(&store);
                let cache = Cache::open(state.path());
                for _ in 0..20 {
                    let told = cache.closure(&database, &[path(&store, "env-b")], Mode::Runtime).unwrap();
                    assert_eq!(names(told.paths()).join(" "), expected);
                }
            });
        }
    });
}

fn listed(dir: &Path) -> Vec<String> {
    let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn the_database_is_read_beside_writers_and_nothing_is_left_behind() {
    let store = MiniStore::temporary();
    let dir = store.database().parent().unwrap().to_owned();
    let count = |database: &Database| database.valid_paths().unwrap().len();
    let insert = |c: &Connection, n: u32| {
        let path = format!("/nix/store/{n:032}-x");
        c.execute("INSERT INTO ValidPaths (path, hash, registrationTime) VALUES (?1, 'sha256:0', 1)", [path])
            .unwrap();
    };
    let before = listed(&dir);
    let (location, database) = open(&store);
    let all = count(&database);
    assert_eq!((database.access(), listed(&dir)), (Access::Immutable, before), "closed: the file alone");
    // A writer commits while we have it open, without a checkpoint.
    let writer = Connection::open(store.database()).unwrap();
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    writer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    insert(&writer, 1);
    assert_eq!((count(&database), database.access()), (all + 1, Access::Shared));
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    insert(&writer, 2);
    assert_eq!(count(&database), all + 1, "not committed");
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&database), all + 2);
    assert_eq!(count(&Database::open(&location).unwrap()), all + 2);
    drop(database);
    drop(writer);
    assert_eq!(count(&open(&store).1), all + 2, "the writer has left and merged its log");
    // A writer that was killed: its log is left, the database itself is old.
    let writer = Connection::open(store.database()).unwrap();
    writer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    insert(&writer, 3);
    let copy = tempfile::tempdir().unwrap();
    let killed = copy.path().join("nix/var/nix/db");
    std::fs::create_dir_all(&killed).unwrap();
    std::fs::create_dir_all(copy.path().join("nix/store")).unwrap();
    for name in ["db.sqlite", "db.sqlite-wal"] {
        std::fs::copy(dir.join(name), killed.join(name)).unwrap();
    }
    let database = Database::open(&Location::open(copy.path()).unwrap()).unwrap();
    assert_eq!(count(&database), all + 3);
}

#[test]
fn a_file_that_is_no_database_is_said_to_be_none() {
    let store = MiniStore::temporary();
    let location = Location::open(store.root()).unwrap();
    let said = |what: &str| {
        let error = Database::open(&location).err().unwrap_or_else(|| panic!("{what} is opened"));
        assert!(matches!(error, ReferenceError::Broken { .. }), "{what}: {error}");
        error.to_string()
    };
    write(&store, "ALTER TABLE Refs RENAME TO Other");
    assert!(said("another schema").contains("schema"));
    // A view of this kind has rows without end: a query of all of them never ends.
    write(
        &store,
        "CREATE VIEW Refs(referrer, reference) AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
         SELECT (SELECT min(id) FROM ValidPaths), x FROM n",
    );
    assert!(said("a view").contains("Refs is no table"));
    write(&store, "DROP VIEW Refs; CREATE VIRTUAL TABLE Refs USING fts5(referrer, reference)");
    assert!(said("a virtual table").contains("Refs is no table"));
    let whole = std::fs::read(store.database()).unwrap();
    std::fs::write(store.database(), "no database at all, only a text of some length").unwrap();
    assert!(said("a text").contains("not a database"));
    std::fs::write(store.database(), "").unwrap();
    said("an empty file");
    std::fs::write(store.database(), &whole[..whole.len() / 3]).unwrap();
    if let Ok(database) = Database::open(&location) {
        // A cut file may open; what it cannot tell is an error.
        assert!(resolve(&database, &[path(&store, "env-a")], Mode::Runtime).is_err());
    }
}
