//! Copies of large files: nobody else waits for them, they take no memory, and holes stay holes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::support::effort::pick;
use crate::support::fuse_tree::{Mounted, has_passthrough, private_namespace};
use crate::support::scene::Scene;
use nixview::fuse::Io;
use nixview::layer::dir::{DirLower, DirUpper};
use nixview::layer::fault::{Change, FaultUpper, Faults};
use nixview::sys::mount;
use nixview::union::{self, UnionFs};

/// Length of the large file.
fn length() -> u64 {
    pick(256, 1024) << 20
}

/// How much of it is data: in stretches, with holes between.
const STRETCH: u64 = 4 << 20;
const EVERY: u64 = 16 << 20;

/// Lets the first copy stop in the middle: that it has is told, and how it goes on is for the test.
fn stuck_in_fill() -> (Arc<Faults>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (stuck, is_stuck) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (first, released) = (AtomicBool::new(true), Mutex::new(released));
    let faults = Faults::watch(move |change| {
        if change == Change::Fill && first.swap(false, Ordering::SeqCst) {
            stuck.send(()).unwrap();
            // Ended without a word: the test has failed.
            released.lock().unwrap().recv().ok();
        }
    });
    (faults, is_stuck, release)
}

fn a_stuck_copy_stops_nobody(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["store/other", "data", "work", "view"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("store/large"), "the lower's").unwrap();
    fs::write(at("store/other/small"), "small").unwrap();
    let (faults, is_stuck, release) = stuck_in_fill();
    let open = |name: &str| File::open(at(name)).unwrap();
    let upper = FaultUpper::new(DirUpper::open(&open("data"), &open("work"), None).unwrap(), faults);
    let of_union = if io == Io::Cached { union::Io::Cached } else { union::Io::Passthrough };
    let options = union::Options { io: of_union, ..union::Options::default() };
    let lower = DirLower::new(&mount::clone_read_only(&at("store")).unwrap()).unwrap();
    let union = UnionFs::new(lower, Some(upper), options).unwrap();
    let mounted = Mounted::new(Arc::new(union), &at("view"), io, false);
    // Dropped before the mount if the test fails, so that its server can end.
    let release = release;
    let view = mounted.path.clone();
    let large = view.join("large");
    let writer = thread::spawn(move || OpenOptions::new().append(true).open(large)?.write_all(b" and more"));
    is_stuck.recv().unwrap();
    // In the kernel's cache the page that is being written is the writer's, also for readers.
    if io == Io::Passthrough {
        assert_eq!(fs::read(view.join("large")).unwrap(), b"the lower's");
    }
    assert_eq!(fs::metadata(view.join("large")).unwrap().len(), 11);
    assert_eq!(fs::metadata(view.join("other/small")).unwrap().len(), 5);
    assert!(fs::metadata(view.join("missing")).is_err());
    assert_eq!(fs::read_dir(&view).unwrap().count(), 2);
    OpenOptions::new().append(true).open(view.join("other/small")).unwrap().write_all(b", changed").unwrap();
    fs::create_dir(view.join("new")).unwrap();
    fs::rename(view.join("other/small"), view.join("new/small")).unwrap();
    File::open(view.join("new/small")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(view.join("new/small")).unwrap(), b"small, changed");
    release.send(()).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(fs::read(view.join("large")).unwrap(), b"the lower's and more");
    mounted.unmount();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn nobody_waits_for_the_copy_of_another_file() {
    if !private_namespace() {
        return;
    }
    for io in [Io::Passthrough, Io::Cached] {
        if io == Io::Cached || has_passthrough(&std::env::temp_dir()) {
            a_stuck_copy_stops_nobody(io);
        }
    }
}

fn stretch(at: u64) -> Vec<u8> {
    let word = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word.repeat(usize::try_from(STRETCH).unwrap() / word.len())
}

fn make_large(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(length()).unwrap();
    for at in (0..length()).step_by(usize::try_from(EVERY).unwrap()) {
        file.write_all_at(&stretch(at), at).unwrap();
    }
}

fn assert_large(path: &Path) {
    let file = File::open(path).unwrap();
    let mut found = vec![0; usize::try_from(STRETCH).unwrap()];
    for at in (0..length()).step_by(usize::try_from(EVERY).unwrap()) {
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == stretch(at), "{at}");
        file.read_exact_at(&mut found, at + STRETCH).unwrap();
        assert!(found.iter().all(|byte| *byte == 0), "the hole after {at}");
    }
}

/// A figure of a process in KiB.
fn status(pid: i32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_copy_takes_no_memory_and_keeps_holes() {
    let scene = Scene::new();
    let member = scene.store.real("data");
    make_large(&member.join("large"));
    let data = length() / EVERY * STRETCH;
    scene.shell("mkdir other && mount -t tmpfs other other").ok();
    // On the file system of the store, and on another one: there it is read and written by hand.
    for (io, upper) in
        [("passthrough", "same"), ("cached", "same"), ("passthrough", "other/u"), ("cached", "other/u")]
    {
        let upper = scene.path(upper);
        let options = ["--name", "c", "--io", io, "--upper", upper.to_str().unwrap()];
        scene.mount("env-b", "a", &options).ok();
        let server = scene.server("c");
        let below = Path::new("store").join(scene.store.path("data")).join("large");
        let path = scene.path("a").join(&below);
        fs::metadata(&path).unwrap();
        // The peak is counted from here on.
        fs::write(format!("/proc/{server}/clear_refs"), "5").unwrap();
        let before = status(server, "VmHWM");
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"!", STRETCH).unwrap();
        let grown = status(server, "VmHWM") - before;
        println!("{io}, {}: the server grew by {grown} KiB", upper.display());
        assert!(grown < 4096, "{grown} KiB more for a copy of {data} bytes");
        let copy = upper.join("tree/nix").join(&below);
        let allocated = fs::metadata(&copy).unwrap().blocks() * 512;
        assert!((data..data + (1 << 20)).contains(&allocated), "{allocated} bytes for {data}");
        assert_eq!(fs::metadata(&path).unwrap().len(), length());
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"\0", STRETCH).unwrap();
        assert_large(&path);
        scene.nixview(&["umount", "c"]).ok();
        fs::remove_dir_all(&upper).unwrap();
    }
    scene.shell("umount other").ok();
    scene.assert_nothing_left();
}
