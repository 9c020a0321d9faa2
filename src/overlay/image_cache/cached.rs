//! An image that is there, with its record.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::OpenedImage;
use super::directory::{Directory, PATIENCE};
use super::error::{ImageError, Tried};
use super::key::Key;
use super::record::{DirectoryStamp, FileStamp, Record};
use crate::overlay::closure_layer::{StandIn, Survey};
use crate::sys;
use crate::sys::lock::{Flock, flock_within};
use crate::vfs::Errno;

/// An image and its record, held so that no sweep removes them.
#[derive(Debug)]
pub(super) struct Cached {
    image: File,
    record: Record,
    /// The file of the record. Its time of modification is when the image was last used.
    file: File,
}

impl Cached {
    /// Opens it; `None` if the image or its record is missing, or the record is none.
    pub(super) fn open(directory: &Directory, key: &Key) -> Result<Option<Self>, ImageError> {
        Self::hold(directory, key).tried("use an image in", directory.path())
    }

    fn hold(directory: &Directory, key: &Key) -> io::Result<Option<Self>> {
        loop {
            let Some(image) = open_regular(directory, &key.image())? else { return Ok(None) };
            // Only a sweep and the builder have it alone, and not for long.
            if !flock_within(&image, Flock::Shared, PATIENCE)? {
                return Ok(None);
            }
            if !sys::names::leads_to(directory.as_fd(), key.image().as_bytes(), image.as_fd())? {
                continue;
            }
            let Some(file) = open_regular(directory, &key.record())? else { return Ok(None) };
            return Ok(Record::read(&file)?.map(|record| Self { image, record, file }));
        }
    }

    /// True if nothing in the store changed since all members were looked at, and files without
    /// data are as long as their members.
    pub(super) fn fits_store(&self, stamp: &DirectoryStamp, store: BorrowedFd<'_>) -> bool {
        let is_as_long = |file: &StandIn| {
            sys::stat::stat_name(store, file.name.as_bytes()).is_ok_and(|found| {
                FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile
                    && found.stx_size == file.size
            })
        };
        self.record.was_checked_at(stamp) && self.record.stand_ins().iter().all(is_as_long)
    }

    /// True if it was made of these members.
    pub(super) fn is_of(&self, survey: &Survey) -> bool {
        self.record.is_of(survey)
    }

    /// True if it has its digest. It is read only if it may have changed since that was found.
    pub(super) fn is_whole(&mut self) -> io::Result<bool> {
        if self.record.was_verified_at(&FileStamp::take(self.image.as_fd())?) {
            return Ok(true);
        }
        self.image.seek(SeekFrom::Start(0))?;
        self.record.describes(&mut self.image)
    }

    /// Notes that it was used now, and what was found. The image is right if that fails: the next
    /// look takes longer.
    pub(super) fn note(&self, directory: &Directory, key: &Key, stamp: &DirectoryStamp) {
        let noted = FileStamp::take(self.image.as_fd()).and_then(|image| {
            let record = self.record.at(image, stamp);
            if record == self.record { touch(&self.file) } else { record.write(directory, key) }
        });
        if let Err(error) = noted {
            tracing::warn!(%error, image = key.image(), "could not note the use of an image");
        }
    }

    pub(super) fn into_image(self, built: bool) -> OpenedImage {
        OpenedImage { file: self.image.into(), metacopy: !self.record.stand_ins().is_empty(), built }
    }
}

/// Opens a regular file of the cache; `None` if nothing or something else has the name.
pub(super) fn open_regular(directory: &Directory, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match sys::open::open_beneath(directory.as_fd(), name.as_bytes(), flags, 0) {
        Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ELOOP) => return Ok(None),
        answer => File::from(answer?),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

fn touch(file: &File) -> io::Result<()> {
    let now = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    Ok(rustix::fs::futimens(file, &now)?)
}
