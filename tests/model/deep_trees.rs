//! Trees of any depth, as a container can make them: what walks them takes memory and look-ups in proportion to their size.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nixview::layer::dir::{self, DirObject, DirUpper, Format, UpperReader};
use nixview::layer::mem::MemLayer;
use nixview::layer::{Access, LayerEntry, Lower, Presence, Redirect, Stat};
use nixview::sys::names::create_directory;
use nixview::sys::open::open_directory;
use nixview::vfs::{Name, StatFs};
use nixview::view::changes::{ReadUpper, Trees, changes};
use nixview::view::oci_layer::{Exporting, Source, Target, export, import};
use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat};

use crate::parse_memory::peak_of;

/// What the names at each level are.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Shape {
    /// One directory.
    Chain,
    /// One after which another comes.
    Comb,
    /// One, and a file with two names.
    Linked,
}

/// A tree on a disk, which is removed with the value.
struct Deep {
    _temp: tempfile::TempDir,
    top: File,
    lookups: Arc<AtomicUsize>,
}

impl Deep {
    fn new(levels: usize, shape: Shape) -> Self {
        // In memory, where there is such a place: a disk takes milliseconds to free each directory.
        let memory = std::path::Path::new("/dev/shm");
        let temp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let top = File::open(temp.path()).unwrap();
        let mut at: OwnedFd = open_directory(top.as_fd(), b".").unwrap();
        for _ in 0..levels {
            create_directory(at.as_fd(), b"d", 0o755).unwrap();
            match shape {
                Shape::Chain => {}
                Shape::Comb => create_directory(at.as_fd(), b"e", 0o755).unwrap(),
                Shape::Linked => {
                    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                    drop(openat(&at, "f", flags, Mode::from_raw_mode(0o644)).unwrap());
                    linkat(&at, "f", &at, "g", AtFlags::empty()).unwrap();
                }
            }
            at = open_directory(at.as_fd(), b"d").unwrap();
        }
        Self { _temp: temp, top, lookups: Arc::default() }
    }

    fn reader(&self) -> Counted {
        self.lookups.store(0, Ordering::Relaxed);
        let inner = UpperReader::new(&self.top, Format::Files).unwrap();
        Counted { inner, lookups: Arc::clone(&self.lookups) }
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::Relaxed)
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        // What removes a temporary directory for others recurses.
        dir::clear(self.top.as_fd()).unwrap();
    }
}

/// An upper that counts how many names are looked up in it.
struct Counted {
    inner: UpperReader,
    lookups: Arc<AtomicUsize>,
}

impl Counted {
    fn count(&self, names: usize) {
        self.lookups.fetch_add(names, Ordering::Relaxed);
    }
}

impl Lower for Counted {
    type Object = DirObject;
    type File = <UpperReader as Lower>::File;

    fn root(&self) -> io::Result<DirObject> {
        self.inner.root()
    }

    fn lookup(&self, dir: &DirObject, name: &Name) -> io::Result<DirObject> {
        self.count(1);
        self.inner.lookup(dir, name)
    }

    fn resolve(&self, path: &[Name]) -> io::Result<DirObject> {
        self.count(path.len());
        self.inner.resolve(path)
    }

    fn stat(&self, object: &DirObject) -> io::Result<Stat> {
        self.inner.stat(object)
    }

    fn read_dir(&self, dir: &DirObject) -> io::Result<Vec<LayerEntry>> {
        self.inner.read_dir(dir)
    }

    fn read_link(&self, object: &DirObject) -> io::Result<Vec<u8>> {
        self.inner.read_link(object)
    }

    fn open(&self, object: &DirObject, access: Access) -> io::Result<Self::File> {
        self.inner.open(object, access)
    }

    fn get_xattr(&self, object: &DirObject, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner.get_xattr(object, name)
    }

    fn list_xattr(&self, object: &DirObject) -> io::Result<Vec<Vec<u8>>> {
        self.inner.list_xattr(object)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        self.inner.statfs()
    }
}

impl ReadUpper for Counted {
    fn presence(&self, dir: &DirObject, name: &Name) -> io::Result<Presence<DirObject>> {
        self.count(1);
        self.inner.presence(dir, name)
    }

    fn is_opaque(&self, dir: &DirObject) -> io::Result<bool> {
        self.inner.is_opaque(dir)
    }

    fn redirect(&self, dir: &DirObject) -> io::Result<Option<Redirect>> {
        self.inner.redirect(dir)
    }
}

/// What walks and archives hold whatever the tree: buffers, and the names of one directory.
const FIXED: usize = 600 << 10;

