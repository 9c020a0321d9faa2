//! A tiny deterministic Nix store with its database, made without Nix.
//!
//! Everything in it is what real Nix would have made: store paths, NAR hashes, derivations, references, modes, times,
//! hard links of an optimised store, and a database of schema 10. `nix-store --verify --check-contents` finds no
//! fault (`tests/nix/mini_store.rs` of the parent package). What the members are is told in [`mod@contents`].
//!
//! ```
//! let store = mini_store::MiniStore::temporary();
//! assert!(store.real("env-a").join("bin/hello").is_symlink());
//! assert!(store.closure("env-a").contains(&store.path("libc")));
//! assert!(!store.closure("env-a").contains(&store.path("secret")));
//! ```

pub mod contents;
pub mod database;
pub mod derivation;
pub mod nar;
pub mod store_path;
pub mod tree;

mod builder;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use builder::Member;

/// The store directory that the paths name, wherever the store lies on this machine.
pub const STORE_DIR: &str = "/nix/store";

/// A tiny store on disk: `ROOT/nix/store` and `ROOT/nix/var/nix/db/db.sqlite`.
///
/// Members are told by label: `env-a`, `libc`, `libc-dev` (the output `dev`), `libc.drv`. [`contents`] lists them.
#[derive(Debug)]
pub struct MiniStore {
    root: PathBuf,
    members: BTreeMap<String, Member>,
    /// Removes the tree at the end, if it is temporary.
    _temporary: Option<Removal>,
}

impl MiniStore {
    /// Makes the store below `root`, which is created when it is missing.
    ///
    /// # Panics
    /// If it cannot be made: this is for tests. [`MiniStore::create`] returns the error.
    #[must_use]
    pub fn build(root: &Path) -> MiniStore {
        MiniStore::create(root).unwrap_or_else(|error| panic!("mini-store in {}: {error}", root.display()))
    }

    /// Makes the store in a temporary directory that goes away with the value, read-only directories and all.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn temporary() -> MiniStore {
        let dir = tempfile::Builder::new().prefix("mini").tempdir().expect("a temporary directory");
        let removal = Removal(dir.keep());
        let mut store = MiniStore::build(&removal.0);
        store._temporary = Some(removal);
        store
    }

    /// Makes the store below `root`, which is created when it is missing.
    ///
    /// # Errors
    /// If `root/nix/store` exists already, or cannot be written.
    pub fn create(root: &Path) -> io::Result<MiniStore> {
        let members = contents::members();
        let store = root.join("nix/store");
        std::fs::create_dir_all(root.join("nix"))?;
        std::fs::create_dir(&store)?;
        let links = store.join(".links");
        std::fs::create_dir(&links)?;
        for member in members.values() {
            if let Some(tree) = &member.tree {
                tree.write(&store.join(&member.base), &links)?;
            }
        }
        tree::set_old(&links)?;
        tree::set_old(&store)?;
        database::write(&root.join("nix/var/nix"), &members)?;
        Ok(MiniStore { root: root.to_owned(), members, _temporary: None })
    }

    /// The directory that holds `nix/store` and `nix/var`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the store paths lie: `ROOT/nix/store`.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.root.join("nix/store")
    }

    /// Nix's state directory: `ROOT/nix/var/nix`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("nix/var/nix")
    }

    /// Nix's database file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state_dir().join("db/db.sqlite")
    }

    /// The labels of all members, sorted; also of outputs that are not built.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// All that is known of a member.
    ///
    /// # Panics
    /// If there is no such label; so do all methods that take one.
    #[must_use]
    pub fn member(&self, label: &str) -> &Member {
        self.members.get(label).unwrap_or_else(|| panic!("mini-store has no '{label}'"))
    }

    /// The base name of a member: hash part, `-`, name.
    #[must_use]
    pub fn path(&self, label: &str) -> &str {
        &self.member(label).base
    }

    /// The path of a member as the store's own contents name it: `/nix/store/HASH-NAME`.
    #[must_use]
    pub fn logical(&self, label: &str) -> String {
        format!("{STORE_DIR}/{}", self.path(label))
    }

    /// Where a member lies on this machine.
    #[must_use]
    pub fn real(&self, label: &str) -> PathBuf {
        self.store_dir().join(self.path(label))
    }

    /// Base names of what a member refers to, sorted; itself among them if it does.
    #[must_use]
    pub fn references(&self, label: &str) -> Vec<&str> {
        self.bases(&self.member(label).references)
    }

    /// Base names of a member's closure over references, sorted: `nix-store -qR`.
    #[must_use]
    pub fn closure(&self, label: &str) -> Vec<&str> {
        self.bases(&self.reach(label, false))
    }

    /// Base names of a derivation's closure with all its valid outputs, sorted: `nix-store -qR --include-outputs`.
    #[must_use]
    pub fn build_closure(&self, label: &str) -> Vec<&str> {
        self.bases(&self.reach(label, true))
    }

    fn bases<'l>(&self, labels: impl IntoIterator<Item = &'l String>) -> Vec<&str> {
        let mut bases: Vec<&str> = labels.into_iter().map(|label| self.path(label)).collect();
        bases.sort_unstable();
        bases
    }

    fn reach(&self, label: &str, include_outputs: bool) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![label.to_owned()];
        while let Some(label) = todo.pop() {
            let member = self.member(&label);
            if !seen.insert(label) {
                continue;
            }
            todo.extend(member.references.iter().cloned());
            if include_outputs {
                todo.extend(member.outputs.values().filter(|o| self.member(o).tree.is_some()).cloned());
            }
        }
        seen
    }
}

