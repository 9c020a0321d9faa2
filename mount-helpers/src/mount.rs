//! What mount(8) and umount(8) ask for, done.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nixview::control::{ControlError, MountRequest, Place, Stopped, Upper, ViewRef};
use nixview::sys::fuse_connection::FuseConnection;
use nixview::sys::mount::{self, Change, SUBTYPE, Unmount};
use nixview::sys::mount_id::MountId;
use nixview::sys::mount_point;
use nixview::sys::mountinfo::{self, MountInfo};
use nixview::sys::open::open_input;
use nixview::sys::overlay;

use crate::options::{OptionError, Options};
use crate::service::Dirs;

/// Exit codes of mount(8).
pub mod code {
    /// Wrong usage, or no permission.
    pub const USAGE: u8 = 1;
    /// The system failed: memory, processes, a file that cannot be read.
    pub const SYSTEM: u8 = 2;
    /// The mount failed.
    pub const MOUNT: u8 = 32;
}

/// What went wrong, and the exit code of mount(8) for it.
#[derive(Debug)]
pub struct Problem {
    /// What, where and why.
    pub what: String,
    /// What can be done, a line each.
    pub hints: Vec<String>,
    /// The exit code.
    pub code: u8,
}

impl Problem {
    /// A problem without a hint.
    #[must_use]
    pub fn new(code: u8, what: impl Into<String>) -> Self {
        Self { what: what.into(), hints: Vec::new(), code }
    }

    fn system(what: String, error: &io::Error) -> Self {
        Self::new(code::SYSTEM, format!("{what}: {error}"))
    }

    fn hint(mut self, hint: &str) -> Self {
        self.hints.push(hint.to_owned());
        self
    }
}

impl From<OptionError> for Problem {
    fn from(error: OptionError) -> Self {
        Self::new(code::USAGE, error.to_string())
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Failed { what, hints } => Self { what, hints, code: code::MOUNT },
            other => Self::new(code::SYSTEM, other.to_string())
                .hint("is nixview installed beside this program, or in /usr/bin?"),
        }
    }
}

/// `mount.nixview SOURCE DIR [-sfnv] [-o OPTIONS]`, as mount(8) calls it.
#[derive(Debug, Default)]
pub struct MountCall {
    source: OsString,
    target: PathBuf,
    options: Options,
    fake: bool,
    /// Say what is done.
    pub verbose: bool,
}

