//! Copies of content into a draft: shared blocks, else within the kernel, else by hand. Holes stay holes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DirDraft, error, unless};
use crate::layer::LayerFile;
use crate::sys;
use crate::vfs::{Errno, SeekTarget};

/// Size of the buffer of a copy by hand, on the heap.
const BUFFER: usize = 256 * 1024;

/// The most that one copy_file_range(2) is asked for; so that a copy can be interrupted by a signal that kills.
const RANGE: u64 = 64 << 20;

/// How copies were made, counted since the upper was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopyCounts {
    /// Files whose blocks are shared with the source (FICLONE).
    pub cloned: u64,
    /// Files copied within the kernel (copy_file_range(2)), which may share blocks too.
    pub in_kernel: u64,
    /// Files that were read and written, in part at least.
    pub by_hand: u64,
}

/// Where copies are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    cloned: AtomicU64,
    in_kernel: AtomicU64,
    by_hand: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> CopyCounts {
        CopyCounts {
            cloned: self.cloned.load(Ordering::Relaxed),
            in_kernel: self.in_kernel.load(Ordering::Relaxed),
            by_hand: self.by_hand.load(Ordering::Relaxed),
        }
    }
}

/// How a file system says that it cannot copy in this way; what else goes wrong is an error.
const CANNOT: &[Errno] = &[
    Errno::EOPNOTSUPP,
    Errno::EXDEV,
    Errno::EINVAL,
    Errno::ENOTTY,
    Errno::ENOSYS,
    Errno::EPERM,
    Errno::ETXTBSY,
    Errno::EBADF,
];

/// Fills a drafted regular file.
pub(super) fn fill(draft: &DirDraft, source: &dyn LayerFile, counters: &Counters) -> io::Result<()> {
    let target = draft.file.as_ref().ok_or_else(|| error(Errno::EINVAL))?.as_fd();
    let length = source.stat()?.size;
    let descriptor = source.descriptor();
    let descriptor = descriptor.as_ref().map(|d| d.as_fd());
    let counter = match descriptor {
        Some(from) if unless(sys::copy::clone(from, target), CANNOT)?.is_some() => &counters.cloned,
        _ => {
            sys::file::set_length(target, length)?;
            copy_data(source, descriptor, target, length, counters)?
        }
    };
    counter.fetch_add(1, Ordering::Relaxed);
    match sys::stat::stat(target)?.stx_size {
        copied if copied == length => Ok(()),
        copied => {
            tracing::error!(length, copied, "a file of the lower layer changed while it was copied");
            Err(error(Errno::EIO))
        }
    }
}

/// Copies all that is data, answers what to count it as.
fn copy_data<'c>(
    source: &dyn LayerFile,
    descriptor: Option<BorrowedFd<'_>>,
    target: BorrowedFd<'_>,
    length: u64,
    counters: &'c Counters,
) -> io::Result<&'c AtomicU64> {
    let mut by_hand: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some((start, end)) = next_segment(source, at, length)? {
        at = start;
        if let (None, Some(from)) = (&by_hand, descriptor) {
            at = copy_in_kernel(from, target, at, end)?;
        }
        if at < end {
            let buffer = by_hand.get_or_insert_with(|| vec![0; BUFFER]);
            copy_by_hand(source, target, at, end, buffer)?;
            at = end;
        }
    }
    Ok(if by_hand.is_some() || descriptor.is_none() { &counters.by_hand } else { &counters.in_kernel })
}

/// The next stretch of data at or after `at`; all that is left where the layer does not tell data from holes.
fn next_segment(source: &dyn LayerFile, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match source.seek(at, SeekTarget::Data) {
        Ok(start) => start,
        Err(error) if Errno::of(&error) == Errno::ENXIO => return Ok(None),
        Err(error) if CANNOT.contains(&Errno::of(&error)) => return Ok(Some((at, length))),
        Err(error) => return Err(error),
    };
    if start >= length {
        return Ok(None);
    }
    let end = source.seek(start, SeekTarget::Hole)?.min(length);
    Ok(Some((start, end.max(start + 1))))
}

/// Copies within the kernel from `at` to `end`, answers how far that went.
fn copy_in_kernel(source: BorrowedFd<'_>, target: BorrowedFd<'_>, mut at: u64, end: u64) -> io::Result<u64> {
    while at < end {
        let length = usize::try_from((end - at).min(RANGE)).map_err(|_| error(Errno::EOVERFLOW))?;
        match unless(sys::copy::copy_range(source, target, at, length), CANNOT)? {
            // Some file systems answer 0 before the end instead of an error.
            None | Some(0) => break,
            Some(copied) => at += copied as u64,
        }
    }
    Ok(at)
}

fn copy_by_hand(
    source: &dyn LayerFile,
    target: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..wanted).ok_or_else(|| error(Errno::EIO))?;
        let got = source.read_at(at, part)?;
        let mut data = part.get(..got).ok_or_else(|| error(Errno::EIO))?;
        if data.is_empty() {
            // Shorter than it said.
            return Err(error(Errno::EIO));
        }
        while !data.is_empty() {
            let written = sys::file::write_at(target, at, data)?;
            at += written as u64;
            data = data.get(written..).unwrap_or_default();
            if written == 0 {
                return Err(error(Errno::EIO));
            }
        }
    }
    Ok(())
}
