//! Overlays as the kernel mounts them for us: what is shown, what the mount table tells, when the anchor lets go.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nixview::sys::overlay::{self, Layers, OverlayOptions};
use nixview::sys::signals::wait_readable;
use nixview::sys::{fuse_device, idmap, mount, mountinfo};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::support::forked::forked;
use crate::support::scene::alone;

/// A store with one member that is shown, `a`, and a neighbour that is not; a closure layer, an upper.
struct Lab {
    dir: TempDir,
}

fn set(path: &Path, name: &str, value: &str) {
    let done = Command::new("setfattr").args(["-n", name, "-v", value]).arg(path).status().unwrap();
    assert!(done.success());
}

impl Lab {
    fn new() -> Self {
        alone();
        let dir = tempfile::tempdir().unwrap();
        let at = |below: &str| dir.path().join(below);
        for below in
            ["store/a/bin", "store/secret", "closure/nix/store/a", "upper/tree/nix", "upper/work", "m"]
        {
            fs::create_dir_all(at(below)).unwrap();
        }
        fs::write(at("store/a/bin/tool"), "tool").unwrap();
        fs::write(at("store/secret/key"), "key").unwrap();
        set(&at("closure/nix"), "trusted.overlay.opaque", "y");
        set(&at("closure/nix/store/a"), "trusted.overlay.redirect", "/a");
        Self { dir }
    }

    fn clone_of(&self, below: &str) -> OwnedFd {
        mount::clone_read_only(&self.dir.path().join(below)).unwrap()
    }

