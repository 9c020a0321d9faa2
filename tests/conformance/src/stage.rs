//! Where a suite is run: one file system over the lower, mounted when it is needed and again when it had to be ended.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use mini_store::MiniStore;
use nixview::sys::mount::{Unmount, unmount};
use nixview::sys::mountinfo::mount_at;
use serde_json::Value;

use crate::options::Options;
use crate::outcome::{Case, Outcome};
use crate::run::{Ran, run};

/// For what takes no time of its own: a mount, an unmount, a listing.
const SHORT: Duration = Duration::from_secs(60);

/// What is under test, and what it is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Fs {
    /// A copy of the lower in a plain directory
    Directory,
    /// The kernel's overlayfs
    Overlayfs,
    /// fuse-overlayfs
    FuseOverlayfs,
    /// A view whose files are read by the kernel
    Passthrough,
    /// A view whose files are read by the server
    Cached,
    /// A view that the kernel's overlayfs makes, without a server
    Overlay,
}

impl Fs {
    pub(crate) const ALL: [Self; 6] = [
        Self::Directory,
        Self::Overlayfs,
        Self::FuseOverlayfs,
        Self::Passthrough,
        Self::Cached,
        Self::Overlay,
    ];
    /// Those of nixview.
    pub(crate) const VIEWS: [Self; 3] = [Self::Passthrough, Self::Cached, Self::Overlay];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Overlayfs => "overlayfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
            Self::Overlay => "overlay",
        }
    }

    /// The `backend` and the `io` that `nixview status --json` reports of such a view; `None` for a file system that
    /// is no view.
    fn view(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Directory | Self::Overlayfs | Self::FuseOverlayfs => None,
            Self::Passthrough => Some(["fuse", "passthrough"]),
            Self::Cached => Some(["fuse", "cached"]),
            Self::Overlay => Some(["overlay", "kernel"]),
        }
    }
}

