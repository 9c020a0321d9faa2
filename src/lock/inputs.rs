//! The files that an expression stands among: which they are, their digest, and a copy of them.
//!
//! The digest is SHA-256 over length-prefixed fields ([`super::digest::Fields`]): the text `nixview inputs 1`, then for
//! each file or link, sorted by its path relative to the base (component by component, bytewise): that path, one of
//! `file`, `executable`, `link`, and the SHA-256 of the contents or the link's target. Directories count through what is
//! in them. Sockets, devices and FIFOs are no inputs. Which names there are at all counts beside it
//! ([`super::surroundings`]).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sys::open::open_input;

use super::digest::{Digest, Fields};
use super::error::LockError;
use super::source::{Inputs, InputsFrom};
use super::surroundings::Surroundings;

/// The most files that are hashed; a folder with more is not remembered.
pub const MAX_FILES: usize = 20_000;

/// The most bytes that are hashed.
pub const MAX_BYTES: u64 = 512 << 20;

/// Files and links below one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InputTree {
    base: PathBuf,
    paths: Vec<PathBuf>,
    /// Directories that are inputs with all that is in them, which may be nothing.
    directories: Vec<PathBuf>,
    from: InputsFrom,
    /// The folder, or what is declared.
    tops: Vec<PathBuf>,
    without: Option<PathBuf>,
    /// A link leads to the folder of the expression.
    is_linked: bool,
}

/// Why the inputs of an expression are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the folder of the expression has more than {MAX_FILES} files or {MAX_BYTES} bytes; name what it needs with --input"
)]
pub(super) struct TooMany;

impl InputTree {
    /// The inputs of the expression in `file`: those that are `declared`, else what git tracks in its folder, else all
    /// that is in its folder. `without` (the lock itself) is none, wherever it lies.
    pub(super) fn find(
        file: &Path,
        declared: &[PathBuf],
        without: Option<&Path>,
    ) -> Result<Result<Self, TooMany>, LockError> {
        let given = std::path::absolute(file).map_err(LockError::file("find", file))?;
        let file = real_folder(file)?;
        let is_linked = given.parent() != file.parent();
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        let without = without.map(real_folder).transpose()?;
        let mut found = Walk { paths: BTreeMap::new(), directories: Vec::new(), without };
        let tree = |base: PathBuf, from, tops: Vec<PathBuf>| Self {
            base,
            paths: Vec::new(),
            directories: Vec::new(),
            from,
            tops,
            without: None,
            is_linked,
        };
        let tree = if declared.is_empty() {
            match tracked(&folder) {
                Some(paths) => {
                    found.one(&folder, &file)?;
                    for path in paths {
                        found.one(&folder, &folder.join(path))?;
                    }
                    tree(folder.clone(), InputsFrom::Git, vec![folder])
                }
                None => {
                    found.all(&folder, &folder)?;
                    tree(folder.clone(), InputsFrom::Folder, vec![folder])
                }
            }
        } else {
            let mut all = vec![file.clone()];
            for path in declared {
                fs::symlink_metadata(path).map_err(LockError::file("read the input", path))?;
                all.push(real_folder(path)?);
            }
            let base = common_folder(&all, &folder);
            for path in &all {
                found.all(&base, path)?;
            }
            tree(base, InputsFrom::Declared, all)
        };
        Ok(found.finish(tree))
    }

    /// All that lies in a folder, if that is there.
    pub(super) fn folder(dir: &Path) -> Result<Option<Result<Self, TooMany>>, LockError> {
        if !dir.is_dir() {
            return Ok(None);
        }
        let mut found = Walk { paths: BTreeMap::new(), directories: Vec::new(), without: None };
        found.all(dir, dir)?;
        let tree = Self {
            base: dir.to_owned(),
            paths: Vec::new(),
            directories: Vec::new(),
            from: InputsFrom::Folder,
            tops: vec![dir.to_owned()],
            without: None,
            is_linked: false,
        };
        Ok(Some(found.finish(tree)))
    }

    /// The last component of the base, which is the name of what `src = ./.` makes.
    pub(super) fn base_name(&self) -> &OsStr {
        self.base.file_name().unwrap_or(OsStr::new("root"))
    }

    /// A path below the base, relative to it.
    pub(super) fn relative(&self, file: &Path) -> Result<PathBuf, LockError> {
        let file = real_folder(file)?;
        let inside = file.strip_prefix(&self.base).map_err(|_| LockError::Source {
            given: file.display().to_string(),
            problem: format!("it is not in {}", self.base.display()),
        })?;
        Ok(inside.to_owned())
    }

    /// The number of files and their digest.
    pub(super) fn hash(&self) -> Result<Inputs, LockError> {
        let mut fields = Fields::new("nixview inputs 1");
        for path in &self.paths {
            let full = self.base.join(path);
            let failed = |error| LockError::file("read the input", &full)(error);
            fields.add(path.as_os_str().as_bytes());
            let found = fs::symlink_metadata(&full).map_err(failed)?;
            if found.is_symlink() {
                fields.add(b"link");
                fields.add(fs::read_link(&full).map_err(failed)?.as_os_str().as_bytes());
            } else {
                fields.add(if found.mode() & 0o100 == 0 { b"file" } else { b"executable" });
                let (digest, _) =
                    Digest::of_reader(&mut open_input(&full).map_err(failed)?).map_err(failed)?;
                fields.add(digest.as_bytes());
            }
        }
        Ok(Inputs { count: self.paths.len() as u64, digest: fields.finish(), from: self.from })
    }

