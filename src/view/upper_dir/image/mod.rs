//! `upper.img`: an upper with a limit, as an ext4 in a sparse file.
//!
//! The file is attached to a loop device, and the file system on it mounted detached: no namespace shows it, and both
//! are gone with the last descriptor, however its holder ended. Passthrough and the journal are the kernel's. What the
//! limit takes away from the file system is in [`ballast`].
//!
//! The open file that the device keeps carries a lock, so that an image is never attached twice: it may stay mounted
//! after its server is dead, as long as somebody has a file of it open through passthrough.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, RenameFlags};

mod ballast;
mod make;
mod superblock;

use super::error::{Tried, UpperError};
use super::layout::{self, Layout, TREE};
use super::limit::{BLOCK, Limit, Usage, for_people};
use crate::layer::Access;
use crate::layer::dir::Ceiling;
use crate::sys::loop_device::LoopDevice;
use crate::sys::{self, mount};
use crate::vfs::Errno;
use ballast::{Ballast, blocks_of};
use make::OWN_INODES;
pub(super) use superblock::LastMount;
use superblock::Superblock;

/// The file, and where it is before it is whole.
pub(super) const FILE: &[u8] = b"upper.img";
pub(super) const NEW_FILE: &[u8] = b"upper.img.new";

/// How long the kernel may take to let go of an image whose server has just ended.
const SETTLING: Duration = Duration::from_millis(20);
const SETTLING_ROUNDS: u32 = 250;

/// The most inodes that a ballast holds: more take seconds.
const MOST_BALLAST: u64 = 1 << 18;

/// How often the file system is made to grow for one limit: each time by what is still missing.
const GROWTHS: u32 = 16;

/// Whether a file system is large enough for a limit.
enum Fit {
    /// It offers exactly that now.
    Exact,
    /// It is not.
    Short {
        /// So many blocks too small.
        missing: u64,
    },
}

/// An image that is mounted, as long as this is, or anything of it is open.
#[derive(Debug)]
pub(super) struct Image {
    mount: OwnedFd,
    new: bool,
    before: Option<LastMount>,
    mounted: LastMount,
}

impl Image {
    /// Makes an image in the directory of an upper, under a name that does not count until it is [kept](Self::keep).
    pub(super) fn make(
        dir: BorrowedFd<'_>,
        path: &Path,
        limit: Limit,
        journal: bool,
    ) -> Result<Self, UpperError> {
        absent(sys::names::unlink(dir, NEW_FILE)).tried("remove an unfinished 'upper.img'", path)?;
        let file = File::from(sys::names::create_file(dir, NEW_FILE, 0o600).tried("make 'upper.img'", path)?);
        let refuse = |error: io::Error| UpperError::Limit {
            path: path.to_owned(),
            why: format!("its file system cannot be made: {error}"),
        };
        make::file_system(&file, limit, journal).map_err(refuse)?;
        lock(&file, path)?;
        let image = Self { new: true, before: None, ..Self::mount(&file, path, Access::ReadWrite)? };
        // It is counted from the start.
        sys::names::create_directory(image.top(), super::WORK, 0o700).tried("make 'work'", path)?;
        match image.fit(&file, path, limit)? {
            Fit::Exact => Ok(image),
            Fit::Short { missing } => {
                Err(refuse(io::Error::other(format!("{missing} blocks are missing in it"))))
            }
        }
    }

    /// Opens the image of an upper, which gets this limit if that can be.
    pub(super) fn open(dir: BorrowedFd<'_>, path: &Path, limit: Limit) -> Result<Self, UpperError> {
        let mut before = None;
        for _ in 0..GROWTHS {
            let (blocks, missing) = {
                let file = Self::locked(dir, path)?;
                let found = sound(&file, path)?;
                before = before.or(Some(found.mounted));
                let image = Self { before, ..Self::mount(&file, path, Access::ReadWrite)? };
                match image.fit(&file, path, limit)? {
                    Fit::Exact => return Ok(image),
                    Fit::Short { missing } => (found.blocks, missing),
                }
            };
            // The kernel lets go of it in its own time, and of the lock with it.
            let file = Self::locked(dir, path)?;
            make::grow(&file, blocks + missing + missing / 8 + 64).map_err(|error| UpperError::Limit {
                path: path.to_owned(),
                why: format!("its file system cannot grow: {error}"),
            })?;
        }
        let why = "its file system does not grow as it should".to_owned();
        Err(UpperError::Limit { path: path.to_owned(), why })
    }

    fn locked(dir: BorrowedFd<'_>, path: &Path) -> Result<File, UpperError> {
        let file = open_file(dir, path)?;
        lock(&file, path)?;
        Ok(file)
    }

