//! The environment variables of a command in a view.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What `pure` keeps of the caller's environment.
const KEPT: &[&str] = &["TERM", "HOME", "USER"];

/// The environment of a command: the caller's (of a `pure` one, `TERM`, `HOME` and `USER` alone), then `set` over it,
/// with the `bin` directories in front of `PATH` (instead of it if `pure`).
#[must_use]
pub fn environment(
    caller: impl IntoIterator<Item = (OsString, OsString)>,
    set: &[(OsString, OsString)],
    bin: &[PathBuf],
    pure: bool,
) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> =
        caller.into_iter().filter(|(name, _)| !pure || KEPT.iter().any(|k| name == k)).collect();
    for (name, value) in set {
        put(&mut variables, name, value.clone());
    }
    let inherited = variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let parts = bin.iter().map(|dir| dir.as_os_str()).chain(inherited.as_deref().filter(|p| !p.is_empty()));
    let path = parts.collect::<Vec<&OsStr>>().join(OsStr::from_bytes(b":"));
    put(&mut variables, OsStr::new("PATH"), path);
    variables
}

fn put(variables: &mut Vec<(OsString, OsString)>, name: &OsStr, value: OsString) {
    match variables.iter_mut().find(|(n, _)| n == name) {
        Some(variable) => variable.1 = value,
        None => variables.push((name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect()
    }

    #[test]
    fn programs_of_the_roots_come_first() {
        let caller = pairs(&[("PATH", "/usr/bin"), ("EDITOR", "vi")]);
        let bin = [PathBuf::from("/nix/store/a/bin"), PathBuf::from("/nix/store/b/bin")];
        let got = environment(caller, &[], &bin, false);
        assert_eq!(got, pairs(&[("PATH", "/nix/store/a/bin:/nix/store/b/bin:/usr/bin"), ("EDITOR", "vi")]));
    }

    #[test]
    fn a_pure_environment_has_nothing_of_the_host() {
        let caller = pairs(&[("PATH", "/usr/bin"), ("EDITOR", "vi"), ("TERM", "xterm"), ("HOME", "/root")]);
        let got = environment(caller, &pairs(&[("CC", "gcc")]), &[PathBuf::from("/nix/store/a/bin")], true);
        let want = [("TERM", "xterm"), ("HOME", "/root"), ("CC", "gcc"), ("PATH", "/nix/store/a/bin")];
        assert_eq!(got, pairs(&want));
    }

    #[test]
    fn no_empty_part_of_path_means_the_working_directory() {
        let got = environment(pairs(&[("PATH", "")]), &[], &[PathBuf::from("/nix/store/a/bin")], false);
        assert_eq!(got, pairs(&[("PATH", "/nix/store/a/bin")]));
    }
}
