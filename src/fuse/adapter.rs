//! Each request of the protocol: convert, ask the [`Vfs`], answer. No logic of the file system is here.
//!
//! Two modes ([`Io`]). With passthrough, files are opened by request and handles are the file system's. Cached, the
//! first open is answered with `ENOSYS`, after which the kernel opens files without asking (unless every open is to be known of);
//! requests carry the handle 0, and the file system goes by inode alone. Directories are opened without asking in both.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::telemetry::metrics::Operation;
use crate::vfs::access_list::ACCESS_LIST;
use crate::vfs::{self, OpenFlags, Vfs};

use super::answer::{attributes, empty, entry, xattr};
use super::convert::{self, FOREVER, NO_HANDLE};
use super::passthrough::{self, Mode};
use super::requests::Adapter;
use super::uses::Use;
use super::{Io, directory, rights};

/// The most that one request reads or writes, as the protocol has it.
const MAX_TRANSFER: u32 = super::LONGEST_WRITE as u32;

/// Buffers for reading up to this are kept by each thread; it is the kernel's usual readahead.
const KEPT_BUFFER: usize = 128 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<V: Vfs + 'static> fuser::Filesystem for Adapter<V> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_DONT_MASK
            // Who asks is then told by what makes something alone: see `rights`.
            | InitFlags::FUSE_ALLOW_IDMAP
            | InitFlags::FUSE_HAS_RESEND;
        wanted.set(InitFlags::FUSE_POSIX_ACL, self.vfs.keeps_access_lists());
        match self.io {
            Io::Passthrough => {
                passthrough::negotiate(config)?;
                // An open that truncates needs no copy of the old content.
                wanted |= InitFlags::FUSE_ATOMIC_O_TRUNC;
            }
            // Not with FUSE_ATOMIC_O_TRUNC: an open without a request would not truncate.
            Io::Cached => wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT,
        }
        let unsupported = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        config.add_capabilities(wanted & offered).map_err(unsupported)?;
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        config.set_max_write(MAX_TRANSFER).map_err(invalid)?;
        self.asks_again.store(offered.contains(InitFlags::FUSE_HAS_RESEND), Ordering::Relaxed);
        self.masks = offered.contains(InitFlags::FUSE_DONT_MASK);
        self.opens_no_directories = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        tracing::debug!(io = self.io.name(), offered = offered.bits(), "connected to the kernel");
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.run_named(Operation::Lookup, request, (parent, name), |_, parent, name| {
            let found = self.vfs.lookup(parent, name)?;
            if let Some(entry) = &found {
                self.used(Use::LookedUp, entry.attr.ino);
            }
            Ok(found)
        });
        match found {
            Ok(Some(found)) => entry(reply, Ok(found)),
            Ok(None) => reply.entry(&FOREVER, &convert::negative(), Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, request: &Request, ino: INodeNo, count: u64) {
        self.run(Operation::Forget, request, ino, |_| {
            self.opens.forgotten(convert::ino(ino));
            self.vfs.forget(convert::ino(ino), count);
            Ok(())
        })
        .unwrap_or_default();
    }

    fn getattr(&self, request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let handle = handle.and_then(convert::handle);
        attributes(
            reply,
            self.run(Operation::Getattr, request, ino, |_| self.vfs.getattr(convert::ino(ino), handle)),
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = convert::changes(mode, uid, gid, size, atime, mtime);
        let handle = handle.and_then(convert::handle);
        let caller = convert::caller(request);
        let answer = self.run(Operation::Setattr, request, ino, |_| {
            self.vfs.setattr(caller, convert::ino(ino), handle, &changes)
        });
        attributes(reply, answer);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.run(Operation::Readlink, request, ino, |_| {
            let ino = convert::ino(ino);
            self.using(Use::LinkRead, ino, || self.vfs.readlink(ino))
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = self.run_making(Operation::Mknod, request, (parent, name), |parent, name| {
            let caller = self.maker("mknod", request, parent, umask)?;
            self.vfs.mknod(caller, parent, name, mode, rdev.into())
        });
        entry(reply, made);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.run_making(Operation::Mkdir, request, (parent, name), |parent, name| {
            let caller = self.maker("mkdir", request, parent, umask)?;
            self.vfs.mkdir(caller, parent, name, convert::permissions(mode))
        });
        entry(reply, made);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.run_making(Operation::Symlink, request, (parent, name), |parent, name| {
            let caller = self.maker("symlink", request, parent, 0)?;
            self.vfs.symlink(caller, parent, name, target.as_os_str().as_bytes())
        });
        entry(reply, made);
    }

    fn link(&self, request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made = self.run_making(Operation::Link, request, (parent, name), |parent, name| {
            self.vfs.link(convert::ino(ino), parent, name)
        });
        entry(reply, made);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            self.run_changing(Operation::Unlink, request, (parent, name), |parent, name| {
                self.vfs.unlink(parent, name)
            }),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            self.run_changing(Operation::Rmdir, request, (parent, name), |parent, name| {
                self.vfs.rmdir(parent, name)
            }),
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.run_changing(Operation::Rename, request, (parent, name), |parent, name| {
            let new_name = convert::name("rename", new_parent, new_name)?;
            let mode =
                convert::rename_mode(flags).map_err(|errno| vfs::Error::new("rename", parent, errno))?;
            self.vfs.rename((parent, name), (convert::ino(new_parent), &new_name), mode)
        });
        empty(reply, moved);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.run_named(Operation::Create, request, (parent, name), |turn, parent, name| {
            if let Some(made) = turn.made(&*self.vfs) {
                return self.reopen(made?, OpenFlags(flags));
            }
            let caller = self.maker("create", request, parent, umask)?;
            let made = self.vfs.create(caller, parent, name, convert::permissions(mode), OpenFlags(flags))?;
            self.used(Use::Opened, made.0.attr.ino);
            Ok(made)
        });
        let (entry, opened) = match created {
            Ok(created) => created,
            Err(errno) => return reply.error(errno),
        };
        let attr = convert::attr(&entry.attr);
        let generation = Generation(entry.generation.0);
        let flags = FopenFlags::FOPEN_NOFLUSH;
        if self.io == Io::Cached {
            // No release would follow, once the kernel has learnt to open without asking.
            self.vfs.release(entry.attr.ino, opened.handle);
            return reply.created(
                &FOREVER,
                &attr,
                generation,
                NO_HANDLE,
                flags | FopenFlags::FOPEN_KEEP_CACHE,
            );
        }
        let handle = FileHandle(opened.handle.0);
        let mode = self.opens.enter(entry.attr.ino, &opened);
        match &mode {
            Mode::Passthrough(file) => {
                let lent = file.for_create(&reply);
                match lent.id() {
                    Some(id) => {
                        reply.created_passthrough(&FOREVER, &attr, generation, handle, flags, id);
                    }
                    None => reply.error(fuser::Errno::EIO),
                }
            }
            Mode::Plain => reply.created(&FOREVER, &attr, generation, handle, flags),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        if self.opens_unasked() {
            return reply.error(self.observer.refused(Operation::Open));
        }
        if self.io == Io::Cached {
            // Asked for to be known of; as where it is not asked, the file system goes by inode alone.
            let known = self.run(Operation::Open, request, ino, |_| {
                self.used(Use::Opened, convert::ino(ino));
                Ok(())
            });
            return match known {
                Ok(()) => {
                    reply.opened(NO_HANDLE, FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE);
                }
                Err(errno) => reply.error(errno),
            };
        }
        let opened = self.run(Operation::Open, request, ino, |_| {
            let (ino, flags) = (convert::ino(ino), OpenFlags(flags.0));
            if flags.has(libc::O_TRUNC) {
                rights::before_change(&*self.vfs, request, ino)?;
            }
            self.using(Use::Opened, ino, || self.vfs.open(ino, flags))
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        let handle = FileHandle(opened.handle.0);
        let mode = self.opens.enter(convert::ino(ino), &opened);
        match &mode {
            Mode::Passthrough(file) => {
                let lent = file.for_open(&reply);
                match lent.id() {
                    Some(id) => reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, id),
                    None => reply.error(fuser::Errno::EIO),
                }
            }
            Mode::Plain if opened.settled => {
                reply.opened(handle, FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE);
            }
            // Not with FOPEN_KEEP_CACHE: the file may have been written through passthrough since it was cached.
            Mode::Plain => reply.opened(handle, FopenFlags::FOPEN_NOFLUSH),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_TRANSFER) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let into = buffer.get_mut(..size).unwrap_or_default();
            let read = self.run(Operation::Read, request, ino, |_| {
                let ino = convert::ino(ino);
                if self.opens_unasked() {
                    self.used(Use::Opened, ino);
                }
                self.vfs.read(ino, convert::handle(handle), offset, into)
            });
            match read {
                Ok(length) => reply.data(buffer.get(..length.min(size)).unwrap_or_default()),
                Err(errno) => reply.error(errno),
            }
            buffer.truncate(KEPT_BUFFER);
            buffer.shrink_to(KEPT_BUFFER);
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.run(Operation::Write, request, ino, |_| {
            self.vfs.write(convert::ino(ino), convert::handle(handle), offset, data)
        });
        match written {
            Ok(length) => reply.written(u32::try_from(length.min(data.len())).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Writes are not held back, so a close has nothing to report; the kernel asks no more.
        reply.error(self.observer.refused(Operation::Flush));
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let released = self.run(Operation::Release, request, ino, |_| {
            if let Some(handle) = convert::handle(handle) {
                self.close(convert::ino(ino), handle);
            }
            Ok(())
        });
        empty(reply, released);
        if self.io == Io::Passthrough && OpenFlags(flags.0).writes() {
            // Writes through a shared mapping change times and blocks without the kernel's FUSE side seeing it.
            self.invalidator.attributes(convert::ino(ino));
        }
    }

    fn fsync(&self, request: &Request, ino: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let synced = self.run(Operation::Fsync, request, ino, |_| {
            self.vfs.fsync(convert::ino(ino), convert::handle(handle), data_only)
        });
        empty(reply, synced);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        if self.opens_no_directories {
            return reply.error(self.observer.refused(Operation::Opendir));
        }
        match self.run(Operation::Opendir, request, ino, |_| Ok(())) {
            Ok(()) => reply.opened(NO_HANDLE, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let filled = self.run(Operation::Readdir, request, ino, |_| {
            let ino = convert::ino(ino);
            self.using(Use::Listed, ino, || directory::fill(&*self.vfs, ino, offset, &mut reply))
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.run(Operation::Releasedir, request, ino, |_| Ok(())));
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.run(Operation::Fsyncdir, request, ino, |_| self.vfs.fsyncdir(convert::ino(ino))));
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.run(Operation::Statfs, request, ino, |_| self.vfs.statfs()) {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.files,
                s.files_free,
                s.block_size,
                s.name_max,
                s.block_size,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = self.run(Operation::Setxattr, request, ino, |turn| {
            let ino = convert::ino(ino);
            let mode = convert::xattr_mode(flags).map_err(|errno| vfs::Error::new("setxattr", ino, errno))?;
            if name.as_bytes() == ACCESS_LIST && self.vfs.keeps_access_lists() {
                rights::before_access_list(&*self.vfs, request, ino)?;
            }
            // What must fail has not been carried out by a server that was killed either: it is not started.
            let absent = |error: &vfs::Error| error.errno() == vfs::Errno::ENODATA;
            if mode == vfs::XattrMode::Create
                && self.recorder.is_some()
                && self.vfs.getxattr(ino, name.as_bytes()).is_err_and(|error| absent(&error))
            {
                self.start();
            }
            match self.vfs.setxattr(ino, name.as_bytes(), value, mode) {
                Err(error) if turn.perhaps && error.errno() == vfs::Errno::EEXIST => {
                    let now = self.vfs.getxattr(ino, name.as_bytes())?;
                    if now == value { Ok(()) } else { Err(error) }
                }
                answer => answer,
            }
        });
        empty(reply, set);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.run(Operation::Getxattr, request, ino, |_| {
            self.vfs.getxattr(convert::ino(ino), name.as_bytes())
        });
        xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.run(Operation::Listxattr, request, ino, |_| {
            let mut names = self.vfs.listxattr(convert::ino(ino))?;
            // Who may not read them does not see them, which the kernel leaves to the file system.
            let trusted = |name: &Vec<u8>| name.starts_with(b"trusted.");
            if names.iter().any(trusted) && !rights::is_root(request) {
                names.retain(|name| !trusted(name));
            }
            Ok(names)
        });
        let joined = names.map(|names| names.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect());
        xattr(reply, size, joined);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.run(Operation::Removexattr, request, ino, |turn| {
            // As in `setxattr`.
            let ino = convert::ino(ino);
            if self.recorder.is_some() && self.vfs.getxattr(ino, name.as_bytes()).is_ok() {
                self.start();
            }
            match self.vfs.removexattr(ino, name.as_bytes()) {
                Err(error) if turn.perhaps && error.errno() == vfs::Errno::ENODATA => Ok(()),
                answer => answer,
            }
        });
        empty(reply, removed);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions by itself (`default_permissions`).
        reply.error(self.observer.refused(Operation::Access));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocated = self.run(Operation::Fallocate, request, ino, |_| {
            let ino = convert::ino(ino);
            rights::before_change(&*self.vfs, request, ino)?;
            self.vfs.fallocate(ino, convert::handle(handle), mode, offset, length)
        });
        empty(reply, allocated);
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.run(Operation::Lseek, request, ino, |_| {
            let ino = convert::ino(ino);
            let refused = |errno| vfs::Error::new("lseek", ino, errno);
            let target = convert::seek_target(whence).map_err(refused)?;
            let offset = u64::try_from(offset).map_err(|_| refused(vfs::Errno::ENXIO))?;
            let found = self.vfs.lseek(ino, convert::handle(handle), offset, target)?;
            i64::try_from(found).map_err(|_| refused(vfs::Errno::EOVERFLOW))
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies by reading and writing, and asks no more.
        reply.error(self.observer.refused(Operation::CopyFileRange));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // The caller gets ENOTTY.
        reply.error(self.observer.refused(Operation::Ioctl));
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // Files are always ready; the kernel asks no more.
        reply.error(self.observer.refused(Operation::Poll));
    }
}
