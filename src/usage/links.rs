//! The hard links that Nix keeps of equal files, in `.links` of the store (Nix manual, "nix-store --optimise").

use std::collections::HashSet;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

/// The inode numbers of what has a name in `.links`; none if the store has no such directory. Looks at no file.
///
/// # Errors
/// As open(2) and getdents(2).
pub fn inodes(store: &Path) -> io::Result<HashSet<u64>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, store.join(".links"), flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => return Ok(HashSet::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = HashSet::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.insert(entry.ino());
        }
    }
    Ok(found)
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
    }
}
