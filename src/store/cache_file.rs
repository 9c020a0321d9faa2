//! Files of SQLite that hold only what can be computed again: what the caches of scans, closures and evaluations share.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::ErrorCode;

/// True if the file itself is damaged or is no database, so that nothing in it can be had any more.
#[must_use]
pub fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Renames a corrupt `NAME.sqlite` to `NAME.sqlite.corrupt`, which is answered.
///
/// Its write-ahead log and shared memory are removed: they would be taken for those of the file that comes after it
/// (<https://www.sqlite.org/howtocorrupt.html>, section 1.4).
///
/// # Errors
/// As unlink(2) and rename(2).
pub fn set_aside(file: &Path) -> io::Result<PathBuf> {
    for ending in ["-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        match std::fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let aside = file.with_extension("sqlite.corrupt");
    std::fs::rename(file, &aside)?;
    Ok(aside)
}

/// The begin of this day, in seconds since 1970: enough to tell what is not used any more, and only a day's first use writes.
#[must_use]
pub fn today() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs() / 86_400 * 86_400).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_file_goes_aside_without_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.sqlite");
        for name in ["x.sqlite", "x.sqlite-wal", "x.sqlite-shm"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(set_aside(&file).unwrap(), dir.path().join("x.sqlite.corrupt"));
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["x.sqlite.corrupt"]);
        assert_eq!(set_aside(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
