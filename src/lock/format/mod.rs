//! The file `env.lock`, version 1, byte for byte as `docs/env-lock.md` says.
//!
//! One value has one text: keys sorted, two spaces a level, a newline at the end. Reading is stricter than JSON: unknown
//! fields, fields that come twice, other versions, and values that no lock has are refused. All checks are on the
//! bytes that are then used; a file is read once.

mod file;
#[cfg(test)]
pub(super) mod tests;
mod text;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::environment::Environment;
use super::only::Only;
use super::source::Source;
use crate::closure::Mode;
use crate::store::{StoreDir, StorePath};

pub use file::MAX_SIZE;
pub(super) use file::read_bounded;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u64 = 1;

/// The longest name of an environment or an extra root, in bytes.
pub const MAX_NAME: usize = 128;

/// The most extra roots that a lock may have.
pub const MAX_EXTRA_ROOTS: usize = 100;

/// An environment, pinned: which store paths it is, and how that was found.
///
/// Invariants, kept by [`EnvLock::parse`] and [`EnvLock::check`]: at least one root; roots are distinct and in the store
/// directory; the name is of `0-9a-zA-Z+-._` and does not start with a dot. Fields stand in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvLock {
    /// What the closure of the roots must be.
    pub closure: LockedClosure,
    /// The variables of the one derivation that is developed; absent if they were not asked for.
    pub environment: Option<Environment>,
    /// What the closure of the roots lacks, sorted by name; each with its runtime closure.
    pub extra_roots: Vec<ExtraRoot>,
    /// Which closure of the roots it is.
    pub mode: Mode,
    /// What people call the environment.
    pub name: String,
    /// The part of the closure that is kept; absent if that is all of it.
    pub only: Option<Only>,
    /// What the closure starts from, in the order in which it was given.
    pub roots: Vec<Root>,
    /// What was locked, and what decided the result.
    pub source: Source,
    /// The store directory that all paths are in.
    pub store_dir: StoreDir,
    /// The system that it is for, as Nix names it: `x86_64-linux`; absent if nothing told.
    pub system: Option<String>,
}

/// What the closure of the roots must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockedClosure {
    /// The number of its members.
    pub count: u64,
    /// SHA-256 over the members' base names, sorted bytewise, each followed by a newline. Covers names, not contents.
    pub digest: Digest,
    /// The sum of the members' NAR sizes in bytes when it was locked, for people; absent if not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nar_size: Option<u64>,
    /// Absent if the store had recorded what refers to what; `scan` if that was found by reading its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<Recorded>,
}

/// How references were found, where nothing had recorded them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recorded {
    /// By looking for hash parts in the contents.
    Scan,
}

/// A path that is added to an environment with its runtime closure, and why: `certificates`, `fonts`, `bash`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExtraRoot {
    /// What it is for, as people call it; a name as those of environments.
    pub name: String,
    /// The path; no derivation.
    pub path: StorePath,
}

/// A path that the closure starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The derivation that it is an output of, where that is known.
    pub derivation: Option<StorePath>,
    /// Which output of it.
    pub output: Option<String>,
    /// The path.
    pub path: StorePath,
}

impl Root {
    /// A path of which nothing else is known.
    #[must_use]
    pub fn plain(path: StorePath) -> Self {
        Self { derivation: None, output: None, path }
    }
}

impl EnvLock {
    /// Says what no lock may say, if this one does.
    fn check(&self) -> Result<(), String> {
        check_name(&self.name).map_err(|problem| format!("\"name\" {problem}"))?;
        if let Some(system) = &self.system {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            if system.is_empty() || !system.bytes().all(plain) {
                return Err("\"system\" is no system as Nix names them".to_owned());
            }
        }
        if self.roots.is_empty() {
            return Err("it has no roots".to_owned());
        }
        let mut seen = BTreeSet::new();
        for root in &self.roots {
            if !seen.insert(&root.path) {
                return Err(format!("the root {} stands in it twice", root.path));
            }
            if root.derivation.as_ref().is_some_and(|d| !d.is_derivation()) {
                return Err(format!("\"drvPath\" of the root {} is no derivation", root.path));
            }
            let output = |o: &String| StorePath::from_base_name(format!("{ANY_HASH}-{o}").as_bytes()).is_ok();
            if root.output.as_ref().is_some_and(|o| !output(o)) {
                return Err(format!("\"output\" of the root {} is no name of an output", root.path));
            }
        }
        // A derivation that is developed is no member itself.
        let is_member = |root: &&Root| self.mode != Mode::Dev || !root.path.is_derivation();
        if self.closure.count < self.roots.iter().filter(is_member).count() as u64 {
            return Err("\"closure\" has fewer paths than there are roots".to_owned());
        }
        self.check_extra_roots()?;
        self.check_only()?;
        if let Some(environment) = &self.environment {
            let one = matches!(self.roots.as_slice(), [root] if root.path.is_derivation());
            if self.mode != Mode::Dev || !one {
                return Err("\"environment\" is of one derivation in mode dev, and this is none".to_owned());
            }
            environment.check(&self.store_dir)?;
        }
        self.source.check()
    }

    fn check_extra_roots(&self) -> Result<(), String> {
        if self.extra_roots.len() > MAX_EXTRA_ROOTS {
            return Err(format!("it has more than {MAX_EXTRA_ROOTS} extra roots"));
        }
        let mut before: Option<&str> = None;
        for extra in &self.extra_roots {
            check_name(&extra.name).map_err(|problem| format!("the name of an extra root {problem}"))?;
            if before.is_some_and(|before| before >= extra.name.as_str()) {
                return Err(format!("the extra root {} stands in it twice, or not in order", extra.name));
            }
            if extra.path.is_derivation() {
                return Err(format!("the extra root {} is a derivation", extra.name));
            }
            before = Some(&extra.name);
        }
        let distinct: BTreeSet<&StorePath> = self.extra_roots.iter().map(|extra| &extra.path).collect();
        if self.closure.count < distinct.len() as u64 {
            return Err("\"closure\" has fewer paths than there are extra roots".to_owned());
        }
        Ok(())
    }
}

/// Any hash part, to judge a name by the rule for names of store paths.
const ANY_HASH: &str = "00000000000000000000000000000000";

/// Says what is wrong with a name of an environment or of an extra root.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') {
        return Err(format!("must have 1 to {MAX_NAME} characters and not start with a dot"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b)) {
        return Err("may have letters, digits and +-._ only".to_owned());
    }
    Ok(())
}
