//! A root file system with nothing of the host but what is named: /proc, /dev, /tmp, and the mounts that are given.
//!
//! What bubblewrap makes with `--unshare-pid --proc /proc --dev /dev --tmpfs /`. All of it is in the mount namespace of
//! the caller, and goes with that.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};

/// The device nodes of the host that are shown.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links in /dev, and where they lead.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What could not be made, and how the system refused it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct IsolateError {
    /// What was tried.
    pub action: String,
    /// The system's answer.
    pub source: io::Error,
}

trait Tried<T> {
    fn tried(self, action: impl FnOnce() -> String) -> Result<T, IsolateError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, action: impl FnOnce() -> String) -> Result<T, IsolateError> {
        self.map_err(|source| IsolateError { action: action(), source: source.into() })
    }
}

/// What the new root has besides /proc, /dev and /tmp. Paths are absolute.
#[derive(Clone, Copy, Debug)]
pub struct IsolatedRoot<'a> {
    /// A mount, and the name at the top that it gets.
    pub mount: (BorrowedFd<'a>, &'a str),
    /// Empty directories.
    pub directories: &'a [PathBuf],
    /// Files and their content.
    pub files: &'a [(&'a str, String)],
    /// Directories and files of the host, at the same path, with all that is mounted in them.
    pub shared: &'a [PathBuf],
}

impl IsolatedRoot<'_> {
    /// Makes it the root of this process, whose mount namespace is its own, and whose PID namespace is the one that /proc
    /// shows.
    ///
    /// # Errors
    /// What cannot be made; `EPERM` for /proc in a user namespace that does not see all of the host's.
    pub fn enter(&self) -> Result<(), IsolateError> {
        let shared = self.shared.iter().map(|path| Shared::of(path)).collect::<Result<Vec<_>, _>>()?;
        let devices = devices()?;
        let proc = new("proc", &[], MountAttrFlags::MOUNT_ATTR_NOEXEC).tried(|| "mount /proc".to_owned())?;
        let terminals = [("ptmxmode", "0666"), ("mode", "0620")];
        let terminals = new("devpts", &terminals, MountAttrFlags::MOUNT_ATTR_NOEXEC)
            .tried(|| "mount /dev/pts".to_owned())?;
        let root = new("tmpfs", &[("mode", "0755")], MountAttrFlags::MOUNT_ATTR_NODEV)
            .tried(|| "mount a root in memory".to_owned())?;
        let place = super::mount::open_target(Path::new("/")).tried(|| "open the root".to_owned())?;
        super::mount::attach(root.as_fd(), place.as_fd())
            .tried(|| "put a new root over the old".to_owned())?;
        for (name, mode) in [("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("tmp", 0o1777)] {
            directory(&root, name, mode).tried(|| format!("make /{name}"))?;
        }
        attach(&root, Path::new("proc"), &proc)?;
        let (view, name) = self.mount;
        directory(&root, name, 0o755).tried(|| format!("make /{name}"))?;
        attach_at(&root, Path::new(name), view)?;
        self.dev(&root, &devices, &terminals)?;
        for path in self.directories {
            above(&root, &path.join("x"))?;
        }
        for (path, content) in self.files {
            let path = Path::new(path);
            above(&root, path)?;
            write(&root, path, content).tried(|| format!("write {}", path.display()))?;
        }
        for shared in shared {
            shared.show(&root)?;
        }
        super::namespace::change_root(&root).tried(|| "change the root".to_owned())
    }

    fn dev(
        &self,
        root: &OwnedFd,
        devices: &[(&str, OwnedFd)],
        terminals: &OwnedFd,
    ) -> Result<(), IsolateError> {
        for (name, node) in devices {
            let path = Path::new("dev").join(name);
            write(root, &path, "").tried(|| format!("make /dev/{name}"))?;
            attach(root, &path, node)?;
        }
        for (name, mode) in [("dev/pts", 0o755), ("dev/shm", 0o1777)] {
            directory(root, name, mode).tried(|| format!("make /{name}"))?;
        }
        attach(root, Path::new("dev/pts"), terminals)?;
        for (name, target) in LINKS {
            symlinkat(target, root, Path::new("dev").join(name)).tried(|| format!("link /dev/{name}"))?;
        }
        Ok(())
    }
}

