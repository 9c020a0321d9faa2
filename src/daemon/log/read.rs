//! Reading the log of a view, also while it is written.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Line;
use super::file::{directory, is_live, names, open_to_read};
use crate::view::ViewName;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is none.
    #[error("there is no log of a view named '{name}' in {}", .directory.display())]
    Missing {
        /// The name.
        name: ViewName,
        /// Where logs are.
        directory: PathBuf,
    },
    /// A file of it cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The log of a view, from its oldest line on.
#[derive(Debug)]
pub struct LogReader {
    /// The file that is written, by its name, and the one before; none of a copy.
    paths: Option<[PathBuf; 2]>,
    /// The last one is read; those before it are newer.
    files: Vec<File>,
    /// What was read of a line that is not whole yet.
    rest: Vec<u8>,
}

impl LogReader {
    /// Opens the log of a view.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(state: &Path, name: &ViewName) -> Result<Self, LogError> {
        let directory = directory(state);
        let [now, before] = names(name.as_str()).map(|file| directory.join(file));
        let mut files = Vec::new();
        // The newer first: a rotation between the two makes it the same file twice, and `news` finds the third.
        for path in [&now, &before] {
            match open_to_read(path) {
                Ok(file) if files.last().is_some_and(|newer| is_same(newer, &file)) => {}
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::File { path: path.clone(), source }),
            }
        }
        if files.is_empty() {
            return Err(LogError::Missing { name: name.clone(), directory });
        }
        Ok(Self { paths: Some([now, before]), files, rest: Vec::new() })
    }

    /// The log whose lines were copied into a file.
    #[must_use]
    pub fn of_copy(file: File) -> Self {
        Self { paths: None, files: vec![file], rest: Vec::new() }
    }

    /// The whole lines that were written since the last call.
    ///
    /// # Errors
    /// [`LogError::File`].
    pub fn news(&mut self) -> Result<Vec<Line>, LogError> {
        let path = self.paths.as_ref().map(|[now, _]| now.clone()).unwrap_or_default();
        let fail = |source| LogError::File { path: path.clone(), source };
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            if let Some(file) = self.files.last_mut() {
                file.read_to_end(&mut bytes).map_err(fail)?;
            }
            if self.files.len() > 1 {
                self.files.pop();
                continue;
            }
            match self.next().map_err(fail)? {
                // What was written to the old one before it was left.
                Some(next) => self.files.insert(0, next),
                None => break,
            }
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.rest = bytes.split_off(whole);
        Ok(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(Line::parse).collect())
    }

    /// The file that is written now, if it is another than the last one read.
    fn next(&self) -> io::Result<Option<File>> {
        let Some([now, _]) = &self.paths else { return Ok(None) };
        let next = match open_to_read(now) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(last) = self.files.last() else { return Ok(Some(next)) };
        Ok((!is_same(&next, last)).then_some(next))
    }

    /// True while the view lives: more may come.
    ///
    /// # Errors
    /// [`LogError::File`].
    pub fn is_live(&self) -> Result<bool, LogError> {
        // After a rotation a process that was silent since has the older one.
        for path in self.paths.iter().flatten() {
            let live = match open_to_read(path) {
                Ok(file) => is_live(&file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            };
            if live.map_err(|source| LogError::File { path: path.clone(), source })? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// True if both are one file; false where that cannot be told.
fn is_same(one: &File, other: &File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use tracing::Level;

    use super::super::Role;
    use super::super::file::LogFile;
    use super::*;

    #[test]
    fn a_log_is_followed_across_rotations() {
        let state = tempfile::tempdir().unwrap();
        let name: ViewName = "web".parse().unwrap();
        assert!(matches!(LogReader::open(state.path(), &name), Err(LogError::Missing { .. })));
        let file = LogFile::open(state.path(), &name, true).unwrap();
        let write = |number: usize| {
            file.append(
                &Line::now(Level::INFO, Role::Keeper, "test", &format!("{number} {:0900}", 0)).print(),
            );
        };
        write(0);
        let mut reader = LogReader::open(state.path(), &name).unwrap();
        let mut read = Vec::new();
        for number in 1..3000 {
            write(number);
            if number % 100 == 0 {
                read.extend(reader.news().unwrap());
            }
        }
        read.extend(reader.news().unwrap());
        let numbers: Vec<usize> =
            read.iter().map(|line| line.message.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
        assert!(reader.is_live().unwrap());
        drop(file);
        assert!(!reader.is_live().unwrap());
    }
}
