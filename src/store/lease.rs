//! Roots of Nix's garbage collector that count as long as somebody holds them.
//!
//! ```text
//! GCROOTS/nixview/NAME-RANDOM/lease       locked (OFD) by the holder as long as it lives, however it ends; says of an overlay,
//!                                         if it is for one, which the kernel may keep longer
//! GCROOTS/nixview/NAME-RANDOM/HASH-name   a root: a symbolic link to /nix/store/HASH-name
//! ```
//!
//! Nix follows every symbolic link below `gcroots` in its state directory whose target is in the store directory
//! (manual, "Garbage Collector Roots"), and takes a regular file for a root only if its name is that of a store path. The
//! links name the paths as the store does, also where the store lies elsewhere on this machine.
//!
//! The lock, and nothing else, tells whether a lease counts: no list of leases has to survive a crash or a reboot, and
//! whoever may write the directory can sweep it. `lease` is the first thing in the directory and the last; it is
//! removed by nobody who does not hold its lock. So a sweep needs no turn with those who make leases:
//!
//! - An empty directory is one that is being made or removed: a sweep removes it, and its maker begins another.
//! - A maker that does not get the lock, or gets that of a removed file, was taken for dead: it begins another.
//! - A directory with links and without `lease` was never a lease: it stays.
//!
//! Nothing is followed or removed by a path below `GCROOTS/nixview`, which may be another user's.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, statat};

use super::gc_root::GcRootError;
use super::{StoreDir, StorePath};
use crate::sys::dirent::for_each_name;
use crate::sys::overlay_use::{self, OverlayUse};
use crate::sys::rounds::{Part, Rounds};
use crate::sys::{lock, names, open};

/// The directory of ours below `gcroots`; it stays.
const OURS: &str = "nixview";

/// The file that is locked; no name of a store path.
const LEASE: &[u8] = b"lease";

/// How often a lease is begun that a sweep takes away at that moment.
const ATTEMPTS: u32 = 1000;

/// Roots that are held. Dropping it without [`Lease::release`] leaves them to the next [`sweep`].
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    /// The directory that it is in: its path may lead elsewhere when the lease ends, as when a view lies over it.
    parent: OwnedFd,
    dir: OwnedFd,
    /// Locked.
    file: File,
    count: usize,
}

impl Lease {
    /// Makes one root for each of `paths`, in a new directory below `GCROOTS/nixview`.
    ///
    /// # Errors
    /// [`GcRootError::Unwritable`]; then nothing is left of them, or a lease that nobody holds.
    pub fn take(
        gcroots: &Path,
        name: &str,
        store: &StoreDir,
        paths: &[StorePath],
    ) -> Result<Self, GcRootError> {
        let mut lease = Self::begin(gcroots, name)?;
        for path in paths {
            let target = store.join(path);
            let link = path.as_str().as_bytes();
            if let Err(source) = names::create_symlink(lease.dir.as_fd(), link, target.as_os_str().as_bytes())
            {
                let path = lease.path.join(path.as_str());
                // What could not be written is the error to tell, not that it could not be undone.
                drop(lease.release());
                return Err(GcRootError::Unwritable { path, source });
            }
        }
        lease.count = paths.len();
        Ok(lease)
    }

