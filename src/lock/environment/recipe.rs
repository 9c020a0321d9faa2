//! How an environment is recorded: which bash, with which variables and files.

use std::collections::BTreeMap;
use std::path::Path;

use super::attributes::structured;
use super::{EnvironmentFile, FILES, Variable, is_identifier};
use crate::closure::Mode;
use crate::lock::digest::{Digest, Fields};
use crate::lock::format::EnvLock;
use crate::store::{Derivation, Location, ReferenceError, StoreDir, StorePath};

/// Why no environment can be recorded of a lock.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// It is not of one derivation in mode `dev`.
    #[error("variables are recorded of one derivation in mode dev, and this is {0}")]
    NotOne(String),
    /// There is no bash.
    #[error(
        "no bash to record the variables with: the builder of {0} is none, and no extra root has bin/bash"
    )]
    NoShell(StorePath),
    /// The derivation cannot be read.
    #[error(transparent)]
    Derivation(#[from] ReferenceError),
    /// The derivation has something that no environment can have.
    #[error("{derivation}: {problem}")]
    Unusable {
        /// The derivation.
        derivation: StorePath,
        /// What.
        problem: String,
    },
}

/// What an environment is recorded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    derivation: StorePath,
    shell: String,
    store: StoreDir,
    /// What the derivation sets; values name files by [`FILES`].
    variables: BTreeMap<String, Vec<u8>>,
    files: Vec<EnvironmentFile>,
}

impl Recipe {
    /// Of a lock, whose derivation is read from the store.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn of(lock: &EnvLock, location: &Location) -> Result<Self, RecipeError> {
        let derivation = match lock.roots.as_slice() {
            [root] if lock.mode == Mode::Dev && root.path.is_derivation() => root.path.clone(),
            [_] if lock.mode == Mode::Dev => return Err(RecipeError::NotOne("no derivation".to_owned())),
            [_] => return Err(RecipeError::NotOne(format!("mode {}", lock.mode))),
            many => return Err(RecipeError::NotOne(format!("{} roots", many.len()))),
        };
        let read = Derivation::read(location, &derivation).map_err(|e| e.into_reference_error(location))?;
        let shell = shell(lock, &read, location).ok_or_else(|| RecipeError::NoShell(derivation.clone()))?;
        let unusable = |problem: String| RecipeError::Unusable { derivation: derivation.clone(), problem };
        let (variables, files) = variables(&read, &lock.store_dir).map_err(unusable)?;
        Ok(Self { derivation, shell, store: lock.store_dir.clone(), variables, files })
    }

    /// The derivation.
    #[must_use]
    pub fn derivation(&self) -> &StorePath {
        &self.derivation
    }

    /// The bash, by its path in the store.
    #[must_use]
    pub fn shell(&self) -> &str {
        &self.shell
    }

    /// The store directory.
    pub(super) fn store(&self) -> &StoreDir {
        &self.store
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &[EnvironmentFile] {
        &self.files
    }

    /// True if the derivation itself sets the variable: then it is recorded whatever it is.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    /// What bash cannot have as a variable and passes on.
    pub(super) fn passed_on(&self) -> impl Iterator<Item = Variable> {
        let odd = self.variables.iter().filter(|(name, _)| !is_identifier(name));
        odd.map(|(name, value)| Variable::exported(name, value.as_slice()))
    }

    /// What is remembered under: everything that decides the result.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut fields = Fields::new("nixview environment recipe 1");
        fields.add(self.store.as_str().as_bytes());
        fields.add(self.derivation.as_str().as_bytes());
        fields.add(self.shell.as_bytes());
        fields.finish()
    }

    /// The process environment of the recording bash, with the files in `files`.
    #[must_use]
    pub fn environment(&self, files: &Path, cores: usize) -> Vec<(String, Vec<u8>)> {
        use std::os::unix::ffi::OsStrExt;
        let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for name in super::enter::TEMPORARY {
            all.insert((*name).to_owned(), b"/tmp".to_vec());
        }
        for (name, value) in [
            ("HOME", "/homeless-shelter".to_owned()),
            ("IN_NIX_SHELL", "impure".to_owned()),
            ("NIX_BUILD_CORES", cores.to_string()),
            ("NIX_STORE", self.store.to_string()),
            ("TERM", "dumb".to_owned()),
        ] {
            all.insert(name.to_owned(), value.into_bytes());
        }
        let here = files.as_os_str().as_bytes();
        for (name, value) in &self.variables {
            let value = super::Text::from(value.as_slice()).replaced(FILES.as_bytes(), here);
            all.insert(name.clone(), value.as_bytes().to_vec());
        }
        all.into_iter().collect()
    }
}

