//! Locks that live as long as the open file description: gone with the last process that has it, however it dies.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::FlockOperation;

/// How long flock(2)'s lock is waited for between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// The two kinds of flock(2)'s locks, which are others than those of fcntl(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flock {
    /// Many can have it at once.
    Shared,
    /// One has it, and nothing else has it shared.
    Alone,
}

/// Takes flock(2)'s lock of a file or directory, and waits for it at most `patience`; `false` if others hold it longer.
///
/// # Errors
/// Those of flock(2), but for the lock being held.
pub fn flock_within(file: impl AsFd, kind: Flock, patience: Duration) -> io::Result<bool> {
    let operation = match kind {
        Flock::Shared => FlockOperation::NonBlockingLockShared,
        Flock::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    let until = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::AGAIN) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Locks a file that is open for writing; `false` if another holds it (fcntl(2): `F_OFD_SETLK`).
///
/// # Errors
/// As fcntl(2), but for the lock being held.
pub fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks a file that is open for writing, and waits for that as long as another holds it (fcntl(2): `F_OFD_SETLKW`).
///
/// # Errors
/// As fcntl(2).
pub fn wait_lock(file: impl AsFd) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLKW(&whole_file(libc::F_WRLCK)))?;
    Ok(())
}

/// Locks the byte at `number` of a file that is open for writing, and waits for that as long as another holds it; the byte
/// need not be there. So one file has a lock for each number.
///
/// # Errors
/// As fcntl(2).
pub fn wait_lock_of(file: impl AsFd, number: u32) -> io::Result<()> {
    let byte = libc::flock { l_start: number.into(), l_len: 1, ..whole_file(libc::F_WRLCK) };
    fcntl(file, FcntlArg::F_OFD_SETLKW(&byte))?;
    Ok(())
}

/// True if somebody holds the lock of a file; does not take it, so that asking disturbs nobody.
///
/// # Errors
/// As fcntl(2).
pub fn is_locked(file: impl AsFd) -> io::Result<bool> {
    let mut asked = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(i32::from(asked.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn one_holder_and_asking_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let path = dir.path().join("lock");
            std::fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
                .unwrap()
        };
        let (first, second) = (open(), open());
        assert!(!is_locked(&second).unwrap());
        assert!(try_lock(&first).unwrap());
        assert!(is_locked(&second).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(!is_locked(&second).unwrap());
        assert!(try_lock(&second).unwrap());
    }

    #[test]
    fn flock_waits_as_long_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(dir.path()).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert!(flock_within(&first, Flock::Shared, Duration::ZERO).unwrap());
        assert!(flock_within(&second, Flock::Shared, Duration::ZERO).unwrap());
        assert!(!flock_within(&third, Flock::Alone, Duration::from_millis(20)).unwrap());
        drop(first);
        let waiting = std::thread::spawn(move || flock_within(&third, Flock::Alone, Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(second);
        assert!(waiting.join().unwrap().unwrap());
    }

    #[test]
    fn each_number_has_a_lock_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).truncate(false).write(true).open(dir.path().join("lock")).unwrap()
        };
        let (one, other, again) = (open(), open(), open());
        wait_lock_of(&one, 1000).unwrap();
        wait_lock_of(&other, u32::MAX).unwrap();
        let waiting = std::thread::spawn(move || wait_lock_of(&again, 1000));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(one);
        waiting.join().unwrap().unwrap();
    }
}
