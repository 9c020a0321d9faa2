//! The rim, through a real mount: which requests the kernel sends, what passthrough does, and how mounts end.
//!
//! Each test has a mount namespace of its own; the server is threads of the test's process.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::support::fuse_tree::{Backing, Mounted, Tree, has_passthrough, private_namespace, session};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};
use nixview::fuse::Io;
use nixview::sys::fuse_connection::FuseConnection;
use nixview::sys::mount::{self, Unmount};
use nixview::sys::mountinfo;
use rustix::fs::{Mode, OFlags};
use tempfile::{TempDir, tempdir};

/// A directory with some files, and a place to mount it.
fn places() -> (TempDir, TempDir) {
    let (store, view) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(store.path().join("file"), "content of the file").unwrap();
    fs::create_dir_all(store.path().join("dir/sub")).unwrap();
    for n in 0..300 {
        fs::write(store.path().join(format!("dir/name-{n}")), n.to_string()).unwrap();
    }
    std::os::unix::fs::symlink("../file", store.path().join("dir/link")).unwrap();
    (store, view)
}

fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            assert!(entry.metadata().is_ok());
            1 + if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 0 }
        })
        .sum()
}

fn errno<T>(answer: std::io::Result<T>) -> Option<i32> {
    answer.err().and_then(|error| error.raw_os_error())
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn warm_metadata_costs_no_request() {
    if !private_namespace() {
        return;
    }
    for io in [Io::Passthrough, Io::Cached] {
        let (store, view) = places();
        if io == Io::Passthrough && !has_passthrough(store.path()) {
            continue;
        }
        let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), io, true);
        let (missing, file, dir) = (m.path.join("dir/missing"), m.path.join("file"), m.path.join("dir"));

        fs::metadata(&dir).unwrap();
        let stats = m.requests(|| (0..1000).for_each(|_| assert!(!missing.exists())));
        assert_eq!(stats, [("lookup", 1)], "{io:?}: stats of a missing name");
        let opens = m.requests(|| {
            (0..1000).for_each(|_| assert_eq!(errno(File::open(&missing)), Some(libc::ENOENT)));
        });
        assert_eq!(opens, [], "{io:?}: opens of a name that is known to be missing");

        fs::metadata(&file).unwrap();
        let stats = m.requests(|| (0..1000).for_each(|_| assert!(fs::metadata(&file).is_ok())));
        assert_eq!(stats, [], "{io:?}: stats of a known name");

        let first = m.requests(|| assert_eq!(walk(&m.path), 304));
        assert!(
            !first.iter().any(|(name, _)| *name == "lookup"),
            "{io:?}: a listing brings entries: {first:?}"
        );
        let again = m.requests(|| assert_eq!(walk(&m.path), 304));
        assert_eq!(again, [], "{io:?}: a second walk");

        let link = m.path.join("dir/link");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("../file"));
        let links = m.requests(|| assert_eq!(fs::read_link(&link).unwrap(), Path::new("../file")));
        assert_eq!(links, [], "{io:?}: a known link");
        m.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_thousand_failing_opens_are_one_request() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, true);
    let missing = m.path.join("missing");
    fs::metadata(&m.path).unwrap();
    let opens = m.requests(|| {
        (0..1000).for_each(|_| assert_eq!(errno(File::open(&missing)), Some(libc::ENOENT)));
    });
    assert_eq!(opens, [("lookup", 1)]);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn passthrough_reads_and_executes_without_requests() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    if !has_passthrough(store.path()) {
        return;
    }
    fs::copy("/bin/true", store.path().join("true")).unwrap();
    let big: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(store.path().join("big"), &big).unwrap();
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Passthrough, true);

    fs::metadata(&m.path).unwrap();
    let read = m.requests(|| assert_eq!(fs::read(m.path.join("big")).unwrap(), big));
    assert_eq!(read, [("lookup", 1), ("open", 1)], "reading, and the close, cost nothing");
    let run = m.requests(|| assert!(Command::new(m.path.join("true")).status().unwrap().success()));
    assert!(run.iter().all(|(name, _)| ["lookup", "open"].contains(name)), "an exec maps the file: {run:?}");

    let mut options = OpenOptions::new();
    let direct = options.read(true).custom_flags(libc::O_DIRECT).open(m.path.join("big"));
    match direct {
        Err(error) => skip!("O_DIRECT on {}: {error}", store.path().display()),
        Ok(mut file) => {
            // O_DIRECT needs memory aligned to blocks.
            let mut buffer = vec![0; 3 * 4096];
            let aligned = buffer.as_ptr().align_offset(4096);
            let length = file.read(&mut buffer[aligned..aligned + 4096]).unwrap();
            assert_eq!(buffer[aligned..aligned + length], big[..length]);
            assert_eq!(m.metrics.get(nixview::telemetry::metrics::Operation::Read).requests, 0);
        }
    }
    let mut file = File::open(m.path.join("big")).unwrap();
    let stats = m.requests(|| {
        for _ in 0..100 {
            let mut byte = [0];
            file.read_exact(&mut byte).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 1_200_000);
        }
    });
    assert_eq!(stats, [], "on a read-only superblock, fstat after a read costs nothing");
    drop(file);
    m.unmount();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn passthrough_views_share_the_page_cache_of_the_store() {
    if !private_namespace() {
        return;
    }
    for io in [Io::Passthrough, Io::Cached] {
        let (store, first) = places();
        let second = tempdir().unwrap();
        if io == Io::Passthrough && !has_passthrough(store.path()) {
            continue;
        }
        let views = [&first, &second]
            .map(|at| Mounted::new(Tree::new(store.path(), Backing::AsAsked), at.path(), io, true));
        let read = || views.each_ref().map(|m| fs::read_to_string(m.path.join("file")).unwrap());
        assert_eq!(read(), ["content of the file"; 2]);
        let host = OpenOptions::new().write(true).open(store.path().join("file")).unwrap();
        host.write_all_at(b"CONTENT", 0).unwrap();
        let expected = match io {
            Io::Passthrough => "CONTENT of the file",
            Io::Cached => "content of the file",
        };
        assert_eq!(
            read(),
            [expected; 2],
            "{io:?}: the cache that is read is the store's only with passthrough"
        );
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_open_for_writing_never_reaches_the_store() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    if !has_passthrough(store.path()) {
        return;
    }
    let writing = || OpenOptions::new().read(true).write(true).open(view.path().join("file"));
    let m =
        Mounted::new(Tree::new(store.path(), Backing::ReadOnlyClone), view.path(), Io::Passthrough, false);
    // What the mount refuses with EROFS, FUSE tells as EIO (fs/fuse/iomode.c, fuse_file_io_open).
    assert_eq!(errno(writing()), Some(libc::EIO));
    assert_eq!(fs::read_to_string(m.path.join("file")).unwrap(), "content of the file");
    m.unmount();
    // What the clone protects from: the kernel opens the file again, as the caller asked.
    let m = Mounted::new(
        Tree::new(store.path(), Backing::ReadOnlyDescriptor),
        view.path(),
        Io::Passthrough,
        false,
    );
    writing().unwrap().write_all(b"WRITTEN").unwrap();
    assert_eq!(fs::read_to_string(store.path().join("file")).unwrap(), "WRITTEN of the file");
    m.unmount();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn files_are_written_created_truncated_and_removed_in_both_modes() {
    if !private_namespace() {
        return;
    }
    for io in [Io::Passthrough, Io::Cached] {
        let (store, view) = places();
        if io == Io::Passthrough && !has_passthrough(store.path()) {
            continue;
        }
        let tree = Tree::new(store.path(), Backing::AsAsked);
        let m = Mounted::new(Arc::clone(&tree), view.path(), io, false);
        let (path, there) = (m.path.join("file"), store.path().join("file"));

        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        let writes = m.requests(|| (0..10).for_each(|_| file.write_all(b"+").unwrap()));
        let count = |name| writes.iter().find(|(n, _)| *n == name).map_or(0, |(_, count)| *count);
        assert_eq!(count("write"), if io == Io::Passthrough { 0 } else { 10 }, "{io:?}: {writes:?}");
        assert!(count("getxattr") <= 10, "the kernel asks for file capabilities: {writes:?}");
        assert!(writes.iter().all(|(name, _)| ["write", "getxattr"].contains(name)), "{io:?}: {writes:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 29, "{io:?}: the new size is known at once");
        file.sync_all().unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "content of the file++++++++++");
        drop(file);

        fs::write(&path, "short").unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "short", "{io:?}: an open can truncate");
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(fs::metadata(&path).unwrap().len(), 5);

        let new = m.path.join("new");
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(&new).unwrap();
        file.write_all(b"born here").unwrap();
        file.seek(SeekFrom::Start(5)).unwrap();
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "here");
        drop(file);
        assert_eq!(fs::read_to_string(store.path().join("new")).unwrap(), "born here");
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o640);
        fs::rename(&new, m.path.join("dir/moved")).unwrap();
        assert!(!new.exists());
        fs::remove_file(m.path.join("dir/moved")).unwrap();
        assert!(!store.path().join("dir/moved").exists());
        fs::create_dir(m.path.join("made")).unwrap();
        assert!(store.path().join("made").is_dir());

        let before_epoch = UNIX_EPOCH - Duration::new(1, 250_000_000);
        let file = File::open(&path).unwrap();
        file.set_modified(before_epoch).unwrap();
        assert_eq!(fs::metadata(&there).unwrap().modified().unwrap(), before_epoch, "{io:?}");
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before_epoch, "{io:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::metadata(&there).unwrap().mode() & 0o7777, 0o600);
        drop(file);
        // The kernel releases a file some time after its close, and an unmount does not wait for that.
        eventually("every open is released", PATIENCE, || tree.open_files() == 0);
        m.unmount();
        assert_eq!(tree.open_files(), 0, "{io:?}: every open was released");
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn cached_opens_cost_no_request() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, false);
    let path = m.path.join("file");
    let first = m.requests(|| assert_eq!(fs::read(&path).unwrap().len(), 19));
    assert!(first.contains(&("open", 1)) && first.contains(&("read", 1)), "{first:?}");
    fs::metadata(&path).unwrap(); // The read made the kernel forget the time of access.
    let again = m.requests(|| (0..1000).for_each(|_| assert_eq!(fs::read(&path).unwrap().len(), 19)));
    assert_eq!(again, []);
    drop(File::create(m.path.join("new")).unwrap());
    m.unmount();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_large_directory_is_listed_whole_and_once() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    for n in 0..2000 {
        fs::write(store.path().join(format!("dir/sub/{n:0200}")), "").unwrap();
    }
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, true);
    let names = |dir: &Path| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&m.path.join("dir/sub")), names(&store.path().join("dir/sub")));
    let listed = Command::new("ls").args(["-fai1"]).arg(m.path.join("dir/sub")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let number = |name: &str| {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
        line.trim().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(number("."), fs::metadata(m.path.join("dir/sub")).unwrap().ino());
    assert_eq!(number(".."), fs::metadata(m.path.join("dir")).unwrap().ino());
    assert_eq!(listed.lines().count(), 2002);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn small_questions_have_right_answers() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, false);
    let path = m.path.join("file");
    let long = m.path.join("x".repeat(256));
    assert_eq!(errno(fs::metadata(long)), Some(libc::ENAMETOOLONG));

    let mut small = [0; 10];
    let mut large = [0; 1001];
    assert_eq!(rustix::fs::getxattr(&path, "user.long", &mut large), Ok(1000));
    assert_eq!(rustix::fs::getxattr(&path, "user.long", &mut small), Err(rustix::io::Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut small), Err(rustix::io::Errno::NODATA));
    let mut list = [0; 64];
    let length = rustix::fs::listxattr(&path, &mut list).unwrap();
    assert_eq!(&list[..length], b"user.long\0user.b\0");

    let sizes = rustix::fs::statvfs(&m.path).unwrap();
    assert_eq!((sizes.f_blocks, sizes.f_bfree, sizes.f_frsize, sizes.f_namemax), (1000, 600, 4096, 255));
    let file = File::open(&path).unwrap();
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(3)), Ok(19));
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(19)), Err(rustix::io::Errno::NXIO));
    let copy = m.path.join("copy");
    assert_eq!(fs::copy(&path, &copy).unwrap(), 19, "copies although the server has no copy_file_range");
    assert_eq!(fs::read_to_string(copy).unwrap(), "content of the file");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_panic_in_a_handler_is_eio_and_the_next_request_works() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, true);
    for _ in 0..10 {
        assert_eq!(errno(fs::metadata(m.path.join("panic"))), Some(libc::EIO));
    }
    assert_eq!(fs::read_to_string(m.path.join("file")).unwrap(), "content of the file");
    m.unmount();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_mount_is_gone_after_umount_and_can_be_made_again_at_once() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    for _ in 0..20 {
        let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, true);
        assert_eq!(fs::read_to_string(m.path.join("file")).unwrap(), "content of the file");
        m.unmount();
        assert!(!view.path().join("file").exists());
        assert_eq!(mountinfo::mount_at(view.path()).unwrap(), None);
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_dead_server_leaves_a_mount_that_says_so_and_can_be_taken_away() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    let (session, _) = session(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, true);
    drop(session);
    assert_eq!(errno(fs::metadata(view.path().join("file"))), Some(libc::ENOTCONN));
    assert!(mountinfo::mount_at(view.path()).unwrap().is_some());
    mount::unmount(view.path(), Unmount::Now).unwrap();
    assert_eq!(fs::read_dir(view.path()).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn writes_through_a_mapping_are_seen_after_the_close() {
    if !private_namespace() {
        return;
    }
    let (store, view) = places();
    if !has_passthrough(store.path()) {
        return;
    }
    // Between the two writes the kernel learns times that the second makes wrong.
    let program = "import mmap, os, sys, time\n\
        f = open(sys.argv[1], 'r+b')\n\
        m = mmap.mmap(f.fileno(), 0)\n\
        m[0:7] = b'written'\n\
        m.flush()\n\
        os.stat(sys.argv[1])\n\
        time.sleep(0.05)\n\
        m[0:7] = b'WRITTEN'\n\
        m.close()\n";
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Passthrough, false);
    let (path, there) = (m.path.join("file"), store.path().join("file"));
    match Command::new("python3").args(["-c", program]).arg(&path).status() {
        Err(error) => return skip!("python3: {error}"),
        Ok(status) => assert!(status.success()),
    }
    assert_eq!(fs::read_to_string(&there).unwrap(), "WRITTEN of the file");
    let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    // The release, which makes the kernel ask again, is not waited for by a close.
    eventually("the view shows the new time of change", PATIENCE, || modified(&path) == modified(&there));
    let stats = m.requests(|| (0..10).for_each(|_| assert!(fs::metadata(&path).is_ok())));
    assert_eq!(stats, []);
    m.unmount();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_client_of_a_hanging_server_is_freed_by_an_abort() {
    if !private_namespace() {
        return;
    }
    for by_connection in [true, false] {
        let (store, view) = places();
        let tree = Tree::new(store.path(), Backing::AsAsked);
        let m = Mounted::new(Arc::clone(&tree), view.path(), Io::Cached, true);
        fs::metadata(&m.path).unwrap();
        let waits = m.path.join("hang");
        let client = std::thread::spawn(move || errno(fs::metadata(waits)));
        let connection = {
            let control = "/sys/fs/fuse/connections";
            if mountinfo::mount_at(Path::new(control)).unwrap().is_none() {
                let flags = rustix::mount::MountFlags::empty();
                rustix::mount::mount("fusectl", control, "fusectl", flags, None).unwrap();
            }
            FuseConnection::of_device(mountinfo::mount_at(&m.path).unwrap().unwrap().device)
        };
        while connection.waiting().unwrap() == 0 {
            std::thread::yield_now();
        }
        assert!(!client.is_finished());
        if by_connection {
            connection.abort().unwrap();
        } else {
            mount::unmount(&m.path, Unmount::Abort).unwrap();
        }
        let answer = client.join().unwrap();
        assert!([Some(libc::ECONNABORTED), Some(libc::ENOTCONN)].contains(&answer), "{answer:?}");
        tree.wake();
        if by_connection {
            assert_eq!(errno(fs::metadata(m.path.join("file"))), Some(libc::ENOTCONN));
            m.unmount();
        } else {
            assert_eq!(errno(fs::metadata(m.path.join("file"))), Some(libc::ENOENT), "the path is free");
        }
    }
}

/// Set where a test is started again by itself, in a user namespace.
const INSIDE: &str = "NIXVIEW_TEST_INSIDE_USER_NAMESPACE";

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_user_namespace_has_its_own_mounts_in_cached_mode() {
    if std::env::var_os(INSIDE).is_some() {
        return inside_a_user_namespace();
    }
    let inside = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "fuse::a_user_namespace_has_its_own_mounts_in_cached_mode"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8([inside.stdout, inside.stderr].concat()).unwrap();
    if said.starts_with("unshare: unshare failed") {
        return skip!("user namespaces: {said}");
    }
    assert!(inside.status.success() && said.contains("1 passed"), "{said}");
}

fn inside_a_user_namespace() {
    if !private_namespace() {
        return;
    }
    // All mounts below / are locked to their places here.
    let clone = mount::clone_read_only(Path::new("/")).unwrap();
    let proc = rustix::fs::openat(&clone, "proc/self/status", OFlags::RDONLY, Mode::empty());
    assert!(proc.is_ok(), "what cannot be left out is part of the clone");
    let name = format!("tmp/nixview-test-{}", std::process::id());
    let new = rustix::fs::openat(&clone, name, OFlags::WRONLY | OFlags::CREATE, Mode::empty());
    assert_eq!(new.err(), Some(rustix::io::Errno::ROFS));

    let (store, view) = places();
    let file = File::open(store.path().join("file")).unwrap();
    assert_eq!(errno(nixview::fuse::probe_passthrough(file.as_fd())), Some(libc::EPERM));
    let m = Mounted::new(Tree::new(store.path(), Backing::AsAsked), view.path(), Io::Cached, false);
    assert_eq!(fs::read_to_string(m.path.join("file")).unwrap(), "content of the file");
    fs::write(m.path.join("new"), "born here").unwrap();
    assert_eq!(fs::read_to_string(store.path().join("new")).unwrap(), "born here");
    m.unmount();
}
