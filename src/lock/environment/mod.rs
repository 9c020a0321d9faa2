//! The variables of a development environment: what `nix-shell` has after it sourced the derivation's setup.
//!
//! They are recorded once, by a bash in a view of the derivation's closure, and kept as data: names, attributes, values.
//! Functions, aliases, options and traps are a script. Nothing of it is evaluated here: the script is sourced by the
//! shell inside a view, and by nobody else. The format is told in `docs/env-lock.md`.

mod attributes;
mod enter;
mod memory;
mod quote;
mod recipe;
mod record;
mod text;

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Fields};
use crate::store::{StoreDir, StorePath};

pub use enter::Entering;
pub use quote::quoted;
pub use recipe::{Recipe, RecipeError};
pub use record::{MAX_ANSWER, RecordError, SCRIPT};
pub use text::Text;

/// The most bytes that the variables, script and files of an environment may have together.
pub const MAX_BYTES: usize = 16 << 20;

/// The most variables, files, or items of one array that an environment may have.
pub const MAX_COUNT: usize = 20_000;

/// The most lines that a script may have.
const MAX_LINES: usize = 200_000;

/// The longest name of a variable, in bytes.
const MAX_NAME: usize = 1024;

/// What stands in values and script for the directory that the files are in.
pub const FILES: &str = "/nixview-environment-files";

/// The attributes of a variable that are kept, as bash's `declare` has them.
const ATTRIBUTES: &str = "aAilnrtux";

/// The variables of a development environment.
///
/// Invariants, kept by [`Environment::check`]: names are what they must be and in order, nothing has a NUL, the whole
/// has at most [`MAX_BYTES`], and the digest fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// SHA-256 over all that follows; see [`Environment::computed`].
    pub digest: Digest,
    /// Files that are made afresh at each entry, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<EnvironmentFile>,
    /// Functions, aliases, options and traps, in bash's own words, line by line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub script: Vec<Text>,
    /// The bash, by its path in the store.
    pub shell: String,
    /// The variables, sorted by name.
    pub variables: Vec<Variable>,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Letters of `declare`, sorted: `x` exported, `a` array, `A` associative array…
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attributes: String,
    /// Of an array: its indices or keys, and what is there, sorted by these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<(Text, Text)>>,
    /// The name.
    pub name: String,
    /// Of all others: the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Text>,
}

/// A file that variables name: of `passAsFile`, or of structured attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentFile {
    /// What is in it.
    pub content: Text,
    /// Its name: `.attr-0`, `.attrs.json`.
    pub name: String,
}

impl Variable {
    /// An exported variable.
    #[must_use]
    pub fn exported(name: &str, value: impl Into<Text>) -> Self {
        let value = Some(value.into());
        Self { attributes: "x".to_owned(), items: None, name: name.to_owned(), value }
    }

    /// The value that programs get, if they get one.
    #[must_use]
    pub fn exported_value(&self) -> Option<&Text> {
        self.value.as_ref().filter(|_| self.attributes.contains('x'))
    }

    fn is_array(&self) -> bool {
        self.attributes.contains(['a', 'A'])
    }
}

