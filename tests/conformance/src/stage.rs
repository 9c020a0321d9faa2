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
}

impl Fs {
    pub(crate) const ALL: [Self; 5] =
        [Self::Directory, Self::Overlayfs, Self::FuseOverlayfs, Self::Passthrough, Self::Cached];
    /// Those of nixview.
    pub(crate) const VIEWS: [Self; 2] = [Self::Passthrough, Self::Cached];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Overlayfs => "overlayfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
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
}

impl<'a> Stage<'a> {
    pub(crate) fn new(fs: Fs, work: &Path, store: &'a MiniStore, options: &'a Options) -> io::Result<Self> {
        let root = work.join(fs.name());
        let stage = Self { fs, root, store, options, runs: 0 };
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
        let mut command = match self.fs {
            Fs::Passthrough | Fs::Cached => self.nixview(&["umount"]),
            Fs::Directory | Fs::Overlayfs | Fs::FuseOverlayfs => Command::new("umount"),
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
            Fs::Passthrough | Fs::Cached => self.view()?,
        };
        self.must(command.arg(self.top()))?;
        make_directory(&self.place())
    }

    /// `nixview mount` of an environment, all but the target.
    fn view(&mut self) -> io::Result<Command> {
        let lock = self.root.join("lock");
        let store = self.store.store_dir();
        let environment = self.store.logical("env-a");
        let mut locking = self.nixview(&["lock", "--store"]);
        self.must(locking.arg(&store).arg(environment).arg("-o").arg(&lock))?;
        let mut command =
            self.nixview(&["mount", "--name", self.fs.name(), "--io", self.fs.name(), "--closure"]);
        command.arg(&lock).arg("--store").arg(&store).arg("--upper").arg(self.root.join("u/view"));
        // The suites make device nodes, and expect no more of them.
        command.arg("--devices");
        Ok(command)
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
        // Who waits for a dead server cannot be killed.
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
