//! What a store path consists of: its regular files and symbolic links, in the order in which Nix's optimiser meets them.
//!
//! Nothing is read here but directories.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, ResolveFlags, Statx};
use serde::{Deserialize, Serialize};

use super::measure::{enter, look};

/// What has content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link, whose content is its target.
    Link,
}

/// A name of a file or link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its rank among the names of its store path, sorted by bytes: the same on every file system.
    pub place: u32,
    /// What it names.
    pub inode: Inode,
}

/// An inode that has content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// Length.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// How many names it has anywhere.
    pub names: u64,
    /// The owner may execute it; never of links.
    pub executable: bool,
    /// The owner may write it, as none of a store should be; never of links.
    pub writable: bool,
}

impl Inode {
    /// Of what stat(2) says, if that has content.
    pub(super) fn of(found: &Statx) -> Option<Self> {
        let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Link,
            _ => return None,
        };
        let may = |bit| kind == Kind::File && found.stx_mode & bit != 0;
        Some(Self {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            number: found.stx_ino,
            kind,
            size: found.stx_size,
            blocks: found.stx_blocks,
            names: found.stx_nlink.into(),
            executable: may(0o100),
            writable: may(0o200),
        })
    }

    /// By which it is told apart.
    #[must_use]
    pub fn key(&self) -> (u64, u64) {
        (self.device, self.number)
    }
}

/// The files and links of the store path at `path`, which may be one itself. The order is that of the directories on the disk,
/// depth first, as Nix goes through them. Devices and the like are left out.
///
/// # Errors
/// As openat2(2), getdents(2) and statx(2); `InvalidData` for more files than there are ranks.
pub fn contents(path: &Path) -> io::Result<Vec<Entry>> {
    let named = named(path)?;
    let mut order: Vec<usize> = (0..named.len()).collect();
    order.sort_unstable_by_key(|at| named.get(*at).map(|(name, _)| name));
    let mut entries: Vec<Entry> = named.iter().map(|(_, inode)| Entry { place: 0, inode: *inode }).collect();
    for (place, at) in order.into_iter().enumerate() {
        if let Some(entry) = entries.get_mut(at) {
            entry.place = u32::try_from(place)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it has too many files"))?;
        }
    }
    Ok(entries)
}

/// The same with the names below `path`; that of `path` itself is empty.
///
/// # Errors
/// As [`contents`].
pub fn named(path: &Path) -> io::Result<Vec<(PathBuf, Inode)>> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let found = look(CWD, path).map_err(told)?;
    if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory {
        return tree(path).map_err(told);
    }
    Ok(Inode::of(&found).map(|inode| (PathBuf::new(), inode)).into_iter().collect())
}

fn tree(top: &Path) -> io::Result<Vec<(PathBuf, Inode)>> {
    let mut all = Vec::new();
    let mut open = vec![enter(CWD, top, ResolveFlags::empty())?];
    let mut below = PathBuf::new();
    while let Some(level) = open.last_mut() {
        let Some(entry) = level.entries.next() else {
            open.pop();
            below.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = look(level.directory.as_fd(), name)?;
        let here = OsStr::from_bytes(name.to_bytes());
        if FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory {
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let next = enter(level.directory.as_fd(), name, inside)?;
            open.push(next);
            below.push(here);
        } else if let Some(inode) = Inode::of(&found) {
            all.push((below.join(here), inode));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_and_links_are_listed_with_what_nix_asks_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::write(top.join("b/c/deep"), "12345").unwrap();
        fs::write(top.join("z"), "").unwrap();
        fs::set_permissions(top.join("z"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::hard_link(top.join("z"), top.join("b/same")).unwrap();
        symlink("target", top.join("a")).unwrap();
        rustix::fs::mknodat(CWD, top.join("pipe"), FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let all = named(&top).unwrap();
        let ranked = contents(&top).unwrap();
        assert_eq!(
            ranked.iter().map(|e| e.inode).collect::<Vec<_>>(),
            all.iter().map(|e| e.1).collect::<Vec<_>>()
        );
        let mut by_place: Vec<(u32, &str, Inode)> = ranked
            .iter()
            .zip(&all)
            .map(|(e, (name, inode))| (e.place, name.to_str().unwrap(), *inode))
            .collect();
        by_place.sort_unstable_by_key(|entry| entry.0);
        let names: Vec<_> = by_place.iter().map(|e| (e.0, e.1)).collect();
        assert_eq!(names, [(0, "a"), (1, "b/c/deep"), (2, "b/same"), (3, "z")]);
        let [a, deep, same, z] = [0, 1, 2, 3].map(|at| by_place[at].2);
        assert_eq!((a.kind, a.size, a.executable, a.writable), (Kind::Link, 6, false, false));
        assert_eq!((deep.kind, deep.size, deep.executable, deep.writable), (Kind::File, 5, false, true));
        assert_eq!((z.executable, z.writable, z.names), (true, false, 2));
        assert_eq!(same, z);
        assert_eq!(contents(&top.join("z")).unwrap(), [Entry { place: 0, inode: z }]);
        assert_eq!(contents(&top.join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
