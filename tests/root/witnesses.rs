//! A file of the store is copied up under the eyes of those who have it open: what each of them sees, on a real mount.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::fuse_tree::private_namespace;
use crate::support::union_mount::{Places, attribute, outcome};
use nixview::fuse::Io;
use rustix::fs::{FlockOperation, XattrFlags, flock};

const OLD: &str = "content of the store";

/// A view with a file of the store, one who has it open, and its path.
struct Scene<'a> {
    io: Io,
    reader: &'a File,
    path: &'a Path,
    number: u64,
}

impl Scene<'_> {
    /// What the reader reads.
    fn read(&self) -> String {
        let mut content = vec![0; 100];
        let length = self.reader.read_at(&mut content, 0).unwrap();
        content.truncate(length);
        String::from_utf8(content).unwrap()
    }

    /// The reader's own link in /proc.
    fn own(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.reader.as_raw_fd()).into()
    }

    fn passes_through(&self) -> bool {
        self.io == Io::Passthrough
    }

    /// After a change of content by path: parted with passthrough, else one file.
    #[track_caller]
    fn content_changed(&self, now: &str) {
        let (old, new) = (self.reader.metadata().unwrap(), fs::metadata(self.path).unwrap());
        assert_eq!(fs::read_to_string(self.path).unwrap(), now);
        assert_eq!(new.len(), now.len() as u64);
        if self.passes_through() {
            assert_eq!(
                (self.read().as_str(), old.len()),
                (OLD, OLD.len() as u64),
                "the reader keeps the old bytes"
            );
            assert!(old.ino() == self.number && new.ino() != self.number, "they are two inodes");
        } else {
            assert_eq!((self.read().as_str(), old.len()), (now, now.len() as u64), "all see the same bytes");
            assert!(old.ino() == self.number && new.ino() == self.number, "they are one inode");
        }
    }
}

