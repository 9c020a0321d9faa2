//! Images of closure layers, kept in `STATE/closures` and shared by all views.
//!
//! An image is a function of its closure and of what the store has of the members, and is built
//! once. Beside it lies a [record] that says what it must be. [`open`] trusts both as long
//! as two stamps fit, which takes a few system calls whatever the closure:
//!
//! - The image has the device, inode, length and times that it had when it was last compared with
//!   its digest.
//! - The store directory has the device, inode and change time that it had when all members were
//!   last looked at. No entry can be added, removed or replaced without a new change time.
//!
//! If the image's stamp does not fit, its digest is computed. If the store's does not, every member
//! is looked at. What is not as the record says is built again.
//!
//! **Locks** are flock(2)'s. A builder holds that of the directory `closures`, and that of its
//! draft until the record is written. An [`OpenedImage`] holds its image's shared; [`sweep()`]
//! takes it alone before it removes the image. Removing an image that is mounted does no harm: the
//! kernel keeps the file.

mod cached;
mod directory;
mod draft;
mod error;
mod key;
mod record;
mod sweep;

use std::error::Error;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use super::closure_layer::{MAX_CONTENTS, Survey};
use super::erofs;
use crate::vfs::{Errno, Name};

pub use error::ImageError;
pub use sweep::{Swept, sweep};

use cached::Cached;
use directory::Directory;
use draft::Draft;
use error::Tried;
use key::Key;
use record::{DirectoryStamp, Record};

/// Below the state directory: the images.
pub const DIRECTORY: &str = "closures";

/// How often an image is built that is gone before it is opened.
const ATTEMPTS: usize = 8;

/// The image that a view needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The state directory.
    pub state: &'a Path,
    /// The digest of the closure. Equal digests mean the same names.
    pub digest: &'a [u8; 32],
    /// True if the layer leads to Nix's state.
    pub nix_state: bool,
    /// The store directory, on a read-only clone of its mount.
    pub store: BorrowedFd<'a>,
}

/// An image that is whole and fits the store. No sweep removes it while the descriptor is open.
#[derive(Debug)]
pub struct OpenedImage {
    /// The image, open for reading.
    pub file: OwnedFd,
    /// True if the view needs `metacopy=on`.
    pub metacopy: bool,
    /// True if it was built for this request.
    pub built: bool,
}

/// Opens the image, and builds it if it is missing, damaged, or does not fit the store. `names`
/// answers the names of the members; it is called only if they are needed.
///
/// # Errors
/// That of `names`; a member that is missing or that no view can show; and what the system says.
pub fn open<E: Into<Box<dyn Error + Send + Sync>>>(
    request: &Request<'_>,
    names: impl FnOnce() -> Result<Vec<Name>, E>,
) -> Result<OpenedImage, ImageError> {
    let directory = Directory::make(request.state)?;
    let key = Key::new(request.digest, request.nix_state);
    let stamp = DirectoryStamp::take(request.store).tried("look at the store for", directory.path())?;
    if let Some(mut cached) = Cached::open(&directory, &key)?
        && cached.fits_store(&stamp, request.store)
        && cached.is_whole().tried("read", directory.path())?
    {
        cached.note(&directory, &key, &stamp);
        return Ok(cached.into_image(false));
    }
    let survey = Survey::of(request.store, names().map_err(|error| ImageError::Names(error.into()))?)?;
    let turn = directory.turn()?;
    let mut built = false;
    for _ in 0..ATTEMPTS {
        if let Some(mut cached) = Cached::open(&directory, &key)?
            && cached.is_of(&survey)
            && cached.is_whole().tried("read", directory.path())?
        {
            cached.note(&directory, &key, &stamp);
            drop(turn);
            return Ok(cached.into_image(built));
        }
        build(&directory, &key, &survey, request, &stamp)?;
        built = true;
    }
    Err(std::io::Error::from(Errno::EAGAIN)).tried("keep an image in", directory.path())
}

/// Builds an image and its record, in the place of those that are there.
fn build(
    directory: &Directory,
    key: &Key,
    survey: &Survey,
    request: &Request<'_>,
    stamp: &DirectoryStamp,
) -> Result<(), ImageError> {
    let layer = survey.layer(request.store, request.nix_state, MAX_CONTENTS)?;
    let image = erofs::image(&layer.tree)?;
    let mut draft = Draft::make(directory, 0o400).tried("make a draft in", directory.path())?;
    draft.write(&image).tried("write an image in", directory.path())?;
    draft.publish(directory, &key.image()).tried("publish an image in", directory.path())?;
    // A process that is killed here leaves an image without a record, which the next one builds
    // again.
    let record = Record::new(&image, draft.file(), survey, stamp, layer.stand_ins)
        .tried("look at an image in", directory.path())?;
    record.write(directory, key).tried("write a record in", directory.path())
}

#[cfg(test)]
mod tests;
