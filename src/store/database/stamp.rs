//! The identity of the database's files: whether anything was written since.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What a kernel's file times may lag behind its clock: writes closer together can leave the same times.
const GRANULARITY: Duration = Duration::from_secs(1);

/// The state of the database's files at one moment.
///
/// Equal stamps mean that nothing was committed in between, unless one of them is not
/// [settled](Stamp::is_settled). Covers `db.sqlite`, its `-wal` and its `-journal`: device, inode, size, mtime and
/// ctime of each, the change counter in the database's header and the header of the write-ahead log with its salts
/// (<https://www.sqlite.org/fileformat.html>).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    files: [Option<File>; 3],
    settled: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct File {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    header: Vec<u8>,
}

/// `db.sqlite-wal`, `db.sqlite-journal`: the file beside the database with that ending.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

impl File {
    fn look(path: &Path, header: std::ops::Range<u64>) -> std::io::Result<Option<Self>> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        let mut bytes = Vec::new();
        let mut at = header.start;
        let mut part = [0; 32];
        while at < header.end {
            let wanted = usize::try_from(header.end - at).map_or(part.len(), |n| n.min(part.len()));
            let read = file.read_at(part.get_mut(..wanted).unwrap_or_default(), at)?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(part.get(..read).unwrap_or_default());
            at += read as u64;
        }
        Ok(Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            header: bytes,
        }))
    }

    fn is_older_than(&self, limit: SystemTime) -> bool {
        let limit = limit.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let older = |(seconds, _)| u64::try_from(seconds).is_ok_and(|s| s < limit.as_secs());
        older(self.modified) && older(self.changed)
    }
}

impl Stamp {
    /// Looks at the files of the database; cheap, and leaves nothing behind.
    ///
    /// # Errors
    /// If the database is missing or one of the files cannot be opened.
    pub fn take(database: &Path) -> std::io::Result<Self> {
        let now = SystemTime::now();
        let main = File::look(database, 24..28)?.ok_or(std::io::ErrorKind::NotFound)?;
        let wal = File::look(&beside(database, "-wal"), 0..32)?;
        let journal = File::look(&beside(database, "-journal"), 0..28)?;
        let files = [Some(main), wal, journal];
        let settled = now
            .checked_sub(GRANULARITY)
            .is_some_and(|limit| files.iter().flatten().all(|f| f.is_older_than(limit)));
        Ok(Self { files, settled })
    }

    /// True if the files were last written so long before the stamp was taken that a later write shows in their times.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// True if both stamps are of the same files in the same state, settled or not.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.files == other.files
    }

    /// True if a write-ahead log or a rollback journal holds something that the database does not.
    pub(super) fn has_log(&self) -> bool {
        self.files.iter().skip(1).flatten().any(|file| file.size > 0)
    }

    /// The size of the database file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().flatten().map(|f| f.size).next().unwrap_or(0)
    }
}

/// One line of text that is equal for equal states and different for different ones.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, file) in ["db", "wal", "journal"].iter().zip(&self.files) {
            let Some(file) = file else { continue };
            let (m, c) = (file.modified, file.changed);
            write!(
                f,
                "{kind}:{}:{}:{}:{}.{}:{}.{}:",
                file.device, file.inode, file.size, m.0, m.1, c.0, c.1
            )?;
            for byte in &file.header {
                write!(f, "{byte:02x}")?;
            }
            f.write_str(";")?;
        }
        Ok(())
    }
}

/// Copies a file of the database, if it is there, into a directory of ours.
pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = match std::fs::File::open(from) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut target = std::fs::File::create_new(to)?;
    std::io::copy(&mut source.by_ref(), &mut target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    #[test]
    fn any_write_shows_and_fresh_files_are_not_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sqlite");
        assert!(Stamp::take(&path).is_err());
        std::fs::write(&path, [0; 100]).unwrap();
        let first = Stamp::take(&path).unwrap();
        assert!(!first.is_settled() && !first.has_log());
        assert_eq!(first.to_string(), Stamp::take(&path).unwrap().to_string());
        std::fs::write(beside(&path, "-wal"), [1; 40]).unwrap();
        let second = Stamp::take(&path).unwrap();
        assert!(second.has_log() && !first.is_same(&second));
        assert_ne!(first.to_string(), second.to_string());
        let mut bytes = [0; 100];
        bytes[27] = 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(!second.is_same(&Stamp::take(&path).unwrap()));
    }

    #[test]
    fn files_of_yesterday_are_settled_unless_their_ctime_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sqlite");
        std::fs::write(&path, "x").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        assert!(!Stamp::take(&path).unwrap().is_settled());
    }
}