/// Something of the host that is shown.
struct Shared {
    path: PathBuf,
    clone: OwnedFd,
    directory: bool,
}

impl Shared {
    fn of(path: &Path) -> Result<Self, IsolateError> {
        let action = || format!("share {}", path.display());
        let directory = path.metadata().tried(action)?.is_dir();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let flags = if directory { flags | OpenTreeFlags::AT_RECURSIVE } else { flags };
        Ok(Self { path: path.to_owned(), clone: open_tree(CWD, path, flags).tried(action)?, directory })
    }

    fn show(&self, root: &OwnedFd) -> Result<(), IsolateError> {
        above(root, &self.path)?;
        let path = relative(&self.path);
        let made = match self.directory {
            true => existing(mkdirat(root, path, Mode::from_raw_mode(0o755))),
            false => match write(root, &self.path, "") {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                answer => answer,
            },
        };
        made.tried(|| format!("make {}", self.path.display()))?;
        attach(root, path, &self.clone)
    }
}

/// Detached clones of the host's device nodes; one that the host has not is left out.
fn devices() -> Result<Vec<(&'static str, OwnedFd)>, IsolateError> {
    let mut all = Vec::new();
    for name in DEVICES {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match open_tree(CWD, Path::new("/dev").join(name), flags) {
            Err(Errno::NOENT) => {}
            clone => all.push((name, clone.tried(|| format!("share /dev/{name}"))?)),
        }
    }
    Ok(all)
}

/// A new file system, detached, where set-user-id bits do not count.
fn new(kind: &str, options: &[(&str, &str)], more: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | more)?)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Makes the directories above an absolute path.
fn above(root: &OwnedFd, path: &Path) -> Result<(), IsolateError> {
    let mut made = PathBuf::new();
    let parents = relative(path).parent().into_iter().flat_map(Path::components);
    for part in parents {
        let Component::Normal(part) = part else {
            let source = Errno::INVAL.into();
            return Err(IsolateError { action: format!("make {}", path.display()), source });
        };
        made.push(part);
        existing(mkdirat(root, &made, Mode::from_raw_mode(0o755)))
            .tried(|| format!("make /{}", made.display()))?;
    }
    Ok(())
}

fn existing(made: rustix::io::Result<()>) -> io::Result<()> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        answer => Ok(answer?),
    }
}

/// Makes a directory with this mode, whatever the umask.
fn directory(root: &OwnedFd, name: &str, mode: u32) -> io::Result<()> {
    mkdirat(root, name, Mode::from_raw_mode(mode))?;
    Ok(chmodat(root, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Makes a file that anybody can read.
fn write(root: &OwnedFd, path: &Path, content: &str) -> io::Result<()> {
    use std::io::Write;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(root, relative(path), flags, Mode::from_raw_mode(0o644))?;
    let mut file = std::fs::File::from(file);
    file.write_all(content.as_bytes())?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?)
}

fn attach(root: &OwnedFd, path: &Path, mount: &OwnedFd) -> Result<(), IsolateError> {
    attach_at(root, path, mount.as_fd())
}

fn attach_at(root: &OwnedFd, path: &Path, mount: BorrowedFd<'_>) -> Result<(), IsolateError> {
    let action = || format!("mount /{}", path.display());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(root, path, flags, Mode::empty()).tried(action)?;
    super::mount::attach(mount, target.as_fd()).tried(action)
}

/// True for a path that [`IsolatedRoot`] can have of the host: absolute, and not where it has something of its own.
#[must_use]
pub fn can_have(path: &Path, own: &str) -> bool {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let first = parts.next();
    let taken = [own, "dev", "proc"].map(OsStr::new);
    absolute
        && matches!(first, Some(Component::Normal(first)) if !taken.contains(&first))
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_place_of_its_own_is_not_shared() {
        for good in ["/srv", "/home/user/app", "/tmp/x", "/nixos", "/etc/resolv.conf"] {
            assert!(can_have(Path::new(good), "nix"), "{good}");
        }
        for bad in ["", "/", "srv", "/nix", "/nix/store/x", "/dev/null", "/proc/self", "/srv/../nix"] {
            assert!(!can_have(Path::new(bad), "nix"), "{bad}");
        }
    }
}
