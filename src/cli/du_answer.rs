//! What 'nixview du' answers: as tables, CSV and JSON.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::du_duplicates::DuplicatesAnswer;
use super::output::{Output, size};
use super::{CliError, du_duplicates};
use crate::printable::printable;
use crate::usage::account::{Common, Cost, Cumulative, Sizes};
use crate::usage::measure::Measure;
use crate::view::upper_dir::Usage;

/// A column to sort by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are those of the columns")]
pub enum Column {
    Name,
    Paths,
    Files,
    Apparent,
    Allocated,
    Nar,
    Unique,
    Shared,
    Marginal,
}

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Show {
    /// A line for each environment.
    Environments,
    /// A line for each store path.
    Paths,
    /// What each two have in common.
    Matrix,
    /// What is there more than once.
    Duplicates,
}

/// Everything.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The store directory.
    pub store: PathBuf,
    /// Of each environment.
    pub environments: Vec<OfEnvironment>,
    /// All environments together.
    pub together: Sizes,
    /// What at least two have.
    pub shared: Sizes,
    /// All of the store, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_store: Option<Sizes>,
    /// What of it no environment has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreached: Option<Sizes>,
    /// Of each store path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<OfPath>>,
    /// What each two environments have in common, in the order given.
    pub matrix: Vec<Vec<Common>>,
    /// What the first 1, 2, … cost together, in the order given.
    pub cumulative: Vec<Cumulative>,
    /// What is there more than once, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<DuplicatesAnswer>,
}

/// Of an environment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfEnvironment {
    /// Its name.
    pub name: String,
    /// What was given for it.
    pub given: String,
    /// What it costs.
    #[serde(flatten)]
    pub cost: Cost,
    /// What each of the others has of it.
    pub shared_with: BTreeMap<String, Sizes>,
    /// What its view has changed; no part of the other numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper: Option<OfUpper>,
}

/// Of the upper of a view.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfUpper {
    /// Where it is.
    pub path: PathBuf,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, pipes and sockets, most of which stand for what is hidden.
    pub others: u64,
    /// Lengths of files and links.
    pub apparent: u64,
    /// Space on the disk.
    pub allocated: u64,
    /// Of one with a limit, which is an image: how much of the limit is used. The other numbers are those of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Usage>,
}

impl OfUpper {
    /// What was measured at `path`, and what it holds of its limit, if it has one and that can be told.
    #[must_use]
    pub fn new(path: PathBuf, measure: &Measure, limit: Option<Usage>) -> Self {
        Self {
            path,
            files: measure.files,
            directories: measure.directories,
            symlinks: measure.symlinks,
            others: measure.others,
            apparent: measure.apparent,
            allocated: measure.allocated(),
            limit,
        }
    }

    /// What was changed, in bytes: of an image what is used in it, not what it has on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.limit.map_or(self.allocated, |limit| limit.used)
    }
}

/// Of a store path.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfPath {
    /// Its path.
    pub path: String,
    /// What it takes.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// The environments that have it.
    pub environments: Vec<String>,
}

fn value(sizes: &Sizes, column: Column) -> u64 {
    match column {
        Column::Paths => sizes.paths,
        Column::Files => sizes.files,
        Column::Apparent => sizes.apparent,
        Column::Nar => sizes.nar,
        Column::Allocated | Column::Name | Column::Unique | Column::Shared | Column::Marginal => {
            sizes.allocated
        }
    }
}

fn of_cost(cost: &Cost, column: Column) -> u64 {
    match column {
        Column::Unique => cost.unique.allocated,
        Column::Shared => cost.shared.allocated,
        Column::Marginal => cost.marginal.allocated,
        other => value(&cost.whole, other),
    }
}

const ENVIRONMENTS: [&str; 10] =
    ["NAME", "PATHS", "FILES", "APPARENT", "ALLOCATED", "NAR", "UNIQUE", "SHARED", "MARGINAL", "UPPER"];

const PATHS: [&str; 7] = ["PATH", "FILES", "APPARENT", "ALLOCATED", "NAR", "ENVIRONMENTS", "NAMES"];

