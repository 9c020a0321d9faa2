//! Open files of a layer in memory.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Content, MemObject, Tree, now};
use crate::layer::{Access, LayerFile, Stat};
use crate::vfs::{Errno, SeekTarget, SetAttr};

/// An open file of a [`super::MemLayer`]; holes are zeros that take space.
#[derive(Debug)]
pub struct MemFile {
    object: MemObject,
    access: Access,
    tree: Arc<Tree>,
}

/// The modes of fallocate(2) that are known here.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

impl MemFile {
    pub(super) fn new(object: MemObject, access: Access, tree: Arc<Tree>) -> Self {
        Self { object, access, tree }
    }

    fn with_data<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> io::Result<T>) -> io::Result<T> {
        match &mut self.object.0.body.lock().content {
            Content::File(data) => f(data),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn may_write(&self) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(Errno::EBADF.into());
        }
        Ok(())
    }

    /// Content was changed.
    fn touch(&self) {
        {
            let mut body = self.object.0.body.lock();
            body.mtime = now();
            body.ctime = body.mtime;
        }
        self.tree.journal.data(&self.object);
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| Errno::EFBIG.into())
}

impl LayerFile for MemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = position(offset)?;
        self.with_data(|data| {
            let source = data.get(start..).unwrap_or_default();
            let length = source.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(source) {
                *to = *from;
            }
            Ok(length)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.may_write()?;
        let start = position(offset)?;
        let end = start.checked_add(bytes.len()).ok_or(Errno::EFBIG)?;
        self.with_data(|data| {
            if data.len() < end {
                data.resize(end, 0);
            }
            if let Some(target) = data.get_mut(start..end) {
                target.copy_from_slice(bytes);
            }
            Ok(bytes.len())
        })
        .inspect(|_| self.touch())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.object.stat())
    }

    fn set_attr(&self, changes: &SetAttr) -> io::Result<()> {
        if changes.size.is_some() {
            self.may_write()?;
        }
        self.object.set_attr(changes)?;
        self.tree.attributes_changed(&self.object, changes);
        Ok(())
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.tree.journal.sync(self.object.0.ino, data_only);
        Ok(())
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        self.may_write()?;
        let start = position(offset)?;
        let end = position(offset.checked_add(length).ok_or(Errno::EFBIG)?)?;
        let (keep, zero) = match mode {
            0 => (false, false),
            KEEP_SIZE => (true, false),
            m if m == PUNCH_HOLE | KEEP_SIZE || m == ZERO_RANGE | KEEP_SIZE => (true, true),
            ZERO_RANGE => (false, true),
            _ => return Err(Errno::EOPNOTSUPP.into()),
        };
        self.with_data(|data| {
            if !keep && data.len() < end {
                data.resize(end, 0);
            }
            if zero {
                let end = end.min(data.len());
                data.get_mut(start.min(end)..end).unwrap_or_default().fill(0);
            }
            Ok(())
        })
        .inspect(|()| self.touch())
    }

    fn seek(&self, offset: u64, target: SeekTarget) -> io::Result<u64> {
        self.with_data(|data| {
            let size = data.len() as u64;
            match target {
                _ if offset >= size => Err(Errno::ENXIO.into()),
                SeekTarget::Data => Ok(offset),
                SeekTarget::Hole => Ok(size),
            }
        })
    }

    fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        None
    }
}
