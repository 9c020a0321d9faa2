//! The upper of a view on disk: `{tree,work,meta.json,view.json,lock}` under one directory that only its owner can enter;
//! with a limit `upper.img` is in the place of `tree` and `work`, and they are in its file system.
//!
//! `tree/nix` is the view's own tree and `work` its work directory, both in the format that `meta.json` names; `view.json`
//! is what it lay over when it was last mounted; `lock` is
//! locked, and holds the process id of its holder, as long as somebody serves the view, and its time of modification is
//! that of the last use. The lock goes with the last
//! process that has it, however that dies.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

mod error;
mod holder;
mod image;
mod last;
mod layout;
mod limit;
mod limited;
mod list;
mod look;
mod meta;
mod overlay;
mod rebuild;
mod space;

pub use error::UpperError;
pub use image::can_limit;
pub use last::LastView;
pub use layout::root_path;
pub use limit::{LEAST_SIZE, Limit, LimitChoice, Usage};
pub use list::{UpperInfo, list, remove_stale, remove_stale_part, space, stale};
pub use look::UpperLook;
pub use meta::Meta;
pub use overlay::OverlayUpper;
pub use space::Space;

use crate::layer::Lower;
use crate::layer::dir::{self, DirUpper, Format};
use crate::store::path::StoreDir;
use crate::sys;
use crate::sys::overlay_use::OverlayUse;
use crate::vfs::{Errno, Name};
use error::Tried;
use holder::{Attempt, Holder};
use image::Image;
use layout::{Before, DATA, Layout, TREE};
use limited::has;
use meta::TreeId;

const WORK: &[u8] = b"work";

/// What an upper is opened for.
#[derive(Clone, Debug)]
pub struct UpperSpec<'a> {
    /// The store directory of the closure it lies over; an upper that was made over another is refused.
    pub store_dir: &'a StoreDir,
    /// The name of the view, for people.
    pub view: &'a str,
    /// Owner and group of the root of a new upper.
    pub owner: (u32, u32),
    /// The format of a new upper; `None` takes the best that works.
    pub format: Option<Format>,
    /// The limit that is asked for. One that has a limit keeps it without; one that was made without gets none.
    pub limit: LimitChoice,
}

/// An upper that is held: nobody else can open it until this, and every copy of it that a fork made, is gone.
///
/// A temporary upper is removed when this is dropped by the process that holds it
/// ([`record_holder`](Self::record_holder)); not by another process that merely inherited it.
#[derive(Debug)]
pub struct UpperDir {
    path: PathBuf,
    dir: OwnedFd,
    lock: File,
    holder: u32,
    meta: Meta,
    layer: DirUpper,
    image: Option<Image>,
    layout: Layout,
    origin: Origin,
    removed: bool,
    /// It was made ready for an overlay.
    for_overlay: bool,
}

/// What was there before an upper was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// The upper.
    Found,
    /// An empty directory.
    Filled,
    /// Nothing.
    Made,
}

/// What is in the directory of an upper, made and opened.
struct Filled {
    meta: Meta,
    layer: DirUpper,
    image: Option<Image>,
    layout: Layout,
}

impl UpperDir {
    /// Opens and holds the upper at `path`; with `create`, makes it if there is none or the directory is empty.
    ///
    /// A directory with `tree` (or `data`) and `work` but without `meta.json` is taken over if all that is in it can be read
    /// rightly (it may have been overlayfs's): that reads all of it, once.
    ///
    /// # Errors
    /// Each kind of [`UpperError`]; nothing is left behind that was not there before, except directories above it.
    pub fn open(path: &Path, create: bool, spec: &UpperSpec<'_>) -> Result<Self, UpperError> {
        Self::open_as(path, create, spec, false)
    }

