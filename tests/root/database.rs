//! Nix's database where it cannot be written: read-only mounts and disks, a reader without privilege; beside no writer, a
//! living one, and one that was killed. The right answer each time, and nothing left beside the database.
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::skip::skip;
use mini_store::MiniStore;
use nix::sched::{CloneFlags, unshare};
use nixview::closure::{Mode, resolve};
use nixview::store::database::Access;
use nixview::store::{Database, Location, StorePath};
use rusqlite::Connection;
use rustix::fs::{Gid, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};

/// `nobody`.
const NOBODY: u32 = 65_534;

/// What is beside the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// It has left.
    Gone,
    /// It has committed, and holds the database open.
    Alive,
    /// It was killed after its commit: its log is left.
    Killed,
    /// The same, and the machine was restarted or the disk copied: the log without its index.
    KilledLongAgo,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Root,
    Nobody,
}

/// A store in which one path is only in the log, if there is one.
struct Scene {
    root: PathBuf,
    _dir: tempfile::TempDir,
    _store: MiniStore,
    _writer: Option<Connection>,
    paths: usize,
    closure: Vec<String>,
    env: StorePath,
}

fn scene(writer: Writer) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let store = MiniStore::temporary();
    let live = Connection::open(store.database()).unwrap();
    live.pragma_update(None, "journal_mode", "wal").unwrap();
    live.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let valid: usize =
        live.query_row("SELECT count(*) FROM ValidPaths", [], |row| row.get::<_, i64>(0)).unwrap() as usize;
    live.execute_batch(
        "INSERT INTO ValidPaths (path, hash, registrationTime)
         VALUES ('/nix/store/00000000000000000000000000000000-late', 'sha256:0', 1)",
    )
    .unwrap();
    let from = store.database();
    let root = match writer {
        Writer::Gone | Writer::Alive => store.root().to_owned(),
        Writer::Killed | Writer::KilledLongAgo => {
            let copy = dir.path().join("nix/var/nix/db");
            std::fs::create_dir_all(&copy).unwrap();
            std::fs::create_dir_all(dir.path().join("nix/store")).unwrap();
            for ending in ["", "-wal", "-shm"] {
                if ending != "-shm" || writer == Writer::Killed {
                    let name = format!("db.sqlite{ending}");
                    std::fs::copy(from.with_file_name(&name), copy.join(&name)).unwrap();
                }
            }
            dir.path().to_owned()
        }
    };
    // Directories of tests are their owner's alone.
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
    Scene {
        root,
        closure: store.closure("env-a").into_iter().map(str::to_owned).collect(),
        env: store.path("env-a").parse().unwrap(),
        _writer: (writer == Writer::Alive).then_some(live),
        _dir: dir,
        _store: store,
        paths: valid + 1,
    }
}

/// Names and contents of what lies beside the database; not of the index, in which living readers are noted.
fn beside(root: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = root.join("nix/var/nix/db");
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes =
                if name.ends_with("-shm") { Vec::new() } else { std::fs::read(entry.path()).unwrap() };
            (name, bytes)
        })
        .collect();
    all.sort();
    all
}

/// Reads everything as `reader`; how it was read, the number of paths, the closure of `env`.
fn read(root: &Path, env: &StorePath, reader: Reader) -> (Access, usize, Vec<String>) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if reader == Reader::Nobody {
                // Of this thread alone: the system calls, not libc's functions. Capabilities go with the user id.
                let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            }
            let database = Database::open(&Location::open(root).unwrap()).unwrap();
            let paths = database.valid_paths().unwrap().len();
            let closure = resolve(&database, std::slice::from_ref(env), Mode::Runtime).unwrap();
            (database.access(), paths, closure.names().map(str::to_owned).collect())
        });
        thread.join().unwrap()
    })
}

fn check(scene: &Scene, root: &Path, reader: Reader, what: &str) -> Access {
    let before = beside(root);
    let (access, paths, closure) = read(root, &scene.env, reader);
    assert_eq!(paths, scene.paths, "{what}: {access:?}");
    assert_eq!(closure, scene.closure, "{what}: {access:?}");
    assert!(beside(root) == before, "{what}: {access:?} leaves something beside the database");
    access
}

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
fn a_database_in_a_directory_is_read_beside_any_writer() {
    for writer in [Writer::Gone, Writer::Alive, Writer::Killed, Writer::KilledLongAgo] {
        for reader in [Reader::Root, Reader::Nobody] {
            let scene = scene(writer);
            let access = check(&scene, &scene.root, reader, &format!("{writer:?}, {reader:?}"));
            match writer {
                Writer::Gone => assert_eq!(access, Access::Immutable),
                Writer::Alive => assert_eq!(access, Access::Shared, "{reader:?}"),
                Writer::Killed | Writer::KilledLongAgo => assert_ne!(access, Access::Immutable),
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_database_on_a_read_only_mount_is_read_beside_any_writer() {
    if !private_namespace() {
        return;
    }
    for writer in [Writer::Gone, Writer::Alive, Writer::Killed, Writer::KilledLongAgo] {
        for reader in [Reader::Root, Reader::Nobody] {
            let scene = scene(writer);
            mount_bind(&scene.root, &scene.root).unwrap();
            mount_remount(&scene.root, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
            let refused = std::fs::write(scene.root.join("nix/var/nix/db/x"), "").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                check(&scene, &scene.root, reader, &format!("read-only, {writer:?}, {reader:?}"))
            }));
            rustix::mount::unmount(&scene.root, rustix::mount::UnmountFlags::DETACH).unwrap();
            let access = checked.unwrap();
            assert_eq!(
                access == Access::Immutable,
                writer == Writer::Gone,
                "{writer:?}, {reader:?}: {access:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root, loop devices and squashfs"]
fn a_database_on_a_disk_image_is_read_with_what_is_in_its_log() {
    if !private_namespace() {
        return;
    }
    for writer in [Writer::Gone, Writer::Killed, Writer::KilledLongAgo] {
        let scene = scene(writer);
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (image, at) = (place.path().join("image"), place.path().join("at"));
        std::fs::create_dir(&at).unwrap();
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let done = Command::new(program).args(arguments).output();
            match done {
                Ok(done) if done.status.success() => true,
                other => {
                    skip!("{program}: {other:?}");
                    false
                }
            }
        };
        let quiet: [&std::ffi::OsStr; 3] = ["-no-progress".as_ref(), "-quiet".as_ref(), "-noappend".as_ref()];
        let made = run("mksquashfs", &[&[scene.root.as_os_str(), image.as_os_str()][..], &quiet].concat());
        // The loop device goes with its mount.
        if !made || !run("mount", &["-o".as_ref(), "loop,ro".as_ref(), image.as_os_str(), at.as_os_str()]) {
            return;
        }
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for reader in [Reader::Root, Reader::Nobody] {
                check(&scene, &at, reader, &format!("on a disk, {writer:?}, {reader:?}"));
            }
        }));
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
        checked.unwrap();
    }
}
