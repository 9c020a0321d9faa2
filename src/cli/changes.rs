//! Which view's changes a command is about, and over what: the same for all commands that ask so.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::OUTPUT;
use super::view::{Owner, absolute, dirs, mount_path};
use super::{CliError, Context, ErrorContext};
use crate::daemon::mounted::{is_mount_of, is_view};
use crate::daemon::record::{Place, UpperRecord};
use crate::daemon::registry::{Registry, State};
use crate::layer::dir::DirLower;
use crate::lock::EnvLock;
use crate::store::{Location, StoreDir};
use crate::sys::mountinfo;
use crate::vfs::Name;
use crate::view::ViewName;
use crate::view::build;
use crate::view::changes::{Change, ChangesError, ReadUpper, Trees, changes, shown};
use crate::view::store_root::ClosureLower;
use crate::view::upper_dir::{LastView, LimitChoice, UpperDir, UpperError, UpperLook, UpperSpec};

/// What a view lies over, where that is not to be what it was last mounted with.
#[derive(Debug, clap::Args)]
pub struct OverArgs {
    /// The environment: a file made by 'nixview lock' [default: that of the last mount]
    #[arg(long, value_name = "FILE")]
    pub closure: Option<PathBuf>,
    /// The store: a directory that ends in nix/store, or one that contains nix/store [default: that of the last mount]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// User and group that everything of the store is shown as [default: those of the last mount]
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
}

/// The closure that a view shows, as a lower.
#[derive(Debug)]
pub struct Over {
    /// What was decided.
    pub view: LastView,
    /// The closure of the store.
    pub lower: ClosureLower<DirLower>,
}

impl OverArgs {
    /// What the options say, and `last` where they say nothing.
    ///
    /// # Errors
    /// If nothing says it, or the closure cannot be had.
    pub fn open(&self, last: Option<LastView>, context: &Context) -> Result<Over, CliError> {
        let lock = match (&self.closure, &last) {
            (Some(file), _) => EnvLock::read(&absolute(file)?).context("cannot use the environment")?,
            (None, Some(last)) => last.lock.clone(),
            (None, None) => {
                return Err(CliError::new(
                    "it is not known what the upper lies over: it was not mounted yet",
                )
                .hint("name the environment with --closure, and the store with --store"));
            }
        };
        let store = match (&self.store, &last) {
            (Some(dir), _) => Location::open(&absolute(dir)?).context("cannot use the store")?,
            (None, Some(last)) => {
                Location::with_dir(&last.store, lock.store_dir.clone()).context("cannot use the store")?
            }
            (None, None) => Location::open(Path::new("/nix/store")).context("cannot use the store")?,
        };
        if self.store.is_none() {
            refuse_hidden(&store.real)?;
        }
        let owner = self.owner.map(Owner::ids).or(last.map(|last| last.owner));
        let own = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let state = &context.state.state;
        let closure = build::closure(&lock, &store, state).map_err(|error| {
            CliError::new(format!("the closure that the upper lies over cannot be had: {error}"))
                .hint("--closure names another environment")
        })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened: OwnedFd = rustix::fs::open(&store.real, flags, Mode::empty())
            .with_context(|| format!("cannot open the store {}", store.real.display()))?;
        let lower = build::lower(&lock, &closure, &store, &opened, state).context("cannot use the store")?;
        Ok(Over {
            view: LastView { lock, store: store.real, owner: owner.unwrap_or_else(own), database_of: None },
            lower,
        })
    }
}

/// Refuses a store that a view lies over here: its files would be compared with themselves.
fn refuse_hidden(store: &Path) -> Result<(), CliError> {
    let mount = mountinfo::mount_of(store).context("cannot read the mount table")?;
    match mount.filter(is_view) {
        Some(view) => Err(CliError::new(format!(
            "the store {} is hidden here by the view on {}",
            store.display(),
            view.mount_point.display()
        ))
        .hint("run it in a mount namespace without that view, as with 'nsenter --mount --target PID'")
        .hint("or name a store with --store")),
        None => Ok(()),
    }
}

impl Over {
    /// The two trees.
    pub fn trees<'t, U: ReadUpper>(&'t self, upper: &'t U) -> Trees<'t, ClosureLower<DirLower>, U> {
        Trees { lower: &self.lower, upper, owner: Some(self.view.owner) }
    }

    /// Calls `each` with every change at `start` and below it, while they are found.
    ///
    /// # Errors
    /// What cannot be read, and what `each` answers: then it ends there.
    pub fn each_change<U: ReadUpper>(
        &self,
        upper: &U,
        start: &[Name],
        each: &mut dyn FnMut(&Change) -> io::Result<()>,
    ) -> Result<(), CliError> {
        let mut output = Ok(());
        let mut take = |change: &Change| -> Result<(), ChangesError> {
            each(change).map_err(|error| {
                let source = io::Error::from(error.kind());
                output = Err(error);
                ChangesError { action: "tell of", path: Vec::new(), source }
            })
        };
        let walked = changes(self.trees(upper), start, &mut take);
        output.context(OUTPUT)?;
        walked.context("cannot compare the upper with the store")
    }
}

/// In place of a closure that nobody knows: a lower without members.
///
/// # Errors
/// If the upper cannot be opened.
pub fn unknown(look: &UpperLook) -> Result<ClosureLower<DirLower>, CliError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(look.path(), flags, Mode::empty()).context("cannot open the upper")?;
    let lower = DirLower::new(&opened).context("cannot open the upper")?;
    Ok(ClosureLower::new(lower, std::sync::Arc::default()))
}

