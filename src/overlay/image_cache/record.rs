//! What an image must be: `KEY.json`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::directory::Directory;
use super::draft::Draft;
use super::key::{FORMAT, Key};
use crate::json;
use crate::overlay::closure_layer::{StandIn, Survey};
use crate::store::nixbase32;
use crate::sys::stat;

/// The longest record that is read, in bytes: 100,000 files without data need less.
const MAX_LENGTH: u64 = 64 << 20;

/// How old the change time of the store directory must be when the members are looked at.
///
/// File times have steps: of a timer's tick in Linux, of a second in some file systems and servers.
/// A change in the step of the last one leaves the same time, so that a younger time does not prove
/// that nothing changed since.
const STEP: Duration = Duration::from_secs(2);

/// The record of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// SHA-256 of the image in Nix's base 32, and its length in bytes.
    sha256: String,
    length: u64,
    /// The image when it was last compared with these.
    verified: FileStamp,
    /// How many members there are, and the digest of their survey.
    members: u64,
    survey: String,
    /// The store directory when the members were last looked at, if its change time was old enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checked: Option<DirectoryIdentity>,
    /// The files without data.
    stand_ins: Vec<StandIn>,
}

/// What a file shows of a change to it. A rename changes it too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStamp {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

/// What a directory shows of a change to its entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectoryIdentity {
    device: (u32, u32),
    inode: u64,
    changed: (i64, u32),
}

/// The store directory at one moment.
#[derive(Debug)]
pub(super) struct DirectoryStamp {
    identity: DirectoryIdentity,
    /// True if every later change shows.
    settled: bool,
}

impl FileStamp {
    pub(super) fn take(file: BorrowedFd<'_>) -> io::Result<Self> {
        let found = stat::stat(file)?;
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        })
    }
}

impl DirectoryStamp {
    /// To be taken before the members are looked at.
    pub(super) fn take(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let now = SystemTime::now();
        let found = stat::stat(directory)?;
        let changed = (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec);
        let since = u64::try_from(changed.0).map(|seconds| Duration::new(seconds, changed.1));
        let settled = since.ok().and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)).is_some_and(
            // A time in the future is never old enough.
            |changed| now.duration_since(changed).is_ok_and(|age| age >= STEP),
        );
        let device = (found.stx_dev_major, found.stx_dev_minor);
        Ok(Self { identity: DirectoryIdentity { device, inode: found.stx_ino, changed }, settled })
    }
}

impl Record {
    /// That of an image that was just built and has its name.
    pub(super) fn new(
        image: &[u8],
        file: &File,
        survey: &Survey,
        stamp: &DirectoryStamp,
        stand_ins: Vec<StandIn>,
    ) -> io::Result<Self> {
        Ok(Self {
            version: FORMAT,
            sha256: nixbase32::encode(&Sha256::digest(image)),
            length: image.len() as u64,
            verified: FileStamp::take(file.as_fd())?,
            members: survey.count(),
            survey: nixbase32::encode(&survey.digest()),
            checked: stamp.settled.then(|| stamp.identity.clone()),
            stand_ins,
        })
    }

    /// Reads one; `None` if it is none of this version.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        file.take(MAX_LENGTH).read_to_end(&mut text)?;
        let record = json::from_slice_without_null::<Self>(&text).ok();
        Ok(record.filter(|record| record.version == FORMAT))
    }

    /// Writes it, whole or not at all. It need not reach the disk: an image without a record is
    /// built again.
    pub(super) fn write(&self, directory: &Directory, key: &Key) -> io::Result<()> {
        let mut draft = Draft::make(directory, 0o600)?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        draft.write(&text)?;
        draft.rename(directory, &key.record())
    }

    /// True if all members were looked at when the store directory was as it is.
    pub(super) fn was_checked_at(&self, stamp: &DirectoryStamp) -> bool {
        self.checked.as_ref() == Some(&stamp.identity)
    }

    /// True if the image was made of these members.
    pub(super) fn is_of(&self, survey: &Survey) -> bool {
        self.members == survey.count() && self.survey == nixbase32::encode(&survey.digest())
    }

    /// True if the image was compared with its digest when it was as it is.
    pub(super) fn was_verified_at(&self, stamp: &FileStamp) -> bool {
        self.verified == *stamp
    }

    /// True if these are the digest and length of the image.
    pub(super) fn describes(&self, image: &mut impl Read) -> io::Result<bool> {
        let mut digest = Sha256::new();
        let length = io::copy(&mut image.take(self.length.saturating_add(1)), &mut Hashing(&mut digest))?;
        Ok(length == self.length && nixbase32::encode(&digest.finalize()) == self.sha256)
    }

    /// The same with new stamps. One of a store directory that changed too lately is not noted.
    pub(super) fn at(&self, image: FileStamp, store: &DirectoryStamp) -> Self {
        let checked = if store.settled { Some(store.identity.clone()) } else { self.checked.clone() };
        Self { verified: image, checked, ..self.clone() }
    }

    /// The files without data.
    pub(super) fn stand_ins(&self) -> &[StandIn] {
        &self.stand_ins
    }
}

/// A digest as what bytes are written to.
struct Hashing<'d>(&'d mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