    /// Makes an upper for one mount, in a directory of its own below `parent`; it is removed when it is dropped.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn temporary(parent: &Path, spec: &UpperSpec<'_>) -> Result<Self, UpperError> {
        DirBuilder::new().recursive(true).create(parent).tried("make the directory for it", parent)?;
        for attempt in 0_u32.. {
            let path = parent.join(format!("tmp-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                answer => {
                    answer.tried("make the directory", &path)?;
                    let opened = Self::open_as(&path, true, spec, true);
                    if opened.is_err() {
                        remove(&path)?;
                    }
                    return opened;
                }
            }
        }
        Err(UpperError::Missing { path: parent.to_owned() })
    }

    fn open_as(path: &Path, create: bool, spec: &UpperSpec<'_>, temporary: bool) -> Result<Self, UpperError> {
        let made = create && make_directory(path).tried("make the directory", path)?;
        let dir = open_top(path)?;
        let names = check_top(dir.as_fd(), path)?;
        if !create && !layout::has_tree(&names) && !has(&names, image::FILE) {
            let why = "it has neither a directory 'tree' nor a file 'upper.img'".to_owned();
            return Err(UpperError::NotAnUpper { path: path.to_owned(), why });
        }
        let lock = hold(dir.as_fd(), path)?;
        let found = Meta::read(dir.as_fd(), path)?;
        if let Some(meta) = found.as_ref().filter(|meta| meta.store_dir != *spec.store_dir) {
            return Err(UpperError::OtherStore {
                path: path.to_owned(),
                was: meta.store_dir.to_string(),
                wanted: spec.store_dir.to_string(),
            });
        }
        // Known only now: until the lock was held another could make it, and use it.
        let names = names_in(dir.as_fd()).tried("list the directory", path)?;
        // An image that was never finished is nothing, unless `meta.json` knows of it.
        let counts = |name: &&Vec<u8>| *name != holder::FILE && (found.is_some() || *name != image::NEW_FILE);
        let origin = match (names.iter().any(|name| counts(&name)), made) {
            (true, _) => Origin::Found,
            (false, true) => Origin::Made,
            (false, false) => Origin::Filled,
        };
        let opened = Self::fill(path, dir.as_fd(), &names, found.as_ref(), spec, temporary);
        let Filled { meta, layer, image, layout } = opened.or_else(|error| {
            undo(dir.as_fd(), origin).tried("take back what was made of", path)?;
            Err(error)
        })?;
        let mut upper = Self {
            path: path.to_owned(),
            dir,
            lock,
            holder: 0,
            meta,
            layer,
            image,
            layout,
            origin,
            removed: false,
            for_overlay: false,
        };
        upper.record_holder()?;
        Ok(upper)
    }

    /// Makes what is missing in an upper that is held, and opens it.
    ///
    /// Of a new image the name comes last: whoever finds `meta.json` with a limit and an unfinished image alone makes it
    /// again, since nothing was ever in it.
    fn fill(
        path: &Path,
        dir: BorrowedFd<'_>,
        names: &[Vec<u8>],
        found: Option<&Meta>,
        spec: &UpperSpec<'_>,
        temporary: bool,
    ) -> Result<Filled, UpperError> {
        let temporary = found.map_or(temporary, |meta| meta.temporary);
        let limit = limited::limit(path, names, found, spec.limit)?;
        let mut image = match limit {
            Some(limit) => Some(limited::open_image(path, dir, names, found, limit, !temporary)?),
            None if has(names, image::NEW_FILE) => {
                sys::names::unlink(dir, image::NEW_FILE).tried("remove an unfinished 'upper.img'", path)?;
                None
            }
            None => None,
        };
        let top = image.as_ref().map_or(dir, Image::top);
        let root = layout::settle(top, path, spec.owner, !temporary)?;
        let (work, _) = layout::directory(top, WORK, None).tried("make 'work'", path)?;
        let format = match found {
            Some(meta) => Some(meta.format),
            None => survey(root.dir.as_fd(), work.as_fd(), path)?.or(spec.format),
        };
        let own = found.and_then(|meta| meta.own.as_ref()).filter(|_| image.is_none());
        let same = match own {
            Some(own) => *own == TreeId::of(root.dir.as_fd(), None).tried("look at 'tree/nix'", path)?,
            None => false,
        };
        let opened = match format.filter(|_| same) {
            Some(format) => DirUpper::open_again(&root.dir, &work, format),
            None => DirUpper::open(&root.dir, &work, format),
        };
        let layer = opened.map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => {
                UpperError::Unsupported { path: path.to_owned(), why: error.to_string() }
            }
            _ => UpperError::Io { action: "open 'tree' and 'work'", path: path.to_owned(), source: error },
        })?;
        let layer = layer.with_base(root.layout.base()).with_ceiling(limit.map(image::ceiling));
        let meta = Meta::new(layer.format(), spec.store_dir, spec.view, temporary, limit);
        let mut meta = meta.at(root.layout, image.as_ref(), found);
        match root.before {
            Before::Missing => {
                meta.own =
                    Some(TreeId::of(root.dir.as_fd(), image.as_ref()).tried("look at 'tree/nix'", path)?);
            }
            Before::Data => meta.old_redirects = true,
            Before::There => {}
        }
        let new = image.as_ref().is_some_and(Image::is_new);
        if let Some(image) = image.as_ref().filter(|_| new && !temporary) {
            image.sync(path)?;
        }
        match if found == Some(&meta) { Ok(()) } else { meta.write(dir, path) } {
            Err(error) if error.is_full() && found.is_some_and(|found| found.stands_for(&meta)) => {
                tracing::warn!(%error, "the upper is used as it was");
            }
            answer => answer?,
        }
        if let Some(image) = image.as_mut().filter(|_| new) {
            image.keep(dir, path, !temporary)?;
        }
        Ok(Filled { meta, layer, image, layout: root.layout })
    }

    /// Where `tree` and `work` are: its directory, or its image.
    fn top(&self) -> BorrowedFd<'_> {
        self.image.as_ref().map_or(self.dir.as_fd(), Image::top)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its tree; a clone of it is the same.
    #[must_use]
    pub fn layer(&self) -> &DirUpper {
        &self.layer
    }

    /// Notes in the file `lock` that this process holds the upper; to be called by the one that serves, after a fork.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn record_holder(&mut self) -> Result<(), UpperError> {
        self.holder = std::process::id();
        let image = self.image.as_ref().map(|image| sys::open::number(image.top()));
        holder::write(&self.lock, Holder { pid: self.holder, image }, None).tried("write 'lock'", &self.path)
    }

    /// Notes in the file `lock` that an overlay is mounted over it: it is in use as long as that is there, also when this process is
    /// killed. `None`: not any more.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn note_overlay(&self, overlay: Option<&OverlayUse>) -> Result<(), UpperError> {
        let image = self.image.as_ref().map(|image| sys::open::number(image.top()));
        holder::write(&self.lock, Holder { pid: self.holder, image }, overlay)
            .tried("write 'lock'", &self.path)
    }

    /// Notes in the file `view.json` what it lies over, for who asks later what it changes.
    ///
    /// # Errors
    /// [`UpperError::Io`], [`UpperError::LastView`].
    pub fn record_view(&self, view: &LastView) -> Result<(), UpperError> {
        view.write(self.dir.as_fd(), &self.path)
    }

    /// What it lay over when it was last mounted, if that is noted.
    ///
    /// # Errors
    /// [`UpperError::LastView`], [`UpperError::Io`].
    pub fn last_view(&self) -> Result<Option<LastView>, UpperError> {
        LastView::read(self.dir.as_fd(), &self.path)
    }

    /// True if anything is in its tree.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn holds_anything(&self) -> Result<bool, UpperError> {
        let names = self.layer.root().and_then(|root| self.layer.read_dir(&root));
        names.map(|names| !names.is_empty()).tried("list the tree", &self.path)
    }

    /// True if it has a database of Nix's of its own. Looks for the name alone: what is there is the container's.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn has_nix_database(&self) -> Result<bool, UpperError> {
        let path = ["var", "nix", "db", "db.sqlite"].map(|name| Name::new(name.as_bytes()));
        let path: Vec<Name> = path.into_iter().flatten().collect();
        match self.layer.resolve(&path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                Ok(false)
            }
            Err(error) => Err(error).tried("look for a database of Nix's", &self.path),
        }
    }

    /// Gives it back unused: what opening it has made is taken away again, but for directories above it.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn give_back(mut self) -> Result<(), UpperError> {
        self.removed = true;
        undo(self.dir.as_fd(), self.origin).tried("take back what was made of", &self.path)
    }

    /// Lets go of it as it is, also of a temporary one.
    pub fn leave(mut self) {
        self.removed = true;
    }

    /// Removes it and all that is in it.
    ///
    /// # Errors
    /// [`UpperError::Io`]; what is left is still an upper that can be removed.
    pub fn remove(mut self) -> Result<(), UpperError> {
        self.removed = true;
        remove_all(self.dir.as_fd()).tried("remove", &self.path)
    }
}

