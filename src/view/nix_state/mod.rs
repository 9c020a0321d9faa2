//! Nix's state as a view shows it below `var`: a database that holds exactly the closure, and the directories that Nix expects.
//!
//! It is a part of the lower: a *template*, made once out of what the host's database records of the members, in
//! `STATE/nix-state/KEY`, and shared by all views that show the same. KEY is a digest of everything that is in it, so that a template
//! is never wrong, only unused. What Nix changes in a view goes to its upper, like all else.
//!
//! Nothing is made before somebody looks below `var`: a mount costs the same whatever the closure.
//!
//! - A template is drafted beside its place (`draft-…`, locked by its maker) and gets its name, whole and synced, by one rename. Of two
//!   makers one wins.
//! - `key-QUESTION` notes which template a closure has, as long as the database stays as it is ([`stamped`]).
//! - Who shows a template holds a shared lock of its directory (flock(2)); [`sweep()`] removes what nobody holds.
//!   An overlay outlives who made it: a file says of it (`held`).

mod draft;
mod error;
mod held;
mod sweep;
mod template;
mod tree;

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::late::{Late, LateError, Made};
use super::members::Members;
use super::open_read_only;
use crate::layer::dir::DirLower;
use crate::lock::EnvLock;
use crate::store::database::{Links, Records, Stamp};
use crate::store::{Database, Location, StorePath, stamped};
use crate::sys::{self, memory};
use crate::vfs::Errno;

pub use error::NixStateError;
pub use held::{HeldTemplate, forget_uses};
pub use sweep::{Swept, sweep};

use error::Tried;
use template::Template;

/// Changes whenever another template is made out of the same records.
const FORMAT: u8 = 3;

/// What the names of notes of keys begin with.
const NOTE: &str = "key-";

/// How often a template is made that is removed before it is used.
const ATTEMPTS: usize = 8;

/// Below the state directory: the templates.
pub const DIRECTORY: &str = "nix-state";

/// In a template: the directory that is `var` in a view. An overlay's closure layer leads to this name, which no store path can have.
pub const TOP: &str = "nix-state";

/// Tells the members of the closure; asked only if their records must be read.
pub type MembersOf<'f> = &'f dyn Fn() -> Result<Arc<Members>, Box<dyn Error + Send + Sync>>;

/// True for the name of a template, which is no path that leads elsewhere.
fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What the template of a view is made of.
#[derive(Debug)]
pub struct NixState {
    /// Where templates are.
    dir: PathBuf,
    store: Location,
    /// The directory of the host's database, opened before the view can be mounted over it: a look at it by its path would
    /// wait for this view.
    database: Arc<OwnedFd>,
    /// Of the closure: stands for its members.
    digest: [u8; 32],
    /// Roots of the collector in the view; `None`: all members.
    roots: Option<Vec<StorePath>>,
    /// [`Links::Within`] for a part of a closure: what it does not have is not referred to in the view's database.
    links: Links,
}

impl NixState {
    /// That of a view of the closure of `lock`; `None` if the store has no database of Nix's, and so nothing is known of its
    /// members.
    ///
    /// # Errors
    /// If the directory of the database cannot be opened.
    pub fn of(state: &Path, store: &Location, lock: &EnvLock) -> io::Result<Option<Self>> {
        let file = store.database_file().filter(|file| file.is_file());
        let Some(directory) = file.as_deref().and_then(Path::parent) else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let database = Arc::new(rustix::fs::open(directory, flags, Mode::empty())?);
        let roots = lock.few_to_pin().map(|mut roots| {
            roots.sort_unstable();
            roots.dedup();
            roots
        });
        let links = if lock.only.is_some() { Links::Within } else { Links::Closed };
        let (dir, digest) = (state.join(DIRECTORY), *lock.closure.digest.as_bytes());
        Ok(Some(Self { dir, store: store.clone(), database, digest, roots, links }))
    }

    /// The layer `var` of the closure with these members, found or made when it is first needed.
    #[must_use]
    pub fn late(self, members: Arc<Members>) -> Late<DirLower> {
        Late::new(move || {
            let opened = self.open(&|| Ok(Arc::clone(&members)));
            // What was read of the members is not needed any more.
            memory::give_back();
            opened.map_err(|error| LateError { errno: error.errno(), why: error.to_string() })
        })
    }

    /// Finds the template, or makes it.
    ///
    /// # Errors
    /// What hinders it; nothing but a draft is left then.
    pub fn open(&self, members: MembersOf<'_>) -> Result<Made<DirLower>, NixStateError> {
        let template = self.template(members)?;
        let opened = open_read_only(&template.path().join(TOP)).tried("open", &self.dir)?;
        let layer = DirLower::new(&opened).tried("open", &self.dir)?;
        Ok(Made { layer, held: Some(template.into_lock()) })
    }

