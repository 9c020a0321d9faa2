//! The text of a lock: reading and printing it.

use serde::{Deserialize, Serialize};

use super::{EnvLock, ExtraRoot, LockedClosure, Root, VERSION};
use crate::closure::Mode;
use crate::json;
use crate::lock::environment::Environment;
use crate::lock::error::LockError;
use crate::lock::only::WrittenOnly;
use crate::lock::source::Source;
use crate::store::{StoreDir, StorePath};

impl EnvLock {
    /// Reads a lock from its text; `origin` is told in errors.
    ///
    /// # Errors
    /// If it is not exactly a lock of [`VERSION`].
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, LockError> {
        let malformed = |problem: String| LockError::Malformed { origin: origin.to_owned(), problem };
        // The version decides how the rest is to be read, so it is looked at alone and first.
        let head: Head = json::from_slice(text).map_err(|e| malformed(e.to_string()))?;
        match head.version {
            Some(VERSION) => {}
            Some(version) => {
                return Err(LockError::Version { origin: origin.to_owned(), version, known: VERSION });
            }
            None => return Err(malformed("it has no \"version\"".to_owned())),
        }
        let written: Written = json::from_slice_without_null(text).map_err(|e| malformed(e.to_string()))?;
        let lock = Self::from_written(written).map_err(malformed)?;
        lock.check().map_err(malformed)?;
        Ok(lock)
    }

    /// The text of the lock; the same value always gives the same bytes.
    ///
    /// # Errors
    /// If the value is one that [`EnvLock::parse`] would refuse.
    pub fn print(&self) -> Result<String, LockError> {
        let refused = |problem: String| LockError::Malformed { origin: "the new lock".to_owned(), problem };
        self.check().map_err(refused)?;
        let written = self.to_written();
        let mut text = serde_json::to_string_pretty(&written).map_err(|e| refused(e.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    fn from_written(written: Written) -> Result<Self, String> {
        let Written {
            closure,
            environment,
            extra_roots,
            mode,
            name,
            only,
            roots,
            source,
            store_dir,
            system,
            version: _,
        } = written;
        let path = |text: &str, field: &str, index: usize| {
            store_dir.parse(text.as_bytes()).map_err(|error| format!("roots[{index}].{field}: {error}"))
        };
        let mut all = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            let derivation = root.drv_path.as_deref().map(|t| path(t, "drvPath", index)).transpose()?;
            let output = root.output.clone();
            all.push(Root { derivation, output, path: path(&root.path, "path", index)? });
        }
        let mut extra = Vec::with_capacity(extra_roots.len());
        for (index, root) in extra_roots.into_iter().enumerate() {
            let path = store_dir
                .parse(root.path.as_bytes())
                .map_err(|error| format!("extraRoots[{index}].path: {error}"))?;
            extra.push(ExtraRoot { name: root.name, path });
        }
        Ok(Self {
            closure,
            environment,
            extra_roots: extra,
            mode,
            name,
            only: only.map(WrittenOnly::read).transpose()?,
            roots: all,
            source,
            store_dir,
            system,
        })
    }

    fn to_written(&self) -> Written {
        let full = |path: &StorePath| format!("{}/{path}", self.store_dir);
        let roots = self.roots.iter().map(|root| WrittenRoot {
            drv_path: root.derivation.as_ref().map(full),
            output: root.output.clone(),
            path: full(&root.path),
        });
        Written {
            closure: self.closure.clone(),
            environment: self.environment.clone(),
            extra_roots: self
                .extra_roots
                .iter()
                .map(|extra| WrittenExtraRoot { name: extra.name.clone(), path: full(&extra.path) })
                .collect(),
            mode: self.mode,
            name: self.name.clone(),
            only: self.only.as_ref().map(WrittenOnly::of),
            roots: roots.collect(),
            source: self.source.clone(),
            store_dir: self.store_dir.clone(),
            system: self.system.clone(),
            version: VERSION,
        }
    }
}

/// What is looked at before the version is known. Unknown fields are no error yet; a second `version` is.
#[derive(Deserialize)]
struct Head {
    version: Option<u64>,
}

/// The fields of the file, in its order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    closure: LockedClosure,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment: Option<Environment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extra_roots: Vec<WrittenExtraRoot>,
    mode: Mode,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only: Option<WrittenOnly>,
    roots: Vec<WrittenRoot>,
    source: Source,
    store_dir: StoreDir,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRoot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drv_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExtraRoot {
    name: String,
    path: String,
}
