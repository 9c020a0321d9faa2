//! References of a path found in its bytes, where nothing records them.

pub mod cache;
mod search;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, readlinkat, statx,
};

use super::parallel::with_threads;
pub use search::{Candidates, Index};

/// What a thread reads at once.
const BUFFER: usize = 256 << 10;

/// The identity of what was scanned: device, inode and ctime of the path itself.
///
/// A store path is never changed after it was registered, so its top tells enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Change time, seconds and nanoseconds.
    pub changed: (i64, u32),
}

/// The identity of a path, which may be a symlink.
///
/// # Errors
/// If it cannot be looked at.
pub fn identity(path: &Path) -> io::Result<Identity> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    Ok(Identity {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
    })
}

/// Searches everything that the NAR of `path` holds: contents of files, targets of symlinks and names below it, in
/// parallel on rayon's threads. Follows no symlink and opens nothing but regular files and directories.
///
/// Memory: one buffer a thread, and the names of one level of the tree.
///
/// # Errors
/// If something cannot be read; a device, FIFO or socket, which no NAR holds, is an error.
pub fn scan(path: &Path, candidates: &Candidates<'_>) -> io::Result<()> {
    let top = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    match FileType::from_raw_mode(u32::from(top.stx_mode)) {
        FileType::Symlink => {
            candidates.search(readlinkat(CWD, path, Vec::new())?.as_bytes());
            Ok(())
        }
        FileType::RegularFile => {
            let file = open(CWD, path, OFlags::empty(), ResolveFlags::NO_MAGICLINKS)?;
            candidates.search_stream(std::fs::File::from(file), &mut vec![0; BUFFER])
        }
        FileType::Directory => {
            let top = open(CWD, path, OFlags::DIRECTORY, ResolveFlags::NO_MAGICLINKS)?;
            let searched = with_threads(|| tree(top.as_fd(), candidates)).and_then(|searched| searched);
            searched.map_err(|error| named(path, &error))
        }
        _ => Err(named(path, &io::Error::other("it is no file, directory or symlink"))),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn open(base: BorrowedFd<'_>, path: &Path, kind: OFlags, how: ResolveFlags) -> io::Result<OwnedFd> {
    let flags =
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | kind;
    Ok(openat2(base, path, flags, Mode::empty(), how)?)
}

const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Level by level, so that depth costs neither stack nor descriptors.
fn tree(top: BorrowedFd<'_>, candidates: &Candidates<'_>) -> io::Result<()> {
    let mut level = vec![PathBuf::from(".")];
    while !level.is_empty() {
        let below: Vec<Vec<PathBuf>> =
            level.par_iter().map(|dir| directory(top, dir, candidates)).collect::<io::Result<_>>()?;
        level = below.into_iter().flatten().collect();
    }
    Ok(())
}

/// Searches the names, targets and files of one directory; its directories are returned.
fn directory(top: BorrowedFd<'_>, at: &Path, candidates: &Candidates<'_>) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt;
    let fd = open(top, at, OFlags::DIRECTORY, INSIDE)?;
    let mut directories = Vec::new();
    let mut files = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        candidates.search(name);
        let path = at.join(std::ffi::OsStr::from_bytes(name));
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let found = statx(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
                FileType::from_raw_mode(u32::from(found.stx_mode))
            }
            known => known,
        };
        match kind {
            FileType::Directory => directories.push(path),
            FileType::RegularFile => files.push(path),
            FileType::Symlink => {
                candidates.search(readlinkat(&fd, entry.file_name(), Vec::new())?.as_bytes());
            }
            _ => return Err(named(&path, &io::Error::other("it is no file, directory or symlink"))),
        }
    }
    files.par_iter().try_for_each_init(
        || vec![0; BUFFER],
        |buffer, path| {
            let file = open(top, path, OFlags::empty(), INSIDE).map_err(|error| named(path, &error))?;
            candidates.search_stream(std::fs::File::from(file), buffer).map_err(|error| named(path, &error))
        },
    )?;
    Ok(directories)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;
    use crate::store::StorePath;
    use std::os::unix::fs::symlink;

    fn paths() -> Vec<StorePath> {
        "abcdfg".chars().map(|c| format!("{}-{c}", String::from(c).repeat(32)).parse().unwrap()).collect()
    }

    #[test]
    fn contents_targets_and_names_count_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let all = paths();
        let top = dir.path().join("top");
        std::fs::create_dir_all(top.join("x/y/z")).unwrap();
        let mut large = vec![b'0'; BUFFER - 10];
        large.extend_from_slice(all[0].hash_part().as_bytes());
        std::fs::write(top.join("x/y/z/large"), large).unwrap();
        symlink(format!("/nix/store/{}/bin", all[1]), top.join("x/link")).unwrap();
        std::fs::write(top.join(format!("x/y/{}.conf", all[2])), "").unwrap();
        std::fs::write(dir.path().join("outside"), all[3].as_str()).unwrap();
        symlink("../outside", top.join("out")).unwrap();
        symlink("..", top.join("x/loop")).unwrap();
        let found = |path: &Path| {
            let index = Index::new(all.clone());
            let candidates = Candidates::new(&index);
            scan(path, &candidates).map(|()| candidates.found())
        };
        assert_eq!(found(&top).unwrap(), all[..3]);
        assert_eq!(found(&dir.path().join("outside")).unwrap(), all[3..4]);
        assert!(found(&top.join("out")).unwrap().is_empty());
        assert_eq!(found(&top.join("x/link")).unwrap(), all[1..2]);
        assert_eq!(found(&top.join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_fifo_is_refused_and_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = scan(dir.path(), &Candidates::new(&Index::new(paths()))).unwrap_err();
        assert!(error.to_string().contains("fifo"), "{error}");
    }
}
