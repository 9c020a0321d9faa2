//! Nix expressions, through `nix-instantiate`.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use super::error::LockError;
use super::link::{Target, follow};
use super::source::SearchPathEntry;
use crate::json;
use crate::store::{Location, StorePath};

/// Something that is passed to the evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// `--arg NAME EXPRESSION`
    Arg(String, String),
    /// `--argstr NAME TEXT`
    ArgStr(String, String),
    /// `-I [PREFIX=]PATH`
    Include(String),
    /// `--option NAME VALUE`
    Option(String, String),
}

impl Argument {
    /// As Nix takes it.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let words: [&str; 3] = match self {
            Self::Arg(name, value) => ["--arg", name, value],
            Self::ArgStr(name, value) => ["--argstr", name, value],
            Self::Include(entry) => return vec!["-I".to_owned(), entry.clone()],
            Self::Option(name, value) => ["--option", name, value],
        };
        words.map(str::to_owned).to_vec()
    }
}

/// An expression to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) file: PathBuf,
    pub(super) attribute: Option<String>,
    pub(super) arguments: Vec<Argument>,
}

/// What an evaluation gave: a derivation and one of its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Evaluated {
    pub(super) derivation: StorePath,
    pub(super) output: String,
}

/// What Nix says of itself, as the options make it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) system: String,
    store: String,
    path: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Entry {
    path: String,
    prefix: String,
}

impl Facts {
    /// Where each entry of the search path leads from; nothing is there for Nix's URLs.
    pub(super) fn search_path(&self) -> impl Iterator<Item = &Path> {
        self.path.iter().map(|entry| Path::new(&entry.path))
    }
}

/// Asks Nix for [`Facts`].
const FACTS: &str = "{ version = builtins.nixVersion; system = builtins.currentSystem; \
                     store = builtins.storeDir; path = builtins.nixPath; }";

const PROGRAM: &str = "nix-instantiate";

/// Fetches and builds.
const REALISE: &str = "nix-store";

/// Evaluates for one store.
#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    pub(super) location: &'a Location,
}

