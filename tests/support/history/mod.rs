//! A fixed history of single changes in a tree, and what the tree shows after each of them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags, fallocate};

/// What is done, and how: one change.
pub(crate) type Op = (&'static str, fn(&Path) -> io::Result<()>);

fn writer(path: PathBuf) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn rename(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags)?)
}

/// One change each, of the tree that [`fill`] makes.
pub(crate) const HISTORY: &[Op] = &[
    ("create", |d| File::create(d.join("n")).map(drop)),
    ("write", |d| writer(d.join("n"))?.write_all_at(b"new", 0)),
    ("fsync", |d| File::open(d.join("n"))?.sync_all()),
    ("fsync of a directory", |d| File::open(d)?.sync_all()),
    ("write to a file of the lower", |d| writer(d.join("f0"))?.write_all_at(b"UPPER", 3)),
    ("append to it", |d| writer(d.join("f0"))?.write_all_at(b"more", 10_000)),
    ("punch a hole", |d| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&writer(d.join("f0"))?, flags, 1000, 5000)?)
    }),
    ("fallocate", |d| Ok(fallocate(&writer(d.join("f0"))?, FallocateFlags::empty(), 0, 20_000)?)),
    ("truncate", |d| writer(d.join("f0"))?.set_len(5)),
    ("truncate a file of the lower", |d| writer(d.join("f1"))?.set_len(7)),
    ("empty a file of the lower", |d| {
        OpenOptions::new().write(true).truncate(true).open(d.join("f2")).map(drop)
    }),
    ("set an attribute of the lower", |d| {
        Ok(rustix::fs::setxattr(d.join("f3"), "user.a", b"1", XattrFlags::empty())?)
    }),
    ("set another", |d| Ok(rustix::fs::setxattr(d.join("f3"), "user.b", b"2", XattrFlags::empty())?)),
    ("remove the first", |d| Ok(rustix::fs::removexattr(d.join("f3"), "user.a")?)),
    ("chmod in the lower", |d| fs::set_permissions(d.join("f4"), Permissions::from_mode(0o4711))),
    ("chown", |d| chown(d.join("f4"), Some(7), Some(8))),
    ("chown in the lower", |d| chown(d.join("f5"), Some(7), Some(8))),
    ("utimes", |d| {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(77);
        File::open(d.join("f5"))?.set_modified(time)
    }),
    ("link of the lower", |d| fs::hard_link(d.join("f6"), d.join("l6"))),
    ("rename in the lower", |d| fs::rename(d.join("f7"), d.join("r7"))),
    ("unlink in the lower", |d| fs::remove_file(d.join("f8"))),
    ("create over a whiteout", |d| File::create_new(d.join("f8")).map(drop)),
    ("unlink it again", |d| fs::remove_file(d.join("f8"))),
    ("link over that whiteout", |d| fs::hard_link(d.join("f6"), d.join("f8"))),
    ("mkdir", |d| fs::create_dir(d.join("m"))),
    ("mkdir in it", |d| fs::create_dir(d.join("m/s"))),
    ("symlink", |d| symlink("s", d.join("m/l"))),
    ("fifo", |d| Ok(rustix::fs::mknodat(CWD, d.join("m/p"), FileType::Fifo, Mode::RUSR, 0)?)),
    ("rename into it", |d| fs::rename(d.join("n"), d.join("m/n"))),
    ("rename over the lower", |d| fs::rename(d.join("m/n"), d.join("f9"))),
    ("exchange with the lower", |d| rename(d, "g0", "m/l", RenameFlags::EXCHANGE)),
    ("rename a directory", |d| fs::rename(d.join("m"), d.join("m2"))),
    ("unlink in a directory of the lower", |d| fs::remove_file(d.join("sub/x"))),
    ("unlink the last there", |d| fs::remove_file(d.join("sub/y"))),
    ("rmdir of the lower", |d| fs::remove_dir(d.join("sub"))),
    ("mkdir over a whiteout", |d| fs::create_dir(d.join("sub"))),
    ("create what was there", |d| File::create(d.join("sub/x")).map(drop)),
    ("exchange directories", |d| rename(d, "sub", "m2", RenameFlags::EXCHANGE)),
    ("empty a directory of the lower", |d| fs::remove_file(d.join("sub2/z"))),
    ("a directory onto it", |d| fs::rename(d.join("m2"), d.join("sub2"))),
    ("rename to where a whiteout is", |d| rename(d, "sub", "m2", RenameFlags::NOREPLACE)),
    ("unlink a link of the lower", |d| fs::remove_file(d.join("link"))),
    ("a directory in its place", |d| fs::create_dir(d.join("link"))),
    ("chmod of a directory of the lower", |d| {
        fs::set_permissions(d.join("deep"), Permissions::from_mode(0o700))
    }),
    ("write far down", |d| writer(d.join("deep/a/b/f"))?.write_all_at(b"!", 0)),
];

/// The tree that the history begins with.
pub(crate) fn fill(dir: &Path) {
    for name in ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "g0"] {
        fs::write(dir.join(name), name.repeat(5000)).unwrap();
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    for name in ["sub", "sub2", "deep/a/b"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    for name in ["sub/x", "sub/y", "sub2/z", "deep/a/b/f"] {
        fs::write(dir.join(name), name).unwrap();
    }
    symlink("f0", dir.join("link")).unwrap();
}

/// What shows at a path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Kind, mode, owner, attributes, the target of a link, and a time that was set.
    pub(crate) metadata: String,
    /// Of a file.
    pub(crate) content: Vec<u8>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.content.get(..20).unwrap_or(&self.content).escape_ascii();
        write!(f, "{} {start}… {} bytes", self.metadata, self.content.len())
    }
}

/// What a tree shows, by path.
pub(crate) type Tree = BTreeMap<PathBuf, Shown>;

pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let (mut content, mut target) = (Vec::new(), PathBuf::new());
        if meta.is_dir() {
            todo.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        } else if meta.is_symlink() {
            target = fs::read_link(&full).unwrap();
        } else if meta.is_file() {
            content = fs::read(&full).unwrap();
        }
        let mut attributes = Vec::new();
        for name in ["user.a", "user.b"] {
            let mut value = [0; 16];
            let length = rustix::fs::lgetxattr(&full, name, &mut value).unwrap_or(0);
            attributes.push(value[..length].escape_ascii().to_string());
        }
        let set_time = if meta.mtime() == 77 { 77 } else { 0 };
        let mode = format!("{:o}", meta.mode());
        let metadata = format!("{:?}", (mode, meta.uid(), meta.gid(), set_time, attributes, target));
        found.insert(path, Shown { metadata, content });
    }
    found
}

/// The plain tree before everything, and after each operation.
pub(crate) fn expected(work: &Path) -> Vec<Tree> {
    let plain = work.join("plain");
    fs::create_dir(&plain).unwrap();
    fill(&plain);
    let mut trees = vec![tree(&plain)];
    for (what, op) in HISTORY {
        op(&plain).unwrap_or_else(|error| panic!("{what}: {error}"));
        trees.push(tree(&plain));
    }
    trees
}
