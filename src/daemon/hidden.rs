//! What a view must not be mounted over.
//!
//! A view on a directory hides that directory from the whole mount namespace, the view's own keeper and servers included. They
//! hold the store and Nix's database by descriptors, so that a view may lie over the parent of its store. What they and the
//! commands of nixview use by paths must stay in sight.

use std::path::{Path, PathBuf};

use super::error::Failure;
use super::keeper::Dirs;
use super::old_roots::DEFAULT_STORE;
use crate::store::Location;

/// Directories of ours in the state and the runtime directory. Others in there may be anybody's mount points.
const STATE: &[&str] = &["closures", "logs", "nix-state", "temporary", "uppers", "users", "verified"];
const RUNTIME: &[&str] = &["views"];

/// Refuses a directory to mount on (without symbolic links) that lies in the store or in Nix's state, or hides state of nixview.
///
/// # Errors
/// What it would hide, and what can be done.
pub(super) fn refuse(target: &Path, store: &Location, dirs: &Dirs) -> Result<(), Failure> {
    let real = resolved(&store.real);
    if target.starts_with(&real) {
        let hint = real.parent().map(|above| format!("mount it on {} or elsewhere", above.display()));
        return Err(refused(target, "the store", &real, hint));
    }
    // The host's own, also where the view is of another store, or of this one by another path.
    let of_host = resolved(Path::new(DEFAULT_STORE));
    if target.starts_with(&of_host) && of_host.is_dir() {
        let hint = of_host.parent().map(|above| format!("mount it on {} or elsewhere", above.display()));
        return Err(refused(target, "this host's store", &of_host, hint));
    }
    if let Some(state) = store.state.as_deref().map(resolved)
        && (target.starts_with(&state) || state.starts_with(target) && !real.starts_with(target))
    {
        return Err(refused(target, "Nix's state", &state, None));
    }
    for (dir, what, ours) in
        [(&dirs.state, "nixview's state", STATE), (&dirs.runtime, "nixview's runtime state", RUNTIME)]
    {
        let dir = resolved(dir);
        if dir.starts_with(target) || ours.iter().any(|name| target.starts_with(dir.join(name))) {
            return Err(refused(target, what, &dir, None));
        }
    }
    if Path::new("/proc").starts_with(target) {
        return Err(refused(target, "the kernel's files of processes", Path::new("/proc"), None));
    }
    Ok(())
}

fn refused(target: &Path, what: &str, hidden: &Path, hint: Option<String>) -> Failure {
    let how = match (target == hidden, target.starts_with(hidden)) {
        (true, _) => format!("it is the directory of {what}"),
        (false, true) => format!("it is in the directory of {what}, {}", hidden.display()),
        (false, false) => format!("the directory of {what}, {}, is in it", hidden.display()),
    };
    let why = format!("cannot mount on {}: {how}, which the view would hide", target.display());
    Failure::new(why).hint(hint.unwrap_or_else(|| "mount it on a directory elsewhere".to_owned()))
}

/// A path without symbolic links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    /// A host in a directory: its store, its state through a symbolic link, no runtime directory yet.
    fn host() -> (tempfile::TempDir, PathBuf, Location, Dirs) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for dir in ["nix/store/a", "nix/var/nix/db", "mnt", "data/state/uppers", "run"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("data"), root.join("lib")).unwrap();
        let dirs = Dirs { state: root.join("lib/state"), runtime: root.join("run/nixview") };
        let store = Location::open(&root.join("nix/store")).unwrap();
        (temp, root, store, dirs)
    }

    #[test]
    fn a_view_hides_neither_its_store_nor_state() {
        let (_temp, root, store, dirs) = host();
        let why = |target: &str| refuse(&root.join(target), &store, &dirs).unwrap_err().what;
        assert!(why("nix/store").contains("it is the directory of the store, which the view would hide"));
        for (target, what) in [
            ("nix/store/a", "is in the directory of the store"),
            ("nix/var/nix", "it is the directory of Nix's state"),
            ("nix/var/nix/db", "is in the directory of Nix's state"),
            ("nix/var", "the directory of Nix's state, "),
            ("data/state", "it is the directory of nixview's state"),
            ("data", "the directory of nixview's state, "),
            ("data/state/uppers/web", "is in the directory of nixview's state"),
            ("data/state/nix-state", "is in the directory of nixview's state"),
            ("run/nixview", "it is the directory of nixview's runtime state"),
            ("run", "the directory of nixview's runtime state, "),
            ("run/nixview/views", "is in the directory of nixview's runtime state"),
            ("", "nixview's state"),
        ] {
            assert!(why(target).contains(what), "{target}: {}", why(target));
        }
        assert!(refuse(Path::new("/"), &store, &dirs).is_err());
        if Path::new(DEFAULT_STORE).is_dir() {
            assert!(
                refuse(Path::new(DEFAULT_STORE), &store, &dirs).unwrap_err().what.contains("this host's")
            );
        }
        assert!(refuse(Path::new("/proc"), &store, &dirs).unwrap_err().what.contains("/proc"));
    }

    #[test]
    fn a_view_may_lie_over_the_parent_of_its_store_and_beside_state() {
        let (_temp, root, store, dirs) = host();
        for target in ["nix", "mnt", "nix/other", "run/nixview/web", "data/state/web", "data/states"] {
            refuse(&root.join(target), &store, &dirs).unwrap();
        }
    }
}
