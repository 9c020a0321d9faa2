//! The mount primitives, for real: each test in a mount namespace of its own, which takes its mounts away with it.
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::support::skip::skip;
use nix::sched::{CloneFlags, unshare};
use nixview::sys::fuse_connection::FuseConnection;
use nixview::sys::fusermount;
use nixview::sys::mount::{self, FuseOptions, Unmount};
use nixview::sys::mountinfo;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};

/// Puts this thread into a mount namespace of its own; false, with the reason said, if it may not.
fn private_namespace() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        skip!("unshare: {error}");
        return false;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    true
}

#[test]
#[ignore = "needs root"]
fn nothing_can_be_written_through_a_read_only_clone() {
    if !private_namespace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "old").unwrap();
    fs::create_dir(dir.path().join("below")).unwrap();
    let clone = mount::clone_read_only(dir.path()).unwrap();

    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        let error = rustix::fs::openat(&clone, "file", flags, Mode::empty()).unwrap_err();
        assert_eq!(error, rustix::io::Errno::ROFS, "{flags:?}");
    }
    let read = rustix::fs::openat(&clone, "file", OFlags::RDONLY, Mode::empty()).unwrap();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read));
    let error = fs::OpenOptions::new().write(true).open(again).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "a descriptor cannot be reopened for writing");
    fs::write(dir.path().join("file"), "new").unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("file")).unwrap(),
        "new",
        "the original mount is as it was"
    );

    rustix::mount::mount("none", dir.path().join("below"), "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    fs::write(dir.path().join("below/later"), "").unwrap();
    let later = rustix::fs::openat(&clone, "below/later", OFlags::PATH, Mode::empty());
    mount::unmount(&dir.path().join("below"), Unmount::Now).unwrap();
    assert_eq!(later.unwrap_err(), rustix::io::Errno::NOENT, "later mounts do not appear in the clone");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_fuse_mount_is_made_attached_found_and_taken_away() {
    if !private_namespace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let table_before = mountinfo::mounts().unwrap();
    let device = mount::open_fuse_device().unwrap();
    let options = FuseOptions { read_only: true, allow_other: true, no_exec: true, source: None };
    let detached = mount::new_fuse(device.as_fd(), options).unwrap();
    assert_eq!(mountinfo::mounts().unwrap(), table_before, "a detached mount is nowhere");
    let connection = FuseConnection::of_mount(detached.as_fd()).unwrap();

    let target = mount::open_target(dir.path()).unwrap();
    mount::attach(detached.as_fd(), target.as_fd()).unwrap();
    let found = mountinfo::mount_at(dir.path()).unwrap().unwrap();
    assert_eq!(found.file_system, b"fuse.nixview");
    assert_eq!(found.source, b"nixview");
    assert_eq!(FuseConnection::of_device(found.device), connection);
    assert_eq!(found.options, b"ro,nosuid,nodev,noexec,relatime");
    let of_superblock = String::from_utf8(found.super_options).unwrap();
    assert!(of_superblock.starts_with("ro,"), "{of_superblock}");
    assert!(of_superblock.contains("default_permissions,allow_other"), "{of_superblock}");

    mount::unmount(dir.path(), Unmount::Abort).unwrap();
    assert_eq!(mountinfo::mount_at(dir.path()).unwrap(), None);
    let error = mount::unmount(dir.path(), Unmount::Now).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "nothing is mounted there any more");
}

/// The source that mountinfo shows is that which was asked for, whatever is in its name; one that is too long for the kernel
/// is left out.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_mount_shows_its_source() {
    if !private_namespace() {
        return;
    }
    let long = format!("/{}", "x".repeat(255));
    for (source, shown) in [
        ("/srv/web.lock", "/srv/web.lock"),
        ("/a b,c\\d#\n,ro\tü=\"", "/a b,c\\d#\n,ro\tü=\""),
        (&long[..255], &long[..255]),
        (&long, "nixview"),
        ("", "nixview"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = FuseOptions { source: Some(Path::new(source)), ..FuseOptions::default() };
        let device = mount::open_fuse_device().unwrap();
        let detached = mount::new_fuse(device.as_fd(), options).unwrap();
        mount::attach(detached.as_fd(), mount::open_target(dir.path()).unwrap().as_fd()).unwrap();
        let found = mountinfo::mount_at(dir.path()).unwrap().unwrap();
        assert_eq!(String::from_utf8(found.source).unwrap(), shown);
        mount::unmount(dir.path(), Unmount::Abort).unwrap();
        match fusermount::mount(dir.path(), options) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => skip!("no fusermount3 (Debian: fuse3)"),
            answer => {
                drop(answer.unwrap());
                let found = mountinfo::mount_at(dir.path()).unwrap().unwrap();
                assert_eq!(String::from_utf8(found.source).unwrap(), shown);
                assert!(found.options.starts_with(b"rw,nosuid,nodev"), "no option comes from the source");
                fusermount::unmount(dir.path(), true).unwrap();
            }
        }
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and fusermount3"]
fn fusermount_mounts_hands_over_the_device_and_unmounts() {
    if !private_namespace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let device =
        match fusermount::mount(dir.path(), FuseOptions { read_only: true, ..FuseOptions::default() }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return skip!("no fusermount3");
            }
            answer => answer.unwrap(),
        };
    let found = mountinfo::mount_at(dir.path()).unwrap().unwrap();
    assert_eq!(found.file_system, b"fuse.nixview");
    assert_eq!(found.source, b"nixview");
    let mut request = [0; 8192];
    let length = rustix::io::read(&device, &mut request).unwrap();
    assert!(length >= 56, "the INIT request waits in the device");
    let error = fusermount::mount(Path::new("/nowhere"), FuseOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "the program's own words: {error}");
    fusermount::unmount(dir.path(), true).unwrap();
    assert_eq!(mountinfo::mount_at(dir.path()).unwrap(), None);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_kernel_says_why_it_refuses() {
    if !private_namespace() {
        return;
    }
    let no_device = fs::File::open("/dev/null").unwrap();
    let error = mount::new_fuse(no_device.as_fd(), FuseOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    let link = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(link.path(), link.path().join("link")).unwrap();
    let error = mount::open_target(&link.path().join("link")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR), "a symbolic link is no target");
    assert!(mount::clone_read_only(Path::new("/nowhere")).is_err());
}
