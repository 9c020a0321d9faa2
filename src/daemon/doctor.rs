//! What this machine has of what nixview needs, tried and not guessed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::Serialize;

use super::keeper::{Dirs, probe_passthrough};
use super::overlay_probe;
use crate::store::temp_roots::TempRoots;
use crate::store::{Database, Location};
use crate::sys::mount::{self, FuseOptions};
use crate::sys::process::{self, Ended, Fork};
use crate::sys::{fusermount, namespace};
use crate::view::upper_dir::can_limit;

/// The oldest kernel that has all that is needed: detached read-only clones are of 5.12, the rest is tested from here.
const OLDEST: (u32, u32) = (5, 15);

/// The kernel with FUSE passthrough.
const PASSTHROUGH: (u32, u32) = (6, 9);

/// How it stands with one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It is there.
    Good,
    /// It is not; something else is used in its place, or less is possible.
    Limited,
    /// It is not, and nixview does not work without it.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What can be done, if something is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    /// It is there.
    pub fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, health: Health::Good, found: found.into(), advice: None }
    }

    /// Something else is used in its place, or less is possible.
    pub fn limited(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, health: Health::Limited, found: found.into(), advice: Some(advice.into()) }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, health: Health::Missing, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Looks at everything. Leaves nothing behind: what is made to try it out is never given a path.
///
/// To be called without other threads: user namespaces are tried in a fork.
#[must_use]
pub fn examine(store: &Path, dirs: &Dirs) -> Vec<Check> {
    let privileged = process::may_mount().unwrap_or(false);
    let mut checks = vec![kernel(), device(), privilege(privileged)];
    checks.push(if privileged { passthrough(store) } else { without_privilege("passthrough") });
    checks.push(overlay_probe::overlay(privileged));
    checks.extend([user_namespace(privileged), fusermount_program(privileged), connections()]);
    checks.push(limits(privileged));
    checks.extend(self::store(store));
    checks.extend([directory("state directory", &dirs.state), directory("runtime directory", &dirs.runtime)]);
    checks
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_str().unwrap_or_default();
    match version(release) {
        Some(version) if version >= PASSTHROUGH => Check::good("kernel", release),
        Some(version) if version >= OLDEST => Check::limited(
            "kernel",
            release,
            "Linux 6.9 and later have FUSE passthrough (one page cache for all views), and a view there outlives its server",
        ),
        _ => Check::missing("kernel", release, "nixview needs Linux 5.15 or later"),
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn device() -> Check {
    match mount::open_fuse_device() {
        Ok(_) => Check::good("/dev/fuse", "can be opened"),
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "let this user open it (mode 0666 is usual: it gives nothing away)"
                }
                _ => "load the module with 'modprobe fuse'; in a container, give it the device",
            };
            Check::missing("/dev/fuse", error.to_string(), advice)
        }
    }
}

fn privilege(privileged: bool) -> Check {
    let limited = |found: String| {
        let advice = "'run' uses a user namespace, 'mount' uses fusermount3; files are served cached";
        Check::limited("privilege", found, advice)
    };
    if !privileged {
        return limited("no CAP_SYS_ADMIN".to_owned());
    }
    let tried = mount::open_fuse_device()
        .and_then(|device| mount::new_fuse(device.as_fd(), FuseOptions::default()).map(drop));
    match tried {
        Ok(()) => Check::good("privilege", "FUSE file systems can be mounted"),
        Err(error) => limited(format!("CAP_SYS_ADMIN, but no FUSE mount: {error}")),
    }
}

fn without_privilege(name: &'static str) -> Check {
    Check::limited(name, "needs root", "files are served cached: each view has a page cache of its own")
}

fn passthrough(store: &Path) -> Check {
    let advice = "files are served cached: each view has a page cache of its own";
    let tried = Location::open(store)
        .map_err(io::Error::other)
        .and_then(|location| mount::clone_read_only(&location.real))
        .and_then(|clone| probe_passthrough(&clone));
    match tried {
        Ok(()) => Check::good("passthrough", "the kernel reads the store's files by itself"),
        Err(error) => Check::limited("passthrough", error.to_string(), advice),
    }
}

/// Tries it in a process of its own, which a user namespace cannot be left by.
fn user_namespace(privileged: bool) -> Check {
    let name = "user namespaces";
    let tried = process::fork().and_then(|side| match side {
        Fork::Parent(child) => process::wait(child),
        Fork::Child => {
            let answer = namespace::own_user_namespace()
                .and_then(|()| namespace::own_mounts())
                .and_then(|()| mount::open_fuse_device())
                .and_then(|device| mount::new_fuse(device.as_fd(), FuseOptions::default()).map(drop));
            let errno = answer.err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
            process::end_now(u8::try_from(errno).unwrap_or(u8::MAX))
        }
    });
    let advice = if privileged {
        "only needed without root"
    } else {
        "'run' does not work without root; look at /proc/sys/user/max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, and who may open /dev/fuse"
    };
    match tried {
        Ok(Ended::Exited(0)) => Check::good(name, "can be made, and FUSE mounted in them"),
        Ok(Ended::Exited(errno)) => {
            Check::limited(name, io::Error::from_raw_os_error(errno.into()).to_string(), advice)
        }
        Ok(Ended::Killed(signal)) => Check::limited(name, format!("killed by signal {signal}"), advice),
        Err(error) => Check::limited(name, error.to_string(), advice),
    }
}

