//! A tiny store, locks of its environments, and directories of nixview's own: what the tests of whole commands share.
//!
//! Every mount is below one short temporary directory; dropping the scene takes away all that a failed test left there.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mini_store::MiniStore;
use nix::sched::{CloneFlags, unshare};
use nixview::closure::{Mode, resolve};
use nixview::lock::{Digest, EnvLock, LockedClosure, Root, Source};
use nixview::store::{Database, Location, StorePath};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use super::wait::{PATIENCE, eventually};

pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) store: MiniStore,
    /// What makes its views, if a command does not say; without it, what nixview takes.
    backend: Option<&'static str>,
}

/// What shows the files: the kernel or a server, asked for each name, or overlayfs.
pub(crate) const MODES: [&[&str]; 3] =
    [&["--backend=fuse", "--io=passthrough"], &["--backend=fuse", "--io=cached"], &["--backend=overlay"]];

/// A scene for each backend, one after the other, for what holds on both.
pub(crate) fn on_each_backend() -> impl Iterator<Item = Scene> {
    ["fuse", "overlay"].into_iter().map(Scene::on)
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        alone();
        let dir = tempfile::Builder::new().prefix("nv").tempdir_in("/tmp").unwrap();
        let store = MiniStore::build(&dir.path().join("s"));
        for target in ["a", "b"] {
            fs::create_dir(dir.path().join(target)).unwrap();
        }
        let scene = Self { dir, store, backend: None };
        for label in ["env-a", "env-b"] {
            scene.lock(label, |_| ());
        }
        scene
    }

    /// A scene whose views have this backend.
    pub(crate) fn on(backend: &'static str) -> Self {
        let mut scene = Self::new();
        scene.backend = Some(backend);
        scene
    }

    /// What makes its views, if that was chosen.
    pub(crate) fn backend(&self) -> Option<&'static str> {
        self.backend
    }

    /// True if its views have no server.
    pub(crate) fn by_overlayfs(&self) -> bool {
        self.backend == Some("overlay")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Writes `LABEL.lock`, as changed by `alter`.
    pub(crate) fn lock(&self, label: &str, alter: impl FnOnce(&mut EnvLock)) -> PathBuf {
        self.write_lock(label, Mode::Runtime, alter)
    }

    /// Writes `LABEL.lock` in another mode.
    pub(crate) fn lock_in(&self, label: &str, mode: Mode) -> PathBuf {
        self.write_lock(label, mode, |_| ())
    }

    fn write_lock(&self, label: &str, mode: Mode, alter: impl FnOnce(&mut EnvLock)) -> PathBuf {
        let location = Location::open(self.store.root()).unwrap();
        let root: StorePath = self.store.path(label).parse().unwrap();
        let database = Database::open(&location).unwrap();
        let closure = resolve(&database, std::slice::from_ref(&root), mode).unwrap();
        let mut lock = EnvLock {
            environment: None,
            extra_roots: Vec::new(),
            closure: LockedClosure {
                count: closure.count() as u64,
                digest: Digest::parse(&closure.digest()).unwrap(),
                nar_size: closure.nar_size(),
                references: None,
            },
            mode,
            name: label.to_owned(),
            only: None,
            roots: vec![Root::plain(root)],
            source: Source::new(nixview::lock::source::Kind::Paths, vec![label.to_owned()]),
            store_dir: location.dir.clone(),
            system: None,
        };
        alter(&mut lock);
        let file = self.path(&format!("{label}.lock"));
        lock.write(&file).unwrap();
        file
    }

    /// `nixview` with this scene's directories, ended after a minute.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).arg(env!("CARGO_BIN_EXE_nixview"));
        self.dirs(&mut command);
        command
    }

    /// `nixview` itself as the child, for signals.
    pub(crate) fn direct(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nixview"));
        self.dirs(&mut command);
        command
    }

    fn dirs(&self, command: &mut Command) {
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.path("run"));
        command.env_remove("NIXVIEW_LOG").stdin(Stdio::null());
        self.choose_backend(command);
    }

    /// Tells a command what to make views of.
    pub(crate) fn choose_backend(&self, command: &mut Command) {
        command.envs(self.backend.map(|backend| ("NIXVIEW_BACKEND", backend)));
    }

    pub(crate) fn nixview(&self, arguments: &[&str]) -> Ran {
        ran(self.command().args(arguments).output().unwrap())
    }

    /// `nixview mount` of an environment on a directory of the scene.
    pub(crate) fn mount(&self, label: &str, target: &str, more: &[&str]) -> Ran {
        let lock = self.path(&format!("{label}.lock"));
        let mut command = self.command();
        command.arg("mount").arg("--closure").arg(lock).arg("--store").arg(self.store.root());
        ran(command.args(more).arg(self.path(target)).output().unwrap())
    }

    /// `nixview run` of a shell command in a view of an environment.
    pub(crate) fn run(&self, label: &str, more: &[&str], script: &str) -> Ran {
        let lock = self.path(&format!("{label}.lock"));
        let mut command = self.command();
        command.arg("run").arg("--closure").arg(lock).arg("--store").arg(self.store.root());
        ran(command.args(more).args(["--", "/bin/sh", "-c", script]).current_dir("/").output().unwrap())
    }

    /// A shell command on the host, never for longer than half a minute.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "30", "/bin/sh", "-c", script]).current_dir(self.dir.path());
        self.choose_backend(&mut command);
        ran(command.stdin(Stdio::null()).output().unwrap())
    }

    /// The mounts below the scene.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let all = nixview::sys::mountinfo::mounts().unwrap();
        all.into_iter().map(|m| m.mount_point).filter(|p| p.starts_with(self.dir.path())).collect()
    }

    /// The pids of processes that have the scene's runtime directory on their command line.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let marker = self.path("run").into_os_string().into_string().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let mut line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // A process that becomes another program has none for a moment; a dead one has no program either.
            for _ in 0..1000 {
                if !line.is_empty() || fs::read_link(entry.path().join("exe")).is_err() {
                    break;
                }
                line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            }
            if line.split(|b| *b == 0).any(|argument| argument == marker.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }

    /// What `status` tells of a view.
    pub(crate) fn status(&self, name: &str) -> serde_json::Value {
        let ran = self.nixview(&["status", "--json", name]);
        let status: serde_json::Value =
            serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        status[0].clone()
    }

    /// The pid of a view's keeper.
    pub(crate) fn keeper(&self, name: &str) -> i32 {
        i32::try_from(self.status(name)["pid"].as_i64().unwrap()).unwrap()
    }

    /// The pid of a view's server.
    pub(crate) fn server(&self, name: &str) -> i32 {
        i32::try_from(self.status(name)["server"].as_i64().unwrap()).unwrap()
    }

    /// Kills keeper and server of a view, so that neither does anything for the other.
    pub(crate) fn kill_view(&self, name: &str) {
        self.kill_views([name]);
    }

    /// As [`kill_view`](Self::kill_view), of several: asking for one takes away what is dead.
    pub(crate) fn kill_views<const N: usize>(&self, names: [&str; N]) {
        for status in names.map(|name| self.status(name)) {
            let [keeper, server] =
                ["pid", "server"].map(|field| i32::try_from(status[field].as_i64().unwrap()).unwrap());
            kill_process(Pid::from_raw(keeper).unwrap(), Signal::STOP).unwrap();
            kill(server);
            kill(keeper);
        }
    }

    /// Where nixview's leases are.
    pub(crate) fn leases_dir(&self) -> PathBuf {
        self.store.state_dir().join("gcroots/nixview")
    }

    /// The directories of leases.
    pub(crate) fn leases(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.leases_dir()).into_iter().flatten().flatten();
        let mut leases: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        leases.sort();
        leases
    }

    /// The roots of the garbage collector that nixview has set: link and target.
    pub(crate) fn gc_roots(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut found = Vec::new();
        for lease in self.leases() {
            for entry in fs::read_dir(lease).unwrap().flatten().filter(|e| e.file_name() != "lease") {
                found.push((entry.path(), fs::read_link(entry.path()).unwrap()));
            }
        }
        found
    }

    /// Names in a directory below the scene, sorted; none if it is missing.
    pub(crate) fn names(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(below)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Everything that is to be seen of the store: names, kinds, modes, owners, times, contents.
    pub(crate) fn store_digest(&self) -> Vec<String> {
        let mut all = Vec::new();
        describe(&self.store.store_dir(), &mut all);
        all.sort();
        all
    }

    /// Fails if anything of a view is left: a mount, a process, a root, a record, a temporary upper.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.mounts(), Vec::<PathBuf>::new(), "mounts");
        // A keeper that has given its name back lives for another moment.
        eventually("the processes end", PATIENCE, || self.processes().is_empty());
        assert_eq!(self.leases(), Vec::<PathBuf>::new(), "roots of the collector");
        assert_eq!(self.names("run/views"), Vec::<String>::new(), "the registry");
        assert_eq!(self.names("state/temporary"), Vec::<String>::new(), "temporary uppers");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("views by {}", self.backend.unwrap_or("what nixview takes"));
        }
        for mount in self.mounts().iter().rev() {
            drop(nixview::sys::mount::unmount(mount, nixview::sys::mount::Unmount::Abort));
        }
        for pid in self.processes() {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
        }
        drop(mini_store::remove(self.store.root()));
    }
}

