//! All that the database records of some paths, for a database of their own.

use std::collections::HashMap;

use rusqlite::{Connection, Row};
use sha2::{Digest, Sha256};

use super::query::{self, QueryError, full, json};
use crate::store::path::{StoreDir, StorePath};

/// What is recorded of a valid path; not when it was registered, which tells of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRecord {
    /// The path.
    pub path: StorePath,
    /// The hash of its NAR, as Nix writes it.
    pub hash: String,
    /// The full path of the derivation that it was built from, if that is among the paths: else its name would tell of
    /// something that is not.
    pub deriver: Option<String>,
    /// The size of its NAR in bytes.
    pub nar_size: Option<i64>,
    /// 1 if it was built here.
    pub ultimate: Option<i64>,
    /// Signatures, separated by spaces.
    pub signatures: Option<String>,
    /// What its name was computed from, if it is content-addressed.
    pub ca: Option<String>,
}

/// An output of a derivation whose path its file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    /// The derivation, as an index into [`Records::paths`].
    pub derivation: usize,
    /// The name of the output.
    pub name: String,
    /// Its full path; it need not be valid.
    pub path: String,
}

/// An output of a content-addressed derivation that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealisationRecord {
    /// `sha256:HASH` of the derivation.
    pub derivation: String,
    /// The name of the output.
    pub name: String,
    /// What was built, as an index into [`Records::paths`].
    pub path: usize,
    /// Signatures, separated by spaces.
    pub signatures: Option<String>,
    /// Those that it refers to, as indexes into [`Records::realisations`].
    pub references: Vec<usize>,
}

/// What the database says of some paths, and nothing of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The paths, sorted.
    pub paths: Vec<PathRecord>,
    /// Referrer and reference, as indexes into `paths`, sorted.
    pub references: Vec<(usize, usize)>,
    /// Outputs of those that are derivations.
    pub outputs: Vec<OutputRecord>,
    /// Realisations of which a path is the output.
    pub realisations: Vec<RealisationRecord>,
}

/// Which references are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Links {
    /// All, which must lead to paths that are wanted too.
    Closed,
    /// Those that lead to paths that are wanted too.
    Within,
}

impl Records {
    /// A digest of all of it. References are a part of their own: a path that is registered again may get others.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut text = |text: Option<&str>| {
            hasher.update(text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            hasher.update(text.unwrap_or_default());
        };
        let number = |number: Option<i64>| number.map(|number| number.to_string());
        for record in &self.paths {
            text(Some(record.path.as_str()));
            text(Some(&record.hash));
            text(record.deriver.as_deref());
            text(number(record.nar_size).as_deref());
            text(number(record.ultimate).as_deref());
            text(record.signatures.as_deref());
            text(record.ca.as_deref());
        }
        text(None);
        for (referrer, reference) in &self.references {
            text(Some(&referrer.to_string()));
            text(Some(&reference.to_string()));
        }
        text(None);
        for record in &self.outputs {
            text(Some(&record.derivation.to_string()));
            text(Some(&record.name));
            text(Some(&record.path));
        }
        text(None);
        for record in &self.realisations {
            text(Some(&record.derivation));
            text(Some(&record.name));
            text(Some(&record.path.to_string()));
            text(record.signatures.as_deref());
            text(Some(&format!("{:?}", record.references)));
        }
        hasher.finalize().into()
    }
}

/// The rows of `paths` (sorted, each once), their references, outputs and realisations.
pub(super) fn records(
    c: &Connection,
    dir: &StoreDir,
    paths: &[StorePath],
    links: Links,
) -> Result<Records, QueryError> {
    let (ids, mut paths) = path_records(c, dir, paths)?;
    without_strangers(dir, &mut paths);
    let index: HashMap<i64, usize> = ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
    let realisations = realisations(c, &index)?;
    let references = references(c, dir, &ids, &index, &paths, links)?;
    let outputs = outputs(c, &ids, &index, &paths)?;
    Ok(Records { paths, references, outputs, realisations })
}

/// Takes out derivers that are not among `paths`, which are sorted.
fn without_strangers(dir: &StoreDir, paths: &mut [PathRecord]) {
    let is_member = |paths: &[PathRecord], deriver: &str| {
        dir.parse(deriver.as_bytes())
            .is_ok_and(|deriver| paths.binary_search_by(|record| record.path.cmp(&deriver)).is_ok())
    };
    for at in 0..paths.len() {
        let stranger = paths.get(at).and_then(|record| record.deriver.as_deref());
        if stranger.is_some_and(|deriver| !is_member(paths, deriver))
            && let Some(record) = paths.get_mut(at)
        {
            record.deriver = None;
        }
    }
}