    /// Copies them below `parent`, into a directory with the name of the base; the copy, as a tree of its own.
    pub(super) fn copy(&self, parent: &Path) -> io::Result<Self> {
        let base = parent.join(self.base_name());
        fs::create_dir_all(&base)?;
        for directory in &self.directories {
            fs::create_dir_all(base.join(directory))?;
        }
        for path in &self.paths {
            let (from, to) = (self.base.join(path), base.join(path));
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir)?;
            }
            let found = fs::symlink_metadata(&from)?;
            if found.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
            } else {
                fs::copy(&from, &to)?;
                let mode = if found.mode() & 0o100 == 0 { 0o600 } else { 0o700 };
                fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
            }
        }
        Ok(Self { base, ..self.clone() })
    }

    /// What may be seen beside their contents.
    pub(super) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            base: &self.base,
            tops: &self.tops,
            inputs: &self.paths,
            without: self.without.as_deref(),
            is_linked: self.is_linked,
        }
    }

    /// The directory that holds them.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }
}

/// Collects files with their sizes.
struct Walk {
    paths: BTreeMap<PathBuf, u64>,
    directories: Vec<PathBuf>,
    without: Option<PathBuf>,
}

impl Walk {
    /// The tree with what was found, if that is not too much.
    fn finish(self, tree: InputTree) -> Result<InputTree, TooMany> {
        if self.paths.len() > MAX_FILES || self.paths.values().sum::<u64>() > MAX_BYTES {
            return Err(TooMany);
        }
        let Self { paths, directories, without } = self;
        Ok(InputTree { paths: paths.into_keys().collect(), directories, without, ..tree })
    }