/// Removes a tree of read-only directories on drop.
#[derive(Debug)]
struct Removal(PathBuf);

impl Drop for Removal {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("mini-store: {} stays: {error}", self.0.display());
        }
    }
}

/// Removes a tree although its directories are read-only, as those of a store are.
///
/// # Errors
/// What the file system says; an absent tree is removed already.
pub fn remove(root: &Path) -> io::Result<()> {
    fn unlock(dir: &Path) -> io::Result<()> {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                unlock(&entry.path())?;
            }
        }
        Ok(())
    }
    if !root.exists() {
        return Ok(());
    }
    unlock(root)?;
    std::fs::remove_dir_all(root)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn labels(store: &MiniStore, bases: &[&str]) -> Vec<String> {
        let label = |base: &&str| store.labels().find(|l| &store.path(l) == base).unwrap().to_owned();
        let mut labels: Vec<String> = bases.iter().map(label).collect();
        labels.sort();
        labels
    }

    #[test]
    fn closures_are_as_drawn() {
        let store = MiniStore::temporary();
        let a = ["config", "env-a", "left", "libc", "link", "right", "tool", "top"];
        assert_eq!(labels(&store, &store.closure("env-a")), a);
        let b = ["data", "empty", "env-b", "libc", "long", "right", "sparse", "twin"];
        assert_eq!(labels(&store, &store.closure("env-b")), b);
        assert_eq!(store.references("libc"), [store.path("libc")], "it refers to itself");
        assert!(store.build_closure("env-a.drv").contains(&store.path("libc-dev")));
        assert!(!store.build_closure("partial.drv").contains(&store.path("partial-doc")), "it is not built");
    }

    #[test]
    fn the_store_is_the_same_each_time() {
        let (one, two) = (MiniStore::temporary(), MiniStore::temporary());
        for label in one.labels() {
            assert_eq!(one.path(label), two.path(label));
            assert_eq!(one.member(label).nar, two.member(label).nar);
        }
        assert_eq!(
            one.path("config"),
            "z2ij9nqjh6hvsic2z80gahvcpf0h14g0-config.txt",
            "a change of the contents?"
        );
    }

    #[test]
    fn files_are_as_nix_leaves_them() {
        let store = MiniStore::temporary();
        let mode = |path: PathBuf| path.symlink_metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode(store.real("config")), 0o444);
        assert_eq!(mode(store.real("tool")), 0o555);
        assert_eq!(mode(store.real("top")), 0o555);
        for label in store.labels().filter(|l| store.member(l).tree.is_some()) {
            assert_eq!(store.real(label).symlink_metadata().unwrap().mtime(), 1, "{label}");
        }
        let inode = |label: &str| store.real(label).join("same.bin").metadata().unwrap().ino();
        assert_eq!(inode("twin"), inode("secret"), "equal files are one file, as after nix-store --optimise");
        let sparse = store.real("sparse").join("holes.bin").metadata().unwrap();
        assert!(
            sparse.blocks() * 512 < sparse.size(),
            "{} blocks for {} bytes",
            sparse.blocks(),
            sparse.size()
        );
        assert!(!store.real("partial-doc").exists());
        assert_eq!(store.path("long").len(), 32 + 1 + 211);
    }

    #[test]
    fn a_temporary_store_leaves_nothing() {
        let store = MiniStore::temporary();
        let root = store.root().to_owned();
        drop(store);
        assert!(!root.exists());
    }

    #[test]
    fn a_second_store_in_the_same_place_is_refused() {
        let store = MiniStore::temporary();
        let error = MiniStore::create(store.root()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
