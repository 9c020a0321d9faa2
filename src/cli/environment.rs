//! Recording and entering the variables of a development environment.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::view::{dirs, failed, own_ids, warn};
use super::{CliError, Context, ErrorContext};
use crate::daemon;
use crate::daemon::keeper::ServeOptions;
use crate::daemon::run::{Outcome, Program};
use crate::lock::environment::{Entering, EnvironmentFile, MAX_ANSWER, Recipe, RecipeError, SCRIPT};
use crate::lock::{EnvLock, Environment, Memory};
use crate::store::Location;
use crate::view::ViewName;
use crate::view::spec::{BackendChoice, IoChoice, UpperChoice, ViewSpec};
use crate::view::upper_dir::LimitChoice;

/// How the variables of a lock came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// They are remembered of the same derivation and bash; nothing was run.
    Unchanged,
    /// The derivation's setup was run.
    Now,
}

/// The variables of what `lock` develops: remembered, or recorded in a view of its closure.
///
/// To be called without other threads: the view's server is a fork of this process. Without root this process is in a
/// user namespace afterwards.
///
/// # Errors
/// If there is no bash, the view cannot be had, or the setup fails.
pub fn record(
    lock: &EnvLock,
    store: &Location,
    context: &Context,
) -> Result<(Environment, Recorded), CliError> {
    const WHAT: &str = "cannot record the variables";
    let recipe = Recipe::of(lock, store).map_err(|error| {
        let hint = match &error {
            RecipeError::NoShell(_) => Some("name one: --extra-root bash=/nix/store/HASH-bash"),
            RecipeError::NotOne(_) => Some("give one PATH.drv, or FILE.nix#ATTRIBUTE that evaluates to one"),
            _ => None,
        };
        let told = CliError::new(format!("{WHAT}: {error}"));
        hint.into_iter().fold(told, CliError::hint)
    })?;
    let state = &context.state.state;
    if let Some(environment) = Memory::open(state).environment(&recipe) {
        return Ok((environment, Recorded::Unchanged));
    }
    let files = Files::make(recipe.files()).context(WHAT)?;
    let mut answer = tempfile::tempfile().context(WHAT)?;
    let program = Program {
        program: recipe.shell().into(),
        arguments: vec!["--noprofile".into(), "--norc".into(), "-c".into(), SCRIPT.into()],
        environment: recipe.environment(files.path(), cores()).into_iter().map(to_os).collect(),
        directory: files.path().to_owned(),
        output: Some(answer.try_clone().context(WHAT)?.into()),
        isolation: None,
        inherited: context.inherited,
    };
    run(lock, store, &program, context)?;
    answer.seek(SeekFrom::Start(0)).context(WHAT)?;
    let mut bytes = Vec::new();
    (&answer).take(MAX_ANSWER).read_to_end(&mut bytes).context(WHAT)?;
    let environment = recipe.recorded(&bytes, files.path()).with_context(|| {
        format!("cannot record the variables of {}, whose setup was run in a view", recipe.derivation())
    })?;
    if !Memory::open(state).put_environment(&recipe, &environment) {
        tracing::warn!("the variables will be recorded again: the state directory cannot be written");
    }
    Ok((environment, Recorded::Now))
}

fn to_os((name, value): (String, Vec<u8>)) -> (OsString, OsString) {
    use std::os::unix::ffi::OsStringExt;
    (name.into(), OsString::from_vec(value))
}