impl MountCall {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// What is wrong with them; an empty [`Problem::what`] if only help was asked for.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Problem> {
        use lexopt::Arg::{Long, Short, Value};
        let usage = |error: lexopt::Error| Problem::new(code::USAGE, error.to_string());
        let mut parser = lexopt::Parser::from_args(arguments);
        let (mut places, mut lists, mut sloppy) = (Vec::new(), Vec::new(), false);
        let mut call = Self::default();
        while let Some(argument) = parser.next().map_err(usage)? {
            match argument {
                Value(place) => places.push(place),
                Short('o') => lists.push(parser.value().map_err(usage)?),
                Short('s') => sloppy = true,
                Short('f') => call.fake = true,
                Short('v') => call.verbose = true,
                // There is no /etc/mtab to be written.
                Short('n') => {}
                // The type with its subtype, which is ours.
                Short('t') => drop(parser.value().map_err(usage)?),
                Short('N') => {
                    return Err(Problem::new(
                        code::USAGE,
                        "views are not mounted in another mount namespace",
                    ));
                }
                Short('h') | Long("help") => return Err(Problem::new(code::USAGE, "")),
                other => return Err(usage(other.unexpected())),
            }
        }
        for list in lists {
            call.options.add(&list, sloppy)?;
        }
        let [source, target] = <[OsString; 2]>::try_from(places)
            .map_err(|_| Problem::new(code::USAGE, "it takes a lock file and a directory"))?;
        (call.source, call.target) = (source, PathBuf::from(target));
        Ok(call)
    }

    /// Mounts, or changes what is mounted; answers what was done, and what should be known.
    ///
    /// # Errors
    /// [`Problem`]; then nothing is mounted.
    pub fn run(&self) -> Result<(String, Vec<String>), Problem> {
        if self.options.remount {
            return self.remount().map(|done| (done, Vec::new()));
        }
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Problem::system(format!("'{}' is no usable path", path.display()), &error))
        };
        let (source, target) = (absolute(Path::new(&self.source))?, absolute(&self.target)?);
        let place = Place::Directory { path: target.clone() };
        let mut request = MountRequest::new(source.clone(), place, Upper::Named);
        self.options.fill(&mut request)?;
        request.verbose = self.verbose.into();
        // mount(8) takes a line of fstab for mounted if the table of mounts has its source.
        request.show_source = true;
        let lock = open_input(&source).map_err(|error| {
            Problem::new(code::MOUNT, format!("cannot read {}: {error}", source.display()))
                .hint("what is mounted is a lock file, made by 'nixview lock'")
        })?;
        let directory = resolved(&target).and_then(|path| mount_point::open_at(&path)).map_err(|error| {
            Problem::new(code::MOUNT, format!("cannot mount on {}: {error}", target.display()))
        })?;
        if self.fake {
            return Ok((
                format!("{} would be mounted on {}", source.display(), target.display()),
                Vec::new(),
            ));
        }
        let client = self.options.dirs.client()?;
        let mounted = client.mount(&request, lock.as_fd(), Some(directory.as_fd()))?;
        Ok((format!("view '{}' is mounted on {}", mounted.name, target.display()), mounted.warnings))
    }

    /// `remount`: `ro`, `rw`, `exec` and `noexec` of this mount; nothing else of a view can change while it is mounted.
    fn remount(&self) -> Result<String, Problem> {
        let (view, path) = view_at(&self.target)?;
        let record = self.record(&view)?;
        if let Some(fixed) = record.and_then(|record| self.options.changed(&record)) {
            let what = format!("'{fixed}' cannot change while a view is mounted");
            return Err(Problem::new(code::USAGE, what).hint("unmount it, and mount it with other options"));
        }
        let read_only = self.options.read_only;
        if read_only == Some(false) && has_option(&view.super_options, b"ro") {
            let what = format!("the view on {} has no upper: it stays read-only", path.display());
            return Err(Problem::new(code::MOUNT, what).hint("unmount it, and mount it without 'ro'"));
        }
        let what = || format!("cannot change the mount on {}", path.display());
        // mount(8) says all options that are to hold; that `exec` does is told by `noexec` missing.
        let change = Change { read_only, no_exec: Some(self.options.no_exec == Some(true)) };
        if !self.fake {
            let opened = mount_point::open_at(&path).map_err(|error| Problem::system(what(), &error))?;
            if !MountId::from_number(view.id)
                .is_of(opened.as_fd())
                .map_err(|e| Problem::system(what(), &e))?
            {
                return Err(Problem::new(code::MOUNT, format!("{}: it is another mount now", what())));
            }
            mount::change(opened.as_fd(), change)
                .map_err(|error| Problem::new(code::MOUNT, format!("{}: {error}", what())))?;
        }
        Ok(format!("the mount on {} is changed", path.display()))
    }

    /// The record of a view, if whoever serves views knows it.
    fn record(&self, view: &MountInfo) -> Result<Option<serde_json::Value>, Problem> {
        let connection = FuseConnection::of_device(view.device).number();
        let is_it = |record: &serde_json::Value| {
            let number = |of: Option<&serde_json::Value>| of.and_then(serde_json::Value::as_u64);
            let place = record.get("place").and_then(|place| place.get("connection"));
            number(place) == Some(connection)
                && number(record.get("mountInMountinfo")).is_none_or(|number| number == view.id)
        };
        Ok(self.options.dirs.client()?.views()?.into_iter().find(is_it))
    }
}

/// `umount.nixview DIR [-flnrv]`, as umount(8) calls it.
#[derive(Debug, Default)]
pub struct UmountCall {
    target: PathBuf,
    lazy: bool,
    force: bool,
    /// Say what is done.
    pub verbose: bool,
}

