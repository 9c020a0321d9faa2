//! What a lookup on the search path (`<name>`, `<name/below>`) may find or miss outside the store.
//!
//! `builtins.tryEval <name>` tells whether a name is there, and reads nothing. So the names in each directory of the search
//! path count, with all below them; names in the store cannot change.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::digest::{Digest, Fields};
use super::link::{Target, follow};
use super::surroundings::listing;
use crate::store::Location;

/// The most names of the search path that are looked at.
const MAX_NAMES: usize = 20_000;

/// The digest of the names on the search path, or why they are not known. `without` (the lock itself) does not count.
pub(super) fn digest<'a>(
    entries: impl Iterator<Item = &'a Path>,
    location: &Location,
    without: Option<&Path>,
) -> Result<Digest, String> {
    let mut names = Names {
        fields: Fields::new("nixview search path 1"),
        location,
        open: Vec::new(),
        seen: HashSet::new(),
        left: MAX_NAMES,
    };
    for entry in entries {
        names.lead(entry)?;
    }
    while let Some(dir) = names.open.pop() {
        names.fields.add(dir.as_os_str().as_bytes());
        for (name, kind, found) in
            listing(&dir, without).map_err(|why| format!("on the search path, {why}"))?
        {
            names.left = names.left.checked_sub(1).ok_or_else(|| {
                format!(
                    "its search path has more than {MAX_NAMES} names outside the store (NIX_PATH, -I; last in {})",
                    dir.display()
                )
            })?;
            names.fields.add(name.as_bytes());
            names.fields.add(&[kind]);
            if found.is_symlink() || found.is_dir() {
                names.lead(&dir.join(name))?;
            }
        }
    }
    Ok(names.fields.finish())
}

struct Names<'a> {
    fields: Fields,
    location: &'a Location,
    /// Directories to list, with every link resolved.
    open: Vec<PathBuf>,
    seen: HashSet<PathBuf>,
    left: usize,
}

impl Names<'_> {
    /// Adds where a path leads; a directory outside the store is listed later, once.
    fn lead(&mut self, path: &Path) -> Result<(), String> {
        let unknown =
            || format!("its search path leads through {}, which cannot be followed", path.display());
        match follow(path, self.location).map_err(|_| unknown())? {
            Target::Missing => self.fields.add(b"missing"),
            Target::Store(_, rest) if rest.components().any(|c| c == Component::ParentDir) => {
                return Err(unknown());
            }
            Target::Store(at, rest) => {
                self.fields.add(b"store");
                self.fields.add(at.as_str().as_bytes());
                self.fields.add(rest.as_os_str().as_bytes());
            }
            Target::Outside(at) => {
                self.fields.add(b"outside");
                self.fields.add(at.as_os_str().as_bytes());
                // What the store holds comes and goes all the time.
                if at == self.location.real {
                    return Err(unknown());
                }
                if at.is_dir() && self.seen.insert(at.clone()) {
                    self.open.push(at);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::StoreDir;

    #[test]
    fn a_name_that_appears_on_the_search_path_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let at = |name: &str| root.join(name);
        let location = Location { dir: StoreDir::default(), real: at("store"), state: None };
        for dir in ["store/11111111111111111111111111111111-lib", "np/sub", "beside", "other"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        symlink("../beside", at("np/link")).unwrap();
        symlink(".", at("np/loop")).unwrap();
        symlink("../store/11111111111111111111111111111111-lib", at("np/lib")).unwrap();
        let entries = [at("np"), at("later"), at("store/11111111111111111111111111111111-lib")];
        let now =
            || digest(entries.iter().map(PathBuf::as_path), &location, Some(&at("np/env.lock"))).unwrap();
        let mut before = now();
        assert_eq!(before, now(), "the same each time");
        for (name, counts) in [
            ("np/overrides", true),
            ("np/sub/overrides", true),
            ("beside/overrides", true),
            ("np/env.lock", false),
            ("other/overrides", false),
            ("store/11111111111111111111111111111111-lib/x", false),
            ("later", true),
        ] {
            fs::write(at(name), "").unwrap();
            let after = now();
            assert_eq!(before != after, counts, "{name}");
            before = after;
        }
        for n in 0..=MAX_NAMES {
            fs::write(at("other").join(n.to_string()), "").unwrap();
        }
        let many = digest([at("other").as_path()].into_iter(), &location, None).unwrap_err();
        assert!(many.contains("search path has more than"), "{many}");
    }
}
