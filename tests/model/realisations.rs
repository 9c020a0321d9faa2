//! Floating content-addressed outputs: their paths are in `Realisations` alone, under hashes of derivations.
//!
//! `tests/data/edge/ca` is the database and the derivations of a store in which Nix 2.8 built `expression.nix`; what is
//! expected is what its `nix-store -qR --include-outputs` says.
use std::path::{Path, PathBuf};

use nixview::closure::{ClosureError, Mode, outputs, resolve, why};
use nixview::store::{Database, DerivationFiles, Location, References, StorePath};
use rusqlite::Connection;

const USE: &str = "3fcjyj6i3286dcpmphp1vz9ysl0k9wv0-use-ca.drv";
const MULTI: &str = "w0ap0bkckzjhb6cj7a3rlgx1bydq63db-ca-multi.drv";
/// The derivation that was built in the end, with the input's output in the place of its placeholder.
const RESOLVED: &str = "x5049j18q3gbl0zi7djvisbikl8f3vc3-use-ca.drv";
const OF_USE: &str = "wl70mnln8nhydyk8a9fi2ayfwz4cbmby-use-ca";
const OF_MULTI: &str = "fksg2yli2sfdglhf2y111wxcbna3l3ng-ca-multi";
const DEV_OF_MULTI: &str = "r081j0xw1n7225g2adf86a9pp0hy3hdy-ca-multi-dev";

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/edge/ca")
}

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

/// That store again; its outputs are names alone.
fn store() -> (tempfile::TempDir, Location) {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("nix/store");
    std::fs::create_dir_all(root.path().join("nix/var/nix/db")).unwrap();
    std::fs::create_dir_all(&store).unwrap();
    for derivation in [USE, MULTI, RESOLVED] {
        std::fs::copy(data().join(derivation), store.join(derivation)).unwrap();
    }
    let sql = std::fs::read_to_string(data().join("database.sql")).unwrap();
    let location = Location::open(root.path()).unwrap();
    Connection::open(location.database_file().unwrap()).unwrap().execute_batch(&sql).unwrap();
    (root, location)
}

fn closure(source: &dyn References, root: &str, mode: Mode) -> Vec<String> {
    let closure = resolve(source, &[path(root)], mode).unwrap();
    closure.names().map(str::to_owned).collect()
}

#[test]
fn realised_outputs_are_found_as_nix_finds_them() {
    let (_root, location) = store();
    let database = Database::open(&location).unwrap();
    let files = DerivationFiles::new(location.clone(), Database::open(&location).unwrap());
    for source in [&database as &dyn References, &files] {
        assert_eq!(outputs(source, &path(USE), &[]).unwrap(), [path(OF_USE)]);
        assert_eq!(outputs(source, &path(MULTI), &["dev".to_owned()]).unwrap(), [path(DEV_OF_MULTI)]);
        let build = [USE, OF_MULTI, DEV_OF_MULTI, MULTI, OF_USE];
        assert_eq!(closure(source, USE, Mode::Build), build, "{}", source.origin());
        assert_eq!(closure(source, MULTI, Mode::Build), [OF_MULTI, DEV_OF_MULTI, MULTI]);
        assert_eq!(closure(source, OF_USE, Mode::Runtime), [OF_MULTI, DEV_OF_MULTI, OF_USE]);
        assert_eq!(closure(source, USE, Mode::Dev), [OF_MULTI, DEV_OF_MULTI]);
        let chain = why(source, &[path(USE)], Mode::Build, &path(OF_USE)).unwrap().unwrap();
        assert_eq!(chain, [path(USE), path(OF_USE)]);
    }
}

#[test]
fn an_output_without_a_realisation_is_not_built() {
    let (_root, location) = store();
    let change = |sql: &str| {
        let connection = Connection::open(location.database_file().unwrap()).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    change("DELETE FROM Realisations WHERE outputName = 'dev'");
    let database = Database::open(&location).unwrap();
    let missing = outputs(&database, &path(MULTI), &["dev".to_owned()]).unwrap_err();
    assert!(matches!(missing, ClosureError::NotBuilt { path: None, .. }), "{missing}");
    assert_eq!(outputs(&database, &path(MULTI), &["out".to_owned()]).unwrap(), [path(OF_MULTI)]);
    let dev = resolve(&database, &[path(USE)], Mode::Dev).unwrap_err();
    assert!(matches!(dev, ClosureError::NotBuilt { .. }), "{dev}");
    change("DROP TABLE Realisations");
    let database = Database::open(&location).unwrap();
    assert_eq!(closure(&database, MULTI, Mode::Build), [MULTI], "an older database has no such table");
}
