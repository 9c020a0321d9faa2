//! Containers that are started all at once, each with a `/nix` of its own: a view, or a bind mount for each store path.
//!
//! `cargo build --release -p nixview-helpers && cargo bench --bench containers [-- --containers N]`, as root. Timed is what
//! somebody waits for: from asking for the container until a program of its `/nix` has been executed in it. The ways take
//! turns, round by round. NIXVIEW names another program to measure, beside which its hook is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Closures of so many paths.
const SIZES: [usize; 3] = [50, 500, 2_000];
/// How often each way starts all its containers.
const ROUNDS: usize = 4;

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    if !root
        || ["/dev/fuse", "/bin/busybox", "/usr/bin/bwrap"].iter().any(|needed| !Path::new(needed).exists())
    {
        println!("skipped: containers: needs root, /dev/fuse, busybox-static and bubblewrap");
        return;
    }
    let many = std::env::args().skip_while(|a| a != "--containers").nth(1).map_or(50, |n| n.parse().unwrap());
    println!("{many} containers at once, {ROUNDS} rounds\n");
    println!("| closure, paths | way | p50, ms | p99, ms | PSS of nixview, kB each|");
    println!("|---|---|---|---|---|");
    for size in SIZES {
        Bench::new(size).run(many);
    }
}

/// The program that is measured.
fn program() -> PathBuf {
    std::env::var_os("NIXVIEW").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_nixview")), PathBuf::from)
}

/// How a container gets its `/nix`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    BwrapView,
    BwrapBinds,
    RuncHookDaemon,
    RuncHook,
    RuncBinds,
}

impl Way {
    const ALL: [Self; 5] =
        [Self::BwrapView, Self::BwrapBinds, Self::RuncHookDaemon, Self::RuncHook, Self::RuncBinds];

    fn title(self) -> &'static str {
        match self {
            Self::BwrapView => "bubblewrap: `nixview run`",
            Self::BwrapBinds => "bubblewrap: bind mounts, read-only",
            Self::RuncHookDaemon => "runc: hook, with the daemon",
            Self::RuncHook => "runc: hook, without",
            Self::RuncBinds => "runc: bind mounts, read-only",
        }
    }

    fn is_runc(self) -> bool {
        !matches!(self, Self::BwrapView | Self::BwrapBinds)
    }

    /// Both runtimes look through all mounts for each that they make: the time grows with the square of the paths, to
    /// minutes.
    fn is_for(self, size: usize) -> bool {
        match self {
            Self::BwrapBinds => size <= 50,
            Self::RuncBinds => size <= 500 && Path::new("/usr/sbin/runc").exists(),
            _ => !self.is_runc() || Path::new("/usr/sbin/runc").exists(),
        }
    }

    fn has_view(self) -> bool {
        !matches!(self, Self::BwrapBinds | Self::RuncBinds)
    }
}

/// What the container does: changes its `/nix` if it can, says that it runs, and stays.
const SCRIPT: &str = "if [ \"$0\" = w ]; then echo x > /nix/mine || exit 1; fi; echo up; read end";

/// A store, a root for containers, and where all of it lies.
struct Bench {
    dir: tempfile::TempDir,
    size: usize,
}