#[test]
fn changes_of_a_deep_tree_are_found_with_one_path() {
    // A level of a path is a name of its own, 48 bytes with what its allocation takes; where others come after it, they are
    // kept too.
    for (levels, shape, each) in [(12_000, Shape::Chain, 100), (2_000, Shape::Comb, 400)] {
        let deep = Deep::new(levels, shape);
        let (lower, upper) = (MemLayer::new(), deep.reader());
        let mut found = 0;
        let peak = peak_of(|| {
            changes(Trees { lower: &lower, upper: &upper, owner: None }, &[], &mut |change| {
                found += usize::from(!change.path.is_empty());
                Ok(())
            })
            .unwrap();
        });
        assert_eq!(found, if shape == Shape::Comb { 2 * levels } else { levels });
        assert!(peak <= FIXED + each * levels, "{levels} levels, {shape:?}: {peak} bytes");
        assert!(deep.lookups() <= 8 * levels, "{levels} levels, {shape:?}: {} look-ups", deep.lookups());
    }
}

#[test]
fn a_deep_tree_is_exported_with_one_path() {
    let how = Exporting { prefix: vec![Name::new(b"nix").unwrap()], skip: false, lower_known: true };
    for (levels, shape, each) in
        [(4_000, Shape::Chain, 100), (1_500, Shape::Comb, 400), (1_000, Shape::Linked, 400)]
    {
        let deep = Deep::new(levels, shape);
        let (lower, upper) = (MemLayer::new(), deep.reader());
        let mut entries = 0;
        let peak = peak_of(|| {
            let trees = Trees { lower: &lower, upper: &upper, owner: None };
            let done = export(trees, &how, &mut io::sink(), &mut |_, _| ()).unwrap();
            entries = usize::try_from(done.entries).unwrap();
        });
        let of_level = match shape {
            Shape::Chain => 1,
            Shape::Comb => 2,
            Shape::Linked => 3,
        };
        assert_eq!(entries, 1 + of_level * levels);
        assert!(peak <= FIXED + each * levels, "{levels} levels, {shape:?}: {peak} bytes");
        assert!(deep.lookups() <= 8 * levels, "{levels} levels, {shape:?}: {} look-ups", deep.lookups());
    }
}

#[test]
fn a_deep_tree_of_another_program_is_surveyed_with_one_path() {
    let work = tempfile::tempdir().unwrap();
    let work = File::open(work.path()).unwrap();
    for (levels, shape, each) in [(4_000, Shape::Chain, 100), (2_000, Shape::Comb, 400)] {
        let deep = Deep::new(levels, shape);
        let peak = peak_of(|| {
            let survey = dir::survey(deep.top.as_fd(), work.as_fd()).unwrap();
            assert_eq!((survey.format, survey.unsupported), (None, None));
        });
        assert!(peak <= FIXED + each * levels, "{levels} levels, {shape:?}: {peak} bytes");
    }
}

#[test]
fn a_layer_of_one_long_path_takes_memory_for_each_name_once() {
    const LEVELS: usize = 4_000;
    let deep = Deep::new(0, Shape::Chain);
    for name in [b"data", b"work"] {
        create_directory(deep.top.as_fd(), name, 0o755).unwrap();
    }
    let [data, work] = [b"data", b"work"].map(|name| open_directory(deep.top.as_fd(), name).unwrap());
    let upper = DirUpper::open(&data, &work, Some(Format::Files)).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["f", ".wh.gone", ".wh..wh..opq"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let path = format!("nix/{}{name}", "d/".repeat(LEVELS));
        archive.append_data(&mut header, path, io::empty()).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    assert!(archive.len() < 40_000);
    let lower = MemLayer::new();
    let source = Source { prefix: vec![Name::new(b"nix").unwrap()], skip_others: false, max_size: 1 << 20 };
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut entries = 0;
    let peak = peak_of(|| {
        let trees = Trees { lower: &lower, upper: &upper, owner: None };
        let target = Target { trees, owner: Some(own), devices: false, set_id: false };
        let done = import(&source, archive.as_slice(), target).map_err(|error| error.problem).unwrap();
        entries = done.entries + done.whiteouts + done.opaque;
    });
    assert_eq!(entries, 3);
    assert!(peak <= FIXED + 600 * LEVELS, "{peak} bytes");
    let mut path = vec![Name::new(b"d").unwrap(); LEVELS];
    path.push(Name::new(b"f").unwrap());
    upper.stat(&upper.resolve(&path).unwrap()).unwrap();
}
