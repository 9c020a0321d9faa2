//! What 'nixview trace report' answers: how much of a closure was used, and why the rest is in it.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::costed::{self, Costed};
use super::source::closure_not_found;
use super::{CliError, Context, ErrorContext};
use crate::closure::Closure;
use crate::lock::{EnvLock, Known, verify, verify_store};
use crate::store::{Location, StorePath};
use crate::trace::{self, Trace};
use crate::usage::account::{Accounts, Sizes};
use crate::usage::scan::{Found, scan};
use crate::usage::traced::{Used, by_store_path, cuts};

/// Bytes of a block of st_blocks.
const BLOCK: u64 = 512;

/// The most cuts that are told.
const CUTS: usize = 20;

/// Which traces, of what.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The files of the traces, which are taken together.
    pub traces: Vec<PathBuf>,
    /// The lock of the environment [default: the one that the first trace names].
    pub lock: Option<PathBuf>,
    /// The store [default: the one that the first trace names].
    pub store: Option<PathBuf>,
    /// Nothing that was measured before counts.
    pub afresh: bool,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    /// The name of the environment.
    pub environment: String,
    /// Its lock.
    pub lock: PathBuf,
    /// Where the store lies.
    pub store: PathBuf,
    /// What was traced.
    pub traces: Vec<OfTrace>,
    /// All of the traces have every open.
    pub exact: bool,
    /// All of the closure.
    pub closure: Sizes,
    /// The store paths that were used.
    pub touched: Sizes,
    /// What would be freed without the others: the closure without `touched`.
    pub untouched: Sizes,
    /// How many store paths have a file that was opened.
    pub paths_opened: u64,
    /// Files and links.
    pub files: OfFiles,
    /// Of each store path.
    pub paths: Vec<OfPath>,
    /// Where the references can be cut so that only what was not used goes, what frees most first.
    pub cuts: Vec<OfCut>,
    /// Names in the traces that are no members of the closure: made in the view, or of another closure.
    pub foreign: u64,
}

/// Of a trace.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfTrace {
    /// Its file.
    pub file: PathBuf,
    /// The view.
    pub view: String,
    /// It has every open.
    pub exact: bool,
    /// It began with the view.
    pub from_start: bool,
    /// When it began, in seconds since 1970.
    pub since: u64,
    /// When it ended; absent if it goes on, or its writer was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// False if there was no memory for all of it.
    pub complete: bool,
    /// Paths of the store and of Nix's state that were used.
    pub used: usize,
    /// Paths that were used and are the upper's.
    pub used_of_upper: usize,
}

/// How many files and links of the closure were used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfFiles {
    /// All files.
    pub all: u64,
    /// Those that were opened.
    pub used: u64,
    /// All symbolic links.
    pub links: u64,
    /// Those that were read.
    pub links_read: u64,
    /// Lengths of all files and links.
    pub apparent: u64,
    /// Lengths of the files that were opened.
    pub used_apparent: u64,
    /// Space on the disk of all.
    pub allocated: u64,
    /// Space on the disk of the files that were opened, each inode once.
    pub used_allocated: u64,
    /// Files that were opened, and are not there any more.
    pub gone: u64,
}

/// How often things of a kind were used: numbers of different things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Uses {
    /// Files that were opened.
    pub opened: u64,
    /// Links that were read.
    pub links_read: u64,
    /// Directories that were listed.
    pub listed: u64,
    /// Names that were looked up.
    pub looked_up: u64,
}

/// Of a store path.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfPath {
    /// Its path.
    pub path: String,
    /// Something in it was used.
    pub touched: bool,
    /// What it takes.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Files that were opened.
    pub files_used: u64,
    /// Their lengths.
    pub used_apparent: u64,
    /// How it was used.
    pub uses: Uses,
    /// By which references it is in the closure: the shortest chain, from what the environment starts from to itself.
    pub why: Vec<String>,
    /// The extra root that the chain starts from, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_extra_root: Option<String>,
}

/// Of a place where references can be cut.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfCut {
    /// What was not used, and should not be referred to.
    pub path: String,
    /// What was used and refers to it; empty if the environment starts from it.
    pub referrers: Vec<String>,
    /// What would go.
    pub frees: Sizes,
}

