//! Whether two objects of the same kind are equal.

use std::collections::BTreeSet;
use std::io;

use super::Aspects;
use super::trees::{ReadUpper, Shown, Trees};
use crate::layer::{Access, LayerFile, Lower, Stat};
use crate::vfs::{Errno, FileKind, SeekTarget};

/// How much of two files is compared at once, in bytes.
const BLOCK: usize = 128 * 1024;

impl<L: Lower, U: ReadUpper> Trees<'_, L, U> {
    /// True if a file, the target of a link or a device number is another than in the lower. Both are of one kind.
    pub(super) fn content_differs(
        &self,
        upper: (&Shown<U::Object, L::Object>, &Stat),
        lower: (&L::Object, &Stat),
    ) -> io::Result<bool> {
        match upper.1.kind {
            FileKind::Regular if upper.1.size != lower.1.size => Ok(true),
            FileKind::Regular if upper.1.size == 0 => Ok(false),
            FileKind::Regular => {
                let upper_file = self.open(upper.0)?;
                let lower_file = self.lower.open(lower.0, Access::Read)?;
                bytes_differ(&*upper_file, &lower_file, upper.1.size)
            }
            FileKind::Symlink => Ok(self.read_link(upper.0)? != self.lower.read_link(lower.0)?),
            FileKind::CharDevice | FileKind::BlockDevice => Ok(upper.1.rdev != lower.1.rdev),
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => Ok(false),
        }
    }

    /// Which metadata are others than in the lower. Both are of one kind.
    pub(super) fn aspects(
        &self,
        upper: (&Shown<U::Object, L::Object>, &Stat),
        lower: (&L::Object, &Stat),
    ) -> io::Result<Aspects> {
        let (above, below) = (upper.1, lower.1);
        Ok(Aspects {
            // Linux does not use the mode of a symbolic link.
            mode: above.kind != FileKind::Symlink && above.permissions != below.permissions,
            owner: (above.uid, above.gid) != (below.uid, below.gid),
            mtime: above.mtime != below.mtime,
            xattrs: self.xattrs_differ(upper.0, lower.0)?,
        })
    }

    fn xattrs_differ(
        &self,
        upper: &Shown<U::Object, L::Object>,
        lower: &L::Object,
    ) -> io::Result<Vec<Vec<u8>>> {
        let above: BTreeSet<Vec<u8>> = self.list_xattr(upper)?.into_iter().collect();
        let below: BTreeSet<Vec<u8>> = self.lower.list_xattr(lower)?.into_iter().collect();
        let mut differ = Vec::new();
        for name in above.union(&below) {
            let both = above.contains(name) && below.contains(name);
            if !both || self.get_xattr(upper, name)? != self.lower.get_xattr(lower, name)? {
                differ.push(name.clone());
            }
        }
        Ok(differ)
    }
}

/// Compares two files of this length; what is a hole in both is not read.
fn bytes_differ(a: &dyn LayerFile, b: &dyn LayerFile, length: u64) -> io::Result<bool> {
    let (mut of_a, mut of_b) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    loop {
        at = next_data(a, at, length)?.min(next_data(b, at, length)?);
        if at >= length {
            return Ok(false);
        }
        let (from_a, from_b) = (fill(a, at, length, &mut of_a)?, fill(b, at, length, &mut of_b)?);
        // One that is shorter than it was is another.
        if from_a.is_empty() || from_a != from_b {
            return Ok(true);
        }
        at += from_a.len() as u64;
    }
}

/// The next byte of data at or after `at`; `length` if there is none, `at` where the layer does not tell.
fn next_data(file: &dyn LayerFile, at: u64, length: u64) -> io::Result<u64> {
    if at >= length {
        return Ok(length);
    }
    match file.seek(at, SeekTarget::Data) {
        Ok(found) => Ok(found.min(length)),
        Err(error) => match Errno::of(&error) {
            Errno::ENXIO => Ok(length),
            Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS => Ok(at),
            _ => Err(error),
        },
    }
}

/// Reads at `at` as much as fits, up to `length` of the file.
fn fill<'b>(file: &dyn LayerFile, at: u64, length: u64, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let wanted = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..wanted).filter(|rest| !rest.is_empty()) {
        match file.read_at(at + filled as u64, rest)? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}
