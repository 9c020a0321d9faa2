//! A thousand views of mixed closures at once: what a mount, the end of a view and `status` cost beside them, what memory a view
//! takes, and what is left.
//!
//! `cargo bench --bench many_views [-- --views N] [--backend overlay|fuse] [--locks DIR] [--nixview PROGRAM]`, as root. Without
//! locks a store is made, with closures of 5 to 300 members; the locks of a directory are of the store of this machine.
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

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

/// How many views have one line of the answer.
const BLOCK: usize = 100;
/// How often `status` is timed.
const ROUNDS: usize = 9;
/// Members of the closures that are made.
const SIZES: [usize; 12] = [5, 10, 15, 20, 25, 30, 50, 70, 90, 120, 200, 300];
/// Where the control files of FUSE are, on any host with systemd.
const CONTROL: &str = "/sys/fs/fuse/connections";

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: many_views: needs root and /dev/fuse");
        return;
    }
    // No other process sees the mounts, or keeps them.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    if fs::read_dir(CONTROL).is_ok_and(|mut all| all.next().is_none()) {
        Command::new("mount").args(["-t", "fusectl", "none", CONTROL]).status().ok();
    }
    let option = |name: &str| std::env::args().skip_while(|a| a != name).nth(1);
    let views = option("--views").map_or(1000, |n| n.parse().unwrap());
    let program = option("--nixview").unwrap_or_else(|| env!("CARGO_BIN_EXE_nixview").to_owned());
    let mut bench = Bench {
        dir: tempfile::Builder::new().prefix("nvm").tempdir().unwrap(),
        program,
        store: None,
        locks: Vec::new(),
    };
    match option("--locks") {
        Some(dir) => bench.take_locks(Path::new(&dir)),
        None => bench.make_locks(),
    }
    for backend in ["overlay", "fuse"] {
        if option("--backend").is_none_or(|only| only == backend) {
            bench.many(backend, views);
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    program: String,
    /// That of the locks, if it was made.
    store: Option<PathBuf>,
    locks: Vec<PathBuf>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for target in self.mounts().iter().rev() {
            Command::new("umount").arg("-l").arg(target).status().ok();
        }
    }
}

impl Bench {
    fn take_locks(&mut self, dir: &Path) {
        self.locks = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        self.locks.retain(|path| path.extension().is_some_and(|extension| extension == "lock"));
        self.locks.sort();
    }

    fn make_locks(&mut self) {
        let root = self.dir.path().join("store");
        let closures: Vec<_> = SIZES.iter().map(|size| (1000 + size, *size)).collect();
        made_store::make(&root, &closures);
        for (number, size) in closures {
            let lock = self.dir.path().join(format!("{size}.lock"));
            let mut command = self.nixview();
            command.arg("lock").arg("--store").arg(root.join("nix/store")).arg("-o").arg(&lock);
            let status =
                command.arg(format!("/nix/store/{}", made_store::base_name(number))).status().unwrap();
            assert!(status.success(), "nixview lock");
            self.locks.push(lock);
        }
        self.store = Some(root);
    }