    /// The view's root in an image that its holder, if there is one, goes on changing: `holder` is the process and
    /// its descriptor of the mount. Without a holder it is mounted read-only until the answer, and all that was opened
    /// beneath it, is closed.
    pub(super) fn look(
        dir: BorrowedFd<'_>,
        path: &Path,
        holder: Option<(u32, u32)>,
    ) -> Result<(OwnedFd, Layout), UpperError> {
        let top = match holder {
            Some((pid, fd)) => sys::open::open_directory_of(pid, fd).tried("open 'upper.img'", path)?,
            None => {
                let file = Self::locked(dir, path)?;
                sound(&file, path)?;
                Self::mount(&file, path, Access::Read)?.mount
            }
        };
        layout::find(top.as_fd()).tried("open the tree", path)
    }

    fn mount(file: &File, path: &Path, access: Access) -> Result<Self, UpperError> {
        let device = LoopDevice::attach(file.as_fd()).map_err(|error| no_device(path, &error))?;
        let mount = mount::new_ext4(device.as_fd(), access == Access::Read).map_err(|error| {
            let no_ext4 = Errno::of(&error) == Errno::ENODEV;
            if no_ext4 || error.kind() == io::ErrorKind::PermissionDenied {
                no_device(path, &error)
            } else {
                broken(path, &error)
            }
        })?;
        let mounted = Superblock::read(file.as_fd()).tried("read 'upper.img'", path)?.mounted;
        Ok(Self { mount, new: false, before: None, mounted })
    }

    /// The mount that it was opened with.
    pub(super) fn mounted(&self) -> LastMount {
        self.mounted
    }

    /// The last mount before it was opened; `None` for a new one.
    pub(super) fn mounted_before(&self) -> Option<LastMount> {
        self.before
    }

