//! When an expression need not be evaluated again.
//!
//! The rule: a result is remembered only if evaluating *a copy of the inputs that has nothing else*, in Nix's restricted
//! mode and with only those search path entries that lie in the store, gives the very same derivations. That the copy is
//! enough proves that nothing else was read: no file outside, none that git does not track, no network, no environment
//! variable. Everything that is left is in the key, also what was not there and the names of all that was
//! ([`super::surroundings`]); where something of it is not known (too many files, a search path entry that can change, a
//! question for a file that may be anywhere), or the copy gives something else, the next lock evaluates again and says why.
//!
//! What the rule cannot see: `builtins.currentTime` where both evaluations fall into the same second, and a `getEnv`
//! whose variable is unset now and set later (those that Nix and Nixpkgs read are in the key).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::digest::{Digest, Fields};
use super::error::LockError;
use super::evaluate::{Argument, Evaluated, Evaluator, Expression, Facts, deciding};
use super::inputs::InputTree;
use super::make::Evaluation;
use super::memory::Memory;
use super::search_path;
use super::source::{Inputs, SearchPathEntry};
use super::surroundings;

/// An expression to evaluate or to remember.
pub(super) struct Remembering<'a> {
    pub(super) evaluator: Evaluator<'a>,
    pub(super) expression: &'a Expression,
    /// What is declared to decide; the expression's folder if empty.
    pub(super) inputs: &'a [PathBuf],
    pub(super) lock_file: Option<&'a Path>,
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) force: bool,
    pub(super) state_dir: &'a Path,
}

/// The derivations of an expression, and what decided them.
pub(super) struct Found {
    pub(super) derivations: Vec<Evaluated>,
    pub(super) evaluation: Evaluation,
    pub(super) inputs: Option<Inputs>,
    pub(super) facts: Facts,
    pub(super) search_path: Vec<SearchPathEntry>,
    /// The expression's file, relative to the inputs where they are known.
    pub(super) file: String,
}

/// The derivations of an expression: remembered, or evaluated now.
pub(super) fn evaluate(asked: &Remembering<'_>) -> Result<Found, LockError> {
    let facts = asked.evaluator.facts(&asked.expression.arguments)?;
    let search_path = asked.evaluator.pin(&facts)?;
    let name = |path: &Path| path.display().to_string();
    let plain_file = asked.expression.file.file_name().map(|n| name(Path::new(n))).unwrap_or_default();
    let tree = InputTree::find(&asked.expression.file, asked.inputs, asked.lock_file)?;
    let now = || asked.evaluator.evaluate(asked.expression);
    let tree = match tree {
        Ok(tree) => tree,
        Err(too_many) => {
            let evaluation = Evaluation::Doubtful(too_many.to_string());
            let derivations = now()?;
            return Ok(Found { derivations, evaluation, inputs: None, facts, search_path, file: plain_file });
        }
    };
    let inputs = tree.hash()?;
    let file = tree.relative(&asked.expression.file)?;
    let found = |derivations, evaluation| Found {
        derivations,
        evaluation,
        inputs: Some(inputs.clone()),
        facts: facts.clone(),
        search_path: search_path.clone(),
        file: name(&file),
    };
    let key = match asked.key(&tree, &inputs, &file, &facts, &search_path)? {
        Ok(key) => key,
        Err(why) => return Ok(found(now()?, Evaluation::Doubtful(why))),
    };
    let memory = Memory::open(asked.state_dir);
    let location = asked.evaluator.location;
    if !asked.force
        && let Some(derivations) = memory.get(&key)
        // A derivation may have been collected since.
        && derivations.iter().all(|e| location.real_path(&e.derivation).is_file())
    {
        return Ok(found(derivations, Evaluation::Remembered));
    }
    let derivations = now()?;
    let evaluation = match asked.witness(&tree, &inputs, &file, &search_path, &derivations) {
        Ok(()) if memory.put(&key, &derivations) => Evaluation::Evaluated,
        Ok(()) => Evaluation::Doubtful("the state directory cannot be written".to_owned()),
        Err(why) => Evaluation::Doubtful(why),
    };
    Ok(found(derivations, evaluation))
}

