//! The hard links that Nix keeps of equal files, in `.links` of the store (Nix manual, "nix-store --optimise").

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use super::contents::Inode;
use super::digest::Sha;
use super::measure::look;
use crate::store::nixbase32;

/// The inode numbers of what has a name in `.links`; none if the store has no such directory. Looks at no file.
///
/// # Errors
/// As open(2) and getdents(2).
pub fn inodes(store: &Path) -> io::Result<HashSet<u64>> {
    let Some(directory) = open(store)? else { return Ok(HashSet::new()) };
    let mut found = HashSet::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.insert(entry.ino());
        }
    }
    Ok(found)
}

fn open(store: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, store.join(".links"), flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What has a name in `.links` and is none of `known`, with the key that its name is.
///
/// # Errors
/// As open(2), getdents(2) and statx(2).
pub fn others(store: &Path, known: &HashSet<u64>) -> io::Result<Vec<(Sha, Inode)>> {
    let Some(directory) = open(store)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        // Other names are none of Nix's.
        let key = nixbase32::decode(entry.file_name().to_bytes()).and_then(|key| Sha::try_from(key).ok());
        let Some(key) = key.filter(|_| !known.contains(&entry.ino())) else { continue };
        match look(directory.as_fd(), entry.file_name()) {
            Ok(stat) => found.extend(Inode::of(&stat).map(|inode| (key, inode))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Space on the disk of the directory `.links` itself; 0 if there is none.
///
/// # Errors
/// As statx(2).
pub fn allocated(store: &Path) -> io::Result<u64> {
    match look(CWD, store.join(".links")) {
        Ok(stat) => Ok(stat.stx_blocks * super::measure::BLOCK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_names_in_links_are_found_by_inode() {
        let dir = tempfile::tempdir().unwrap();
        assert!(inodes(dir.path()).unwrap().is_empty());
        std::fs::create_dir(dir.path().join(".links")).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::fs::hard_link(dir.path().join("file"), dir.path().join(".links/hash")).unwrap();
        let inode = std::fs::metadata(dir.path().join("file")).unwrap().ino();
        assert_eq!(inodes(dir.path()).unwrap(), HashSet::from([inode]));
        assert!(others(dir.path(), &HashSet::new()).unwrap().is_empty(), "that is no name of Nix's");
        let key = [7; 32];
        let name = dir.path().join(".links").join(nixbase32::encode(&key));
        std::fs::hard_link(dir.path().join("file"), name).unwrap();
        let found = others(dir.path(), &HashSet::new()).unwrap();
        assert_eq!(
            found.iter().map(|(key, at)| (*key, at.number, at.size)).collect::<Vec<_>>(),
            [(key, inode, 1)]
        );
        assert!(others(dir.path(), &HashSet::from([inode])).unwrap().is_empty());
    }
}
