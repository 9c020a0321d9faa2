//! Many views of one store: what a mount costs, what a mounted view costs, and who shares the page cache.
//!
//! `cargo bench --bench views [-- --views N]`, as root; NIXVIEW_BACKEND chooses what makes the views. Each figure stands beside the same one for fuse-overlayfs,
//! measured alternately in the same run; stores of several sizes are made for it, with a Nix database each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark"
)]

mod made_store;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use made_store::base_name;
use nixview::store::database::Stamp;

/// Closures of these many paths are mounted; the time per mount must not grow with them.
const SIZES: [usize; 4] = [10, 500, 5_000, 50_000];
/// Mounts of each kind and size that are timed.
const ROUNDS: usize = 15;
/// Size of the file that all views read, and how many read it.
const SHARED_FILE: u64 = 200 << 20;
const READERS: usize = 20;

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: views: needs root and /dev/fuse");
        return;
    }
    let views = std::env::args().skip_while(|a| a != "--views").nth(1).map_or(100, |n| n.parse().unwrap());
    let bench = Bench::new();
    println!("| closure, paths | nixview mount, ms: median (min–max) | fuse-overlayfs mount, ms | ratio |");
    println!("|---|---|---|---|");
    for size in SIZES {
        bench.time_mounts(&bench.store(size));
    }
    let store = bench.store(5_000);
    bench.many(&store, views);
    bench.page_cache(&store);
}

/// A store on disk with its database, and the lock of an environment that is all of it.
struct Store {
    root: PathBuf,
    lock: PathBuf,
    size: usize,
}

