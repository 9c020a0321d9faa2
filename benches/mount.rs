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

use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

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
        let options = union::Options { io: of_union, ..union::Options::default() };
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
