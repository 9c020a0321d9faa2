//! Which store path a path on this machine leads to: `result`, profiles, GC roots, paths inside a store path.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::LockError;
use crate::store::{Location, StorePath};

/// The most links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To a store path, or to something inside it, which is the second: what is left of the way, links not resolved.
    Store(StorePath, PathBuf),
    /// To something that exists outside the store; every link in it is resolved.
    Outside(PathBuf),
    /// Nowhere.
    Missing,
}

/// Follows `path` a component at a time and stops at the first store path, which need not exist on this machine.
///
/// Links are read as Nix writes them: those of a store that lies elsewhere name the store directory (`/nix/store`), not
/// where it lies. Both are understood.
pub(super) fn follow(path: &Path, location: &Location) -> Result<Target, LockError> {
    let absolute = std::path::absolute(path).map_err(LockError::file("find", path))?;
    let stores = [Path::new(location.dir.as_str()).to_owned(), location.real.clone()];
    let mut todo: VecDeque<OsString> = VecDeque::new();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    prepend(&mut todo, &mut at, &absolute);
    while let Some(next) = todo.pop_front() {
        if next == ".." {
            at.pop();
            continue;
        }
        if stores.contains(&at)
            && let Ok(found) = StorePath::from_base_name(next.as_bytes())
        {
            return Ok(Target::Store(found, todo.into_iter().collect()));
        }
        at.push(&next);
        match std::fs::read_link(&at) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(LockError::Source {
                        given: path.display().to_string(),
                        problem: format!("more than {MAX_LINKS} links lead to it"),
                    });
                }
                at.pop();
                prepend(&mut todo, &mut at, &target);
            }
            // Not a link.
            Err(error) if error.raw_os_error() == Some(22) => {}
            // On the way into a store that lies elsewhere nothing needs to exist.
            Err(_) if stores.iter().any(|store| store.starts_with(&at)) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                // The magic links of /proc name what has no path: a pipe, a removed file.
                let is_there = std::fs::metadata(path).is_ok();
                return Ok(if is_there { Target::Outside(absolute) } else { Target::Missing });
            }
            Err(error) => return Err(LockError::file("look at", &at)(error)),
        }
    }
    Ok(Target::Outside(at))
}

/// Puts the components of `path` before those still to do; an absolute one starts again at the top.
fn prepend(todo: &mut VecDeque<OsString>, at: &mut PathBuf, path: &Path) {
    let components: Vec<Component<'_>> = path.components().collect();
    for component in components.into_iter().rev() {
        match component {
            Component::RootDir | Component::Prefix(_) => *at = PathBuf::from("/"),
            Component::CurDir => {}
            Component::ParentDir => todo.push_front("..".into()),
            Component::Normal(name) => todo.push_front(name.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::StoreDir;

    const BASE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-env";

    fn store(root: &Path) -> Location {
        let real = root.join("nix/store");
        std::fs::create_dir_all(real.join(BASE).join("bin")).unwrap();
        Location { dir: StoreDir::default(), real, state: None }
    }

    #[test]
    fn chains_of_links_lead_to_the_store_wherever_it_lies() {
        let root = tempfile::tempdir().unwrap();
        let location = store(root.path());
        let place = |name: &str| root.path().join(name);
        symlink(format!("/nix/store/{BASE}"), place("profile-1-link")).unwrap();
        symlink("profile-1-link", place("profile")).unwrap();
        symlink(place("profile"), place("result")).unwrap();
        symlink("result/bin/sh", place("sh")).unwrap();
        symlink(location.real.join(BASE), place("physical")).unwrap();
        symlink(".", place("here")).unwrap();
        for name in
            ["profile", "result", "physical", "result/bin/x", "sh", "here/here/result", "nix/../result"]
        {
            let found = follow(&place(name), &location).unwrap();
            let Target::Store(found, rest) = found else { panic!("{name}: {found:?}") };
            assert_eq!(found, BASE.parse().unwrap(), "{name}");
            let inside =
                if name == "sh" { "bin/sh" } else { name.split_once("result/").map_or("", |(_, rest)| rest) };
            assert_eq!(rest, Path::new(inside), "{name}");
        }
        assert_eq!(
            follow(Path::new(&format!("/nix/store/{BASE}/../x")), &location).unwrap(),
            Target::Store(BASE.parse().unwrap(), PathBuf::from("../x")),
            "the first store path on the way is meant"
        );
    }

    #[test]
    fn what_does_not_lead_to_the_store_is_told() {
        let root = tempfile::tempdir().unwrap();
        let location = store(root.path());
        let place = |name: &str| root.path().join(name);
        symlink("loop", place("loop")).unwrap();
        symlink("missing", place("dangling")).unwrap();
        std::fs::write(place("file"), "").unwrap();
        assert!(follow(&place("loop"), &location).unwrap_err().to_string().contains("40 links"));
        assert_eq!(follow(&place("dangling"), &location).unwrap(), Target::Missing);
        assert_eq!(follow(&place("file/x"), &location).unwrap(), Target::Missing);
        let file = std::fs::canonicalize(place("file")).unwrap();
        assert_eq!(follow(&place("file"), &location).unwrap(), Target::Outside(file));
        assert!(matches!(follow(&location.real, &location).unwrap(), Target::Outside(_)));
        assert!(matches!(follow(&location.real.join(".links/x"), &location).unwrap(), Target::Missing));
    }
}
