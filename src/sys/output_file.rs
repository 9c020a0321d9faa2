//! Output files that a user names: a regular file is replaced by one rename, everything else is written through.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::descriptor::inherited;
use super::inherited::owner_mask;
use super::leftover::Leftover;
use super::open::{proc_path, reopen};

/// How many symbolic links are followed, as in the kernel.
const LINKS: usize = 40;

/// How many names a draft may try.
const NAMES: u32 = 100;

/// The longest part of a file's name that is in the name of its draft, in bytes.
const PREFIX: usize = 200;

/// The permissions of a new file, before the umask.
const PERMISSIONS: u16 = 0o644;

/// An output that a path names, found but not yet changed.
///
/// Symbolic links are followed: the file behind them is the output, and they stay. The directory of the file is held by
/// descriptor from here on, so that an exchange of what is above it changes nothing.
#[derive(Debug)]
pub struct OutputTarget {
    directory: OwnedFd,
    name: CString,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Nothing,
    Regular(OwnedFd, Stat),
    /// A device, a FIFO or a socket, and its type.
    Special(OwnedFd, FileType),
    /// A descriptor of this process, or another magic link of /proc.
    Descriptor,
}

impl OutputTarget {
    /// Finds what `path` names.
    ///
    /// # Errors
    /// Those of open(2) of the directory; `EISDIR` if it names a directory, `ELOOP`.
    pub fn find(path: &Path) -> io::Result<Self> {
        let mut directory = rustix::fs::openat(CWD, ".", directory_flags(), Mode::empty())?;
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            if path.as_os_str().is_empty() {
                return Err(Errno::NOENT.into());
            }
            let name = file_name(&path).ok_or(Errno::ISDIR)?;
            let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            directory = rustix::fs::openat(&directory, parent, directory_flags(), Mode::empty())?;
            if is_proc(&directory)? {
                return Ok(Self { directory, name, found: Found::Descriptor });
            }
            let found = match rustix::fs::readlinkat(&directory, &name, Vec::new()) {
                Ok(target) => {
                    path = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                    continue;
                }
                Err(Errno::NOENT) => Found::Nothing,
                Err(Errno::INVAL) => found(&directory, &name)?,
                Err(error) => return Err(error.into()),
            };
            return Ok(Self { directory, name, found });
        }
        Err(Errno::LOOP.into())
    }

    /// True for a regular file that is there: the one thing that is replaced.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        matches!(self.found, Found::Regular(..))
    }

    /// True for a block device: what is written through destroys what is stored on it.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        matches!(self.found, Found::Special(_, FileType::BlockDevice))
    }

    /// True for a character device, which any process can write at any time.
    #[must_use]
    pub fn is_character_device(&self) -> bool {
        matches!(self.found, Found::Special(_, FileType::CharacterDevice))
    }

    /// True for what this process has as its standard output: a report that is printed there would become part of the output.
    #[must_use]
    pub fn is_standard_output(&self) -> bool {
        let stat = match &self.found {
            Found::Nothing => return false,
            Found::Regular(file, _) | Found::Special(file, _) => rustix::fs::fstat(file),
            // Follows the magic link.
            Found::Descriptor => rustix::fs::statat(&self.directory, &self.name, AtFlags::empty()),
        };
        let identity = |stat: Stat| (stat.st_dev, stat.st_ino);
        match (stat, rustix::fs::fstat(io::stdout())) {
            (Ok(stat), Ok(output)) => identity(stat) == identity(output),
            _ => false,
        }
    }

    /// True for a file that is there or can be made.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.found, Found::Nothing | Found::Regular(..))
    }

    /// The regular file that would be replaced, to be read; nothing else is ever read.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn existing(&self) -> io::Result<Option<File>> {
        match &self.found {
            Found::Regular(file, _) => Ok(Some(reopen(file.as_fd(), OFlags::RDONLY)?.into())),
            _ => Ok(None),
        }
    }

    /// True if it is a regular file with exactly this content. One that cannot be read has another.
    #[must_use]
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let Ok(Some(file)) = self.existing() else { return false };
        let mut content = Vec::new();
        let most = (bytes.len() as u64).saturating_add(1);
        file.take(most).read_to_end(&mut content).is_ok_and(|_| content == bytes)
    }

    /// Opens it for writing. A FIFO is waited for until it has a reader, as by every other program.
    ///
    /// # Errors
    /// Those of open(2); `EBADF` for a descriptor that this process was not given, or cannot write to.
    pub fn open(self) -> io::Result<OutputFile> {
        let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(OutputFile(match self.found {
            Found::Special(file, _) => How::Through(reopen(file.as_fd(), OFlags::WRONLY)?.into()),
            Found::Descriptor => How::Through(match inherited(&self.directory, &self.name)? {
                Some(given) => given.into(),
                None => rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty())?.into(),
            }),
            Found::Nothing => How::Replace(Draft::new(self.directory, self.name, None)?),
            Found::Regular(_, old) => How::Replace(Draft::new(self.directory, self.name, Some(old))?),
        }))
    }

    /// Removes the regular file, if it is one.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(self) -> io::Result<()> {
        if self.is_regular() {
            rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As [`open`](Self::open), write(2) and [`OutputFile::finish`].
    pub fn write(self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.open()?;
        file.write_all(bytes)?;
        file.finish()
    }
}

