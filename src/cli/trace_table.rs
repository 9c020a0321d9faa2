//! The answer of 'nixview trace report' as tables and CSV.

use super::du_answer::table_csv;
use super::output::{Output, count, size};
use super::trace_answer::{OfPath, TraceAnswer};
use super::{CliError, ErrorContext};
use crate::usage::account::Sizes;

/// A column to sort by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are those of the columns")]
pub enum Column {
    Path,
    Opened,
    Files,
    Apparent,
    Allocated,
    Nar,
    Used,
}

/// How many cuts are shown, if nothing is said.
const CUTS_SHOWN: usize = 10;

/// Which store paths are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Show {
    /// All.
    All,
    /// Those that were used.
    Used,
    /// The others.
    Unused,
}

const PATHS: [&str; 10] =
    ["PATH", "OPENED", "FILES", "LINKS", "LISTED", "LOOKED-UP", "USED", "APPARENT", "ALLOCATED", "NAR"];

const CSV: [&str; 12] = [
    "PATH",
    "TOUCHED",
    "OPENED",
    "FILES",
    "LINKS",
    "LISTED",
    "LOOKED-UP",
    "USED",
    "APPARENT",
    "ALLOCATED",
    "NAR",
    "WHY",
];

const SUMS: [&str; 6] = ["CLOSURE", "PATHS", "FILES", "APPARENT", "ALLOCATED", "NAR"];

const CUTS: [&str; 5] = ["CUT", "PATHS", "ALLOCATED", "NAR", "REFERRED-TO-BY"];

fn value(path: &OfPath, column: Column) -> u64 {
    match column {
        Column::Opened => path.files_used,
        Column::Files => path.sizes.files,
        Column::Apparent => path.sizes.apparent,
        Column::Nar => path.sizes.nar,
        Column::Used => path.used_apparent,
        Column::Allocated | Column::Path => path.sizes.allocated,
    }
}

/// The name in a full path, without the hash part.
fn name(path: &str) -> &str {
    let base = path.rsplit('/').next().unwrap_or(path);
    base.split_once('-').map_or(base, |(_, name)| name)
}

impl TraceAnswer {
    /// Keeps the store paths that are to be shown, sorted, the first `top` of them.
    pub fn select(&mut self, show: Show, by: Column, top: Option<usize>) {
        match show {
            Show::All => {}
            Show::Used => self.paths.retain(|path| path.touched),
            Show::Unused => self.paths.retain(|path| !path.touched),
        }
        if by != Column::Path {
            self.paths.sort_by_key(|path| std::cmp::Reverse(value(path, by)));
        }
        self.paths.truncate(top.unwrap_or(usize::MAX));
    }