const PAIRS: [&str; 8] =
    ["FIRST", "SECOND", "PATHS", "APPARENT", "ALLOCATED", "NAR", "JACCARD-PATHS", "JACCARD-NAR"];

const CURVE: [&str; 5] = ["ENVIRONMENTS", "LAST", "STORE", "IMAGES", "ONE-IMAGE"];

impl Answer {
    /// Sorts the environments; the matrix and the curve stay in the order given, so that this is for answers without them.
    pub fn sort_environments(&mut self, by: Option<Column>) {
        match by {
            Some(Column::Name) => self.environments.sort_by(|a, b| a.name.cmp(&b.name)),
            Some(column) => {
                self.environments.sort_by_key(|env| std::cmp::Reverse(of_cost(&env.cost, column)));
            }
            None => {}
        }
    }

    /// Sorts the store paths, by the space that they take if nothing else is asked for.
    pub fn sort_paths(&mut self, by: Option<Column>) {
        if let Some(paths) = &mut self.paths {
            match by.unwrap_or(Column::Allocated) {
                Column::Name => paths.sort_by(|a, b| a.path.cmp(&b.path)),
                column => paths.sort_by_key(|path| std::cmp::Reverse(value(&path.sizes, column))),
            }
        }
    }

    /// Leaves out all but the first store paths.
    pub fn cut_paths(&mut self, top: usize) {
        if let Some(paths) = &mut self.paths {
            paths.truncate(top);
        }
    }

    fn environment_rows(&self, bytes: &dyn Fn(u64) -> String) -> Vec<[String; 10]> {
        let sizes = |name: &str, sizes: &Sizes| -> [String; 10] {
            [
                name.to_owned(),
                with_missing(sizes),
                sizes.files.to_string(),
                bytes(sizes.apparent),
                bytes(sizes.allocated),
                bytes(sizes.nar),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ]
        };
        let mut rows: Vec<[String; 10]> = self
            .environments
            .iter()
            .map(|env| {
                let mut row = sizes(&env.name, &env.cost.whole);
                let more = [
                    bytes(env.cost.unique.allocated),
                    bytes(env.cost.shared.allocated),
                    bytes(env.cost.marginal.allocated),
                    env.upper.as_ref().map_or_else(String::new, |upper| bytes(upper.bytes())),
                ];
                for (cell, text) in row.iter_mut().skip(6).zip(more) {
                    *cell = text;
                }
                row
            })
            .collect();
        if self.environments.len() > 1 {
            let mut row = sizes("together", &self.together);
            if let Some(cell) = row.get_mut(7) {
                *cell = bytes(self.shared.allocated);
            }
            rows.push(row);
        }
        rows.extend(self.whole_store.as_ref().map(|all| sizes("whole store", all)));
        rows.extend(self.unreached.as_ref().map(|left| sizes("unreached", left)));
        rows
    }

    fn path_rows(&self, bytes: &dyn Fn(u64) -> String) -> Vec<[String; 7]> {
        let row = |path: &OfPath| {
            [
                path.path.clone(),
                if path.sizes.missing > 0 { "missing".to_owned() } else { path.sizes.files.to_string() },
                bytes(path.sizes.apparent),
                bytes(path.sizes.allocated),
                bytes(path.sizes.nar),
                path.environments.len().to_string(),
                path.environments.join(","),
            ]
        };
        self.paths.iter().flatten().map(row).collect()
    }

    fn pair_rows(&self, names: &[String], bytes: &dyn Fn(u64) -> String) -> Vec<[String; 8]> {
        let mut rows = Vec::new();
        for (at, line) in self.matrix.iter().enumerate() {
            for (other, common) in line.iter().enumerate().skip(at + 1) {
                let name = |at: usize| names.get(at).cloned().unwrap_or_default();
                rows.push([
                    name(at),
                    name(other),
                    common.sizes.paths.to_string(),
                    bytes(common.sizes.apparent),
                    bytes(common.sizes.allocated),
                    bytes(common.sizes.nar),
                    format!("{:.3}", common.by_paths),
                    format!("{:.3}", common.by_nar),
                ]);
            }
        }
        rows
    }

