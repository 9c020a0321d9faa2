//! The device of a FUSE connection, beside the requests and their answers (include/uapi/linux/fuse.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::DupFlags;

use super::signals::wait_readable;

/// The least that must be offered to a read of the device (`FUSE_MIN_READ_BUFFER`).
const READ_BUFFER: usize = 8192;

/// `FUSE_NOTIFY_RESEND`, since Linux 6.9.
const NOTIFY_RESEND: u32 = 7;

/// `struct fuse_out_header` of a notification: length, code in place of an error, no request.
const OUT_HEADER: u32 = 16;

mod raw {
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);
}

/// Reads one request as it is, waiting for it no longer than `patience`.
///
/// # Errors
/// `ETIMEDOUT` if there is none; `ENODEV` if the file system is gone.
pub fn read_request(device: BorrowedFd<'_>, patience: Duration) -> io::Result<Vec<u8>> {
    if wait_readable(&[device], Some(patience))? != [true] {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let mut buffer = vec![0; READ_BUFFER];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(device, &mut buffer))?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Writes an answer as it is.
///
/// # Errors
/// `ENOENT` if nobody waits for it; `ENODEV` if the file system is gone.
pub fn answer(device: BorrowedFd<'_>, answer: &[u8]) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(device, answer)).map(drop).map_err(Into::into)
}

/// Has the kernel put the requests in line again that were read and not answered, with [`RESENT`] in their numbers.
///
/// # Errors
/// `EINVAL` from a kernel before 6.9.
pub fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    let mut notification = Vec::with_capacity(OUT_HEADER as usize);
    notification.extend(OUT_HEADER.to_ne_bytes());
    notification.extend(NOTIFY_RESEND.to_ne_bytes());
    notification.extend(0u64.to_ne_bytes());
    answer(device, &notification)
}

/// The bit in the number of a request that was read before, perhaps by another process (`FUSE_UNIQUE_RESEND`).
pub const RESENT: u64 = 1 << 63;

/// Takes back a backing file of passthrough (`FUSE_DEV_IOC_BACKING_CLOSE`); files that are open on it stay so.
///
/// # Errors
/// `ENOENT` if there is none of this number; `EPERM` without CAP_SYS_ADMIN.
pub fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the kernel reads four bytes at the address of `id`, which lives until it answers.
    unsafe { raw::backing_close(device.as_raw_fd(), &raw const id) }?;
    Ok(())
}

/// True if the file system of the device is gone for good.
///
/// # Errors
/// As poll(2).
pub fn is_gone(device: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::from_borrowed_fd(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut polled, Some(&now)))?;
    Ok(polled.iter().any(|p| p.revents().intersects(PollFlags::ERR | PollFlags::HUP)))
}

/// Puts what `from` stands for in the place of the descriptor `of`, which somebody else owns and goes on using.
///
/// # Errors
/// As dup3(2).
pub fn replace(of: BorrowedFd<'_>, from: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the number belongs to `of`, which stays open all the time: dup3 closes and opens it in one step. Its owner sees
    // another file behind the same descriptor.
    let mut place = std::mem::ManuallyDrop::new(unsafe { own(of) });
    Ok(rustix::io::dup3(from, &mut place, DupFlags::CLOEXEC)?)
}

/// A second owner of a descriptor, which must never be dropped.
///
/// # Safety
/// The answer is forgotten before `of` can be closed.
unsafe fn own(of: BorrowedFd<'_>) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: as the caller promises.
    unsafe { OwnedFd::from_raw_fd(of.as_fd().as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_replaced_descriptor_is_another_file_to_its_owner() {
        let (mut first, _keep) = std::io::pipe().unwrap();
        let (second, mut write) = std::io::pipe().unwrap();
        replace(first.as_fd(), second.as_fd()).unwrap();
        drop(second);
        write.write_all(b"x").unwrap();
        let mut byte = [0];
        first.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn nothing_to_read_is_not_waited_for_for_ever() {
        let (read, _write) = std::io::pipe().unwrap();
        let error = read_request(read.as_fd(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    }
}
