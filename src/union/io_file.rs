//! Opening, reading and writing files.

use std::sync::Arc;

use super::copy_up::Need;
use super::handles::Open;
use super::node::Source;
use super::place::Side;
use super::record::Event;
use super::{AnyFile, Outcome, UnionFs};
use crate::layer::{Access, Lower, Upper};
use crate::vfs::{Errno, FileKind, Handle, Ino, OpenFlags, Opened, SeekTarget, SetAttr};

/// Takes back the count of an open that failed.
struct Opening<'a, L: Lower, U: Upper> {
    fs: &'a UnionFs<L, U>,
    ino: Ino,
    side: Side,
    done: bool,
}

impl<L: Lower, U: Upper> Drop for Opening<'_, L, U> {
    fn drop(&mut self) {
        if !self.done {
            self.fs.count_closed(self.ino, self.side);
        }
    }
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    fn check_regular(&self, ino: Ino) -> Outcome<()> {
        match self.table.lock().get(ino)?.kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory => Err(Errno::EISDIR),
            FileKind::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }

    pub(super) fn open_file(&self, ino: Ino, flags: OpenFlags) -> Outcome<Opened> {
        self.check_regular(ino)?;
        let truncates = flags.has(libc::O_TRUNC);
        let mut access = Access::Read;
        if flags.writes() || truncates {
            access = Access::ReadWrite;
            let need = if truncates { Need::Truncated } else { Need::Content };
            let copied = self.copy_up(ino, need, &|_| Ok(()))?;
            if truncates && !copied {
                let size = SetAttr { size: Some(0), ..SetAttr::default() };
                self.fresh_file(ino, Side::Upper, Access::ReadWrite)?.set_attr(&size)?;
            }
        }
        let mut opening = self.begin_open(ino, access)?;
        let file = self.fresh_file(ino, opening.side, access)?;
        let backing = if self.passes_through() { file.descriptor() } else { None };
        let lower = opening.side == Side::Lower;
        let told = |handle: Handle| self.note(&[Event::Opened { handle: handle.0, ino: ino.0, lower }]);
        let handle = self.handles.add(Open { ino, side: opening.side, file }, told);
        opening.done = true;
        Ok(Opened { handle, backing, settled: lower && self.passes_through() })
    }

    /// Counts an open, and so decides which layer's file it is; a copy-up that comes later knows of it.
    fn begin_open(&self, ino: Ino, access: Access) -> Outcome<Opening<'_, L, U>> {
        loop {
            let wait = {
                let mut table = self.table.lock();
                let node = table.get(ino)?;
                let lower = access == Access::Read && node.reads_lower();
                if !(lower && node.publishing) {
                    table.opened(ino, lower && self.passes_through());
                    let side = if lower { Side::Lower } else { Side::Upper };
                    return Ok(Opening { fs: self, ino, side, done: false });
                }
                table.ancestors(ino).first().copied()
            };
            // A copy is getting its name under the directory's lock; after that it is known who reads what.
            if let Some(parent) = wait {
                drop(self.directories.lock(&[parent]));
            }
        }
    }

    fn count_closed(&self, ino: Ino, side: Side) {
        let lower = side == Side::Lower && self.passes_through();
        let dropped = self.table.lock().closed(ino, lower);
        self.purge(dropped);
    }

    pub(super) fn close(&self, ino: Ino, handle: Handle) {
        let Some((opened, side)) = self.handles.remove(handle) else { return };
        debug_assert_eq!(opened, ino, "a handle is released on the inode it was opened on");
        self.note(&[Event::Closed { handle: handle.0 }]);
        self.count_closed(opened, side);
    }

    /// The file to read from: the handle's own; but where nobody passes through, a lower file that was copied up
    /// since is read from the copy, so that all who have the file open see the same bytes.
    fn reader(&self, ino: Ino, handle: Option<Handle>) -> Outcome<AnyFile> {
        let side = {
            let table = self.table.lock();
            if table.get(ino)?.reads_lower() { Side::Lower } else { Side::Upper }
        };
        if let Some(open) = self.opened(ino, handle)
            && (open.side == side || self.passes_through())
        {
            return Ok(open.file.clone());
        }
        self.check_regular(ino)?;
        self.cached_file(ino, side, Access::Read)
    }

    /// The open file of a handle. One that is not known, as after a restart, is `None`: the inode stands for it.
    fn opened(&self, ino: Ino, handle: Option<Handle>) -> Option<Arc<Open>> {
        self.handles.get(handle?).filter(|open| open.ino == ino)
    }

    fn writer(&self, ino: Ino, handle: Option<Handle>) -> Outcome<AnyFile> {
        self.upper()?;
        if let Some(open) = self.opened(ino, handle).filter(|open| open.side == Side::Upper) {
            return Ok(open.file.clone());
        }
        self.check_regular(ino)?;
        self.copy_up(ino, Need::Content, &|_| Ok(()))?;
        self.cached_file(ino, Side::Upper, Access::ReadWrite)
    }

    pub(super) fn read_file(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Outcome<usize> {
        let file = self.reader(ino, handle)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(offset.saturating_add(done as u64), rest).map_err(Errno::from) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(Errno::EINTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    pub(super) fn write_file(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        data: &[u8],
    ) -> Outcome<usize> {
        let file = self.writer(ino, handle)?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.checked_add(done as u64).ok_or(Errno::EFBIG)?;
            match file.write_at(at, rest).map_err(Errno::from) {
                Ok(0) => break,
                Ok(put) => done += put,
                Err(Errno::EINTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    pub(super) fn sync_file(&self, ino: Ino, handle: Option<Handle>, data_only: bool) -> Outcome<()> {
        if !self.options.durable || self.table.lock().get(ino)?.source == Source::Lower {
            return Ok(());
        }
        self.copies_above_are_durable(ino);
        if let Some(open) = self.opened(ino, handle).filter(|open| open.side == Side::Upper) {
            return Ok(open.file.sync(data_only)?);
        }
        self.check_regular(ino)?;
        Ok(self.cached_file(ino, Side::Upper, Access::Read)?.sync(data_only)?)
    }

    pub(super) fn sync_directory(&self, ino: Ino) -> Outcome<()> {
        let place = self.place(ino)?;
        match (&self.upper, &place.upper) {
            (Some(upper), Some(dir)) if self.options.durable => {
                self.copies_above_are_durable(ino);
                Ok(upper.sync_dir(dir)?)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn allocate(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Outcome<()> {
        Ok(self.writer(ino, handle)?.allocate(mode, offset, length)?)
    }

    pub(super) fn seek(
        &self,
        ino: Ino,
        handle: Option<Handle>,
        offset: u64,
        target: SeekTarget,
    ) -> Outcome<u64> {
        Ok(self.reader(ino, handle)?.seek(offset, target)?)
    }
}
