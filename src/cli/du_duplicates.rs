//! What 'nixview du --duplicates' answers.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::costed::{Costed, Together};
use super::du_answer::CsvTable;
use super::output::{Output, count};
use super::{CliError, Context, ErrorContext};
use crate::store::Location;
use crate::usage::contents::Kind;
use crate::usage::duplicates::{Duplicates, Equal, names_of};
use crate::usage::links;
use crate::usage::read::{Contents, Options, Reading, read};

/// What is to be found.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Chunks too.
    pub chunks: bool,
    /// Without what is remembered.
    pub afresh: bool,
    /// So many groups of equal files.
    pub top: Option<usize>,
    /// What the whole store has, beside the environments.
    pub whole_store: bool,
}

/// What is there more than once.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DuplicatesAnswer {
    /// In each environment, as if the store had it alone.
    pub environments: Vec<OfEnvironment>,
    /// In all environments.
    pub together: Duplicates,
    /// In all of the store, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_store: Option<Duplicates>,
    /// Space on the disk of the directory `.links`, which grows with each new link and is no part of the other numbers.
    pub links_directory: u64,
    /// What was read for this answer; the rest was remembered, or can be equal to nothing.
    pub read: Reading,
    /// The largest groups of equal files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<OfGroup>>,
}

/// Of an environment.
#[derive(Debug, Serialize)]
pub struct OfEnvironment {
    /// Its name.
    pub name: String,
    /// What it has more than once.
    #[serde(flatten)]
    pub duplicates: Duplicates,
}

/// Of equal files.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfGroup {
    /// What they are.
    pub kind: Kind,
    /// The length of each.
    pub size: u64,
    /// How many inodes they are.
    pub inodes: u64,
    /// All of their names.
    pub paths: Vec<PathBuf>,
}

pub(super) const TABLE: [&str; 10] = [
    "NAME",
    "FILES",
    "SYMLINKS",
    "CONTENTS",
    "APPARENT",
    "DUPLICATE",
    "LINKED",
    "NIX-FILES",
    "NIX-BYTES",
    "DISK-BYTES",
];

const CHUNKS: [&str; 13] = [
    "NAME",
    "FILES",
    "SYMLINKS",
    "CONTENTS",
    "APPARENT",
    "DUPLICATE",
    "LINKED",
    "NIX-FILES",
    "NIX-BYTES",
    "DISK-BYTES",
    "CHUNKS",
    "CHUNK-BYTES",
    "CHUNK-SAVED",
];

pub(super) const GROUPS: [&str; 5] = ["GROUP", "SIZE", "NAMES", "INODES", "PATH"];

impl DuplicatesAnswer {
    /// Reads what must be read, and compares.
    ///
    /// # Errors
    /// If something cannot be read.
    pub fn find(
        asked: Asked,
        location: &Location,
        environments: &[Costed],
        together: &Together,
        context: &Context,
    ) -> Result<Self, CliError> {
        let contents = {
            let progress = context.output.progress("files read");
            let told = |done, total| progress.count(done, total);
            let options = Options { chunks: asked.chunks, afresh: asked.afresh };
            read(location, &together.paths, &together.rows, &context.state.state, options, &told)
                .context("cannot compare the files of the environments")?
        };
        let equal = Equal::new(&contents);
        let mut reached: Vec<usize> = together.sets.iter().flatten().copied().collect();
        reached.sort_unstable();
        reached.dedup();
        let whole: Vec<usize> = (0..together.paths.len()).collect();
        let each = environments.iter().zip(&together.sets);
        let all = if asked.whole_store { &whole } else { &reached };
        let groups = asked.top.map(|top| groups(&equal, &contents, all, top, location, together));
        let answer = Self {
            environments: each
                .map(|(env, set)| OfEnvironment { name: env.name.clone(), duplicates: equal.duplicates(set) })
                .collect(),
            together: equal.duplicates(&reached),
            whole_store: asked.whole_store.then(|| equal.duplicates(&whole)),
            links_directory: links::allocated(&location.real)
                .with_context(|| format!("cannot look at {}", location.real.join(".links").display()))?,
            read: contents.reading,
            groups: groups.transpose().context("cannot name the equal files")?,
        };
        let writable = answer.whole_store.as_ref().unwrap_or(&answer.together).optimise.writable;
        if writable > 0 {
            let files = count(writable, "file", "files");
            context.output.note(&format!(
                "nixview: warning: {files} of the store may be written by the owner; Nix does not link such ones"
            ));
        }
        Ok(answer)
    }

