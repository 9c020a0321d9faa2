//! `nixview lock --only-traced`: a lock of what a workload used, as a proposal.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{Output, count, size};
use super::output_file::Destination;
use super::trace_answer::{check, closure, read};
use super::{CliError, Context, ErrorContext};
use crate::lock::{EnvLock, Known};
use crate::store::{Location, StorePath};
use crate::usage::traced::by_store_path;

/// How many dropped references are named.
const NAMED: usize = 3;

/// What a lock keeps of its closure.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The lock; absent if it was printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How many paths it keeps.
    pub count: u64,
    /// Their digest.
    pub digest: String,
    /// The sizes of their NARs.
    pub nar_size: Option<u64>,
    /// How many paths the closure has.
    pub of_count: u64,
    /// Its digest.
    pub of_digest: String,
    /// The sizes of its NARs.
    pub of_nar_size: Option<u64>,
    /// References from what is kept to what is not: who refers to what.
    pub dangling: Vec<(String, String)>,
}

impl Kept {
    /// Of a lock that keeps a part of its closure; `None` of any other.
    ///
    /// # Errors
    /// If the references cannot be read.
    pub fn of(file: Option<&Path>, lock: &EnvLock, known: &Known) -> Result<Option<Self>, CliError> {
        let Some(only) = &lock.only else { return Ok(None) };
        let full = |path: &StorePath| format!("{}/{path}", lock.store_dir);
        let mut dangling = Vec::new();
        for path in &only.paths {
            let references = known.references().references(path).context("cannot follow the references")?;
            let missing = references.iter().filter(|other| only.paths.binary_search(other).is_err());
            dangling.extend(missing.map(|other| (full(path), full(other))));
        }
        Ok(Some(Self {
            file: file.map(Path::to_owned),
            count: lock.closure.count,
            digest: lock.closure.digest.to_string(),
            nar_size: lock.closure.nar_size,
            of_count: only.of.count,
            of_digest: only.of.digest.to_string(),
            of_nar_size: only.of.nar_size,
            dangling,
        }))
    }

    /// `kept 23 of 63 paths, 12 MiB of 40 MiB; not closed under references: 40 lead to what is not kept: …`
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("kept {} of {}", self.count, count(self.of_count, "path", "paths"));
        if let (Some(bytes), Some(of)) = (self.nar_size, self.of_nar_size) {
            text.push_str(&format!(", {} of {}", size(bytes), size(of)));
        }
        if let Some((from, _)) = self.dangling.first() {
            let lead = count(self.dangling.len() as u64, "reference leads", "references lead");
            let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
            let of_first: Vec<String> =
                self.dangling.iter().filter(|(other, _)| other == from).map(|(_, to)| base(to)).collect();
            let shown = of_first.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = if self.dangling.len() > NAMED { ", …" } else { "" };
            text.push_str(&format!(
                "; not closed under references: {lead} to what is not kept ({} to {shown}{more})",
                base(from)
            ));
        }
        text
    }
}

/// Makes a lock of `file` that keeps what the traces say was used, and writes it into `output`, which was found to be `destination`;
/// without one it is printed.
///
/// # Errors
/// If the lock, the store or a trace cannot be used, or the new lock not be written.
pub fn propose(
    file: &Path,
    traces: &[PathBuf],
    output: &Path,
    destination: Option<Destination>,
    location: &Location,
    context: &Context,
) -> Result<(Kept, bool), CliError> {
    let lock = EnvLock::read(file).context("cannot use the environment")?;
    if same(file, output) {
        let what = format!(
            "{} is the lock that was traced, and would be replaced by a part of it",
            output.display()
        );
        return Err(CliError::usage(what).hint("name another file with -o: -o small.lock"));
    }
    let all = read(traces)?;
    for (path, trace) in traces.iter().zip(&all) {
        check(path, trace, file, &lock)?;
    }
    let closure = closure(file, &lock, location, context)?;
    let known = Known::open(location, None, &context.state.state).context("cannot read the store")?;
    let used = by_store_path(&all);
    let keep = |path: &StorePath| used.get(path.as_str().as_bytes()).is_some_and(|used| used.touched);
    let small = lock.only(&closure, keep, known.references()).context("cannot make the lock")?;
    let text = small.print().context("cannot print the lock")?;
    let printed = destination.is_none();
    let written = match destination {
        Some(destination) => destination.update(text.as_bytes())?,
        None => context.output.json_text(&text).map(|()| true)?,
    };
    let kept = Kept::of((!printed).then_some(output), &small, &known)?;
    kept.map(|kept| (kept, written)).ok_or_else(|| CliError::new("the new lock keeps everything"))
}

/// True if both name one file that is there.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Says of a lock that is a proposal that it is one.
///
/// # Errors
/// If the references cannot be read.
pub fn note(lock: &EnvLock, file: &Path, location: &Location, context: &Context) -> Result<(), CliError> {
    if lock.only.is_none() {
        return Ok(());
    }
    let known = Known::open(location, None, &context.state.state).context("cannot read the store")?;
    if let Some(kept) = Kept::of(Some(file), lock, &known)? {
        told(&context.output, &format!("{} is a proposal: {}", file.display(), kept.text()));
    }
    Ok(())
}

fn told(output: &Output, text: &str) {
    output.note(&format!("nixview: note: {text}"));
}
