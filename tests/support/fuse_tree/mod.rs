//! A directory of the host as the simplest [`Vfs`], mounts of it that go away by themselves, and counts of requests.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::caches;
use crate::support::skip::skip;
use nix::sched::{CloneFlags, unshare};
use nixview::fuse::{self, Io, Session};
use nixview::sys::mount::{self, FuseOptions, Unmount};
use nixview::telemetry::metrics::{Metrics, Operation};
use nixview::vfs::{
    Attr, Caller, DirEntry, Entry, Errno, Error, FileKind, Flow, Generation, Handle, Ino, Name, OpenFlags,
    Opened, RenameMode, Result, SeekTarget, SetAttr, SetTime, StatFs, Timespec, Vfs, XattrMode,
};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};

/// How long one test may keep a mount.
const PATIENCE: Duration = Duration::from_secs(120);

/// What opens are answered with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// The file, opened as the caller asked.
    AsAsked,
    /// The file, opened for reading whatever the caller asked, through a read-only clone of the directory's mount.
    ReadOnlyClone,
    /// The file, opened for reading whatever the caller asked, through the directory itself.
    ReadOnlyDescriptor,
}

/// Serves a directory as it is. Looking up `panic` panics, and `hang` waits until [`Tree::wake`].
pub(crate) struct Tree {
    root: PathBuf,
    clone: OwnedFd,
    backing: Backing,
    paths: Mutex<HashMap<Ino, PathBuf>>,
    files: Mutex<HashMap<Handle, Arc<File>>>,
    next: AtomicU64,
    awake: (Mutex<bool>, Condvar),
}

fn failed(operation: &'static str, ino: Ino) -> impl Fn(io::Error) -> Error {
    move |error| Error::new(operation, ino, Errno::of(&error))
}

