//! What was locked, and what decided the result, as a lock records it.

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// What was locked, and what decided the result.
///
/// A record for people and for comparing: nothing that is shown in a view depends on it. Fields stand in the order of
/// the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// What was passed to the evaluation, in order: `--arg`, `n`, `1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// The attribute of the expression's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// The files that were read, by the name they were given by or relative to the inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SourceFile>,
    /// What was given: paths of the store and links as they were written, without a file's folder.
    pub given: Vec<String>,
    /// The folder that holds the expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// What kind of thing was locked.
    pub kind: Kind,
    /// The version of Nix that evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nix_version: Option<String>,
    /// What `<name>` meant in the evaluation, in Nix's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search_path: Vec<SearchPathEntry>,
}

/// What kind of thing was locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Store paths, links to them, or paths inside them.
    Paths,
    /// Derivations or outputs of derivations.
    Derivations,
    /// A directory as Nixpkgs' `closureInfo` makes it.
    ClosureInfo,
    /// What `nix path-info --json` prints.
    PathInfo,
    /// A list of any of the first two.
    List,
    /// A file with a Nix expression.
    Expression,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// SHA-256 of its contents.
    pub digest: Digest,
    /// Its name.
    pub name: String,
}

/// The files among which the expression stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The number of files and links.
    pub count: u64,
    /// SHA-256 over them; `docs/env-lock.md` says how.
    pub digest: Digest,
    /// Who said which files these are.
    pub from: InputsFrom,
}

/// Who said which files are inputs of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputsFrom {
    /// The user, by `--input`.
    Declared,
    /// All that lies in the expression's folder.
    Folder,
    /// What git tracks in the expression's folder, as it is in the work tree.
    Git,
}

/// What `<prefix>` meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchPathEntry {
    /// What it is: a path of the store, whose contents are fixed; absent for anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The name; empty for an entry without one.
    pub prefix: String,
}

impl Source {
    /// A record that says only what kind of thing was given.
    #[must_use]
    pub fn new(kind: Kind, given: Vec<String>) -> Self {
        Self {
            arguments: Vec::new(),
            attribute: None,
            files: Vec::new(),
            given,
            inputs: None,
            kind,
            nix_version: None,
            search_path: Vec::new(),
        }
    }

    /// Says what no lock may say, if this one does.
    pub(super) fn check(&self) -> Result<(), String> {
        let evaluated = self.nix_version.is_some();
        if evaluated != (self.kind == Kind::Expression) {
            return Err(
                "\"source\": \"nixVersion\" stands exactly where \"kind\" is \"expression\"".to_owned()
            );
        }
        let extras = self.inputs.is_some()
            || self.attribute.is_some()
            || !self.arguments.is_empty()
            || !self.search_path.is_empty();
        if extras && !evaluated {
            return Err(
                "\"source\" tells of an evaluation, but its \"kind\" is not \"expression\"".to_owned()
            );
        }
        Ok(())
    }
}
