//! Looks at a part of a directory's names, the next part each time, so that a look costs the same however many there are.
//!
//! ```text
//! STATE/DEVICE-INODE      where the next look at that directory begins: the offset of getdents64(2), as text
//! ```
//!
//! An offset stays good while the directory changes, and for the next descriptor of it: NFS servers need that of every file
//! system. Where one does not keep it, a look begins elsewhere, and no name is left out for ever.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{RawDir, SeekFrom, fstat, seek};
use rustix::io::Errno;

use super::open::open_listing;

/// Size of the buffer for getdents64(2), in bytes: for some more names than a part has.
const BUFFER: usize = 4096;

/// The longest text of an offset, in bytes.
const LONGEST: usize = 32;

/// Where looks at directories have ended.
#[derive(Clone, Debug)]
pub struct Rounds {
    state: PathBuf,
}

/// Some names of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// The names, without `.` and `..`.
    pub names: Vec<Vec<u8>>,
    /// They are all that the directory has.
    pub whole: bool,
    /// The end of the directory was reached: once a round.
    pub ended: bool,
}

impl Rounds {
    /// Those that are kept in the directory `state`, which is made when something is kept.
    #[must_use]
    pub fn kept_in(state: PathBuf) -> Self {
        Self { state }
    }

    /// The next names of a directory, at most so many; all, where nothing tells where the last look ended: at the first look of
    /// all. `dir` must be open for reading; its offset moves.
    ///
    /// # Errors
    /// Those of getdents64(2).
    pub fn next(&self, dir: BorrowedFd<'_>, most: usize) -> io::Result<Part> {
        let Some((position, from)) = self.position(dir) else {
            let (part, _) = read(dir, 0, usize::MAX)?;
            return Ok(part);
        };
        let (part, next) = match from {
            None => read(dir, 0, usize::MAX)?,
            Some(from) => read(dir, from, most)?,
        };
        // Without it the next look begins where this one did.
        drop(keep(&position, next));
        Ok(part)
    }

    /// The file of a directory, and what it says. `None` if it cannot be had: then nothing is kept.
    fn position(&self, dir: BorrowedFd<'_>) -> Option<(File, Option<u64>)> {
        let found = fstat(dir).ok()?;
        let path = self.state.join(format!("{:x}-{:x}", found.st_dev, found.st_ino));
        let file = open(&path).or_else(|_| {
            fs::create_dir_all(&self.state)?;
            open(&path)
        });
        let file = file.ok()?;
        let mut text = [0; LONGEST];
        let length = file.read_at(&mut text, 0).ok()?;
        let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
        let from = text.and_then(|text| text.lines().next()?.parse().ok());
        Some((file, from))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

fn keep(position: &File, next: u64) -> io::Result<()> {
    // Always as long, so that nothing of an older one is left.
    position.write_all_at(format!("{next:020}\n").as_bytes(), 0)
}

/// Reads names from an offset on, and after the end those from the beginning; answers where it ended, too.
fn read(dir: BorrowedFd<'_>, from: u64, most: usize) -> io::Result<(Part, u64)> {
    let mut part = Part::default();
    let mut seen = HashSet::new();
    let mut from = go(dir, from)?;
    let mut next = from;
    let mut again = None;
    loop {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(again.as_ref().map_or(dir, AsFd::as_fd), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                if seen.contains(name) {
                    // Once around.
                    part.whole = true;
                    return Ok((part, next));
                }
                if part.names.len() >= most {
                    return Ok((part, next));
                }
                seen.insert(name.to_vec());
                part.names.push(name.to_vec());
            }
            next = entry.next_entry_cookie();
        }
        let wrapped = std::mem::replace(&mut part.ended, true);
        if wrapped || from == 0 {
            part.whole = true;
            return Ok((part, 0));
        }
        // ext4 reads nothing more by a descriptor that began at the end, wherever it is moved (fs/ext4/dir.c,
        // `ext4_dx_readdir`).
        again = Some(open_listing(dir)?);
        (from, next) = (0, 0);
    }
}

/// Moves to an offset, or to the beginning where that is none.
fn go(dir: BorrowedFd<'_>, to: u64) -> io::Result<u64> {
    match seek(dir, SeekFrom::Start(to)) {
        Err(Errno::INVAL) if to != 0 => Ok(seek(dir, SeekFrom::Start(0))?),
        answer => Ok(answer?),
    }
}

/// Opens a directory to look at its names.
///
/// # Errors
/// Those of open(2).
pub fn open_directory(path: &Path) -> io::Result<impl AsFd> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::collections::BTreeSet;

    use super::*;

    fn next(rounds: &Rounds, dir: &Path, most: usize) -> (BTreeSet<String>, bool, bool) {
        let Part { names, whole, ended } = rounds.next(open_directory(dir).unwrap().as_fd(), most).unwrap();
        let count = names.len();
        let names: BTreeSet<_> = names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(names.len(), count, "no name twice");
        (names, whole, ended)
    }

    #[test]
    fn every_name_comes_once_a_round_and_a_part_is_as_long_however_many_there_are() {
        let scene = tempfile::tempdir().unwrap();
        let (state, dir) = (scene.path().join("state/rounds"), scene.path().join("dir"));
        fs::create_dir(&dir).unwrap();
        let all: BTreeSet<_> = (0..1000).map(|number| format!("name-{number}")).collect();
        all.iter().for_each(|name| drop(File::create(dir.join(name)).unwrap()));
        let rounds = Rounds::kept_in(state.clone());
        assert_eq!(next(&rounds, &dir, 32), (all.clone(), true, true), "the first look");
        for _ in 0..3 {
            let mut round = BTreeSet::new();
            let mut ends = 0;
            for _ in 0..32 {
                // Each look may be of another process.
                let (names, whole, ended) = next(&Rounds::kept_in(state.clone()), &dir, 32);
                assert!(names.len() == 32 && !whole);
                round.extend(names);
                ends += usize::from(ended);
            }
            assert_eq!(round, all);
            assert_eq!(ends, 1);
        }
        // Few are seen each time, also those that are new.
        all.iter().skip(30).for_each(|name| fs::remove_file(dir.join(name)).unwrap());
        let mut left: BTreeSet<_> = all.into_iter().take(30).collect();
        for number in 0..5 {
            assert_eq!(next(&rounds, &dir, 32), (left.clone(), true, true), "look {number}");
        }
        File::create(dir.join("new")).unwrap();
        left.insert("new".to_owned());
        assert_eq!(next(&rounds, &dir, 32), (left.clone(), true, true));
        assert_eq!(next(&rounds, &dir, 31), (left.clone(), true, true), "as many as a part has");
        assert_eq!(next(&rounds, &dir, 30).0.len(), 30);
        // What is kept is damaged, or gone.
        for text in ["", "x\n", "99999999999999999999\n", "18446744073709551615\n", "9223372036854775807\n"] {
            for entry in fs::read_dir(&state).unwrap() {
                fs::write(entry.unwrap().path(), text).unwrap();
            }
            assert_eq!(next(&rounds, &dir, 40), (left.clone(), true, true), "{text:?}");
        }
        fs::remove_dir_all(&state).unwrap();
        assert_eq!(next(&rounds, &dir, 1), (left.clone(), true, true));
        // It cannot be kept.
        fs::remove_dir_all(&state).unwrap();
        fs::write(&state, "").unwrap();
        assert_eq!(next(&rounds, &dir, 1), (left, true, true));
    }
}
