//! Loop devices: a regular file as a disk (linux/loop.h, drivers/block/loop.c).
//!
//! A device frees itself when nobody has it open or mounted any more (`LO_FLAGS_AUTOCLEAR`), however its users end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// How often another process may take the free device that the kernel named before we do.
const RETRIES: u32 = 64;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

mod call {
    #![allow(missing_docs, reason = "the names are those of linux/loop.h")]

    nix::ioctl_none_bad!(ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(configure, 0x4C0A, super::Config);
}

/// Fails as [`LoopDevice::attach`] would if there are no loop devices for this process; takes none.
///
/// # Errors
/// Those of opening `/dev/loop-control`.
pub fn available() -> io::Result<()> {
    open_control().map(drop)
}

fn open_control() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// A loop device that is attached; it stays so as long as this is, or what was mounted of it.
#[derive(Debug)]
pub struct LoopDevice(OwnedFd);

impl LoopDevice {
    /// Attaches `file`, which is open for reading and writing, to a free device.
    ///
    /// The device keeps this very open file: an OFD lock on it is held until the device is free again. What is written
    /// goes past the page cache of `file` where its file system can (a flush of the device is an fsync of the file
    /// either way).
    ///
    /// # Errors
    /// `ENOENT` or `ENXIO` where the kernel has no loop devices or a device node is missing, `EACCES` or `EPERM` where
    /// they may not be opened; `EBUSY` if others take every device first.
    pub fn attach(file: BorrowedFd<'_>) -> io::Result<Self> {
        Self::attach_as(file, OFlags::RDWR, 0)
    }

    /// As [`attach`](Self::attach), of a file that is open for reading alone: the device cannot be written.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_read_only(file: BorrowedFd<'_>) -> io::Result<Self> {
        Self::attach_as(file, OFlags::RDONLY, LO_FLAGS_READ_ONLY)
    }

    fn attach_as(file: BorrowedFd<'_>, access: OFlags, more: u32) -> io::Result<Self> {
        let flags = access | OFlags::CLOEXEC;
        let control = open_control()?;
        let fd = u32::try_from(file.as_raw_fd()).map_err(|_| rustix::io::Errno::BADF)?;
        let config = Config {
            fd,
            block_size: 0,
            info: Info {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | more,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        for _ in 0..RETRIES {
            // SAFETY: the request takes no argument, and answers the number of a device.
            let number = unsafe { call::ctl_get_free(control.as_raw_fd()) }?;
            let device = rustix::fs::open(format!("/dev/loop{number}"), flags, Mode::empty())?;
            // SAFETY: `config` has the layout of the kernel's structure and lives through the call, which only reads it.
            match unsafe { call::configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => return Ok(Self(device)),
                Err(nix::errno::Errno::EBUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(rustix::io::Errno::BUSY.into())
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