/// Runs the recording bash in a view of its own.
fn run(lock: &EnvLock, store: &Location, program: &Program, context: &Context) -> Result<(), CliError> {
    let name: ViewName = format!("env-{}", std::process::id()).parse().context("cannot name the view")?;
    let spec = ViewSpec {
        name,
        lock_file: PathBuf::from("the new lock"),
        lock: lock.clone(),
        store: store.clone(),
        upper: UpperChoice::Temporary { parent: dirs(context).temporary() },
        limit: LimitChoice::default(),
        owner: own_ids()?,
        // A view for a moment: nothing is gained by an image of the closure.
        backend: BackendChoice::Fuse,
        io: IoChoice::Auto,
        access_lists: false,
        devices: false,
        trace: None,
    };
    let options = ServeOptions {
        allow_other: true,
        no_exec: false,
        require_gc_roots: false,
        // The view is there for a moment.
        no_gc_warning: true,
        fusermount: false,
        prefer_overlay: true,
        becomes_small: true,
        restart: true,
        threads: NonZeroUsize::MIN.saturating_add(3),
        verbose: context.verbose,
        requested_by: None,
    };
    let usable = &mut |_: &_, warnings: &[String]| warn(context, warnings);
    match daemon::run(&spec, &dirs(context), program, options, false, usable).map_err(failed)? {
        Outcome::Ended { code: 0, warnings } => {
            warn(context, &warnings);
            Ok(())
        }
        Outcome::Ended { code, .. } => Err(CliError::new(format!(
            "cannot record the variables: the setup of the derivation failed with exit code {code}"
        ))
        .hint("it was run in a view of its closure alone; what it said stands above")),
        Outcome::NotStarted { failure, .. } => {
            Err(failed(failure).hint("the bash must be in the closure: see 'nixview closure'"))
        }
    }
}

/// How many processors there are, as nix-shell counts them.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The files of an environment, in a directory that goes when this is dropped.
#[derive(Debug)]
pub struct Files(tempfile::TempDir);

impl Files {
    /// Makes them.
    ///
    /// # Errors
    /// As mkdir(2) and write(2).
    pub fn make(files: &[EnvironmentFile]) -> std::io::Result<Self> {
        let made = Self(tempfile::Builder::new().prefix("nixview-env-").tempdir()?);
        for file in files {
            made.write(&file.name, file.content.as_bytes())?;
        }
        Ok(made)
    }

    /// Writes a file that is not there yet.
    ///
    /// # Errors
    /// As open(2) and write(2).
    pub fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        use std::io::Write;
        let path = self.path().join(name);
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What the shell reads first; no file of an environment is called so.
const RC: &str = "rc";

/// A program to be executed with an environment.
#[derive(Debug)]
pub struct Entered {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its variables.
    pub environment: Vec<(OsString, OsString)>,
    /// To be kept until it ends.
    pub files: Files,
}

/// A program, with what the environment exports.
///
/// # Errors
/// If the environment's files cannot be made.
pub fn enter_program(
    environment: &Environment,
    program: OsString,
    arguments: Vec<OsString>,
    bin: &[PathBuf],
    pure: bool,
) -> Result<Entered, CliError> {
    let files = Files::make(&environment.files).context("cannot make the files of the environment")?;
    let caller: Vec<_> = std::env::vars_os().collect();
    let how = Entering { caller: &caller, pure, files: files.path(), cores: cores() };
    Ok(Entered { program, arguments, environment: environment.of_program(&how, bin), files })
}

/// The environment's own shell, which runs `command` or is interactive.
///
/// # Errors
/// If the environment's files cannot be made.
pub fn enter_shell(
    environment: &Environment,
    command: Option<&OsStr>,
    pure: bool,
) -> Result<Entered, CliError> {
    const WHAT: &str = "cannot make the files of the environment";
    let files = Files::make(&environment.files).context(WHAT)?;
    let caller: Vec<_> = std::env::vars_os().collect();
    let how = Entering { caller: &caller, pure, files: files.path(), cores: cores() };
    files.write(RC, &environment.rc(&how, command)).context(WHAT)?;
    let rc = files.path().join(RC).into_os_string();
    let arguments = if command.is_some() { vec![rc] } else { vec!["--rcfile".into(), rc] };
    let program = environment.shell.clone().into();
    Ok(Entered { program, arguments, environment: environment.of_shell(&how), files })
}
