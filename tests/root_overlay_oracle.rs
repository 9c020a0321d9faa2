//! The second oracle: the kernel's overlayfs over the same lower and upper shows the same tree as the view.
//!
//! In a mount namespace and on a tmpfs of its own, both of which go with the test's thread.
#![cfg(feature = "test-layers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "test code"
)]

mod union_support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nixview::layer::dir::Format;
use nixview::union::Io;
use nixview::vfs::FileKind;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use union_support::dir::DirDisk;
use union_support::model::{Run, op};

/// What both can tell of an object, for comparing.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    kind: FileKind,
    permissions: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: Option<u64>,
    content: Vec<u8>,
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

fn walk(path: &Path, shown: String, all: &mut BTreeMap<String, Seen>) {
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
    fn mount(base: &Path, at: &'p Path) -> Result<Self, String> {
        let base = base.display();
        let layers = format!("lowerdir={base}/lower,upperdir={base}/data,workdir={base}/overlay");
        let status =
            Command::new("mount").args(["-t", "overlay", "nixview-test", "-o", &layers]).arg(at).status();
        match status {
            Ok(status) if status.success() => Ok(Self(at)),
            other => Err(format!("mount -t overlay: {other:?}")),
        }
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// A tmpfs that goes when dropped; overlayfs may not lie on the overlayfs that a machine's root can be.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount() -> Result<Self, String> {
        let dir = tempfile::TempDir::with_prefix("nvo").unwrap();
        match Command::new("mount").args(["-t", "tmpfs", "nixview-test"]).arg(dir.path()).status() {
            Ok(status) if status.success() => Ok(Self(dir)),
            other => Err(format!("mount -t tmpfs: {other:?}")),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn compare(base: &Path, ops: &[union_support::model::Op]) -> Result<(), String> {
    let disk = DirDisk::new_in(base);
    let mut run = Run::new(&disk, Io::Cached);
    for op in ops {
        run.step(op)?;
    }
    let ours: BTreeMap<String, Seen> = run
        .view
        .tree()
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
        .collect();
    drop(run);
    for name in ["overlay", "merged"] {
        fs::create_dir(disk.dir.path().join(name)).unwrap();
    }
    let at = disk.dir.path().join("merged");
    let overlay = Overlay::mount(disk.dir.path(), &at)?;
    let mut theirs = BTreeMap::new();
    walk(&at, String::new(), &mut theirs);
    drop(overlay);
    if ours == theirs { Ok(()) } else { Err(format!("the view: {ours:#?}\noverlayfs: {theirs:#?}")) }
}

#[test]
#[ignore = "needs root"]
fn overlayfs_shows_the_same_tree() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        eprintln!("skipped: unshare: {error}");
        return;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let tmpfs = match Tmpfs::mount() {
        Ok(tmpfs) => tmpfs,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let base = tmpfs.0.path();
    let format = DirDisk::new_in(base).format;
    if format != Format::Trusted {
        eprintln!(
            "skipped: the upper's format is {format:?}, which mount -t overlay reads with other options"
        );
        return;
    }
    let config = Config { cases: 60, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]));
    let histories = prop::collection::vec(op(), 1..40);
    if let Err(error) = runner.run(&histories, |ops| compare(base, &ops).map_err(TestCaseError::fail)) {
        panic!("{error}");
    }
}