/// The bash: an extra root that is called so, else the builder, else any extra root that has one.
fn shell(lock: &EnvLock, derivation: &Derivation, location: &Location) -> Option<String> {
    let store = lock.store_dir.as_str();
    let has = |path: &StorePath| location.real_path(path).join("bin/bash").symlink_metadata().is_ok();
    let with_bash = || lock.extra_roots.iter().filter(|extra| has(&extra.path));
    let of = |path: &StorePath| format!("{store}/{path}/bin/bash");
    if let Some(named) = with_bash().find(|extra| extra.name == "bash") {
        return Some(of(&named.path));
    }
    let builder = std::str::from_utf8(&derivation.builder).ok();
    let builder =
        builder.filter(|b| b.ends_with("/bash") && b.strip_prefix(store).is_some_and(|r| r.starts_with('/')));
    builder.map(str::to_owned).or_else(|| with_bash().next().map(|extra| of(&extra.path)))
}

type Set = (BTreeMap<String, Vec<u8>>, Vec<EnvironmentFile>);

/// What the derivation's environment becomes: variables, and files of those that are passed as files.
fn variables(derivation: &Derivation, store: &StoreDir) -> Result<Set, String> {
    let as_files = derivation.environment.get(&b"passAsFile"[..]).map(Vec::as_slice).unwrap_or_default();
    let as_files: Vec<&[u8]> =
        as_files.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty()).collect();
    let mut variables = BTreeMap::new();
    let mut files = Vec::new();
    for (name, value) in &derivation.environment {
        let text = String::from_utf8(name.clone())
            .map_err(|_| "a variable has a name that is no text".to_owned())?;
        if text.is_empty() || text.contains(['=', '\0']) {
            return Err(format!("'{}' is no name of a variable", text.escape_debug()));
        }
        if as_files.contains(&name.as_slice()) {
            let file = format!(".attr-{}", files.len());
            variables.insert(format!("{text}Path"), format!("{FILES}/{file}").into_bytes());
            files.push(EnvironmentFile { content: value.as_slice().into(), name: file });
        } else if value.contains(&0) {
            return Err(format!("the variable '{text}' has a NUL, which no variable can have"));
        } else {
            variables.insert(text, value.clone());
        }
    }
    if let Some(json) = derivation.environment.get(&b"__json"[..]) {
        let (json, script) = structured(json, derivation, store)?;
        for (name, variable, content) in
            [(".attrs.json", "NIX_ATTRS_JSON_FILE", json), (".attrs.sh", "NIX_ATTRS_SH_FILE", script)]
        {
            variables.insert(variable.to_owned(), format!("{FILES}/{name}").into_bytes());
            files.push(EnvironmentFile { content: content.into(), name: name.to_owned() });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((variables, files))
}

#[cfg(test)]
impl Recipe {
    /// With these variables, of no derivation that there is.
    pub(super) fn sample(shell: &str, variables: &[(&str, &str)]) -> Self {
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        let store = StoreDir::default();
        let derivation = crate::lock::format::tests::path('d', "env.drv");
        Self { derivation, shell: shell.to_owned(), store, variables: pairs.collect(), files: Vec::new() }
    }
}
