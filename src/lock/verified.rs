//! The closure of a lock that was found to be the one that was locked, without reading its names again.
//!
//! A mount asks one question: does the store, as it is now, have exactly the closure that the lock names? The answer is
//! noted in `STATE/verified/KEY` and holds as long as Nix's database does not change, so that asking again costs the same
//! for 10 members and for 50,000. The names are read when something needs them. Of a closure that does not follow from the
//! references of its roots (modes `build` and `dev`, a part of a closure) the answer has what must be roots of the collector.

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
use crate::store::database::{Database, Stamp};
use crate::store::{Location, StorePath, nixbase32, stamped};

/// Below the state directory: the notes.
const DIRECTORY: &str = "verified";

/// Changes whenever a question is asked in another way.
const FORMAT: u8 = 2;

/// A closure that is the one that was locked.
#[derive(Debug)]
pub struct VerifiedClosure<'l> {
    lock: &'l EnvLock,
    store: &'l Location,
    state: &'l Path,
    read: OnceCell<Closure>,
    to_pin: Vec<StorePath>,
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
        let few = self.few_to_pin();
        let mut verified =
            VerifiedClosure { lock: self, store, state, read: OnceCell::new(), to_pin: Vec::new() };
        let stamp = store.database_file().and_then(|file| Stamp::take(&file).ok());
        let note = directory(state).join(verified.question()?);
        let begin = format!("{} {}", self.closure.digest, self.closure.count);
        let answer = stamp.as_ref().and_then(|stamp| stamped::recall(&note, stamp));
        let noted = answer.as_deref().and_then(|answer| answer.strip_prefix(&begin)).and_then(roots_of);
        if let Some(to_pin) = noted.map(|noted| few.clone().unwrap_or(noted))
            && (!to_pin.is_empty() || self.closure.count == 0)
        {
            verified.to_pin = to_pin;
            return Ok(verified);
        }
        let paths = verified.paths()?.paths();
        let (to_pin, of_note) = match few {
            Some(few) => (few, String::new()),
            None => {
                let to_pin = fewest_roots(store, paths);
                let of_note = to_pin.iter().map(|path| format!(" {path}")).collect();
                (to_pin, of_note)
            }
        };
        verified.to_pin = to_pin;
        if let Some(stamp) = stamp
            && let Err(error) =
                make_directory(state).and_then(|()| stamped::note(&note, &stamp, &(begin + &of_note)))
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

    /// What must be roots of Nix's collector, so that no member goes.
    #[must_use]
    pub fn to_pin(&self) -> &[StorePath] {
        &self.to_pin
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

/// The fewest members that keep the others; all, where their references cannot be read.
fn fewest_roots(store: &Location, paths: &[StorePath]) -> Vec<StorePath> {
    let fewest = Database::open(store).and_then(|database| database.fewest_roots(paths));
    fewest.unwrap_or_else(|error| {
        tracing::debug!(%error, "each member is a root");
        paths.to_vec()
    })
}

/// The paths of an answer, each after a space; `None` if one is none.
fn roots_of(text: &str) -> Option<Vec<StorePath>> {
    let Some(text) = text.strip_prefix(' ') else { return text.is_empty().then(Vec::new) };
    text.split(' ').map(|name| name.parse().ok()).collect()
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
