//! What recording costs: views that are traced from their beginning, since a while, and not at all, in turns.
//!
//! `cargo bench --bench trace`, as root. Each view is served by a process of its own, as users have it. Medians of rounds, in which all
//! views have their turn, and their ratio to the view that is not traced.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mini_store::MiniStore;
use nix::sched::{CloneFlags, unshare};
use nixview::sys::mount;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const FILES: usize = 2000;
const ROUNDS: usize = 41;
const COLD_ROUNDS: usize = 15;

/// Bytes of each file.
const LENGTH: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Traced {
    No,
    FromStart,
    Later,
}

const TRACED: [(Traced, &str); 3] =
    [(Traced::No, "not traced"), (Traced::FromStart, "--trace"), (Traced::Later, "nixview trace")];

struct Place {
    dir: TempDir,
    store: MiniStore,
    below: PathBuf,
}

struct View<'p> {
    place: &'p Place,
    name: String,
    at: PathBuf,
    tracer: Option<Child>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("nv").tempdir_in("/tmp").unwrap();
        let store = MiniStore::build(&dir.path().join("s"));
        let share = store.real("data").join("share");
        let mode =
            |mode| fs::set_permissions(&share, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o755);
        for n in 0..FILES {
            fs::write(share.join(format!("file-{n}")), vec![7; LENGTH]).unwrap();
        }
        mode(0o555);
        let below = Path::new("store").join(store.path("data")).join("share");
        let place = Self { dir, store, below };
        let root = place.store.root().to_str().unwrap().to_owned();
        let env = place.store.logical("env-b");
        let lock = place.path("env.lock");
        place.nixview(&["lock", "--store", &root, &env, "-o", lock.to_str().unwrap()]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nixview"));
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.path("run"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn nixview(&self, arguments: &[&str]) {
        assert!(self.command().args(arguments).status().unwrap().success(), "{arguments:?}");
    }

    fn view(&self, io: &str, traced: Traced) -> View<'_> {
        let name = format!("{io}-{traced:?}").to_lowercase();
        let (at, file) = (self.path(&name), self.path(&format!("{name}.trace")));
        fs::create_dir_all(&at).unwrap();
        let (root, lock) = (self.store.root(), self.path("env.lock"));
        let mut command = self.command();
        command.args(["mount", "--no-daemon", "--tmp", "--io", io, "--name", &name, "--store"]).arg(root);
        command.arg("--closure").arg(lock);
        if traced == Traced::FromStart {
            command.arg("--trace").arg(&file);
        }
        assert!(command.arg(&at).status().unwrap().success(), "mount {name}");
        let mut view = View { place: self, name, at, tracer: None };
        if traced == Traced::Later {
            view.warm();
            let mut command = self.command();
            command.args(["trace", &view.name, "-o"]).arg(&file).stderr(Stdio::null());
            view.tracer = Some(command.spawn().unwrap());
            // Its draft is there once the view is being recorded.
            let name = format!(".{}.trace.", view.name);
            let is_there = |entry: fs::DirEntry| entry.file_name().to_str().unwrap().starts_with(&name);
            while !fs::read_dir(self.dir.path()).unwrap().any(|entry| is_there(entry.unwrap())) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        view
    }
}

impl View<'_> {
    fn warm(&self) {
        for (_, work) in WORK {
            work(&self.at.join(&self.place.below));
        }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(tracer) = &mut self.tracer {
            kill_process(Pid::from_child(tracer), Signal::INT).unwrap();
            tracer.wait().unwrap();
        }
        self.place.nixview(&["umount", &self.name]);
    }
}

type Work = (&'static str, fn(&Path));

const WORK: &[Work] = &[
    ("open and close 2,000 files", |dir| {
        for n in 0..FILES {
            drop(File::open(dir.join(format!("file-{n}"))).unwrap());
        }
    }),
    ("read 2,000 files of 4 KiB", |dir| {
        let mut bytes = [0; LENGTH];
        for n in 0..FILES {
            File::open(dir.join(format!("file-{n}"))).unwrap().read_exact(&mut bytes).unwrap();
        }
    }),
    ("stat 2,000 files", |dir| {
        for n in 0..FILES {
            dir.join(format!("file-{n}")).symlink_metadata().unwrap();
        }
    }),
];

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap()
}

fn row(what: &str, mut times: Vec<Vec<Duration>>) {
    let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
    let first = medians.first().unwrap().as_secs_f64();
    let cells = medians.iter().map(|median| {
        format!("{:.2} ms ({:.2})", median.as_secs_f64() * 1000.0, median.as_secs_f64() / first)
    });
    println!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

fn main() {
    if !rustix::process::geteuid().is_root() || mount::open_fuse_device().is_err() {
        println!("skipped: trace: needs root and /dev/fuse");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let place = Place::new();
    let names = TRACED.map(|(_, name)| name).join(" | ");
    println!("| | {names} |\n|---|---|---|---|");
    for io in ["passthrough", "cached"] {
        let views = TRACED.map(|(traced, _)| place.view(io, traced));
        views.iter().for_each(View::warm);
        for (what, work) in WORK {
            let mut times = vec![Vec::new(); views.len()];
            for round in 0..ROUNDS {
                // Nobody is always first.
                for at in (0..views.len()).map(|n| (n + round) % views.len()) {
                    let (view, times) = (views.get(at).unwrap(), times.get_mut(at).unwrap());
                    times.push(time(|| work(&view.at.join(&place.below))));
                }
            }
            row(&format!("{io}, warm: {what}"), times);
        }
        drop(views);
        // The first use of each file, which is what is recorded.
        let cold = [Traced::No, Traced::FromStart];
        let mut times = vec![Vec::new(); cold.len()];
        for _ in 0..COLD_ROUNDS {
            for (traced, times) in cold.iter().zip(&mut times) {
                let view = place.view(io, *traced);
                let dir = view.at.join(&place.below);
                let (_, open) = WORK.first().unwrap();
                times.push(time(|| open(&dir)));
            }
        }
        row(&format!("{io}, the first time: open and close 2,000 files"), times);
    }
}
