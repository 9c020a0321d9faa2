//! The union over layers on a disk, without FUSE: what a request costs in this process.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nixview::layer::dir::{DirLower, DirUpper};
use nixview::union::{Io, Options, UnionFs};
use nixview::vfs::{Flow, Ino, Name, OpenFlags, Vfs};

const NAMES: u64 = 1000;
const MEBIBYTE: usize = 1 << 20;

type Fs = UnionFs<DirLower, DirUpper>;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// A lower with a directory of 1,000 names and a file of 1 MiB four levels down, and an empty upper.
fn view(dir: &Path) -> Fs {
    for sub in ["lower/many", "lower/a/b/c", "data", "work"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for n in 0..NAMES {
        std::fs::write(dir.join(format!("lower/many/name-{n}")), "").unwrap();
    }
    std::fs::write(dir.join("lower/a/b/c/file"), vec![7; MEBIBYTE]).unwrap();
    let open = |sub| File::open(dir.join(sub)).unwrap();
    let lower = DirLower::new(&open("lower")).unwrap();
    let upper = DirUpper::open(&open("data"), &open("work"), None).unwrap();
    UnionFs::new(lower, Some(upper), Options { io: Io::Cached, ..Options::default() }).unwrap()
}

fn find(fs: &Fs, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |dir, part| fs.lookup(dir, &name(part)).unwrap().unwrap().attr.ino)
}

fn bench(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let fs = view(dir.path());
    let deep = find(&fs, "a/b/c");
    let many = find(&fs, "many");
    let file = find(&fs, "a/b/c/file");

    let mut group = c.benchmark_group("union");
    group.sample_size(30).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let (there, missing) = (name("file"), name("missing"));
    group.bench_function("lookup", |b| {
        b.iter(|| {
            let found = fs.lookup(deep, &there).unwrap();
            fs.forget(found.unwrap().attr.ino, 1);
        });
    });
    group.bench_function("lookup of a missing name", |b| {
        b.iter(|| fs.lookup(deep, black_box(&missing)).unwrap())
    });
    group.bench_function("getattr", |b| b.iter(|| fs.getattr(black_box(file), None).unwrap()));
    group.bench_function("open and release", |b| {
        b.iter(|| {
            let opened = fs.open(file, OpenFlags(libc::O_RDONLY)).unwrap();
            fs.release(file, opened.handle);
        });
    });
    group.throughput(Throughput::Elements(NAMES));
    group.bench_function("readdir with attributes", |b| {
        b.iter(|| {
            let mut names = 0;
            fs.readdir(many, 0, false, &mut |_| {
                names += 1;
                Flow::Continue
            })
            .unwrap();
            assert_eq!(names, NAMES);
        });
    });
    group.throughput(Throughput::Bytes(MEBIBYTE as u64));
    let mut buffer = vec![0; MEBIBYTE];
    group.bench_function("read", |b| {
        b.iter(|| assert_eq!(fs.read(file, None, 0, &mut buffer).unwrap(), MEBIBYTE));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
