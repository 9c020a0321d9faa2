//! What is in a store path, in the order of an archive: a directory before what is in it, names sorted bytewise.

use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags, open, readlinkat, statx};

/// Something in a store path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its full name, as the store directory has it.
    pub(super) name: Vec<u8>,
    /// Where it is.
    pub(super) real: PathBuf,
    pub(super) kind: Kind,
    /// Permission bits.
    pub(super) mode: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File { size: u64 },
    Symlink { target: Vec<u8> },
}

/// Calls `each` for all that is at `real`, which is called `name`. Follows no symbolic link and reads no content.
///
/// # Errors
/// Those of `each`; if something cannot be looked at, and for a device, FIFO or socket, which no store path has.
pub(super) fn walk(
    real: &Path,
    name: &Path,
    each: &mut dyn FnMut(Entry) -> io::Result<()>,
) -> io::Result<()> {
    let mut pending = vec![(real.to_owned(), name.to_owned())];
    while let Some((real, name)) = pending.pop() {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", real.display()));
        let (entry, below) = entry(&real, &name).map_err(named)?;
        // The last one is taken first.
        pending.extend(below.iter().rev().map(|below| {
            let below = std::ffi::OsStr::from_bytes(below);
            (real.join(below), name.join(below))
        }));
        each(entry)?;
    }
    Ok(())
}

/// What is there, and the sorted names in it.
fn entry(real: &Path, name: &Path) -> io::Result<(Entry, Vec<Vec<u8>>)> {
    let found = statx(CWD, real, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let mut below = Vec::new();
    let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::RegularFile => Kind::File { size: found.stx_size },
        FileType::Symlink => Kind::Symlink { target: readlinkat(CWD, real, Vec::new())?.into_bytes() },
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            for entry in Dir::new(open(real, flags, Mode::empty())?)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    below.push(entry.file_name().to_bytes().to_vec());
                }
            }
            below.sort_unstable();
            Kind::Directory
        }
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no file, directory or symlink, and no layer of a store has it",
            ));
        }
    };
    let mode = u32::from(found.stx_mode) & 0o7777;
    Ok((Entry { name: name.as_os_str().to_owned().into_vec(), real: real.to_owned(), kind, mode }, below))
}