    fn nixview(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.arg("--runtime-dir").arg(self.dir.path().join("run"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Where the leases of the store are.
    fn leases(&self) -> PathBuf {
        self.store.as_deref().unwrap_or(Path::new("/")).join("nix/var/nix/gcroots/nixview")
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let prefix = self.dir.path().to_str().unwrap_or("/nonexistent");
        let targets = table.lines().filter_map(|line| line.split(' ').nth(1));
        targets.filter(|target| target.starts_with(prefix)).map(str::to_owned).collect()
    }

    fn mount(&self, backend: &str, number: usize) -> Duration {
        let name = format!("many-{number}");
        let target = self.dir.path().join("views").join(&name);
        fs::create_dir_all(&target).unwrap();
        let mut command = self.nixview();
        command.args(["mount", "--tmp", "--backend", backend, "--name", &name, "--closure"]);
        command.arg(&self.locks[number % self.locks.len()]);
        if let Some(store) = &self.store {
            command.arg("--store").arg(store.join("nix/store"));
        }
        timed(command.arg(&target))
    }

    fn umount(&self, number: usize, by_name: bool) -> Duration {
        let name = format!("many-{number}");
        let target = self.dir.path().join("views").join(&name);
        let mut command = self.nixview();
        command.arg("umount");
        timed(if by_name { command.arg(name) } else { command.arg(target) })
    }

    fn many(&self, backend: &str, views: usize) {
        // What is made once for each closure is no part of a mount.
        for number in 0..self.locks.len() {
            self.mount(backend, number);
            self.umount(number, true);
        }
        let before = Memory::now();
        let mounts: Vec<_> = (0..views).map(|number| self.mount(backend, number)).collect();
        let after = Memory::now();
        let pids = self.pids(views);
        let pss: u64 = pids.iter().map(|pid| proportional(*pid)).sum();
        let status = |json: bool| {
            let once = |_| timed(self.nixview().arg("status").args(json.then_some("--json")));
            spread(&(0..ROUNDS).map(once).collect::<Vec<_>>())
        };
        let statuses = [status(false), status(true)];
        // Half of them by their directories, from the middle on, so that both are at any number of views.
        let umounts: Vec<_> = (0..views).map(|number| self.umount(number, number % 2 == 0)).collect();

        println!(
            "\n{backend}: {views} views of {} closures at once, ms: median (min–max)\n",
            self.locks.len()
        );
        println!("| views that are there | mount | umount by name | umount by directory |");
        println!("|---|---|---|---|");
        for block in 0..views.div_ceil(BLOCK) {
            let range = block * BLOCK..((block + 1) * BLOCK).min(views);
            // Those that are unmounted while as many are there.
            let ended: Vec<_> =
                umounts.iter().enumerate().rev().skip(range.start).take(range.len()).collect();
            let [by_name, by_directory] = [0, 1].map(|odd| {
                let these = ended.iter().filter(|(number, _)| number % 2 == odd);
                spread(&these.map(|(_, took)| **took).collect::<Vec<_>>())
            });
            let (first, last) = (range.start, range.end - 1);
            println!("| {first}–{last} | {} | {by_name} | {by_directory} |", spread(&mounts[range]));
        }
        let each = |kb: u64| kb / views.max(1) as u64;
        println!("\nstatus {} ms, status --json {} ms", statuses[0], statuses[1]);
        println!(
            "a view: {} kB PSS in {:.1} processes; kernel: {} kB of slab, {} kB of page tables, {} kB of stacks",
            each(pss),
            pids.len() as f64 / views as f64,
            each(after.slab.saturating_sub(before.slab)),
            each(after.page_tables.saturating_sub(before.page_tables)),
            each(after.stacks.saturating_sub(before.stacks)),
        );
        self.assert_gone(&pids);
    }

    /// The processes of all views.
    fn pids(&self, views: usize) -> Vec<u64> {
        let output = self.nixview().args(["status", "--json"]).stdout(Stdio::piped()).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let status = status.as_array().unwrap();
        assert_eq!(status.len(), views);
        let pids = status.iter().flat_map(|view| [view["pid"].as_u64(), view["server"].as_u64()]);
        pids.flatten().collect()
    }

    fn assert_gone(&self, pids: &[u64]) {
        let until = Instant::now() + Duration::from_secs(10);
        let lives = |pid: &&u64| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
        while pids.iter().any(|pid| lives(&pid)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let names = |dir: PathBuf| -> Vec<String> {
            let all = fs::read_dir(dir).into_iter().flatten();
            all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut left = self.mounts();
        left.extend(pids.iter().filter(lives).map(u64::to_string));
        left.extend(names(self.dir.path().join("run/views")));
        left.extend(names(self.dir.path().join("state/temporary")));
        left.extend(names(self.leases()).into_iter().filter(|name| name.starts_with("many-")));
        assert!(left.is_empty(), "left: {left:?}");
        println!("left: no mount, process, record, lease or temporary upper");
    }
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.status().unwrap();
    let took = start.elapsed();
    assert!(status.success(), "{command:?}");
    took
}

/// Memory of the kernel, in kB.
struct Memory {
    slab: u64,
    page_tables: u64,
    stacks: u64,
}

impl Memory {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let [slab, page_tables, stacks] =
            ["Slab:", "PageTables:", "KernelStack:"].map(|name| field(&text, name));
        Self { slab, page_tables, stacks }
    }
}

/// Proportional set size of a process, in kB.
fn proportional(pid: u64) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap(), "Pss:")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |at: usize| sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!("{:.1} ({:.1}–{:.1})", ms(sorted.len() / 2), ms(0), ms(sorted.len().saturating_sub(1)))
}
