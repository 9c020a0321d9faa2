//! Store paths and the store directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name of a store path, in bytes, without the hash part (Nix: `StorePath::MaxPathLen`).
pub const NAME_MAX: usize = 211;

/// Length of the hash part in characters of nixbase32 (20 bytes).
pub const HASH_LEN: usize = 32;

/// The base name of a store path: hash part, `-`, name; valid as Nix defines it (`src/libstore/path.cc`).
///
/// Without the store directory, which is the same for all paths of a store. Cloning is cheap. Ordering is bytewise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(Arc<str>);

/// Why a text is no store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a store path: {reason}")]
pub struct StorePathError {
    /// What was given, shortened and escaped for people.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl StorePath {
    /// Checks a base name, `HASH-NAME`.
    ///
    /// # Errors
    /// If the hash part is not 32 characters of nixbase32, or the name is empty, longer than 211 bytes, is `.` or `..` up
    /// to its end or its first dash, or has a character other than `0-9a-zA-Z+-._?=`.
    pub fn from_base_name(base: &[u8]) -> Result<Self, StorePathError> {
        let checked = check(base).and_then(|()| std::str::from_utf8(base).map_err(|_| "it is not ASCII"));
        match checked {
            Ok(text) => Ok(Self(Arc::from(text))),
            Err(reason) => {
                let text = base.escape_ascii().take(300).map(char::from).collect();
                Err(StorePathError { text, reason })
            }
        }
    }

    /// The base name: `HASH-NAME`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 32 characters of the hash part.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        self.0.get(..HASH_LEN).unwrap_or_default()
    }

    /// What follows the hash part and its dash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.get(HASH_LEN + 1..).unwrap_or_default()
    }

    /// The name without its version: `bash` of `bash-5.2.15`, up to the first dash before a digit, as Nix has it
    /// (`parseDrvName`).
    #[must_use]
    pub fn package(&self) -> &str {
        let name = self.name();
        let version =
            name.as_bytes().windows(2).position(|pair| matches!(pair, [b'-', next] if next.is_ascii_digit()));
        version.and_then(|at| name.get(..at)).unwrap_or(name)
    }

    /// True for a derivation: the name ends in `.drv`.
    #[must_use]
    pub fn is_derivation(&self) -> bool {
        self.0.ends_with(".drv")
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// What is wrong with a base name.
fn check(base: &[u8]) -> Result<(), &'static str> {
    let Some((hash, rest)) = base.split_at_checked(HASH_LEN) else {
        return Err("it is shorter than a hash part");
    };
    if !hash.iter().all(|b| is_base32(*b)) {
        return Err("its hash part has a character that is not of nixbase32");
    }
    let Some((b'-', name)) = rest.split_first() else {
        return Err("no '-' follows the 32 characters of the hash part");
    };
    if name.is_empty() {
        return Err("its name is empty");
    }
    if name.len() > NAME_MAX {
        return Err("its name is longer than 211 bytes");
    }
    // Nix up to 2.3 and Nix 2.19 refuse every leading dot, Nix 2.4 none. This is the rule since 2.21.
    if matches!(name.split(|b| *b == b'-').next(), Some(b"." | b"..")) {
        return Err("its name is '.' or '..', or begins with one of them and a dash");
    }
    if !name.iter().all(|b| is_of_names(*b)) {
        return Err("its name has a character other than letters, digits and +-._?=");
    }
    Ok(())
}

fn is_of_names(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'+' | b'-' | b'.' | b'_' | b'?' | b'=')
}

fn is_base32(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z') && !matches!(byte, b'e' | b'o' | b't' | b'u')
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_base_name(text.as_bytes())
    }
}

impl TryFrom<String> for StorePath {
    type Error = StorePathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_base_name(text.as_bytes())
    }
}

impl From<StorePath> for String {
    fn from(path: StorePath) -> Self {
        path.0.as_ref().to_owned()
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The store directory as its paths name it, usually `/nix/store`: absolute, without a slash at the end.
///
/// Not where the store lies on this machine: a store on a disk mounted elsewhere keeps the directory it was built for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreDir(Arc<str>);

impl Default for StoreDir {
    fn default() -> Self {
        Self(Arc::from("/nix/store"))
    }
}

impl TryFrom<String> for StoreDir {
    type Error = StorePathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<StoreDir> for String {
    fn from(dir: StoreDir) -> Self {
        dir.0.as_ref().to_owned()
    }
}

impl StoreDir {
    /// Checks a store directory.
    ///
    /// # Errors
    /// If it is not absolute and normal (no empty, `.` or `..` components, no slash at the end, no control characters).
    pub fn new(text: &str) -> Result<Self, StorePathError> {
        let normal = text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|c| !matches!(c, "" | "." | "..") && !c.contains(char::is_control))
        });
        if normal {
            Ok(Self(Arc::from(text)))
        } else {
            let shown = text.chars().take(300).flat_map(char::escape_debug).collect();
            Err(StorePathError { text: shown, reason: "a store directory is an absolute, normal path" })
        }
    }

    /// The directory as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full path of a store path.
    #[must_use]
    pub fn join(&self, path: &StorePath) -> PathBuf {
        Path::new(self.as_str()).join(path.as_str())
    }

    /// Reads a full path that is exactly a store path of this store: `/nix/store/HASH-NAME`.
    ///
    /// # Errors
    /// If it is not in this directory, has further components, or is no valid store path.
    pub fn parse(&self, full: &[u8]) -> Result<StorePath, StorePathError> {
        let inside = full.strip_prefix(self.0.as_bytes()).and_then(|r| r.strip_prefix(b"/"));
        match inside {
            Some(base) => StorePath::from_base_name(base),
            None => Err(StorePathError {
                text: full.escape_ascii().take(300).map(char::from).collect(),
                reason: "it is not in the store directory",
            }),
        }
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    /// As `nix-instantiate --eval -E 'builtins.parseDrvName …'` answers, where the version begins with a digit.
    #[test]
    fn a_package_is_a_name_without_its_version() {
        for (name, package) in [
            ("bash-5.2.15", "bash"),
            ("bash", "bash"),
            ("libc-1.0-dev", "libc"),
            ("gtk+-3", "gtk+"),
            ("font-awesome-6.1", "font-awesome"),
            ("a-1-2", "a"),
            ("-5", ""),
        ] {
            let path = StorePath::from_base_name(format!("{}-{name}", "a".repeat(32)).as_bytes()).unwrap();
            assert_eq!(path.package(), package, "{name}");
        }
    }

    /// What `checkName` of Nix (`src/libstore/path.cc`, 2.21 and later) takes and refuses.
    #[test]
    fn names_are_those_that_nix_takes() {
        let taken = |name: &str| StorePath::from_base_name(format!("{}-{name}", "a".repeat(32)).as_bytes());
        let longest = "n".repeat(NAME_MAX);
        for name in [
            ".envrc", ".a", "...", "...-x", ".x-1", "..x", "-", "-.-", "a.", "?", "=", "+", "_", ".drv",
            &longest,
        ] {
            assert_eq!(taken(name).unwrap().name(), name);
        }
        for name in
            ["", ".", "..", ".-", ".-x", "..-", "..-x", "a/b", "a b", "\u{e9}", &format!("{longest}n")]
        {
            assert!(taken(name).is_err(), "{name}");
        }
    }
}