/// Puts this thread, and what it starts, into a mount namespace of its own, once, if it may: no namespace that another test
/// makes gets copies of its mounts, which would keep views that are unmounted here.
pub(crate) fn alone() {
    let namespace = |thread: &str| fs::read_link(format!("/proc/{thread}/ns/mnt")).unwrap();
    if namespace("thread-self") != namespace("self") || unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
}

/// Kills a process, and waits until it is gone with all that it held.
pub(crate) fn kill(pid: i32) {
    assert!(kill_if_there(pid), "there is no process {pid}");
}

/// As [`kill`]; false if there is no such process.
pub(crate) fn kill_if_there(pid: i32) -> bool {
    let pid = Pid::from_raw(pid).unwrap();
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    kill_process(pid, Signal::KILL).ok();
    let ended = nixview::sys::signals::wait_readable(&[process.as_fd()], Some(Duration::from_secs(10)));
    assert!(ended.unwrap().contains(&true), "process {pid:?} survives its end");
    true
}

pub(crate) fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Fails unless it failed with this code and said all of `told`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, told: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for text in told {
            assert!(self.err.contains(text), "{text:?} is not said: {self:?}");
        }
        self
    }
}

fn describe(path: &Path, all: &mut Vec<String>) {
    let found = fs::symlink_metadata(path).unwrap();
    let mut content = String::new();
    if found.is_symlink() {
        content = format!("{:?}", fs::read_link(path).unwrap());
    } else if found.is_file() {
        content = Digest::of(&fs::read(path).unwrap()).to_string();
    }
    let numbers =
        (found.mode(), found.uid(), found.gid(), found.nlink(), found.size(), found.mtime(), found.ctime());
    all.push(format!("{} {numbers:?} {content}", path.display()));
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            describe(&entry.unwrap().path(), all);
        }
    }
}