    fn curve_rows(&self, names: &[String], bytes: &dyn Fn(u64) -> String) -> Vec<[String; 5]> {
        let row = |point: &Cumulative| {
            [
                point.environments.to_string(),
                names.get(point.environments.saturating_sub(1)).cloned().unwrap_or_default(),
                bytes(point.store),
                bytes(point.images),
                bytes(point.one_image),
            ]
        };
        self.cumulative.iter().map(row).collect()
    }

    /// Tables for people.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table(&self, show: Show, human: bool, output: &Output) -> Result<(), CliError> {
        let bytes = |number: u64| if human { size(number) } else { number.to_string() };
        match show {
            Show::Environments => output.table(ENVIRONMENTS, &self.environment_rows(&bytes)),
            Show::Paths => output.table(PATHS, &self.path_rows(&bytes)),
            Show::Matrix => {
                let names = self.names();
                output.table(PAIRS, &self.pair_rows(&names, &bytes))?;
                if self.matrix.len() > 1 {
                    output.line("")?;
                }
                output.table(CURVE, &self.curve_rows(&names, &bytes))
            }
            Show::Duplicates => self.duplicates.as_ref().map_or(Ok(()), |all| all.table(&bytes, output)),
        }
    }

    /// The same as CSV, in bytes; of a matrix the pairs and the curve.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn csv(&self, show: Show) -> io::Result<Vec<CsvTable>> {
        let bytes = |number: u64| number.to_string();
        let names = self.names();
        Ok(match show {
            Show::Environments => {
                vec![CsvTable::new("environments", ENVIRONMENTS, &self.environment_rows(&bytes))?]
            }
            Show::Paths => vec![CsvTable::new("paths", PATHS, &self.path_rows(&bytes))?],
            Show::Matrix => vec![
                CsvTable::new("pairs", PAIRS, &self.pair_rows(&names, &bytes))?,
                CsvTable::new("curve", CURVE, &self.curve_rows(&names, &bytes))?,
            ],
            Show::Duplicates => match &self.duplicates {
                Some(all) => all.csv(&bytes)?,
                None => Vec::new(),
            },
        })
    }

    fn names(&self) -> Vec<String> {
        self.environments.iter().map(|env| env.name.clone()).collect()
    }
}

fn with_missing(sizes: &Sizes) -> String {
    if sizes.missing == 0 {
        sizes.paths.to_string()
    } else {
        format!("{} ({} missing)", sizes.paths, sizes.missing)
    }
}

/// A table as CSV, and what its file is called.
#[derive(Debug)]
pub struct CsvTable {
    /// Without `.csv`.
    pub name: &'static str,
    /// The lines.
    pub text: Vec<u8>,
}

impl CsvTable {
    /// Of some rows.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn new<const N: usize>(
        name: &'static str,
        header: [&str; N],
        rows: &[[String; N]],
    ) -> io::Result<Self> {
        Ok(Self { name, text: table_csv(header, rows)? })
    }
}

/// True for the beginning of a table that `nixview du` writes: the first names of its columns.
#[must_use]
pub fn is_table(text: &[u8]) -> bool {
    fn is<const N: usize>(text: &[u8], header: [&str; N]) -> bool {
        let names: String = header.iter().take(2).map(|name| format!("{},", name.to_lowercase())).collect();
        text.starts_with(names.as_bytes())
    }
    is(text, ENVIRONMENTS)
        || is(text, PATHS)
        || is(text, PAIRS)
        || is(text, CURVE)
        || is(text, du_duplicates::TABLE)
        || is(text, du_duplicates::GROUPS)
}

/// A table as CSV, with lower-case names of columns. Cells are [`printable`].
///
/// # Errors
/// If it cannot be written.
pub(super) fn table_csv<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header.map(str::to_lowercase))?;
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| printable(cell)).collect();
        writer.write_record(cells.iter().map(|cell| cell.as_bytes()))?;
    }
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}
