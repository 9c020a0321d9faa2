//! The options that say what an environment is made of, the same for all commands that take one.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{CliError, Context, ErrorContext};
use crate::closure::{ClosureError, Mode};
use crate::lock::{Argument, EnvLock, Given, LockError, Made, Request, make};
use crate::store::{Location, ReferenceError, path_list};

/// What can be given as SOURCE, for the end of `--help`.
pub const SOURCES: &str = "SOURCE is one of\n  \
    /nix/store/HASH-NAME          a store path, or something inside it\n  \
    /nix/store/HASH-NAME.drv      a derivation: all its outputs\n  \
    /nix/store/HASH-NAME.drv^out,dev  some of its outputs\n  \
    result                        a link to one of these: result, a profile, a GC root\n  \
    DIR                           what closureInfo made (registration and store-paths), or a folder with default.nix\n  \
    FILE.json                     what 'nix path-info --json' printed\n  \
    FILE.nix[#ATTRIBUTE]          a Nix expression, evaluated by nix-instantiate\n  \
    -                             a list on standard input, one store path or PATH.drv^OUTPUTS a line\n\
    Several store paths and outputs can be given, also beside one of the others.";

/// How a SOURCE becomes a closure.
#[derive(Debug, Default, clap::Args)]
pub struct SourceArgs {
    /// Which closure: runtime (what the roots refer to), build (a derivation, and all that is built of it), or dev (what
    /// developing a derivation needs) [default: runtime]
    #[arg(short, long, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// The store: a directory that ends in nix/store, or one that contains nix/store
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
    /// Add the store path, or what a link leads to, with all that it refers to: what closures miss, as a locale archive,
    /// fonts, drivers, certificates; can be given several times [default: none]
    #[arg(long, value_name = "NAME=PATH", value_parser = extra_root)]
    pub extra_root: Vec<(String, String)>,
    /// Ask Nix to build or fetch outputs that are missing [default: they are an error]
    #[arg(long, visible_alias = "realize")]
    pub realise: bool,
    /// Pass a Nix expression to the expression's function as argument NAME [default: none]
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPRESSION"], help_heading = "Expressions")]
    pub arg: Vec<String>,
    /// Pass a text to the expression's function as argument NAME [default: none]
    #[arg(long, num_args = 2, value_names = ["NAME", "TEXT"], help_heading = "Expressions")]
    pub argstr: Vec<String>,
    /// Add an entry to Nix's search path [default: NIX_PATH alone]
    #[arg(short = 'I', value_name = "[PREFIX=]PATH", help_heading = "Expressions")]
    pub include: Vec<String>,
    /// Set an option of Nix [default: as in nix.conf]
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], help_heading = "Expressions")]
    pub option: Vec<String>,
    /// A file or folder that the expression reads; if given, these decide whether it is evaluated again [default: what
    /// git tracks in the expression's folder, or all that is in it]
    #[arg(long, value_name = "PATH", help_heading = "Expressions")]
    pub input: Vec<PathBuf>,
    /// Evaluate the expression also if nothing of its inputs has changed [default: only if something has]
    #[arg(long, help_heading = "Expressions")]
    pub evaluate: bool,
}

impl SourceArgs {
    /// The store.
    ///
    /// # Errors
    /// If there is none.
    pub fn location(&self) -> Result<Location, CliError> {
        Location::open(&self.store).context("cannot use the store")
    }

