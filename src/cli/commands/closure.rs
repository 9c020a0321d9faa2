//! `nixview closure`: the store paths of an environment.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::output::{count, size};
use crate::cli::piped::Piped;
use crate::cli::source::{SOURCES, SourceArgs, closure_not_found};
use crate::cli::view::realise;
use crate::cli::{CliError, Context, ErrorContext, only_traced, reference_tree};
use crate::closure::{Closure, Mode};
use crate::lock::{EnvLock, Given, Known, Starts, verify, verify_store};
use crate::store::{Location, StoreDir, StorePath};

/// Arguments of `nixview closure`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("ENV is a lock file, whose closure must be the one that was locked, or a SOURCE.\n\
    {SOURCES}\n\nExamples:\n  \
    nixview closure env.lock\n  \
    nixview closure --summary ./result\n  \
    nixview closure env.lock --why /nix/store/HASH-glibc-2.36\n  \
    nixview closure --diff old.lock new.lock"))]
pub struct Args {
    /// A lock file, or anything that 'nixview lock' takes; two with --diff
    #[arg(value_name = "ENV", required = true)]
    pub environments: Vec<String>,
    /// How a SOURCE becomes a closure; a lock file says that itself.
    #[command(flatten)]
    pub how: SourceArgs,
    /// What is shown.
    #[command(flatten)]
    pub show: Show,
    /// Answer as JSON [default: as text]
    #[arg(long)]
    pub json: bool,
}

/// What is shown of a closure.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct Show {
    /// Print the full store paths, sorted, one a line; this is the default
    #[arg(long)]
    pub paths: bool,
    /// Print the number of paths, the size of their NARs and the digest [default: the paths]
    #[arg(long)]
    pub summary: bool,
    /// Print what refers to what as a tree; a path that was shown is not unfolded again [default: the paths]
    #[arg(long)]
    pub tree: bool,
    /// Print the shortest chain of references to PATH, from a root or an extra root; exit code 1 if it is not in the
    /// closure. PATH is a store path, or the name of one member, with or without its version: bash [default: the paths]
    #[arg(long, value_name = "PATH")]
    pub why: Option<String>,
    /// Print the paths that only one of two environments has; exit code 1 if they differ [default: the paths of one]
    #[arg(long)]
    pub diff: bool,
}

/// An environment and what is known of it.
struct Environment {
    closure: Closure,
    references: Source,
    starts: Starts,
    store: StoreDir,
}

/// Where its references are. A closure that is remembered is shown without opening the store's database.
enum Source {
    Opened(Box<Known>),
    At(Location),
}

impl Source {
    /// Opens the store's records, if that was not done to find the closure.
    fn open(self, context: &Context) -> Result<Known, CliError> {
        match self {
            Self::Opened(known) => Ok(*known),
            Self::At(location) => known(&location, context),
        }
    }
}

fn known(location: &Location, context: &Context) -> Result<Known, CliError> {
    Known::open(location, None, &context.state.state).context("cannot read the store")
}

/// Shows it.
///
/// # Errors
/// If an environment cannot be read, or its closure is not the one that was locked.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let inputs =
        args.environments.iter().map(|text| Piped::of(text).with_context(|| format!("cannot read {text}")));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let environments: Vec<String> = inputs.iter().map(|input| input.text().to_owned()).collect();
    match (args.show.diff, environments.as_slice()) {
        (true, [old, new]) => {
            let (old, new) = (open(old, args, context)?, open(new, args, context)?);
            diff(&old, &new, args.json, context)
        }
        (true, _) => Err(CliError::usage("--diff needs two environments")),
        (false, [one]) if EnvLock::is_one(Path::new(one)) => show(open(one, args, context)?, args, context),
        (false, many) if many.iter().any(|one| EnvLock::is_one(Path::new(one))) => {
            Err(CliError::usage("one lock file at a time can be shown; --diff compares two"))
        }
        (false, sources) => show(made(sources, args, context)?, args, context),
    }
}

fn made(sources: &[String], args: &Args, context: &Context) -> Result<Environment, CliError> {
    let made = args.how.make("cannot find the closure", sources, None, None, Mode::Runtime, context)?;
    let starts = made.lock.starts();
    Ok(Environment {
        closure: made.closure,
        references: Source::Opened(Box::new(made.known)),
        starts,
        store: made.lock.store_dir,
    })
}

fn open(text: &str, args: &Args, context: &Context) -> Result<Environment, CliError> {
    if !EnvLock::is_one(Path::new(text)) {
        return made(&[text.to_owned()], args, context);
    }
    let lock = EnvLock::read(Path::new(text)).context("cannot use the environment")?;
    let location = args.how.location()?;
    verify_store(&lock, &location.dir).with_context(|| format!("cannot use {text} here"))?;
    if !args.how.extra_root.is_empty() {
        return Err(CliError::usage("--extra-root goes with a SOURCE; a lock names its extra roots itself"));
    }
    if args.how.realise {
        realise(Path::new(text), &location, context)?;
    }
    let found = lock.closure_in(&location, &context.state.state);
    let (closure, known) = found.map_err(|error| closure_not_found(&lock, &text, error))?;
    if !args.json {
        only_traced::note(&lock, Path::new(text), &location, context)?;
    }
    let references = known.map_or(Source::At(location), |known| Source::Opened(Box::new(known)));
    if let Err(error) = verify(&lock, &closure) {
        if !args.show.diff {
            return Err(Err::<(), _>(error)
                .with_context(|| format!("the store does not have what {text} says"))
                .err()
                .unwrap_or_else(|| CliError::new("the lock does not fit"))
                .hint(
                    "lock it again; 'nixview closure --diff' shows what two environments are made of now",
                ));
        }
        context.output.note(&format!("nixview: note: {text}: {error}"));
    }
    Ok(Environment { closure, references, starts: lock.starts(), store: lock.store_dir })
}

