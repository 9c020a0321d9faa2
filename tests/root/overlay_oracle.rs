//! The second oracle: the kernel's overlayfs over the same lower and upper shows the same tree as the view, whichever
//! of the two wrote it.
//!
//! In a mount namespace and on a tmpfs of its own, both of which go with the test's thread. A case is one random history
//! and a pair of mounts; `NIXVIEW_ORACLE_CASES=10000` asks for more of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::support::effort::pick;
use crate::support::skip::skip;
use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::model::{Op, Run, op};
use crate::support::union_support::{Disk, View, options as options_of};
use nix::sched::{CloneFlags, unshare};
use nixview::layer::dir::{DirLower, DirUpper, Format, survey};
use nixview::union::{Io, UnionFs};
use nixview::vfs::FileKind;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{RenameFlags, XattrFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};

/// What both can tell of an object, for comparing.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    kind: FileKind,
    permissions: u32,
    owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) links: Option<u64>,
    pub(crate) content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn user_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut names, mut value) = (vec![0; 4096], vec![0; 4096]);
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    names.truncate(length);
    names
        .split(|b| *b == 0)
        .filter(|name| name.starts_with(b"user."))
        .map(|name| {
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

pub(crate) fn walk(path: &Path, shown: String, all: &mut BTreeMap<String, Seen>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = FileKind::from_mode(meta.mode()).unwrap();
    assert_eq!(meta.file_type().is_fifo(), kind == FileKind::Fifo);
    let content = match kind {
        FileKind::Regular => fs::read(path).unwrap(),
        FileKind::Symlink => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    if kind == FileKind::Directory {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            walk(&entry.path(), format!("{shown}/{}", entry.file_name().to_str().unwrap()), all);
        }
    }
    let seen = Seen {
        kind,
        permissions: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        // Directories have one link in a view.
        links: (kind != FileKind::Directory).then(|| meta.nlink()),
        content,
        xattrs: user_xattrs(path),
    };
    all.insert(shown, seen);
}

/// An overlay mount that goes when dropped.
struct Overlay<'p>(&'p Path);

impl<'p> Overlay<'p> {
    fn mount(base: &Path, at: &'p Path, options: &str) -> Result<Self, String> {
        let base = base.display();
        let layers = format!("lowerdir={base}/lower,upperdir={base}/data,workdir={base}/overlay,{options}");
        let layers = CString::new(layers).unwrap();
        rustix::mount::mount("nixview-test", at, "overlay", MountFlags::empty(), Some(&*layers))
            .map_err(|error| format!("mount of an overlay with {options}: {error}"))?;
        Ok(Self(at))
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// A tmpfs that goes when dropped; overlayfs may not lie on the overlayfs that a machine's root can be.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn mount() -> Result<Self, String> {
        let dir = tempfile::TempDir::with_prefix("nvo").unwrap();
        let none = MountFlags::empty();
        match rustix::mount::mount("nixview-test", dir.path(), "tmpfs", none, None) {
            Ok(()) => Ok(Self(dir)),
            Err(error) => Err(format!("mount of a tmpfs: {error}")),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// What the view shows of a disk.
fn of_view(view: &mut View<UnionFs<DirLower, DirUpper>>) -> BTreeMap<String, Seen> {
    view.tree()
        .into_iter()
        .map(|(path, shown)| {
            let attr = shown.attr;
            // A device 0:0 of a program is an empty file to overlayfs.
            let kind = if attr.kind == FileKind::CharDevice { FileKind::Regular } else { attr.kind };
            let seen = Seen {
                kind,
                permissions: u32::from(attr.permissions),
                owner: (attr.uid, attr.gid),
                mtime: (attr.mtime.seconds, i64::from(attr.mtime.nanoseconds)),
                links: (attr.kind != FileKind::Directory).then_some(u64::from(attr.nlink)),
                content: shown.content,
                xattrs: shown.xattrs,
            };
            (path, seen)
        })
        .collect()
}

/// What overlayfs shows of a disk, after it was worked with.
fn of_overlayfs(
    disk: &DirDisk,
    options: &str,
    work: impl FnOnce(&Path),
) -> Result<BTreeMap<String, Seen>, String> {
    for name in ["overlay", "merged"] {
        fs::create_dir(disk.dir.path().join(name)).unwrap();
    }
    let at = disk.dir.path().join("merged");
    let _overlay = Overlay::mount(disk.dir.path(), &at, options)?;
    work(&at);
    let mut seen = BTreeMap::new();
    walk(&at, String::new(), &mut seen);
    Ok(seen)
}

fn same(ours: &BTreeMap<String, Seen>, theirs: &BTreeMap<String, Seen>) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("the view: {ours:#?}\noverlayfs: {theirs:#?}")) }
}

/// The view works, overlayfs looks.
fn view_then_overlayfs(base: &Path, ops: &[Op]) -> Result<(), String> {
    let disk = DirDisk::new_in(base);
    let mut run = Run::new(&disk, Io::Cached);
    for op in ops {
        run.step(op)?;
    }
    let ours = of_view(&mut run.view);
    drop(run);
    same(&ours, &of_overlayfs(&disk, "redirect_dir=on", |_| {})?)
}

/// Overlayfs works, the view looks. `done` counts what was not refused.
fn overlayfs_then_view(base: &Path, options: &str, ops: &[Op], done: &Cell<u64>) -> Result<(), String> {
    let disk = DirDisk::new_in(base);
    let theirs = of_overlayfs(&disk, options, |at| {
        for op in ops {
            // What does not fit the tree is refused by the kernel, which is as good a history.
            done.set(done.get() + u64::from(apply(at, op).is_ok()));
        }
    })?;
    let survey = survey(disk.open("data").as_fd(), disk.open("overlay").as_fd()).unwrap();
    if let Some(why) = survey.unsupported {
        return Err(why);
    }
    let mut view = View::new(disk.lower(), disk.upper(), options_of(Io::Cached));
    same(&of_view(&mut view), &theirs)
}

/// Paths of all objects below a directory that are of a kind, the directory itself first.
fn paths(at: &Path, wanted: impl Fn(&fs::FileType) -> bool) -> Vec<PathBuf> {
    let mut all = vec![at.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let mut inside: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
            inside.sort();
            all.extend(inside);
        }
    }
    all.retain(|path| wanted(&fs::symlink_metadata(path).unwrap().file_type()));
    all
}

