//! Several threads in one view.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::union_support::{Disk, MemDisk, View, caller, name, options};
use nixview::layer::fault::{Change, FaultUpper, Faults};
use nixview::layer::mem::MemLayer;
use nixview::layer::{Access, LayerEntry, Lower, Stat};
use nixview::union::{Io, Options, UnionFs};
use nixview::vfs::{Errno, FileKind, Flow, Ino, Name, OpenFlags, RenameMode, SetAttr, StatFs, Vfs};

type Fs = UnionFs<MemLayer, FaultUpper<MemLayer>>;

fn fs(disk: &MemDisk, io: Io, faults: Arc<Faults>) -> Fs {
    UnionFs::new(disk.lower(), Some(FaultUpper::new(disk.upper(), faults)), options(io)).unwrap()
}

fn find(fs: &Fs, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |dir, n| fs.lookup(dir, &name(n)).unwrap().unwrap().attr.ino)
}

/// Runs `test` in a thread of its own; a deadlock is a failure and not a test that never ends.
fn guarded(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match finished.recv_timeout(Duration::from_secs(120)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing moves any more"),
        _ => thread.join().unwrap(),
    }
}

/// Lets the first change of a kind wait in its thread: that it has begun is told, and how it goes on is for the test.
fn stuck_at(stuck_in: Change) -> (Arc<Faults>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (stuck, is_stuck) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (first, released) = (AtomicBool::new(true), Mutex::new(released));
    let faults = Faults::watch(move |change| {
        if change == stuck_in && first.swap(false, Ordering::SeqCst) {
            stuck.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        }
    });
    (faults, is_stuck, release)
}

/// Opens for writing, as the kernel does, and writes.
fn write_opened(fs: &Fs, ino: Ino, data: &[u8]) {
    let opened = fs.open(ino, OpenFlags(libc::O_RDWR)).unwrap();
    assert_eq!(fs.write(ino, Some(opened.handle), 0, data).unwrap(), data.len());
    fs.release(ino, opened.handle);
}

#[test]
fn nobody_waits_for_a_copy_but_who_writes_to_the_same_file() {
    // While content is copied, while it goes to the disk, and while its name does.
    for stuck_in in [Change::Fill, Change::Sync, Change::SyncDir] {
        for io in [Io::Cached, Io::Passthrough] {
            guarded(move || a_stuck_copy_stops_nobody(stuck_in, io));
        }
    }
}

fn a_stuck_copy_stops_nobody(stuck_in: Change, io: Io) {
    let disk = MemDisk::new();
    let (faults, is_stuck, release) = stuck_at(stuck_in);
    let options = Options { durable: true, ..options(io) };
    let fs = UnionFs::new(disk.lower(), Some(FaultUpper::new(disk.upper(), faults)), options).unwrap();
    let (b, dir, other) = (find(&fs, "b"), find(&fs, "a"), find(&fs, "a/a"));
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_opened(&fs, b, b"UPPER"));
        is_stuck.recv().unwrap();
        assert_eq!(find(&fs, "b"), b);
        assert_eq!(fs.getattr(b, None).unwrap().size, 7);
        let mut buffer = [0; 7];
        assert_eq!(fs.read(b, None, 0, &mut buffer).unwrap(), 7);
        assert_eq!(&buffer, b"lower b");
        let made = fs.mkdir(caller(), Ino::ROOT, &name("new"), 0o755).unwrap().attr.ino;
        assert_eq!(find(&fs, "new"), made);
        write_opened(&fs, other, b"x");
        fs.fsync(other, None, false).unwrap();
        fs.rename((dir, &name("a")), (made, &name("a")), RenameMode::Replace).unwrap();
        let mut names = 0;
        fs.readdir(Ino::ROOT, 0, false, &mut |_| {
            names += 1;
            Flow::Continue
        })
        .unwrap();
        assert_eq!(names, 4);
        release.send(()).unwrap();
        writer.join().unwrap();
    });
    assert_eq!(find(&fs, "b"), b);
    let mut buffer = [0; 7];
    assert_eq!(fs.read(b, None, 0, &mut buffer).unwrap(), 7);
    assert_eq!(&buffer, b"UPPER b");
}

