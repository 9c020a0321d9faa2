//! What one store path takes: counts and sizes of everything in it, found without reading any content.
//!
//! Sizes are those of stat(2). The length of the NAR follows from lengths, names and the owner's execute bit alone (Nix
//! manual, "Nix Archive (NAR) format"): a string of n bytes takes 8 bytes and n rounded up to 8.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx,
};
use serde::{Deserialize, Serialize};

/// Bytes of a block of st_blocks.
pub(super) const BLOCK: u64 = 512;

/// What a store path takes on its disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Measure {
    /// Names of regular files; a hard link counts each time.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, pipes and sockets, which no store path has.
    pub others: u64,
    /// Sum of the lengths of regular files and symbolic links, each name for itself: what GNU du calls the apparent size.
    pub apparent: u64,
    /// Sum of the lengths of directories, which du before coreutils 9.2 adds to the apparent size.
    pub directory_lengths: u64,
    /// Blocks, of 512 bytes, of what has no other name.
    pub blocks: u64,
    /// What has more than one name.
    pub linked: Vec<Linked>,
    /// Length of its NAR.
    pub nar: u64,
}

/// An inode with more than one name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Linked {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// How many names it has anywhere.
    pub names: u64,
    /// How many of them are in this store path.
    pub here: u64,
}

impl Measure {
    /// Bytes on the disk, each inode once.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        (self.blocks + self.linked.iter().map(|linked| linked.blocks).sum::<u64>()) * BLOCK
    }
}

/// The length of a string in a NAR.
fn string(length: u64) -> u64 {
    8 + length.next_multiple_of(8)
}

/// What stands around everything else of an archive: its magic string.
const ARCHIVE: u64 = 24;

/// What a node of each kind takes beside its content: parentheses, "type" and what follows.
const FILE: u64 = 80;
const EXECUTABLE: u64 = 32;
const SYMLINK: u64 = 80;
const DIRECTORY: u64 = 72;

/// What an entry of a directory takes beside name and node.
const ENTRY: u64 = 80;

/// A directory that is being gone through.
pub(super) struct Level {
    pub(super) directory: OwnedFd,
    pub(super) entries: Dir,
}

/// What may be in a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    /// What a NAR holds.
    Archive,
    /// Anything.
    Anything,
}

/// Measures the store path at `path`. Follows no symbolic link, reads no content, and leaves other file systems to an error.
///
/// Memory: a descriptor and a buffer for each level of the tree.
///
/// # Errors
/// If something cannot be looked at; `InvalidData` for a device, FIFO or socket, which no NAR holds.
pub fn measure(path: &Path) -> io::Result<Measure> {
    all(path, Holds::Archive)
}

/// Measures any tree, as the upper of a view, which has devices for what it hides. Its length as a NAR means nothing.
///
/// # Errors
/// If something cannot be looked at.
pub fn measure_tree(path: &Path) -> io::Result<Measure> {
    all(path, Holds::Anything)
}

fn all(path: &Path, holds: Holds) -> io::Result<Measure> {
    let named = |error: io::Error| match error.kind() {
        // Whoever asks knows what is not there.
        io::ErrorKind::NotFound => error,
        kind => io::Error::new(kind, format!("{}: {error}", path.display())),
    };
    let mut measure = Measure { nar: ARCHIVE, ..Measure::default() };
    let found = look(CWD, path).map_err(named)?;
    measure.add(&found, holds).map_err(named)?;
    if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory {
        tree(path, &mut measure, holds).map_err(named)?;
    }
    measure.merge_names();
    Ok(measure)
}

fn tree(top: &Path, measure: &mut Measure, holds: Holds) -> io::Result<()> {
    let mut open = vec![enter(CWD, top, ResolveFlags::empty())?];
    while let Some(level) = open.last_mut() {
        let Some(entry) = level.entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = look(level.directory.as_fd(), name)?;
        measure.nar += ENTRY + string(name.to_bytes().len() as u64);
        measure.add(&found, holds)?;
        if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory {
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let below = enter(level.directory.as_fd(), name, inside)?;
            open.push(below);
        }
    }
    Ok(())
}

pub(super) fn look<P: rustix::path::Arg>(at: BorrowedFd<'_>, name: P) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS;
    Ok(statx(at, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, wanted)?)
}

