//! The names of an image's files.

use crate::store::nixbase32;

/// Changes whenever another image is made out of the same members, or another record is written.
pub(super) const FORMAT: u32 = 1;

/// The ends of the names of images and records.
pub(super) const IMAGE: &str = ".erofs";
pub(super) const RECORD: &str = ".json";

/// What the files of an image are called.
#[derive(Debug)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn new(digest: &[u8; 32], nix_state: bool) -> Self {
        let state = if nix_state { "-state" } else { "" };
        Self(format!("{}-v{FORMAT}{state}", nixbase32::encode(digest)))
    }

    /// The key that is in the name of an image or record.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let key = name.strip_suffix(IMAGE).or_else(|| name.strip_suffix(RECORD))?;
        Some(Self(key.to_owned()))
    }

    /// The name of the image.
    pub(super) fn image(&self) -> String {
        format!("{}{IMAGE}", self.0)
    }

    /// The name of the record.
    pub(super) fn record(&self) -> String {
        format!("{}{RECORD}", self.0)
    }
}