    /// For people: the sums, the store paths, why those that were not used are there, and where to cut.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table(
        &self,
        show: Show,
        human: bool,
        top: Option<usize>,
        output: &Output,
    ) -> Result<(), CliError> {
        let bytes = |bytes: u64| if human { size(bytes) } else { bytes.to_string() };
        let sum = |name: &str, sizes: &Sizes| {
            let numbers = [sizes.paths, sizes.files].map(|number| number.to_string());
            let [paths, files] = numbers;
            [name.to_owned(), paths, files, bytes(sizes.apparent), bytes(sizes.allocated), bytes(sizes.nar)]
        };
        let opened = [
            "opened".to_owned(),
            self.paths_opened.to_string(),
            self.files.used.to_string(),
            bytes(self.files.used_apparent),
            bytes(self.files.used_allocated),
            "-".to_owned(),
        ];
        let sums = [
            sum("all", &self.closure),
            sum("touched", &self.touched),
            sum("untouched", &self.untouched),
            opened,
        ];
        output.table(SUMS, &sums)?;
        let most = top.unwrap_or(CUTS_SHOWN);
        let used: Vec<&OfPath> = self.paths.iter().filter(|path| path.touched).collect();
        if show != Show::Unused && !used.is_empty() {
            output.line("")?;
            output.line("Used:")?;
            let rows: Vec<_> = used.into_iter().map(|path| row(path, &bytes)).collect();
            output.table(PATHS, &rows)?;
        }
        let unused: Vec<&OfPath> = self.paths.iter().filter(|path| !path.touched).collect();
        if show != Show::Used && !unused.is_empty() {
            output.line("")?;
            output.line("Never used, and why it is there:")?;
            let rows: Vec<_> = unused
                .into_iter()
                .map(|path| {
                    let (allocated, nar) = (bytes(path.sizes.allocated), bytes(path.sizes.nar));
                    [path.path.clone(), allocated, nar, why(path)]
                })
                .collect();
            output.table(["PATH", "ALLOCATED", "NAR", "WHY"], &rows)?;
        }
        if show != Show::Used && !self.cuts.is_empty() {
            output.line("")?;
            output.line("Where to cut, so that nothing goes that was used:")?;
            let rows: Vec<_> = self
                .cuts
                .iter()
                .take(most)
                .map(|cut| {
                    let by = match cut.referrers.as_slice() {
                        [] => "(a root)".to_owned(),
                        many => many.iter().map(|path| name(path)).collect::<Vec<_>>().join(", "),
                    };
                    let (allocated, nar) = (bytes(cut.frees.allocated), bytes(cut.frees.nar));
                    [cut.path.clone(), cut.frees.paths.to_string(), allocated, nar, by]
                })
                .collect();
            output.table(CUTS, &rows)?;
        }
        Ok(())
    }

    /// A line for each store path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn csv(&self, output: &Output) -> Result<(), CliError> {
        let rows: Vec<[String; 12]> = self
            .paths
            .iter()
            .map(|path| {
                let [name, rest @ ..] = row(path, &|bytes| bytes.to_string());
                let mut cells = [name, path.touched.to_string()].into_iter().chain(rest).chain([why(path)]);
                std::array::from_fn(|_| cells.next().unwrap_or_default())
            })
            .collect();
        let text = table_csv(CSV, &rows).context("cannot write the answer as CSV")?;
        output.write(|out| out.write_all(&text))
    }

    /// What should be known beside the numbers.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for trace in &self.traces {
            let file = trace.file.display();
            if !trace.exact {
                notes.push(format!("{file} does not have opens of files that the view's page cache had"));
            }
            if !trace.from_start {
                notes.push(format!(
                    "{file} was begun at a running view: names and links that were looked up and read before are missing"
                ));
            }
            if !trace.complete {
                notes.push(format!("{file} is not complete: there was no memory for all of it"));
            }
            if trace.until.is_none() {
                notes.push(format!("{file} has no end: its view goes on, or its writer was killed"));
            }
        }
        if self.files.gone > 0 {
            let files = count(self.files.gone, "file that was opened is", "files that were opened are");
            notes.push(format!("{files} not in the store any more"));
        }
        if self.foreign > 0 {
            let names = count(self.foreign, "name", "names");
            notes.push(format!(
                "{names} in the store directory of the view are not of the closure, and do not count"
            ));
        }
        notes
    }
}

fn row(path: &OfPath, bytes: &dyn Fn(u64) -> String) -> [String; 10] {
    [
        path.path.clone(),
        path.uses.opened.to_string(),
        path.sizes.files.to_string(),
        path.uses.links_read.to_string(),
        path.uses.listed.to_string(),
        path.uses.looked_up.to_string(),
        bytes(path.used_apparent),
        bytes(path.sizes.apparent),
        bytes(path.sizes.allocated),
        bytes(path.sizes.nar),
    ]
}

/// `env-python → python3.11 → glibc`, by names without hash parts, from what the environment starts from to what refers to the path.
fn why(path: &OfPath) -> String {
    let chain = path.why.len().saturating_sub(1);
    let mut text = path.why.iter().take(chain).map(|path| name(path)).collect::<Vec<_>>().join(" → ");
    if text.is_empty() {
        text = "a root".to_owned();
    }
    if let Some(extra) = &path.why_extra_root {
        text.push_str(&format!(" (extra root {extra})"));
    }
    text
}
