//! What lower and upper have in common: reading.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, Statx};

use super::marks::{self, Format};
use super::{DirFile, DirObject, error, escape, unless, whiteout};
use crate::layer::{Access, EntryKind, LayerEntry, Stat};
use crate::sys;
use crate::vfs::{Errno, FileKind, Name, StatFs, Timespec};

/// The longest path that one system call takes; one byte less than `PATH_MAX`, for the NUL.
const PATH_LEN_MAX: usize = 4095;

/// The object under a name.
pub(super) fn lookup(dir: &DirObject, name: &Name) -> io::Result<DirObject> {
    sys::open::open_path(dir.as_fd(), name.as_bytes()).map(DirObject::new)
}

/// The object at a path below `root`: as few system calls as the longest path allows.
pub(super) fn resolve(root: &DirObject, path: &[Name]) -> io::Result<DirObject> {
    let mut at = root.clone();
    let mut joined: Vec<u8> = Vec::new();
    for name in path {
        if joined.len() + 1 + name.as_bytes().len() > PATH_LEN_MAX {
            at = DirObject::new(sys::open::open_directory(at.as_fd(), &joined)?);
            joined.clear();
        }
        if !joined.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name.as_bytes());
    }
    if joined.is_empty() {
        return Ok(at);
    }
    sys::open::open_path(at.as_fd(), &joined).map(DirObject::new)
}

/// The metadata of an object.
pub(super) fn stat(object: &impl AsFd) -> io::Result<Stat> {
    convert(&sys::stat::stat(object.as_fd())?)
}

/// The metadata of an object of an upper, where an empty file can stand for a device (see `marks`).
pub(super) fn stat_upper(object: &DirObject, format: Format) -> io::Result<Stat> {
    let mut stat = stat(object)?;
    if stat.kind == FileKind::Regular && stat.size == 0 && marks::is_device(object.as_fd(), format)? {
        stat.kind = FileKind::CharDevice;
    }
    Ok(stat)
}

/// The kind of an object.
pub(super) fn kind(object: &DirObject) -> io::Result<FileKind> {
    kind_of(&sys::stat::stat(object.as_fd())?)
}

fn kind_of(stat: &Statx) -> io::Result<FileKind> {
    FileKind::from_mode(stat.stx_mode.into()).ok_or_else(|| error(Errno::EIO))
}

fn convert(stat: &Statx) -> io::Result<Stat> {
    let time = |t: rustix::fs::StatxTimestamp| Timespec { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
    Ok(Stat {
        ino: stat.stx_ino,
        kind: kind_of(stat)?,
        permissions: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        block_size: stat.stx_blksize,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
    })
}

/// All names of a directory; for an upper, with its whiteouts as such and without its marks.
pub(super) fn read_dir(dir: &DirObject, upper: Option<Format>) -> io::Result<Vec<LayerEntry>> {
    let listing = sys::open::open_listing(dir.as_fd())?;
    let mut entries = Vec::new();
    let mut hidden: Vec<LayerEntry> = Vec::new();
    sys::dirent::for_each_name(listing.as_fd(), |bytes, ino, file_type| {
        let whiteout = |name| LayerEntry { name, kind: EntryKind::Whiteout, ino };
        if upper == Some(Format::Files)
            && let Some(rest) = bytes.strip_prefix(whiteout::PREFIX)
        {
            // What follows may be no name at all: the opaque mark, or something that is not ours.
            hidden.extend(Name::new(rest).ok().filter(|_| bytes != whiteout::OPAQUE_FILE).map(whiteout));
            return Ok(());
        }
        let name = Name::new(bytes).map_err(error)?;
        let kind = match file_type {
            FileType::Unknown | FileType::CharacterDevice if upper.is_some() => {
                match unless(sys::stat::stat_name(dir.as_fd(), bytes), &[Errno::ENOENT])? {
                    None => return Ok(()),
                    Some(stat) if whiteout::is_one(&stat) => {
                        entries.push(whiteout(name));
                        return Ok(());
                    }
                    Some(stat) => kind_of(&stat)?,
                }
            }
            FileType::Unknown => match unless(sys::stat::stat_name(dir.as_fd(), bytes), &[Errno::ENOENT])? {
                None => return Ok(()),
                Some(stat) => kind_of(&stat)?,
            },
            known => FileKind::from_mode(known.as_raw_mode()).ok_or_else(|| error(Errno::EIO))?,
        };
        entries.push(LayerEntry { name, kind: EntryKind::Object(kind), ino });
        Ok(())
    })?;
    if !hidden.is_empty() {
        // An object wins over a whiteout file of the same name (see `whiteout`).
        let objects: std::collections::HashSet<Name> = entries.iter().map(|e| e.name.clone()).collect();
        entries.extend(hidden.into_iter().filter(|e| !objects.contains(&e.name)));
    }
    Ok(entries)
}

/// The target of a symbolic link; `EINVAL` for anything else.
pub(super) fn read_link(object: &DirObject) -> io::Result<Vec<u8>> {
    if kind(object)? != FileKind::Symlink {
        return Err(error(Errno::EINVAL));
    }
    sys::names::read_link(object.as_fd())
}

/// Opens a regular file, and nothing else.
pub(super) fn open(object: &DirObject, access: Access) -> io::Result<DirFile> {
    let flags = match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    match kind(object)? {
        FileKind::Regular => {
            Ok(DirFile::new(Arc::new(sys::open::reopen(object.as_fd(), flags | OFlags::NONBLOCK)?)))
        }
        FileKind::Directory => Err(error(Errno::EISDIR)),
        FileKind::Symlink => Err(error(Errno::ELOOP)),
        FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => {
            Err(error(Errno::ENXIO))
        }
    }
}

/// The value of an extended attribute that is not a layer's mark.
pub(super) fn get_xattr(object: &DirObject, name: &[u8], format: Format) -> io::Result<Vec<u8>> {
    sys::xattr::get(object.as_fd(), &escape::stored(name, format)?)
}

/// The names of all extended attributes that are not a layer's marks.
pub(super) fn list_xattr(object: &DirObject, format: Format) -> io::Result<Vec<Vec<u8>>> {
    let names = sys::xattr::list(object.as_fd())?;
    Ok(names.into_iter().filter_map(|name| escape::shown(name, format)).collect())
}

/// Sizes of the file system.
pub(super) fn statfs(object: &DirObject) -> io::Result<StatFs> {
    let sizes = sys::stat::stat_filesystem(object.as_fd())?;
    Ok(StatFs {
        block_size: u32::try_from(sizes.f_frsize).map_err(|_| error(Errno::EOVERFLOW))?,
        blocks: sizes.f_blocks,
        blocks_free: sizes.f_bfree,
        blocks_available: sizes.f_bavail,
        files: sizes.f_files,
        files_free: sizes.f_ffree,
        name_max: u32::try_from(sizes.f_namemax).map_err(|_| error(Errno::EOVERFLOW))?,
    })
}
