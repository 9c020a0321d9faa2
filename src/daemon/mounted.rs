//! The mount of a view on a directory of the host: found by its numbers, unmounted by descriptor.
//!
//! The path that the record names may lead elsewhere by now: the owner of a directory above it can rename it, and put a
//! symbolic link in its place. The keeper therefore holds the directory beneath the mount from before the mount on, the
//! record says by which descriptor, and whatever is to be unmounted is compared with the view before, by descriptor too.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::record::{Place, Record, text_of_connection};
use super::registry::Turn;
use crate::sys::fuse_connection::FuseConnection;
use crate::sys::mount::{SUBTYPE, Unmount};
use crate::sys::mount_id::MountId;
use crate::sys::mount_point::{self, MountPoint};
use crate::sys::mountinfo::{self, MountInfo};
use crate::sys::{fusermount, open, overlay, process};

/// How long a mount is looked for whose path changes while it is walked.
const PATIENCE: Duration = Duration::from_secs(5);

/// A view that is, or was, mounted on a directory of the host.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Its path when it was mounted, for people.
    target: PathBuf,
    connection: u64,
    id: Option<MountId>,
    in_mountinfo: Option<u64>,
    /// The directory beneath; without it the mount is found by the path that mountinfo shows.
    point: Option<MountPoint>,
    /// The mount that shows that directory.
    below: Option<MountId>,
}

/// What came of unmounting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is unmounted.
    Unmounted,
    /// It is not mounted in this mount namespace.
    NotHere,
    /// Another mount lies over it, at this path.
    Covered(PathBuf),
}

