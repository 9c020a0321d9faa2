//! Computing a closure, as Nix computes it (`computeFSClosure` in `src/libstore/misc.cc`).

use std::collections::BTreeSet;

use super::{Closure, ClosureError, Mode};
use crate::store::{ReferenceError, References, StorePath};

/// The most paths that a closure may have; the largest stores have about a million.
pub(super) const COUNT_MAX: usize = 16 << 20;

/// The closure of `roots` as `source` knows it.
///
/// Cycles and self references are fine. In the modes `runtime` and `build` roots can be any paths, also `.drv` files
/// (then their own references); in `dev` at least one must be a derivation; another path is needed as it is.
///
/// # Errors
/// If a root or a path that a member refers to is not valid; the error names the referrer. In `dev`, if an output that
/// is used is not built.
pub fn resolve(source: &dyn References, roots: &[StorePath], mode: Mode) -> Result<Closure, ClosureError> {
    match mode {
        Mode::Runtime => reach(source, roots, false),
        Mode::Build => reach(source, roots, true),
        Mode::Dev => reach(source, &dev_roots(source, roots)?, false),
    }
}

/// The paths of some outputs of a derivation, of all if none is named; sorted, each valid.
///
/// # Errors
/// If it has no such output, or one is not built.
pub fn outputs(
    source: &dyn References,
    derivation: &StorePath,
    names: &[String],
) -> Result<Vec<StorePath>, ClosureError> {
    let known = source.outputs(derivation)?;
    for name in names {
        if !known.iter().any(|output| output.name == *name) {
            let known: Vec<&str> = known.iter().map(|output| output.name.as_str()).collect();
            return Err(ClosureError::NoSuchOutput {
                derivation: derivation.clone(),
                output: name.chars().take(250).flat_map(char::escape_debug).collect(),
                known: known.join(", "),
            });
        }
    }
    let mut paths = BTreeSet::new();
    for output in known.into_iter().filter(|output| names.is_empty() || names.contains(&output.name)) {
        match output.path {
            Some(path) if source.is_valid(&path)? => {
                paths.insert(path);
            }
            path => {
                return Err(ClosureError::NotBuilt {
                    derivation: derivation.clone(),
                    output: output.name,
                    path,
                });
            }
        }
    }
    Ok(paths.into_iter().collect())
}

/// What developing the derivations needs: the used outputs of their inputs, and their input sources. A path beside them
/// that is no derivation (the shell, which nix-shell adds by itself) is needed as it is.
pub(super) fn dev_roots(
    source: &dyn References,
    derivations: &[StorePath],
) -> Result<Vec<StorePath>, ClosureError> {
    if let Some(first) = derivations.first()
        && !derivations.iter().any(StorePath::is_derivation)
    {
        return Err(ClosureError::NotADerivation(first.clone()));
    }
    let mut roots = BTreeSet::new();
    for derivation in derivations {
        if !derivation.is_derivation() {
            roots.insert(derivation.clone());
            continue;
        }
        let read = source.derivation(derivation)?;
        for (input, names) in &read.input_derivations {
            if !names.is_empty() {
                let names: Vec<String> = names.iter().cloned().collect();
                roots.extend(outputs(source, input, &names).map_err(|e| referred(e, input, derivation))?);
            }
        }
        for input in read.input_sources {
            if !source.is_valid(&input)? {
                return Err(ClosureError::Missing {
                    path: input,
                    referrer: derivation.clone(),
                    origin: source.origin(),
                });
            }
            roots.insert(input);
        }
    }
    Ok(roots.into_iter().collect())
}

/// Names the referrer of a path that is unknown.
fn referred(error: ClosureError, path: &StorePath, referrer: &StorePath) -> ClosureError {
    match error {
        ClosureError::Source(ReferenceError::Unknown { path: unknown, origin }) if unknown == *path => {
            ClosureError::Missing { path: unknown, referrer: referrer.clone(), origin }
        }
        other => other,
    }
}

fn reach(
    source: &dyn References,
    roots: &[StorePath],
    include_outputs: bool,
) -> Result<Closure, ClosureError> {
    if let Some(reached) = source.closure(roots, include_outputs)? {
        return Ok(Closure::new(reached.paths, reached.nar_size));
    }
    let mut seen: BTreeSet<StorePath> = roots.iter().cloned().collect();
    let mut open: Vec<(StorePath, Option<StorePath>)> =
        seen.iter().rev().map(|root| (root.clone(), None)).collect();
    let mut nar_size = Some(0_u64);
    while let Some((path, referrer)) = open.pop() {
        let references = source.references(&path).map_err(|error| match &referrer {
            Some(referrer) => referred(error.into(), &path, referrer),
            None => error.into(),
        })?;
        let size = source.nar_size(&path)?;
        nar_size = nar_size.zip(size).and_then(|(all, one)| all.checked_add(one));
        for next in references {
            if seen.insert(next.clone()) {
                open.push((next, Some(path.clone())));
            }
        }
        // A root is asked whatever it is: that it is no derivation is an error.
        let is_root = referrer.is_none() && path.is_derivation();
        if include_outputs && (is_root || source.leads_to_outputs(&path)) {
            for output in source.outputs(&path)?.into_iter().filter_map(|output| output.path) {
                if source.is_valid(&output)? && seen.insert(output.clone()) {
                    open.push((output, Some(path.clone())));
                }
            }
        }
        if seen.len() > COUNT_MAX {
            return Err(ClosureError::TooLarge { limit: COUNT_MAX });
        }
    }
    Ok(Closure::new(seen.into_iter().collect(), nar_size))
}
