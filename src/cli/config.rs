//! The configuration of a host, the same for all who use it: `/etc/nixview.toml`.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::CliError;

/// Where it is, unless `NIXVIEW_CONFIG` names another file.
const FILE: &str = "/etc/nixview.toml";

/// What the file says. A host without the file has the defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The maker of views for which none is asked for.
    #[serde(default)]
    pub backend: Preference,
}

/// The maker of views that is taken where it can do all that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// The kernel's overlayfs; a server where that cannot be.
    #[default]
    Overlay,
    /// A server.
    Fuse,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, says what no configuration does, or is named and not there.
    pub fn read() -> Result<Self, CliError> {
        match std::env::var_os("NIXVIEW_CONFIG").map(PathBuf::from) {
            Some(named) => Self::of_file(&named, true),
            None => Self::of_file(Path::new(FILE), false),
        }
    }

    /// True if overlayfs is taken where it can do all that is asked for.
    #[must_use]
    pub fn prefers_overlay(self) -> bool {
        self.backend == Preference::Overlay
    }

    fn of_file(path: &Path, must_exist: bool) -> Result<Self, CliError> {
        let what = || format!("cannot use the configuration {}", path.display());
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Ok(Self::default());
            }
            answer => answer.map_err(|error| CliError::new(what()).because(error))?,
        };
        toml::from_str(&text).map_err(|error| {
            CliError::new(format!("{}: {}", what(), error.message()))
                .hint("all that it may say is 'backend = \"overlay\"' or 'backend = \"fuse\"'")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn read(text: &str) -> Result<Config, CliError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::of_file(file.path(), true)
    }

    #[test]
    fn a_host_prefers_what_its_file_says() {
        assert_eq!(read("").unwrap().backend, Preference::Overlay);
        assert_eq!(read("# views\nbackend = \"overlay\"\n").unwrap().backend, Preference::Overlay);
        assert_eq!(read("backend = \"fuse\"").unwrap().backend, Preference::Fuse);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_the_file_s_name() {
        for wrong in ["backend = \"aufs\"", "backend = 1", "backends = \"fuse\"", "backend", "[views]"] {
            let error = format!("{:?}", read(wrong).unwrap_err());
            assert!(error.contains("cannot use the configuration /"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing_unless_it_is_named() {
        let none = Path::new("/none/nixview.toml");
        assert_eq!(Config::of_file(none, false).unwrap(), Config::default());
        Config::of_file(none, true).unwrap_err();
    }
}