/// One file system and the directories that it needs.
pub(crate) struct Stage<'a> {
    fs: Fs,
    root: PathBuf,
    store: &'a MiniStore,
    pub(crate) options: &'a Options,
    runs: usize,
    mounts: usize,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(fs: Fs, work: &Path, store: &'a MiniStore, options: &'a Options) -> io::Result<Self> {
        let root = work.join(fs.name());
        let stage = Self { fs, root, store, options, runs: 0, mounts: 0 };
        make_directory(&stage.root)?;
        for below in ["m", "u", "w", "d", "log", "scratch"] {
            make_directory(&stage.root.join(below))?;
        }
        Ok(stage)
    }

    /// All that belongs to it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The top of the file system.
    pub(crate) fn top(&self) -> PathBuf {
        self.root.join("m")
    }

    /// The directory in it that suites work in: empty at first, of mode 0755.
    pub(crate) fn place(&self) -> PathBuf {
        self.top().join("t")
    }

    /// A directory on the plain file system.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// Runs a program in [`Self::place`] of the mounted file system. If it does not end in its time the file system is ended
    /// with it, and the next program finds a new one.
    pub(crate) fn run(&mut self, command: &mut Command, limit: Duration) -> io::Result<Ran> {
        if !self.is_mounted()? {
            self.mount()?;
        }
        let place = self.place();
        let ran = self.bounded(command.env("PLACE", place).current_dir(&self.root), limit)?;
        if ran.status.is_none() {
            self.begin_again(&ran)?;
        }
        Ok(ran)
    }

    /// Unmounts; a case, if that does not go as it should.
    pub(crate) fn close(&mut self) -> io::Result<Option<Case>> {
        if !self.is_mounted()? {
            return Ok(None);
        }
        let mut command = match self.fs.view() {
            Some(_) => self.nixview(&["umount"]),
            None => Command::new("umount"),
        };
        let ran = self.bounded(command.arg(self.top()), SHORT)?;
        if self.is_mounted()? {
            unmount(&self.top(), Unmount::Abort)?;
        } else if ran.is_ok() {
            return Ok(None);
        }
        Ok(Some(Case::new("unmount", Outcome::Failed(ran.reason()))))
    }

    /// Ends the file system, whose state is not known after this program; the next one finds a new one.
    pub(crate) fn begin_again(&mut self, failed: &Ran) -> io::Result<()> {
        eprintln!("   {}: mounted anew after {}", self.fs.name(), failed.reason());
        // Waits for the keeper, which ends at once if no process has the view open. There is no connection to abort.
        if self.fs == Fs::Overlay && self.is_mounted()? {
            let mut command = self.nixview(&["umount", "--lazy"]);
            self.must(command.arg(self.top()))?;
        }
        if self.is_mounted()? {
            unmount(&self.top(), Unmount::Abort)?;
        }
        self.empty()
    }

    fn is_mounted(&self) -> io::Result<bool> {
        Ok(mount_at(&self.top())?.is_some())
    }

    /// Forgets what was written, for a new mount.
    fn empty(&self) -> io::Result<()> {
        for below in ["u", "w", "d"] {
            mini_store::remove(&self.root.join(below))?;
            make_directory(&self.root.join(below))?;
        }
        Ok(())
    }

    fn mount(&mut self) -> io::Result<()> {
        let lower = self.store.root().join("nix");
        let layers = |stage: &Self| {
            let [upper, work] = ["u", "w"].map(|below| stage.root.join(below));
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display())
        };
        let mut command = match self.fs {
            Fs::Directory => {
                self.must(Command::new("cp").arg("-a").arg(lower.join("store")).arg(self.root.join("d")))?;
                let mut command = Command::new("mount");
                command.arg("--bind").arg(self.root.join("d"));
                command
            }
            Fs::Overlayfs => {
                let mut command = Command::new("mount");
                command.args(["-t", "overlay", "overlay", "-o", &layers(self)]);
                command
            }
            Fs::FuseOverlayfs => {
                let mut command = Command::new("fuse-overlayfs");
                command.args(["-o", &layers(self)]);
                command
            }
            Fs::Passthrough | Fs::Cached | Fs::Overlay => self.view()?,
        };
        self.must(command.arg(self.top()))?;
        if let Some(asked) = self.fs.view() {
            self.check(asked)?;
        }
        make_directory(&self.place())
    }

    /// `nixview mount` of an environment, all but the target.
    fn view(&mut self) -> io::Result<Command> {
        self.mounts += 1;
        let lock = self.root.join("lock");
        let store = self.store.store_dir();
        let environment = self.store.logical("env-a");
        let mut locking = self.nixview(&["lock", "--store"]);
        self.must(locking.arg(&store).arg(environment).arg("-o").arg(&lock))?;
        let name = self.view_name();
        let mut command = self.nixview(&["mount", "--name", &name, "--closure"]);
        command.arg(&lock).arg("--store").arg(&store).arg("--upper").arg(self.root.join("u").join(&name));
        match self.fs.view() {
            Some(["fuse", io]) => command.args(["--backend", "fuse", "--io", io]),
            _ => command.args(["--backend", "overlay"]),
        };
        // The suites make device nodes, and expect no more of them.
        command.arg("--devices");
        Ok(command)
    }

    /// The name of the mounted view and of its upper. Each mount has a name of its own: a process that survives its
    /// program keeps a detached view by overlayfs, and so its name.
    fn view_name(&self) -> String {
        format!("{}-{}", self.fs.name(), self.mounts)
    }

    /// Fails if the view is not made in the way that was asked for.
    fn check(&mut self, asked: [&str; 2]) -> io::Result<()> {
        let name = self.view_name();
        let ran = self.bounded(&mut self.nixview(&["status", "--json", &name]), SHORT)?;
        if is_made(&ran.said, asked) {
            return Ok(());
        }
        Err(io::Error::other(format!("{name} was to have backend and io {asked:?}: {}", ran.said)))
    }

    fn nixview(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.options.nixview);
        command.args(arguments).env("NIXVIEW_STATE_DIR", self.root.join("state"));
        command.env("NIXVIEW_RUNTIME_DIR", self.root.join("run"));
        command
    }

    fn must(&mut self, command: &mut Command) -> io::Result<()> {
        let ran = self.bounded(command, SHORT)?;
        if ran.is_ok() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {}", ran.reason()))) }
    }

    fn bounded(&mut self, command: &mut Command, limit: Duration) -> io::Result<Ran> {
        self.runs += 1;
        let log = self.root.join("log").join(self.runs.to_string());
        let top = self.top();
        // SIGKILL does not reach a process that waits for a hung server. Overlayfs has no server.
        run(command, limit, &log, || match mount_at(&top)? {
            Some(mount) if mount.file_system.starts_with(b"fuse") => unmount(&top, Unmount::Abort),
            _ => Ok(()),
        })
    }
}

/// Makes a directory of mode 0755 whatever the umask is.
fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Whether what `nixview status --json` reports of one view has this `backend` and this `io`.
fn is_made(status: &str, asked: [&str; 2]) -> bool {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    ["backend", "io"].map(|member| status.pointer(&format!("/0/{member}")).and_then(Value::as_str))
        == asked.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_fell_back_is_not_what_was_asked_for() {
        let overlay = r#"[{"name": "overlay-1", "backend": "overlay", "io": "kernel"}]"#;
        let fuse = r#"[{"name": "overlay-1", "backend": "fuse", "io": "passthrough"}]"#;
        let asked = [Fs::Passthrough, Fs::Cached, Fs::Overlay].map(|fs| fs.view().unwrap_or_default());
        assert_eq!(asked.map(|asked| is_made(overlay, asked)), [false, false, true]);
        assert_eq!(asked.map(|asked| is_made(fuse, asked)), [true, false, false]);
        for nothing in ["", "[]", "[{}]", "nixview: no view"] {
            assert!(!is_made(nothing, ["overlay", "kernel"]), "{nothing}");
        }
    }
}