impl Bench {
    fn new(size: usize) -> Self {
        let bench = Self { dir: tempfile::Builder::new().prefix("nvb").tempdir().unwrap(), size };
        bench.make_store();
        let rootfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-images/oci/rootfs");
        assert!(Command::new(rootfs).arg(bench.path("rootfs")).status().unwrap().success());
        bench
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn text(&self, below: &str) -> String {
        self.path(below).into_os_string().into_string().unwrap()
    }

    /// A store of as many paths, the first of which has a shell and refers to all others, and a lock of that.
    fn make_store(&self) {
        let (paths, state) = (self.path("s/nix/store"), self.path("s/nix/var/nix/db"));
        for dir in [&paths, &state, &self.path("s/nix/var/nix/gcroots")] {
            fs::create_dir_all(dir).unwrap();
        }
        let mut db = rusqlite::Connection::open(state.join("db.sqlite")).unwrap();
        db.execute_batch(SCHEMA).unwrap();
        let change = db.transaction().unwrap();
        for number in 1..=self.size {
            let name = base_name(number);
            fs::create_dir(paths.join(&name)).unwrap();
            fs::write(paths.join(&name).join("file"), &name).unwrap();
            let id = i64::try_from(number).unwrap();
            let row = (id, format!("/nix/store/{name}"), format!("sha256:{}", "0".repeat(64)));
            let insert =
                "insert into ValidPaths(id, path, hash, registrationTime, narSize) values (?, ?, ?, 1, 400)";
            change.execute(insert, row).unwrap();
            change.execute("insert into Refs values (1, ?)", [id]).unwrap();
        }
        change.commit().unwrap();
        let shell = paths.join(base_name(1)).join("sh");
        fs::copy("/bin/busybox", &shell).unwrap();
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o555)).unwrap();
        let mut lock = self.nixview();
        lock.args(["lock", "--store"]).arg(&paths).arg("-o").arg(self.path("env.lock")).stdout(Stdio::null());
        assert!(lock.arg(format!("/nix/store/{}", base_name(1))).status().unwrap().success(), "nixview lock");
    }

    fn nixview(&self) -> Command {
        let mut command = Command::new(program());
        command.args(["--state-dir", &self.text("state"), "--runtime-dir", &self.text("run")]);
        command
    }

    fn run(&self, many: usize) {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); Way::ALL.len()];
        let mut memory = vec![0; Way::ALL.len()];
        for round in 0..ROUNDS {
            for (at, way) in Way::ALL.into_iter().enumerate() {
                if !way.is_for(self.size) {
                    continue;
                }
                let (waited, used) = self.round(way, many, round);
                times[at].extend(waited);
                memory[at] = used;
            }
        }
        for (at, way) in Way::ALL.into_iter().enumerate() {
            let times = &mut times[at];
            if times.is_empty() {
                continue;
            }
            times.sort_unstable();
            let percent = |p: usize| times[(times.len() * p / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
            let (p50, p99, pss) = (percent(50), percent(99), memory[at]);
            println!("| {} | {} | {p50:.0} | {p99:.0} | {pss} |", self.size, way.title());
        }
    }

    /// Starts all containers; answers how long each took, and the PSS of nixview's processes, for each in kB.
    fn round(&self, way: Way, many: usize, round: usize) -> (Vec<Duration>, u64) {
        let mut daemon = (way == Way::RuncHookDaemon).then(|| self.start_daemon());
        let ids: Vec<String> = (0..many).map(|number| format!("b{round}-{number}")).collect();
        if way.is_runc() {
            ids.iter().for_each(|id| self.bundle(way, id));
        }
        let barrier = Barrier::new(many);
        let running: Vec<(Duration, Child)> = std::thread::scope(|scope| {
            let start = |id| {
                barrier.wait();
                let begin = Instant::now();
                let mut child =
                    self.command(way, id).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let mut line = String::new();
                BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
                assert_eq!(line, "up\n", "{way:?} {id}");
                (begin.elapsed(), child)
            };
            let threads: Vec<_> = ids.iter().map(|id| scope.spawn(move || start(id))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let each = u64::try_from(many).unwrap();
        let pss = if way.has_view() { pss_of(&program()) / each } else { 0 };
        let mut times = Vec::new();
        for (waited, mut child) in running {
            times.push(waited);
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        if let Some(daemon) = &mut daemon {
            rustix::process::kill_process(
                rustix::process::Pid::from_child(daemon),
                rustix::process::Signal::TERM,
            )
            .unwrap();
            daemon.wait().unwrap();
        }
        let left = fs::read_dir(self.path("run/views")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "views that stay");
        (times, pss)
    }

    fn start_daemon(&self) -> Child {
        let child = self.nixview().arg("daemon").spawn().unwrap();
        while !self.path("run/control.sock").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn command(&self, way: Way, id: &str) -> Command {
        let shell = format!("/nix/store/{}/sh", base_name(1));
        if way.is_runc() {
            let mut command = Command::new("runc");
            command.args(["--root", &self.text("runc"), "run", "--bundle", &self.text(id), id]);
            return command;
        }
        let mut command = Command::new("bwrap");
        if way == Way::BwrapView {
            command = self.nixview();
            command.args([
                "run",
                "--closure",
                &self.text("env.lock"),
                "--store",
                &self.text("s"),
                "--",
                "bwrap",
            ]);
        }
        command.args(["--unshare-all", "--die-with-parent", "--ro-bind", &self.text("rootfs"), "/"]);
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
        if way == Way::BwrapView {
            command.args(["--bind", "/nix", "/nix"]);
        } else {
            command.args(["--tmpfs", "/nix"]);
            for number in 1..=self.size {
                let name = base_name(number);
                let target = format!("/nix/store/{name}");
                command.args(["--ro-bind", &self.text(&format!("s{target}")), &target]);
            }
        }
        command.args([shell.as_str(), "-c", SCRIPT, if way.has_view() { "w" } else { "r" }]);
        command
    }

    /// A bundle for runc, without what machines without all cgroups refuse.
    fn bundle(&self, way: Way, id: &str) {
        let mut config: Value = serde_json::from_str(include_str!("../test-images/oci/config.json")).unwrap();
        config["root"]["path"] = json!(self.text("rootfs"));
        let shell = format!("/nix/store/{}/sh", base_name(1));
        config["process"]["args"] = json!([shell, "-c", SCRIPT, if way.has_view() { "w" } else { "r" }]);
        if way.has_view() {
            let program = program().with_file_name("nixview-oci-hook");
            assert!(program.exists(), "cargo build --release -p nixview-helpers");
            let (state, runtime, store) = (self.text("state"), self.text("run"), self.text("s"));
            let lock = self.text("env.lock");
            let args = [
                "h",
                "--state-dir",
                &state,
                "--runtime-dir",
                &runtime,
                "--store",
                &store,
                "--closure",
                &lock,
            ];
            let hooks = json!([{ "path": program, "args": args }]);
            config["hooks"] = json!({ "createRuntime": hooks, "poststop": hooks });
        } else {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({ "destination": "/nix", "type": "tmpfs", "source": "tmpfs" }));
            for number in 1..=self.size {
                let target = format!("/nix/store/{}", base_name(number));
                let source = self.text(&format!("s{target}"));
                mounts.push(json!({ "destination": target, "type": "bind", "source": source, "options": ["bind", "ro"] }));
            }
        }
        fs::create_dir_all(self.path(id)).unwrap();
        fs::write(self.path(id).join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    }
}

/// The base name of a member: a valid hash part made from its number.
fn base_name(number: usize) -> String {
    let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
    let hash: String = (0..32).map(|k| char::from(alphabet[(number >> (5 * (k % 6))) % 32])).collect();
    format!("{hash}-member-{number}")
}

/// Proportional set size of all processes of a program, in kB.
fn pss_of(program: &Path) -> u64 {
    let program = fs::canonicalize(program).unwrap();
    let of = |dir: PathBuf| {
        fs::read_link(dir.join("exe")).ok().filter(|exe| *exe == program)?;
        let rollup = fs::read_to_string(dir.join("smaps_rollup")).ok()?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| of(entry.path())).sum()
}

const SCHEMA: &str = "
create table ValidPaths (id integer primary key autoincrement not null, path text unique not null, hash text not null,
  registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create table DerivationOutputs (drv integer not null, id text not null, path text not null, primary key (drv, id),
  foreign key (drv) references ValidPaths(id) on delete cascade);
create index IndexDerivationOutputs on DerivationOutputs(path);";
