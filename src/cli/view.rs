//! The options that say what a view shows and where its changes go, the same for all commands that make one.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::{CliError, Context, ErrorContext, size};
use crate::control::{Backend, Io, MountRequest, Place, Upper};
use crate::daemon::Failure;
use crate::daemon::keeper::Dirs;
use crate::daemon::record::Record;
use crate::lock::{EnvLock, LockError, verify_store};
use crate::store::Location;
use crate::sys::open::{self, open_input};
use crate::sys::process::may_mount;
use crate::view::ViewName;

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
    /// Maker of the view: the kernel's overlayfs (overlay; for root), a server (fuse), or the one that can do all that is asked for
    /// (auto)
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        value_enum,
        env = "NIXVIEW_BACKEND",
        hide_env_values = true
    )]
    pub backend: BackendArg,
    /// Reader of the files of a view with a server: the kernel by itself (passthrough), the server (cached), or the kernel where it
    /// can (auto)
    #[arg(long, value_name = "HOW", default_value = "auto", value_enum)]
    pub io: IoArg,
    /// Keep and obey POSIX access control lists; users other than the owner then wait for the server at each look-up
    /// from the top of the view [default: lists are refused, and those in the upper count for nothing]
    #[arg(long)]
    pub acl: bool,
    /// Let device nodes be made in the view; none can be opened there, but programs that read the upper elsewhere find
    /// them [default: only device 0:0, which leads nowhere]
    #[arg(long)]
    pub devices: bool,
    /// Ask Nix to fetch what is missing of the environment, or to build it [default: it is an error]
    #[arg(long, visible_alias = "realize")]
    pub realise: bool,
    /// Fail if Nix's garbage collector cannot be kept from the environment [default: warn]
    #[arg(long)]
    pub require_gc_roots: bool,
    /// Do not warn if Nix's garbage collector cannot be kept from the environment [default: warn]
    #[arg(long, env = "NIXVIEW_NO_GC_WARNING", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub no_gc_warning: bool,
    /// End the view if its server dies [default: the server is started again, and programs in the view see a pause, on
    /// Linux 6.9 and later]
    #[arg(long)]
    pub no_restart: bool,
    /// How many requests are worked on at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = threads)]
    pub threads: u8,
    /// Write into this file, when the view ends, which of its files and store paths were used; see 'nixview trace'
    /// [default: nothing is recorded]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
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

impl UpperArgs {
    /// The choice, if one was made.
    ///
    /// # Errors
    /// If the directory is no usable path.
    pub fn chosen(&self) -> Result<Option<Upper>, CliError> {
        if self.read_only {
            return Ok(Some(Upper::ReadOnly));
        }
        if self.tmp {
            return Ok(Some(Upper::Temporary));
        }
        self.upper.as_deref().map(|dir| Ok(Upper::Directory { path: absolute(dir)? })).transpose()
    }
}

/// What a view is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum BackendArg {
    /// Overlayfs where it can do all that is asked for, else a server.
    Auto,
    /// A FUSE server.
    Fuse,
    /// Overlayfs, or no view.
    Overlay,
}

impl BackendArg {
    /// As the daemon is asked.
    #[must_use]
    pub fn asked(self) -> Backend {
        match self {
            Self::Auto => Backend::Auto,
            Self::Fuse => Backend::Fuse,
            Self::Overlay => Backend::Overlay,
        }
    }
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

fn threads(text: &str) -> Result<u8, String> {
    let number = text.parse::<u8>().ok().filter(|n| (1..=64).contains(n));
    number.ok_or_else(|| "it must be a number from 1 to 64".to_owned())
}

impl ViewArgs {
    /// What is asked for: a view at `place` with its changes in `upper`.
    ///
    /// # Errors
    /// If a path is not usable, or a limit is asked for of no upper.
    pub fn request(
        &self,
        name: Option<&ViewName>,
        place: Place,
        upper: Upper,
        limit: &LimitArgs,
    ) -> Result<MountRequest, CliError> {
        if (limit.upper_size.is_some() || limit.upper_inodes.is_some()) && upper == Upper::ReadOnly {
            return Err(CliError::usage(
                "a read-only view has no upper: --upper-size and --upper-inodes do not go with it",
            ));
        }
        Ok(MountRequest {
            name: name.map(|name| name.as_str().to_owned()),
            store: absolute(&self.store)?,
            upper_size: limit.upper_size,
            upper_inodes: limit.upper_inodes,
            owner: self.owner.map(Owner::ids),
            backend: self.backend.asked(),
            io: match self.io {
                IoArg::Auto => Io::Auto,
                IoArg::Passthrough => Io::Passthrough,
                IoArg::Cached => Io::Cached,
            },
            acl: self.acl,
            devices: self.devices,
            require_gc_roots: self.require_gc_roots,
            no_gc_warning: self.no_gc_warning,
            no_restart: self.no_restart,
            threads: Some(self.threads),
            trace: self.trace.as_deref().map(absolute).transpose()?,
            ..MountRequest::new(absolute(&self.closure)?, place, upper)
        })
    }