/// The directory that all of a run lies in; what is still mounted there at the end is taken away.
struct Bench {
    dir: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let prefix = self.dir.path().to_str().unwrap_or("/nonexistent");
        for target in
            table.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|t| t.starts_with(prefix))
        {
            Command::new("umount").args(["-l", target]).status().ok();
        }
    }
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("nvb").tempdir().unwrap() }
    }

    fn nixview(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nixview"));
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.arg("--runtime-dir").arg(self.dir.path().join("run"));
        command.stdout(Stdio::null());
        command
    }

    /// A store of `size` paths: the first refers to all others; each holds one small file, the first a large one.
    fn store(&self, size: usize) -> Store {
        let root = self.dir.path().join(format!("s{size}"));
        let store = Store { lock: root.join("env.lock"), root, size };
        if store.lock.exists() {
            return store;
        }
        made_store::make(&store.root, &[(1, size)]);
        let paths = store.root.join("nix/store");
        let mut big = File::create(paths.join(base_name(1)).join("big")).unwrap();
        std::io::copy(&mut std::io::repeat(7).take(SHARED_FILE), &mut big).unwrap();
        let mut command = self.nixview();
        command.args(["lock", "--store"]).arg(&paths).arg("-o").arg(&store.lock);
        assert!(
            command.arg(format!("/nix/store/{}", base_name(1))).status().unwrap().success(),
            "nixview lock"
        );
        // As on any host: nothing was registered in the last seconds, and what a mount found is remembered.
        let database = store.root.join("nix/var/nix/db/db.sqlite");
        while !Stamp::take(&database).unwrap().is_settled() {
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(2));
        store
    }

    fn mount(&self, store: &Store, name: &str) -> PathBuf {
        let target = self.dir.path().join(name);
        fs::create_dir_all(&target).unwrap();
        let mut command = self.nixview();
        command.args(["mount", "--name", name, "--tmp", "--store"]).arg(store.root.join("nix/store"));
        let status = command.arg("--closure").arg(&store.lock).arg(&target).status().unwrap();
        assert!(status.success(), "nixview mount {name}");
        target
    }

    fn umount(&self, name: &str) {
        let status = self.nixview().args(["umount", name]).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "nixview umount {name}");
    }

    /// A mount of fuse-overlayfs over the whole store; `None` where it is not installed.
    fn mount_overlayfs(&self, store: &Store, name: &str) -> Option<PathBuf> {
        let base = self.dir.path().join("overlay").join(name);
        let [upper, work, target] = ["u", "w", "m"].map(|d| base.join(d));
        for dir in [&upper, &work, &target] {
            fs::create_dir_all(dir).unwrap();
        }
        let lower = store.root.join("nix/store");
        let options = format!(
            "lowerdir={},upperdir={},workdir={},allow_other",
            lower.display(),
            upper.display(),
            work.display()
        );
        let status =
            Command::new("fuse-overlayfs").args(["-o", &options]).arg(&target).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success()).then_some(target)
    }

    fn time_mounts(&self, store: &Store) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let start = Instant::now();
            self.mount(store, "t");
            let took = start.elapsed();
            self.umount("t");
            let start = Instant::now();
            let other = self.mount_overlayfs(store, "t");
            let took_other = start.elapsed();
            if let Some(target) = other {
                assert!(Command::new("umount").arg(&target).status().unwrap().success());
                theirs.extend((round > 0).then_some(took_other));
            }
            ours.extend((round > 0).then_some(took));
        }
        let (other, ratio) = if theirs.is_empty() {
            ("not installed".to_owned(), "–".to_owned())
        } else {
            let ratio = median(&ours).as_secs_f64() / median(&theirs).as_secs_f64();
            (spread(&theirs), format!("{ratio:.2}"))
        };
        println!("| {} | {} | {other} | {ratio} |", store.size, spread(&ours));
    }

    /// Many views of one store beside as many mounts of fuse-overlayfs over it, all there at once.
    fn many(&self, store: &Store, views: usize) {
        let (mut ours, mut theirs, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for view in 0..views {
            let name = format!("v{view}");
            let start = Instant::now();
            self.mount(store, &name);
            ours.push(start.elapsed());
            let start = Instant::now();
            others.extend(self.mount_overlayfs(store, &name).inspect(|_| theirs.push(start.elapsed())));
        }
        let memory = sorted(&self.pids().into_iter().map(pss).collect::<Vec<_>>());
        assert_eq!(memory.len(), views, "one server per view");
        println!("\n{views} views of one store of {} paths, all mounted at once:", store.size);
        println!("nixview mount, ms: {}", spread(&ours));
        if !theirs.is_empty() {
            let ratio = median(&ours).as_secs_f64() / median(&theirs).as_secs_f64();
            println!("fuse-overlayfs mount, ms: {}; ratio {ratio:.2}", spread(&theirs));
        }
        let (middle, largest) = (memory[views / 2], memory[views - 1]);
        println!(
            "PSS of a keeper, and of a server where there is one: median {middle} kB, largest {largest} kB"
        );
        for target in others {
            assert!(Command::new("umount").arg(&target).status().unwrap().success());
        }
        for view in 0..views {
            self.umount(&format!("v{view}"));
        }
    }

    fn pids(&self) -> Vec<u64> {
        let output = self.nixview().args(["status", "--json"]).stdout(Stdio::piped()).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let views = status.get("views").unwrap_or(&status).as_array().unwrap();
        views.iter().filter_map(|v| v["pid"].as_u64()).collect()
    }

    fn page_cache(&self, store: &Store) {
        let file = format!("store/{}/big", base_name(1));
        let targets: Vec<PathBuf> = (0..READERS).map(|i| self.mount(store, &format!("c{i}"))).collect();
        read_all(&store.root.join("nix").join(&file));
        let before = cached();
        targets.iter().for_each(|target| read_all(&target.join(&file)));
        let grown = cached().saturating_sub(before) >> 10;
        println!(
            "{READERS} views read one file of {} MB: the page cache grew by {grown} MB",
            SHARED_FILE >> 20
        );
        (0..READERS).for_each(|i| self.umount(&format!("c{i}")));
    }
}

fn read_all(path: &Path) {
    let mut buffer = vec![0; 1 << 20];
    let mut file = File::open(path).unwrap();
    while file.read(&mut buffer).unwrap() > 0 {}
}

/// Page cache of the machine, in kB.
fn cached() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").unwrap(), "Cached:")
}

/// Proportional set size of a process, in kB.
fn pss(pid: u64) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap(), "Pss:")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn sorted<T: Ord + Copy>(values: &[T]) -> Vec<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted
}

fn median(times: &[Duration]) -> Duration {
    sorted(times)[times.len() / 2]
}

fn spread(times: &[Duration]) -> String {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let sorted = sorted(times);
    format!("{:.1} ({:.1}–{:.1})", ms(median(times)), ms(sorted[0]), ms(sorted[sorted.len() - 1]))
}
