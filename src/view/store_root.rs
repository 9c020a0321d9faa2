//! The lower of a view: `store/` with the members of a closure in it, `var/` with Nix's state for them, and nothing else.
//!
//! An upper's own directories in `store` show only whole: opaque, or together with the member that they change.
//!
//! Whether a name is a member is decided in memory, before any call on the layer of the store: a hidden name and one
//! that does not exist are the same `ENOENT` and take the same time. Below a member everything is the store's.
//!
//! The layer below `var` is made when somebody first looks there; what is asked of the rest never waits for it.

use std::io;
use std::sync::Arc;

use super::late::Late;
use super::members::Members;
use crate::layer::{Access, EntryKind, LayerEntry, Lower, Stat};
use crate::vfs::{Errno, FileKind, Name, StatFs, Timespec};

/// The names at the root of a view.
const STORE: &[u8] = b"store";
const VAR: &[u8] = b"var";

/// Inode numbers of the directories that are of no layer; no file system gives these to others.
const ROOT_INO: u64 = u64::MAX;
const STORE_INO: u64 = u64::MAX - 1;
const VAR_INO: u64 = u64::MAX - 2;

/// The time of these directories: 1 second after the epoch, as Nix gives it to all that is in a store. The store
/// directory's own would tell when other environments were built.
const TIME: Timespec = Timespec { seconds: 1, nanoseconds: 0 };

/// The closure of an environment, out of a layer whose top is a store directory.
///
/// The root, `store` and `var` are made up: mode 0755 (Nix keeps the real store 1775 for a group of build users that a view
/// does not have), owner 0:0, times as Nix sets them, so that they tell nothing of the host.
#[derive(Clone, Debug)]
pub struct ClosureLower<L> {
    store: L,
    members: Arc<Members>,
    var: Option<Arc<Late<L>>>,
}

/// An inode of a [`ClosureLower`].
#[derive(Clone, Debug)]
pub enum ClosureObject<O> {
    /// The top of the view.
    Root,
    /// The directory `store`.
    Store,
    /// The directory `var`.
    Var,
    /// A member of the closure or something in one: an inode of the store.
    Inner(O),
    /// Something below `var`: an inode of the layer that is made late.
    Below(O),
}

use ClosureObject::{Below, Inner, Root, Store, Var};

impl<L: Lower> ClosureLower<L> {
    /// Shows `members` of the store directory that is the top of `store`, and no `var`.
    pub fn new(store: L, members: Arc<Members>) -> Self {
        Self { store, members, var: None }
    }

    /// The same with a directory `var`, which is the top of `var`.
    #[must_use]
    pub fn with_var(self, var: Late<L>) -> Self {
        Self { var: Some(Arc::new(var)), ..self }
    }

    /// What is shown.
    #[must_use]
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// The directory of the root with this name.
    fn top(&self, name: &Name) -> io::Result<ClosureObject<L::Object>> {
        match name.as_bytes() {
            STORE => Ok(Store),
            VAR if self.var.is_some() => Ok(Var),
            _ => Err(Errno::ENOENT.into()),
        }
    }

