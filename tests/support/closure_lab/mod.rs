//! An upper under the kernel's overlayfs and under a FUSE view, over one closure.
//!
//! `closure` is what the overlay backend makes, by hand: one directory for each member, which is a redirect into `store`,
//! the lowest layer. `store` has a path more than the closure.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nixview::fuse::Io;
use nixview::layer::dir::{DirLower, DirUpper};
use nixview::store::path::StoreDir;
use nixview::sys::mount::clone_read_only;
use nixview::union::{self, UnionFs};
use nixview::view::members::Members;
use nixview::view::store_root::ClosureLower;
use nixview::view::upper_dir::{LimitChoice, OverlayUpper, UpperDir, UpperError, UpperSpec};
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use tempfile::TempDir;

use crate::support::fuse_tree::Mounted;

/// The store, and the layer that lists the members.
const LAYERS: &str = "
set -e
mkdir -p store/m1/a/b store/m1/c store/m2/a/c store/m2/b store/secret/a
for f in m1/a/b/c m1/b m1/c/a m2/a/b m2/a/c/a m2/c secret/key secret/a/key; do echo \"content of $f\" > store/$f; done
ln -s a store/m1/a/c; ln -s ../m2/c store/m2/b/c
chmod 555 store/m1/a store/m2/a/c; chmod 755 store/m1/b; chmod 444 store/m2/c store/m1/c/a
mkdir -p closure/nix/store/m1 closure/nix/store/m2
setfattr -n trusted.overlay.opaque -v y closure/nix
for m in m1 m2; do setfattr -n trusted.overlay.redirect -v /$m closure/nix/store/$m; done
find store -exec touch -h -d @1 {} +
for m in m1 m2; do chmod --reference=store/$m closure/nix/store/$m; touch -r store/$m closure/nix/store/$m; done
touch -d @1 closure/nix/store closure/nix closure
mkdir merged view plain plain/nix
mkdir plain/nix/store; cp -a store/m1 store/m2 plain/nix/store/
";

/// Runs a script in a directory; it must succeed.
#[track_caller]
pub(crate) fn shell(at: &Path, script: &str) -> String {
    let ran = Command::new("sh").arg("-c").arg(script).current_dir(at).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", ran.stderr.escape_ascii());
    String::from_utf8(ran.stdout).unwrap()
}

pub(crate) struct Lab {
    pub(crate) dir: TempDir,
}

impl Lab {
    /// Below `base`, whose file system takes uppers.
    pub(crate) fn new_in(base: &Path) -> Self {
        let dir = TempDir::with_prefix_in("nv", base).unwrap();
        shell(dir.path(), LAYERS);
        Self { dir }
    }

    pub(crate) fn at(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Holds the upper of this name, which is made if there is none.
    pub(crate) fn upper(&self, name: &str) -> Result<UpperDir, UpperError> {
        self.limited(name, LimitChoice::default())
    }

    /// The same, of one with a limit.
    pub(crate) fn limited(&self, name: &str, limit: LimitChoice) -> Result<UpperDir, UpperError> {
        let store_dir = StoreDir::default();
        let spec = UpperSpec { store_dir: &store_dir, view: "web", owner: (0, 0), format: None, limit };
        UpperDir::open(&self.at(name), true, &spec)
    }

    /// Mounts an overlay as the overlay backend would; its directory `nix` is the view.
    pub(crate) fn overlay(&self, upper: &OverlayUpper, options: &str) -> Result<Overlay, String> {
        let fd = |fd: &std::os::fd::OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let layers = format!("{}:{}", self.at("closure").display(), self.at("store").display());
        let (tree, work) = (fd(&upper.tree), fd(&upper.work));
        Overlay::mount(
            &self.at("merged"),
            &format!("lowerdir={layers},upperdir={tree},workdir={work},redirect_dir=on,{options}"),
        )
    }

    /// Mounts a FUSE view over an upper.
    pub(crate) fn view(&self, upper: &UpperDir) -> Mounted {
        let store = DirLower::new(&clone_read_only(&self.at("store")).unwrap()).unwrap();
        let members = Members::of_names(["m1", "m2"]).unwrap();
        let lower = ClosureLower::new(store, Arc::new(members));
        let options = union::Options { io: union::Io::Cached, durable: false, ..union::Options::default() };
        let union: UnionFs<ClosureLower<DirLower>, DirUpper> =
            UnionFs::new(lower, Some(upper.layer().clone()), options).unwrap();
        Mounted::new(Arc::new(union), &self.at("view"), Io::Cached, false)
    }
}

/// An overlay mount that goes when dropped.
pub(crate) struct Overlay(PathBuf);

impl Overlay {
    /// What a kernel needs to be told for both backends to mean the same.
    pub(crate) const OPTIONS: &'static str = "index=off,metacopy=off,nfs_export=off";

    pub(crate) fn mount(at: &Path, options: &str) -> Result<Self, String> {
        let layers = CString::new(options).unwrap();
        rustix::mount::mount("nixview-test", at, "overlay", MountFlags::empty(), Some(&*layers))
            .map_err(|error| format!("mount of an overlay with {options}: {error}"))?;
        Ok(Self(at.to_owned()))
    }

    /// The view.
    pub(crate) fn nix(&self) -> PathBuf {
        self.0.join("nix")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::empty()).unwrap();
    }
}

/// The names in the work directory of an upper.
pub(crate) fn in_work(upper: &Path) -> usize {
    fs::read_dir(upper.join("work")).unwrap().count()
}

/// Opens a directory.
pub(crate) fn open(path: &Path) -> File {
    File::open(path).unwrap()
}
