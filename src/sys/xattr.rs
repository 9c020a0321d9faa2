//! Extended attributes of inodes of any kind, by descriptor, `O_PATH` and symbolic links included.
//!
//! They go through /proc/self/fd: the calls that take a descriptor refuse `O_PATH` (see `open.rs`).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::open::proc_path;

/// The most that a value or a list of names can be, in bytes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX: usize = 64 * 1024;

/// What is tried first, in bytes: most values and lists fit.
const FIRST: usize = 256;

/// The value of an attribute.
///
/// # Errors
/// Those of getxattr(2): `ENODATA` if there is none, `EOPNOTSUPP` if the file system has none at all.
pub fn get(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    let path = proc_path(fd);
    sized(|buffer| rustix::fs::getxattr(path.as_str(), name, buffer))
}

/// The names of all attributes that this process may see; empty where the file system has none at all.
///
/// # Errors
/// Those of listxattr(2).
pub fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let path = proc_path(fd);
    let names = match sized(|buffer| rustix::fs::listxattr(path.as_str(), buffer)) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Vec::new(),
        answer => answer?,
    };
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Sets an attribute.
///
/// # Errors
/// Those of setxattr(2).
pub fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> io::Result<()> {
    Ok(rustix::fs::setxattr(proc_path(fd).as_str(), name, value, flags)?)
}

/// Removes an attribute.
///
/// # Errors
/// Those of removexattr(2).
pub fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::removexattr(proc_path(fd).as_str(), name)?)
}

/// Calls with a small buffer, and once more with the largest if that was too small.
fn sized(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    for size in [FIRST, MAX] {
        let mut buffer = vec![0; size];
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::TOOBIG.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use crate::sys::open::open_path;
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    #[test]
    fn a_link_never_stands_for_its_target() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("f"), "").unwrap();
        std::os::unix::fs::symlink("f", temp.path().join("l")).unwrap();
        let dir = File::open(temp.path()).unwrap();
        let file = open_path(dir.as_fd(), b"f").unwrap();
        let link = open_path(dir.as_fd(), b"l").unwrap();
        match set(file.as_fd(), b"user.test", &[7; 1000], XattrFlags::empty()) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => return,
            answer => answer.unwrap(),
        }
        assert_eq!(get(file.as_fd(), b"user.test").unwrap(), [7; 1000], "longer than the first buffer");
        assert!(list(file.as_fd()).unwrap().contains(&b"user.test".to_vec()));
        let error = get(link.as_fd(), b"user.test").unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NODATA));
        assert!(!list(link.as_fd()).unwrap().contains(&b"user.test".to_vec()));
        let refused = set(link.as_fd(), b"user.test", b"", XattrFlags::empty()).unwrap_err();
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::PERM));
        remove(file.as_fd(), b"user.test").unwrap();
        assert_eq!(
            Errno::from_io_error(&remove(file.as_fd(), b"user.test").unwrap_err()),
            Some(Errno::NODATA)
        );
    }
}