    fn upper(&self) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let upper = rustix::fs::open(self.dir.path().join("upper"), flags, Mode::empty()).unwrap();
        overlay::clone_directory(upper.as_fd()).unwrap()
    }

    /// Mounts the view on `m`; answers what `anchor` was given.
    fn mount(&self, layers: [&OwnedFd; 2], upper: Option<&OwnedFd>, anchor: Option<&OwnedFd>) {
        let lower = layers.map(AsFd::as_fd);
        let layers = Layers { upper: upper.map(AsFd::as_fd), lower: &lower, anchor: anchor.map(AsFd::as_fd) };
        let made = overlay::mount(&layers, &OverlayOptions::default(), "nix").unwrap();
        assert!(made.shown.not_locked.is_none());
        assert_eq!(made.anchored, anchor.is_some());
        let target = mount::open_target(&self.dir.path().join("m")).unwrap();
        mount::attach(made.shown.mount.as_fd(), target.as_fd()).unwrap();
    }

    fn unmount(&self) {
        mount::unmount(&self.dir.path().join("m"), mount::Unmount::Now).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs root"]
fn a_view_shows_its_members_and_its_line_nothing_of_the_host() {
    forked(|| {
        let lab = Lab::new();
        lab.mount([&lab.clone_of("closure"), &lab.clone_of("store")], Some(&lab.upper()), None);
        let m = lab.dir.path().join("m");
        assert_eq!((names(&m), names(&m.join("store"))), (vec!["store".to_owned()], vec!["a".to_owned()]));
        assert_eq!(fs::read_to_string(m.join("store/a/bin/tool")).unwrap(), "tool");
        fs::write(m.join("store/a/bin/tool"), "changed").unwrap();
        assert_eq!(fs::read_to_string(lab.dir.path().join("store/a/bin/tool")).unwrap(), "tool");
        let changed = lab.dir.path().join("upper/tree/nix/store/a/bin/tool");
        assert_eq!(fs::read_to_string(changed).unwrap(), "changed");

        let line = mountinfo::mount_at(&m).unwrap().unwrap();
        assert!(overlay::is_ours(&line), "{line:?}");
        let shown = String::from_utf8(line.super_options.clone()).unwrap();
        assert!(!shown.contains(lab.dir.path().to_str().unwrap()) && !shown.contains("/proc"), "{shown}");
        assert_eq!((line.source.as_slice(), line.root.as_path()), (&b"nixview"[..], Path::new("/nix")));
        let flags = String::from_utf8(line.options).unwrap();
        assert!(flags.contains("nosuid") && flags.contains("nodev"), "{flags}");
        assert_eq!(fs::metadata(&m).unwrap().dev() & 0xff, u64::from(line.device.1) & 0xff);
        lab.unmount();
    });
}

/// Uppers of others may have a link there: it is not followed to what it names on the host.
#[test]
#[ignore = "needs root"]
fn a_link_in_place_of_the_shown_directory_is_refused() {
    forked(|| {
        let lab = Lab::new();
        let nix = lab.dir.path().join("upper/tree/nix");
        fs::remove_dir(&nix).unwrap();
        symlink("/etc", &nix).unwrap();
        let (closure, store, upper) = (lab.clone_of("closure"), lab.clone_of("store"), lab.upper());
        let lower = [closure.as_fd(), store.as_fd()];
        let layers = Layers { upper: Some(upper.as_fd()), lower: &lower, anchor: None };
        let error = overlay::mount(&layers, &OverlayOptions::default(), "nix").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    });
}

#[test]
#[ignore = "needs root"]
fn the_error_of_a_refused_overlay_arrives() {
    forked(|| {
        let lab = Lab::new();
        let (closure, store) = (lab.clone_of("upper/tree"), lab.clone_of("upper"));
        let lower = [closure.as_fd(), store.as_fd()];
        let layers = Layers { upper: None, lower: &lower, anchor: None };
        let error = overlay::mount(&layers, &OverlayOptions::default(), "nix").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    });
}

/// The end of the last use, in whatever namespace, is the end of the anchor; until then it is asked nothing.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_anchor_is_asked_nothing_and_ends_with_the_overlay() {
    forked(|| {
        let lab = Lab::new();
        let device = mount::open_fuse_device().unwrap();
        {
            let anchor = mount::new_anchor(device.as_fd()).unwrap();
            let first = fuse_device::read_request(device.as_fd(), Duration::from_secs(10)).unwrap();
            assert_eq!(first.get(4..8), Some(&26_u32.to_ne_bytes()[..]), "FUSE_INIT");
            lab.mount([&lab.clone_of("closure"), &lab.clone_of("store")], Some(&lab.upper()), Some(&anchor));
        }
        let m = lab.dir.path().join("m");
        assert_eq!(names(&m.join("store")), ["a"]);
        assert_eq!(names(&m.join("store/a/bin")), ["tool"]);
        fs::write(m.join("new"), "").unwrap();
        assert!(!m.join("store/none").exists());
        assert_eq!(wait_readable(&[device.as_fd()], Some(Duration::ZERO)).unwrap(), [false], "a request");
        let open = fs::File::open(m.join("store/a/bin/tool")).unwrap();
        mount::unmount(&m, mount::Unmount::Lazy).unwrap();
        assert!(!fuse_device::is_gone(device.as_fd()).unwrap(), "a file is open");
        drop(open);
        assert_eq!(wait_readable(&[device.as_fd()], Some(Duration::from_secs(60))).unwrap(), [true]);
        assert!(fuse_device::is_gone(device.as_fd()).unwrap());
    });
}

#[test]
#[ignore = "needs root"]
fn a_mount_is_shown_as_an_owner_s() {
    forked(|| {
        let lab = Lab::new();
        let store = lab.clone_of("store");
        idmap::show_as(store.as_fd(), (1234, 5678)).unwrap();
        let closure = lab.clone_of("closure");
        idmap::show_as(closure.as_fd(), (1234, 5678)).unwrap();
        for dir in ["upper/tree", "upper/tree/nix"] {
            std::os::unix::fs::chown(lab.dir.path().join(dir), Some(1234), Some(5678)).unwrap();
        }
        lab.mount([&closure, &store], Some(&lab.upper()), None);
        let m = lab.dir.path().join("m");
        for below in ["", "store", "store/a", "store/a/bin/tool"] {
            let found = fs::metadata(m.join(below)).unwrap();
            assert_eq!((found.uid(), found.gid()), (1234, 5678), "{below}");
        }
        fs::write(m.join("store/a/bin/tool"), "changed").unwrap();
        assert_eq!(fs::metadata(lab.dir.path().join("upper/tree/nix/store/a/bin/tool")).unwrap().uid(), 1234);
        lab.unmount();
    });
}
