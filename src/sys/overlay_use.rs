//! Overlays that outlive the process that keeps them: what a file says of one, and whether it is mounted still.
//!
//! A process that keeps an overlay locks what belongs to it. When it is killed, the locks go and the overlay stays, in each mount
//! namespace that has it. So the locked files say which overlay they belong to, and a lock that is free says nothing where they do.
//!
//! The connection of the anchor, which is a layer of the overlay, is there exactly as long as the overlay, whatever holds that: a
//! mount in any namespace, or an open file. Where there is no anchor, or root may not look at connections, the mount tables of all
//! processes tell. There an overlay is not found that only open files hold, or a mount namespace without a process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::process::Pid;

use super::fuse_connection::{FuseConnection, Sign};
use super::{mountinfo, overlay, process};

/// What the line of a file begins with that tells of an overlay.
const MARK: &str = "overlay ";

/// What the word of a line begins with that tells of the anchor: its number, and after a colon its sign.
const ANCHOR: &str = "anchor=";

/// The longest file that is looked at, in bytes.
const MOST: usize = 256;

/// An overlay of ours, as long as the system runs: its device number may be another file system's afterwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayUse {
    device: u64,
    boot: String,
    anchor: Option<Anchor>,
}

/// The connection that ends with an overlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Anchor {
    connection: FuseConnection,
    sign: Sign,
}

impl OverlayUse {
    /// The overlay of a mount, and its anchor if it has one.
    ///
    /// # Errors
    /// Those of statx(2), and of reading /proc.
    pub fn of_mount(mount: BorrowedFd<'_>, anchor: Option<FuseConnection>) -> io::Result<Self> {
        let signed =
            anchor.map(|connection| connection.sign_of_existing().map(|sign| Anchor { connection, sign }));
        let anchor = signed.transpose().inspect_err(|error| {
            tracing::debug!(%error, "mount tables will tell of the overlay alone");
        });
        Ok(Self {
            device: FuseConnection::of_mount(mount)?.number(),
            boot: boot()?,
            anchor: anchor.ok().flatten(),
        })
    }

    /// Reads what [`line`](Self::line) has written.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MARK)?.split(' ');
        let (device, boot) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        let anchor = words.find_map(|word| word.strip_prefix(ANCHOR)).and_then(|anchor| {
            let (number, sign) = anchor.split_once(':')?;
            let connection = FuseConnection::of_number(number.parse().ok()?);
            Some(Anchor { connection, sign: Sign::parse(sign) })
        });
        Some(Self { device, boot, anchor })
    }

    /// A line that tells of it, without an end.
    #[must_use]
    pub fn line(&self) -> String {
        let anchor = self
            .anchor
            .map(|Anchor { connection, sign }| format!(" {ANCHOR}{}:{}", connection.number(), sign.text()));
        format!("{MARK}{} {}{}", self.device, self.boot, anchor.unwrap_or_default())
    }

    /// As [`line`](Self::line), for this very file: in a copy of it the line says nothing.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn line_in(&self, file: &File) -> io::Result<String> {
        Ok(format!("{} {}", self.line(), file.metadata()?.ino()))
    }

    /// True if anything uses it still.
    ///
    /// # Errors
    /// Those of reading /proc, but not that processes end meanwhile or are another user's.
    pub fn is_used(&self) -> io::Result<bool> {
        if self.boot != boot()? {
            return Ok(false);
        }
        if let Some(Anchor { connection, sign }) = self.anchor {
            match connection.sign() {
                Ok(now) => {
                    tracing::debug!(
                        connection = connection.number(),
                        ?sign,
                        ?now,
                        "the number of an anchor is there"
                    );
                    if let Some(one) = sign.is_of_one(now) {
                        return Ok(one);
                    }
                    // An anchor is never seen in a mount table: what is has the number by now.
                    let number = connection.number();
                    return Ok(!is_in_a_mount_table(|mount| device_number(mount) == number)?);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => tracing::debug!(%error, "mount tables tell of an overlay alone"),
            }
        }
        is_in_a_mount_table(|mount| overlay::is_ours(mount) && device_number(mount) == self.device)
    }
}

fn device_number(mount: &mountinfo::MountInfo) -> u64 {
    FuseConnection::of_device(mount.device).number()
}

/// True if the mount namespace of any process has such a mount.
fn is_in_a_mount_table(is_this: impl Fn(&mountinfo::MountInfo) -> bool) -> io::Result<bool> {
    let mut seen = BTreeSet::new();
    for pid in process::all()? {
        let namespace = match process::mount_namespace_of(pid) {
            Ok(Some(namespace)) => namespace,
            Ok(None) => continue,
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => continue,
            Err(error) => return Err(error),
        };
        if seen.contains(&namespace) {
            continue;
        }
        // Of a process that has ended the table is empty: another one may tell of its namespace.
        match mountinfo::mounts_of(Pid::as_raw(Some(pid))) {
            Ok(mounts) if mounts.is_empty() => {}
            Ok(mounts) if mounts.iter().any(&is_this) => return Ok(true),
            Ok(_) => drop(seen.insert(namespace)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// True if a file, whose lock is free, says of an overlay that is used still.
///
/// # Errors
/// Those of reading the file and /proc.
pub fn is_used(file: &File) -> io::Result<bool> {
    let mut text = [0; MOST];
    let mut length = 0;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    let lines = text.get(..length).unwrap_or_default().split(|byte| *byte == b'\n');
    let own = format!(" {}", file.metadata()?.ino());
    let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
    let used = lines.filter(|line| line.ends_with(&own)).find_map(OverlayUse::parse);
    used.map_or(Ok(false), |overlay| overlay.is_used())
}

/// What tells one run of the system from another.
fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_read_again_and_another_boot_s_counts_for_nothing() {
        let connection = FuseConnection::of_number(7);
        for sign in ["", "8826727:1796043257651376896"].map(Sign::parse) {
            let anchored =
                OverlayUse { device: 51, boot: "b".to_owned(), anchor: Some(Anchor { connection, sign }) };
            assert_eq!(OverlayUse::parse(&anchored.line()), Some(anchored.clone()));
            let in_a_file = format!("{} 4711", anchored.line());
            assert_eq!(OverlayUse::parse(&in_a_file), Some(anchored));
        }
        let overlay = OverlayUse { device: 51, boot: "other".to_owned(), anchor: None };
        assert_eq!(OverlayUse::parse(&overlay.line()), Some(overlay.clone()));
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(OverlayUse::parse(&overlay.line_in(&file).unwrap()), Some(overlay.clone()));
        for text in [String::new(), "4242 7\n".to_owned(), overlay.line(), overlay.line_in(&file).unwrap()] {
            file.write_all(text.as_bytes()).unwrap();
            assert!(!is_used(&file).unwrap());
        }
        assert!(!OverlayUse { boot: boot().unwrap(), ..overlay }.is_used().unwrap());
        for no in ["", "overlay", "overlay x y", "overlay 1", "lower 1 2"] {
            assert_eq!(OverlayUse::parse(no), None);
        }
    }
}
