//! The mount table of the calling thread's mount namespace, as /proc/thread-self/mountinfo tells it (proc_pid_mountinfo(5)).
//!
//! Reading it asks no file system anything, so it is safe with a dead or hanging one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountInfo {
    /// Number of the mount; may be used again after it is gone.
    pub id: u64,
    /// Number of the mount below.
    pub parent: u64,
    /// Device number of the file system, as `st_dev` of its files.
    pub device: (u32, u32),
    /// The directory within the file system that is the root of this mount.
    pub root: PathBuf,
    /// Where it is mounted, as seen from this process's root.
    pub mount_point: PathBuf,
    /// The options of the mount.
    pub options: Vec<u8>,
    /// Type of the file system, with its subtype: `ext4`, `fuse.nixview`.
    pub file_system: Vec<u8>,
    /// What is mounted.
    pub source: Vec<u8>,
    /// The options of the superblock.
    pub super_options: Vec<u8>,
}

/// All mounts, in the order of the table: of two at one mount point, the later one is on top.
///
/// # Errors
/// Those of reading /proc; `InvalidData` for a line that is not of the documented form.
pub fn mounts() -> io::Result<Vec<MountInfo>> {
    parse(&std::fs::read("/proc/thread-self/mountinfo")?)
}

/// All mounts of the mount namespace of another process; as [`mounts`].
///
/// # Errors
/// As for [`mounts`]; `ENOENT` if there is no such process, `EACCES` if it is another user's.
pub fn mounts_of(pid: i32) -> io::Result<Vec<MountInfo>> {
    parse(&std::fs::read(format!("/proc/{pid}/mountinfo"))?)
}

/// The topmost mount whose mount point is exactly `path` (absolute, without symbolic links); `None` if nothing is
/// mounted there.
///
/// # Errors
/// As for [`mounts`].
pub fn mount_at(path: &Path) -> io::Result<Option<MountInfo>> {
    last_at(&std::fs::read("/proc/thread-self/mountinfo")?, path)
}

/// The last mount of a table that is on `path`. No other line is parsed: there may be thousands.
fn last_at(table: &[u8], path: &Path) -> io::Result<Option<MountInfo>> {
    let is_on = |line: &&[u8]| {
        let point = line.split(|byte| *byte == b' ').nth(MOUNT_POINT);
        point.is_some_and(|point| match point.contains(&b'\\') {
            true => unescape(point) == path.as_os_str().as_bytes(),
            false => point == path.as_os_str().as_bytes(),
        })
    };
    table.rsplit(|byte| *byte == b'\n').find(is_on).map(parse_known_line).transpose()
}

/// Which field of a line is the mount point.
const MOUNT_POINT: usize = 4;

/// The mount that shows `path` (absolute, without symbolic links), which is not looked at.
///
/// # Errors
/// As for [`mounts`].
pub fn mount_of(path: &Path) -> io::Result<Option<MountInfo>> {
    let above = mounts()?.into_iter().filter(|m| path.starts_with(&m.mount_point));
    // Of several on one mount point the last is the topmost.
    Ok(above.max_by_key(|m| m.mount_point.components().count()))
}

fn parse(table: &[u8]) -> io::Result<Vec<MountInfo>> {
    let lines = table.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(parse_known_line).collect()
}

fn parse_known_line(line: &[u8]) -> io::Result<MountInfo> {
    parse_line(line).ok_or_else(|| {
        let message = format!("/proc/thread-self/mountinfo has the line \"{}\"", line.escape_ascii());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.split(|b| *b == b':');
    let device = (u32::try_from(number(device.next()?)?).ok()?, u32::try_from(number(device.next()?)?).ok()?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = fields.next()?.to_vec();
    fields.find(|field| *field == b"-")?;
    let file_system = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = fields.next()?.to_vec();
    Some(MountInfo { id, parent, device, root, mount_point, options, file_system, source, super_options })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn path(escaped: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(escaped)))
}

/// Undoes the kernel's escapes: a backslash and three octal digits (space, tab, newline, backslash, `#`).
fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, octal(after)) {
            (b'\\', Some((value, after))) => {
                plain.push(value);
                rest = after;
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_at_checked(3)?;
    let value = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields_and_escapes() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402\\134 rw,noatime master:1 shared:2 - fuse.nixview /dev/ro\\011ot rw,errors=x\n\
                      41 36 0:77 / /a - ext4 none rw\n\
                      42 41 0:77 / /a rw - ext4 none ro\n";
        let found = parse(&table[..]);
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::InvalidData, "the second line has no options");
        let table = table.split(|b| *b == b'\n').enumerate().filter(|(n, _)| *n != 1);
        let table: Vec<u8> = table.flat_map(|(_, line)| [line, b"\n"].concat()).collect();
        let found = parse(&table).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].mount_point, Path::new("/mnt 2\\"));
        assert_eq!(found[0].file_system, b"fuse.nixview");
        assert_eq!(found[0].source, b"/dev/ro\tot");
        assert_eq!((found[0].id, found[0].parent, found[0].device), (36, 35, (98, 0)));
        assert_eq!(found[1].super_options, b"ro");
    }

    #[test]
    fn the_last_mount_at_a_path_is_the_topmost() {
        let table =
            b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /a\\040b rw - ext4 b rw\n3 1 0:3 / /a rw - ext4 c rw\n\
                      4 3 0:4 / /a rw - ext4 d rw\n5 1 0:5 /a /b rw - ext4 e rw\n6 1 0:6 / /broken\n";
        let at = |path: &str| last_at(table, Path::new(path)).map(|found| found.map(|mount| mount.id));
        assert_eq!(at("/a").unwrap(), Some(4));
        assert_eq!(at("/a b").unwrap(), Some(2));
        assert_eq!((at("/").unwrap(), at("/b").unwrap(), at("/c").unwrap()), (Some(1), Some(5), None));
        assert_eq!(at("/broken").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_table_of_this_process_is_read() {
        let proc = mount_at(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(proc.file_system, b"proc");
        assert_eq!(mount_at(Path::new("/proc/self")).unwrap(), None, "not a mount point");
    }
}
