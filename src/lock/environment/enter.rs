//! Entering a recorded environment: the variables of a program, and the script that makes a bash what nix-shell's is.
//!
//! What comes in which order is that of nix-shell of Nix 2.8: the user's `.bashrc`, the environment, the caller's `PATH`
//! behind its own, the shell's directory before it, `shellHook`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::quote::quote;
use super::{Environment, FILES, Text, Variable, is_identifier};

/// Variables that name the directory of temporary files.
pub(super) const TEMPORARY: &[&str] = &["NIX_BUILD_TOP", "TEMP", "TEMPDIR", "TMP", "TMPDIR"];

/// What a pure environment keeps of the caller's.
const KEPT: &[&str] = &[
    "DISPLAY",
    "HOME",
    "IN_NIX_SHELL",
    "LOGNAME",
    "NIX_BUILD_SHELL",
    "NIX_SHELL_PRESERVE_PROMPT",
    "PAGER",
    "PATH",
    "SHLVL",
    "TERM",
    "TZ",
    "USER",
    "WAYLAND_DISPLAY",
    "WAYLAND_SOCKET",
    "XDG_RUNTIME_DIR",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Search paths of the caller that go behind those of the environment.
const CONTINUED: &str = "XDG_DATA_DIRS";

/// The bash variable that `nix-shell` takes away once it has run the hook.
const UNTIL_HOOK: &str = "NIX_ENFORCE_PURITY";

/// Options of bash that decide how functions are parsed, and the letter of `shopt` for each while the script is read.
///
/// `extglob` parses every function that bash prints. Aliases of the user's `.bashrc` do not change recorded functions.
const PARSER: [(&str, char); 2] = [("extglob", 's'), ("expand_aliases", 'u')];

/// Who enters, and how.
#[derive(Clone, Debug)]
pub struct Entering<'a> {
    /// The caller's environment.
    pub caller: &'a [(OsString, OsString)],
    /// Without what is only the caller's.
    pub pure: bool,
    /// Where the environment's files are.
    pub files: &'a Path,
    /// How many processors there are.
    pub cores: usize,
}

type Pairs = Vec<(OsString, OsString)>;

impl Environment {
    /// The process environment of the environment's own shell, which then reads [`Environment::rc`].
    #[must_use]
    pub fn of_shell(&self, how: &Entering<'_>) -> Pairs {
        let mut all = how.base();
        for variable in &self.variables {
            // The rest is the script's.
            if let Some(value) = variable.exported_value().filter(|_| !is_identifier(&variable.name)) {
                put(&mut all, OsStr::new(&variable.name), how.moved(value));
            }
        }
        all
    }

    /// The process environment of any program: what is exported. `bin` comes before its `PATH`.
    #[must_use]
    pub fn of_program(&self, how: &Entering<'_>, bin: &[std::path::PathBuf]) -> Pairs {
        let mut all = how.base();
        let callers = |name: &str| how.caller.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let behind = |name: &str| callers(name).filter(|value| !how.pure && !value.is_empty());
        let mut path = None;
        for variable in self.variables.iter().filter(|variable| variable.name != UNTIL_HOOK) {
            let own =
                if variable.name == "PATH" { variable.value.as_ref() } else { variable.exported_value() };
            let Some(value) = own.map(|value| how.moved(value)) else { continue };
            match (variable.name.as_str(), behind(CONTINUED)) {
                ("PATH", _) => path = Some(value).filter(|path| !path.is_empty()),
                (CONTINUED, Some(more)) => put(&mut all, OsStr::new(CONTINUED), join(&[&value, &more])),
                (name, _) => put(&mut all, OsStr::new(name), value),
            }
        }
        let shell = Path::new(&self.shell).parent().map(|dir| dir.as_os_str().to_owned());
        let bin = bin.iter().map(|dir| dir.as_os_str().to_owned());
        let parts: Vec<OsString> = bin.chain(shell).chain(path).chain(behind("PATH")).collect();
        put(&mut all, OsStr::new("PATH"), join(&parts.iter().map(OsString::as_os_str).collect::<Vec<_>>()));
        all
    }

