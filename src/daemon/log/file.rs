//! The files of logs: appended to by several processes, rotated by whichever finds one full.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::view::ViewName;

/// Below the state directory: the logs.
const DIRECTORY: &str = "logs";

/// The endings of their names: the file that is written, and the one before.
const NOW: &str = ".log";
const BEFORE: &str = ".log.1";

/// A file that is as long as this gets no more lines.
pub(super) const FULL: u64 = 512 << 10;

/// How many logs of ended views stay, and how long, without `nixview gc`.
const MOST: usize = 200;
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where the logs of a state directory are.
#[must_use]
pub fn directory(state: &Path) -> PathBuf {
    state.join(DIRECTORY)
}

/// The names of the two files of a view, the newer first.
pub(super) fn names(name: &str) -> [String; 2] {
    [format!("{name}{NOW}"), format!("{name}{BEFORE}")]
}

/// The log of a view that lives.
#[derive(Debug)]
pub(super) struct LogFile {
    directory: OwnedFd,
    names: [String; 2],
    current: Mutex<Arc<File>>,
}

impl LogFile {
    /// Opens the log of a view, and makes it if there is none. With `sweep`, logs of others that ended long ago, or of too many,
    /// go: that looks at each log.
    pub(super) fn open(state: &Path, name: &ViewName, sweep: bool) -> io::Result<Self> {
        let path = directory(state);
        fs::create_dir_all(state)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if sweep {
            sweep_beyond(&path, LONGEST, MOST, false)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())?;
        let names = names(name.as_str());
        let current = Mutex::new(Arc::new(open_current(&directory, &names)?));
        Ok(Self { directory, names, current })
    }

    /// The file that is written.
    pub(super) fn current(&self) -> Arc<File> {
        Arc::clone(&self.current.lock())
    }

    /// Appends whole lines; what cannot be written is lost. True if that is another file than before.
    pub(super) fn append(&self, lines: &[u8]) -> bool {
        let mut file = self.current();
        let mut reopened = false;
        if file.metadata().is_ok_and(|found| found.len() >= FULL)
            && let Ok(next) = self.next(&file)
        {
            file = Arc::new(next);
            *self.current.lock() = Arc::clone(&file);
            reopened = true;
        }
        // A log has nowhere to report to.
        drop((&*file).write_all(lines));
        reopened
    }

