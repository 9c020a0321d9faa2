//! From inode numbers to objects of the layers: by path, checked, with small caches.

use parking_lot::Mutex;

use super::lru::Lru;
use super::merge::{Above, Below, Shows, merge};
use super::node::{Identity, LowerPath, Source};
use super::{AnyFile, Outcome, UnionFs};
use crate::layer::{Access, Lower, Presence, Redirect, Stat, Upper};
use crate::vfs::{Errno, FileKind, Ino, Name};

/// How often a path is walked again because something on it was moved meanwhile.
const WALKS: usize = 16;

/// Which layer a file was opened on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Side {
    Lower,
    Upper,
}

/// Which file a cached one is: of an inode, on a layer, for reading or both.
pub(super) type FileKey = (Ino, Side, bool);

/// Objects and files that were used lately. Losing any of them costs time alone.
pub(super) struct Caches<LO, UO> {
    lower: Mutex<Lru<Ino, LO>>,
    /// With the upper's inode number, which must still be the node's.
    upper: Mutex<Lru<Ino, (u64, UO)>>,
    pub(super) files: Mutex<Lru<FileKey, AnyFile>>,
}

impl<LO: Clone, UO: Clone> Caches<LO, UO> {
    pub(super) fn new(objects: usize, files: usize) -> Self {
        Self {
            lower: Mutex::new(Lru::new(objects)),
            upper: Mutex::new(Lru::new(objects)),
            files: Mutex::new(Lru::new(files)),
        }
    }

    /// Lets go of all that is kept for an inode. What is dropped is dropped after its lock is freed.
    pub(super) fn purge(&self, ino: Ino) {
        let lower = self.lower.lock().remove(&ino);
        let upper = self.upper.lock().remove(&ino);
        drop((lower, upper));
        for key in [(Side::Lower, false), (Side::Upper, false), (Side::Upper, true)] {
            let file = self.files.lock().remove(&(ino, key.0, key.1));
            drop(file);
        }
    }

    pub(super) fn keep_upper(&self, ino: Ino, number: u64, object: &UO) {
        let displaced = self.upper.lock().put(ino, (number, object.clone()));
        drop(displaced);
    }

    pub(super) fn keep_lower(&self, ino: Ino, object: &LO) {
        let displaced = self.lower.lock().put(ino, object.clone());
        drop(displaced);
    }
}

/// A directory of the view, ready for names to be looked up in it.
#[derive(Clone, Debug)]
pub(super) struct Place<LO, UO> {
    pub(super) ino: Ino,
    /// The number of changes that had been made; nothing that is found in the place is older.
    pub(super) changes: u64,
    pub(super) source: Source,
    /// False for a directory that was removed: nothing is in it, nothing can be made in it.
    pub(super) linked: bool,
    pub(super) upper: Option<UO>,
    /// Present if the lower shows in it.
    pub(super) lower: Option<LO>,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) struct Found<LO, UO> {
    pub(super) identity: Identity,
    /// Of the layer that decides.
    pub(super) stat: Stat,
    pub(super) upper: Option<UO>,
    pub(super) lower: Option<LO>,
}

impl<LO, UO> Found<LO, UO> {
    pub(super) fn is_directory(&self) -> bool {
        self.identity.kind == FileKind::Directory
    }

    pub(super) fn source(&self) -> Source {
        self.identity.source
    }
}

pub(super) type PlaceOf<L, U> = Place<<L as Lower>::Object, <U as Lower>::Object>;
pub(super) type FoundOf<L, U> = Found<<L as Lower>::Object, <U as Lower>::Object>;

