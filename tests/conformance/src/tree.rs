//! What the scripts of the suite `tools` need and no program of the system tells: all of a tree, and a directory that
//! changes while it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Prints [`listing`].
pub(crate) fn print(top: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in listing(top)? {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// A line for each inode below `top` and for `top` itself, in the order of names: kind, mode, owner, device, target, and of
/// files links among each other, length, time and content; of all extended attributes. Inode numbers, times of directories
/// below and what a file system counts for itself are left out: a copy has the same lines.
pub(crate) fn listing(top: &Path) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut first_of = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let path = top.join(&below);
        let found = fs::symlink_metadata(&path)?;
        if found.is_dir() {
            let mut names: Vec<OsString> =
                fs::read_dir(&path)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<_>>()?;
            names.sort_by(|a, b| b.cmp(a));
            todo.extend(names.iter().map(|name| below.join(name)));
        }
        let name = below.as_os_str().as_bytes().escape_ascii().to_string();
        let first = first_of.entry((found.dev(), found.ino())).or_insert_with(|| name.clone());
        let same = if *first == name || found.is_dir() { String::new() } else { format!(" = {first}") };
        lines.push(format!("{name}{same} {}", describe(&path, &found)?));
    }
    Ok(lines)
}

fn describe(path: &Path, found: &Metadata) -> io::Result<String> {
    let mut line = format!("{:o} {}:{}", found.mode(), found.uid(), found.gid());
    let kind = found.file_type();
    if !kind.is_dir() {
        line += &format!(" links {} at {}.{:09}", found.nlink(), found.mtime(), found.mtime_nsec());
    }
    if kind.is_symlink() {
        line += &format!(" -> {}", fs::read_link(path)?.as_os_str().as_bytes().escape_ascii());
    } else if kind.is_file() {
        line += &format!(" {} {}", found.size(), digest(path)?);
    } else if kind.is_block_device() || kind.is_char_device() {
        line += &format!(" device {}", found.rdev());
    }
    for (name, value) in attributes(path)? {
        line += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
    }
    Ok(line)
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut part = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            break;
        }
        hash.update(part.get(..length).unwrap_or_default());
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Extended attributes of what the path names itself, sorted.
fn attributes(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    names.truncate(length);
    let mut found = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Makes a directory with so many names, reads it, and while it is read removes every third name that was read and makes
/// another: no name is told twice, and all that were there throughout are told.
pub(crate) fn change_while_read(directory: &Path, entries: usize) -> io::Result<()> {
    fs::create_dir(directory)?;
    let old = |n: usize| directory.join(n.to_string());
    for n in 0..entries {
        File::create(old(n))?;
    }
    let mut told = BTreeSet::new();
    let mut gone = BTreeSet::new();
    for (n, entry) in fs::read_dir(directory)?.enumerate() {
        let name = entry?.file_name();
        if !told.insert(name.clone()) {
            return Err(io::Error::other(format!("{} is told twice", name.display())));
        }
        if n % 3 == 0 && n < entries / 2 {
            fs::remove_file(directory.join(&name))?;
            gone.insert(name);
            File::create(directory.join(format!("new-{n}")))?;
        }
    }
    let missed =
        (0..entries).map(|n| OsString::from(n.to_string())).filter(|name| !told.contains(name)).count();
    if missed > 0 {
        return Err(io::Error::other(format!("{missed} names were not told")));
    }
    for name in gone {
        match fs::symlink_metadata(directory.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return Err(io::Error::other(format!("{} was removed: {other:?}", name.display()))),
        }
    }
    let left = fs::read_dir(directory)?.count();
    if left != entries { Err(io::Error::other(format!("{left} names instead of {entries}"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn every_difference_shows() {
        let top = std::env::temp_dir().join(format!("conformance-tree.{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        fs::write(top.join("a"), "x").unwrap();
        fs::hard_link(top.join("a"), top.join("b")).unwrap();
        symlink("a", top.join("s")).unwrap();
        let mut seen = vec![listing(&top).unwrap()];
        assert_eq!(seen[0].len(), 4);
        assert!(seen[0][2].starts_with("b = a "), "{seen:?}");
        let changes: [fn(&Path); 5] = [
            |top| fs::write(top.join("a"), "y").unwrap(),
            |top| fs::set_permissions(top.join("a"), fs::Permissions::from_mode(0o4711)).unwrap(),
            |top| {
                fs::remove_file(top.join("s")).unwrap();
                symlink("b", top.join("s")).unwrap();
            },
            |top| fs::remove_file(top.join("b")).unwrap(),
            |top| File::open(top.join("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap(),
        ];
        for change in changes {
            change(&top);
            let now = listing(&top).unwrap();
            assert!(!seen.contains(&now), "{now:?}");
            seen.push(now);
        }
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_directory_of_a_good_file_system_changes_well() {
        let top = std::env::temp_dir().join(format!("conformance-dir.{}", std::process::id()));
        change_while_read(&top, 1000).unwrap();
        assert_eq!(change_while_read(&top, 1000).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir_all(&top).unwrap();
    }
}