/// Reads traces, measures the closure, and says what of it was used.
///
/// # Errors
/// If a trace or the lock cannot be read, they do not fit each other or the store, or the store cannot be measured.
pub fn make(asked: &Asked, context: &Context) -> Result<TraceAnswer, CliError> {
    let traces = read(&asked.traces)?;
    let (lock_file, lock) = find_lock(asked, &traces)?;
    for (file, trace) in asked.traces.iter().zip(&traces) {
        check(file, trace, &lock_file, &lock)?;
    }
    let store = asked.store.as_deref().or(traces.first().map(|trace| trace.head.store.as_path()));
    let location =
        Location::open(store.unwrap_or(Path::new("/nix/store"))).context("cannot use the store")?;
    let closure = closure(&lock_file, &lock, &location, context)?;
    let known = Known::open(&location, None, &context.state.state).context("cannot read the store")?;

    let env = [Costed {
        name: lock.name.clone(),
        given: lock_file.display().to_string(),
        paths: closure.paths().to_vec(),
        starts: lock.starts().paths(),
        upper: None,
    }];
    let together = costed::together(&env, &location, false)?;
    let found = {
        let progress = context.output.progress("paths measured");
        let told = |done, total| progress.count(done, total);
        scan(&location, &together.paths, &together.rows, &context.state.state, asked.afresh, &told)
            .context("cannot measure the environment")?
    };
    let measured = Measured { location: &location, closure: &closure, found: &found };
    measured.answer(lock_file, &lock, &known, asked, &traces)
}

/// Reads traces.
///
/// # Errors
/// If one cannot be.
pub fn read(files: &[PathBuf]) -> Result<Vec<Trace>, CliError> {
    files.iter().map(|file| trace::read(file).context("cannot use the trace")).collect()
}

/// The lock that was given, or that the traces name.
fn find_lock(asked: &Asked, traces: &[Trace]) -> Result<(PathBuf, EnvLock), CliError> {
    if let Some(file) = &asked.lock {
        return Ok((file.clone(), EnvLock::read(file).context("cannot use the environment")?));
    }
    let Some(first) = traces.first() else { return Err(CliError::usage("no trace was given")) };
    let file = first.head.lock_file.clone();
    match EnvLock::read(&file) {
        Ok(lock) => Ok((file, lock)),
        Err(error) => {
            Err(error).context("cannot use the lock that the trace names").map_err(|error: CliError| {
                error.hint("name the lock of the environment that was traced with --lock")
            })
        }
    }
}

/// Refuses a trace of another closure.
///
/// # Errors
/// With both.
pub fn check(file: &Path, trace: &Trace, lock_file: &Path, lock: &EnvLock) -> Result<(), CliError> {
    let (traced, locked) = (&trace.head.closure, &lock.closure);
    if traced.digest == locked.digest.to_string() && trace.head.store_dir == lock.store_dir.as_str() {
        return Ok(());
    }
    let what = format!(
        "{} is of another closure than {}: of {} paths ({}) in {}, not of {} ({})",
        file.display(),
        lock_file.display(),
        traced.count,
        traced.digest,
        trace.head.store_dir,
        locked.count,
        locked.digest
    );
    Err(CliError::new(what).hint(
        "name the lock that was traced with --lock, or trace again; traces can be merged only of one closure",
    ))
}

/// The closure of a lock, which must be the one that was locked.
///
/// # Errors
/// If it is not, or cannot be had.
pub fn closure(
    file: &Path,
    lock: &EnvLock,
    location: &Location,
    context: &Context,
) -> Result<Closure, CliError> {
    let text = file.display();
    verify_store(lock, &location.dir).with_context(|| format!("cannot use {text} here"))?;
    let found = lock.closure_in(location, &context.state.state);
    let (closure, _) = found.map_err(|error| closure_not_found(lock, &text, error))?;
    verify(lock, &closure).with_context(|| format!("the store does not have what {text} says"))?;
    Ok(closure)
}

/// A closure that was measured: `found` of its paths in their order.
struct Measured<'a> {
    location: &'a Location,
    closure: &'a Closure,
    found: &'a [Found],
}