impl UmountCall {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// As [`MountCall::parse`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Problem> {
        use lexopt::Arg::{Long, Short, Value};
        let usage = |error: lexopt::Error| Problem::new(code::USAGE, error.to_string());
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut call = Self::default();
        let mut places = Vec::new();
        while let Some(argument) = parser.next().map_err(usage)? {
            match argument {
                Value(place) => places.push(place),
                Short('l') => call.lazy = true,
                Short('f') => call.force = true,
                Short('v') => call.verbose = true,
                Short('n' | 'r') => {}
                Short('t') => drop(parser.value().map_err(usage)?),
                Short('N') => {
                    return Err(Problem::new(code::USAGE, "views are not in another mount namespace"));
                }
                Short('h') | Long("help") => return Err(Problem::new(code::USAGE, "")),
                other => return Err(usage(other.unexpected())),
            }
        }
        let [target] = <[OsString; 1]>::try_from(places)
            .map_err(|_| Problem::new(code::USAGE, "it takes a directory"))?;
        call.target = PathBuf::from(target);
        Ok(call)
    }

    /// Unmounts, and waits until the view's server has cleaned up.
    ///
    /// # Errors
    /// [`Problem`], `EBUSY` among them.
    pub fn run(&self) -> Result<String, Problem> {
        let (view, path) = view_at(&self.target)?;
        let shown = path.display();
        if self.force {
            unmount(&view, Unmount::Abort)?;
            return Ok(format!("{shown} is unmounted; who used it gets errors"));
        }
        let client = Dirs::default().client()?;
        match client.unmount(ViewRef::Path(path.clone()), self.lazy)? {
            (name, Stopped::Ended | Stopped::WasDead) => Ok(format!("view '{name}' has ended")),
            (name, Stopped::StillUsed) => Ok(format!("view '{name}' ends when nobody uses it any more")),
            // Of another runtime directory: its server sees that it is gone.
            (_, Stopped::Absent) => {
                unmount(&view, if self.lazy { Unmount::Lazy } else { Unmount::Now })?;
                Ok(format!("{shown} is unmounted"))
            }
        }
    }
}

/// Unmounts a view, and no other mount, whatever has become of its path.
fn unmount(view: &MountInfo, how: Unmount) -> Result<(), Problem> {
    let path = &view.mount_point;
    let what = || format!("cannot unmount {}", path.display());
    let id = MountId::from_number(view.id);
    let done = mount_point::unmount_at(path, &|root| id.is_of(root), how)
        .map_err(|error| Problem::new(code::MOUNT, format!("{}: {error}", what())))?;
    if done { Ok(()) } else { Err(Problem::new(code::MOUNT, format!("{}: it is another mount now", what()))) }
}

/// A path without symbolic links, but for the last name, which may be a view that does not answer.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}

/// The view that is mounted on a directory, and its path without symbolic links. The view itself is not asked.
fn view_at(target: &Path) -> Result<(MountInfo, PathBuf), Problem> {
    let what = |error: &io::Error| Problem::system(format!("cannot find {}", target.display()), error);
    let path = resolved(target).map_err(|error| what(&error))?;
    let found = mountinfo::mount_at(&path).map_err(|error| what(&error))?;
    let served = |mount: &MountInfo| mount.file_system.strip_prefix(b"fuse.") == Some(SUBTYPE.as_bytes());
    let view = found.filter(|mount| served(mount) || overlay::is_ours(mount));
    match view {
        Some(view) => Ok((view, path)),
        None => Err(Problem::new(code::MOUNT, format!("no view is mounted on {}", path.display()))),
    }
}

fn has_option(options: &[u8], wanted: &[u8]) -> bool {
    options.split(|b| *b == b',').any(|option| option == wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn parse(line: &str) -> Result<MountCall, Problem> {
        MountCall::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn mount_8_is_understood() {
        let call = parse("/l /t -f -n -v -s -o rw,upper=/u -o colour=red -t fuse.nixview").unwrap();
        assert!(call.fake && call.verbose);
        assert_eq!((call.source.to_str(), call.target.to_str()), (Some("/l"), Some("/t")));
        for bad in ["", "/l", "/l /t /x", "/l /t -o colour=red", "/l /t -q", "/l /t -N 7"] {
            assert_eq!(parse(bad).unwrap_err().code, code::USAGE, "{bad}");
        }
        assert_eq!(parse("--help").unwrap_err().what, "");
    }

    #[test]
    fn umount_8_is_understood() {
        let call = UmountCall::parse(["/t", "-l", "-n"].map(OsString::from)).unwrap();
        assert!(call.lazy && !call.force);
        UmountCall::parse(["/t", "/u"].map(OsString::from)).unwrap_err();
    }

    #[test]
    fn what_is_not_mounted_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let problem = parse(&format!("x {} -o remount,ro", dir.path().display())).unwrap().run().unwrap_err();
        assert_eq!(problem.code, code::MOUNT);
    }
}
