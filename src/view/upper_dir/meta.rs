//! `meta.json`: what an upper is.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use super::error::{Tried, UpperError};
use super::image::{Image, LastMount};
use super::layout::Layout;
use super::limit::Limit;
use crate::json;
use crate::layer::dir::Format;
use crate::store::path::StoreDir;
use crate::sys;
use crate::vfs::Errno;

/// The version of an upper whose view has its root at `tree/nix`, and that of one that has it at `data`.
const VERSION: u32 = 2;
const VERSION_OF_DATA: u32 = 1;

/// The file, and where it is before it is whole.
pub(super) const FILE: &[u8] = b"meta.json";
pub(super) const NEW_FILE: &[u8] = b"meta.json.new";

/// More than any of our files is long, in bytes.
const MAX_LENGTH: u64 = 64 * 1024;

/// What an upper is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Meta {
    /// Version of the format of an upper: of this file, and of where the view's root is.
    version: u32,
    /// How whiteouts and marks are stored in the tree.
    #[serde(with = "format_name")]
    pub format: Format,
    /// The store directory it lies over.
    pub store_dir: StoreDir,
    /// The view that used it last.
    pub view: String,
    /// Made for one mount, to be removed after it.
    #[serde(default)]
    pub temporary: bool,
    /// The most that it may hold; then `tree` and `work` are in the image `upper.img`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// It was of version 1: redirects that are paths may begin at the view's root instead of `tree`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) old_redirects: bool,
    /// The view's root, if all that is in it was written by nixview, or by an overlay that nixview mounted. A copy of the
    /// upper has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) own: Option<TreeId>,
}

/// Which directory one is, on whatever device its file system is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TreeId {
    inode: u64,
    /// When it was made, which no copy can take over: seconds and nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<(i64, u32)>,
    /// Its device, where the file system does not keep when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    /// Of one in an image: its last mount. Who mounts it by hand makes another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount: Option<LastMount>,
}

impl TreeId {
    pub(super) fn of(dir: BorrowedFd<'_>, image: Option<&Image>) -> std::io::Result<Self> {
        let found = sys::stat::stat(dir)?;
        let born = sys::stat::birth(dir)?;
        let device = born.is_none().then_some((found.stx_dev_major, found.stx_dev_minor));
        Ok(Self { inode: found.stx_ino, born, device, mount: image.map(Image::mounted) })
    }
}

/// What all versions have in common.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

mod format_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::layer::dir::Format;

    pub(super) fn serialize<S: Serializer>(format: &Format, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(format.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Format, D::Error> {
        let name = String::deserialize(from)?;
        Format::from_name(&name)
            .ok_or_else(|| D::Error::custom(format!("unknown format '{}'", name.escape_debug())))
    }
}

impl Meta {
    /// One of an upper of the present version whose tree may have been written by anybody.
    pub(super) fn new(
        format: Format,
        store_dir: &StoreDir,
        view: &str,
        temporary: bool,
        limit: Option<Limit>,
    ) -> Self {
        let (store_dir, view) = (store_dir.clone(), view.to_owned());
        let (version, old_redirects, own) = (VERSION, false, None);
        Self { version, format, store_dir, view, temporary, limit, old_redirects, own }
    }

    /// True if nothing is wrong when this stays in the place of `other`, but that an overlay is checked again.
    pub(super) fn stands_for(&self, other: &Self) -> bool {
        let kept = |meta: &Self| (meta.format, meta.store_dir.clone(), meta.temporary, meta.limit);
        kept(self) == kept(other)
    }

    /// The same, of an upper whose view has its root there; `found` is what was read of it.
    pub(super) fn at(self, layout: Layout, image: Option<&Image>, found: Option<&Self>) -> Self {
        match layout {
            Layout::Data => Self { version: VERSION_OF_DATA, ..self },
            Layout::Tree => {
                let old = |meta: &Self| meta.old_redirects || meta.version == VERSION_OF_DATA;
                let own = found.and_then(|meta| meta.own.clone());
                let own = own.filter(|own| own.mount == image.and_then(Image::mounted_before));
                let own = own.map(|own| TreeId { mount: image.map(Image::mounted), ..own });
                Self { old_redirects: found.is_some_and(old), own, ..self }
            }
        }
    }

    /// Reads the file of an upper; `None` if there is none.
    pub(super) fn read(dir: BorrowedFd<'_>, path: &Path) -> Result<Option<Self>, UpperError> {
        const ACTION: &str = "read 'meta.json'";
        let refuse = |why: String| UpperError::Meta { path: path.to_owned(), why };
        let file = match sys::open::open_beneath(dir, FILE, OFlags::RDONLY | OFlags::NONBLOCK, 0) {
            Err(error) if Errno::of(&error) == Errno::ENOENT => return Ok(None),
            answer => File::from(answer.tried(ACTION, path)?),
        };
        if !file.metadata().tried(ACTION, path)?.is_file() {
            return Err(refuse("it is no regular file".to_owned()));
        }
        let mut text = Vec::new();
        file.take(MAX_LENGTH + 1).read_to_end(&mut text).tried(ACTION, path)?;
        if text.len() as u64 > MAX_LENGTH {
            return Err(refuse(format!("it is longer than {MAX_LENGTH} bytes")));
        }
        match json::from_slice::<Versioned>(&text) {
            Ok(Versioned { version: VERSION_OF_DATA | VERSION }) => {}
            Ok(Versioned { version }) => {
                return Err(refuse(format!(
                    "its version is {version}, and this nixview knows {VERSION_OF_DATA} and {VERSION}"
                )));
            }
            Err(error) => return Err(refuse(error.to_string())),
        }
        json::from_slice(&text).map(Some).map_err(|error| refuse(error.to_string()))
    }

    /// Writes the file of an upper: whole or not at all, and durable unless the upper goes with its view.
    pub(super) fn write(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<(), UpperError> {
        self.replace(dir).tried("write 'meta.json'", path)
    }

    fn replace(&self, dir: BorrowedFd<'_>) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        match sys::names::unlink(dir, NEW_FILE) {
            Err(error) if Errno::of(&error) != Errno::ENOENT => return Err(error),
            _ => {}
        }
        let mut file = File::from(sys::names::create_file(dir, NEW_FILE, 0o600)?);
        file.write_all(&text)?;
        if !self.temporary {
            file.sync_all()?;
        }
        sys::names::rename((dir, NEW_FILE), (dir, FILE), RenameFlags::empty())?;
        if self.temporary { Ok(()) } else { sys::file::sync(sys::open::open_listing(dir)?.as_fd(), false) }
    }
}