/// Does an operation by paths; those that need an open file, concern the view alone or overlayfs refuses do nothing.
pub(crate) fn apply(root: &Path, op: &Op) -> io::Result<()> {
    let pick = |index: &Index, all: Vec<PathBuf>| all.get(index.index(all.len().max(1))).cloned();
    let letter = |n: u8| ["a", "b", "c"][n as usize % 3];
    let dir = |index: &Index, n: u8| -> PathBuf {
        pick(index, paths(root, fs::FileType::is_dir)).unwrap_or_else(|| root.to_owned()).join(letter(n))
    };
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let file = |index: &Index| pick(index, paths(root, fs::FileType::is_file)).ok_or_else(none);
    let any = |index: &Index| pick(index, paths(root, |_| true)).ok_or_else(none);
    match op {
        Op::Create { dir: at, name, permissions, .. } => {
            let mode = u32::from(*permissions);
            OpenOptions::new().write(true).create_new(true).mode(mode).open(dir(at, *name)).map(drop)
        }
        Op::Mkdir { dir: at, name, .. } => fs::create_dir(dir(at, *name)),
        Op::Symlink { dir: at, name, target } => symlink(letter(*target), dir(at, *name)),
        Op::Fifo { dir: at, name } => {
            let mode = rustix::fs::Mode::from(0o640);
            Ok(rustix::fs::mknodat(rustix::fs::CWD, dir(at, *name), rustix::fs::FileType::Fifo, mode, 0)?)
        }
        Op::Link { of, dir: at, name } => fs::hard_link(file(of)?, dir(at, *name)),
        Op::Unlink { dir: at, name } => fs::remove_file(dir(at, *name)),
        Op::Rmdir { dir: at, name } => fs::remove_dir(dir(at, *name)),
        Op::Rename { from, name, to, new, mode } => {
            let flags = match mode {
                0 => RenameFlags::NOREPLACE,
                1 => RenameFlags::EXCHANGE,
                _ => RenameFlags::empty(),
            };
            let (from, to) = (dir(from, *name), dir(to, *new));
            Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)?)
        }
        Op::Write { of, offset, data } | Op::WriteUnopened { of, offset, data } => {
            OpenOptions::new().write(true).open(file(of)?)?.write_all_at(data, u64::from(*offset))
        }
        Op::OpenTruncated { of } => File::create(file(of)?).map(drop),
        Op::Truncate { of, size } => {
            OpenOptions::new().write(true).open(file(of)?)?.set_len(u64::from(*size))
        }
        Op::Chmod { of, permissions } => {
            fs::set_permissions(file(of)?, fs::Permissions::from_mode(u32::from(*permissions)))
        }
        Op::SetXattr { of, value, .. } => {
            Ok(rustix::fs::lsetxattr(any(of)?, "user.new", &[*value], XattrFlags::empty())?)
        }
        Op::Renew { of } => {
            let at = pick(of, paths(root, fs::FileType::is_dir)).filter(|at| at != root).ok_or_else(none)?;
            fs::remove_dir_all(&at)?;
            fs::create_dir(at)
        }
        Op::ZeroDevice { .. }
        | Op::Touch { .. }
        | Op::RemoveXattr { .. }
        | Op::Allocate { .. }
        | Op::Hold { .. }
        | Op::WriteHeld { .. }
        | Op::TruncateHeld { .. }
        | Op::Close { .. }
        | Op::Forget
        | Op::Remount => Ok(()),
    }
}