/// The directory of the upper that is meant: of the mounted view of that name or at that path, of that name in the state
/// directory, or at that path itself.
///
/// # Errors
/// If there is none.
pub fn upper_path(view: &Path, context: &Context) -> Result<PathBuf, CliError> {
    let text = view.to_str().unwrap_or("/");
    let named = if text.contains('/') { None } else { Some(text.parse::<ViewName>()) };
    let name = named.transpose().map_err(|error| CliError::usage(error.to_string()))?;
    let path = absolute(view)?;
    let mount = mountinfo::mount_at(&mount_path(view)?).context("cannot read the mount table")?;
    let mount = mount.filter(is_view);
    if let Some(registry) = Registry::existing(&context.state.runtime) {
        for (known, state) in registry.all().context("cannot read the registry of views")? {
            let Ok(State::Served(record) | State::Unkept(record) | State::Dead(record)) = state else {
                continue;
            };
            // A detached view may have been mounted there before.
            let here = match &mount {
                Some(mount) => is_mount_of(&record, mount),
                None => matches!(&record.place, Place::Mounted { target, .. } if *target == path),
            };
            if name.as_ref() != Some(&known) && !(name.is_none() && here) {
                continue;
            }
            return match record.upper {
                UpperRecord::Directory { path, .. } | UpperRecord::Temporary { path, .. } => Ok(path),
                UpperRecord::ReadOnly => {
                    Err(CliError::new(format!("view '{known}' is read-only: it has no upper")))
                }
            };
        }
    }
    Ok(match name {
        Some(name) => dirs(context).uppers().join(name.as_str()),
        None => path,
    })
}

/// Looks at the upper that is meant.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn look(view: &Path, context: &Context) -> Result<UpperLook, CliError> {
    let path = upper_path(view, context)?;
    UpperLook::open(&path).map_err(|error| told(&error))
}

/// Holds an upper that is there.
///
/// # Errors
/// If it cannot be held: a view of it is mounted.
pub fn hold(look: &UpperLook, owner: (u32, u32)) -> Result<UpperDir, CliError> {
    let meta = look.meta();
    let limit = LimitChoice::default();
    let what = UpperSpec { store_dir: &meta.store_dir, view: &meta.view, owner, format: None, limit };
    UpperDir::open(look.path(), false, &what).map_err(|error| told(&error))
}

/// An error of an upper, with what can be done.
#[must_use]
pub fn told(error: &UpperError) -> CliError {
    let told = CliError::new(error.to_string());
    match error {
        UpperError::Busy { .. } => told.hint("unmount its view first: 'nixview umount'"),
        UpperError::Missing { .. } | UpperError::NotAnUpper { .. } => told.hint(
            "give the name of a view, or the directory of its upper; 'nixview upper list' lists those in the state directory",
        ),
        UpperError::LastView { .. } => told.hint("remove that file, and name the environment with --closure"),
        _ => told,
    }
}

/// Where the root of a view belongs: `/nix`.
#[must_use]
pub fn root_of(store_dir: &StoreDir) -> String {
    let text = store_dir.to_string();
    text.strip_suffix("/store").unwrap_or("/nix").to_owned()
}

/// The directory of a layer that is the root of a view: `nix`.
///
/// # Errors
/// If the store directory has no such parent.
pub fn prefix_of(store_dir: &StoreDir) -> Result<Vec<Name>, CliError> {
    let root = root_of(store_dir);
    let names = root.split('/').filter(|name| !name.is_empty()).map(|name| Name::new(name.as_bytes()));
    let names: Result<_, crate::vfs::Errno> = names.collect();
    names.map_err(std::io::Error::from).with_context(|| format!("'{root}' cannot be in a layer"))
}

/// A path of a view for people, as programs in it see it: `/nix/store/x`.
#[must_use]
pub fn in_view(root: &str, path: &[Name]) -> String {
    if path.is_empty() { root.to_owned() } else { format!("{root}{}", shown(path)) }
}

/// The names of a path that was given: `/nix/store/x`, or `store/x`.
///
/// # Errors
/// If it is absolute and not in the view, or has `..` or a name that no file can have.
pub fn names_of(given: &Path, root: &str) -> Result<Vec<Name>, CliError> {
    let refuse = |why: &str| CliError::usage(format!("'{}' is no path in the view: {why}", given.display()));
    let inside = if given.is_absolute() {
        given.strip_prefix(root).map_err(|_| refuse(&format!("it does not start with {root}")))?
    } else {
        given
    };
    let mut names = Vec::new();
    for part in inside.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::Normal(name) => {
                let name = Name::new(name.as_encoded_bytes());
                names.push(name.map_err(|errno| refuse(&errno.to_string()))?);
            }
            _ => return Err(refuse("'..' leads elsewhere")),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn paths_of_views_are_inside_them() {
        let names = |text: &str| names_of(Path::new(text), "/nix").map(|names| shown(&names));
        for (given, expected) in
            [("/nix/store/a", "/store/a"), ("store/./a/", "/store/a"), ("/nix", "/"), ("/nix/", "/")]
        {
            assert_eq!(names(given).unwrap(), expected);
        }
        let long = "x".repeat(256);
        for bad in ["/etc/passwd", "/nixos", "../nix", "/nix/../etc", "a/..", long.as_str()] {
            assert_eq!(names(bad).unwrap_err().code(), 2, "{bad}");
        }
        assert_eq!(root_of(&StoreDir::default()), "/nix");
        assert_eq!(root_of(&StoreDir::new("/gnu/store").unwrap()), "/gnu");
    }
}