/// Runs in each mode, each time with a new view.
fn each(test: impl Fn(&Scene<'_>)) {
    if !private_namespace() {
        return;
    }
    for io in Places::new().modes() {
        let places = Places::new();
        fs::write(places.at("store/file"), OLD).unwrap();
        fs::set_permissions(places.at("store/file"), Permissions::from_mode(0o644)).unwrap();
        let m = places.mount(io, Some((0, 0)));
        let path = m.path.join("file");
        let reader = File::open(&path).unwrap();
        let number = reader.metadata().unwrap().ino();
        test(&Scene { io, reader: &reader, path: &path, number });
        drop(reader);
        m.unmount();
        assert_eq!(fs::read_to_string(places.at("store/file")).unwrap(), OLD, "the store is as it was");
    }
}

fn writer(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn somebody_writes() {
    each(|scene| {
        assert_eq!(scene.read(), OLD);
        writer(scene.path).unwrap().write_all_at(b"CONTENT", 0).unwrap();
        scene.content_changed("CONTENT of the store");
        writer(scene.path).unwrap().write_all_at(b"!", 20).unwrap();
        scene.content_changed("CONTENT of the store!");
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn somebody_truncates_by_path() {
    each(|scene| {
        let truncated = Command::new("truncate").args(["-s", "7"]).arg(scene.path).status().unwrap();
        assert!(truncated.success());
        scene.content_changed("content");
    });
    each(|scene| {
        fs::write(scene.path, "new").unwrap();
        scene.content_changed("new");
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn somebody_changes_metadata_by_path_or_descriptor() {
    each(|scene| {
        fs::set_permissions(scene.path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(scene.reader.metadata().unwrap().mode() & 0o7777, 0o640, "by path");
        scene.reader.set_permissions(Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(scene.path).unwrap().mode() & 0o7777, 0o600, "by descriptor");
        rustix::fs::fsetxattr(scene.reader, "user.x", b"1", XattrFlags::empty()).unwrap();
        assert_eq!(attribute(scene.path, "user.x").unwrap(), b"1");
        assert_eq!(fs::metadata(scene.path).unwrap().ino(), scene.number, "it is one inode");
        assert_eq!(scene.read(), OLD);
        // The content is still the store's; who writes now is parted from the reader as before.
        writer(scene.path).unwrap().write_all_at(b"CONTENT", 0).unwrap();
        scene.content_changed("CONTENT of the store");
        // What the reader changes goes to the file that the name stands for.
        scene.reader.set_permissions(Permissions::from_mode(0o606)).unwrap();
        rustix::fs::fsetxattr(scene.reader, "user.x", b"2", XattrFlags::empty()).unwrap();
        assert_eq!(attribute(scene.path, "user.x").unwrap(), b"2");
        assert_eq!(scene.reader.metadata().unwrap().mode() & 0o7777, 0o606);
        let fresh = Command::new("stat").args(["-c", "%a"]).arg(scene.path).output().unwrap().stdout;
        let expected: &[&[u8]] = if scene.passes_through() {
            // The kernel keeps attributes of each inode, and was told of one of the two.
            &[b"606\n", b"600\n"]
        } else {
            &[b"606\n"]
        };
        assert!(expected.contains(&&*fresh), "{}", fresh.escape_ascii());
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_reader_opens_its_file_again() {
    each(|scene| {
        let again = || fs::read_to_string(scene.own()).unwrap();
        let for_writing = || outcome(writer(&scene.own()).map(drop));
        assert_eq!(again(), OLD);
        let expected = if scene.passes_through() { Err(libc::ESTALE) } else { Ok(()) };
        assert_eq!(for_writing(), expected, "while it reads the store's file");
        writer(scene.path).unwrap().write_all_at(b"CONTENT", 0).unwrap();
        assert_eq!(again(), scene.read());
        assert_eq!(for_writing(), expected, "after somebody wrote");
        scene.content_changed("CONTENT of the store");
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn both_lock_it() {
    each(|scene| {
        flock(scene.reader, FlockOperation::LockExclusive).unwrap();
        let early = File::open(scene.path).unwrap();
        let lock = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(lock(&early), Err(rustix::io::Errno::WOULDBLOCK), "both read");
        let late = writer(scene.path).unwrap();
        let expected = if scene.passes_through() { Ok(()) } else { Err(rustix::io::Errno::WOULDBLOCK) };
        assert_eq!(lock(&late), expected, "the writer has another inode with passthrough");
        let reads_later = File::open(scene.path).unwrap();
        assert_eq!(lock(&reads_later), Err(rustix::io::Errno::WOULDBLOCK), "who comes later meets a lock");
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn somebody_moves_links_replaces_and_removes_it() {
    each(|scene| {
        let (moved, linked) = (scene.path.with_file_name("moved"), scene.path.with_file_name("linked"));
        fs::rename(scene.path, &moved).unwrap();
        fs::hard_link(&moved, &linked).unwrap();
        let seen = scene.reader.metadata().unwrap();
        assert_eq!((seen.ino(), seen.nlink(), scene.read().as_str()), (scene.number, 2, OLD));
        assert_eq!(fs::metadata(&linked).unwrap().ino(), scene.number);
        fs::write(scene.path, "another").unwrap();
        fs::rename(scene.path, &moved).unwrap();
        assert_eq!((scene.read().as_str(), scene.reader.metadata().unwrap().nlink()), (OLD, 1));
        fs::remove_file(&linked).unwrap();
        assert_eq!((scene.read().as_str(), scene.reader.metadata().unwrap().nlink()), (OLD, 0));
        assert_eq!(fs::read_to_string(&moved).unwrap(), "another");
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_program_that_runs_is_busy_and_can_be_replaced() {
    if !private_namespace() {
        return;
    }
    for io in Places::new().modes() {
        let places = Places::new();
        for top in ["store", "plain"] {
            fs::copy("/bin/sleep", places.at(top).join("sleep")).unwrap();
        }
        let m = places.mount(io, Some((0, 0)));
        let [ours, theirs] = [&m.path, &places.at("plain")].map(|top| {
            let path = top.join("sleep");
            let mut running = Command::new(&path).arg("20").spawn().unwrap();
            let written = outcome(writer(&path).map(drop));
            let truncated = outcome(File::create(&path).map(drop));
            fs::write(top.join("new"), "new").unwrap();
            let replaced = outcome(fs::rename(top.join("new"), &path));
            let alive = running.try_wait().unwrap().is_none();
            running.kill().unwrap();
            running.wait().unwrap();
            (written, truncated, replaced, alive, fs::read_to_string(&path).unwrap())
        });
        assert_eq!(ours, theirs, "{io:?}");
        assert_eq!(ours, (Err(libc::ETXTBSY), Err(libc::ETXTBSY), Ok(()), true, "new".to_owned()), "{io:?}");
        m.unmount();
    }
}
