//! What was used of a view: the file that a trace leaves.
//!
//! Lines of JSON, as docs/on-disk.md says: first the [`Head`], then a line for each first use ([`Use`]), at the end how it ended
//! ([`End`]). Paths are those of the view, without a slash in front: `store/HASH-name/bin/sh`; the view itself is the empty one.
//!
//! Knows nothing of views and stores, so that a file can be read anywhere.

mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use text::{TraceError, end_line, head_line, is_one, read, use_line};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// How something was used, the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Its name was looked up, which stat(2) does, and walking through a directory.
    LookedUp,
    /// A directory was listed.
    Listed,
    /// The target of a symbolic link was read.
    LinkRead,
    /// A file was opened: to be read, executed or mapped.
    Opened,
}

impl Kind {
    /// All, the weakest first.
    pub const ALL: [Self; 4] = [Self::LookedUp, Self::Listed, Self::LinkRead, Self::Opened];
}

/// A set of [`Kind`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u8);

impl Kinds {
    /// Adds one.
    pub fn add(&mut self, kind: Kind) {
        self.0 |= 1 << kind as u8;
    }

    /// Adds all of another set.
    pub fn unite(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// True if it has this one.
    #[must_use]
    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Kind::ALL.into_iter().filter(|kind| self.has(*kind))).finish()
    }
}

/// What was traced, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// [`VERSION`].
    pub nixview_trace: u32,
    /// The name of the view.
    pub view: String,
    /// The name of its environment.
    pub environment: String,
    /// The lock that it was made from.
    pub lock_file: PathBuf,
    /// What the view shows.
    pub closure: TracedClosure,
    /// The store, where it lies on the machine.
    pub store: PathBuf,
    /// The store directory that its paths name.
    pub store_dir: String,
    /// How files are read: `passthrough` or `cached`.
    pub io: String,
    /// Every open since the beginning is in it. If not, the kernel opened files without asking: then they count when something of them
    /// is read for the first time.
    pub exact: bool,
    /// It began with the view: nothing was looked up, listed or read as a link before.
    pub from_start: bool,
    /// When it began, in seconds since 1970.
    pub since: u64,
}

/// The closure of the view, as its lock has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracedClosure {
    /// Its digest.
    pub digest: String,
    /// How many store paths.
    pub count: u64,
}

/// How a trace ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// When, in seconds since 1970.
    pub until: u64,
    /// False if there was no memory for all uses.
    pub complete: bool,
}

/// A first use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Use {
    /// How.
    pub kind: Kind,
    /// What: the path in the view, in bytes.
    pub path: Vec<u8>,
    /// It was what the upper has there: copied up, or new.
    pub upper: bool,
}

/// A trace as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// What was traced.
    pub head: Head,
    /// How each path of the store (and of Nix's state) was used.
    pub lower: BTreeMap<Vec<u8>, Kinds>,
    /// How each path was used that was the upper's.
    pub upper: BTreeMap<Vec<u8>, Kinds>,
    /// How it ended; `None` if it goes on, or its writer was killed.
    pub end: Option<End>,
}

impl Trace {
    /// One without any use.
    #[must_use]
    pub fn new(head: Head) -> Self {
        Self { head, lower: BTreeMap::new(), upper: BTreeMap::new(), end: None }
    }

    /// Adds a use; how often something was used is not kept.
    pub fn add(&mut self, used: Use) {
        let paths = if used.upper { &mut self.upper } else { &mut self.lower };
        paths.entry(used.path).or_default().add(used.kind);
    }
}
