//! Templates that overlays show: held also when the keeper, which has the shared lock, is killed and the kernel goes on.
//!
//! `STATE/nix-state/use-PID-N` is locked (OFD) by the keeper. It says of the overlay, and in a second line of the template, by the number
//! of its directory's inode.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::DIRECTORY;
use crate::sys::lock;
use crate::sys::overlay_use::{self, OverlayUse};

/// What the names of these files begin with.
const PREFIX: &str = "use-";

/// What the line of a template begins with.
const MARK: &str = "template ";

/// The longest file, in bytes.
const MOST: u64 = 512;

/// How often a file is begun that a sweep takes away at that moment.
const ATTEMPTS: u32 = 1000;

/// A note that an overlay shows a template; it goes with this, if the overlay is gone by then.
#[derive(Debug)]
pub struct HeldTemplate {
    path: PathBuf,
    overlay: OverlayUse,
    /// It is known to be gone: by now its numbers may be another one's.
    is_gone: bool,
    /// Locked.
    _file: File,
    /// Locked by all that show it.
    _template: OwnedFd,
}

impl HeldTemplate {
    /// Notes that `overlay` shows the template of which this is the lock.
    ///
    /// # Errors
    /// Those of writing below the state directory.
    pub fn note(state: &Path, template: OwnedFd, overlay: &OverlayUse) -> io::Result<Self> {
        let dir = state.join(DIRECTORY);
        let number = rustix::fs::fstat(&template)?.st_ino;
        for attempt in 0..ATTEMPTS {
            let path = dir.join(format!("{PREFIX}{}-{attempt}", std::process::id()));
            let mut options = OpenOptions::new();
            let mut file = match options.create_new(true).read(true).write(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                opened => opened?,
            };
            // A sweep takes away what is not locked.
            if lock::try_lock(&file)? && file.metadata()?.nlink() > 0 {
                let line = overlay.line_in(&file)?;
                file.write_all(format!("{line}\n{MARK}{number}\n").as_bytes())?;
                return Ok(Self {
                    path,
                    overlay: overlay.clone(),
                    is_gone: false,
                    _file: file,
                    _template: template,
                });
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }
}

impl HeldTemplate {
    /// Removes the note: the overlay is gone. The kernel may still show its anchor for a moment after it told so.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn forget(mut self) -> io::Result<()> {
        self.is_gone = true;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for HeldTemplate {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        let gone = match self.overlay.is_used() {
            Ok(false) if !self.path.exists() => Ok(()),
            Ok(false) => std::fs::remove_file(&self.path),
            used => used.map(drop),
        };
        if let Err(error) = gone {
            tracing::debug!(%error, path = %self.path.display(), "left to the next sweep");
        }
    }
}

/// Removes the notes of the process `pid`, whose locks are free and whose overlays are gone.
///
/// # Errors
/// The first that occurs.
pub fn forget_uses(state: &Path, pid: u32) -> io::Result<()> {
    let prefix = format!("{PREFIX}{pid}-");
    for attempt in 0..ATTEMPTS {
        let path = state.join(DIRECTORY).join(format!("{prefix}{attempt}"));
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        if lock::try_lock(&file)? && !overlay_use::is_used(&file)? && file.metadata()?.nlink() > 0 {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The inode numbers of the templates in `dir` that overlays show; removes notes of overlays that are gone, unless `dry_run`.
///
/// # Errors
/// The first that occurs.
pub(super) fn held(dir: &Path, dry_run: bool) -> io::Result<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            || !entry.file_type()?.is_file()
        {
            continue;
        }
        let file = match OpenOptions::new().read(true).write(true).open(entry.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        if !lock::try_lock(&file)? || overlay_use::is_used(&file)? {
            let mut text = String::new();
            (&file).take(MOST).read_to_string(&mut text)?;
            held.extend(text.lines().filter_map(|line| line.strip_prefix(MARK)?.parse::<u64>().ok()));
        } else if !dry_run && file.metadata()?.nlink() > 0 {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(held)
}