impl Drop for UpperDir {
    fn drop(&mut self) {
        let ours = !self.removed && self.holder == std::process::id();
        if ours
            && !self.meta.temporary
            && let Err(error) = holder::touch(&self.lock)
        {
            tracing::debug!(%error, path = %self.path.display(), "the time of last use is not noted");
        }
        if ours
            && self.meta.temporary
            && let Err(error) = remove_all(self.dir.as_fd())
        {
            tracing::warn!(%error, path = %self.path.display(), "could not remove a temporary upper");
        }
    }
}

/// Notes in an upper that the overlay over it is gone, and that it was used until now. One that is used again is left alone.
///
/// # Errors
/// [`UpperError::Io`].
pub fn note_end(path: &Path) -> Result<(), UpperError> {
    const ACTION: &str = "write 'lock'";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened.map_err(io::Error::from).tried("open", path)?,
    };
    let Attempt::Held(lock) = holder::hold(dir.as_fd()).tried(ACTION, path)? else { return Ok(()) };
    holder::write(&lock, Holder { pid: std::process::id(), image: None }, None).tried(ACTION, path)?;
    holder::touch(&lock).tried(ACTION, path)
}

/// Removes the upper at `path` and all that is in it, if nobody serves it.
///
/// # Errors
/// Each kind of [`UpperError`]; nothing is removed of a directory that is not an upper.
pub fn remove(path: &Path) -> Result<(), UpperError> {
    let dir = open_top(path)?;
    check_top(dir.as_fd(), path)?;
    let lock = hold(dir.as_fd(), path)?;
    let removed = remove_all(dir.as_fd()).tried("remove", path);
    drop(lock);
    removed
}

