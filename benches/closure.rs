//! Derivations and closures in this process: parsing a `.drv`, a closure computed and a closure remembered.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, SystemTime};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nixview::closure::cache::Found;
use nixview::closure::{Cache, Mode, resolve};
use nixview::store::database::Stamp;
use nixview::store::{Database, Derivation, Location, StorePath};
use rusqlite::Connection;

/// Paths of the database; all are in the closure.
const PATHS: u32 = 5000;

fn path(number: u32) -> String {
    format!("{number:032}-package-of-a-usual-length-{number}")
}

/// A derivation of about 30 kB, as large ones of nixpkgs are.
fn derivation() -> Vec<u8> {
    let inputs: Vec<String> =
        (0..200).map(|n| format!("(\"/nix/store/{}.drv\",[\"dev\",\"out\"])", path(n))).collect();
    let variables: Vec<String> = (0..60)
        .map(|n| format!("(\"variable{n:02}\",\"{}\")", "a value\\n of some length ".repeat(8)))
        .collect();
    format!(
        r#"Derive([("out","/nix/store/{}","","")],[{}],[],"x86_64-linux","/bin/sh",["-c","true"],[{}])"#,
        path(0),
        inputs.join(","),
        variables.join(",")
    )
    .into_bytes()
}

/// A store with a database in which each path refers to some of those after it; its last write is old enough for its
/// state to be remembered.
fn store(root: &Path) -> Location {
    std::fs::create_dir_all(root.join("nix/store")).unwrap();
    std::fs::create_dir_all(root.join("nix/var/nix/db")).unwrap();
    let location = Location::open(root).unwrap();
    let file = location.database_file().unwrap();
    let mut connection = Connection::open(&file).unwrap();
    let transaction = connection.transaction().unwrap();
    transaction
        .execute_batch(
            "CREATE TABLE ValidPaths (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE NOT NULL, deriver TEXT,
                 narSize INTEGER);
             CREATE TABLE Refs (referrer INTEGER, reference INTEGER, PRIMARY KEY (referrer, reference));
             CREATE TABLE DerivationOutputs (drv INTEGER, id TEXT, path TEXT, PRIMARY KEY (drv, id))",
        )
        .unwrap();
    for n in 0..PATHS {
        let full = format!("/nix/store/{}", path(n));
        transaction.execute("INSERT INTO ValidPaths VALUES (?1, ?2, NULL, 1000)", (n + 1, full)).unwrap();
        for other in [n, n + 1, 2 * n + 1, 2 * n + 2, n + 100] {
            let reference = other.min(PATHS - 1) + 1;
            transaction.execute("INSERT OR IGNORE INTO Refs VALUES (?1, ?2)", (n + 1, reference)).unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(connection);
    let old = SystemTime::now() - Duration::from_secs(60);
    std::fs::File::open(&file).unwrap().set_modified(old).unwrap();
    while !Stamp::take(&file).unwrap().is_settled() {
        std::thread::sleep(Duration::from_millis(50));
    }
    location
}

fn bench(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let location = store(dir.path());
    let roots: [StorePath; 1] = [path(0).parse().unwrap()];
    let text = derivation();

    let mut group = c.benchmark_group("closure");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("parse a derivation", |b| b.iter(|| Derivation::parse(black_box(&text)).unwrap()));

    group.throughput(Throughput::Elements(PATHS.into()));
    group.bench_function("cold", |b| {
        b.iter(|| {
            let database = Database::open(&location).unwrap();
            let closure = resolve(&database, &roots, Mode::Runtime).unwrap();
            assert_eq!(closure.count(), PATHS as usize);
            closure.digest()
        });
    });
    let state = dir.path().join("state");
    Cache::open(&state).closure_at(&location, &roots, Mode::Runtime).unwrap();
    group.bench_function("remembered", |b| {
        b.iter_batched(
            || Cache::open(&state),
            |cache| {
                let (closure, found) = cache.closure_at(&location, &roots, Mode::Runtime).unwrap();
                assert_eq!((closure.count(), found), (PATHS as usize, Found::Unchanged));
                closure.digest()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
