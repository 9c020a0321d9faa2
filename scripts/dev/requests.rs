//! What views by FUSE ask their server: requests by kind of real jobs, and the time for a name. See `scripts/dev-requests`.
//!
//! The requests are those that the kernel's tracepoint `fuse:fuse_request_send` shows of the view's connection; the time is that of
//! the server's threads on the processor (`schedstat`), and the client's beside it.
#![allow(clippy::print_stdout, reason = "a program for developers")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, statat};
use serde_json::Value;

#[path = "approaches/jobs.rs"]
mod jobs;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The environments that are counted if none is named.
const USUAL: [&str; 5] = ["base", "python", "c", "webpy", "media"];

/// How long after a job its last releases may come.
const REST: Duration = Duration::from_millis(300);

/// How many names are looked up that are missing.
const MISSING: usize = 5000;

/// About how many are that are there.
const FOUND: usize = 2000;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["inside", "count", trace, job @ ..] => count(Path::new(trace), job),
        ["inside", "time", nixview, work, path, names] => {
            time(Path::new(nixview), Path::new(work), Path::new(path), Path::new(names))
        }
        [nixview, work, table, names @ ..] => {
            all(Path::new(nixview), Path::new(work), Path::new(table), names)
        }
        _ => Err("usage: dev_requests NIXVIEW WORKDIR ENVS.TSV [ENVIRONMENT...]".into()),
    }
}

fn all(nixview: &Path, work: &Path, table: &Path, names: &[&str]) -> Result<()> {
    let table = fs::read_to_string(table)?;
    let path_of = |name: &str| {
        let mut columns = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let found = columns.find_map(|columns| match columns.as_slice() {
            [of, path, ..] if *of == name => Some((*path).to_owned()),
            _ => None,
        });
        found.ok_or(format!("no environment is named {name}"))
    };
    let this = std::env::current_exe()?;
    let trace = PathBuf::from(format!("/sys/kernel/tracing/instances/nixview-{}", std::process::id()));
    fs::create_dir(&trace).map_err(|why| format!("tracefs: {}: {why}", trace.display()))?;
    fs::write(trace.join("buffer_size_kb"), "8192")?;
    let counted = (|| -> Result<()> {
        for name in if names.is_empty() { &USUAL } else { names } {
            let view = View { nixview, work, name, path: path_of(name)? };
            view.prepare()?;
            for io in ["passthrough", "cached"] {
                println!("{name}, --io {io}");
                view.run(io, Command::new(&this).args(["inside", "count"]).arg(&trace).args(view.job()))?;
            }
            println!("{name}, time");
            let names = work.join(name).with_extension("names");
            fs::write(&names, names_below(Path::new(&view.path))?.join("\n"))?;
            let time = ["inside".as_ref(), "time".as_ref(), nixview, work, Path::new(&view.path), &names];
            view.run("auto", Command::new(&this).args(time))?;
        }
        Ok(())
    })();
    fs::remove_dir(&trace)?;
    counted
}

struct View<'a> {
    nixview: &'a Path,
    work: &'a Path,
    name: &'a str,
    path: String,
}