fn path_records(
    c: &Connection,
    dir: &StoreDir,
    paths: &[StorePath],
) -> Result<(Vec<i64>, Vec<PathRecord>), QueryError> {
    let list: Vec<String> = paths.iter().map(|path| full(dir, path)).collect();
    let mut statement = c.prepare_cached(
        "SELECT key, ValidPaths.id, hash, deriver, narSize, ultimate, sigs, ca
         FROM json_each(?1) CROSS JOIN ValidPaths ON ValidPaths.path = value ORDER BY key",
    )?;
    let mut rows = statement.query([json(&list)?])?;
    let (mut ids, mut records) = (Vec::with_capacity(paths.len()), Vec::with_capacity(paths.len()));
    for (key, path) in (0_i64..).zip(paths) {
        let Some(row) = rows.next()? else { return Err(QueryError::Unknown(path.clone())) };
        if row.get::<_, i64>(0)? != key {
            return Err(QueryError::Unknown(path.clone()));
        }
        ids.push(row.get(1)?);
        records.push(path_record(path, row)?);
    }
    Ok((ids, records))
}

fn path_record(path: &StorePath, row: &Row<'_>) -> rusqlite::Result<PathRecord> {
    Ok(PathRecord {
        path: path.clone(),
        hash: row.get(2)?,
        deriver: row.get(3)?,
        nar_size: row.get(4)?,
        ultimate: row.get(5)?,
        signatures: row.get(6)?,
        ca: row.get(7)?,
    })
}

fn references(
    c: &Connection,
    dir: &StoreDir,
    ids: &[i64],
    index: &HashMap<i64, usize>,
    paths: &[PathRecord],
    links: Links,
) -> Result<Vec<(usize, usize)>, QueryError> {
    let mut statement = c.prepare_cached(
        "SELECT referrer, reference FROM json_each(?1) CROSS JOIN Refs ON referrer = value",
    )?;
    let mut rows = statement.query([json(ids)?])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (referrer, id) = (row.get(0)?, row.get(1)?);
        let Some(referrer) = index.get(&referrer) else { continue };
        let Some(reference) = index.get(&id) else {
            if links == Links::Within {
                continue;
            }
            let name = paths.get(*referrer).map(|record| full(dir, &record.path)).unwrap_or_default();
            return Err(QueryError::Malformed(format!("{name} refers to row {id}, which is no member")));
        };
        all.push((*referrer, *reference));
    }
    all.sort_unstable();
    Ok(all)
}

fn outputs(
    c: &Connection,
    ids: &[i64],
    index: &HashMap<i64, usize>,
    paths: &[PathRecord],
) -> Result<Vec<OutputRecord>, QueryError> {
    let derivations = ids.iter().zip(paths).filter(|(_, record)| record.path.is_derivation());
    let derivations: Vec<i64> = derivations.map(|(id, _)| *id).collect();
    let mut statement = c.prepare_cached(
        "SELECT drv, DerivationOutputs.id, DerivationOutputs.path
         FROM json_each(?1) CROSS JOIN DerivationOutputs ON drv = value ORDER BY key, DerivationOutputs.id",
    )?;
    let mut rows = statement.query([json(&derivations)?])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(derivation) = index.get(&row.get(0)?) else { continue };
        all.push(OutputRecord { derivation: *derivation, name: row.get(1)?, path: row.get(2)? });
    }
    Ok(all)
}

/// In the order of derivations and names, so that it is the same whatever else the store has.
fn realisations(c: &Connection, index: &HashMap<i64, usize>) -> Result<Vec<RealisationRecord>, QueryError> {
    if !query::has_realisations(c)? {
        return Ok(Vec::new());
    }
    let mut statement = c.prepare(
        "SELECT id, drvPath, outputName, outputPath, signatures FROM Realisations ORDER BY drvPath, outputName, id",
    )?;
    let mut rows = statement.query([])?;
    let (mut all, mut known) = (Vec::new(), HashMap::new());
    while let Some(row) = rows.next()? {
        let Some(path) = index.get(&row.get(3)?) else { continue };
        known.insert(row.get::<_, i64>(0)?, all.len());
        all.push(RealisationRecord {
            derivation: row.get(1)?,
            name: row.get(2)?,
            path: *path,
            signatures: row.get(4)?,
            references: Vec::new(),
        });
    }
    if all.is_empty() || !query::is_table(c, "RealisationsRefs")? {
        return Ok(all);
    }
    let mut statement = c.prepare("SELECT referrer, realisationReference FROM RealisationsRefs")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (referrer, reference): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
        let reference = reference.and_then(|id| known.get(&id));
        let referrer = known.get(&referrer).and_then(|index| all.get_mut(*index));
        if let (Some(referrer), Some(reference)) = (referrer, reference) {
            referrer.references.push(*reference);
        }
    }
    for record in &mut all {
        record.references.sort_unstable();
        record.references.dedup();
    }
    Ok(all)
}