    /// Finds the template, or makes it, as a layer of an overlay: a directory on a read-only clone of its mount, in which [`TOP`] is
    /// what the view shows.
    ///
    /// # Errors
    /// What hinders it; nothing but a draft is left then.
    pub fn open_for_overlay(&self, members: MembersOf<'_>) -> Result<Made<OwnedFd>, NixStateError> {
        let template = self.template(members)?;
        let layer = open_read_only(&template.path()).tried("open", &self.dir)?;
        Ok(Made { layer, held: Some(template.into_lock()) })
    }

    /// The key of a template follows from the database and the closure: what was found once holds until the database changes.
    fn template(&self, members: MembersOf<'_>) -> Result<Template, NixStateError> {
        template::make_directory(&self.dir).tried("make the directory", &self.dir)?;
        let file = self.store.database_file().unwrap_or_default();
        let file = PathBuf::from(sys::open::proc_path(self.database.as_fd()))
            .join(file.file_name().unwrap_or_default());
        let stamp = Stamp::take(&file).ok();
        let note = self.dir.join(self.note());
        if let Some(key) = stamp.as_ref().and_then(|stamp| stamped::recall(&note, stamp))
            && is_key(&key)
            && let Some(template) = Template::open(&self.dir, &key)?
        {
            return Ok(template);
        }
        let (key, template) = self.find_or_make(members)?;
        if let Some(stamp) = stamp
            && let Err(error) = stamped::note(&note, &stamp, &key)
        {
            tracing::debug!(%error, note = %note.display(), "the state of Nix is looked for again next time");
        }
        Ok(template)
    }

    /// The name of the note that tells the key.
    fn note(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update([
            FORMAT,
            u8::from(self.roots.is_some()),
            u8::from(matches!(self.links, Links::Within)),
        ]);
        hasher.update(self.digest);
        for part in [self.store.dir.as_str().as_bytes(), self.store.real.as_os_str().as_bytes()] {
            hasher.update(part);
            hasher.update("\0");
        }
        self.hash_roots(&mut hasher);
        format!("{NOTE}{}", crate::store::nixbase32::encode(&hasher.finalize()))
    }

    fn hash_roots(&self, hasher: &mut Sha256) {
        for root in self.roots.iter().flatten() {
            hasher.update("\n");
            hasher.update(root.as_str());
        }
    }

    /// Reads what the database has of the members, and finds the template of that, or makes it.
    fn find_or_make(&self, members: MembersOf<'_>) -> Result<(String, Template), NixStateError> {
        let members = members().map_err(NixStateError::Members)?;
        let database = Database::open_in(&self.store, &self.database, self.dir.join(draft::COPY))?;
        let paths: Vec<StorePath> =
            members.iter().filter_map(|name| StorePath::from_base_name(name).ok()).collect();
        let records = database.records(&paths, self.links)?;
        let key = self.key(&records);
        if let Some(template) = Template::open(&self.dir, &key)? {
            return Ok((key, template));
        }
        let turn = draft::turn(&self.dir).tried("lock", &self.dir)?;
        for _ in 0..ATTEMPTS {
            if let Some(template) = Template::open(&self.dir, &key)? {
                return Ok((key, template));
            }
            self.make(&key, &records, &paths)?;
            // It is there now, unless it was removed in this instant.
            if let Some(template) = Template::open(&self.dir, &key)? {
                drop(turn);
                return Ok((key, template));
            }
        }
        Err(io::Error::from(Errno::EAGAIN)).tried("make a template in", &self.dir)
    }

    /// Makes the template with this key.
    fn make(&self, key: &str, records: &Records, paths: &[StorePath]) -> Result<(), NixStateError> {
        let draft = draft::Draft::make(&self.dir)?;
        let roots: Vec<&StorePath> = match &self.roots {
            Some(roots) => roots.iter().collect(),
            None => paths.iter().collect(),
        };
        tree::write(&draft.path().join(TOP), &self.store.dir, records, &roots)?;
        draft.publish(key)
    }

    fn key(&self, records: &Records) -> String {
        let mut hasher = Sha256::new();
        hasher.update([FORMAT, u8::from(self.roots.is_some())]);
        hasher.update(self.store.dir.as_str());
        hasher.update(records.digest());
        self.hash_roots(&mut hasher);
        crate::store::nixbase32::encode(&hasher.finalize())
    }
}