fn directory_flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// The last name of a path; none if it can only be a directory's.
fn file_name(path: &Path) -> Option<CString> {
    let bytes = path.as_os_str().as_bytes();
    let name = path.file_name()?.as_bytes();
    if !bytes.ends_with(name) {
        return None;
    }
    CString::new(name).ok()
}

fn is_proc(directory: &OwnedFd) -> io::Result<bool> {
    let found = rustix::fs::fstatfs(directory)?;
    Ok(found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn found(directory: &OwnedFd, name: &CStr) -> io::Result<Found> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Found::Regular(file, stat)),
        FileType::Directory => Err(Errno::ISDIR.into()),
        FileType::Symlink => Err(Errno::AGAIN.into()),
        other => Ok(Found::Special(file, other)),
    }
}

/// An output that is being written.
///
/// A regular file appears when [`finish`](Self::finish) is called. Dropped before, or after a signal that ends the
/// process, nothing of it is left.
#[derive(Debug)]
pub struct OutputFile(How);

#[derive(Debug)]
enum How {
    Through(File),
    Replace(Draft),
}

impl OutputFile {
    /// Gives a regular file its name, after its content has reached the disk. Nothing is left to do for everything else.
    ///
    /// # Errors
    /// As fsync(2), linkat(2) and rename(2); then nothing is left of it.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            How::Through(_) => Ok(()),
            How::Replace(draft) => draft.finish(),
        }
    }

    /// Lets all users read a regular file, whatever the umask is.
    ///
    /// # Errors
    /// As fchmod(2).
    pub fn let_all_read(&self) -> io::Result<()> {
        let How::Replace(Draft { file, .. }) = &self.0 else { return Ok(()) };
        let now = rustix::fs::fstat(file)?.st_mode & 0o777;
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(now | 0o444))?)
    }

    fn file(&mut self) -> &mut File {
        match &mut self.0 {
            How::Through(file) => file,
            How::Replace(draft) => &mut draft.file,
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// A file that will replace another, or be new.
///
/// It has no name until it is whole where the file system can do that (`O_TMPFILE`), so that not even `SIGKILL` leaves
/// anything. Elsewhere it is called `.NAME.PID-N.new`, and a handler of signals removes it.
#[derive(Debug)]
struct Draft {
    file: File,
    name: CString,
    named: Option<Leftover>,
    directory: OwnedFd,
}

impl Draft {
    fn new(directory: OwnedFd, name: CString, old: Option<Stat>) -> io::Result<Self> {
        let (file, named) = match nameless(&directory) {
            Some(file) => (file, None),
            None => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let open = |draft: &CStr| rustix::fs::openat(&directory, draft, flags, permissions());
                let (file, named) = with_name(&directory, &name, open)?;
                (file, Some(named))
            }
        };
        if let Some(old) = old {
            keep_owner(file.as_fd(), &old)?;
        }
        Ok(Self { file: file.into(), name, named, directory })
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        let named = match self.named {
            Some(named) => named,
            None => {
                let from = proc_path(self.file.as_fd());
                let link = |draft: &CStr| {
                    let flags = AtFlags::SYMLINK_FOLLOW;
                    rustix::fs::linkat(CWD, from.as_str(), &self.directory, draft, flags)
                };
                with_name(&self.directory, &self.name, link)?.1
            }
        };
        rustix::fs::renameat(&self.directory, named.name(), &self.directory, &self.name)?;
        named.forget();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, ".", flags, Mode::empty()) {
            // A directory that may be written and not read.
            Err(Errno::ACCESS) => Ok(()),
            opened => Ok(rustix::fs::fsync(opened?)?),
        }
    }
}