/// `Ok(None)` for a name that is not there.
pub(super) fn present<T>(result: std::io::Result<T>) -> Outcome<Option<T>> {
    match result.map_err(Errno::from) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// The upper's object of an inode; the caller holds no lock of a directory.
    pub(super) fn upper_object(&self, ino: Ino) -> Outcome<U::Object> {
        let upper = self.upper()?;
        for _ in 0..WALKS {
            let number = {
                let table = self.table.lock();
                let node = table.get(ino)?;
                if let Some(object) = node.held.as_ref().and_then(|h| h.upper.as_ref()) {
                    return Ok(object.clone());
                }
                node.source.upper().ok_or(Errno::ESTALE)?
            };
            if let Some(object) = self.near_upper(ino, number) {
                return Ok(object);
            }
            let path = self.table.lock().path(ino);
            if let Some(path) = path
                && let Some(object) = walked(upper.resolve(&path))?
                && upper.stat(&object)?.ino == number
            {
                self.caches.keep_upper(ino, number, &object);
                return Ok(object);
            }
            self.settle(ino);
        }
        Err(Errno::ESTALE)
    }

    /// The upper's object of an inode that is there without a walk: the root, or one that was used lately.
    fn near_upper(&self, ino: Ino, number: u64) -> Option<U::Object> {
        if ino == Ino::ROOT {
            return self.upper_root.clone();
        }
        let known = self.caches.upper.lock().get(&ino);
        known.filter(|(known, _)| *known == number).map(|(_, object)| object)
    }

    /// The lower's object of an inode; the caller holds no lock of a directory.
    pub(super) fn lower_object(&self, ino: Ino) -> Outcome<L::Object> {
        for _ in 0..WALKS {
            {
                let table = self.table.lock();
                let node = table.get(ino)?;
                if let Some(object) = node.held.as_ref().and_then(|h| h.lower.as_ref()) {
                    return Ok(object.clone());
                }
            }
            if let Some(object) = self.near_lower(ino) {
                return Ok(object);
            }
            let path = self.table.lock().lower_path(ino);
            if let Some(path) = path
                && let Some(object) = walked(self.lower.resolve(&path))?
            {
                self.caches.keep_lower(ino, &object);
                return Ok(object);
            }
            self.settle(ino);
        }
        Err(Errno::ESTALE)
    }

    /// The lower's object of an inode that is there without a walk: the root, or one that was used lately.
    fn near_lower(&self, ino: Ino) -> Option<L::Object> {
        if ino == Ino::ROOT {
            return Some(self.lower_root.clone());
        }
        self.caches.lower.lock().get(&ino)
    }

    /// Waits until a rename that is under way is done.
    fn settle(&self, ino: Ino) {
        drop(self.topology.lock());
        let parent = self.table.lock().ancestors(ino).first().copied();
        if let Some(parent) = parent {
            drop(self.directories.lock(&[parent]));
        }
    }

    /// A directory as it is now; the caller holds no lock of a directory.
    pub(super) fn place(&self, ino: Ino) -> Outcome<PlaceOf<L, U>> {
        let (source, changes, linked, held) = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            if node.kind != FileKind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let held = node.held.as_ref().map(|held| (held.upper.clone(), held.lower.clone()));
            (node.source, node.changes, table.is_linked(ino), held)
        };
        let (held_upper, held_lower) = held.unwrap_or_default();
        let upper = source.upper().map(|number| {
            held_upper.or_else(|| self.near_upper(ino, number)).map_or_else(|| self.upper_object(ino), Ok)
        });
        let lower = source
            .has_lower()
            .then(|| held_lower.or_else(|| self.near_lower(ino)).map_or_else(|| self.lower_object(ino), Ok));
        let (upper, lower) = (upper.transpose()?, lower.transpose()?);
        Ok(Place { ino, changes, source, linked, upper, lower })
    }

    /// True if a place, with its lock held, is still what it was, and names can be made in it.
    pub(super) fn is_current(&self, place: &PlaceOf<L, U>) -> Outcome<bool> {
        let table = self.table.lock();
        Ok(table.get(place.ino)?.source == place.source && table.is_linked(place.ino))
    }

    /// What shows under a name; reads the layers, and takes no lock.
    pub(super) fn find(&self, place: &PlaceOf<L, U>, name: &Name) -> Outcome<Option<FoundOf<L, U>>> {
        if !place.linked {
            return Ok(None);
        }
        let mut above = Above::Absent;
        let mut object = None;
        let mut redirect = None;
        if let (Some(upper), Some(dir)) = (&self.upper, &place.upper) {
            match upper.presence(dir, name)? {
                Presence::Absent => {}
                Presence::Whiteout => above = Above::Whiteout,
                Presence::Present(found) => {
                    let stat = upper.stat(&found)?;
                    above = match stat.kind {
                        FileKind::Directory => Above::Directory { opaque: upper.is_opaque(&found)? },
                        _ => Above::Other,
                    };
                    if above.lets_through() {
                        redirect = upper.redirect(&found)?;
                    }
                    object = Some((found, stat));
                }
            }
        }
        let mut moved = None;
        let below = match (&redirect, &place.lower) {
            (Some(redirect), _) => self.follow(place, redirect)?.map(|(path, object, stat)| {
                moved = Some(path);
                (object, stat)
            }),
            (None, Some(dir)) if above.lets_through() => self.find_lower(dir, name)?,
            _ => None,
        };
        let whole = self.shows_whole(place);
        // Through a directory that is not opaque nothing but a directory shows, wherever it is moved from.
        let fits = |stat: &Stat| {
            !whole || !matches!(above, Above::Directory { .. }) || stat.kind == FileKind::Directory
        };
        let below = below.filter(|(_, stat)| fits(stat));
        let shows =
            merge(above, below.as_ref().map_or(Below::nothing(whole), |(_, stat)| Below::of(stat.kind)));
        match (shows, object, below) {
            (Shows::Lower, _, Some((lower, stat))) => {
                let identity = Identity::of_lower(stat.kind);
                Ok(Some(Found { identity, stat, upper: None, lower: Some(lower) }))
            }
            (Shows::Upper, Some((object, stat)), _) => {
                let origin = self.upper()?.origin(&object)?;
                let identity = Identity::of_upper(stat.kind, stat.ino, origin);
                Ok(Some(Found { identity, stat, upper: Some(object), lower: None }))
            }
            (Shows::Both, Some((object, stat)), Some((lower, _))) => {
                let identity = Identity::of_both(stat.ino, moved);
                Ok(Some(Found { identity, stat, upper: Some(object), lower: Some(lower) }))
            }
            _ => Ok(None),
        }
    }

    /// True for a place whose directories show only whole.
    pub(super) fn shows_whole(&self, place: &PlaceOf<L, U>) -> bool {
        place.lower.as_ref().is_some_and(|dir| self.lower.shows_whole(dir))
    }

    /// True for a name that does not show although the upper has a directory there: a part of one that this lower has not.
    /// Nothing can be made in its place, and nothing of it is changed.
    pub(super) fn is_part(&self, place: &PlaceOf<L, U>, name: &Name) -> Outcome<bool> {
        let (Some(upper), Some(dir)) = (&self.upper, &place.upper) else { return Ok(false) };
        if !place.linked || !self.shows_whole(place) {
            return Ok(false);
        }
        let Presence::Present(object) = upper.presence(dir, name)? else { return Ok(false) };
        let directory = upper.stat(&object)?.kind == FileKind::Directory;
        Ok(directory && self.find(place, name)?.is_none())
    }

    /// What the lower has where a redirect leads, and where that is. A path that leads nowhere is no error.
    fn follow(
        &self,
        place: &PlaceOf<L, U>,
        redirect: &Redirect,
    ) -> Outcome<Option<(LowerPath, L::Object, Stat)>> {
        match (redirect, &place.lower) {
            (Redirect::Sibling(name), Some(dir)) => {
                let found = self.find_lower(dir, name)?;
                let path = self.path_in_lower(place.ino, name)?;
                Ok(found.map(|(object, stat)| (path, object, stat)))
            }
            (Redirect::Path(path), _) => {
                let Some(object) = walked(self.lower.resolve(path))? else { return Ok(None) };
                let stat = self.lower.stat(&object)?;
                Ok(Some((path.as_slice().into(), object, stat)))
            }
            (Redirect::Sibling(_), None) | (Redirect::Nowhere, _) => Ok(None),
        }
    }

    /// The path in the lower of a name in a directory in which the lower shows.
    pub(super) fn path_in_lower(&self, dir: Ino, name: &Name) -> Outcome<LowerPath> {
        let mut path = self.table.lock().lower_path(dir).ok_or(Errno::ESTALE)?;
        path.push(name.clone());
        Ok(path.into())
    }

    fn find_lower(&self, dir: &L::Object, name: &Name) -> Outcome<Option<(L::Object, Stat)>> {
        match present(self.lower.lookup(dir, name))? {
            Some(object) => {
                let stat = self.lower.stat(&object)?;
                Ok(Some((object, stat)))
            }
            None => Ok(None),
        }
    }

    /// True if removing what the upper has under a name would bring a name of the lower to light.
    pub(super) fn lower_has(&self, place: &PlaceOf<L, U>, name: &Name) -> Outcome<bool> {
        match &place.lower {
            Some(dir) => Ok(present(self.lower.lookup(dir, name))?.is_some()),
            None => Ok(false),
        }
    }

    /// A file of an inode for reads and writes without a handle.
    pub(super) fn cached_file(&self, ino: Ino, side: Side, access: Access) -> Outcome<AnyFile> {
        let key = (ino, side, access == Access::ReadWrite);
        if let Some(file) = self.caches.files.lock().get(&key) {
            return Ok(file);
        }
        let file = self.fresh_file(ino, side, access)?;
        let displaced = self.caches.files.lock().put(key, file.clone());
        drop(displaced);
        Ok(file)
    }

    /// Opens a file of an inode.
    pub(super) fn fresh_file(&self, ino: Ino, side: Side, access: Access) -> Outcome<AnyFile> {
        Ok(match side {
            Side::Lower => {
                AnyFile::from(Box::new(self.lower.open(&self.lower_object(ino)?, access)?) as Box<_>)
            }
            Side::Upper => {
                let object = self.upper_object(ino)?;
                AnyFile::from(Box::new(self.upper()?.open(&object, access)?) as Box<_>)
            }
        })
    }
}

/// `Ok(None)` if the path led elsewhere, because something on it was moved or removed.
fn walked<T>(result: std::io::Result<T>) -> Outcome<Option<T>> {
    match result.map_err(Errno::from) {
        Ok(object) => Ok(Some(object)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}