impl Tree {
    pub(crate) fn new(root: &Path, backing: Backing) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            clone: mount::clone_read_only(root).unwrap(),
            backing,
            paths: Mutex::new(HashMap::from([(Ino::ROOT, PathBuf::new())])),
            files: Mutex::default(),
            next: AtomicU64::new(1),
            awake: (Mutex::new(false), Condvar::new()),
        })
    }

    /// Ends all lookups that hang.
    pub(crate) fn wake(&self) {
        *self.awake.0.lock().unwrap() = true;
        self.awake.1.notify_all();
    }

    /// How many opens were not released.
    pub(crate) fn open_files(&self) -> usize {
        self.files.lock().unwrap().len()
    }

    fn path(&self, ino: Ino) -> PathBuf {
        let paths = self.paths.lock().unwrap();
        paths.get(&ino).cloned().unwrap_or_else(|| PathBuf::from("no/such/inode"))
    }

    fn full(&self, ino: Ino) -> PathBuf {
        self.root.join(self.path(ino))
    }

    fn child(&self, parent: Ino, name: &Name) -> PathBuf {
        self.path(parent).join(std::ffi::OsStr::from_bytes(name.as_bytes()))
    }

    fn attr(&self, path: &Path) -> io::Result<Attr> {
        let m = fs::symlink_metadata(self.root.join(path))?;
        let time = |seconds, nanoseconds: i64| Timespec { seconds, nanoseconds: nanoseconds as u32 };
        let ino = if path.as_os_str().is_empty() { Ino::ROOT } else { Ino(m.ino() + 1000) };
        self.paths.lock().unwrap().insert(ino, path.to_owned());
        Ok(Attr {
            ino,
            kind: FileKind::from_mode(m.mode()).unwrap(),
            permissions: (m.mode() & 0o7777) as u16,
            nlink: m.nlink() as u32,
            uid: m.uid(),
            gid: m.gid(),
            rdev: m.rdev(),
            size: m.size(),
            blocks: m.blocks(),
            block_size: 4096,
            atime: time(m.atime(), m.atime_nsec()),
            mtime: time(m.mtime(), m.mtime_nsec()),
            ctime: time(m.ctime(), m.ctime_nsec()),
        })
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        Ok(Entry { attr: self.attr(path)?, generation: Generation(0) })
    }

    fn keep(&self, file: File) -> Opened {
        let handle = Handle(self.next.fetch_add(1, Ordering::Relaxed));
        let file = Arc::new(file);
        self.files.lock().unwrap().insert(handle, Arc::clone(&file));
        Opened { handle, backing: Some(Arc::new(file.try_clone().unwrap().into())), settled: false }
    }

    fn file(&self, ino: Ino, handle: Option<Handle>, write: bool) -> io::Result<Arc<File>> {
        match handle {
            Some(handle) => {
                self.files.lock().unwrap().get(&handle).cloned().ok_or_else(|| errno(libc::EBADF))
            }
            None => Ok(Arc::new(OpenOptions::new().read(true).write(write).open(self.full(ino))?)),
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Vfs for Tree {
    fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Entry>> {
        assert_ne!(name.as_bytes(), b"panic", "asked to panic");
        if name.as_bytes() == b"hang" {
            drop(self.awake.1.wait_while(self.awake.0.lock().unwrap(), |awake| !*awake).unwrap());
        }
        match self.entry(&self.child(parent, name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            answer => answer.map(Some).map_err(failed("lookup", parent)),
        }
    }

    fn forget(&self, _: Ino, _: u64) {}

    fn getattr(&self, ino: Ino, _: Option<Handle>) -> Result<Attr> {
        self.attr(&self.path(ino)).map_err(failed("getattr", ino))
    }

    fn setattr(&self, _: Caller, ino: Ino, _: Option<Handle>, changes: &SetAttr) -> Result<Attr> {
        let path = self.full(ino);
        let time = |time: Option<SetTime>| match time {
            None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            Some(SetTime::At(t)) => rustix::fs::Timespec { tv_sec: t.seconds, tv_nsec: t.nanoseconds.into() },
        };
        let change = || -> io::Result<()> {
            if let Some(size) = changes.size {
                self.file(ino, None, true)?.set_len(size)?;
            }
            if let Some(permissions) = changes.permissions {
                rustix::fs::chmod(&path, Mode::from_raw_mode(permissions.into()))?;
            }
            let times = rustix::fs::Timestamps {
                last_access: time(changes.atime),
                last_modification: time(changes.mtime),
            };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(())
        };
        change().map_err(failed("setattr", ino))?;
        self.getattr(ino, None)
    }

    fn keeps_access_lists(&self) -> bool {
        false
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let target = fs::read_link(self.full(ino)).map_err(failed("readlink", ino))?;
        Ok(target.into_os_string().into_vec())
    }

    fn mknod(&self, _: Caller, parent: Ino, _: &Name, _: u32, _: u64) -> Result<Entry> {
        Err(Error::new("mknod", parent, Errno::EPERM))
    }

    fn mkdir(&self, _: Caller, parent: Ino, name: &Name, _: u16) -> Result<Entry> {
        let path = self.child(parent, name);
        let made = fs::create_dir(self.root.join(&path)).and_then(|()| self.entry(&path));
        made.map_err(failed("mkdir", parent))
    }

    fn symlink(&self, _: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry> {
        let path = self.child(parent, name);
        let target = std::ffi::OsStr::from_bytes(target);
        let made = std::os::unix::fs::symlink(target, self.root.join(&path)).and_then(|()| self.entry(&path));
        made.map_err(failed("symlink", parent))
    }

    fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry> {
        let path = self.child(parent, name);
        let made = fs::hard_link(self.full(ino), self.root.join(&path)).and_then(|()| self.entry(&path));
        made.map_err(failed("link", parent))
    }

    fn unlink(&self, parent: Ino, name: &Name) -> Result<()> {
        fs::remove_file(self.root.join(self.child(parent, name))).map_err(failed("unlink", parent))
    }

    fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        fs::remove_dir(self.root.join(self.child(parent, name))).map_err(failed("rmdir", parent))
    }

    fn rename(&self, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Result<()> {
        let flags = match mode {
            RenameMode::Replace => rustix::fs::RenameFlags::empty(),
            RenameMode::NoReplace => rustix::fs::RenameFlags::NOREPLACE,
            RenameMode::Exchange => rustix::fs::RenameFlags::EXCHANGE,
        };
        let (old, new) = (self.root.join(self.child(from.0, from.1)), self.root.join(self.child(to.0, to.1)));
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, old, cwd, new, flags).map_err(|e| failed("rename", from.0)(e.into()))
    }

    fn create(
        &self,
        _: Caller,
        parent: Ino,
        name: &Name,
        permissions: u16,
        _: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        let path = self.child(parent, name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(permissions.into());
        let file = options.open(self.root.join(&path)).map_err(failed("create", parent))?;
        Ok((self.entry(&path).map_err(failed("create", parent))?, self.keep(file)))
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let path = self.path(ino);
        let opened = match self.backing {
            Backing::ReadOnlyClone => rustix::fs::openat(&self.clone, &path, OFlags::RDONLY, Mode::empty())
                .map(File::from)
                .map_err(Into::into),
            Backing::ReadOnlyDescriptor => File::open(self.root.join(&path)),
            Backing::AsAsked => {
                let mut options = OpenOptions::new();
                options.read(true).write(flags.writes()).truncate(flags.writes() && flags.has(libc::O_TRUNC));
                options.open(self.root.join(&path))
            }
        };
        Ok(self.keep(opened.map_err(failed("open", ino))?))
    }

    fn read(&self, ino: Ino, handle: Option<Handle>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.file(ino, handle, false).map_err(failed("read", ino))?;
        file.read_at(buffer, offset).map_err(failed("read", ino))
    }

    fn write(&self, ino: Ino, handle: Option<Handle>, offset: u64, data: &[u8]) -> Result<usize> {
        let file = self.file(ino, handle, true).map_err(failed("write", ino))?;
        file.write_at(data, offset).map_err(failed("write", ino))
    }

    fn is_open(&self, handle: Handle) -> bool {
        self.files.lock().unwrap().contains_key(&handle)
    }

    fn release(&self, _: Ino, handle: Handle) {
        self.files.lock().unwrap().remove(&handle);
    }

    fn fsync(&self, ino: Ino, handle: Option<Handle>, _: bool) -> Result<()> {
        self.file(ino, handle, true).and_then(|file| file.sync_all()).map_err(failed("fsync", ino))
    }

    fn fsyncdir(&self, _: Ino) -> Result<()> {
        Ok(())
    }

    fn readdir(&self, ino: Ino, after: u64, _: bool, sink: &mut dyn FnMut(&DirEntry) -> Flow) -> Result<()> {
        let fail = failed("readdir", ino);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.full(ino)).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            let cookie = std::os::unix::fs::DirEntryExt::ino(&entry) + 1000;
            names.push((cookie, Name::new(entry.file_name().as_bytes()).unwrap()));
        }
        names.sort();
        for (cookie, name) in names.into_iter().filter(|(cookie, _)| *cookie > after) {
            let entry = self.entry(&self.child(ino, &name)).map_err(&fail)?;
            if sink(&DirEntry { name, cookie, entry }) == Flow::Full {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, ino: Ino) -> Result<Ino> {
        let path = self.path(ino);
        let parent = path.parent().unwrap_or(&path);
        Ok(self.attr(parent).map_err(failed("parent", ino))?.ino)
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { block_size: 4096, blocks: 1000, blocks_free: 600, name_max: 255, ..StatFs::default() })
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        match name {
            b"user.long" => Ok(vec![b'x'; 1000]),
            _ => Err(Error::new("getxattr", ino, Errno::ENODATA)),
        }
    }

    fn listxattr(&self, _: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(vec![b"user.long".to_vec(), b"user.b".to_vec()])
    }

    fn setxattr(&self, ino: Ino, _: &[u8], _: &[u8], _: XattrMode) -> Result<()> {
        Err(Error::new("setxattr", ino, Errno::EOPNOTSUPP))
    }

    fn removexattr(&self, ino: Ino, _: &[u8]) -> Result<()> {
        Err(Error::new("removexattr", ino, Errno::ENODATA))
    }

    fn fallocate(&self, ino: Ino, _: Option<Handle>, _: i32, _: u64, _: u64) -> Result<()> {
        Err(Error::new("fallocate", ino, Errno::EOPNOTSUPP))
    }

    fn lseek(&self, ino: Ino, handle: Option<Handle>, offset: u64, target: SeekTarget) -> Result<u64> {
        let whence = match target {
            SeekTarget::Data => rustix::fs::SeekFrom::Data(offset),
            SeekTarget::Hole => rustix::fs::SeekFrom::Hole(offset),
        };
        let file = self.file(ino, handle, false).map_err(failed("lseek", ino))?;
        rustix::fs::seek(&*file, whence).map_err(|error| failed("lseek", ino)(error.into()))
    }
}

/// Puts this thread into a mount namespace of its own, which takes all mounts made in it away with it.
/// False, with the reason said, if it may not.
pub(crate) fn private_namespace() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        skip!("unshare: {error}");
        return false;
    }
    if let Err(error) = mount::open_fuse_device() {
        skip!("/dev/fuse: {error}");
        return false;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    true
}

/// True if the kernel has passthrough for files of `directory`; else the reason is said.
pub(crate) fn has_passthrough(directory: &Path) -> bool {
    let file = tempfile::tempfile_in(directory).unwrap();
    match fuse::probe_passthrough(file.as_fd()) {
        Ok(()) => true,
        Err(error) => {
            skip!("passthrough: {error}");
            false
        }
    }
}

/// A mount that is served by threads of this process, and goes away when dropped or when it takes too long.
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    pub(crate) metrics: Arc<Metrics>,
    server: Option<JoinHandle<io::Result<()>>>,
    watchdog: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    /// Requests are counted here.
    _caches: File,
}

impl Mounted {
    pub(crate) fn new<V: Vfs + 'static>(vfs: Arc<V>, path: &Path, io: Io, read_only: bool) -> Self {
        let (session, _) = session(vfs, path, io, read_only);
        let metrics = session.metrics();
        let server = std::thread::spawn(|| session.run());
        let (done, waits) = mpsc::channel();
        let at = path.to_owned();
        let watchdog = std::thread::spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the mount took too long; it is aborted");
                mount::unmount(&at, Unmount::Abort).unwrap();
            }
        });
        let (server, watchdog) = (Some(server), Some((done, watchdog)));
        Self { path: path.to_owned(), metrics, server, watchdog, _caches: caches::keep() }
    }

    /// The requests that `work` causes, by kind; those that kernel sends when it likes (forget, release) are left out.
    pub(crate) fn requests(&self, work: impl FnOnce()) -> Vec<(&'static str, u64)> {
        let before: HashMap<_, _> = self.metrics.snapshot().into_iter().collect();
        work();
        let after = self.metrics.snapshot().into_iter();
        let new = after.map(|(operation, count)| {
            (operation, count.requests - before.get(&operation).map_or(0, |old| old.requests))
        });
        let counted = |o: Operation, n| n > 0 && !matches!(o, Operation::Forget | Operation::Release);
        new.filter(|(o, n)| counted(*o, *n)).map(|(o, n)| (o.name(), n)).collect()
    }

    /// Unmounts and waits for the server.
    pub(crate) fn unmount(mut self) {
        self.end(Unmount::Now).unwrap();
    }

    fn end(&mut self, how: Unmount) -> io::Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        let mut answer = mount::unmount(&self.path, how);
        // A command that another test starts has this process's open files until it runs.
        for _ in 0..500 {
            if answer.as_ref().err().and_then(io::Error::raw_os_error) != Some(libc::EBUSY) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            answer = mount::unmount(&self.path, how);
        }
        let served = server.join();
        if let Some((done, watchdog)) = self.watchdog.take() {
            drop(done);
            watchdog.join().unwrap();
        }
        answer.and(served.unwrap())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end(Unmount::Abort) {
            eprintln!("at the end of {}: {error}", self.path.display());
        }
    }
}

/// A session on a mount at `path`, not yet served; and the mount.
pub(crate) fn session<V: Vfs + 'static>(
    vfs: Arc<V>,
    path: &Path,
    io: Io,
    read_only: bool,
) -> (Session<V>, OwnedFd) {
    let device = mount::open_fuse_device().unwrap();
    let options = FuseOptions { read_only, allow_other: true, no_exec: false, source: None };
    let detached = mount::new_fuse(device.as_fd(), options).unwrap();
    let threads = NonZeroUsize::new(2).unwrap();
    let session = Session::new(vfs, device, fuse::Options { io, threads }).unwrap();
    let target = mount::open_target(path).unwrap();
    mount::attach(detached.as_fd(), target.as_fd()).unwrap();
    (session, detached)
}