pub(super) fn enter<P: rustix::path::Arg>(
    at: BorrowedFd<'_>,
    name: P,
    how: ResolveFlags,
) -> io::Result<Level> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat2(at, name, flags, Mode::empty(), how)?;
    let entries = Dir::read_from(&directory)?;
    Ok(Level { directory, entries })
}

impl Measure {
    /// Adds one inode.
    fn add(&mut self, found: &Statx, holds: Holds) -> io::Result<()> {
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        match kind {
            FileType::RegularFile => {
                self.files += 1;
                self.apparent += found.stx_size;
                let executable = if found.stx_mode & 0o100 == 0 { 0 } else { EXECUTABLE };
                self.nar += FILE + executable + string(found.stx_size);
            }
            FileType::Symlink => {
                self.symlinks += 1;
                self.apparent += found.stx_size;
                self.nar += SYMLINK + string(found.stx_size);
            }
            FileType::Directory => {
                self.directories += 1;
                self.directory_lengths += found.stx_size;
                self.nar += DIRECTORY;
            }
            _ if holds == Holds::Anything => self.others += 1,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is no file, directory or symlink",
                ));
            }
        }
        if kind != FileType::Directory && found.stx_nlink > 1 {
            self.linked.push(Linked {
                device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
                inode: found.stx_ino,
                blocks: found.stx_blocks,
                names: found.stx_nlink.into(),
                here: 1,
            });
        } else {
            self.blocks += found.stx_blocks;
        }
        Ok(())
    }

    /// Makes one of each inode's names.
    fn merge_names(&mut self) {
        self.linked.sort_unstable();
        self.linked.dedup_by(|next, kept| {
            let same = (next.device, next.inode) == (kept.device, kept.inode);
            if same {
                kept.here += next.here;
            }
            same
        });
        self.linked.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn nar_of(fill: impl FnOnce(&Path)) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("path");
        fill(&path);
        measure(&path).unwrap().nar
    }

    #[test]
    fn archives_are_as_long_as_the_format_says() {
        // Counted by hand: each string 8 bytes and its length rounded up to 8.
        assert_eq!(nar_of(|path| fs::write(path, "hello").unwrap()), 120);
        assert_eq!(nar_of(|path| fs::write(path, "").unwrap()), 112);
        assert_eq!(nar_of(|path| fs::create_dir(path).unwrap()), 96);
        assert_eq!(nar_of(|path| symlink("target1", path).unwrap()), 120);
        let executable = |path: &Path| {
            fs::write(path, "12345678").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
        };
        assert_eq!(nar_of(executable), 152);
        let of_others = |path: &Path| {
            fs::write(path, "12345678").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o455)).unwrap();
        };
        assert_eq!(nar_of(of_others), 120, "only the owner's bit counts");
        let nested = |path: &Path| {
            fs::create_dir_all(path.join("bin")).unwrap();
            fs::write(path.join("bin/a"), "x").unwrap();
            symlink("bin", path.join("b")).unwrap();
        };
        let bin = 72 + 80 + 16 + 80 + 16;
        assert_eq!(nar_of(nested), 24 + 72 + (80 + 16 + bin) + (80 + 16 + 80 + 16));
    }

    #[test]
    fn holes_take_no_blocks_and_hard_links_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let sparse = fs::File::create(top.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        fs::write(top.join("a"), vec![1; 10_000]).unwrap();
        fs::hard_link(top.join("a"), top.join("b")).unwrap();
        fs::hard_link(top.join("a"), dir.path().join("outside")).unwrap();
        let measure = measure(&top).unwrap();
        assert_eq!((measure.files, measure.directories, measure.symlinks), (3, 1, 0));
        assert_eq!(measure.apparent, (1 << 30) + 20_000);
        let blocks = |name: &str| fs::symlink_metadata(top.join(name)).unwrap().blocks();
        assert_eq!(measure.allocated(), (blocks("sparse") + blocks("a") + blocks("")) * 512);
        assert_eq!(measure.linked.len(), 1);
        let linked = measure.linked.first().unwrap();
        assert_eq!((linked.names, linked.here), (3, 2));
    }

    #[test]
    fn a_pipe_and_a_missing_path_are_errors_with_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        rustix::fs::mknodat(CWD, top.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = measure(&top).unwrap_err();
        assert!(error.to_string().contains("top: it is no file"), "{error}");
        assert_eq!(measure(&dir.path().join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