/// What was synced in a directory could not be found again if the copy of the directory had no durable name yet.
#[test]
fn a_sync_waits_for_the_names_of_copies_above() {
    guarded(|| {
        let disk = MemDisk::new();
        let (faults, is_stuck, release) = stuck_at(Change::SyncDir);
        let options = Options { durable: true, ..options(Io::Cached) };
        let fs = UnionFs::new(disk.lower(), Some(FaultUpper::new(disk.upper(), faults)), options).unwrap();
        let dir = find(&fs, "c");
        let chmod = SetAttr { permissions: Some(0o700), ..SetAttr::default() };
        let released = AtomicBool::new(false);
        thread::scope(|scope| {
            let copier = scope.spawn(|| fs.setattr(caller(), dir, None, &chmod).map(drop).unwrap());
            is_stuck.recv().unwrap();
            let flags = OpenFlags(libc::O_RDWR);
            let (entry, opened) = fs.create(caller(), dir, &name("a"), 0o644, flags).unwrap();
            let file = entry.attr.ino;
            let (fs, released) = (&fs, &released);
            let syncs = [
                scope.spawn(move || {
                    fs.fsync(file, Some(opened.handle), false).unwrap();
                    released.load(Ordering::SeqCst)
                }),
                scope.spawn(move || {
                    fs.fsyncdir(dir).unwrap();
                    released.load(Ordering::SeqCst)
                }),
            ];
            for _ in 0..2000 {
                assert_eq!(find(fs, "c/a"), file, "lookups go on");
                thread::yield_now();
            }
            released.store(true, Ordering::SeqCst);
            release.send(()).unwrap();
            for sync in syncs {
                assert!(sync.join().unwrap(), "it was answered before the directory had its name");
            }
            copier.join().unwrap();
        });
    });
}

#[test]
fn a_file_is_copied_once_however_many_write_to_it() {
    guarded(|| {
        for _ in 0..50 {
            let disk = MemDisk::new();
            let fills = Arc::new(AtomicU32::new(0));
            let count = fills.clone();
            let faults = Faults::watch(move |change| {
                if change == Change::Fill {
                    count.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            });
            let fs = fs(&disk, Io::Cached, faults);
            let file = find(&fs, "a/b/a");
            thread::scope(|scope| {
                for n in 0..4_u8 {
                    let fs = &fs;
                    scope.spawn(move || fs.write(file, None, u64::from(n), &[n]).unwrap());
                }
            });
            assert_eq!(fills.load(Ordering::SeqCst), 1);
            let mut buffer = [0; 16];
            assert_eq!(fs.read(file, None, 0, &mut buffer).unwrap(), 11);
            assert_eq!(&buffer[..11], b"\x00\x01\x02\x03r a/b/a");
        }
    });
}

/// One thread's share of the mixed load.
struct Worker<'f> {
    fs: &'f Fs,
    random: u64,
    lookups: HashMap<Ino, u64>,
}

impl Worker<'_> {
    fn next(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn letter(&mut self) -> nixview::vfs::Name {
        name(["a", "b", "c"][self.next(3) as usize])
    }

    fn enter(&mut self, dir: Ino) -> Option<(Ino, FileKind)> {
        let n = self.letter();
        let entry = self.fs.lookup(dir, &n).unwrap_or(None)?;
        *self.lookups.entry(entry.attr.ino).or_default() += 1;
        Some((entry.attr.ino, entry.attr.kind))
    }

    fn directory(&mut self) -> Ino {
        let mut at = Ino::ROOT;
        for _ in 0..self.next(4) {
            match self.enter(at) {
                Some((ino, FileKind::Directory)) => at = ino,
                _ => break,
            }
        }
        at
    }

    fn step(&mut self) -> nixview::vfs::Result<()> {
        let (dir, n) = (self.directory(), self.letter());
        match self.next(10) {
            0 => self.fs.mkdir(caller(), dir, &n, 0o755).map(|e| self.count(e.attr.ino)),
            1 => {
                let flags = OpenFlags(libc::O_RDWR);
                let (entry, opened) = self.fs.create(caller(), dir, &n, 0o644, flags)?;
                self.count(entry.attr.ino);
                let done = self.fs.write(entry.attr.ino, Some(opened.handle), 0, b"worker");
                self.fs.release(entry.attr.ino, opened.handle);
                done.map(drop)
            }
            2 => self.fs.unlink(dir, &n),
            3 => self.fs.rmdir(dir, &n),
            4 | 5 => {
                let (to, new) = (self.directory(), self.letter());
                let mode = if self.next(4) == 0 { RenameMode::Exchange } else { RenameMode::Replace };
                self.fs.rename((dir, &n), (to, &new), mode)
            }
            6 => {
                let Some((ino, kind)) = self.enter(dir) else { return Ok(()) };
                let to = self.directory();
                if kind == FileKind::Directory {
                    return Ok(());
                }
                self.fs.link(ino, to, &n).map(|e| self.count(e.attr.ino))
            }
            7 => {
                let Some((ino, kind)) = self.enter(dir) else { return Ok(()) };
                let size = (kind == FileKind::Regular).then_some(3);
                let changes = SetAttr { size, permissions: Some(0o755), ..SetAttr::default() };
                match kind {
                    FileKind::Symlink => self.fs.readlink(ino).map(drop),
                    _ => self.fs.setattr(caller(), ino, None, &changes).map(drop),
                }
            }
            8 => self.fs.readdir(dir, 0, false, &mut |_| Flow::Continue),
            _ => {
                for (ino, count) in std::mem::take(&mut self.lookups) {
                    self.fs.forget(ino, count);
                }
                Ok(())
            }
        }
    }

    fn count(&mut self, ino: Ino) {
        *self.lookups.entry(ino).or_default() += 1;
    }
}

