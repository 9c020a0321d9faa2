//! The lower of a view: `store/` with the members of a closure in it, and nothing else.
//!
//! Whether a name is a member is decided in memory, before any call on the layer of the store: a hidden name and one
//! that does not exist are the same `ENOENT` and take the same time. Below a member everything is the store's.

use std::io;
use std::sync::Arc;

use super::members::Members;
use crate::layer::{Access, EntryKind, LayerEntry, Lower, Stat};
use crate::vfs::{Errno, FileKind, Name, StatFs, Timespec};

/// The name of the store directory at the root of a view.
const STORE: &[u8] = b"store";

/// Inode numbers of the two directories that are not the store's own; no file system gives these to others.
const ROOT_INO: u64 = u64::MAX;
const STORE_INO: u64 = u64::MAX - 1;

/// The time of the two directories: 1 second after the epoch, as Nix gives it to all that is in a store. The store
/// directory's own would tell when other environments were built.
const TIME: Timespec = Timespec { seconds: 1, nanoseconds: 0 };

/// The closure of an environment, out of a layer whose top is a store directory.
///
/// The root and `store` are made up: mode 0755 (Nix keeps the real one 1775 for a group of build users that a view
/// does not have), owner 0:0, times as Nix sets them, so that they tell nothing of the host.
#[derive(Clone, Debug)]
pub struct ClosureLower<L> {
    store: L,
    members: Arc<Members>,
}

/// An inode of a [`ClosureLower`].
#[derive(Clone, Debug)]
pub enum ClosureObject<O> {
    /// The top of the view.
    Root,
    /// The directory `store`.
    Store,
    /// A member of the closure or something in one: an inode of the store.
    Inner(O),
}

impl<L: Lower> ClosureLower<L> {
    /// Shows `members` of the store directory that is the top of `store`.
    pub fn new(store: L, members: Arc<Members>) -> Self {
        Self { store, members }
    }

    /// What is shown.
    #[must_use]
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    fn is_store(name: &Name) -> bool {
        name.as_bytes() == STORE
    }

    fn member(&self, name: &Name) -> io::Result<()> {
        if self.members.contains(name) { Ok(()) } else { Err(Errno::ENOENT.into()) }
    }

    /// The names of the store directory. A member that is not there is left out, as [`Lower::lookup`] answers `ENOENT`.
    fn list_members(&self) -> io::Result<Vec<LayerEntry>> {
        let top = self.store.root()?;
        let mut entries = Vec::with_capacity(self.members.len());
        for bytes in self.members.iter() {
            let name = Name::new(bytes)?;
            let stat = match self.store.lookup(&top, &name) {
                Ok(object) => self.store.stat(&object)?,
                Err(error) if Errno::of(&error) == Errno::ENOENT => continue,
                Err(error) => return Err(error),
            };
            entries.push(LayerEntry { name, kind: EntryKind::Object(stat.kind), ino: stat.ino });
        }
        Ok(entries)
    }
}

fn made_up(ino: u64) -> Stat {
    Stat {
        ino,
        kind: FileKind::Directory,
        permissions: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        block_size: 4096,
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
    }
}

impl<L: Lower> Lower for ClosureLower<L> {
    type Object = ClosureObject<L::Object>;
    type File = L::File;

    fn root(&self) -> io::Result<Self::Object> {
        Ok(ClosureObject::Root)
    }

    fn lookup(&self, dir: &Self::Object, name: &Name) -> io::Result<Self::Object> {
        match dir {
            ClosureObject::Root if Self::is_store(name) => Ok(ClosureObject::Store),
            ClosureObject::Root => Err(Errno::ENOENT.into()),
            ClosureObject::Store => {
                self.member(name)?;
                self.store.lookup(&self.store.root()?, name).map(ClosureObject::Inner)
            }
            ClosureObject::Inner(dir) => self.store.lookup(dir, name).map(ClosureObject::Inner),
        }
    }

