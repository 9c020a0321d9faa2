//! Startup files of an interactive shell: the user's own first, then the environment's programs in front of `PATH`.
//!
//! A user's startup file often puts directories in front of `PATH` (pyenv, cargo, conda). nix-shell sources it before it
//! sets its own `PATH`; so do these. bash, zsh, fish and shells that read `ENV` each have their way.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::environment::Files;
use crate::lock::environment::quoted;

/// How a shell is started.
#[derive(Debug)]
pub struct Startup {
    /// Arguments that come first.
    pub arguments: Vec<OsString>,
    /// Variables.
    pub environment: Vec<(OsString, OsString)>,
    /// The directory of the files, to be kept until the shell ends.
    pub files: Option<Files>,
}

type Variables = Vec<(OsString, OsString)>;

impl Startup {
    /// Of `shell`, whose variables are `environment`; a `pure` one reads no file of the user's.
    ///
    /// # Errors
    /// If the files cannot be made.
    pub fn of(shell: &OsStr, bin: &[PathBuf], environment: Variables, pure: bool) -> std::io::Result<Self> {
        let name = Path::new(shell).file_name().unwrap_or_default();
        match name.to_str() {
            Some("bash") => Self::bash(bin, environment, pure),
            Some("zsh") => Self::zsh(bin, environment, pure),
            Some("fish") => Ok(Self::fish(bin, environment, pure)),
            Some("sh" | "dash" | "ash" | "ksh" | "mksh") => Self::posix(bin, environment, pure),
            _ => Ok(Self { arguments: Vec::new(), environment, files: None }),
        }
    }

    fn bash(bin: &[PathBuf], environment: Variables, pure: bool) -> std::io::Result<Self> {
        let files = Files::make(&[])?;
        let users = if pure { "" } else { "if [[ -e ~/.bashrc ]]; then source ~/.bashrc; fi\n" };
        files.write("rc", &[users.as_bytes(), &path_in_front(bin)].concat())?;
        let arguments = vec!["--rcfile".into(), files.path().join("rc").into_os_string()];
        Ok(Self { arguments, environment, files: Some(files) })
    }

    /// zsh reads `.zshenv` and `.zshrc` in `ZDOTDIR`.
    fn zsh(bin: &[PathBuf], mut environment: Variables, pure: bool) -> std::io::Result<Self> {
        let files = Files::make(&[])?;
        let own = quoted(files.path().as_os_str().as_bytes());
        let users = environment.iter().find(|(name, _)| name == "ZDOTDIR").map(|(_, value)| value.clone());
        // What the user had, or nothing.
        let back = users.map_or_else(
            || b"unset ZDOTDIR\n".to_vec(),
            |users| [b"ZDOTDIR=", &quoted(users.as_bytes())[..], b"\n"].concat(),
        );
        let source = |name: &str| match pure {
            true => Vec::new(),
            false => format!(
                "if [[ -e ${{ZDOTDIR:-$HOME}}/{name} ]]; then source ${{ZDOTDIR:-$HOME}}/{name}; fi\n"
            )
            .into_bytes(),
        };
        let zshenv = [&back[..], &source(".zshenv"), b"export ZDOTDIR=", &own, b"\n"].concat();
        files.write(".zshenv", &zshenv)?;
        files.write(".zshrc", &[&back[..], &source(".zshrc"), &path_in_front(bin)].concat())?;
        environment.retain(|(name, _)| name != "ZDOTDIR");
        environment.push(("ZDOTDIR".into(), files.path().as_os_str().to_owned()));
        Ok(Self { arguments: Vec::new(), environment, files: Some(files) })
    }

    /// fish runs a command after its own files.
    fn fish(bin: &[PathBuf], environment: Variables, pure: bool) -> Self {
        let mut command = b"set -gx PATH".to_vec();
        for dir in bin {
            command.push(b' ');
            command.extend_from_slice(&fish_quoted(dir.as_os_str().as_bytes()));
        }
        command.extend_from_slice(b" $PATH");
        let mut arguments = if pure { vec!["--no-config".into()] } else { Vec::new() };
        arguments.extend(["--init-command".into(), OsString::from_vec(command)]);
        Self { arguments, environment, files: None }
    }

