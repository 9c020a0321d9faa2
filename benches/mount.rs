//! A mounted view beside the plain directory, in the same run: what a client notices when everything is warm.
//!
//! `cargo bench --bench mount`, as root. The server is threads of this process, so each figure has the price of a
//! change of thread, not of process; the mounts are in a mount namespace of this process's own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a benchmark"
)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use criterion::Criterion;
use nix::sched::{CloneFlags, unshare};
use nixview::fuse::{self, Io, Session};
use nixview::layer::dir::{DirLower, DirUpper};
use nixview::sys::mount::{self, FuseOptions, Unmount};
use nixview::union::{self, UnionFs};
use rustix::mount::{MountPropagationFlags, mount_change};
use tempfile::{TempDir, tempdir};

fn main() {
    if !rustix::process::geteuid().is_root() || mount::open_fuse_device().is_err() {
        println!("skipped: mount: needs root and /dev/fuse");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();

    let store = tempdir().unwrap();
    fill(store.path());
    let file = File::open(store.path().join("file")).unwrap();
    let mut views = vec![View::new(store.path(), Io::Cached)];
    match fuse::probe_passthrough(file.as_fd()) {
        Ok(()) => views.insert(0, View::new(store.path(), Io::Passthrough)),
        Err(error) => println!("skipped: passthrough: {error}"),
    }
    for (what, work) in WORK {
        let mut group = criterion.benchmark_group(*what);
        group.bench_function("directory", |b| b.iter(|| work(store.path())));
        for view in &views {
            group.bench_function(view.io.name(), |b| b.iter(|| work(view.place.path())));
        }
        group.finish();
    }
    criterion.final_summary();
    drop(views);
    syncs();
}

/// How often each sync is timed, and the files of the store that are there for it.
const SYNCS: usize = 100;

/// What is timed, below a directory, the n-th time.
type NumberedWork = (&'static str, fn(&Path, usize));

const SYNCED: &[NumberedWork] = &[
    ("write 4 KiB and fsync", |root, _| change(&root.join("kept"))),
    ("create, write, fsync, fsync of the directory", |root, n| {
        let mut file = File::create(root.join(format!("new-{n}"))).unwrap();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_all().unwrap();
        File::open(root).unwrap().sync_all().unwrap();
    }),
    ("write to a file of the store and fsync", |root, n| change(&root.join(format!("file-{n}")))),
    ("chmod of a file of the store", |root, n| {
        fs::set_permissions(root.join(format!("other-{n}")), Permissions::from_mode(0o600)).unwrap();
    }),
];

fn change(path: &Path) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&[9; 4096]).unwrap();
    file.sync_all().unwrap();
}

/// What durability costs: medians of a plain directory, of a view, and of a view whose upper nobody needs after a crash,
/// all on one file system, in turns.
fn syncs() {
    let (store, plain) = (tempdir().unwrap(), tempdir().unwrap());
    for root in [store.path(), plain.path()] {
        for n in 0..SYNCS {
            for name in ["file", "other"] {
                fs::write(root.join(format!("{name}-{n}")), vec![7; 65536]).unwrap();
            }
        }
        fs::write(root.join("kept"), [7; 4096]).unwrap();
    }
    let durable = View::with(store.path(), Io::Passthrough, true);
    let temporary = View::with(store.path(), Io::Passthrough, false);
    let roots =
        [("directory", plain.path()), ("view", durable.place.path()), ("temporary", temporary.place.path())];
    println!("\nmedians of {SYNCS} in µs, and times that of the plain directory");
    for (what, work) in SYNCED {
        let mut times = [const { Vec::new() }; 3];
        for n in 0..SYNCS {
            for ((_, root), times) in roots.iter().zip(&mut times) {
                let start = Instant::now();
                work(root, n);
                times.push(start.elapsed());
            }
        }
        let mut medians = [Duration::ZERO; 3];
        for (median, times) in medians.iter_mut().zip(&mut times) {
            times.sort();
            *median = times.get(SYNCS / 2).copied().unwrap();
        }
        print!("{what}:");
        for ((name, _), median) in roots.iter().zip(&medians) {
            let ratio = median.as_secs_f64() / medians.first().unwrap().as_secs_f64();
            print!("  {name} {} ({ratio:.2})", median.as_micros());
        }
        println!();
    }
}

fn fill(root: &Path) {
    fs::write(root.join("file"), vec![7; 1 << 20]).unwrap();
    fs::copy("/bin/true", root.join("true")).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    for n in 0..1000 {
        fs::write(root.join(format!("dir/name-{n}")), "").unwrap();
    }
}

/// What is timed, below a directory.
type Work = (&'static str, fn(&Path));

const WORK: &[Work] = &[
    ("stat", |root| {
        assert!(fs::symlink_metadata(root.join("dir/name-500")).is_ok());
    }),
    ("stat of a missing name", |root| {
        assert!(fs::symlink_metadata(root.join("dir/missing")).is_err());
    }),
    ("open and close", |root| drop(File::open(root.join("dir/name-500")).unwrap())),
    ("open and read 1 MiB", |root| {
        let mut buffer = vec![0; 1 << 20];
        File::open(root.join("file")).unwrap().read_exact(&mut buffer).unwrap();
    }),
    ("list 1,000 names", |root| assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 1000)),
    ("run a program", |root| assert!(Command::new(root.join("true")).status().unwrap().success())),
];

/// A mounted, writable view of a directory.
struct View {
    io: Io,
    place: TempDir,
    server: Option<JoinHandle<std::io::Result<()>>>,
    _upper: TempDir,
}

impl View {
    fn new(store: &Path, io: Io) -> Self {
        Self::with(store, io, true)
    }

    fn with(store: &Path, io: Io, durable: bool) -> Self {
        let (place, upper) = (tempdir().unwrap(), tempdir().unwrap());
        let open = |name: &str| {
            let path: PathBuf = upper.path().join(name);
            fs::create_dir(&path).unwrap();
            File::open(path).unwrap()
        };
        let lower = DirLower::new(&mount::clone_read_only(store).unwrap()).unwrap();
        let layer = DirUpper::open(&open("data"), &open("work"), None).unwrap();
        let of_union = match io {
            Io::Passthrough => union::Io::Passthrough,
            Io::Cached => union::Io::Cached,
        };
        let options = union::Options { io: of_union, durable, ..union::Options::default() };
        let union = UnionFs::new(lower, Some(layer), options).unwrap();

        let device = mount::open_fuse_device().unwrap();
        let detached = mount::new_fuse(device.as_fd(), FuseOptions::default()).unwrap();
        let options = fuse::Options { io, threads: NonZeroUsize::new(2).unwrap() };
        let session = Session::new(Arc::new(union), device, options).unwrap();
        mount::attach(detached.as_fd(), mount::open_target(place.path()).unwrap().as_fd()).unwrap();
        let server = std::thread::spawn(|| session.run());
        Self { io, place, server: Some(server), _upper: upper }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(error) = mount::unmount(self.place.path(), Unmount::Abort) {
            eprintln!("{}: {error}", self.place.path().display());
        }
        if let Some(Err(_)) = self.server.take().map(JoinHandle::join) {
            eprintln!("the server panicked");
        }
    }
}
