//! Files in memory and pipes, as another process has them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{MemfdFlags, Mode, OFlags};

/// Makes a file in memory, which only its owner may open again.
///
/// # Errors
/// As memfd_create(2).
pub fn new(name: &str) -> io::Result<File> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

/// Has each write go to the end, wherever that is.
///
/// # Errors
/// As fcntl(2).
pub fn append(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fcntl_setfl(file, OFlags::APPEND)?)
}

/// The number of a pipe, by which [`of_process`] finds it.
///
/// # Errors
/// As fstat(2).
pub fn pipe_number(pipe: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(pipe)?.st_ino)
}

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted<'a> {
    /// A file in memory of this name, to be read and written.
    Memory(&'a str),
    /// The pipe of this number, to be written without waiting.
    Pipe(u64),
}

/// Opens what a process has; `None` if it has no such thing. The kernel allows it to root and to the user whom the process runs as
/// (proc(5), "PTRACE_MODE_READ_FSCREDS").
///
/// # Errors
/// `PermissionDenied`; `NotFound` if there is no such process.
pub fn of_process(pid: i32, wanted: Wanted<'_>) -> io::Result<Option<File>> {
    let (shown, mut options) = match wanted {
        Wanted::Memory(name) => (format!("/memfd:{name} (deleted)"), OpenOptions::new()),
        Wanted::Pipe(number) => (format!("pipe:[{number}]"), OpenOptions::new()),
    };
    match wanted {
        Wanted::Memory(_) => options.read(true).write(true),
        Wanted::Pipe(_) => options.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()),
    };
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // One that was closed meanwhile is not it.
        if std::fs::read_link(&path).is_ok_and(|link| link.as_os_str() == shown.as_str()) {
            return options.open(path).map(Some);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_a_process_has_is_found_by_name_and_number() {
        let own = i32::try_from(std::process::id()).unwrap();
        let file = new("nixview-test-of-memory").unwrap();
        append(&file).unwrap();
        (&file).write_all(b"one").unwrap();
        let found = of_process(own, Wanted::Memory("nixview-test-of-memory")).unwrap().unwrap();
        found.write_all_at(b"O", 0).unwrap();
        (&file).write_all(b"two").unwrap();
        let mut bytes = [0; 6];
        found.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"Onetwo", "what was opened again does not append, what was there does");
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut pipe = of_process(own, Wanted::Pipe(pipe_number(&write).unwrap())).unwrap().unwrap();
        pipe.write_all(b".").unwrap();
        assert_eq!(File::from(read).read(&mut bytes).unwrap(), 1);
        assert!(of_process(own, Wanted::Memory("nixview-no-such")).unwrap().is_none());
    }
}