    /// A lease without roots.
    fn begin(gcroots: &Path, name: &str) -> Result<Self, GcRootError> {
        let path = gcroots.join(OURS);
        let fail = |source| GcRootError::Unwritable { path: path.clone(), source };
        let ours = open_ours(gcroots, true).map_err(fail)?;
        for attempt in 0..ATTEMPTS {
            let name = unique(name, attempt);
            match names::create_directory(ours.as_fd(), name.as_bytes(), 0o755) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                answer => answer.map_err(fail)?,
            }
            match Self::establish(&ours, &path, &name) {
                Ok(Some(lease)) => return Ok(lease),
                Ok(None) => {}
                Err(source) => {
                    // As above.
                    drop(give_up(&ours, &name));
                    return Err(GcRootError::Unwritable { path: path.join(name), source });
                }
            }
        }
        Err(fail(ErrorKind::ResourceBusy.into()))
    }

    /// Makes a new directory a lease; `None` if a sweep was faster.
    fn establish(ours: &OwnedFd, path: &Path, name: &str) -> io::Result<Option<Self>> {
        let Some(dir) = if_there(open::open_beneath(ours.as_fd(), name.as_bytes(), LISTING, 0))? else {
            return Ok(None);
        };
        let parent = ours.try_clone()?;
        let Some(file) = if_there(names::create_file(dir.as_fd(), LEASE, 0o600))? else { return Ok(None) };
        let file = File::from(file);
        if !lock::try_lock(&file)? || file.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        Ok(Some(Self { path: path.join(name), parent, dir, file, count: 0 }))
    }

    /// Notes that they are for an overlay: they count as long as that is mounted, also when this process is killed.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn note_overlay(&self, overlay: &OverlayUse) -> io::Result<()> {
        self.file.write_all_at(format!("{}\n", overlay.line_in(&self.file)?).as_bytes(), 0)
    }

    /// The directory that holds them.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// How many roots there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Removes the roots and the lease.
    ///
    /// # Errors
    /// [`GcRootError::Foreign`] if somebody put something else there, which stays; [`GcRootError::Unwritable`].
    pub fn release(self) -> Result<(), GcRootError> {
        let fail = |source| GcRootError::Unwritable { path: self.path.clone(), source };
        if let Some(name) = clear(self.dir.as_fd()).map_err(fail)? {
            return Err(GcRootError::Foreign { path: self.path.join(name) });
        }
        let name = self.path.file_name().unwrap_or_default();
        if_there(names::remove_directory(self.parent.as_fd(), name.as_bytes())).map(drop).map_err(fail)
    }
}

/// What a sweep came to.
#[derive(Default, Debug)]
pub struct Swept {
    /// The directories of leases that nobody held.
    pub dead: Vec<PathBuf>,
    /// What could not be removed, and what is no lease.
    pub problems: Vec<GcRootError>,
}

/// Removes the leases of a store that nobody holds. Those that this user may not write are others' and left alone.
///
/// Waits for nobody: may run at any time, in any number of processes.
///
/// # Errors
/// If the directory of leases cannot be read.
pub fn sweep(gcroots: &Path) -> Result<Swept, GcRootError> {
    each(gcroots, None, end_if_dead).map(|(swept, _)| swept)
}

/// As [`sweep`], of the next [`PART`] leases: it costs the same however many there are. If one of them is dead, all are looked
/// at.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_part(gcroots: &Path, rounds: &Rounds) -> Result<Swept, GcRootError> {
    let (mut swept, whole) = each(gcroots, Some(rounds), end_if_dead)?;
    if !swept.dead.is_empty() && !whole {
        let others = sweep(gcroots)?;
        swept.dead.extend(others.dead);
        swept.problems = others.problems;
    }
    Ok(swept)
}

/// How many leases [`sweep_part`] looks at.
const PART: usize = 32;

/// The leases that [`sweep`] would remove.
///
/// # Errors
/// As [`sweep`].
pub fn dead(gcroots: &Path) -> Result<Swept, GcRootError> {
    let look = |parent: BorrowedFd<'_>, name: &[u8]| {
        let dir = match open_candidate(parent, name)? {
            Ok(dir) => dir,
            Err(fate) => return Ok(fate),
        };
        match if_there(open_lease(dir.as_fd()))? {
            Some(file) if lock::is_locked(&file)? || overlay_use::is_used(&file)? => Ok(Fate::Held),
            Some(_) => Ok(Fate::Dead),
            None => Ok(Fate::Gone),
        }
    };
    each(gcroots, None, look).map(|(swept, _)| swept)
}