/// True if bash can have a variable of this name.
fn is_identifier(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

impl Environment {
    /// Makes one, with its digest.
    ///
    /// # Errors
    /// What no environment may have.
    pub fn new(
        shell: String,
        variables: Vec<Variable>,
        script: Vec<Text>,
        files: Vec<EnvironmentFile>,
        store: &StoreDir,
    ) -> Result<Self, String> {
        let mut made = Self { digest: Digest::of(b""), files, script, shell, variables };
        made.digest = made.computed();
        made.check(store)?;
        Ok(made)
    }

    /// The digest of what it has: each part preceded by what it is and how many there are of it.
    #[must_use]
    pub fn computed(&self) -> Digest {
        let mut fields = Fields::new("nixview environment 1");
        let number = |fields: &mut Fields, count: usize| fields.add(&(count as u64).to_le_bytes());
        fields.add(self.shell.as_bytes());
        number(&mut fields, self.variables.len());
        for variable in &self.variables {
            fields.add(variable.name.as_bytes());
            fields.add(variable.attributes.as_bytes());
            let items = variable.items.as_deref().unwrap_or_default();
            number(&mut fields, items.len());
            let items = items.iter().flat_map(|(key, item)| [key, item]);
            items.chain(&variable.value).for_each(|text| fields.add(text.as_bytes()));
        }
        number(&mut fields, self.script.len());
        self.script.iter().for_each(|line| fields.add(line.as_bytes()));
        number(&mut fields, self.files.len());
        for file in &self.files {
            fields.add(file.name.as_bytes());
            fields.add(file.content.as_bytes());
        }
        fields.finish()
    }

    /// The store path that the shell is in.
    ///
    /// # Errors
    /// If it is in none.
    pub fn shell_path(&self, store: &StoreDir) -> Result<StorePath, String> {
        let wrong = || "\"shell\" of the environment is no program in the store".to_owned();
        let rest = self.shell.strip_prefix(store.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let (base, inside) = rest.and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        let mut parts = Path::new(inside).components();
        let plain = parts.all(|part| matches!(part, Component::Normal(_))) && !inside.contains("//");
        if !plain || inside.is_empty() || inside.ends_with('/') || inside.contains('\0') {
            return Err(wrong());
        }
        StorePath::from_base_name(base.as_bytes()).map_err(|error| format!("{}: {error}", wrong()))
    }

    /// Says what no environment may say, if this one does.
    pub(super) fn check(&self, store: &StoreDir) -> Result<(), String> {
        self.shell_path(store)?;
        let mut bytes: usize = self.script.iter().map(|line| line.as_bytes().len() + 1).sum();
        let mut before: Option<&str> = None;
        for variable in &self.variables {
            check_variable(variable)
                .map_err(|problem| format!("the variable '{}' {problem}", variable.name.escape_debug()))?;
            if before.is_some_and(|before| before >= variable.name.as_str()) {
                let name = variable.name.escape_debug();
                return Err(format!("the variable '{name}' stands in it twice, or not in order"));
            }
            before = Some(&variable.name);
            let items = variable.items.iter().flatten().flat_map(|(key, item)| [key, item]);
            bytes +=
                variable.name.len() + items.chain(&variable.value).map(|t| t.as_bytes().len()).sum::<usize>();
        }
        let mut names = BTreeSet::new();
        for file in &self.files {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
            let name = &file.name;
            if name.is_empty()
                || name.len() > 64
                || !name.bytes().all(plain)
                || matches!(name.as_str(), "." | "..")
            {
                return Err("a file of the environment has a name that none has".to_owned());
            }
            if names.last().is_some_and(|last: &&String| *last >= name) {
                return Err(format!(
                    "the file '{name}' of the environment stands in it twice, or not in order"
                ));
            }
            // The directory holds the script that the shell reads first, too.
            if name == "rc" {
                return Err("a file of the environment has a name that none has".to_owned());
            }
            names.insert(name);
            bytes += name.len() + file.content.as_bytes().len();
        }
        if bytes > MAX_BYTES {
            return Err(format!("the environment has more than {} MiB", MAX_BYTES >> 20));
        }
        if self.variables.len() > MAX_COUNT || self.files.len() > MAX_COUNT {
            return Err(format!("the environment has more than {MAX_COUNT} variables or files"));
        }
        if self.script.len() > MAX_LINES {
            return Err(format!("the script of the environment has more than {MAX_LINES} lines"));
        }
        if self.script.iter().any(|line| line.as_bytes().iter().any(|b| matches!(b, 0 | b'\n'))) {
            return Err("a line of the environment's script has a NUL or is more than one".to_owned());
        }
        if self.digest != self.computed() {
            return Err("the digest of the environment does not fit: it was changed".to_owned());
        }
        Ok(())
    }
}

fn check_variable(variable: &Variable) -> Result<(), &'static str> {
    let name = &variable.name;
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['=', '\0']) {
        return Err("has a name that none has");
    }
    let letters = variable.attributes.as_bytes();
    if !letters.is_sorted_by(|a, b| a < b) || !letters.iter().all(|b| ATTRIBUTES.as_bytes().contains(b)) {
        return Err("has attributes that none has");
    }
    // What bash cannot have it only passes on.
    if !is_identifier(name) && variable.attributes != "x" {
        return Err("is no name of a variable");
    }
    let associative = variable.attributes.contains('A');
    if associative && variable.attributes.contains('a') {
        return Err("cannot be two kinds of array");
    }
    let texts = match (&variable.items, &variable.value, variable.is_array()) {
        (Some(items), None, true) => {
            if items.len() > MAX_COUNT {
                return Err("has too many items");
            }
            let index = |text: &Text| std::str::from_utf8(text.as_bytes()).ok()?.parse::<u64>().ok();
            let ordered = if associative {
                items.is_sorted_by(|(a, _), (b, _)| a.as_bytes() < b.as_bytes())
            } else {
                items
                    .iter()
                    .all(|(key, _)| index(key).is_some_and(|i| i.to_string().as_bytes() == key.as_bytes()))
                    && items.is_sorted_by(|(a, _), (b, _)| index(a) < index(b))
            };
            if !ordered {
                return Err("has items that stand in it twice, or not in order, or whose index is none");
            }
            items.iter().flat_map(|(key, item)| [key, item]).collect::<Vec<_>>()
        }
        (None, Some(value), false) => vec![value],
        _ => return Err("must have a value, or items if it is an array"),
    };
    if texts.iter().any(|text| text.as_bytes().contains(&0)) {
        return Err("has a NUL in it");
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