impl Remembering<'_> {
    /// Evaluates a copy that has the inputs and nothing else; says why if that does not give the same.
    fn witness(
        &self,
        tree: &InputTree,
        inputs: &Inputs,
        file: &Path,
        search_path: &[SearchPathEntry],
        derivations: &[Evaluated],
    ) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("its inputs cannot be copied: {error}");
        let parent = tempfile::Builder::new().prefix("nixview-lock-").tempdir().map_err(failed)?;
        let parent_path = fs::canonicalize(parent.path()).map_err(failed)?;
        let copy = tree.copy(&parent_path).map_err(failed)?;
        if copy.hash().map_err(|error| error.to_string())? != *inputs {
            return Err("its inputs were changed while they were read".to_owned());
        }
        let expression = Expression { file: copy.base().join(file), ..self.expression.clone() };
        match self.evaluator.evaluate_sealed(&expression, copy.base(), search_path) {
            Ok(sealed) if sealed == derivations => Ok(()),
            Ok(_) => Err(
                "it depends on something outside its inputs (a file that is not among them, an environment \
                          variable, the time)"
                    .to_owned(),
            ),
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().rfind(|l| l.contains("error:"));
                let said = last.or(text.lines().next_back()).unwrap_or_default().trim();
                let said = said.replace(&format!("{}/", parent_path.display()), "");
                Err(format!("it needs something outside its inputs ({said}); name files with --input"))
            }
        }
    }

    /// The digest of all that decides, or why that is not known.
    fn key(
        &self,
        tree: &InputTree,
        inputs: &Inputs,
        file: &Path,
        facts: &Facts,
        pinned: &[SearchPathEntry],
    ) -> Result<Result<Digest, String>, LockError> {
        use std::os::unix::ffi::OsStrExt;
        let location = self.evaluator.location;
        let mut key = Fields::new("nixview expression 3");
        let asks = |argument: &Argument| {
            let words = argument.words();
            let leads_up = |word: &String| surroundings::ways_up(word).next().is_some();
            words.iter().any(|word| surroundings::asks(word))
                || matches!(argument, Argument::Arg(..)) && words.iter().any(leads_up)
        };
        if self.expression.arguments.iter().any(asks) {
            return Ok(Err("its arguments ask whether files exist".to_owned()));
        }
        if let Err(why) = add_surroundings(tree, &mut key) {
            return Ok(Err(why));
        }
        key.add(location.dir.as_str().as_bytes());
        key.add(location.real.as_os_str().as_bytes());
        key.add(facts.version.as_bytes());
        key.add(facts.system.as_bytes());
        key.add(tree.base_name().as_bytes());
        key.add(inputs.digest.as_bytes());
        key.add(file.as_os_str().as_bytes());
        key.add(self.expression.attribute.as_deref().map_or(&b"-"[..], str::as_bytes));
        key.add(if self.expression.attribute.is_some() { b"attribute" } else { b"none" });
        for argument in &self.expression.arguments {
            if !matches!(argument, Argument::Include(_)) {
                argument.words().iter().for_each(|word| key.add(word.as_bytes()));
            }
        }
        // An entry that can change is in the key as such: a result that used it is not remembered.
        key.add(b"search path");
        for entry in pinned {
            key.add(entry.prefix.as_bytes());
            key.add(entry.path.as_deref().unwrap_or_default().as_bytes());
        }
        // A lookup passes over what is not there, and may find it later.
        match search_path::digest(facts.search_path(), location, tree.surroundings().without) {
            Ok(names) => key.add(names.as_bytes()),
            Err(why) => return Ok(Err(why)),
        }
        key.add(b"environment");
        let environment = deciding(self.environment);
        for (name, value) in &environment {
            key.add(name.as_bytes());
            key.add(value.as_bytes());
        }
        if let Some(file) = environment.get("NIXPKGS_CONFIG").filter(|file| !file.is_empty())
            && Path::new(file).symlink_metadata().is_ok()
        {
            return Ok(Err("NIXPKGS_CONFIG names a file that can change".to_owned()));
        }
        for dir in configuration(&environment) {
            key.add(b"configuration");
            match InputTree::folder(&dir)? {
                None => {}
                Some(Ok(tree)) => {
                    key.add(tree.hash()?.digest.as_bytes());
                    if let Err(why) = add_surroundings(&tree, &mut key) {
                        return Ok(Err(why));
                    }
                }
                Some(Err(_)) => return Ok(Err(format!("{} has too many files", dir.display()))),
            }
        }
        Ok(Ok(key.finish()))
    }
}

/// Adds what may be seen beside the contents of inputs, or says why that is not known.
fn add_surroundings(tree: &InputTree, key: &mut Fields) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let surroundings = tree.surroundings();
    key.add(b"surroundings");
    key.add(surroundings.digest()?.as_bytes());
    for place in surroundings.empty_places()? {
        key.add(place.as_os_str().as_bytes());
    }
    Ok(())
}

/// Where Nixpkgs looks for its configuration and overlays.
fn configuration(environment: &BTreeMap<&str, &str>) -> Vec<PathBuf> {
    let home = environment.get("HOME").map(Path::new).filter(|home| home.is_absolute());
    let Some(home) = home else { return Vec::new() };
    vec![home.join(".config/nixpkgs"), home.join(".nixpkgs")]
}