/// Removes one lease, if it is there and nobody holds it.
///
/// # Errors
/// As [`Lease::release`].
pub fn remove_dead(dir: &Path) -> Result<(), GcRootError> {
    let fail = |source| GcRootError::Unwritable { path: dir.to_owned(), source };
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(fail(ErrorKind::InvalidInput.into()));
    };
    let Some(parent) = if_there(open_dir(parent)).map_err(fail)? else { return Ok(()) };
    match end_if_dead(parent.as_fd(), name.as_bytes()).map_err(fail)? {
        Fate::Foreign(below) => Err(GcRootError::Foreign { path: dir.join(below) }),
        Fate::Dead | Fate::Held | Fate::Gone => Ok(()),
    }
}

/// What a name below `GCROOTS/nixview` is.
enum Fate {
    /// Nobody held it.
    Dead,
    /// Somebody holds it.
    Held,
    /// Nothing, by now.
    Gone,
    /// There is something below it that is none of ours.
    Foreign(PathBuf),
}

/// Looks at all, or with `rounds` at the next; answers whether it were all, too.
fn each(
    gcroots: &Path,
    rounds: Option<&Rounds>,
    look: impl Fn(BorrowedFd<'_>, &[u8]) -> io::Result<Fate>,
) -> Result<(Swept, bool), GcRootError> {
    let ours = gcroots.join(OURS);
    let fail = |path: PathBuf, source| GcRootError::Unwritable { path, source };
    let mut swept = Swept::default();
    let parent = match if_there(open_ours(gcroots, false)) {
        Ok(Some(parent)) => parent,
        Ok(None) => return Ok((swept, true)),
        Err(error) if is_of_others(&error) => return Ok((swept, true)),
        Err(error) => return Err(fail(ours, error)),
    };
    let part = match rounds {
        Some(rounds) => rounds.next(parent.as_fd(), PART),
        None => all_names(parent.as_fd()),
    };
    let part = part.map_err(|source| fail(ours.clone(), source))?;
    for name in part.names.into_iter().map(std::ffi::OsString::from_vec) {
        let path = ours.join(&name);
        match look(parent.as_fd(), name.as_bytes()) {
            Ok(Fate::Dead) => swept.dead.push(path),
            Ok(Fate::Held | Fate::Gone) => {}
            Ok(Fate::Foreign(below)) => swept.problems.push(GcRootError::Foreign { path: path.join(below) }),
            Err(error) if is_of_others(&error) => {}
            Err(error) => swept.problems.push(fail(path, error)),
        }
    }
    Ok((swept, part.whole))
}

fn all_names(dir: BorrowedFd<'_>) -> io::Result<Part> {
    let mut names = Vec::new();
    for_each_name(dir, |name, _, _| {
        names.push(name.to_vec());
        Ok(())
    })?;
    Ok(Part { names, whole: true, ended: true })
}

/// A directory that is listed.
const LISTING: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens a name below `GCROOTS/nixview`, if it is a directory.
fn open_candidate(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Result<OwnedFd, Fate>> {
    match open::open_beneath(parent, name, LISTING, 0) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Err(Fate::Gone)),
        // A file, or a symbolic link.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            Ok(Err(Fate::Foreign(PathBuf::new())))
        }
        answer => answer.map(Ok),
    }
}

