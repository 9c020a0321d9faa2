//! `view.json`: what an upper lay over when it was last mounted. Without it nobody could say later what it changes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use super::error::{Tried, UpperError};
use crate::json;
use crate::lock::format::MAX_SIZE;
use crate::lock::{Digest, EnvLock};
use crate::sys;
use crate::vfs::Errno;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// The file, and where it is before it is whole.
pub(super) const FILE: &[u8] = b"view.json";
pub(super) const NEW_FILE: &[u8] = b"view.json.new";

/// What an upper lay over when it was last mounted, or imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastView {
    /// The environment.
    pub lock: EnvLock,
    /// The store, where it lies on this machine.
    pub store: PathBuf,
    /// User and group that everything of the store was shown as.
    pub owner: (u32, u32),
    /// The digest of the closure that the upper's own Nix database was begun with, if it had one when it was mounted.
    pub database_of: Option<Digest>,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    version: u32,
    store: PathBuf,
    uid: u32,
    gid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    database_of: Option<String>,
    lock: serde_json::Value,
}

impl LastView {
    /// Reads the file of an upper; `None` if there is none.
    pub(super) fn read(dir: BorrowedFd<'_>, path: &Path) -> Result<Option<Self>, UpperError> {
        const ACTION: &str = "read 'view.json'";
        let Some(text) = text(dir).tried(ACTION, path)? else { return Ok(None) };
        Self::parse(&text).map(Some).map_err(|why| UpperError::LastView { path: path.to_owned(), why })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > MAX_SIZE {
            return Err(format!("it is longer than {MAX_SIZE} bytes"));
        }
        let written: Written = json::from_slice(text).map_err(|error| error.to_string())?;
        if written.version != VERSION {
            return Err(format!(
                "its version is {}, and this nixview knows {VERSION} alone",
                written.version
            ));
        }
        let lock = serde_json::to_vec(&written.lock).map_err(|error| error.to_string())?;
        let lock = EnvLock::parse(&lock, "view.json").map_err(|error| error.to_string())?;
        let database_of = written.database_of.as_deref().map(Digest::parse).transpose();
        let database_of = database_of.map_err(|error| format!("databaseOf: {error}"))?;
        Ok(Self { lock, store: written.store, owner: (written.uid, written.gid), database_of })
    }

    /// Writes the file of an upper, whole or not at all, unless it says the same already. It is not synced: what it says can be given
    /// by hand.
    pub(super) fn write(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<(), UpperError> {
        const ACTION: &str = "write 'view.json'";
        let refuse = |why: String| UpperError::LastView { path: path.to_owned(), why };
        let lock = self.lock.print().map_err(|error| refuse(error.to_string()))?;
        let lock = json::from_slice(lock.as_bytes()).map_err(|error| refuse(error.to_string()))?;
        let (uid, gid) = self.owner;
        let database_of = self.database_of.as_ref().map(Digest::to_string);
        let written = Written { version: VERSION, store: self.store.clone(), uid, gid, database_of, lock };
        let mut new = serde_json::to_vec_pretty(&written).map_err(|error| refuse(error.to_string()))?;
        new.push(b'\n');
        if text(dir).tried(ACTION, path)?.is_some_and(|old| old == new) {
            return Ok(());
        }
        replace(dir, &new).tried(ACTION, path)
    }
}

fn text(dir: BorrowedFd<'_>) -> std::io::Result<Option<Vec<u8>>> {
    let file = match sys::open::open_beneath(dir, FILE, OFlags::RDONLY | OFlags::NONBLOCK, 0) {
        Err(error) if Errno::of(&error) == Errno::ENOENT => return Ok(None),
        answer => File::from(answer?),
    };
    let mut text = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn replace(dir: BorrowedFd<'_>, text: &[u8]) -> std::io::Result<()> {
    match sys::names::unlink(dir, NEW_FILE) {
        Err(error) if Errno::of(&error) != Errno::ENOENT => return Err(error),
        _ => {}
    }
    let mut file = File::from(sys::names::create_file(dir, NEW_FILE, 0o600)?);
    file.write_all(text)?;
    sys::names::rename((dir, NEW_FILE), (dir, FILE), RenameFlags::empty())
}
