//! Images that no view needs any more.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::cached::open_regular;
use super::directory::Directory;
use super::draft::PREFIX;
use super::error::{ImageError, Tried};
use super::key::{IMAGE, Key, RECORD};
use crate::sys;
use crate::sys::lock::{Flock, flock_within};
use crate::vfs::Errno;

/// What was, or would be, removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Images.
    pub images: u64,
    /// Drafts of processes that were killed, and records without an image.
    pub leftovers: u64,
    /// Space of all in bytes.
    pub bytes: u64,
}

/// Removes the images below the state directory that nothing holds and that were not used for
/// `age`, and all drafts that no process writes; with `dry_run` only counts them.
///
/// # Errors
/// The first thing that could not be looked at or removed.
pub fn sweep(state: &Path, age: Duration, dry_run: bool) -> Result<Swept, ImageError> {
    let mut swept = Swept::default();
    let Some(directory) = Directory::existing(state)? else { return Ok(swept) };
    let names = list(&directory).tried("list", directory.path())?;
    for name in &names {
        let (least, count) = if name.ends_with(IMAGE) && !name.starts_with(PREFIX) {
            (age, &mut swept.images)
        } else if name.starts_with(PREFIX) || (name.ends_with(RECORD) && !has_image(&names, name)) {
            (Duration::ZERO, &mut swept.leftovers)
        } else {
            continue;
        };
        if let Some(bytes) = remove(&directory, name, least, dry_run).tried("sweep", directory.path())? {
            *count += 1;
            swept.bytes += bytes;
        }
    }
    Ok(swept)
}

/// The names of the directory, sorted. A name that is no text is none of ours.
fn list(directory: &Directory) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let listing = sys::open::open_listing(directory.as_fd())?;
    sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
        names.extend(std::str::from_utf8(name).map(str::to_owned));
        Ok(())
    })?;
    names.sort_unstable();
    Ok(names)
}

/// True if the image of a record is among these names.
fn has_image(names: &[String], record: &str) -> bool {
    Key::of_file(record).is_some_and(|key| names.binary_search(&key.image()).is_ok())
}

/// Removes a file, and an image's record before it, if nothing holds it and it was not used for
/// `age`; answers the space.
fn remove(directory: &Directory, name: &str, age: Duration, dry_run: bool) -> io::Result<Option<u64>> {
    let Some(file) = open_regular(directory, name)? else { return Ok(None) };
    if !flock_within(&file, Flock::Alone, Duration::ZERO)?
        || !sys::names::leads_to(directory.as_fd(), name.as_bytes(), file.as_fd())?
    {
        return Ok(None);
    }
    let record = match Key::of_file(name).filter(|_| name.ends_with(IMAGE)) {
        Some(key) => open_regular(directory, &key.record())?.map(|file| (key.record(), file)),
        None => None,
    };
    let (used, of_record) = match &record {
        Some((_, record)) => (record.metadata()?.modified()?, space(record)?),
        None => (file.metadata()?.modified()?, 0),
    };
    if SystemTime::now().duration_since(used).unwrap_or_default() < age {
        return Ok(None);
    }
    let bytes = space(&file)? + of_record;
    if !dry_run {
        if let Some((record, _)) = record {
            unlink(directory, &record)?;
        }
        unlink(directory, name)?;
    }
    Ok(Some(bytes))
}

fn space(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

fn unlink(directory: &Directory, name: &str) -> io::Result<()> {
    match sys::names::unlink(directory.as_fd(), name.as_bytes()) {
        Err(error) if Errno::of(&error) != Errno::ENOENT => Err(error),
        _ => Ok(()),
    }
}