    /// Asks Nix for what the store lacks of the environment, if that was asked for. Nix works for the user of this process,
    /// whoever serves the view.
    ///
    /// # Errors
    /// If the lock cannot be read, or Nix can neither fetch nor build it.
    pub fn realise(&self, context: &Context) -> Result<(), CliError> {
        if !self.realise {
            return Ok(());
        }
        let location = Location::open(&self.store).context("cannot use the store")?;
        realise(&self.closure, &location, context)
    }

    /// The environment's lock, opened.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn lock(&self) -> Result<File, CliError> {
        open_input(&self.closure)
            .map_err(LockError::file("read", &absolute(&self.closure)?))
            .context("cannot use the environment")
    }
}

/// Asks Nix for what a store lacks of a lock.
///
/// # Errors
/// If the lock cannot be read, or Nix can neither fetch nor build it.
pub fn realise(file: &Path, location: &Location, context: &Context) -> Result<(), CliError> {
    let lock = EnvLock::read(file).context("cannot use the environment")?;
    verify_store(&lock, &location.dir).with_context(|| format!("cannot use {} here", file.display()))?;
    let told = lock.realise_in(location, &context.state.state);
    told.map(drop).map_err(|error| {
        let missing = match &error {
            LockError::Program { .. } => lock.closure_in(location, &context.state.state).err(),
            _ => None,
        };
        let hints = lock.fetching_hints(missing.as_ref().unwrap_or(&error), true);
        let what = format!("cannot fetch or build the store paths of {}", file.display());
        let told = match &error {
            LockError::Program { program, problem } => {
                let mut lines = problem.lines();
                let first = lines.next().unwrap_or_default();
                CliError::new(format!("{what}: {program} {first}")).details(lines)
            }
            _ => CliError::new(what).because(error),
        };
        hints.into_iter().fold(told, CliError::hint)
    })
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
    let absolute = std::path::absolute(path);
    absolute.map(plain).with_context(|| format!("'{}' is no usable path", path.display()))
}

/// As [`absolute`], without symbolic links: where a view would be mounted that is meant by the path. A view at it is asked nothing.
///
/// # Errors
/// As for [`absolute`].
pub fn mount_path(path: &Path) -> Result<PathBuf, CliError> {
    let path = absolute(path)?;
    if let Ok(real) = open::real_path(&path) {
        return Ok(real);
    }
    // A mount of another user's, or nothing.
    Ok(match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path,
    })
}

/// An absolute path without `..` and without a slash at its end, which means the same. What is not there stays as it is.
fn plain(path: PathBuf) -> PathBuf {
    let parts: Vec<Component<'_>> = path.components().collect();
    let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    // With a slash at its end a symbolic link is followed.
    let followed = slash && parts.iter().collect::<PathBuf>().is_symlink();
    let last = if followed {
        Some(parts.len())
    } else {
        parts.iter().rposition(|part| *part == Component::ParentDir)
    };
    let Some(last) = last else { return parts.iter().collect() };
    let (above, below) = parts.split_at((last + 1).min(parts.len()));
    // What is above `..` may be a symbolic link.
    match above.iter().collect::<PathBuf>().canonicalize() {
        Ok(above) => below.iter().fold(above, |path, part| path.join(part)),
        Err(_) => path,
    }
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
    fn paths_are_plain_and_mean_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        std::fs::create_dir_all(at("a/deep/er")).unwrap();
        std::os::unix::fs::symlink("a/deep", at("link")).unwrap();
        for (given, wanted) in [
            ("a/./deep//er/", "a/deep/er"),
            ("a/../new", "new"),
            ("a/deep/../../a/deep/x/y", "a/deep/x/y"),
            ("link/../x", "a/x"),
            ("link", "link"),
            ("link/", "a/deep"),
            ("link/er", "link/er"),
            ("none/../x", "none/../x"),
        ] {
            assert_eq!(absolute(&at(given)).unwrap(), at(wanted), "{given}");
        }
        absolute(Path::new("")).unwrap_err();
    }

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!("1000:100".parse::<Owner>().unwrap(), Owner(1000, 100));
        for bad in ["", "1", "1:", ":1", "a:b", "1:2:3", "-1:0", "4294967295:0"] {
            bad.parse::<Owner>().unwrap_err();
        }
    }
}