    /// An interactive POSIX shell reads the file that `ENV` names.
    fn posix(bin: &[PathBuf], mut environment: Variables, pure: bool) -> std::io::Result<Self> {
        let files = Files::make(&[])?;
        let users = environment.iter().find(|(name, _)| name == "ENV").map(|(_, value)| value.clone());
        let mut rc = Vec::new();
        if let Some(users) = users.filter(|users| !pure && !users.is_empty()) {
            // ENV is expanded by the shell itself; `$HOME/.shrc` is usual.
            rc.extend_from_slice(b"ENV=");
            rc.extend_from_slice(&quoted(users.as_bytes()));
            rc.extend_from_slice(b"\neval \"if [ -r \\\"$ENV\\\" ]; then . \\\"$ENV\\\"; fi\"\n");
        } else {
            rc.extend_from_slice(b"unset ENV\n");
        }
        rc.extend_from_slice(&assignment(bin, b"$PATH"));
        files.write("rc", &rc)?;
        environment.retain(|(name, _)| name != "ENV");
        environment.push(("ENV".into(), files.path().join("rc").into_os_string()));
        Ok(Self { arguments: Vec::new(), environment, files: Some(files) })
    }
}

/// The directories as they stand in `PATH`, each with its colon.
fn front(bin: &[PathBuf]) -> Vec<u8> {
    bin.iter().flat_map(|dir| [dir.as_os_str().as_bytes(), b":"].concat()).collect()
}

fn assignment(bin: &[PathBuf], rest: &[u8]) -> Vec<u8> {
    [b"PATH=", &quoted(&front(bin))[..], b"\"", rest, b"\"\n"].concat()
}

/// For bash and zsh: the directories in front of `PATH`, and where they stood in it no more.
fn path_in_front(bin: &[PathBuf]) -> Vec<u8> {
    let front = quoted(&front(bin));
    let taken = [b"__nixview_front=", &front[..], b"\n"].concat();
    [&taken[..], b"PATH=$__nixview_front${PATH//\"$__nixview_front\"/}\nunset __nixview_front\n"].concat()
}

/// A word of fish, which knows two escapes in single quotes.
fn fish_quoted(word: &[u8]) -> Vec<u8> {
    let escaped = word.iter().flat_map(|byte| match byte {
        b'\'' | b'\\' => vec![b'\\', *byte],
        other => vec![*other],
    });
    [b'\''].into_iter().chain(escaped).chain([b'\'']).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

    use std::process::{Command, Stdio};

    use super::*;
    use crate::skip::skip;

    /// Starts each shell that this machine has, with a startup file that puts another directory in front.
    #[test]
    fn the_users_startup_file_does_not_come_before_the_environment() {
        let home = tempfile::tempdir().unwrap();
        for name in [".bashrc", ".zshrc", "env"] {
            std::fs::write(home.path().join(name), "PATH=/users/bin:$PATH\n").unwrap();
        }
        std::fs::write(home.path().join(".zshenv"), "FROM_ZSHENV=1\n").unwrap();
        std::fs::create_dir_all(home.path().join(".config/fish")).unwrap();
        std::fs::write(home.path().join(".config/fish/config.fish"), "set -gx PATH /users/bin $PATH\n")
            .unwrap();
        let bin = [PathBuf::from("/nix/store/a b/bin"), PathBuf::from("/nix/store/it's/bin")];
        for (shell, pure) in ["bash", "dash", "zsh", "fish"].into_iter().flat_map(|s| [(s, false), (s, true)])
        {
            let variables: Vec<(OsString, OsString)> = vec![
                ("HOME".into(), home.path().into()),
                ("TERM".into(), "dumb".into()),
                ("PATH".into(), "/nix/store/a b/bin:/nix/store/it's/bin:/usr/bin:/bin".into()),
                ("ENV".into(), "$HOME/env".into()),
            ];
            let startup = Startup::of(OsStr::new(shell), &bin, variables, pure).unwrap();
            let mut command = Command::new(shell);
            command.args(&startup.arguments).arg("-i").env_clear().envs(startup.environment.iter().cloned());
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let Ok(mut child) = child else {
                skip!("there is no {shell}");
                continue;
            };
            let asked = if shell == "fish" {
                "echo \"<$(string join : $PATH)>\"; exit\n"
            } else {
                "echo \"<$PATH>\"; exit\n"
            };
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), asked.as_bytes()).unwrap();
            let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            let users = if pure { "" } else { "/users/bin:" };
            let wanted = format!("</nix/store/a b/bin:/nix/store/it's/bin:{users}");
            assert!(said.contains(&wanted), "{shell}, pure {pure}: {said}");
        }
    }
}
