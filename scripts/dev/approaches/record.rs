//! What was measured: one row for each measurement, in a CSV file.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;

/// One measurement, or one that failed: then it has no value, and says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Which round, from 1; 0 where there is only one.
    pub(crate) run: u32,
    pub(crate) approach: String,
    /// An environment, or several as one.
    pub(crate) environment: String,
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) value: String,
    /// Why there is no value.
    pub(crate) failure: String,
}

/// Writes rows as they come, so that what was measured before a failure is kept.
pub(crate) struct Records {
    file: csv::Writer<File>,
    failures: usize,
}

impl Records {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = csv::Writer::from_path(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { file, failures: 0 })
    }

    pub(crate) fn failures(&self) -> usize {
        self.failures
    }

    pub(crate) fn add(&mut self, row: &Row) -> Result<()> {
        self.failures += usize::from(!row.failure.is_empty());
        self.file.serialize(row)?;
        Ok(self.file.flush()?)
    }

    /// A text about the machine.
    pub(crate) fn note(&mut self, what: &str, text: &str) -> Result<()> {
        self.add(&row(0, ("machine", ""), (what, "text"), text.trim().to_owned()))
    }

    /// A number, or why there is none: said on standard error too.
    pub(crate) fn result(
        &mut self,
        run: u32,
        of: (&str, &str),
        what: (&str, &str),
        result: Result<f64>,
    ) -> Result<()> {
        match result {
            Ok(value) => self.add(&row(run, of, what, format!("{value:.3}"))),
            Err(why) => {
                let failure = why.to_string();
                crate::say(&format!("FAILED {} {} {}: {failure}", of.0, of.1, what.0));
                self.add(&Row { failure, ..row(run, of, what, String::new()) })
            }
        }
    }
}

fn row(run: u32, (approach, environment): (&str, &str), (what, unit): (&str, &str), value: String) -> Row {
    Row {
        run,
        approach: approach.to_owned(),
        environment: environment.to_owned(),
        what: what.to_owned(),
        unit: unit.to_owned(),
        value,
        failure: String::new(),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let mut file = csv::Reader::from_path(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(file.deserialize().collect::<std::result::Result<_, _>>()?)
}