impl View<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.nixview);
        command.arg("--state-dir").arg(self.work.join("state"));
        command.arg("--runtime-dir").arg(self.work.join("run"));
        command
    }

    fn lock(&self) -> PathBuf {
        self.work.join(self.name).with_extension("lock")
    }

    fn root(&self) -> PathBuf {
        self.work.join(self.name).with_extension("root")
    }

    fn prepare(&self) -> Result<()> {
        done(self.command().args(["lock", &self.path, "-o"]).arg(self.lock()).stdout(Stdio::null()))?;
        if !self.root().exists() {
            let rootfs = concat!(env!("CARGO_MANIFEST_DIR"), "/test-images/oci/rootfs");
            done(Command::new(rootfs).arg(self.root()).arg(format!("{}/bin", self.path)))?;
        }
        Ok(())
    }

    /// The job in bubblewrap, as `scripts/thesis` starts it.
    fn job(&self) -> Vec<String> {
        let root = self.root().display().to_string();
        let bin = format!("{}/bin", self.path);
        let bash = format!("{bin}/bash");
        let words = [
            &["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", &root, "/"][..],
            &["--bind", "/nix", "/nix", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"],
            &["--chdir", "/tmp", "--setenv", "PATH", &bin, "--setenv", "HOME", "/tmp"],
            &["--setenv", "ENV", &self.path, &bash, "-c", jobs::of(self.name)],
        ];
        words.concat().into_iter().map(str::to_owned).collect()
    }

    /// Runs a command with a fresh view, on one processor with its server.
    fn run(&self, io: &str, inside: &Command) -> Result<()> {
        let view = self.command();
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(view.get_program()).args(view.get_args());
        command.args(["run", "--backend", "fuse", "--io", io, "--no-env", "--closure"]).arg(self.lock());
        done(command.arg("--").arg(inside.get_program()).args(inside.get_args()))
    }
}

fn done(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// Runs the job twice, and prints what each asked of the server of `/nix`.
fn count(trace: &Path, job: &[&str]) -> Result<()> {
    let [program, words @ ..] = job else { return Err("no job".into()) };
    let device = fs::metadata("/nix")?.dev();
    // As the kernel writes a device number: 20 bits of minor number.
    let connection = u64::from(libc::major(device)) << 20 | u64::from(libc::minor(device));
    let mine = format!("connection {connection} ");
    let event = trace.join("events/fuse/fuse_request_send/enable");
    for run in ["first run", "second run"] {
        fs::write(trace.join("trace"), "")?;
        fs::write(&event, "1")?;
        let ran = done(Command::new(program).args(words).stdout(Stdio::null()));
        std::thread::sleep(REST);
        fs::write(&event, "0")?;
        ran?;
        let mut kinds = BTreeMap::<String, usize>::new();
        for line in fs::read_to_string(trace.join("trace"))?.lines().filter(|line| line.contains(&mine)) {
            let kind = line.split("(FUSE_").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or("?");
            *kinds.entry(kind.to_lowercase()).or_default() += 1;
        }
        let total: usize = kinds.values().sum();
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("  {run}: {total} requests: {}", kinds.join(", "));
    }
    Ok(())
}

/// Prints the time for names that are missing in the environment's `bin`, and for the names of its tree, each looked up for the first time.
fn time(nixview: &Path, work: &Path, path: &Path, names: &Path) -> Result<()> {
    let view = View { nixview, work, name: "", path: String::new() };
    let views: Value = serde_json::from_slice(&view.command().args(["status", "--json"]).output()?.stdout)?;
    let server = views.pointer("/0/server").and_then(Value::as_u64).ok_or("no server")?;
    let top = File::open(path)?;
    let tell = |what: &str, names: &[String]| -> Result<()> {
        let (before, began) = (spent(server)?, Instant::now());
        let found =
            names.iter().filter(|name| statat(&top, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok());
        let found = found.count();
        let (took, spent) = (began.elapsed(), spent(server)?.saturating_sub(before));
        let each = |time: Duration| time.as_secs_f64() * 1e6 / names.len().max(1) as f64;
        println!(
            "  {what}: {found} of {}, {:.1} µs each, of which the server {:.1}",
            names.len(),
            each(took),
            each(spent)
        );
        Ok(())
    };
    let missing: Vec<String> = (0..MISSING).map(|number| format!("bin/missing{number}")).collect();
    tell("missing names", &missing)?;
    let names: Vec<String> = fs::read_to_string(names)?.lines().map(str::to_owned).collect();
    tell("names", &names)
}

/// The time that a process's threads were on a processor.
fn spent(pid: u64) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// All names below a directory, as paths from there, a directory before what is in it; at most so many.
fn names_below(top: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop().filter(|_| names.len() < FOUND) {
        for entry in fs::read_dir(top.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            names.extend(path.to_str().map(str::to_owned));
            if entry.file_type()?.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(names)
}