fn end_if_dead(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Fate> {
    if is_held(parent, name) {
        return Ok(Fate::Held);
    }
    let dir = match open_candidate(parent, name)? {
        Ok(dir) => dir,
        Err(fate) => return Ok(fate),
    };
    let mut looks = 0..3;
    let file = loop {
        if let Some(file) = if_there(open_lease(dir.as_fd()))? {
            break file;
        }
        if remove_if_empty(parent, name)? {
            return Ok(Fate::Gone);
        }
        // It was begun just now, or is no lease.
        if looks.next().is_none() {
            return Ok(Fate::Foreign(PathBuf::new()));
        }
    };
    if !file.metadata()?.is_file() {
        return Ok(Fate::Foreign(PathBuf::from("lease")));
    }
    if !lock::try_lock(&file)? {
        return Ok(Fate::Held);
    }
    // Whoever removed it held the lock until then.
    if file.metadata()?.nlink() == 0 {
        remove_if_empty(parent, name)?;
        return Ok(Fate::Gone);
    }
    if overlay_use::is_used(&file)? {
        return Ok(Fate::Held);
    }
    if let Some(name) = clear(dir.as_fd())? {
        return Ok(Fate::Foreign(name));
    }
    remove_if_empty(parent, name)?;
    Ok(Fate::Dead)
}

/// True if a lease is held: the answer for nearly all, by one look.
fn is_held(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    let lease = [name, b"/", LEASE].concat();
    let file = open::open_beneath(parent, &lease, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0);
    file.and_then(lock::is_locked).unwrap_or(false)
}

/// Empties the directory of a lease whose lock this process holds. If there is something else than links in it, its
/// name is answered, and the lease stays with it.
fn clear(dir: BorrowedFd<'_>) -> io::Result<Option<PathBuf>> {
    let mut foreign = None;
    // Its offset is at the end already where this was listed before.
    for_each_name(open::open_listing(dir)?.as_fd(), |name, _, kind| {
        let kind = match kind {
            FileType::Unknown => {
                FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            kind => kind,
        };
        if kind == FileType::Symlink {
            if_there(names::unlink(dir, name))?;
        } else if name != LEASE {
            foreign = Some(PathBuf::from(std::ffi::OsString::from_vec(name.to_vec())));
        }
        Ok(())
    })?;
    if foreign.is_none() {
        if_there(names::unlink(dir, LEASE))?;
    }
    Ok(foreign)
}

/// Removes an empty directory; false if it is not empty.
fn remove_if_empty(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match if_there(names::remove_directory(parent, name)) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// A name that no other lease has, unless two are made in the same nanosecond by one process.
fn unique(name: &str, attempt: u32) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{name}-{:x}{:08x}{attempt:x}", std::process::id(), now.subsec_nanos())
}

/// Removes a directory that did not become a lease.
fn give_up(ours: &OwnedFd, name: &str) -> io::Result<()> {
    let dir = open::open_beneath(ours.as_fd(), name.as_bytes(), LISTING, 0)?;
    if_there(names::unlink(dir.as_fd(), LEASE))?;
    names::remove_directory(ours.as_fd(), name.as_bytes())
}

/// Opens `GCROOTS/nixview`, with `make` after it was made: that Nix's own directory is missing means that this is no Nix
/// state.
///
/// In a state directory of another user than root and this process's, `gcroots` may be no symbolic link: that user could have
/// roots and their directories made elsewhere.
fn open_ours(gcroots: &Path, make: bool) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from(ErrorKind::InvalidInput);
    let (state, name) = gcroots.parent().zip(gcroots.file_name()).ok_or_else(invalid)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let state = rustix::fs::open(state, flags, Mode::empty())?;
    let owner = rustix::fs::fstat(&state)?.st_uid;
    let trusted = owner == 0 || owner == rustix::process::geteuid().as_raw();
    let flags = if trusted { flags } else { flags | OFlags::NOFOLLOW };
    let gcroots = rustix::fs::openat(&state, name, flags, Mode::empty())?;
    if make {
        match names::create_directory(gcroots.as_fd(), OURS.as_bytes(), 0o755) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            answer => answer?,
        }
    }
    open::open_beneath(gcroots.as_fd(), OURS.as_bytes(), LISTING, 0)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The file of a lease, for writing, which the lock needs. A FIFO in its place makes nobody wait.
fn open_lease(dir: BorrowedFd<'_>) -> io::Result<File> {
    open::open_beneath(dir, LEASE, OFlags::RDWR | OFlags::NONBLOCK, 0).map(File::from)
}

fn if_there<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}

/// Leases of others, or on a read-only mount.
fn is_of_others(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests;