#[test]
fn mixed_operations_leave_what_the_layers_say() {
    const ORDINARY: [Errno; 8] = [
        Errno::ENOENT,
        Errno::EEXIST,
        Errno::ENOTDIR,
        Errno::EISDIR,
        Errno::ENOTEMPTY,
        Errno::EINVAL,
        Errno::ELOOP,
        Errno::EPERM,
    ];
    guarded(|| {
        let done = AtomicU32::new(0);
        for round in 0..20 {
            let disk = MemDisk::new();
            let fs = fs(&disk, Io::Cached, Faults::none());
            thread::scope(|scope| {
                for n in 0..4_u64 {
                    let (fs, done) = (&fs, &done);
                    scope.spawn(move || {
                        let mut worker = Worker { fs, random: round * 4 + n, lookups: HashMap::new() };
                        for _ in 0..400 {
                            match worker.step() {
                                Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                                Err(error) => assert!(ORDINARY.contains(&error.errno()), "{error}"),
                            }
                        }
                        for (ino, count) in worker.lookups {
                            fs.forget(ino, count);
                        }
                    });
                }
            });
            assert_eq!(fs.known_inodes(), 1, "every lookup was given back");
            assert_eq!(fs.open_handles(), 0);
            assert_eq!(disk.upper.drafts(), 0);
            let upper = FaultUpper::new(disk.upper(), Faults::none());
            let remounted = View::new(disk.lower(), upper, options(Io::Cached)).tree();
            let live = View { fs, lookups: HashMap::new() }.tree();
            assert_eq!(live, remounted);
        }
        assert!(done.into_inner() > 8000, "most operations found something to do");
    });
}

/// A lower that calls a hook after each lookup of a name.
struct SlowLower<H> {
    inner: MemLayer,
    looked_up: H,
}

impl<H: Fn() + Send + Sync + 'static> Lower for SlowLower<H> {
    type Object = <MemLayer as Lower>::Object;
    type File = <MemLayer as Lower>::File;

    fn root(&self) -> io::Result<Self::Object> {
        self.inner.root()
    }

    fn lookup(&self, dir: &Self::Object, name: &Name) -> io::Result<Self::Object> {
        let found = self.inner.lookup(dir, name);
        (self.looked_up)();
        found
    }

    fn resolve(&self, path: &[Name]) -> io::Result<Self::Object> {
        self.inner.resolve(path)
    }

    fn stat(&self, object: &Self::Object) -> io::Result<Stat> {
        self.inner.stat(object)
    }

    fn read_dir(&self, dir: &Self::Object) -> io::Result<Vec<LayerEntry>> {
        self.inner.read_dir(dir)
    }

    fn read_link(&self, object: &Self::Object) -> io::Result<Vec<u8>> {
        self.inner.read_link(object)
    }

    fn open(&self, object: &Self::Object, access: Access) -> io::Result<Self::File> {
        self.inner.open(object, access)
    }

    fn get_xattr(&self, object: &Self::Object, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner.get_xattr(object, name)
    }

    fn list_xattr(&self, object: &Self::Object) -> io::Result<Vec<Vec<u8>>> {
        self.inner.list_xattr(object)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        self.inner.statfs()
    }
}

#[test]
fn a_lookup_does_not_answer_what_was_removed_while_it_looked() {
    guarded(|| {
        let disk = MemDisk::new();
        let (stuck, is_stuck) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (first, released) = (AtomicBool::new(true), Mutex::new(released));
        let looked_up = move || {
            if first.swap(false, Ordering::SeqCst) {
                stuck.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
            }
        };
        let lower = SlowLower { inner: disk.lower(), looked_up };
        let fs = UnionFs::new(lower, Some(disk.upper()), options(Io::Cached)).unwrap();
        thread::scope(|scope| {
            let lookup = scope.spawn(|| fs.lookup(Ino::ROOT, &name("b")).unwrap());
            is_stuck.recv().unwrap();
            fs.unlink(Ino::ROOT, &name("b")).unwrap();
            release.send(()).unwrap();
            assert_eq!(lookup.join().unwrap(), None);
        });
    });
}