    /// Makes a lock of what was given, without writing it; `what` is told if that fails: `cannot lock`.
    ///
    /// # Errors
    /// What went wrong, with what to do about it.
    pub fn make(
        &self,
        what: &str,
        sources: &[String],
        name: Option<&str>,
        lock_file: Option<&Path>,
        default_mode: Mode,
        context: &Context,
    ) -> Result<Made, CliError> {
        let location = self.location()?;
        let mut given = Vec::new();
        let mut list = Vec::new();
        for text in sources {
            let found = Given::recognise(text, &location).map_err(|error| self.explain(what, error))?;
            if matches!(&found, Given::PathInfo(file) if EnvLock::is_one(file)) {
                return Err(CliError::new(format!("'{text}' is a lock already"))
                    .hint("'nixview closure' shows it; to lock anew, give what it was made of"));
            }
            if found == Given::List {
                if !list.is_empty() {
                    return Err(CliError::usage("standard input can be given once"));
                }
                list = standard_input()?;
            }
            given.push((text.clone(), found));
        }
        let is_expression = given.iter().any(|(_, g)| matches!(g, Given::Expression { .. }));
        let has_options =
            !(self.arg.is_empty() && self.argstr.is_empty() && self.input.is_empty()) || self.evaluate;
        if has_options && !is_expression {
            return Err(CliError::usage(
                "--arg, --argstr, --input and --evaluate need a Nix expression as SOURCE",
            ));
        }
        let mut extra_roots = Vec::new();
        for (name, text) in &self.extra_root {
            let found = Given::recognise(text, &location).map_err(|error| self.explain(what, error))?;
            extra_roots.push((name.clone(), found));
        }
        let request = Request {
            given,
            list,
            extra_roots,
            mode: self.mode.unwrap_or(default_mode),
            name: name.map(str::to_owned),
            realise: self.realise,
            arguments: self.arguments(),
            inputs: self.input.clone(),
            evaluate: self.evaluate,
            lock_file: lock_file.map(Path::to_owned),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        };
        let progress =
            context.output.progress(if is_expression { "evaluating" } else { "looking for references" });
        let made = make(&request, &location, &context.state.state).map_err(|error| self.explain(what, error));
        drop(progress);
        made
    }

    fn arguments(&self) -> Vec<Argument> {
        fn pairs(
            words: &[String],
            make: fn(String, String) -> Argument,
        ) -> impl Iterator<Item = Argument> + '_ {
            words.chunks(2).filter_map(move |pair| match pair {
                [name, value] => Some(make(name.clone(), value.clone())),
                _ => None,
            })
        }
        let includes = self.include.iter().cloned().map(Argument::Include);
        pairs(&self.arg, Argument::Arg)
            .chain(pairs(&self.argstr, Argument::ArgStr))
            .chain(includes)
            .chain(pairs(&self.option, Argument::Option))
            .collect()
    }

    /// Adds what can be done.
    fn explain(&self, what: &str, error: LockError) -> CliError {
        let hint = match &error {
            LockError::Closure(ClosureError::NotBuilt { .. }) if !self.realise => {
                Some("--realise asks Nix to build or fetch it")
            }
            LockError::Closure(
                ClosureError::Source(ReferenceError::Unknown { .. }) | ClosureError::Missing { .. },
            ) if !self.realise => Some(
                "--realise asks Nix to fetch it, as 'nix-store --realise PATH' does; 'nix copy --from ssh://HOST PATH' takes \
                 it from a machine that has it",
            ),
            LockError::Closure(ClosureError::NotADerivation(_)) => {
                Some("'nix-store -q --deriver PATH' tells the .drv of a path")
            }
            LockError::StoreDir { .. } => Some("nix-instantiate works for another store: see NIX_STORE_DIR"),
            _ => None,
        };
        let told = match &error {
            LockError::Program { program, problem } => {
                let mut lines = problem.lines();
                let first = lines.next().unwrap_or_default();
                CliError::new(format!("{what}: {program} {first}")).details(lines)
            }
            _ => CliError::new(what).because(error),
        };
        match hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

/// The closure of a lock could not be told: why, and what to do if the store lacks something of it.
#[must_use]
pub fn closure_not_found(lock: &EnvLock, text: &dyn std::fmt::Display, error: LockError) -> CliError {
    let hints = lock.fetching_hints(&error, false);
    let told = CliError::new(format!("cannot find the closure of {text}")).because(error);
    hints.into_iter().fold(told, CliError::hint)
}

fn extra_root(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let (name, path) =
        parts.ok_or_else(|| "it must be NAME=PATH, as in bash=/nix/store/HASH-bash".to_owned())?;
    Ok((name.to_owned(), path.to_owned()))
}

/// All of standard input, up to a bound.
fn standard_input() -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(path_list::SIZE_MAX + 1)
        .read_to_end(&mut text)
        .context("cannot read the list on standard input")?;
    if text.len() as u64 > path_list::SIZE_MAX {
        return Err(CliError::new("the list on standard input is longer than 512 MiB"));
    }
    Ok(text)
}