    fn resolve(&self, path: &[Name]) -> io::Result<Self::Object> {
        let Some((first, inside)) = path.split_first() else { return Ok(ClosureObject::Root) };
        if !Self::is_store(first) {
            return Err(Errno::ENOENT.into());
        }
        let Some(member) = inside.first() else { return Ok(ClosureObject::Store) };
        self.member(member)?;
        self.store.resolve(inside).map(ClosureObject::Inner)
    }

    fn stat(&self, object: &Self::Object) -> io::Result<Stat> {
        match object {
            ClosureObject::Root => Ok(made_up(ROOT_INO)),
            ClosureObject::Store => Ok(made_up(STORE_INO)),
            ClosureObject::Inner(object) => self.store.stat(object),
        }
    }

    fn read_dir(&self, dir: &Self::Object) -> io::Result<Vec<LayerEntry>> {
        match dir {
            ClosureObject::Root => Ok(vec![LayerEntry {
                name: Name::new(STORE)?,
                kind: EntryKind::Object(FileKind::Directory),
                ino: STORE_INO,
            }]),
            ClosureObject::Store => self.list_members(),
            ClosureObject::Inner(dir) => self.store.read_dir(dir),
        }
    }

    fn read_link(&self, object: &Self::Object) -> io::Result<Vec<u8>> {
        match object {
            ClosureObject::Root | ClosureObject::Store => Err(Errno::EINVAL.into()),
            ClosureObject::Inner(object) => self.store.read_link(object),
        }
    }

    fn open(&self, object: &Self::Object, access: Access) -> io::Result<Self::File> {
        match object {
            ClosureObject::Root | ClosureObject::Store => Err(Errno::EISDIR.into()),
            ClosureObject::Inner(object) => self.store.open(object, access),
        }
    }

    fn get_xattr(&self, object: &Self::Object, name: &[u8]) -> io::Result<Vec<u8>> {
        match object {
            ClosureObject::Root | ClosureObject::Store => Err(Errno::ENODATA.into()),
            ClosureObject::Inner(object) => self.store.get_xattr(object, name),
        }
    }

    fn list_xattr(&self, object: &Self::Object) -> io::Result<Vec<Vec<u8>>> {
        match object {
            ClosureObject::Root | ClosureObject::Store => Ok(Vec::new()),
            ClosureObject::Inner(object) => self.store.list_xattr(object),
        }
    }