    /// The top of its file system, in which `tree` and `work` are.
    pub(super) fn top(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// True until it is kept.
    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    /// Makes all that is in it durable.
    pub(super) fn sync(&self, path: &Path) -> Result<(), UpperError> {
        let synced = sys::open::open_listing(self.top()).and_then(|top| Ok(rustix::fs::syncfs(top)?));
        synced.tried("write 'upper.img'", path)
    }

    /// Gives a new image its name; durably, unless the upper goes with its view.
    pub(super) fn keep(&mut self, dir: BorrowedFd<'_>, path: &Path, durable: bool) -> Result<(), UpperError> {
        const ACTION: &str = "keep 'upper.img'";
        sys::names::rename((dir, NEW_FILE), (dir, FILE), RenameFlags::empty()).tried(ACTION, path)?;
        self.new = false;
        if !durable {
            return Ok(());
        }
        let listing = sys::open::open_listing(dir).tried(ACTION, path)?;
        sys::file::sync(listing.as_fd(), false).tried(ACTION, path)
    }

    /// Makes the file system offer exactly `limit` by its ballast, if it is large enough.
    fn fit(&self, file: &File, path: &Path, limit: Limit) -> Result<Fit, UpperError> {
        const ACTION: &str = "set the limit";
        let refuse = |why: String| UpperError::Limit { path: path.to_owned(), why };
        let ballast = Ballast::open(self.top()).tried(ACTION, path)?;
        let superblock = Superblock::read(file.as_fd()).tried(ACTION, path)?;
        loop {
            let sizes = sys::stat::stat_filesystem(self.top()).tried(ACTION, path)?;
            let own = self.own_blocks(&ballast).tried(ACTION, path)?;
            let offered = sizes.f_blocks.saturating_sub(superblock.kept() + own);
            let Some(surplus) = offered.checked_sub(limit.blocks()) else {
                return Ok(Fit::Short { missing: limit.blocks() - offered });
            };
            let held = ballast.blocks().tried(ACTION, path)?;
            if surplus > held + sizes.f_bavail {
                let used = limit.blocks() + surplus - held - sizes.f_bavail;
                return Err(refuse(format!("{} are used already", for_people(used * BLOCK))));
            }
            let surplus_inodes = surplus_inodes(sizes.f_files, limit).map_err(refuse)?;
            let held = ballast.inodes().tried(ACTION, path)?;
            if surplus_inodes > held + sizes.f_ffree {
                let used = sizes.f_files - OWN_INODES - held - sizes.f_ffree;
                return Err(refuse(format!("{used} inodes are used already")));
            }
            // Only now is anything changed. If the ballast's own directory grows by it, all is looked at again.
            ballast.hold_inodes(surplus_inodes).tried(ACTION, path)?;
            if self.own_blocks(&ballast).tried(ACTION, path)? == own {
                return ballast.hold_blocks(surplus).map(|()| Fit::Exact).tried(ACTION, path);
            }
        }
    }

    /// Blocks of directories that are not the view's. `tree` is counted as it will be, where it is not yet.
    fn own_blocks(&self, ballast: &Ballast) -> io::Result<u64> {
        let mut sum = blocks_of(self.top())? + ballast.own_blocks()?;
        for name in [&b"lost+found"[..], super::WORK, TREE] {
            match sys::open::open_directory(self.top(), name) {
                Err(error) if Errno::of(&error) == Errno::ENOENT => sum += u64::from(name == TREE),
                directory => sum += blocks_of(directory?.as_fd())?,
            }
        }
        Ok(sum)
    }
}

/// The inodes that a file system has beyond a limit.
fn surplus_inodes(all: u64, limit: Limit) -> Result<u64, String> {
    let most = all.saturating_sub(OWN_INODES);
    let Some(inodes) = limit.inodes else { return Ok(0) };
    match most.checked_sub(inodes) {
        // It was made when uppers had no `tree`: the view has one inode less than its limit says.
        None if most + 1 == inodes => Ok(0),
        Some(surplus) if surplus <= MOST_BALLAST => Ok(surplus),
        Some(_) => Err(format!(
            "its image has {most} inodes by now, and {inodes} are too few to hold that back: make a new upper"
        )),
        None => Err(format!(
            "its image was made for {most} inodes, which cannot become {inodes}: make a new upper"
        )),
    }
}

/// Fails if nothing on this machine can have a limit: no loop devices, no program that makes the file system.
///
/// # Errors
/// What is missing.
pub fn can_limit() -> io::Result<()> {
    sys::loop_device::available()
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/loop-control: {error}")))?;
    make::available()
}

/// What statfs(2) says of an upper with this limit.
pub(super) fn ceiling(limit: Limit) -> Ceiling {
    Ceiling { blocks: limit.blocks(), files: limit.inodes }
}

/// How much of its limit an upper holds; `None` if it cannot be told now.
///
/// `holder` is the process that has the image mounted, and its descriptor of the mount.
pub(super) fn usage(
    dir: BorrowedFd<'_>,
    limit: Limit,
    holder: Option<(u32, u32)>,
) -> io::Result<Option<Usage>> {
    let ceiling = ceiling(limit);
    let (available, inodes, free) = match holder {
        Some((pid, fd)) => {
            let sizes = sys::stat::stat_filesystem_of(pid, fd)?;
            (sizes.f_bavail, sizes.f_files, sizes.f_ffree)
        }
        None => {
            let file = sys::open::open_beneath(dir, FILE, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
            let found = Superblock::read(file.as_fd())?;
            if !found.replayed {
                return Ok(None);
            }
            (found.available(), found.inodes, found.free_inodes)
        }
    };
    let inodes = ceiling.files.unwrap_or(inodes);
    Ok(Some(Usage {
        size: limit.size,
        used: ceiling.blocks.saturating_sub(available) * BLOCK,
        inodes,
        inodes_used: inodes.saturating_sub(free),
    }))
}

fn open_file(dir: BorrowedFd<'_>, path: &Path) -> Result<File, UpperError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK;
    let file = match sys::open::open_beneath(dir, FILE, flags, 0) {
        Err(error) if Errno::of(&error) == Errno::ENOENT => {
            return Err(UpperError::Image { path: path.to_owned(), why: "it is missing".to_owned() });
        }
        answer => File::from(answer.tried("open 'upper.img'", path)?),
    };
    if !file.metadata().tried("look at 'upper.img'", path)?.is_file() {
        return Err(UpperError::Image { path: path.to_owned(), why: "it is no regular file".to_owned() });
    }
    Ok(file)
}

/// What an image that is not mounted says of itself; refused if it is no sound file system.
fn sound(file: &File, path: &Path) -> Result<Superblock, UpperError> {
    let found = Superblock::read(file.as_fd()).map_err(|error| broken(path, &error))?;
    if found.broken {
        return Err(broken(path, &"the kernel has found its file system to be broken"));
    }
    Ok(found)
}

/// Locks an image for as long as it is attached; waits a moment for a server that has just ended.
fn lock(file: &File, path: &Path) -> Result<(), UpperError> {
    for _ in 0..SETTLING_ROUNDS {
        if sys::lock::try_lock(file).tried("lock 'upper.img'", path)? {
            return Ok(());
        }
        std::thread::sleep(SETTLING);
    }
    let why = "somebody still has it open: a program that reads files of a view that has ended, or 'nixview diff'; \
               end that first";
    Err(UpperError::Image { path: path.to_owned(), why: why.to_owned() })
}

fn broken(path: &Path, why: &dyn std::fmt::Display) -> UpperError {
    let why = format!("{why}; 'e2fsck -f {}/upper.img' may repair it", path.display());
    UpperError::Image { path: path.to_owned(), why }
}

fn no_device(path: &Path, error: &io::Error) -> UpperError {
    let why = format!(
        "it is kept by a file system in an image, which needs root, ext4 and loop devices (/dev/loop-control): {error}"
    );
    UpperError::Limit { path: path.to_owned(), why }
}

fn absent(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if Errno::of(&error) == Errno::ENOENT => Ok(()),
        answer => answer,
    }
}