impl Measured<'_> {
    fn answer(
        &self,
        lock_file: PathBuf,
        lock: &EnvLock,
        known: &Known,
        asked: &Asked,
        traces: &[Trace],
    ) -> Result<TraceAnswer, CliError> {
        let failed = "cannot follow the references";
        let (starts, paths) = (lock.starts(), self.closure.paths());
        let set = [(0..paths.len()).collect::<Vec<usize>>()];
        let nothing = HashSet::new();
        let accounts = Accounts::new(self.found, &set, &nothing);
        let mut used = by_store_path(traces);
        let chains = starts.chains(known.references()).context(failed)?;

        let mut files = OfFiles::default();
        let mut inodes = HashSet::new();
        let mut rows = Vec::with_capacity(paths.len());
        for (at, path) in paths.iter().enumerate() {
            let used = used.remove(path.as_str().as_bytes()).unwrap_or_default();
            let used_apparent = self.add_files(path, &used, &mut files, &mut inodes);
            files.links_read += used.links_read;
            let (why, why_extra_root) = chains.to(path).unwrap_or_default();
            rows.push(OfPath {
                path: self.full(path),
                touched: used.touched,
                sizes: accounts.sizes(std::iter::once(at)),
                files_used: used.opened.len() as u64,
                used_apparent,
                uses: Uses {
                    opened: used.opened.len() as u64,
                    links_read: used.links_read,
                    listed: used.listed,
                    looked_up: used.looked_up,
                },
                why: why.iter().map(|path| self.full(path)).collect(),
                why_extra_root,
            });
        }
        let touched: Vec<bool> = rows.iter().map(|row| row.touched).collect();
        let closure = accounts.sizes(0..paths.len());
        let used_paths = (0..paths.len()).filter(|at| touched.get(*at) == Some(&true));
        let used_sizes = accounts.sizes(used_paths);
        files.all = closure.files;
        files.links = closure.symlinks;
        files.apparent = closure.apparent;
        files.allocated = closure.allocated;

        let below = starts.below(known.references(), self.closure).context(failed)?;
        let cuts = self.cuts(&accounts, &below, &starts.paths(), &touched, &closure);
        Ok(TraceAnswer {
            environment: lock.name.clone(),
            lock: lock_file,
            store: self.location.real.clone(),
            traces: asked.traces.iter().zip(traces).map(|(file, trace)| of_trace(file, trace)).collect(),
            exact: traces.iter().all(|trace| trace.head.exact),
            closure,
            paths_opened: rows.iter().filter(|row| row.files_used > 0).count() as u64,
            touched: used_sizes,
            untouched: closure.without(used_sizes),
            files,
            paths: rows,
            cuts,
            foreign: used.len() as u64,
        })
    }

    fn full(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.location.dir)
    }

    /// Adds the files of a store path that were opened; answers their lengths.
    fn add_files(
        &self,
        path: &StorePath,
        used: &Used<'_>,
        files: &mut OfFiles,
        inodes: &mut HashSet<(u64, u64)>,
    ) -> u64 {
        let top = self.location.real_path(path);
        let mut lengths = 0;
        for inside in &used.opened {
            files.used += 1;
            let inside = Path::new(std::ffi::OsStr::from_bytes(inside));
            let at = if inside.as_os_str().is_empty() { top.clone() } else { top.join(inside) };
            match at.symlink_metadata() {
                Ok(found) => {
                    lengths += found.len();
                    if inodes.insert((found.dev(), found.ino())) {
                        files.used_allocated += found.blocks() * BLOCK;
                    }
                }
                Err(_) => files.gone += 1,
            }
        }
        files.used_apparent += lengths;
        lengths
    }

    fn cuts(
        &self,
        accounts: &Accounts<'_>,
        below: &BTreeMap<StorePath, Vec<StorePath>>,
        starts: &[StorePath],
        touched: &[bool],
        closure: &Sizes,
    ) -> Vec<OfCut> {
        let paths = self.closure.paths();
        let index = |path: &StorePath| paths.binary_search(path).ok();
        let references: Vec<Vec<usize>> =
            below.values().map(|next| next.iter().filter_map(index).collect()).collect();
        let mut tops: Vec<usize> = starts.iter().filter_map(index).collect();
        // In mode 'dev' what is developed is no member: what nothing refers to is what it starts from.
        let referred: HashSet<usize> = references.iter().flatten().copied().collect();
        tops.extend((0..paths.len()).filter(|path| !referred.contains(path)));
        let nar = |at: usize| match self.found.get(at) {
            Some(Found::Measured(measure)) => measure.nar,
            _ => 0,
        };
        let named = |at: usize| paths.get(at).map(|path| self.full(path)).unwrap_or_default();
        let mut found = cuts(&references, &tops, touched, nar);
        found.truncate(CUTS);
        found
            .into_iter()
            .map(|cut| {
                let freed: HashSet<usize> = cut.frees.into_iter().collect();
                let left = accounts.sizes((0..paths.len()).filter(|at| !freed.contains(at)));
                OfCut {
                    path: named(cut.path),
                    referrers: cut.referrers.into_iter().map(named).collect(),
                    frees: closure.without(left),
                }
            })
            .collect()
    }
}

fn of_trace(file: &Path, trace: &Trace) -> OfTrace {
    OfTrace {
        file: file.to_owned(),
        view: trace.head.view.clone(),
        exact: trace.head.exact,
        from_start: trace.head.from_start,
        since: trace.head.since,
        until: trace.end.map(|end| end.until),
        complete: trace.end.is_none_or(|end| end.complete),
        used: trace.lower.len(),
        used_of_upper: trace.upper.len(),
    }
}
