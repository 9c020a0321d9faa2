//! What a store lacks, fetched or built by Nix (`nix-store --realise`), and what to tell people who do that themselves.
//!
//! A store path comes from Nix's substituters. Where none has it, the output of its derivation is built, if the lock
//! names that and the store has it.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::LockError;
use super::evaluate::Evaluator;
use super::format::EnvLock;
use super::known::Known;
use crate::closure::{ClosureError, Mode};
use crate::store::{Derivation, Location, ReferenceError, StoreDir, StorePath};

/// What a closure starts from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// A store path.
    Path(StorePath),
    /// Outputs of a derivation; all if none is named.
    Outputs(StorePath, Vec<String>),
}

/// How many paths a hint names.
const NAMED: usize = 4;

/// True for what fetching or building can mend: a path is not there, or not built.
pub(super) fn is_missing(error: &ClosureError) -> bool {
    matches!(
        error,
        ClosureError::NotBuilt { .. }
            | ClosureError::Missing { .. }
            | ClosureError::Source(ReferenceError::Unknown { .. })
    )
}

/// True if Nix can add paths to a store: it records them in a database.
pub(super) fn can_realise(location: &Location) -> bool {
    location.database_file().is_some_and(|file| file.exists())
}

/// What is to be realised, as Nix takes it: paths, and outputs of derivations, or what the derivations use when they are
/// developed.
pub(super) fn to_realise(
    wanted: &[Wanted],
    mode: Mode,
    location: &Location,
) -> Result<Vec<String>, LockError> {
    let dir = &location.dir;
    let mut all = BTreeSet::new();
    for wanted in wanted {
        let (derivation, names) = match wanted {
            Wanted::Outputs(derivation, names) => (derivation, names.as_slice()),
            Wanted::Path(path) if path.is_derivation() && mode == Mode::Dev => (path, [].as_slice()),
            Wanted::Path(path) => {
                all.insert(format!("{dir}/{path}"));
                continue;
            }
        };
        if mode != Mode::Dev && !names.is_empty() {
            all.extend(names.iter().map(|name| output(dir, derivation, name)));
            continue;
        }
        let read = Derivation::read(location, derivation).map_err(|e| e.into_reference_error(location))?;
        if mode == Mode::Dev {
            for (input, names) in read.input_derivations {
                all.extend(names.iter().map(|name| output(dir, &input, name)));
            }
        } else {
            all.extend(read.outputs.keys().map(|name| output(dir, derivation, name)));
        }
    }
    Ok(all.into_iter().collect())
}

fn output(dir: &StoreDir, derivation: &StorePath, name: &str) -> String {
    format!("{dir}/{derivation}!{name}")
}

impl EnvLock {
    /// Asks Nix for what the lock starts from, if the store lacks something of its closure: fetched from substituters, or
    /// else built from the derivation that the lock names. True if Nix was asked.
    ///
    /// What comes is safe from the garbage collector only once a view shows it.
    ///
    /// # Errors
    /// If Nix can do neither, or the store has no database.
    pub fn realise_in(&self, store: &Location, state: &Path) -> Result<bool, LockError> {
        match self.closure_in(store, state) {
            Ok(_) => return Ok(false),
            Err(LockError::Closure(error)) if is_missing(&error) && can_realise(store) => {}
            Err(error) => return Err(error),
        }
        let nix = Evaluator { location: store };
        let wanted: Vec<Wanted> = self.starts().paths().into_iter().map(Wanted::Path).collect();
        let Err(not_fetched) = nix.realise(&to_realise(&wanted, self.mode, store)?) else {
            return Ok(true);
        };
        let known = Known::open(store, None, state)?;
        let mut to_build = Vec::new();
        for root in &self.roots {
            if let (Some(derivation), Some(name)) = (&root.derivation, &root.output)
                && !known.references().is_valid(&root.path)?
            {
                to_build.push(output(&store.dir, derivation, name));
            }
        }
        if to_build.is_empty() {
            return Err(not_fetched);
        }
        nix.realise(&to_build)?;
        // The extra roots, which no derivation is known of.
        nix.realise(&to_realise(&wanted, self.mode, store)?)?;
        Ok(true)
    }

    /// What people can do about an error that says that something of the lock is not in the store; nothing for others.
    ///
    /// If Nix was asked already, only what remains: to bring it from another machine.
    #[must_use]
    pub fn fetching_hints(&self, error: &LockError, asked: bool) -> Vec<String> {
        let LockError::Closure(error) = error else { return Vec::new() };
        let path = match error {
            ClosureError::Source(ReferenceError::Unknown { path, .. }) => path,
            ClosureError::Missing { path, .. } => path,
            ClosureError::NotBuilt { derivation, .. } => derivation,
            _ => return Vec::new(),
        };
        let dir = &self.store_dir;
        let starts = self.starts().paths();
        let paths = if starts.len() <= NAMED && starts.contains(path) {
            starts.iter().map(|path| format!("{dir}/{path}")).collect::<Vec<_>>().join(" ")
        } else {
            format!("{dir}/{path}")
        };
        let root = self.roots.iter().find(|root| root.path == *path);
        let derivation = root.and_then(|root| Some((root.derivation.as_ref()?, root.output.as_ref()?)));
        if asked {
            let mut hints = vec![if path.is_derivation() {
                format!(
                    "'nix copy --derivation --from ssh://HOST {paths}' brings the derivation from a machine that has it"
                )
            } else {
                format!("'nix copy --from ssh://HOST {paths}' brings it from a machine that has it")
            }];
            hints.extend(derivation.map(|(derivation, _)| {
                format!(
                    "'nix copy --derivation --from ssh://HOST {dir}/{derivation}' brings the derivation, to build it here"
                )
            }));
            return hints;
        }
        let mut hints = Vec::new();
        if path.is_derivation() {
            hints.push(format!(
                "build it with 'nix-store --realise {paths}'; 'nix copy --derivation --from ssh://HOST {paths}' brings a derivation \
                 from a machine that has it"
            ));
        } else {
            hints.push(format!(
                "fetch it with 'nix-store --realise {paths}', or with 'nix copy --from ssh://HOST {paths}' from a machine that has it"
            ));
        }
        if let Some((derivation, name)) = derivation {
            hints.push(format!(
                "or build it with \"nix-store --realise '{}'\"; if the derivation is not there: \
                 'nix copy --derivation --from ssh://HOST {dir}/{derivation}'",
                output(dir, derivation, name)
            ));
        }
        hints.push(
            "'nixview mount', 'run', 'shell' and 'closure' ask Nix for all of it with --realise".to_owned(),
        );
        hints
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::super::format::tests::sample;
    use super::*;

    #[test]
    fn hints_do_not_lead_back_to_nix_that_was_asked() {
        let lock = sample();
        let path = lock.starts().paths().remove(0);
        let error =
            LockError::Closure(ClosureError::Missing { referrer: path.clone(), origin: String::new(), path });
        let first = lock.fetching_hints(&error, false).join("\n");
        assert!(first.contains("nix-store --realise") && first.contains("with --realise"), "{first}");
        let then = lock.fetching_hints(&error, true).join("\n");
        assert!(then.contains("nix copy") && !then.contains("--realise"), "{then}");
    }
}