    fn rows(&self, bytes: &dyn Fn(u64) -> String) -> Vec<[String; 13]> {
        let row = |name: &str, all: &Duplicates| {
            let chunks = all.chunks.as_ref();
            [
                name.to_owned(),
                all.files.to_string(),
                all.symlinks.to_string(),
                all.contents.to_string(),
                bytes(all.apparent),
                bytes(all.duplicate),
                bytes(all.linked),
                all.optimise.files.to_string(),
                bytes(all.optimise.nix_bytes),
                bytes(all.optimise.disk_bytes),
                chunks.map_or_else(String::new, |chunks| chunks.count.to_string()),
                chunks.map_or_else(String::new, |chunks| bytes(chunks.distinct)),
                chunks.map_or_else(String::new, |chunks| bytes(chunks.saved)),
            ]
        };
        let mut rows: Vec<_> = self.environments.iter().map(|env| row(&env.name, &env.duplicates)).collect();
        if self.environments.len() > 1 {
            rows.push(row("together", &self.together));
        }
        rows.extend(self.whole_store.as_ref().map(|all| row("whole store", all)));
        rows
    }

    fn group_rows(&self, bytes: &dyn Fn(u64) -> String) -> Vec<[String; 5]> {
        let groups = self.groups.iter().flatten().enumerate();
        let rows = groups.flat_map(|(at, group)| {
            group.paths.iter().map(move |path| {
                [
                    (at + 1).to_string(),
                    bytes(group.size),
                    group.paths.len().to_string(),
                    group.inodes.to_string(),
                    path.display().to_string(),
                ]
            })
        });
        rows.collect()
    }

    fn has_chunks(&self) -> bool {
        self.together.chunks.is_some()
    }

    /// Tables for people.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn table(&self, bytes: &dyn Fn(u64) -> String, output: &Output) -> Result<(), CliError> {
        let rows = self.rows(bytes);
        if let Some(chunks) = &self.together.chunks {
            output.table(CHUNKS, &rows)?;
            output.line(&format!("chunks: {}", chunks.parameters))?;
        } else {
            output.table(TABLE, &shorter(&rows))?;
        }
        let groups = self.group_rows(bytes);
        if !groups.is_empty() {
            output.line("")?;
        }
        output.table(GROUPS, &groups)
    }

    /// The same as CSV: the table, and the groups where they were asked for.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn csv(&self, bytes: &dyn Fn(u64) -> String) -> io::Result<Vec<CsvTable>> {
        const NAME: &str = "duplicates";
        let rows = self.rows(bytes);
        let mut tables = vec![if self.has_chunks() {
            CsvTable::new(NAME, CHUNKS, &rows)?
        } else {
            CsvTable::new(NAME, TABLE, &shorter(&rows))?
        }];
        if self.groups.is_some() {
            tables.push(CsvTable::new("groups", GROUPS, &self.group_rows(bytes))?);
        }
        Ok(tables)
    }
}

/// The columns without those of chunks.
fn shorter(rows: &[[String; 13]]) -> Vec<[String; 10]> {
    rows.iter().filter_map(|row| row.first_chunk().cloned()).collect()
}

fn groups(
    equal: &Equal<'_>,
    contents: &Contents,
    paths: &[usize],
    top: usize,
    location: &Location,
    together: &Together,
) -> io::Result<Vec<OfGroup>> {
    let found = equal.largest(paths, top);
    let path = |at: usize| together.paths.get(at);
    let real = |at: usize| path(at).map(|path| location.real_path(path)).unwrap_or_default();
    let names = names_of(&found, contents, &real)?;
    let named = found.into_iter().zip(names).map(|(group, names)| {
        let shown = |(at, name): (usize, PathBuf)| {
            let top = path(at).map(|path| location.dir.join(path)).unwrap_or_default();
            if name.as_os_str().is_empty() { top } else { top.join(name) }
        };
        let mut paths: Vec<PathBuf> = names.into_iter().map(shown).collect();
        paths.sort_unstable();
        OfGroup { kind: group.kind, size: group.size, inodes: group.inodes, paths }
    });
    Ok(named.collect())
}