fn fusermount_program(privileged: bool) -> Check {
    let name = "fusermount3";
    match fusermount::version() {
        Ok(version) => {
            let configuration = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
            let others = configuration.lines().any(|line| line.trim() == "user_allow_other");
            if others || privileged {
                Check::good(name, version)
            } else {
                let advice = "allow_other without root needs the line 'user_allow_other' in /etc/fuse.conf";
                Check::limited(name, version, advice)
            }
        }
        Err(error) => {
            let advice = if privileged {
                "only needed without root"
            } else {
                "install fuse3: 'mount' needs it without root"
            };
            Check::limited(name, error.to_string(), advice)
        }
    }
}

fn connections() -> Check {
    let (name, dir) = ("FUSE control", "/sys/fs/fuse/connections");
    // An empty directory is what there is when nothing is mounted on it, and also when there is no FUSE mount.
    let mounted =
        crate::sys::mountinfo::mounts().map(|all| all.iter().any(|m| m.mount_point == Path::new(dir)));
    match mounted {
        Ok(true) => Check::good(name, dir),
        _ => Check::limited(
            name,
            "not mounted",
            format!("'mount -t fusectl none {dir}': it frees clients of a server that hangs"),
        ),
    }
}

fn limits(privileged: bool) -> Check {
    let name = "limits of uppers";
    if !privileged {
        return Check::limited(name, "needs root", "without it there is no --upper-size");
    }
    match can_limit() {
        Ok(()) => Check::good(name, "loop devices and mkfs.ext4"),
        Err(error) => Check::limited(
            name,
            error.to_string(),
            "--upper-size needs loop devices ('modprobe loop') and e2fsprogs",
        ),
    }
}

fn store(path: &Path) -> Vec<Check> {
    let location = match Location::open(path) {
        Ok(location) => location,
        Err(error) => {
            return vec![Check::missing("store", error.to_string(), "name one with --store DIR")];
        }
    };
    let mut checks = Vec::new();
    checks.push(match fs::read_dir(&location.real) {
        Ok(_) => Check::good("store", location.real.display().to_string()),
        Err(error) => {
            let found = format!("{}: {error}", location.real.display());
            Check::missing("store", found, "let this user read it")
        }
    });
    let file = location.database_file();
    checks.push(match Database::open(&location) {
        Err(_) if !file.is_some_and(|file| file.exists()) => Check::limited(
            "Nix database",
            "there is none",
            "references are looked for in the store's files, once for each path: the first mount takes longer",
        ),
        Ok(database) => {
            Check::good("Nix database", format!("{} ({:?})", database.file().display(), database.access()))
        }
        Err(error) => Check::missing(
            "Nix database",
            error.to_string(),
            "a view is mounted only if the database has the closure that its lock names: let this user read it",
        ),
    });
    let roots = location.gc_roots_dir();
    checks.push(match roots.as_deref().map(|dir| (dir, access(dir, Access::WRITE_OK | Access::EXEC_OK))) {
        None => Check::limited(
            "garbage collector roots",
            "the store has no state of Nix",
            "nothing collects it either",
        ),
        Some((dir, Ok(()))) => Check::good("garbage collector roots", dir.display().to_string()),
        Some((_, Err(_))) if held_by_daemon(&location) => {
            Check::good("garbage collector roots", "nix-daemon holds them for views of this user")
        }
        Some((dir, Err(error))) => Check::limited(
            "garbage collector roots",
            format!("{}: {error}", dir.display()),
            "views are mounted, but are not safe from 'nix-collect-garbage'; where nix-daemon runs, it holds their roots",
        ),
    });
    checks
}

/// True if nix-daemon answers for this store.
fn held_by_daemon(location: &Location) -> bool {
    location.state.as_deref().is_some_and(|state| TempRoots::take(state, &location.dir, &[]).is_ok())
}

fn directory(name: &'static str, dir: &Path) -> Check {
    // What is missing is made below the nearest directory that is there.
    let there: Option<PathBuf> = dir.ancestors().find(|d| d.exists()).map(Path::to_owned);
    let answer = there.as_deref().map(|d| access(d, Access::WRITE_OK | Access::EXEC_OK));
    match answer {
        Some(Ok(())) => Check::good(name, dir.display().to_string()),
        Some(Err(error)) => Check::missing(
            name,
            format!("{}: {error}", dir.display()),
            "let this user write it, or name others with --state-dir and --runtime-dir",
        ),
        None => Check::missing(name, format!("{}: not found", dir.display()), "make it"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.18.33-amd64"), Some((6, 18)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("x"), None);
    }

    #[test]
    fn what_cannot_be_written_is_missing_and_what_can_be_made_is_good() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory("d", &dir.path().join("a/b")).health, Health::Good);
        let on_proc = directory("d", Path::new("/proc/self/nothing"));
        assert_ne!(on_proc.health, Health::Good, "{on_proc:?}");
    }

    #[test]
    fn a_store_that_is_not_there_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let checks = store(dir.path());
        assert_eq!(checks.iter().map(|c| c.health).collect::<Vec<_>>(), [Health::Missing]);
        assert!(checks.iter().all(|c| c.advice.is_some()));
    }
}