    /// What the environment's own shell reads first; then `command`, and its end, if there is one.
    #[must_use]
    pub fn rc(&self, how: &Entering<'_>, command: Option<&OsStr>) -> Vec<u8> {
        let mut rc = Vec::new();
        let mut line = |bytes: &[u8]| {
            rc.extend_from_slice(bytes);
            rc.push(b'\n');
        };
        let continued = !how.pure && self.variables.iter().any(|variable| variable.name == CONTINUED);
        if !how.pure {
            line(b"if [[ -n ${PS1-} && -e ~/.bashrc ]]; then source ~/.bashrc; fi");
            line(b"__nixview_path=${PATH-}");
        }
        line(b"__nixview_options=:$BASHOPTS:");
        for (option, letter) in PARSER {
            // The backslash: no alias of the user's.
            line(format!("\\builtin shopt -{letter} {option}").as_bytes());
        }
        if continued {
            line(format!("__nixview_continued=${{{CONTINUED}-}}").as_bytes());
        }
        line(b"unset PATH");
        for variable in self.variables.iter().filter(|variable| is_identifier(&variable.name)) {
            line(&declaration(variable, how));
        }
        for text in &self.script {
            line(how.moved(text).as_bytes());
        }
        for (option, _) in PARSER {
            // What the script itself sets stays.
            let set = format!("shopt -s {option}");
            if !self.script.iter().any(|text| text.as_bytes() == set.as_bytes()) {
                let had = format!("[[ $__nixview_options == *:{option}:* ]]");
                line(format!("if {had}; then {set}; else shopt -u {option}; fi").as_bytes());
            }
        }
        line(b"unset __nixview_options");
        if continued {
            line(
                format!("{CONTINUED}=${CONTINUED}${{__nixview_continued:+:$__nixview_continued}}").as_bytes(),
            );
            line(b"unset __nixview_continued");
        }
        if !how.pure {
            line(b"PATH=${PATH-}:$__nixview_path");
            line(b"unset __nixview_path");
        }
        let dir = Path::new(&self.shell).parent().unwrap_or(Path::new("/"));
        line(&assigned("PATH", dir.as_os_str().as_bytes(), b":\"${PATH-}\""));
        line(&assigned("SHELL", self.shell.as_bytes(), b""));
        line(&assigned("BASH", self.shell.as_bytes(), b""));
        line(b"set +e");
        line(PROMPT);
        line(b"if [[ $(type -t runHook) == function ]]; then runHook shellHook; fi");
        line(format!("unset {UNTIL_HOOK}").as_bytes());
        line(b"shopt -u nullglob");
        line(b"unset TZ");
        if let Some((_, zone)) = how.caller.iter().find(|(name, _)| name == "TZ") {
            line(&assigned("export TZ", zone.as_bytes(), b""));
        }
        line(b"shopt -s execfail");
        if let Some(command) = command {
            line(command.as_bytes());
            line(b"exit");
        }
        rc
    }
}

/// Set in an interactive shell, unless the user wants their own.
const PROMPT: &[u8] = b"if [[ -n ${PS1-} && -z ${NIX_SHELL_PRESERVE_PROMPT-} ]]; then \
    PS1='\\n\\[\\033[1;32m\\][nixview:\\w]\\$\\[\\033[0m\\] '; fi";

impl Entering<'_> {
    /// What is there before the environment: the caller's variables, or of them what a pure one keeps, and those that
    /// nix-shell sets itself.
    fn base(&self) -> Pairs {
        let kept = |name: &OsStr| !self.pure || KEPT.iter().any(|kept| name == *kept);
        let mut all: Pairs = self.caller.iter().filter(|(name, _)| kept(name)).cloned().collect();
        let callers = |name: &str| self.caller.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let temporary =
            callers("TMPDIR").or_else(|| callers("XDG_RUNTIME_DIR")).unwrap_or_else(|| "/tmp".into());
        for name in TEMPORARY {
            put(&mut all, OsStr::new(name), temporary.clone());
        }
        if self.pure {
            // NixOS: else /etc/bashrc sources /etc/profile.
            put(&mut all, OsStr::new("__ETC_PROFILE_SOURCED"), "1".into());
        }
        put(&mut all, OsStr::new("NIX_BUILD_CORES"), self.cores.to_string().into());
        put(&mut all, OsStr::new("IN_NIX_SHELL"), if self.pure { "pure" } else { "impure" }.into());
        all
    }

    /// A value with the files where they are.
    fn moved(&self, text: &Text) -> OsString {
        let moved = text.replaced(FILES.as_bytes(), self.files.as_os_str().as_bytes());
        OsString::from_vec(moved.as_bytes().to_vec())
    }
}

/// `declare -x NAME='value'`
fn declaration(variable: &Variable, how: &Entering<'_>) -> Vec<u8> {
    let mut line = b"declare ".to_vec();
    if !variable.attributes.is_empty() {
        line.extend_from_slice(format!("-{} ", variable.attributes).as_bytes());
    }
    line.extend_from_slice(variable.name.as_bytes());
    line.push(b'=');
    if let Some(value) = &variable.value {
        quote(how.moved(value).as_bytes(), &mut line);
    }
    if let Some(items) = &variable.items {
        line.push(b'(');
        for (key, item) in items {
            line.push(b'[');
            quote(how.moved(key).as_bytes(), &mut line);
            line.extend_from_slice(b"]=");
            quote(how.moved(item).as_bytes(), &mut line);
            line.push(b' ');
        }
        line.push(b')');
    }
    line
}

fn assigned(name: &str, value: &[u8], more: &[u8]) -> Vec<u8> {
    let mut line = format!("{name}=").into_bytes();
    quote(value, &mut line);
    line.extend_from_slice(more);
    line
}

fn put(variables: &mut Pairs, name: &OsStr, value: OsString) {
    match variables.iter_mut().find(|(n, _)| n == name) {
        Some(variable) => variable.1 = value,
        None => variables.push((name.to_owned(), value)),
    }
}

fn join(parts: &[&OsStr]) -> OsString {
    parts.join(OsStr::new(":"))
}
