//! The closure of a lock that was found to be the one that was locked, without reading its names again.
//!
//! A mount asks one question: does the store, as it is now, have exactly the closure that the lock names? The answer is
//! noted in `STATE/verified/KEY` and holds as long as Nix's database does not change, so that asking again costs the same
//! for 10 members and for 50,000. The names are read when something needs them.

use std::cell::OnceCell;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::LockError;
use super::format::EnvLock;
use super::verify;
use crate::closure::Closure;
use crate::store::database::Stamp;
use crate::store::{Location, nixbase32, stamped};

/// Below the state directory: the notes.
const DIRECTORY: &str = "verified";

/// Changes whenever a question is asked in another way.
const FORMAT: u8 = 1;

/// A closure that is the one that was locked.
#[derive(Debug)]
pub struct VerifiedClosure<'l> {
    lock: &'l EnvLock,
    store: &'l Location,
    state: &'l Path,
    read: OnceCell<Closure>,
}

impl EnvLock {
    /// Says whether a store, as it is now, has the closure that was locked; `state` is where caches lie.
    ///
    /// # Errors
    /// As [`EnvLock::closure_in`] and [`verify`].
    pub fn verified_in<'l>(
        &'l self,
        store: &'l Location,
        state: &'l Path,
    ) -> Result<VerifiedClosure<'l>, LockError> {
        let verified = VerifiedClosure { lock: self, store, state, read: OnceCell::new() };
        let stamp = store.database_file().and_then(|file| Stamp::take(&file).ok());
        let note = directory(state).join(verified.question()?);
        let answer = format!("{} {}", self.closure.digest, self.closure.count);
        if stamp.as_ref().and_then(|stamp| stamped::recall(&note, stamp)).is_some_and(|is| is == answer) {
            return Ok(verified);
        }
        verified.paths()?;
        if let Some(stamp) = stamp
            && let Err(error) = make_directory(state).and_then(|()| stamped::note(&note, &stamp, &answer))
        {
            tracing::debug!(%error, note = %note.display(), "the closure is verified again next time");
        }
        Ok(verified)
    }
}

impl VerifiedClosure<'_> {
    /// The closure; read, and compared with the lock, when this is first asked.
    ///
    /// # Errors
    /// As [`EnvLock::closure_in`] and [`verify`].
    pub fn paths(&self) -> Result<&Closure, LockError> {
        if let Some(closure) = self.read.get() {
            return Ok(closure);
        }
        let (closure, _) = self.lock.closure_in(self.store, self.state)?;
        verify(self.lock, &closure)?;
        Ok(self.read.get_or_init(|| closure))
    }

    /// What the closure follows from, beside the database.
    fn question(&self) -> Result<String, LockError> {
        let mut hasher = Sha256::new();
        hasher.update([FORMAT]);
        hasher.update(self.store.dir.as_str());
        hasher.update("\0");
        hasher.update(self.store.real.as_os_str().as_bytes());
        hasher.update("\0");
        hasher.update(self.lock.print()?);
        Ok(nixbase32::encode(&hasher.finalize()))
    }
}

fn directory(state: &Path) -> PathBuf {
    state.join(DIRECTORY)
}

fn make_directory(state: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory(state))
}

/// Removes the notes that were made longer than `age` ago; with `dry_run` only counts them.
///
/// # Errors
/// The first that occurs.
pub fn sweep_verified(state: &Path, age: Duration, dry_run: bool) -> io::Result<u64> {
    stamped::sweep(&directory(state), "", age, dry_run)
}