impl Evaluator<'_> {
    /// The version, the system and the search path that an evaluation with these arguments has.
    pub(super) fn facts(&self, arguments: &[Argument]) -> Result<Facts, LockError> {
        let mut command = self.command(PROGRAM);
        command.args(["--eval", "--strict", "--json"]);
        for argument in arguments {
            if matches!(argument, Argument::Include(_) | Argument::Option(..)) {
                command.args(argument.words());
            }
        }
        let output = run(command.args(["-E", FACTS]), PROGRAM)?;
        let facts: Facts = json::from_slice(&output.stdout)
            .map_err(|error| program(PROGRAM, format!("gave an unexpected answer about itself: {error}")))?;
        if facts.store != self.location.dir.as_str() {
            return Err(LockError::StoreDir { locked: facts.store, actual: self.location.dir.to_string() });
        }
        Ok(facts)
    }

    /// Evaluates.
    pub(super) fn evaluate(&self, expression: &Expression) -> Result<Vec<Evaluated>, LockError> {
        let mut command = self.command(PROGRAM);
        for argument in &expression.arguments {
            command.args(argument.words());
        }
        self.instantiate(command, &expression.file, expression.attribute.as_deref())
    }

    /// Evaluates a copy of the expression in Nix's restricted mode, where nothing can be read but what lies in `base`
    /// and on the part of the search path that is `pinned`, nothing can be fetched, and `builtins.getEnv` is empty.
    pub(super) fn evaluate_sealed(
        &self,
        expression: &Expression,
        base: &Path,
        pinned: &[SearchPathEntry],
    ) -> Result<Vec<Evaluated>, LockError> {
        let mut command = self.command(PROGRAM);
        command.env("NIX_PATH", "").arg("-I").arg(labelled("nixview-inputs", base));
        for entry in pinned {
            if let Some(path) = &entry.path {
                command.arg("-I").arg(labelled(&entry.prefix, Path::new(path)));
            }
        }
        for argument in &expression.arguments {
            if !matches!(argument, Argument::Include(_)) {
                command.args(argument.words());
            }
        }
        command.args(["--option", "restrict-eval", "true", "--option", "allowed-uris", ""]);
        self.instantiate(command, &expression.file, expression.attribute.as_deref())
    }

    fn instantiate(
        &self,
        mut command: Command,
        file: &Path,
        attribute: Option<&str>,
    ) -> Result<Vec<Evaluated>, LockError> {
        if let Some(attribute) = attribute {
            command.arg("-A").arg(attribute);
        }
        let file = std::path::absolute(file).map_err(LockError::file("find", file))?;
        let output = run(command.arg(&file), PROGRAM)?;
        let text = String::from_utf8(output.stdout)
            .map_err(|_| program(PROGRAM, "gave an answer that is no text".to_owned()))?;
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        for line in text.lines() {
            let (path, output) = line.split_once('!').unwrap_or((line, "out"));
            let derivation = self
                .location
                .dir
                .parse(path.as_bytes())
                .map_err(|error| LockError::Path { origin: "nix-instantiate".to_owned(), error })?;
            let evaluated = Evaluated { derivation, output: output.to_owned() };
            if seen.insert((evaluated.derivation.clone(), evaluated.output.clone())) {
                all.push(evaluated);
            }
        }
        if all.is_empty() {
            let given = file.display().to_string();
            return Err(LockError::Source { given, problem: "it evaluates to no derivation".to_owned() });
        }
        Ok(all)
    }

    /// Asks Nix to fetch or build store paths (`PATH`) and outputs (`PATH.drv!OUTPUT`); says what it does on stderr.
    pub(super) fn realise(&self, wanted: &[String]) -> Result<(), LockError> {
        for some in wanted.chunks(500) {
            let mut command = self.command(REALISE);
            run(command.arg("--realise").args(some).stderr(Stdio::inherit()), REALISE)?;
        }
        Ok(())
    }

    /// A program of Nix, for the store of this evaluator.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        if let Some(root) = self.foreign_root() {
            command.env("NIX_REMOTE", format!("local?root={}", root.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The root of a store that lies elsewhere than its paths say.
    fn foreign_root(&self) -> Option<&Path> {
        let real = &self.location.real;
        if real == Path::new(self.location.dir.as_str()) {
            return None;
        }
        real.ends_with("nix/store").then(|| real.parent()?.parent())?
    }

    /// What each entry of the search path is, as far as it cannot change: a place in a store path.
    pub(super) fn pin(&self, facts: &Facts) -> Result<Vec<SearchPathEntry>, LockError> {
        let mut entries = Vec::new();
        for entry in &facts.path {
            let path = match follow(Path::new(&entry.path), self.location) {
                Ok(Target::Store(path, rest)) if !rest.components().any(|c| c.as_os_str() == "..") => {
                    let full = Path::new(self.location.dir.as_str()).join(path.as_str());
                    let full = if rest.as_os_str().is_empty() { full } else { full.join(rest) };
                    full.into_os_string().into_string().ok()
                }
                Ok(_) | Err(_) => None,
            };
            entries.push(SearchPathEntry { path, prefix: entry.prefix.clone() });
        }
        Ok(entries)
    }
}

fn labelled(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut entry = std::ffi::OsString::new();
    if !prefix.is_empty() {
        entry.push(prefix);
        entry.push("=");
    }
    entry.push(path);
    entry
}

fn program(program: &'static str, problem: String) -> LockError {
    LockError::Program { program, problem }
}

/// Runs a program to its end; an exit code other than 0 is an error with the last of what it said.
fn run(command: &mut Command, name: &'static str) -> Result<Output, LockError> {
    tracing::debug!(?command, "running");
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if name == REALISE => program(
            name,
            "is not on PATH: install Nix; or copy the paths here from a machine that has it ('nix copy --to', or an archive of \
             'nix-store --export')"
                .to_owned(),
        ),
        io::ErrorKind::NotFound => program(
            name,
            "is not on PATH: install Nix; or evaluate where Nix is, and lock the .drv or the store path that it gives"
                .to_owned(),
        ),
        _ => program(name, format!("cannot be run: {error}")),
    })?;
    let said: String = output.stderr.utf8_chunks().map(|chunk| chunk.valid().to_owned()).collect();
    let said: Vec<&str> =
        said.lines().filter(|line| !line.contains("you did not specify '--add-root'")).collect();
    if output.status.success() {
        for line in said {
            tracing::info!(program = name, "{line}");
        }
        return Ok(output);
    }
    let last = said.get(said.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    let how = match output.status.code() {
        Some(_) => "failed".to_owned(),
        None => format!("was ended by a {}", output.status),
    };
    Err(program(name, if last.is_empty() { how } else { format!("{how}:\n{last}") }))
}

/// Variables that Nix or Nixpkgs read while they evaluate.
pub(super) fn deciding(environment: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let decides = |name: &str| {
        matches!(name, "HOME" | "XDG_CONFIG_HOME" | "USER")
            || name.starts_with("NIX_")
            || name.starts_with("NIXPKGS_")
    };
    environment.iter().filter(|(n, _)| decides(n)).map(|(n, v)| (n.as_str(), v.as_str())).collect()
}
