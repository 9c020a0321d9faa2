//! Names of views.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a view, in bytes.
const NAME_MAX: usize = 64;

/// The name of a view on its host: a safe file name of letters, digits and `.`, `_`, `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ViewName(String);

/// Why a text is no name of a view.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is no name for a view: it must have 1 to 64 letters, digits, '.', '_', '-', and start with a letter or digit"
)]
pub struct ViewNameError {
    text: String,
}

impl ViewName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that a view at `target` gets when none is given: its path with `-` for each `/`, as far as it fits.
    #[must_use]
    pub fn of_target(target: &Path) -> Option<Self> {
        let text = target.to_str()?.trim_matches('/').replace('/', "-");
        let end = text.len().saturating_sub(NAME_MAX);
        let tail = text.get(end..)?.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        tail.parse().ok()
    }
}

impl FromStr for ViewName {
    type Err = ViewNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts && text.len() <= NAME_MAX && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ViewNameError { text: text.chars().take(100).flat_map(char::escape_debug).collect() })
        }
    }
}

impl TryFrom<String> for ViewName {
    type Error = ViewNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ViewName> for String {
    fn from(name: ViewName) -> Self {
        name.0
    }
}

impl fmt::Display for ViewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn only_safe_file_names_are_names() {
        for good in ["web", "a.b_c-9", "0"] {
            good.parse::<ViewName>().unwrap();
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\0", "ä", long.as_str()] {
            bad.parse::<ViewName>().unwrap_err();
        }
    }

    #[test]
    fn a_target_names_its_view() {
        let name = |t: &str| ViewName::of_target(Path::new(t)).map(|n| n.0);
        assert_eq!(name("/run/views/web").unwrap(), "run-views-web");
        assert_eq!(name("/nix").unwrap(), "nix");
        assert_eq!(name(&format!("/{}/web", "d".repeat(100))).unwrap().len(), NAME_MAX);
        assert_eq!(name("/a b"), None);
        assert_eq!(name("/"), None);
    }
}
