//! The file `lock`: who serves an upper.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use crate::sys;
use crate::sys::overlay_use::{self, OverlayUse};

/// The file's name.
pub(super) const FILE: &[u8] = b"lock";

/// What an attempt to hold an upper comes to.
pub(super) enum Attempt {
    /// It is ours, as long as this descriptor or a copy in another process is open.
    Held(File),
    /// Somebody else has it; who, as far as the file says.
    Busy(Option<u32>),
    /// Somebody removed the upper at this moment.
    Gone,
}

/// Takes the lock of an upper without waiting.
pub(super) fn hold(dir: BorrowedFd<'_>) -> io::Result<Attempt> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
    let file = File::from(sys::open::open_beneath(dir, FILE, flags, 0o600)?);
    if !sys::lock::try_lock(&file)? {
        return Ok(Attempt::Busy(holder(file)?.map(|holder| holder.pid)));
    }
    if file.metadata()?.nlink() == 0 {
        return Ok(Attempt::Gone);
    }
    // Its keeper was killed, and the kernel goes on without it.
    if overlay_use::is_used(&file)? {
        return Ok(Attempt::Busy(None));
    }
    Ok(Attempt::Held(file))
}

/// True if a process holds the upper of this name below `parent`: the answer for nearly all, by one look.
pub(super) fn is_held(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    let lock = [name, b"/", FILE].concat();
    let file = sys::open::open_beneath(parent, &lock, OFlags::RDONLY | OFlags::NONBLOCK, 0);
    file.and_then(sys::lock::is_locked).unwrap_or(false)
}

/// Who holds an upper, without disturbing anybody: `None` if nobody does, else the process if the file says it.
pub(super) fn ask(dir: BorrowedFd<'_>) -> io::Result<Option<Option<Holder>>> {
    let file = match sys::open::open_beneath(dir, FILE, OFlags::RDWR | OFlags::NONBLOCK, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        answer => File::from(answer?),
    };
    if sys::lock::is_locked(&file)? || overlay_use::is_used(&file)? {
        holder(file).map(Some)
    } else {
        Ok(None)
    }
}

/// Who holds an upper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    /// The process.
    pub(super) pid: u32,
    /// Its descriptor of the upper's image, if it has one: others find the mounted file system by it.
    pub(super) image: Option<u32>,
}

/// Writes who holds the upper into the file: its process id, and after a space the descriptor. A second line tells of an overlay that
/// is mounted over it.
///
/// Shorter text is written over longer text, which is then cut: ext4 takes longer to empty a file than to write it. A reader
/// between the two sees at most an overlay that is no longer mounted, which it knows for none.
pub(super) fn write(lock: &File, holder: Holder, overlay: Option<&OverlayUse>) -> io::Result<()> {
    let image = holder.image.map(|fd| format!(" {fd}")).unwrap_or_default();
    let overlay = overlay.map(|overlay| overlay.line_in(lock)).transpose()?;
    let overlay = overlay.map(|line| line + "\n").unwrap_or_default();
    let text = format!("{}{image}\n{overlay}", holder.pid);
    lock.write_all_at(text.as_bytes(), 0)?;
    if lock.metadata()?.len() > text.len() as u64 { lock.set_len(text.len() as u64) } else { Ok(()) }
}

/// Makes the file's time of modification now: the upper was used until now.
pub(super) fn touch(lock: &File) -> io::Result<()> {
    lock.set_modified(SystemTime::now())
}

/// When an upper was last held; of one that is held, since when. `None` if it never was.
pub(super) fn used(dir: BorrowedFd<'_>) -> io::Result<Option<SystemTime>> {
    let found = match sys::stat::stat_name(dir, FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        answer => answer?,
    };
    let seconds = u64::try_from(found.stx_mtime.tv_sec).unwrap_or_default();
    Ok(Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, found.stx_mtime.tv_nsec)))
}

fn holder(file: File) -> io::Result<Option<Holder>> {
    let mut text = Vec::new();
    file.take(32).read_to_end(&mut text)?;
    Ok(std::str::from_utf8(&text).ok().and_then(|text| {
        let mut words = text.lines().next()?.split_ascii_whitespace();
        let pid = words.next()?.parse().ok()?;
        Some(Holder { pid, image: words.next().and_then(|fd| fd.parse().ok()) })
    }))
}