    /// Adds a file or link below `base`; what is missing (tracked, but removed) or is neither is none.
    fn one(&mut self, base: &Path, path: &Path) -> Result<(), LockError> {
        if self.without.as_deref() == Some(path) {
            return Ok(());
        }
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(LockError::file("read the input", path)(error)),
        };
        if (found.is_file() || found.is_symlink())
            && let Ok(relative) = path.strip_prefix(base)
        {
            self.paths.insert(relative.to_owned(), if found.is_file() { found.len() } else { 0 });
        }
        Ok(())
    }

    /// Adds all below `path`, but what git keeps for itself; stops soon after there is too much.
    fn all(&mut self, base: &Path, path: &Path) -> Result<(), LockError> {
        let mut open = vec![path.to_owned()];
        while let Some(path) = open.pop() {
            let failed = |error| LockError::file("read the input", &path)(error);
            if !fs::symlink_metadata(&path).map_err(failed)?.is_dir() {
                self.one(base, &path)?;
            } else if path.file_name() != Some(OsStr::new(".git")) {
                if let Ok(relative) = path.strip_prefix(base) {
                    self.directories.push(relative.to_owned());
                }
                for entry in fs::read_dir(&path).map_err(failed)? {
                    open.push(entry.map_err(failed)?.path());
                }
            }
            if self.paths.len() > MAX_FILES || open.len() > 10 * MAX_FILES {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The path with its folder's links resolved; the file itself may be a link.
fn real_folder(path: &Path) -> Result<PathBuf, LockError> {
    let failed = |error| LockError::file("find", path)(error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(folder), Some(name))
            if !matches!(absolute.components().next_back(), Some(Component::ParentDir)) =>
        {
            Ok(fs::canonicalize(folder).map_err(failed)?.join(name))
        }
        _ => fs::canonicalize(&absolute).map_err(failed),
    }
}

/// The deepest directory that holds all of `paths`; the first is a file in `folder`.
fn common_folder(paths: &[PathBuf], folder: &Path) -> PathBuf {
    let mut base = folder.to_owned();
    for path in paths {
        while !path.starts_with(&base) {
            base.pop();
        }
    }
    base
}

/// What git tracks below a folder, relative to it; `None` if that is in no work tree or git cannot tell.
fn tracked(folder: &Path) -> Option<Vec<PathBuf>> {
    let answer = Command::new("git")
        .arg("-C")
        .arg(folder)
        // Nothing of the repository's own configuration may run a program.
        .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
        .args(["ls-files", "-z", "--cached", "--recurse-submodules", "--", "."])
        // The folder's own repository is meant, also within a hook of another.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .output();
    let answer = match answer {
        Ok(answer) if answer.status.success() => answer.stdout,
        Ok(_) => return None,
        Err(error) => {
            tracing::debug!(%error, "git cannot be asked which files are tracked");
            return None;
        }
    };
    let names = answer.split(|b| *b == 0).filter(|name| !name.is_empty());
    let paths: Vec<PathBuf> = names.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect();
    if paths.is_empty() { None } else { Some(paths) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

    use super::*;
    use crate::skip::skip;

    fn write(root: &Path, name: &str, text: &str) -> PathBuf {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        file
    }

    fn find(file: &Path, declared: &[PathBuf]) -> InputTree {
        InputTree::find(file, declared, None).unwrap().unwrap()
    }

    fn names(tree: &InputTree) -> Vec<&str> {
        tree.paths.iter().map(|p| p.to_str().unwrap()).collect()
    }

    /// A repository without anybody's configuration; false if there is no git here.
    fn git(folder: &Path, arguments: &[&str]) -> bool {
        let run = Command::new("git")
            .current_dir(folder)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        run.is_ok_and(|status| status.success())
    }

    #[test]
    fn a_folder_counts_with_all_that_decides() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "e/default.nix", "1");
        let other = write(dir.path(), "e/sub/b", "2");
        write(dir.path(), "outside", "3");
        symlink("sub/b", dir.path().join("e/link")).unwrap();
        let tree = find(&file, &[]);
        assert_eq!(names(&tree), ["default.nix", "link", "sub/b"]);
        let first = tree.hash().unwrap();
        assert_eq!((first.count, first.from), (3, InputsFrom::Folder));
        assert_eq!(find(&file, &[]).hash().unwrap(), first, "the same each time");
        let mut seen = vec![first.digest];
        let mut changed = || {
            let digest = find(&file, &[]).hash().unwrap().digest;
            assert!(!seen.contains(&digest), "a change was not seen");
            seen.push(digest);
        };
        fs::write(&other, "4").unwrap();
        changed();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
        changed();
        fs::rename(&other, dir.path().join("e/sub/c")).unwrap();
        changed();
        fs::remove_file(dir.path().join("e/link")).unwrap();
        symlink("sub/c", dir.path().join("e/link")).unwrap();
        changed();
        write(dir.path(), "e/new", "");
        changed();
        fs::write(dir.path().join("outside"), "5").unwrap();
        assert_eq!(Some(&find(&file, &[]).hash().unwrap().digest), seen.last());
    }

    #[test]
    fn what_git_does_not_track_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "repo/env/shell.nix", "1");
        let tracked = write(dir.path(), "repo/env/a\nb", "2");
        write(dir.path(), "repo/elsewhere", "2");
        let repo = dir.path().join("repo");
        if !git(&repo, &["init", "-q"]) {
            skip!("there is no git");
            return;
        }
        assert!(git(&repo, &["add", "."]));
        let untracked = write(dir.path(), "repo/env/result.txt", "3");
        let tree = find(&file, &[]);
        assert_eq!((names(&tree), tree.from), (vec!["a\nb", "shell.nix"], InputsFrom::Git));
        let first = tree.hash().unwrap();
        fs::write(&untracked, "4").unwrap();
        assert_eq!(find(&file, &[]).hash().unwrap(), first);
        fs::write(&tracked, "uncommitted").unwrap();
        assert_ne!(find(&file, &[]).hash().unwrap().digest, first.digest);
        fs::remove_file(&tracked).unwrap();
        assert_eq!(names(&find(&file, &[])), ["shell.nix"], "tracked, but removed");
        let fresh = write(dir.path(), "repo/env/fresh.nix", "5");
        assert!(names(&find(&fresh, &[])).contains(&"fresh.nix"), "the expression itself always counts");
    }

    #[test]
    fn declared_inputs_count_alone_wherever_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "p/env/shell.nix", "1");
        write(dir.path(), "p/env/unused", "2");
        write(dir.path(), "p/common/a/b.nix", "3");
        let tree = find(&file, &[dir.path().join("p/common")]);
        assert_eq!(
            (names(&tree), tree.base_name()),
            (vec!["common/a/b.nix", "env/shell.nix"], OsStr::new("p"))
        );
        assert_eq!(tree.relative(&file).unwrap(), Path::new("env/shell.nix"));
        let missing = InputTree::find(&file, &[dir.path().join("gone")], None).unwrap_err().to_string();
        assert!(missing.contains("gone"), "{missing}");
    }

    #[test]
    fn the_lock_itself_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "shell.nix", "1");
        let lock = write(dir.path(), "env.lock", "{}");
        let tree = InputTree::find(&file, &[], Some(&lock)).unwrap().unwrap();
        assert_eq!(names(&tree), ["shell.nix"]);
    }

    #[test]
    fn a_copy_has_the_same_digest_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "e/shell.nix", "1");
        let run = write(dir.path(), "e/x/run", "2");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o555)).unwrap();
        symlink("/etc/passwd", dir.path().join("e/x/link")).unwrap();
        fs::create_dir_all(dir.path().join("e/empty/below")).unwrap();
        let tree = find(&file, &[]);
        let copy = tree.copy(&dir.path().join("copy")).unwrap();
        assert_eq!(copy.hash().unwrap(), tree.hash().unwrap());
        assert_eq!(copy.base(), dir.path().join("copy/e"));
        let mut walked = find(&copy.base().join("shell.nix"), &[]);
        walked.from = tree.from;
        assert_eq!(walked.paths, tree.paths);
        assert!(copy.base().join("empty/below").is_dir(), "what lists the folder sees the same");
    }
}