fn show(env: Environment, args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let output = &context.output;
    if let Some(target) = &args.show.why {
        return chain(env, target, args, context);
    }
    let closure = &env.closure;
    if args.show.tree {
        if args.json {
            return Err(CliError::usage("--tree is for people; --json without it has the paths"));
        }
        tree(env, context)?;
    } else if args.json {
        let mut value = json!({
            "count": closure.count(),
            "digest": closure.digest(),
            "mode": env.starts.mode(),
            "narSize": closure.nar_size(),
            "roots": full(&env.store, env.starts.roots()),
        });
        if let Some(map) = value.as_object_mut() {
            let extra = env.starts.extra().iter();
            let extra = extra.map(|e| json!({ "name": e.name, "path": format!("{}/{}", env.store, e.path) }));
            let extra: Vec<_> = extra.collect();
            if !extra.is_empty() {
                map.insert("extraRoots".to_owned(), json!(extra));
            }
            if !args.show.summary {
                map.insert("paths".to_owned(), json!(full(&env.store, closure.paths())));
            }
        }
        output.json(&value)?;
    } else if args.show.summary {
        let nar_size = closure.nar_size().map_or_else(|| "size not recorded".to_owned(), size);
        let paths = count(closure.count() as u64, "path", "paths");
        output.line(&format!("{paths}, {nar_size}, {}", closure.digest()))?;
    } else {
        output
            .write(|out| closure.paths().iter().try_for_each(|path| writeln!(out, "{}/{path}", env.store)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn full(store: &StoreDir, paths: &[StorePath]) -> Vec<String> {
    paths.iter().map(|path| format!("{store}/{path}")).collect()
}

/// The member of this name, or of this name without a version, if what is given looks like one.
fn named(env: &Environment, text: &str) -> Result<Option<StorePath>, CliError> {
    if text.contains('/') || StorePath::from_base_name(text.as_bytes()).is_ok() {
        return Ok(None);
    }
    let members = env.closure.paths();
    let mut found: Vec<&StorePath> = members.iter().filter(|path| path.name() == text).collect();
    if found.is_empty() {
        found = members.iter().filter(|path| path.package() == text).collect();
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        many => {
            let error = CliError::new(format!("'{text}' is the name of {} paths of the closure", many.len()));
            Err(many.iter().take(10).fold(error, |error, path| error.hint(format!("{}/{path}", env.store))))
        }
    }
}

fn chain(env: Environment, target: &str, args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let location: Location = args.how.location()?;
    let target = match named(&env, target)? {
        Some(path) => path,
        None if !target.contains('/')
            && StorePath::from_base_name(target.as_bytes()).is_err()
            && !Path::new(target).exists() =>
        {
            return Err(CliError::new(format!("no path of the closure is called '{target}'")));
        }
        None => match Given::recognise(target, &location).context("cannot look for the path")? {
            Given::Path(path) => path,
            _ => return Err(CliError::usage(format!("--why needs a store path, and '{target}' is none"))),
        },
    };
    let known = env.references.open(context)?;
    let found = env
        .starts
        .why(known.references(), &target)
        .context("cannot follow the references")?
        .filter(|_| env.closure.contains(&target));
    if args.json {
        context.output.json(&found.as_ref().map(|(chain, _)| full(&env.store, chain)))?;
    } else if let Some((chain, extra)) = &found {
        let remark = extra.as_ref().map(|name| format!(" (extra root {name})")).unwrap_or_default();
        context.output.write(|out| reference_tree::chain(out, &env.store, chain, &remark))?;
    } else {
        context.output.note(&format!("nixview: {target} is not in the closure"));
    }
    Ok(if found.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn diff(old: &Environment, new: &Environment, json: bool, context: &Context) -> Result<ExitCode, CliError> {
    let only = |one: &Environment, other: &Environment| -> Vec<String> {
        let paths: Vec<StorePath> =
            one.closure.paths().iter().filter(|p| !other.closure.contains(p)).cloned().collect();
        full(&one.store, &paths)
    };
    let (removed, added) = (only(old, new), only(new, old));
    let same = removed.is_empty() && added.is_empty();
    if json {
        context.output.json(&json!({ "added": added, "removed": removed }))?;
    } else {
        context.output.write(|out| {
            removed.iter().try_for_each(|path| writeln!(out, "- {path}"))?;
            added.iter().try_for_each(|path| writeln!(out, "+ {path}"))
        })?;
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Draws members below what refers to them. Starts at the roots, or, where these are no members (mode `dev`), at the
/// members that nothing refers to.
fn tree(env: Environment, context: &Context) -> Result<(), CliError> {
    let known = env.references.open(context)?;
    let below = env.starts.below(known.references(), &env.closure).context("cannot follow the references")?;
    let mut tops: Vec<StorePath> =
        env.starts.roots().iter().filter(|root| env.closure.contains(root)).cloned().collect();
    // Of a part of a closure also what nothing refers to any more.
    let referred: BTreeSet<&StorePath> = below.values().flatten().collect();
    tops.extend(env.closure.paths().iter().filter(|path| !referred.contains(path)).cloned());
    tops.extend(env.starts.extra().iter().map(|extra| extra.path.clone()));
    let mut seen = BTreeSet::new();
    tops.retain(|top| seen.insert(top.clone()));
    context.output.write(|out| reference_tree::tree(out, &env.store, &tops, &below))
}