fn permissions() -> Mode {
    Mode::from_raw_mode(PERMISSIONS.into()).difference(owner_mask())
}

/// A file without a name, where the file system has such and /proc can give it one later.
fn nameless(directory: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, ".", flags, permissions()).ok()?;
    rustix::fs::stat(proc_path(file.as_fd()).as_str()).ok()?;
    Some(file)
}

/// Makes a draft of `name` by `make`, under a name that is free. It is removed unless it is forgotten.
fn with_name<T>(
    directory: &OwnedFd,
    name: &CStr,
    make: impl Fn(&CStr) -> rustix::io::Result<T>,
) -> io::Result<(T, Leftover)> {
    let prefix = name.to_bytes().get(..PREFIX).unwrap_or(name.to_bytes());
    for number in 0..NAMES {
        let end = format!(".{}-{number}.new", std::process::id());
        let draft = CString::new([b".", prefix, end.as_bytes()].concat())?;
        // Before the file is there, so that no signal comes between.
        let leftover = Leftover::expect(directory.as_fd(), draft)?;
        match make(leftover.name()) {
            Err(Errno::EXIST) => leftover.forget(),
            Err(error) => {
                leftover.forget();
                return Err(error.into());
            }
            Ok(made) => return Ok((made, leftover)),
        }
    }
    Err(Errno::EXIST.into())
}

/// Gives a draft the permissions of the file that it replaces, and the owner where this process may.
fn keep_owner(draft: BorrowedFd<'_>, old: &Stat) -> io::Result<()> {
    let now = rustix::fs::fstat(draft)?;
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid) {
        let (owner, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        match rustix::fs::fchown(draft, Some(owner), Some(group)) {
            // The file is the caller's then, as if it were new.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rustix::fs::fchmod(draft, Mode::from_raw_mode(old.st_mode & 0o777))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str) -> io::Result<()> {
        OutputTarget::find(path)?.write(text.as_bytes())
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.trace");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let begin = || {
            let mut draft = OutputTarget::find(&path).unwrap().open().unwrap();
            draft.write_all(b"half").unwrap();
            draft
        };
        drop(begin());
        assert_eq!((fs::read(&path).unwrap(), names(dir.path()).len()), (b"old".to_vec(), 1));
        let draft = begin();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        draft.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path()).len()), (b"half".to_vec(), 1));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it keeps its mode");
        assert!(OutputTarget::find(&path).unwrap().holds(b"half"));
        assert!(!OutputTarget::find(&path).unwrap().holds(b"hal"));
        write(&dir.path().join(format!("{:0>255}", 1)), "a long name").unwrap();
        for bad in ["", "/", ".", "no/file", "web.trace/", "web.trace/x"] {
            OutputTarget::find(&dir.path().join(bad)).unwrap_err();
        }
    }

    #[test]
    fn a_draft_with_a_name_is_removed_too() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let directory = rustix::fs::open(dir.path(), directory_flags(), Mode::empty()).unwrap();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let make = |draft: &CStr| rustix::fs::openat(&directory, draft, flags, permissions());
            let (file, named) = with_name(&directory, c"a", make).unwrap();
            Draft { file: file.into(), name: c"a".to_owned(), named: Some(named), directory }
        };
        let first = open();
        let second = open();
        assert_eq!(names(dir.path()).len(), 2, "each has a name of its own");
        drop(first);
        assert_eq!(names(dir.path()).len(), 1);
        second.finish().unwrap();
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn links_stay_and_their_targets_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("d/file", at("link")).unwrap();
        symlink(at("link"), at("far")).unwrap();
        symlink("loop", at("loop")).unwrap();
        write(&at("far"), "new").unwrap();
        write(&at("link"), "newer").unwrap();
        assert_eq!(fs::read(at("d/file")).unwrap(), b"newer");
        assert!(at("link").is_symlink() && at("far").is_symlink() && !at("d/file").is_symlink());
        assert_eq!(write(&at("loop"), "").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn what_is_no_file_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let null = dir.path().join("null");
        symlink("/dev/null", &null).unwrap();
        let target = OutputTarget::find(&null).unwrap();
        assert!(target.is_character_device() && target.existing().unwrap().is_none());
        target.write(b"gone").unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        let target = OutputTarget::find(&fifo).unwrap();
        assert!(!target.is_file() && !target.holds(b""));
        target.write(b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert_eq!(names(dir.path()), ["fifo", "null"]);
    }
}