    /// The file after one that is full: made here, or by a process that was faster.
    fn next(&self, full: &File) -> io::Result<File> {
        let turn = rustix::fs::openat(&self.directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        flock(&turn, FlockOperation::LockExclusive)?;
        let [now, before] = &self.names;
        let full = full.metadata()?;
        match rustix::fs::statat(&self.directory, now, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if (found.st_dev, found.st_ino) == (full.dev(), full.ino()) => {
                rustix::fs::renameat(&self.directory, now, &self.directory, before)?;
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        open_current(&self.directory, &self.names)
    }

    /// Removes the log if nothing was ever written to it.
    pub(super) fn remove_if_empty(&self) -> io::Result<()> {
        let [now, before] = &self.names;
        let is_empty = self.current().metadata()?.len() == 0;
        let has_more = rustix::fs::statat(&self.directory, before, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if is_empty && !has_more {
            rustix::fs::unlinkat(&self.directory, now, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Opens the file that is written, for appending, and says by its lock that the view lives.
fn open_current(directory: &OwnedFd, names: &[String; 2]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    loop {
        let [now, _] = names;
        let file =
            regular(File::from(rustix::fs::openat(directory, now, flags, Mode::from_raw_mode(0o600))?))?;
        flock(&file, FlockOperation::LockShared)?;
        // A sweep may have removed it before it was locked.
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Opens a file of a log for reading; never waits, as for the writer of a FIFO.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    regular(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// The file, if it is a regular one.
fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// True while a keeper or server appends to the log that `file` is.
pub(super) fn is_live(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => flock(file, FlockOperation::Unlock).map(|()| false).map_err(Into::into),
        Err(Errno::AGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// What a sweep removed, or would remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Logs of views.
    pub logs: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Removes the logs of views that ended longer ago than `age`; with `dry_run` only counts them.
///
/// # Errors
/// The first thing that could not be looked at or removed.
pub fn sweep(state: &Path, age: Duration, dry_run: bool) -> io::Result<Swept> {
    sweep_beyond(&directory(state), age, usize::MAX, dry_run)
}

/// Also the oldest of ended views, so that `most` stay.
fn sweep_beyond(dir: &Path, age: Duration, most: usize, dry_run: bool) -> io::Result<Swept> {
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Swept::default()),
        answer => answer?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|n| n.strip_suffix(NOW).or_else(|| n.strip_suffix(BEFORE)))
        else {
            continue;
        };
        match entry.metadata().and_then(|found| found.modified()) {
            Ok(modified) => found.push((modified, name.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    // The newer of the two files of a view counts.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|(_, name)| seen.insert(name.clone()));
    let mut swept = Swept::default();
    for (number, (modified, name)) in found.into_iter().enumerate() {
        let since = SystemTime::now().duration_since(modified).unwrap_or_default();
        if (since >= age || number >= most)
            && let Some(bytes) = remove_ended(dir, &name, dry_run)?
        {
            swept.logs += 1;
            swept.bytes += bytes;
        }
    }
    Ok(swept)
}

/// Removes the log of a view unless it lives; answers its size.
fn remove_ended(dir: &Path, name: &str, dry_run: bool) -> io::Result<Option<u64>> {
    let mut ours = Vec::new();
    for name in names(name) {
        let path = dir.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            answer => File::from(answer?),
        };
        // Held until both are removed: a view that begins meanwhile makes another file.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) => return Ok(None),
            answer => answer?,
        }
        ours.push((path, file));
    }
    let mut bytes = 0;
    for (path, file) in &ours {
        bytes += file.metadata()?.len();
        if !dry_run {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn name(text: &str) -> ViewName {
        text.parse().unwrap()
    }

    fn total(state: &Path) -> u64 {
        fs::read_dir(directory(state)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_log_of_several_writers_is_bounded_and_loses_no_newest_line() {
        let state = tempfile::tempdir().unwrap();
        // Two that share no descriptor, as keeper and server after a rotation.
        let writers = [0, 1].map(|_| LogFile::open(state.path(), &name("web"), true).unwrap());
        std::thread::scope(|scope| {
            for (number, writer) in writers.iter().enumerate() {
                scope.spawn(move || {
                    for line in 0..40_000 {
                        writer.append(format!("{number} {line:0100}\n").as_bytes());
                    }
                });
            }
        });
        assert!(total(state.path()) <= 2 * (FULL + 1000), "{}", total(state.path()));
        let kept: Vec<String> = names("web")
            .iter()
            .rev()
            .map(|file| fs::read_to_string(directory(state.path()).join(file)).unwrap())
            .collect();
        let kept = kept.concat();
        assert!(kept.lines().all(|line| line.len() == 102), "lines are whole");
        assert!(kept.lines().count() > 4000);
        let last = kept.lines().last().unwrap();
        assert!(last.ends_with("39999"), "{last}");
    }

    #[test]
    fn logs_go_when_their_view_has_ended_and_they_are_old() {
        let state = tempfile::tempdir().unwrap();
        let live = LogFile::open(state.path(), &name("live"), true).unwrap();
        let ended = LogFile::open(state.path(), &name("ended"), true).unwrap();
        ended.append(b"x\n");
        drop(ended);
        assert_eq!(sweep(state.path(), Duration::from_secs(60), false).unwrap(), Swept::default());
        let all = Swept { logs: 1, bytes: 2 };
        assert_eq!(sweep(state.path(), Duration::ZERO, true).unwrap(), all);
        assert_eq!(sweep(state.path(), Duration::ZERO, false).unwrap(), all);
        assert_eq!(fs::read_dir(directory(state.path())).unwrap().count(), 1, "that of a live view stays");
        live.remove_if_empty().unwrap();
        drop(live);
        assert_eq!(fs::read_dir(directory(state.path())).unwrap().count(), 0, "an empty one tells nothing");
    }

    #[test]
    fn logs_of_ended_views_are_bounded_in_number() {
        let state = tempfile::tempdir().unwrap();
        for number in 0..MOST + 30 {
            LogFile::open(state.path(), &name(&format!("v{number}")), true).unwrap().append(b"x\n");
        }
        let left = fs::read_dir(directory(state.path())).unwrap().count();
        assert!((MOST - 1..=MOST + 1).contains(&left), "{left}");
    }
}
