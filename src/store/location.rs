//! Where a store lies on this machine, and which directory its paths name.

use std::path::{Path, PathBuf};

use super::path::{StoreDir, StorePath};

/// A store as it was found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The store directory as the paths name it, usually `/nix/store`.
    pub dir: StoreDir,
    /// The directory that holds the paths on this machine, absolute.
    pub real: PathBuf,
    /// The state directory of Nix that belongs to it (`…/nix/var/nix`), if it is there.
    pub state: Option<PathBuf>,
}

/// Why a place is no store.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// Neither a store directory nor a root that holds one.
    #[error(
        "{path} is no Nix store: give a directory that ends in nix/store (as /nix/store), or a root directory that \
         contains nix/store"
    )]
    NotAStore {
        /// What was given.
        path: PathBuf,
    },
    /// It could not be looked at.
    #[error("cannot look at the store {path}: {source}")]
    Unreadable {
        /// What was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Location {
    /// Finds the store at `path`: `…/nix/store` itself, or a root that contains `nix/store`.
    ///
    /// The paths of a store that lies elsewhere name `/nix/store` nevertheless, as those of Nix's `local?root=…` do;
    /// for another store directory see [`Location::with_dir`].
    ///
    /// # Errors
    /// If there is no such directory, or it cannot be looked at.
    pub fn open(path: &Path) -> Result<Self, LocationError> {
        let unreadable = |source| LocationError::Unreadable { path: path.to_owned(), source };
        let absolute = normal(&std::path::absolute(path).map_err(unreadable)?);
        let real = if absolute.ends_with("nix/store") { absolute } else { absolute.join("nix/store") };
        match std::fs::metadata(&real) {
            Ok(found) if found.is_dir() => Ok(Self::at(real, StoreDir::default())),
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Err(unreadable(error))
            }
            Ok(_) | Err(_) => Err(LocationError::NotAStore { path: path.to_owned() }),
        }
    }

    /// Takes `path` as the directory of a store whose paths name `dir`, whatever it is called.
    ///
    /// # Errors
    /// If it is no directory, or cannot be looked at.
    pub fn with_dir(path: &Path, dir: StoreDir) -> Result<Self, LocationError> {
        let unreadable = |source| LocationError::Unreadable { path: path.to_owned(), source };
        let real = normal(&std::path::absolute(path).map_err(unreadable)?);
        if !std::fs::metadata(&real).map_err(unreadable)?.is_dir() {
            return Err(LocationError::NotAStore { path: path.to_owned() });
        }
        Ok(Self::at(real, dir))
    }

    fn at(real: PathBuf, dir: StoreDir) -> Self {
        let state = real.parent().map(|nix| nix.join("var/nix")).filter(|state| state.is_dir());
        Self { dir, real, state }
    }

    /// Nix's database, if this store has a state directory; the file itself may be missing.
    #[must_use]
    pub fn database_file(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.join("db/db.sqlite"))
    }

    /// The directory of Nix's GC roots, if this store has a state directory.
    #[must_use]
    pub fn gc_roots_dir(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.join("gcroots"))
    }

    /// Where a store path lies on this machine; it need not exist.
    #[must_use]
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.real.join(path.as_str())
    }
}

/// Without `.` components and slashes at the end; `..` stays, as symlinks may be in front of it.
fn normal(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    #[test]
    fn a_store_is_found_by_its_directory_and_by_its_root() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("nix/store");
        std::fs::create_dir_all(&store).unwrap();
        let found = Location::open(root.path()).unwrap();
        assert_eq!(found, Location { dir: StoreDir::default(), real: store.clone(), state: None });
        assert_eq!(Location::open(&store.join(".")).unwrap(), found);
        std::fs::create_dir_all(root.path().join("nix/var/nix")).unwrap();
        let found = Location::open(&store).unwrap();
        assert_eq!(found.database_file().unwrap(), root.path().join("nix/var/nix/db/db.sqlite"));
        assert_eq!(found.gc_roots_dir().unwrap(), root.path().join("nix/var/nix/gcroots"));
    }

    #[test]
    fn what_is_no_store_is_refused_with_what_is_expected() {
        let root = tempfile::tempdir().unwrap();
        let said = Location::open(root.path()).unwrap_err().to_string();
        assert!(said.contains("contains nix/store"), "{said}");
        std::fs::create_dir_all(root.path().join("nix")).unwrap();
        std::fs::write(root.path().join("nix/store"), "").unwrap();
        assert!(matches!(Location::open(root.path()), Err(LocationError::NotAStore { .. })));
    }

    #[test]
    fn another_store_directory_can_be_named() {
        let root = tempfile::tempdir().unwrap();
        let found = Location::with_dir(root.path(), StoreDir::new("/gnu/store").unwrap()).unwrap();
        assert_eq!(found.dir.as_str(), "/gnu/store");
    }
}