    /// No sizes: those of the store's disk, and what is free on it, tell what others have. This is what statfs(2) of a
    /// view without an upper shows.
    fn statfs(&self) -> io::Result<StatFs> {
        Ok(StatFs { block_size: 4096, name_max: 255, ..StatFs::default() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use crate::layer::dir::{DirFile, DirLower, DirObject};
    use crate::store::path::StorePath;
    use std::fs::{self, File};
    use std::sync::atomic::{AtomicU64, Ordering};

    const SHOWN: [&str; 4] = [
        "00000000000000000000000000000000-dir",
        "11111111111111111111111111111111-file",
        "22222222222222222222222222222222-link",
        "33333333333333333333333333333333-missing",
    ];
    const HIDDEN: &str = "44444444444444444444444444444444-secret";

    /// Counts all calls, [`Lower::root`] included.
    struct Counting(DirLower, AtomicU64);

    impl Counting {
        fn inner(&self) -> &DirLower {
            self.1.fetch_add(1, Ordering::SeqCst);
            &self.0
        }
    }

    impl Lower for Counting {
        type Object = DirObject;
        type File = DirFile;
        fn root(&self) -> io::Result<DirObject> {
            self.inner().root()
        }
        fn lookup(&self, dir: &DirObject, name: &Name) -> io::Result<DirObject> {
            self.inner().lookup(dir, name)
        }
        fn resolve(&self, path: &[Name]) -> io::Result<DirObject> {
            self.inner().resolve(path)
        }
        fn stat(&self, object: &DirObject) -> io::Result<Stat> {
            self.inner().stat(object)
        }
        fn read_dir(&self, dir: &DirObject) -> io::Result<Vec<LayerEntry>> {
            self.inner().read_dir(dir)
        }
        fn read_link(&self, object: &DirObject) -> io::Result<Vec<u8>> {
            self.inner().read_link(object)
        }
        fn open(&self, object: &DirObject, access: Access) -> io::Result<DirFile> {
            self.inner().open(object, access)
        }
        fn get_xattr(&self, object: &DirObject, name: &[u8]) -> io::Result<Vec<u8>> {
            self.inner().get_xattr(object, name)
        }
        fn list_xattr(&self, object: &DirObject) -> io::Result<Vec<Vec<u8>>> {
            self.inner().list_xattr(object)
        }
        fn statfs(&self) -> io::Result<StatFs> {
            self.inner().statfs()
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn closure() -> (tempfile::TempDir, ClosureLower<Counting>) {
        let temp = tempfile::tempdir().unwrap();
        let at = |path: &str| temp.path().join(path);
        let [dir, file, link, missing] = SHOWN;
        fs::create_dir_all(at(dir).join("bin")).unwrap();
        fs::write(at(dir).join("bin/sh"), "sh").unwrap();
        fs::write(at(file), "file").unwrap();
        std::os::unix::fs::symlink(HIDDEN, at(link)).unwrap();
        fs::create_dir_all(at(HIDDEN).join("bin")).unwrap();
        fs::create_dir(at(".links")).unwrap();
        let paths: Vec<StorePath> = [dir, file, link, missing].iter().map(|p| p.parse().unwrap()).collect();
        let store = DirLower::new(&File::open(temp.path()).unwrap()).unwrap();
        let lower = Counting(store, AtomicU64::new(0));
        (temp, ClosureLower::new(lower, Arc::new(Members::new(&paths).unwrap())))
    }

    #[test]
    fn members_are_shown_whatever_they_are() {
        let (_temp, lower) = closure();
        let store = lower.lookup(&lower.root().unwrap(), &name("store")).unwrap();
        let mut listed = lower.read_dir(&store).unwrap();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let kinds: Vec<_> = listed.iter().map(|e| (e.name.to_string(), e.kind)).collect();
        let object = EntryKind::Object;
        assert_eq!(
            kinds,
            [
                (SHOWN[0].to_owned(), object(FileKind::Directory)),
                (SHOWN[1].to_owned(), object(FileKind::Regular)),
                (SHOWN[2].to_owned(), object(FileKind::Symlink)),
            ]
        );
        let shell = lower.resolve(&["store", SHOWN[0], "bin", "sh"].map(name)).unwrap();
        assert_eq!(lower.stat(&shell).unwrap().size, 2);
        let link = lower.lookup(&store, &name(SHOWN[2])).unwrap();
        assert_eq!(lower.read_link(&link).unwrap(), HIDDEN.as_bytes());
        let through = lower.resolve(&["store", SHOWN[2], "bin"].map(name)).unwrap_err();
        assert!(matches!(Errno::of(&through), Errno::ELOOP | Errno::ENOTDIR), "{through}");
        assert_eq!(lower.read_dir(&lower.root().unwrap()).unwrap().len(), 1);
        let shown = lower.stat(&store).unwrap();
        assert_eq!((shown.permissions, shown.uid, shown.mtime), (0o755, 0, TIME));
    }

    #[test]
    fn hidden_and_absent_names_cost_the_store_nothing() {
        let (_temp, lower) = closure();
        let root = lower.root().unwrap();
        let store = lower.lookup(&root, &name("store")).unwrap();
        for hidden in [HIDDEN, ".links", "absent", "55555555555555555555555555555555-absent"] {
            let hidden = name(hidden);
            for answer in [
                lower.lookup(&store, &hidden),
                lower.lookup(&root, &hidden),
                lower.resolve(&[name("store"), hidden.clone()]),
                lower.resolve(&[name("store"), hidden.clone(), name("bin")]),
                lower.resolve(&[hidden.clone(), name("bin")]),
            ] {
                assert_eq!(Errno::of(&answer.unwrap_err()), Errno::ENOENT);
            }
        }
        assert_eq!(lower.store.1.load(Ordering::SeqCst), 0, "calls on the layer of the store");
        lower.lookup(&store, &name(SHOWN[0])).unwrap();
        assert!(lower.store.1.load(Ordering::SeqCst) > 0, "the test counts");
    }
}