/// How many histories each of the tests here makes.
fn cases() -> u32 {
    pick(150, 2_000)
}

/// Checks histories of up to `longest` operations, on a tmpfs of its own; answers how many: none if it cannot be done here.
fn histories(seed: u8, longest: usize, check: impl Fn(&Path, &[Op]) -> Result<(), String>) -> u32 {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        skip!("unshare: {error}");
        return 0;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let tmpfs = match Tmpfs::mount() {
        Ok(tmpfs) => tmpfs,
        Err(error) => {
            skip!("{error}");
            return 0;
        }
    };
    let base = tmpfs.0.path();
    let format = DirDisk::new_in(base).format;
    if format != Format::Trusted {
        skip!("the upper's format is {format:?}, which mount -t overlay reads with other options");
        return 0;
    }
    let config =
        Config { cases: cases(), failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let done = Cell::new(0);
    let outcome = runner.run(&prop::collection::vec(op(), 1..longest), |ops| {
        done.set(done.get() + 1);
        check(base, &ops).map_err(TestCaseError::fail)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert_eq!(done.get(), cases());
    println!("{} histories", done.get());
    done.get()
}

#[test]
#[ignore = "needs root"]
fn overlayfs_shows_the_same_tree() {
    histories(5, 30, view_then_overlayfs);
}

fn overlayfs_writes(seed: u8, options: &str) {
    let done = Cell::new(0);
    let all = histories(seed, 30, |base, ops| overlayfs_then_view(base, options, ops, &done));
    assert!(done.get() >= u64::from(all) * 3, "{} changes in {all} histories", done.get());
}

#[test]
#[ignore = "needs root"]
fn a_view_shows_what_overlayfs_wrote() {
    overlayfs_writes(6, "redirect_dir=on,metacopy=off");
}

/// Without redirects overlayfs answers `EXDEV` for what the lower has, and directories of the upper alone still move.
#[test]
#[ignore = "needs root"]
fn a_view_shows_what_overlayfs_wrote_without_redirects() {
    overlayfs_writes(7, "redirect_dir=off,metacopy=off");
}