    /// The layer below `var`.
    fn var(&self) -> io::Result<&L> {
        self.var.as_ref().ok_or(Errno::ENOENT)?.get()
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

    fn list_root(&self) -> io::Result<Vec<LayerEntry>> {
        let entry = |name, ino| -> io::Result<LayerEntry> {
            Ok(LayerEntry { name: Name::new(name)?, kind: EntryKind::Object(FileKind::Directory), ino })
        };
        let mut entries = vec![entry(STORE, STORE_INO)?];
        if self.var.is_some() {
            entries.push(entry(VAR, VAR_INO)?);
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
        Ok(Root)
    }

    fn lookup(&self, dir: &Self::Object, name: &Name) -> io::Result<Self::Object> {
        match dir {
            Root => self.top(name),
            Store => {
                self.member(name)?;
                self.store.lookup(&self.store.root()?, name).map(Inner)
            }
            Var => {
                let var = self.var()?;
                var.lookup(&var.root()?, name).map(Below)
            }
            Inner(dir) => self.store.lookup(dir, name).map(Inner),
            Below(dir) => self.var()?.lookup(dir, name).map(Below),
        }
    }

    fn resolve(&self, path: &[Name]) -> io::Result<Self::Object> {
        let Some((first, inside)) = path.split_first() else { return Ok(Root) };
        let top = self.top(first)?;
        let Some(next) = inside.first() else { return Ok(top) };
        if matches!(top, Var) {
            return self.var()?.resolve(inside).map(Below);
        }
        self.member(next)?;
        self.store.resolve(inside).map(Inner)
    }

    fn stat(&self, object: &Self::Object) -> io::Result<Stat> {
        match object {
            Root => Ok(made_up(ROOT_INO)),
            Store => Ok(made_up(STORE_INO)),
            Var => Ok(made_up(VAR_INO)),
            Inner(object) => self.store.stat(object),
            Below(object) => self.var()?.stat(object),
        }
    }

    fn read_dir(&self, dir: &Self::Object) -> io::Result<Vec<LayerEntry>> {
        match dir {
            Root => self.list_root(),
            Store => self.list_members(),
            Var => {
                let var = self.var()?;
                var.read_dir(&var.root()?)
            }
            Inner(dir) => self.store.read_dir(dir),
            Below(dir) => self.var()?.read_dir(dir),
        }
    }

    fn read_link(&self, object: &Self::Object) -> io::Result<Vec<u8>> {
        match object {
            Root | Store | Var => Err(Errno::EINVAL.into()),
            Inner(object) => self.store.read_link(object),
            Below(object) => self.var()?.read_link(object),
        }
    }

    fn open(&self, object: &Self::Object, access: Access) -> io::Result<Self::File> {
        match object {
            Root | Store | Var => Err(Errno::EISDIR.into()),
            Inner(object) => self.store.open(object, access),
            Below(object) => self.var()?.open(object, access),
        }
    }

    fn get_xattr(&self, object: &Self::Object, name: &[u8]) -> io::Result<Vec<u8>> {
        match object {
            Root | Store | Var => Err(Errno::ENODATA.into()),
            Inner(object) => self.store.get_xattr(object, name),
            Below(object) => self.var()?.get_xattr(object, name),
        }
    }

    fn list_xattr(&self, object: &Self::Object) -> io::Result<Vec<Vec<u8>>> {
        match object {
            Root | Store | Var => Ok(Vec::new()),
            Inner(object) => self.store.list_xattr(object),
            Below(object) => self.var()?.list_xattr(object),
        }
    }

    /// An upper that was used with another closure may have changed files of a path that is no member of this one: without
    /// the rest of the path they are none.
    fn shows_whole(&self, dir: &Self::Object) -> bool {
        matches!(dir, Store)
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
    use super::super::late::Made;
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

    #[test]
    fn what_is_below_var_is_made_when_it_is_looked_for() {
        let (_temp, lower) = closure();
        let var = tempfile::tempdir().unwrap();
        fs::create_dir_all(var.path().join("nix/db")).unwrap();
        fs::write(var.path().join("nix/db/schema"), "10").unwrap();
        std::os::unix::fs::symlink("db", var.path().join("nix/link")).unwrap();
        let made = Arc::new(AtomicU64::new(0));
        let (counted, at) = (Arc::clone(&made), var.path().to_owned());
        let lower = lower.with_var(Late::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let layer = DirLower::new(&File::open(&at).unwrap()).unwrap();
            Ok(Made { layer: Counting(layer, AtomicU64::new(0)), held: None })
        }));
        let root = lower.root().unwrap();
        let top = lower.lookup(&root, &name("var")).unwrap();
        let names: Vec<String> =
            lower.read_dir(&root).unwrap().iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["store", "var"]);
        assert_eq!(lower.stat(&top).unwrap(), Stat { ino: VAR_INO, ..lower.stat(&root).unwrap() });
        assert!(lower.list_xattr(&top).unwrap().is_empty());
        lower.resolve(&[name("var")]).unwrap();
        lower.resolve(&["store", SHOWN[0], "bin", "sh"].map(name)).unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 0, "nothing is made for any of this");

        let schema = lower.resolve(&["var", "nix", "db", "schema"].map(name)).unwrap();
        assert_eq!(lower.stat(&schema).unwrap().size, 2);
        let nix = lower.lookup(&top, &name("nix")).unwrap();
        assert_eq!(lower.read_dir(&top).unwrap().len(), 1);
        assert_eq!(lower.read_dir(&nix).unwrap().len(), 2);
        let link = lower.lookup(&nix, &name("link")).unwrap();
        assert_eq!(lower.read_link(&link).unwrap(), b"db");
        assert!(matches!(Errno::of(&lower.open(&schema, Access::ReadWrite).err().unwrap()), Errno::EROFS));
        lower.open(&schema, Access::Read).unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 1);
        for hidden in [vec!["var", "nix", "absent"], vec!["var", "absent"], vec!["vax"]] {
            let path: Vec<Name> = hidden.into_iter().map(name).collect();
            assert_eq!(Errno::of(&lower.resolve(&path).unwrap_err()), Errno::ENOENT);
        }
    }
}
