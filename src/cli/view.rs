//! The options that say what a view shows and where its changes go, the same for all commands that make one.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{CliError, Context, ErrorContext, size};
use crate::daemon::Failure;
use crate::daemon::record::Record;
use crate::daemon::server::Dirs;
use crate::lock::EnvLock;
use crate::store::Location;
use crate::sys::process::may_mount;
use crate::view::ViewName;
use crate::view::spec::{IoChoice, UpperChoice, ViewSpec};
use crate::view::upper_dir::LimitChoice;

/// Below the state directory: uppers that stay.
pub const UPPERS: &str = "uppers";

/// Below the state directory: uppers that go with their view.
pub const TEMPORARY: &str = "temporary";

/// What a view shows and where its changes go.
#[derive(Debug, clap::Args)]
pub struct ViewArgs {
    /// The environment: a file made by 'nixview lock'
    #[arg(long, value_name = "FILE")]
    pub closure: PathBuf,
    /// The store that it is taken from: a directory that ends in nix/store, or one that contains nix/store
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
    /// User and group that everything of the store is shown as [default: 0:0; without root, your own]
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
    /// Who reads files: the kernel by itself (passthrough), the server (cached), or what works (auto)
    #[arg(long, value_name = "HOW", default_value = "auto", value_enum)]
    pub io: IoArg,
    /// Keep and obey POSIX access control lists; users other than the owner then wait for the server at each look-up
    /// from the top of the view [default: lists are refused, and those in the upper count for nothing]
    #[arg(long)]
    pub acl: bool,
    /// Fail if Nix's garbage collector cannot be kept from the environment [default: warn]
    #[arg(long)]
    pub require_gc_roots: bool,
    /// How many requests are worked on at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = threads)]
    pub threads: NonZeroUsize,
}

/// Where changes go.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct UpperArgs {
    /// Keep changes in this directory; it is made if it is missing
    #[arg(long, value_name = "DIR")]
    pub upper: Option<PathBuf>,
    /// Keep changes until the view ends
    #[arg(long)]
    pub tmp: bool,
    /// Allow no changes
    #[arg(long)]
    pub read_only: bool,
}

/// How much an upper may hold.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LimitArgs {
    /// Let changes take at most this space, as in 500M, 2G or 1.5GiB (K, M, G, T are powers of 1024); it is remembered
    /// with the upper, and needs root [default: what an upper was made with, else no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub upper_size: Option<u64>,
    /// Let there be at most this many files, directories and other objects in the upper
    /// [default: as for --upper-size]
    #[arg(long, value_name = "N")]
    pub upper_inodes: Option<u64>,
}

impl LimitArgs {
    /// What is asked for of this upper.
    ///
    /// # Errors
    /// If there is to be none.
    pub fn chosen(&self, upper: &UpperChoice) -> Result<LimitChoice, CliError> {
        let chosen = LimitChoice { size: self.upper_size, inodes: self.upper_inodes };
        if chosen.is_any() && *upper == UpperChoice::ReadOnly {
            return Err(CliError::usage(
                "a read-only view has no upper: --upper-size and --upper-inodes do not go with it",
            ));
        }
        Ok(chosen)
    }
}

impl UpperArgs {
    /// The choice, if one was made.
    ///
    /// # Errors
    /// If the directory is no usable path.
    pub fn chosen(&self, context: &Context) -> Result<Option<UpperChoice>, CliError> {
        if self.read_only {
            return Ok(Some(UpperChoice::ReadOnly));
        }
        if self.tmp {
            return Ok(Some(temporary(context)));
        }
        self.upper.as_deref().map(|dir| absolute(dir).map(UpperChoice::Directory)).transpose()
    }
}

/// An upper of the view's own.
#[must_use]
pub fn temporary(context: &Context) -> UpperChoice {
    UpperChoice::Temporary { parent: context.state.state.join(TEMPORARY) }
}

/// Who reads files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum IoArg {
    /// Passthrough where it works, else cached.
    Auto,
    /// Passthrough, or no view.
    Passthrough,
    /// The server.
    Cached,
}

/// A user and a group, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(u32, u32);

impl Owner {
    /// The two numbers.
    #[must_use]
    pub fn ids(self) -> (u32, u32) {
        (self.0, self.1)
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |t: &str| t.parse::<u32>().ok().filter(|n| *n != u32::MAX);
        let parsed = text.split_once(':').and_then(|(u, g)| Some(Self(number(u)?, number(g)?)));
        parsed.ok_or_else(|| "it must be two numbers, as in 1000:1000".to_owned())
    }
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse::<NonZeroUsize>().ok().filter(|n| n.get() <= 64);
    number.ok_or_else(|| "it must be a number from 1 to 64".to_owned())
}

impl ViewArgs {
    /// Reads the lock and finds the store.
    ///
    /// # Errors
    /// If the lock cannot be read, there is no such store, or a limit for no upper.
    pub fn spec(&self, name: ViewName, upper: UpperChoice, limit: &LimitArgs) -> Result<ViewSpec, CliError> {
        let limit = limit.chosen(&upper)?;
        let lock_file = absolute(&self.closure)?;
        let lock = EnvLock::read(&lock_file).context("cannot use the environment")?;
        let store = Location::open(&absolute(&self.store)?).context("cannot use the store")?;
        if store.dir != lock.store_dir {
            return Err(CliError::new(format!(
                "{} is of the store directory {}, but the store {} is of {}",
                lock_file.display(),
                lock.store_dir,
                store.real.display(),
                store.dir
            )));
        }
        let owner = self.owner.map_or_else(own_ids, |owner| Ok(owner.ids()))?;
        let io = match self.io {
            IoArg::Auto => IoChoice::Auto,
            IoArg::Passthrough => IoChoice::Passthrough,
            IoArg::Cached => IoChoice::Cached,
        };
        Ok(ViewSpec { name, lock_file, lock, store, upper, limit, owner, io, access_lists: self.acl })
    }
}

/// Whom everything of the store belongs to, unless it is said: root; without root the caller.
///
/// # Errors
/// If that cannot be told.
pub fn own_ids() -> Result<(u32, u32), CliError> {
    if may_mount().context("cannot ask for privileges")? {
        return Ok((0, 0));
    }
    Ok((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))
}

/// The directories, as the daemon wants them.
#[must_use]
pub fn dirs(context: &Context) -> Dirs {
    Dirs { state: context.state.state.clone(), runtime: context.state.runtime.clone() }
}

/// A path that stays what it is when the working directory changes.
///
/// # Errors
/// If it is empty, or the working directory is gone.
pub fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).with_context(|| format!("'{}' is no usable path", path.display()))
}

/// A failure of the daemon's.
#[must_use]
pub fn failed(failure: Failure) -> CliError {
    let error = CliError::new(failure.what);
    failure.hints.into_iter().fold(error, CliError::hint)
}

/// Says what did not stop a view.
pub fn warn(context: &Context, warnings: &[String]) {
    for warning in warnings {
        context.output.note(&format!("nixview: warning: {warning}"));
    }
}

/// What a view is, in a line.
#[must_use]
pub fn described(record: &Record) -> String {
    let paths = super::output::count(record.closure.count, "store path", "store paths");
    format!("view '{}': {paths}, {}, process {}", record.name, record.io, record.pid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!("1000:100".parse::<Owner>().unwrap(), Owner(1000, 100));
        for bad in ["", "1", "1:", ":1", "a:b", "1:2:3", "-1:0", "4294967295:0"] {
            bad.parse::<Owner>().unwrap_err();
        }
    }
}
