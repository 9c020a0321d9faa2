//! What the recording bash says, as an environment.
//!
//! The bash runs [`SCRIPT`] inside a view and answers on a descriptor. Its answer is not trusted: it is data that is
//! bounded and checked.

use std::collections::BTreeMap;
use std::path::Path;

use super::quote::quoted;
use super::{ATTRIBUTES, Environment, FILES, MAX_COUNT, Recipe, Text, Variable, is_identifier};

/// What bash is told to do: to source the derivation's setup as `nix-shell` does, and to say what is there then.
///
/// It answers on its standard output in fields, each ended by a NUL: options and traps before; options, traps and
/// aliases after; functions; variables; `end`.
pub const SCRIPT: &str = include_str!("record.sh");

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER: u64 = 64 << 20;

/// Why the answer is none.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It ends early: the setup ended the shell.
    #[error("the shell ended before it had told its variables")]
    Early,
    /// It is not what the script prints.
    #[error("the shell's answer makes no sense: {0}")]
    Malformed(&'static str),
    /// It is not what an environment may be.
    #[error("what the shell has cannot be kept: {0}")]
    Unusable(String),
}

/// Variables that are of the shell or of the moment, and not of the environment.
pub(super) const TRANSIENT: &[&str] = &[
    "COLUMNS",
    "DIRSTACK",
    "DISPLAY",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "EUID",
    "FUNCNAME",
    "GROUPS",
    "HISTCMD",
    "HOME",
    "HOSTNAME",
    "HOSTTYPE",
    "IN_NIX_SHELL",
    "LINENO",
    "LINES",
    "LOGNAME",
    "MACHTYPE",
    "NIX_BUILD_CORES",
    "NIX_BUILD_SHELL",
    "NIX_BUILD_TOP",
    "NIX_SHELL_PRESERVE_PROMPT",
    "OLDPWD",
    "OPTARG",
    "OPTERR",
    "OPTIND",
    "OSTYPE",
    "PAGER",
    "PIPESTATUS",
    "PPID",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHELL",
    "SHELLOPTS",
    "SHLVL",
    "SRANDOM",
    "TEMP",
    "TEMPDIR",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "UID",
    "USER",
    "WAYLAND_DISPLAY",
    "WAYLAND_SOCKET",
    "XDG_RUNTIME_DIR",
    "_",
    "__ETC_PROFILE_SOURCED",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Variables that every shell has with this value.
const USUAL: &[(&str, &[u8])] = &[("IFS", b" \t\n"), ("PS4", b"+ ")];

impl Recipe {
    /// The environment that the recording bash told; `files` is where its files were.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn recorded(&self, answer: &[u8], files: &Path) -> Result<Environment, RecordError> {
        use std::os::unix::ffi::OsStrExt;
        let moved = |text: &[u8]| Text::from(text).replaced(files.as_os_str().as_bytes(), FILES.as_bytes());
        let mut fields = Fields { rest: answer };
        let before = [fields.next()?, fields.next()?, fields.next()?];
        let after = [fields.next()?, fields.next()?, fields.next()?];
        let aliases = fields.next()?;
        let mut script: Vec<u8> = Vec::new();
        let mut variables: BTreeMap<String, Variable> =
            self.passed_on().map(|variable| (variable.name.clone(), variable)).collect();
        loop {
            match fields.next()? {
                b"function" => {
                    let (name, attributes, text) = (fields.next()?, fields.next()?, fields.next()?);
                    script.extend_from_slice(text);
                    if attributes.contains(&b'x') {
                        script.extend_from_slice(b"export -f ");
                        script.extend_from_slice(&quoted(name));
                        script.push(b'\n');
                    }
                }
                b"variable" => {
                    let variable = variable(&mut fields, &moved)?;
                    if self.keeps(&variable) {
                        variables.insert(variable.name.clone(), variable);
                    }
                }
                b"end" => break,
                _ => return Err(RecordError::Malformed("a field is of no kind")),
            }
            if variables.len() > MAX_COUNT {
                return Err(RecordError::Unusable(format!("more than {MAX_COUNT} variables")));
            }
        }
        if !fields.rest.is_empty() {
            return Err(RecordError::Malformed("it goes on after its end"));
        }
        script.extend_from_slice(aliases);
        // Traps last: they may fire at whatever comes after them.
        for (before, after) in before.iter().zip(after) {
            new_lines(before, after, &mut script);
        }
        let script = script.strip_suffix(b"\n").unwrap_or(&script);
        let lines =
            if script.is_empty() { Vec::new() } else { script.split(|b| *b == b'\n').map(moved).collect() };
        let variables = variables.into_values().collect();
        Environment::new(self.shell().to_owned(), variables, lines, self.files().to_vec(), self.store())
            .map_err(RecordError::Unusable)
    }

    /// True for what belongs to the environment.
    fn keeps(&self, variable: &Variable) -> bool {
        let name = variable.name.as_str();
        let of_shell = |name: &str| {
            name.starts_with("BASH") || name.starts_with("COMP_") || name.starts_with("__nixview_")
        };
        let usual = |(n, v): &(&str, &[u8])| {
            name == *n && variable.value.as_ref().is_some_and(|t| t.as_bytes() == *v)
        };
        self.sets(name)
            || !(of_shell(name) || TRANSIENT.binary_search(&name).is_ok() || USUAL.iter().any(usual))
    }
}

/// What of `after` is not in `before`. A text of several lines that began before is as it was.
fn new_lines(before: &[u8], after: &[u8], out: &mut Vec<u8>) {
    if before == after {
        return;
    }
    let old: Vec<&[u8]> = before.split(|b| *b == b'\n').collect();
    let mut inside = false;
    for line in after.split(|b| *b == b'\n').filter(|line| !line.is_empty() && *line != b"set -o errexit") {
        let begins = [&b"set "[..], b"shopt ", b"trap "].iter().any(|word| line.starts_with(word));
        inside = (inside && !begins) || !old.contains(&line);
        if inside {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }
}

fn variable(fields: &mut Fields<'_>, moved: &dyn Fn(&[u8]) -> Text) -> Result<Variable, RecordError> {
    let name = std::str::from_utf8(fields.next()?).ok().filter(|name| is_identifier(name));
    let name = name.ok_or(RecordError::Malformed("a variable has no name"))?.to_owned();
    let told = fields.next()?;
    let mut attributes: Vec<char> = ATTRIBUTES.chars().filter(|c| told.contains(&(*c as u8))).collect();
    attributes.sort_unstable();
    let attributes: String = attributes.into_iter().collect();
    let count = std::str::from_utf8(fields.next()?).ok().and_then(|text| text.parse::<usize>().ok());
    let count = count.ok_or(RecordError::Malformed("an array has no length"))?;
    if count > MAX_COUNT {
        return Err(RecordError::Unusable(format!("the variable {name} has more than {MAX_COUNT} items")));
    }
    let mut items = Vec::with_capacity(count);
    if attributes.contains(['a', 'A']) {
        for _ in 0..count {
            items.push((moved(fields.next()?), moved(fields.next()?)));
        }
        if attributes.contains('A') {
            items.sort();
        }
        return Ok(Variable { attributes, items: Some(items), name, value: None });
    }
    let value = Some(moved(fields.next()?));
    Ok(Variable { attributes, items: None, name, value })
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<&'a [u8], RecordError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(RecordError::Early)?;
        let (field, rest) = self.rest.split_at_checked(end).ok_or(RecordError::Early)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(field)
    }
}