impl Mounted {
    /// The mount that a descriptor leads into, which is or will be mounted on `target`, over the directory `point`.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(super) fn new(
        target: PathBuf,
        mount: BorrowedFd<'_>,
        directory: Option<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self {
            target,
            below: directory.as_ref().map(|directory| MountId::of(directory.as_fd())).transpose()?,
            connection: FuseConnection::of_mount(mount)?.number(),
            id: Some(MountId::of(mount)?),
            in_mountinfo: Some(MountId::in_mountinfo(mount)?.number()),
            point: directory.map(MountPoint::new),
        })
    }

    /// The mount that a record names, over the directory `point`; `None` if the view is not on a directory of the host.
    pub(super) fn of_record(record: &Record, point: Option<MountPoint>) -> Option<Self> {
        let Place::Mounted { target, connection } = &record.place else { return None };
        Some(Self {
            target: target.clone(),
            connection: *connection,
            id: record.mount_id.map(MountId::from_number),
            in_mountinfo: record.mount_in_mountinfo,
            point,
            below: record.mount_below.map(MountId::from_number),
        })
    }

    /// As [`of_record`](Self::of_record), over the directory that the process which serves the view holds, if that can be had.
    pub(super) fn of_served(record: &Record) -> Option<Self> {
        let held = u32::try_from(record.pid).ok().zip(record.mount_point_fd);
        // Another process may have that number: what is mounted on the directory is looked at before it is used.
        let point = held.and_then(|(pid, fd)| open::open_directory_of(pid, fd).ok()).map(MountPoint::new);
        Self::of_record(record, point)
    }

    /// Writes into a record where the view is mounted.
    pub(super) fn note_in(&self, record: &mut Record) {
        record.place = Place::Mounted { target: self.target.clone(), connection: self.connection };
        record.mount_id = self.id.map(MountId::number);
        record.mount_in_mountinfo = self.in_mountinfo;
        record.mount_below = self.below.map(MountId::number);
        record.mount_point_fd = self.point.as_ref().map(|point| open::number(point.as_fd()));
    }

    /// Where it was mounted.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// The directory beneath.
    pub(super) fn point(&self) -> Option<&MountPoint> {
        self.point.as_ref()
    }

    /// The directory beneath, for another.
    pub(super) fn into_point(self) -> Option<MountPoint> {
        self.point
    }

    /// True if this is its line of a mount table.
    pub(super) fn is(&self, mount: &MountInfo) -> bool {
        is_view(mount)
            && connection(mount) == self.connection
            && self.in_mountinfo.is_none_or(|number| mount.id == number)
    }

    /// Its line in the mount table of this process.
    ///
    /// # Errors
    /// If the mount table cannot be read.
    pub(super) fn here(&self) -> io::Result<Option<MountInfo>> {
        Ok(mountinfo::mounts()?.into_iter().find(|mount| self.is(mount)))
    }

    /// Unmounts it, and no other mount, whatever others do to its path. No other process of this registry unmounts or mounts
    /// meanwhile.
    ///
    /// A user without privilege unmounts by fusermount3, which resolves the path as that user and checks that the mount is the
    /// user's own.
    ///
    /// # Errors
    /// `EBUSY`; `ESTALE`, `ELOOP` or `ENOENT` if its path changes as often as it is looked up; what fusermount3 says.
    pub(super) fn unmount(&self, how: Unmount, _turn: &Turn) -> io::Result<Outcome> {
        // The mount table is as long as there are views: it is read only if the directory beneath does not lead to the mount.
        if matches!(self.unmount_at_point(how), Ok(true)) {
            return Ok(Outcome::Unmounted);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let all = mountinfo::mounts()?;
            let mut problem = None;
            // More than one where the record is of a nixview that did not note the number in mountinfo: clones of the mount.
            for mount in all.iter().filter(|mount| self.is(mount)) {
                let path = &mount.mount_point;
                if all.iter().any(|other| other.parent == mount.id && other.mount_point == *path) {
                    return Ok(Outcome::Covered(path.clone()));
                }
                match self.try_unmount(mount, how) {
                    Ok(true) => return Ok(Outcome::Unmounted),
                    Ok(false) => problem = Some(io::Error::from_raw_os_error(libc::ESTALE)),
                    Err(error) if path_has_changed(&error) => problem = Some(error),
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) && !is_root() => {
                        return fusermount::unmount(path, how != Unmount::Now).map(|()| Outcome::Unmounted);
                    }
                    Err(error) => return Err(error),
                }
            }
            match problem {
                None => return Ok(Outcome::NotHere),
                Some(error) if Instant::now() >= until => return Err(error),
                Some(_) => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    /// Unmounts it if it is the topmost mount on the directory beneath; `false` if that cannot be told.
    fn unmount_at_point(&self, how: Unmount) -> io::Result<bool> {
        let (Some(point), Some(below)) = (&self.point, self.below) else { return Ok(false) };
        // As below: the descriptor may be another process's by now.
        if !below.is_of(point.as_fd())? {
            return Ok(false);
        }
        point.unmount(&|root| self.is_root(root), how)
    }

    fn try_unmount(&self, mount: &MountInfo, how: Unmount) -> io::Result<bool> {
        let is_meant = |root: BorrowedFd<'_>| self.is_root(root);
        if let Some(point) = &self.point
            // Of the file system above alone is asked on: another one may be a server that does not answer.
            && MountId::in_mountinfo(point.as_fd())?.number() == mount.parent
            && point.unmount(&is_meant, how)?
        {
            return Ok(true);
        }
        mount_point::unmount_at(&mount.mount_point, &is_meant, how)
    }

    /// True if a descriptor leads into this mount.
    fn is_root(&self, root: BorrowedFd<'_>) -> io::Result<bool> {
        let same = self.id.map_or(Ok(true), |id| id.is_of(root))?;
        Ok(same && FuseConnection::of_mount(root)?.number() == self.connection)
    }
}

/// True if a line of a mount table is the mount of a view.
#[must_use]
pub fn is_mount_of(record: &Record, mount: &MountInfo) -> bool {
    Mounted::of_record(record, None).is_some_and(|mounted| mounted.is(mount))
}

/// A text that the record has of the view that this is a mount of.
#[must_use]
pub(super) fn text_of_record(mount: &MountInfo) -> String {
    text_of_connection(connection(mount))
}

/// Mount tables of the processes that serve views.
#[derive(Debug)]
pub struct MountTables {
    /// The views among the mounts of this process, by the numbers of their file systems.
    own: HashMap<u64, Vec<MountInfo>>,
    namespace: u64,
}

impl MountTables {
    /// Reads that of this process.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn read() -> io::Result<Self> {
        let mut own = HashMap::<u64, Vec<MountInfo>>::new();
        for mount in mountinfo::mounts()?.into_iter().filter(is_view) {
            own.entry(connection(&mount)).or_default().push(mount);
        }
        Ok(Self { own, namespace: process::own_mount_namespace()? })
    }

    /// Where a view is mounted now, in the mount namespace of the process that serves it or, if that cannot be looked at, in
    /// this one; `None` if it is detached, or not on a directory of the host.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn place_of(&self, record: &Record) -> io::Result<Option<PathBuf>> {
        let Place::Mounted { connection, .. } = &record.place else { return Ok(None) };
        let find = |all: &[MountInfo]| {
            all.iter().find(|mount| is_mount_of(record, mount)).map(|mount| mount.mount_point.clone())
        };
        let own = self.own.get(connection).and_then(|mounts| find(mounts));
        // The mounts of other namespaces have other numbers.
        if own.is_some() && record.mount_in_mountinfo.is_some() {
            return Ok(own);
        }
        let namespace = Pid::from_raw(record.pid).map(process::mount_namespace_of);
        if !matches!(namespace, Some(Ok(Some(number))) if number != self.namespace) {
            return Ok(own);
        }
        match mountinfo::mounts_of(record.pid) {
            Ok(all) => Ok(find(&all)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
            Err(_) => Ok(own),
        }
    }
}

/// True if a mount is a view of nixview.
#[must_use]
pub fn is_view(mount: &MountInfo) -> bool {
    let served = mount.file_system.strip_prefix(b"fuse.").is_some_and(|kind| kind == SUBTYPE.as_bytes());
    served || overlay::is_ours(mount)
}

/// The number of a mounted view's file system: of a view with a server, that of its connection.
#[must_use]
pub(super) fn connection(mount: &MountInfo) -> u64 {
    FuseConnection::of_device(mount.device).number()
}

/// True for what openat2(2) and umount2(2) answer when a path is renamed while it is used.
fn path_has_changed(error: &io::Error) -> bool {
    let errors = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EAGAIN, libc::EINVAL];
    error.raw_os_error().is_some_and(|errno| errors.contains(&errno))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
