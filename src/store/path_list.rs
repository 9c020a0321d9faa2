//! Lists of store paths: what `nix-store -qR` prints, and the directory that nixpkgs' `closureInfo` makes.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::path::{StoreDir, StorePath};
use super::recorded::Recorded;
use super::registration;
use crate::sys::open::open_input;

/// The longest list or registration that is read, in bytes: a million paths have less than 200 MB.
pub const SIZE_MAX: u64 = 512 << 20;

/// Why a list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A line is no store path.
    #[error("line {line}: {problem}")]
    Malformed {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of a closureInfo directory could not be read.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of a closureInfo directory is malformed.
    #[error("{file}: {problem}")]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, and where.
        problem: String,
    },
}

/// Reads one full store path a line; empty lines are skipped. In the order of the text, repeated ones too.
///
/// # Errors
/// With the line, if one is no path of this store.
pub fn parse(dir: &StoreDir, text: &[u8]) -> Result<Vec<StorePath>, ListError> {
    let mut all = Vec::new();
    for (number, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let malformed = |error: super::StorePathError| ListError::Malformed {
            line: number + 1,
            problem: error.to_string(),
        };
        all.push(dir.parse(line).map_err(malformed)?);
    }
    Ok(all)
}

/// True for a directory that `closureInfo` made: `store-paths` and `registration` are in it.
#[must_use]
pub fn is_closure_info(dir: &Path) -> bool {
    dir.join("registration").is_file() && dir.join("store-paths").is_file()
}

/// Reads a closureInfo directory; its `registration` must have exactly the paths of its `store-paths`.
///
/// # Errors
/// If a file cannot be read or is malformed, or the two disagree.
pub fn read_closure_info(store: &StoreDir, dir: &Path) -> Result<Recorded, ListError> {
    let file = dir.join("registration");
    let broken = |problem: String| ListError::Broken { file: file.clone(), problem };
    let recorded = registration::parse(store, &read(&file)?, &format!("the registration {}", file.display()))
        .map_err(|error| broken(error.to_string()))?;
    let list = dir.join("store-paths");
    let mut paths = parse(store, &read(&list)?)
        .map_err(|error| ListError::Broken { file: list.clone(), problem: error.to_string() })?;
    paths.sort_unstable();
    paths.dedup();
    if let Some(path) = paths.iter().find(|path| recorded.get(path).is_none()) {
        return Err(broken(format!("{path} of store-paths is not in it")));
    }
    if paths.len() != recorded.count() {
        let extra = recorded.iter().map(|(path, _)| path).find(|path| paths.binary_search(path).is_err());
        let extra = extra.map(ToString::to_string).unwrap_or_default();
        return Err(broken(format!("{extra} is not in store-paths")));
    }
    Ok(recorded)
}

fn read(file: &Path) -> Result<Vec<u8>, ListError> {
    let io = |source| ListError::Io { file: file.to_owned(), source };
    let mut text = Vec::new();
    open_input(file).map_err(io)?.take(SIZE_MAX + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > SIZE_MAX {
        return Err(io(std::io::Error::other("it is longer than 512 MiB")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    const A: &str = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a";
    const B: &str = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-b";

    #[test]
    fn a_list_keeps_its_order_and_names_the_bad_line() {
        let dir = StoreDir::default();
        let paths = parse(&dir, format!("{B}\n\n{A}\r\n{B}").as_bytes()).unwrap();
        assert_eq!(paths.iter().map(StorePath::name).collect::<Vec<_>>(), ["b", "a", "b"]);
        let error = parse(&dir, format!("{A}\n{B}/bin\n").as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
    }

    #[test]
    fn closure_info_must_agree_with_itself() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(!is_closure_info(dir.path()));
        put("registration", format!("{A}\n\n1\n{B}\n{B}\n\n0\n"));
        put("store-paths", format!("{B}\n{A}\n"));
        assert!(is_closure_info(dir.path()));
        let read = || read_closure_info(&StoreDir::default(), dir.path());
        assert_eq!(read().unwrap().count(), 2);
        put("store-paths", format!("{A}\n"));
        assert!(read().unwrap_err().to_string().contains("-b is not in store-paths"));
        put("store-paths", format!("{A}\n{B}\n{B}c\n"));
        assert!(read().unwrap_err().to_string().contains("-bc of store-paths is not in it"));
    }
}
