//! Views of a small store on real mounts, a plain directory beside them to compare with, and users to work as.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nixview::fuse::Io;
use nixview::layer::dir::{DirLower, DirUpper};
use nixview::sys::mount;
use nixview::union::{self, UnionFs};
use rustix::process::{Gid, Uid};
use tempfile::TempDir;

use crate::support::fuse_tree::{Mounted, has_passthrough};

/// A store, an upper for it, a place for the view, and a plain directory on the same file system; all users reach them.
pub(crate) struct Places {
    pub(crate) top: TempDir,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    pub(crate) fn new_in(base: &Path) -> Self {
        let top = TempDir::with_prefix_in("nv", base).unwrap();
        for dir in ["store", "upper", "upper/data", "upper/work", "view", "plain"] {
            fs::create_dir(top.path().join(dir)).unwrap();
        }
        for dir in ["", "upper/data", "plain"] {
            fs::set_permissions(top.path().join(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { top }
    }

    pub(crate) fn at(&self, below: &str) -> PathBuf {
        self.top.path().join(below)
    }

    /// Mounts a view with access control lists, in which objects of the store are shown as `owner`'s.
    pub(crate) fn mount(&self, io: Io, owner: Option<(u32, u32)>) -> Mounted {
        self.mount_with(io, union::Options { owner, access_lists: true, ..union::Options::default() })
    }

    /// Mounts a view.
    pub(crate) fn mount_with(&self, io: Io, options: union::Options) -> Mounted {
        let clone = mount::clone_read_only(&self.at("store")).unwrap();
        let open = |name: &str| File::open(self.at(name)).unwrap();
        let upper = DirUpper::open(&open("upper/data"), &open("upper/work"), None).unwrap();
        let of_union = match io {
            Io::Passthrough => union::Io::Passthrough,
            Io::Cached => union::Io::Cached,
        };
        let options = union::Options { io: of_union, durable: false, ..options };
        let union = UnionFs::new(DirLower::new(&clone).unwrap(), Some(upper), options).unwrap();
        Mounted::new(Arc::new(union), &self.at("view"), io, false)
    }

    /// Both modes, or the one that works here.
    pub(crate) fn modes(&self) -> Vec<Io> {
        let passthrough = has_passthrough(&self.at("store"));
        [Io::Passthrough, Io::Cached].into_iter().filter(|io| *io == Io::Cached || passthrough).collect()
    }
}

/// Who works: user, group and further groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct User(pub(crate) u32, pub(crate) u32, pub(crate) &'static [u32]);

pub(crate) const ROOT: User = User(0, 0, &[]);
/// Somebody without any right but her own.
pub(crate) const ALICE: User = User(1234, 1234, &[]);
/// Somebody who is in Alice's group too.
pub(crate) const BOB: User = User(1235, 1235, &[1234]);
/// In no group of the others.
pub(crate) const CAROL: User = User(1236, 1236, &[]);

/// Does something as a user, in a thread of its own, whose capabilities go with the user 0.
pub(crate) fn as_user<T: Send>(user: User, work: impl FnOnce() -> T + Send) -> T {
    let User(uid, gid, groups) = user;
    let run = move || {
        let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        rustix::thread::set_thread_groups(&groups).unwrap();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

/// What a call comes to, for comparing: what it answers, or the number of its error.
pub(crate) fn outcome<T>(answer: io::Result<T>) -> Result<T, i32> {
    answer.map_err(|error| error.raw_os_error().unwrap_or(-1))
}

/// The value of an extended attribute, of a symbolic link its own.
pub(crate) fn attribute(path: &Path, name: &str) -> Result<Vec<u8>, i32> {
    let mut value = vec![0; 70_000];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).map_err(|errno| errno.raw_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// The names of the extended attributes of a file, sorted.
pub(crate) fn attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0; 70_000];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    let all = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<String> = all.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    all.sort();
    all
}
