//! Locks as files: read once and bounded, replaced by one rename.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::EnvLock;
use crate::json;
use crate::lock::error::LockError;
use crate::sys::open::open_input;
use crate::sys::output_file::OutputTarget;

/// The largest lock that is read, in bytes.
pub const MAX_SIZE: u64 = 64 << 20;

impl EnvLock {
    /// Reads the lock in a file, once, and at most [`MAX_SIZE`] of it.
    ///
    /// # Errors
    /// If the file cannot be read, is too large, or is no lock.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        let text = read_bounded(path, MAX_SIZE)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the lock in an open file, from where it stands, as [`EnvLock::read`], but at most `most` bytes; `origin` is told in
    /// errors.
    ///
    /// # Errors
    /// As [`EnvLock::read`].
    pub fn read_from(file: File, origin: &str, most: u64) -> Result<Self, LockError> {
        Self::parse(&bounded(file, Path::new(origin), most)?, origin)
    }

    /// True if a file looks like a lock of any version, usable or not: an object with its fields, whatever their values. False if
    /// it cannot be read.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        type Looks = BTreeMap<String, serde::de::IgnoredAny>;
        let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let text = if is_file { read_bounded(path, MAX_SIZE).ok() } else { None };
        text.is_some_and(|text| {
            json::from_slice(&text).is_ok_and(|found: Looks| {
                ["closure", "roots", "version"].iter().all(|field| found.contains_key(*field))
            })
        })
    }

    /// Writes the lock into a file by one rename: a reader sees the old one or the new one, whole. What is no regular file is
    /// written through.
    ///
    /// Answers `false`, and leaves the file as it is, if it says the same already.
    ///
    /// # Errors
    /// If it cannot be written; then nothing is left behind.
    pub fn write(&self, path: &Path) -> Result<bool, LockError> {
        let text = self.print()?;
        let write = || {
            let target = OutputTarget::find(path)?;
            if target.holds(text.as_bytes()) {
                return Ok(false);
            }
            target.write(text.as_bytes()).map(|()| true)
        };
        write().map_err(LockError::file("write", path))
    }
}

/// The contents of a file, if it has at most `limit` bytes; a file that grows meanwhile is not trusted either.
pub(in crate::lock) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LockError> {
    bounded(open_input(path).map_err(LockError::file("read", path))?, path, limit)
}

/// The contents of an open file that is called `path`, likewise.
fn bounded(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, LockError> {
    let too_large = || LockError::TooLarge { path: path.to_owned(), limit };
    if file.metadata().map_err(LockError::file("read", path))?.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(LockError::file("read", path))?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}
