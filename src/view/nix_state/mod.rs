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
//! - Who shows a template holds a shared lock of its directory (flock(2)); [`sweep()`] removes what nobody holds.
//!   An overlay outlives who made it: a file says of it (`held`).

mod draft;
mod error;
mod held;
mod sweep;
mod template;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::late::{Late, LateError, Made};
use super::members::Members;
use super::open_read_only;
use crate::layer::dir::DirLower;
use crate::lock::EnvLock;
use crate::store::database::{Links, Records};
use crate::store::{Database, Location, StorePath};
use crate::sys::memory;
use crate::vfs::Errno;

pub use error::NixStateError;
pub use held::HeldTemplate;
pub use sweep::{Swept, sweep};

use error::Tried;
use template::Template;

/// Changes whenever another template is made out of the same records.
const FORMAT: u8 = 3;

/// How often a template is made that is removed before it is used.
const ATTEMPTS: usize = 8;

/// Below the state directory: the templates.
pub const DIRECTORY: &str = "nix-state";

/// In a template: the directory that is `var` in a view. An overlay's closure layer leads to this name, which no store path can have.
pub const TOP: &str = "nix-state";

/// What the template of a view is made of.
#[derive(Debug)]
pub struct NixState {
    /// Where templates are.
    dir: PathBuf,
    store: Location,
    /// The directory of the host's database, opened before the view can be mounted over it: a look at it by its path would
    /// wait for this view.
    database: Arc<OwnedFd>,
    members: Arc<Members>,
    /// Roots of the collector in the view; `None`: all members.
    roots: Option<Vec<StorePath>>,
    /// [`Links::Within`] for a part of a closure: what it does not have is not referred to in the view's database.
    links: Links,
}

impl NixState {
    /// That of a view of `members`; `None` if the store has no database of Nix's, and so nothing is known of them.
    ///
    /// # Errors
    /// If the directory of the database cannot be opened.
    pub fn of(
        state: &Path,
        store: &Location,
        lock: &EnvLock,
        members: &Arc<Members>,
    ) -> io::Result<Option<Self>> {
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
        let (dir, members) = (state.join(DIRECTORY), Arc::clone(members));
        Ok(Some(Self { dir, store: store.clone(), database, members, roots, links }))
    }

    /// The layer `var`, found or made when it is first needed.
    #[must_use]
    pub fn late(self) -> Late<DirLower> {
        Late::new(move || {
            let opened = self.open();
            // What was read of the members is not needed any more.
            memory::give_back();
            opened.map_err(|error| LateError { errno: error.errno(), why: error.to_string() })
        })
    }

    /// Finds the template, or makes it.
    ///
    /// # Errors
    /// What hinders it; nothing but a draft is left then.
    pub fn open(&self) -> Result<Made<DirLower>, NixStateError> {
        let template = self.template()?;
        let opened = open_read_only(&template.path().join(TOP)).tried("open", &self.dir)?;
        let layer = DirLower::new(&opened).tried("open", &self.dir)?;
        Ok(Made { layer, held: Some(template.into_lock()) })
    }

    /// Finds the template, or makes it, as a layer of an overlay: a directory on a read-only clone of its mount, in which [`TOP`] is
    /// what the view shows.
    ///
    /// # Errors
    /// What hinders it; nothing but a draft is left then.
    pub fn open_for_overlay(&self) -> Result<Made<OwnedFd>, NixStateError> {
        let template = self.template()?;
        let layer = open_read_only(&template.path()).tried("open", &self.dir)?;
        Ok(Made { layer, held: Some(template.into_lock()) })
    }

    fn template(&self) -> Result<Template, NixStateError> {
        template::make_directory(&self.dir).tried("make the directory", &self.dir)?;
        let database = Database::open_in(&self.store, &self.database, self.dir.join(draft::COPY))?;
        let paths: Vec<StorePath> =
            self.members.iter().filter_map(|name| StorePath::from_base_name(name).ok()).collect();
        let records = database.records(&paths, self.links)?;
        let key = self.key(&records);
        if let Some(template) = Template::open(&self.dir, &key)? {
            return Ok(template);
        }
        let turn = draft::turn(&self.dir).tried("lock", &self.dir)?;
        for _ in 0..ATTEMPTS {
            if let Some(template) = Template::open(&self.dir, &key)? {
                return Ok(template);
            }
            self.make(&key, &records, &paths)?;
            // It is there now, unless it was removed in this instant.
            if let Some(template) = Template::open(&self.dir, &key)? {
                drop(turn);
                return Ok(template);
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
        for root in self.roots.iter().flatten() {
            hasher.update("\n");
            hasher.update(root.as_str());
        }
        crate::store::nixbase32::encode(&hasher.finalize())
    }
}
