//! What the members of a closure are in the store.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Statx};
use sha2::{Digest, Sha256};

use super::ClosureLayerError;
use crate::sys::stat;
use crate::vfs::{Errno, Name, Timespec};

/// The members of a closure as the store has them, in the order of their names.
#[derive(Debug)]
pub struct Survey {
    members: Vec<Member>,
    digest: [u8; 32],
}

/// A member of a closure.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Name,
    pub(super) kind: Kind,
    pub(super) permissions: u16,
    pub(super) mtime: Timespec,
}

/// What a member is.
#[derive(Debug)]
pub(super) enum Kind {
    Directory,
    Symlink { target: Vec<u8> },
    File { size: u64 },
}

impl Survey {
    /// Looks at each of these names in the store directory, without following a symbolic link. One
    /// statx(2) a member, and one readlinkat(2) a link. `store` is a read-only clone of the store's
    /// mount, so access times stay.
    ///
    /// # Errors
    /// The first member, by name, that is missing, or that no view can show.
    pub fn of(store: BorrowedFd<'_>, mut names: Vec<Name>) -> Result<Self, ClosureLayerError> {
        names.sort_unstable();
        names.dedup();
        let mut digest = Sha256::new();
        let mut members = Vec::with_capacity(names.len());
        for name in names {
            let member = Member::find(store, name)?;
            member.add_to(&mut digest);
            members.push(member);
        }
        Ok(Self { members, digest: digest.finalize().into() })
    }

    /// How many members there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.members.len() as u64
    }

    /// SHA-256 over name, kind, permissions, time, length and target of each member: two surveys
    /// with one digest have one closure layer, if files with the same length and time have the same
    /// contents.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The length of all files together.
    pub(super) fn bytes_of_files(&self) -> u64 {
        let sizes = self.members.iter().filter_map(|member| match member.kind {
            Kind::File { size } => Some(size),
            _ => None,
        });
        sizes.fold(0, u64::saturating_add)
    }
}

impl Member {
    fn find(store: BorrowedFd<'_>, name: Name) -> Result<Self, ClosureLayerError> {
        let found = match stat::stat_name(store, name.as_bytes()) {
            Ok(found) => found,
            Err(error) if Errno::of(&error) == Errno::ENOENT => return Err(ClosureLayerError::Missing(name)),
            Err(source) => return Err(ClosureLayerError::Io { action: "look at", name, source }),
        };
        let (kind, mask) = match kind(&found) {
            FileType::Directory => (Kind::Directory, 0o7777),
            FileType::RegularFile => (Kind::File { size: found.stx_size }, 0o777),
            FileType::Symlink => match rustix::fs::readlinkat(store, name.as_bytes(), Vec::new()) {
                Ok(target) => (Kind::Symlink { target: target.into_bytes() }, 0o777),
                Err(error) => {
                    return Err(ClosureLayerError::Io {
                        action: "read the link",
                        name,
                        source: error.into(),
                    });
                }
            },
            other => return Err(ClosureLayerError::Kind { name, kind: word(other) }),
        };
        Ok(Self { name, kind, permissions: found.stx_mode & mask, mtime: mtime(&found) })
    }

    fn add_to(&self, digest: &mut Sha256) {
        let (letter, size, target) = match &self.kind {
            Kind::Directory => (b'd', 0, [].as_slice()),
            Kind::File { size } => (b'f', *size, [].as_slice()),
            Kind::Symlink { target } => (b'l', target.len() as u64, target.as_slice()),
        };
        let mut row = Vec::with_capacity(32 + self.name.as_bytes().len() + target.len());
        row.extend_from_slice(&(self.name.as_bytes().len() as u64).to_le_bytes());
        row.extend_from_slice(self.name.as_bytes());
        row.push(letter);
        row.extend_from_slice(&self.permissions.to_le_bytes());
        row.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        row.extend_from_slice(&self.mtime.nanoseconds.to_le_bytes());
        row.extend_from_slice(&size.to_le_bytes());
        row.extend_from_slice(target);
        digest.update(row);
    }

    /// True if this is a regular file that is what the member was.
    pub(super) fn is(&self, found: &Statx) -> bool {
        kind(found) == FileType::RegularFile
            && matches!(self.kind, Kind::File { size } if size == found.stx_size)
            && self.mtime == mtime(found)
    }
}

fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(found.stx_mode.into())
}

fn mtime(found: &Statx) -> Timespec {
    Timespec { seconds: found.stx_mtime.tv_sec, nanoseconds: found.stx_mtime.tv_nsec }
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        _ => "thing of an unknown kind",
    }
}
