//! A view that was asked for ([`MountRequest`]), as what is to be served.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::error::{Attempt, Failure};
use super::keeper::{Destination, Dirs, ServeOptions};
use crate::control::{Backend, Io, MountRequest, Place, Upper};
use crate::lock::EnvLock;
use crate::store::Location;
use crate::sys::process;
use crate::view::ViewName;
use crate::view::spec::{BackendChoice, IoChoice, UpperChoice, ViewSpec};
use crate::view::upper_dir::LimitChoice;

/// How many requests of a view are worked on at once, if nothing is said.
const THREADS: u8 = 4;

/// The most threads of a view.
const MOST_THREADS: u8 = 64;

/// What is to be served, where and how.
#[derive(Debug)]
pub struct Order {
    /// What the view is.
    pub spec: ViewSpec,
    /// Where it goes.
    pub destination: Destination,
    /// How it is served.
    pub options: ServeOptions,
}

impl Order {
    /// Reads the lock (at most `most` bytes), finds the store, and decides what the request left open. `target` is the opened directory for a
    /// view on one; without it the path of the request is opened.
    ///
    /// # Errors
    /// What is wrong with the request, its lock or its store.
    pub fn new(
        request: &MountRequest,
        lock: File,
        most: u64,
        target: Option<OwnedFd>,
        dirs: &Dirs,
    ) -> Result<Self, Failure> {
        if let Some(wanted) = request.state_dir.as_ref().filter(|wanted| **wanted != dirs.state) {
            return Err(Failure::new(format!(
                "the daemon keeps its state in {}, not in {}",
                dirs.state.display(),
                wanted.display()
            ))
            .hint("with --no-daemon the view is served without it"));
        }
        let name = name(request)?;
        let lock_file = &request.lock_file;
        let origin = lock_file.display().to_string();
        let lock =
            EnvLock::read_from(lock, &origin, most).attempt(|| "cannot use the environment".to_owned())?;
        let store = Location::open(&request.store).attempt(|| "cannot use the store".to_owned())?;
        if store.dir != lock.store_dir {
            return Err(Failure::new(format!(
                "{} is of the store directory {}, but the store {} is of {}",
                lock_file.display(),
                lock.store_dir,
                store.real.display(),
                store.dir
            )));
        }
        let privileged = process::may_mount().attempt(|| "cannot ask for privileges".to_owned())?;
        let owner = request.owner.unwrap_or_else(|| {
            if privileged {
                (0, 0)
            } else {
                (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
            }
        });
        let upper = match &request.upper {
            Upper::Named => UpperChoice::Directory(dirs.uppers().join(name.as_str())),
            Upper::Directory { path } => UpperChoice::Directory(absolute(path, "upper")?.to_owned()),
            Upper::Temporary => UpperChoice::Temporary { parent: dirs.temporary() },
            Upper::ReadOnly => UpperChoice::ReadOnly,
        };
        let limit = LimitChoice { size: request.upper_size, inodes: request.upper_inodes };
        if limit.is_any() && upper == UpperChoice::ReadOnly {
            return Err(Failure::new(
                "a read-only view has no upper: --upper-size and --upper-inodes do not go with it",
            ));
        }
        let io = match request.io {
            Io::Auto => IoChoice::Auto,
            Io::Passthrough => IoChoice::Passthrough,
            Io::Cached => IoChoice::Cached,
        };
        let backend = match request.backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::Fuse => BackendChoice::Fuse,
            Backend::Overlay => BackendChoice::Overlay,
        };
        let destination = match &request.place {
            Place::Directory { path } => Destination::Directory {
                path: absolute(path, "target")?.to_owned(),
                opened: target,
                source: request.show_source.then(|| request.lock_file.clone()),
            },
            Place::Handed { purpose } => {
                Destination::Handed { purpose: purpose.clone(), container: request.container.clone() }
            }
        };
        let options = ServeOptions {
            allow_other: request.allow_other,
            no_exec: request.no_exec,
            require_gc_roots: request.require_gc_roots,
            no_gc_warning: request.no_gc_warning,
            fusermount: !privileged,
            prefer_overlay: true,
            becomes_small: true,
            restart: !request.no_restart,
            threads: threads(request.threads)?,
            verbose: request.verbose,
            requested_by: None,
        };
        let lock_file = lock_file.clone();
        let trace =
            request.trace.as_deref().map(|path| absolute(path, "trace").map(Path::to_owned)).transpose()?;
        let spec = ViewSpec {
            name,
            lock_file,
            lock,
            store,
            upper,
            limit,
            owner,
            backend,
            io,
            access_lists: request.acl,
            devices: request.devices,
            trace,
        };
        Ok(Self { spec, destination, options })
    }
}

/// The name that was asked for, or that of the directory.
fn name(request: &MountRequest) -> Result<ViewName, Failure> {
    match (&request.name, &request.place) {
        (Some(name), _) => name.parse().attempt(|| "cannot name the view".to_owned()),
        (None, Place::Directory { path }) => ViewName::of_target(path).ok_or_else(|| {
            Failure::new(format!("{} makes no name for a view", path.display()))
                .hint("give it one with --name")
        }),
        (None, Place::Handed { .. }) => Err(Failure::new("a view that is handed over must have a name")),
    }
}

fn threads(asked: Option<u8>) -> Result<NonZeroUsize, Failure> {
    let number = Some(asked.unwrap_or(THREADS)).filter(|number| *number <= MOST_THREADS);
    number
        .and_then(|number| NonZeroUsize::new(number.into()))
        .ok_or_else(|| Failure::new(format!("a view has 1 to {MOST_THREADS} threads")))
}

fn absolute<'a>(path: &'a Path, what: &str) -> Result<&'a Path, Failure> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Failure::new(format!("the {what} '{}' is no absolute path", path.display())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn refused(change: impl FnOnce(&mut MountRequest)) -> String {
        let place = Place::Handed { purpose: "test".to_owned() };
        let mut request = MountRequest::new("/none.lock".into(), place, Upper::Temporary);
        request.name = Some("web".to_owned());
        change(&mut request);
        let dirs = Dirs { state: "/none/state".into(), runtime: "/none/run".into() };
        let lock = File::open("/dev/null").unwrap();
        Order::new(&request, lock, 1000, None, &dirs).unwrap_err().what
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(refused(|_| ()).starts_with("cannot use the environment: "));
        assert!(refused(|r| r.name = None).contains("must have a name"));
        assert!(refused(|r| r.name = Some("../x".to_owned())).contains("no name for a view"));
    }

    #[test]
    fn threads_are_few() {
        assert_eq!(threads(None).unwrap().get(), 4);
        assert_eq!(threads(Some(64)).unwrap().get(), 64);
        threads(Some(0)).unwrap_err();
        threads(Some(65)).unwrap_err();
    }
}
