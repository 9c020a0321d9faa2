//! How large the archive of a layer is, without making it.
//!
//! The archive is that of `dockerTools` (`stream_layered_image.py` of nixpkgs, which writes with Python's `tarfile` in its PAX format):
//! the directories above the store paths, each path with all in it under full names with the leading slash, hard links as files of
//! their own, owner 0, times of one second. What is too long for a header, or not ASCII, stands in a PAX header before it. The end are two
//! blocks of zeros, and zeros up to a multiple of 10,240 bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::tree::{Entry, Kind, walk};
use crate::store::parallel::with_threads;
use crate::store::{Location, StoreDir, StorePath};

/// A block of an archive.
pub(super) const BLOCK: u64 = 512;

/// An archive is a multiple of this.
pub(super) const RECORD: u64 = 20 * BLOCK;

/// What a field for a name has room for.
const NAME: usize = 100;

/// The first size that the field of 11 octal digits has no room for.
pub(super) const HUGE: u64 = 1 << 33;

/// The bytes that each of some store paths takes in an archive; `progress` is told how many are done, of how many, by any thread.
///
/// # Errors
/// If something cannot be looked at, or is no file, directory or symbolic link.
pub fn of_paths(
    location: &Location,
    paths: &[StorePath],
    progress: &(dyn Fn(usize, usize) + Sync),
) -> io::Result<BTreeMap<StorePath, u64>> {
    let done = AtomicUsize::new(0);
    let sizes = with_threads(|| {
        paths
            .par_iter()
            .map(|path| {
                let size = of_path(location, path)?;
                progress(1 + done.fetch_add(1, Ordering::Relaxed), paths.len());
                Ok((path.clone(), size))
            })
            .collect::<io::Result<BTreeMap<_, _>>>()
    });
    sizes.and_then(|sizes| sizes)
}

/// The bytes that a store path takes in an archive.
///
/// # Errors
/// As [`of_paths`].
pub fn of_path(location: &Location, path: &StorePath) -> io::Result<u64> {
    let mut size = 0;
    walk(&location.real_path(path), &location.dir.join(path), &mut |entry| {
        size += of_entry(&entry);
        Ok(())
    })?;
    Ok(size)
}

/// The size of an archive of store paths, given what each of them takes.
#[must_use]
pub fn of_layer(dir: &StoreDir, sizes: impl IntoIterator<Item = u64>) -> u64 {
    let directories: u64 = directories(dir).iter().map(of_entry).sum();
    (directories + sizes.into_iter().sum::<u64>() + 2 * BLOCK).next_multiple_of(RECORD)
}

/// The store directory and those above it, the highest first.
pub(super) fn directories(dir: &StoreDir) -> Vec<Entry> {
    let mut name = String::new();
    let parts = dir.as_str().split('/').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            name.push('/');
            name.push_str(part);
            let name = name.clone().into_bytes();
            Entry { name, real: dir.as_str().into(), kind: Kind::Directory, mode: 0o755 }
        })
        .collect()
}

fn of_entry(entry: &Entry) -> u64 {
    let size = match &entry.kind {
        Kind::File { size } => *size,
        Kind::Directory | Kind::Symlink { .. } => 0,
    };
    let extended =
        extended(entry).map_or(0, |records| BLOCK + (records.len() as u64).next_multiple_of(BLOCK));
    extended + BLOCK + size.next_multiple_of(BLOCK)
}

/// The name of something as an archive has it: that of a directory ends in a slash.
pub(super) fn name_of(entry: &Entry) -> Vec<u8> {
    let mut name = entry.name.clone();
    if entry.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

/// What its PAX header says, if it needs one.
pub(super) fn extended(entry: &Entry) -> Option<Vec<u8>> {
    let name = name_of(entry);
    let mut values: Vec<(&str, &[u8])> = Vec::new();
    let fits = |text: &[u8]| text.len() <= NAME && text.is_ascii();
    if !fits(&name) {
        values.push(("path", &name));
    }
    let digits;
    match &entry.kind {
        Kind::Symlink { target } if !fits(target) => values.push(("linkpath", target)),
        Kind::File { size } if *size >= HUGE => {
            digits = size.to_string();
            values.push(("size", digits.as_bytes()));
        }
        Kind::Directory | Kind::File { .. } | Kind::Symlink { .. } => {}
    }
    if values.is_empty() {
        return None;
    }
    let mut records = Vec::new();
    // As Python tells that values are bytes of no character set.
    if values.iter().any(|(_, value)| std::str::from_utf8(value).is_err()) {
        record(&mut records, "hdrcharset", b"BINARY");
    }
    for (key, value) in values {
        record(&mut records, key, value);
    }
    Some(records)
}

/// Appends `LENGTH KEY=VALUE` and a newline, where the length counts all of it, its own digits as well.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}