fn undo(dir: BorrowedFd<'_>, origin: Origin) -> io::Result<()> {
    match origin {
        Origin::Found => Ok(()),
        Origin::Filled => remove_contents(dir),
        Origin::Made => remove_all(dir),
    }
}

fn remove_all(dir: BorrowedFd<'_>) -> io::Result<()> {
    remove_contents(dir)?;
    // Not by its path: the owner of a directory above may have another one there by now.
    sys::names::remove_opened_directory(dir)
}

/// `meta.json` and `lock` go last: until then it is an upper, and ours.
fn remove_contents(dir: BorrowedFd<'_>) -> io::Result<()> {
    let present = |answer: io::Result<()>| match answer {
        Err(error) if Errno::of(&error) != Errno::ENOENT => Err(error),
        _ => Ok(()),
    };
    for name in [TREE, DATA, WORK] {
        match sys::open::open_directory(dir, name) {
            Err(error) if Errno::of(&error) == Errno::ENOENT => continue,
            tree => dir::clear(tree?.as_fd())?,
        }
        present(sys::names::remove_directory(dir, name))?;
    }
    for name in
        [image::NEW_FILE, image::FILE, last::NEW_FILE, last::FILE, meta::NEW_FILE, meta::FILE, holder::FILE]
    {
        present(sys::names::unlink(dir, name))?;
    }
    Ok(())
}

/// Makes a directory and those above it; `true` if it was missing.
fn make_directory(path: &Path) -> io::Result<bool> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        answer => answer.map(|()| true),
    }
}

fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let listing = sys::open::open_listing(dir)?;
    sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
        names.push(name.to_vec());
        Ok(())
    })?;
    Ok(names)
}

fn open_top(path: &Path) -> Result<OwnedFd, UpperError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Err(UpperError::Missing { path: path.to_owned() }),
        Err(rustix::io::Errno::NOTDIR) => {
            Err(UpperError::NotAnUpper { path: path.to_owned(), why: "it is no directory".to_owned() })
        }
        answer => answer.map_err(io::Error::from).tried("open the directory", path),
    }
}

/// Makes sure that a directory is an upper or empty, and private; answers the names in it.
fn check_top(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<Vec<u8>>, UpperError> {
    let not_an_upper = |why: String| UpperError::NotAnUpper { path: path.to_owned(), why };
    let top = fs::File::from(dir.try_clone_to_owned().tried("open the directory", path)?);
    let top_meta = top.metadata().tried("look at the directory", path)?;
    let names = names_in(dir).tried("list the directory", path)?;
    let ours = [
        TREE,
        DATA,
        WORK,
        image::FILE,
        image::NEW_FILE,
        meta::FILE,
        meta::NEW_FILE,
        last::FILE,
        last::NEW_FILE,
        holder::FILE,
    ];
    if let Some(other) = names.iter().find(|name| !ours.contains(&name.as_slice())) {
        return Err(not_an_upper(format!("it holds '{}'", other.escape_ascii())));
    }
    let not_private = |why: String| UpperError::NotPrivate { path: path.to_owned(), why };
    let us = rustix::process::geteuid().as_raw();
    if top_meta.uid() != us {
        return Err(not_private(format!("it belongs to user {}, and this is user {us}", top_meta.uid())));
    }
    if top_meta.mode() & 0o077 != 0 {
        if !names.is_empty() {
            return Err(not_private(format!("run 'chmod 700 {}'", path.display())));
        }
        top.set_permissions(fs::Permissions::from_mode(0o700)).tried("set the mode", path)?;
    }
    Ok(names)
}

fn hold(dir: BorrowedFd<'_>, path: &Path) -> Result<File, UpperError> {
    match holder::hold(dir).tried("take 'lock'", path)? {
        Attempt::Held(file) => Ok(file),
        Attempt::Busy(pid) => Err(UpperError::Busy { path: path.to_owned(), pid }),
        Attempt::Gone => Err(UpperError::Missing { path: path.to_owned() }),
    }
}

/// Looks at a tree that has no `meta.json`; answers the format that it has, if it has any.
fn survey(data: BorrowedFd<'_>, work: BorrowedFd<'_>, path: &Path) -> Result<Option<Format>, UpperError> {
    let survey = dir::survey(data, work).tried("read what is there", path)?;
    match survey.unsupported {
        Some(why) => Err(UpperError::Unsupported { path: path.to_owned(), why }),
        None => Ok(survey.format),
    }
}

#[cfg(test)]
mod old_tests;
#[cfg(test)]
mod tests;
