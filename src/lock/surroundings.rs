//! What an evaluation may see beside the contents of its inputs: which names stand among them, and which places are empty.
//!
//! A listing (`readDir`, `src = ./.`) changes with every name, and `pathExists` with a file that appears. So all names count
//! that stand where the expression stands, also those of directories and of files that git does not track, and of these
//! when they were changed. They are of this machine and this moment: nothing of it is in a lock.
//!
//! `pathExists` of a place elsewhere is answered `false` in Nix's restricted mode, without an error. So the text of the
//! inputs is searched for it, and that of Nix files for each path with `..`: where the place is written out, its being empty
//! counts; anything else is a doubt. It is undecidable what a function of a library does with a path without `..`.

use std::collections::BTreeSet;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::digest::{Digest, Fields};

/// The most names that are looked at.
pub(super) const MAX_NAMES: usize = 200_000;

/// Words by which an expression asks whether something is there: Nix's own, and those of Nixpkgs' library.
const ASKING: &[&str] = &[
    "pathExists",
    "pathIsDirectory",
    "pathIsRegularFile",
    "pathType",
    "locateDominatingFile",
    "maybeMissing",
    "findFile",
];

/// Names where inputs are.
pub(super) struct Surroundings<'a> {
    /// What all of it is relative to.
    pub(super) base: &'a Path,
    /// Places that count with all that is in them.
    pub(super) tops: &'a [PathBuf],
    /// Files whose contents count already, relative to the base.
    pub(super) inputs: &'a [PathBuf],
    /// The lock itself, which does not count.
    pub(super) without: Option<&'a Path>,
    /// The expression was given by way of a link: what is above it is not what is above the inputs.
    pub(super) is_linked: bool,
}

impl Surroundings<'_> {
    /// The digest of all names, or why they are not known.
    pub(super) fn digest(&self) -> Result<Digest, String> {
        let mut names = Names { fields: Fields::new("nixview surroundings 1"), left: MAX_NAMES };
        let inputs: BTreeSet<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        let mut above = BTreeSet::new();
        for top in self.tops {
            above.extend(top.ancestors().skip(1).take_while(|dir| dir.starts_with(self.base)));
        }
        for dir in above.iter().filter(|dir| !self.tops.iter().any(|top| dir.starts_with(top))) {
            for (name, kind, _) in listing(dir, self.without)? {
                names.add(&dir.join(name), kind, None)?;
            }
        }
        let mut tops: Vec<&PathBuf> = self.tops.iter().collect();
        tops.sort_unstable();
        for top in tops {
            let mut open = if top.is_dir() { vec![top.clone()] } else { Vec::new() };
            while let Some(dir) = open.pop() {
                for (name, kind, found) in listing(&dir, self.without)? {
                    let path = dir.join(&name);
                    // What git keeps for itself changes all the time.
                    let is_git = name == ".git";
                    let relative = path.strip_prefix(self.base).unwrap_or(&path);
                    let counts_already = found.is_dir() || is_git || inputs.contains(relative);
                    names.add(&path, kind, (!counts_already).then_some(&found))?;
                    if found.is_dir() && !is_git {
                        open.push(path);
                    }
                }
            }
        }
        Ok(names.fields.finish())
    }

    /// True if the names of the surroundings tell whether something is at `place`.
    fn holds(&self, place: &Path) -> bool {
        self.tops.iter().any(|top| is_below(place, top))
    }

    /// The places beside the inputs that they ask for, all of them empty; or why they are not known.
    pub(super) fn empty_places(&self) -> Result<BTreeSet<PathBuf>, String> {
        let mut places = BTreeSet::new();
        for input in self.inputs {
            let file = self.base.join(input);
            let failed = |error: io::Error| format!("{} cannot be read: {error}", file.display());
            if !fs::symlink_metadata(&file).map_err(failed)?.is_file() {
                continue;
            }
            let text = fs::read(&file).map_err(failed)?;
            for text in text.utf8_chunks().map(|chunk| chunk.valid()) {
                // Programs and their documents are full of `..`, and no Nix expressions.
                let is_nix = file.extension().is_some_and(|extension| extension == "nix");
                let ups = ways_up(text).filter(|_| is_nix).map(|up| (up, false));
                for (asked, is_question) in questions(text).map(|asked| (asked, true)).chain(ups) {
                    let place = asked.map(|literal| normal(&file.with_file_name("").join(literal)));
                    match place {
                        Some(place) if self.holds(&place) => {}
                        Some(place) if is_empty(&place) && !self.is_linked => drop(places.insert(place)),
                        // The proof cannot read a file that is there; a directory is a way to other places.
                        Some(place) if !is_question && !self.is_linked && place.is_file() => {}
                        Some(_) | None => {
                            return Err(format!(
                                "it asks in {} for files that may be outside its inputs, or may not be there",
                                input.display()
                            ));
                        }
                    }
                }
            }
        }
        Ok(places)
    }
}

/// True if `place` is below `top` by directories alone: a link leads elsewhere, and what is in `.git` is not listed.
fn is_below(place: &Path, top: &Path) -> bool {
    let Ok(below) = place.strip_prefix(top) else { return false };
    let mut at = top.to_owned();
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        at.push(name);
        if names.peek().is_some()
            && (name.as_os_str() == ".git" || fs::symlink_metadata(&at).is_ok_and(|found| found.is_symlink()))
        {
            return false;
        }
    }
    true
}

/// True if a text asks whether something exists.
pub(super) fn asks(text: &str) -> bool {
    ASKING.iter().any(|word| text.contains(word))
}

/// Each question of a text: the path that is asked for where that is written out, relative to the file.
fn questions(text: &str) -> impl Iterator<Item = Option<&str>> {
    ASKING.iter().flat_map(move |word| {
        text.match_indices(word)
            .map(move |(at, word)| literal(text.get(at + word.len()..).unwrap_or_default()))
    })
}

/// Each path of a text that has a `..` component, relative to the file; nothing where only the evaluation tells.
///
/// A function may ask for such a place without a word of [`ASKING`]: it is in a library, or has another name.
pub(super) fn ways_up(text: &str) -> impl Iterator<Item = Option<&str>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(found) = text.get(at..)?.find("..").map(|found| at + found) {
            let before = text.get(..found)?.trim_end_matches(of_path);
            let rest = text.get(before.len()..)?;
            let end = rest.find(|c| !of_path(c)).unwrap_or(rest.len());
            let (path, after) = rest.split_at(end);
            at = before.len() + end;
            let is_quoted = before.ends_with(['"', '\'', '}', '$', '<', '~']);
            if path == ".." && !is_quoted || !path.split('/').any(|component| component == "..") {
                continue;
            }
            let is_computed = is_quoted || before.trim_end().ends_with('+') || goes_on(after);
            return Some((is_relative(path) && !is_computed).then_some(path));
        }
        None
    })
}

/// The path at the beginning of a text, `./x` or `../x`, if that is the whole argument.
fn literal(text: &str) -> Option<&str> {
    let start = text.trim_start_matches([' ', '\t', '\n', '(']);
    let opened = text.get(..text.len() - start.len())?.matches('(').count();
    let end = start.find(|c| !of_path(c)).unwrap_or(start.len());
    let (path, mut rest) = start.split_at(end);
    if !is_relative(path) || goes_on(rest) {
        return None;
    }
    for _ in 0..opened {
        rest = code(rest).strip_prefix(')')?;
    }
    Some(path)
}

fn of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-+/".contains(c)
}

fn is_relative(path: &str) -> bool {
    path.starts_with("./") || path.starts_with("../")
}

/// True if what follows a path makes another one of it.
fn goes_on(after: &str) -> bool {
    after.starts_with(['"', '\'', '$']) || code(after).starts_with(['+', '$'])
}

/// A text without the blanks and comments at its beginning.
fn code(text: &str) -> &str {
    let mut text = text.trim_start();
    loop {
        let after = if let Some(comment) = text.strip_prefix('#') {
            comment.split_once('\n')
        } else if let Some(comment) = text.strip_prefix("/*") {
            comment.split_once("*/")
        } else {
            return text;
        };
        text = after.map_or("", |(_, after)| after.trim_start());
    }
}

/// Without `.` and `..`, as Nix reads paths.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

fn is_empty(place: &Path) -> bool {
    matches!(fs::symlink_metadata(place), Err(error)
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

struct Names {
    fields: Fields,
    left: usize,
}

impl Names {
    fn add(&mut self, path: &Path, kind: u8, changed: Option<&Metadata>) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            format!("there are more than {MAX_NAMES} names in its folder; name what it needs with --input")
        })?;
        self.fields.add(path.as_os_str().as_bytes());
        self.fields.add(&[kind]);
        if let Some(found) = changed {
            for number in [
                found.size(),
                found.ino(),
                found.mtime().cast_unsigned(),
                found.mtime_nsec().cast_unsigned(),
                found.ctime().cast_unsigned(),
                found.ctime_nsec().cast_unsigned(),
            ] {
                self.fields.add(&number.to_le_bytes());
            }
        }
        Ok(())
    }
}

pub(super) type Named = (std::ffi::OsString, u8, Metadata);

/// What is in a directory, sorted by name.
pub(super) fn listing(dir: &Path, without: Option<&Path>) -> Result<Vec<Named>, String> {
    let failed = |error: io::Error| format!("its folder {} cannot be listed: {error}", dir.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if without == Some(&entry.path()) {
            continue;
        }
        let found = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(failed)?,
        };
        all.push((entry.file_name(), kind_of(found.file_type()), found));
        if all.len() > MAX_NAMES {
            break;
        }
    }
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

fn kind_of(kind: FileType) -> u8 {
    if kind.is_dir() {
        b'd'
    } else if kind.is_symlink() {
        b'l'
    } else if kind.is_file() {
        b'f'
    } else if kind.is_fifo() || kind.is_socket() {
        b'p'
    } else {
        b'o'
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn digest(&self, inputs: &[&str]) -> Digest {
            let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
            let tops = [self.0.path().to_owned()];
            let lock = self.0.path().join("env.lock");
            let all = Surroundings {
                base: self.0.path(),
                tops: &tops,
                inputs: &inputs,
                without: Some(&lock),
                is_linked: false,
            };
            all.digest().unwrap()
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }
    }

    #[test]
    fn every_name_counts_and_what_is_no_input_also_when_it_changed() {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("shell.nix", "1");
        let mut seen = BTreeSet::from([place.digest(&["shell.nix"]).to_string()]);
        let mut changed = |is_new: bool, what: &str| {
            let digest = place.digest(&["shell.nix"]).to_string();
            assert_eq!(seen.insert(digest), is_new, "{what}");
        };
        place.write("shell.nix", "22");
        changed(false, "the contents of inputs count by their own digest");
        place.write("env.lock", "");
        changed(false, "the lock");
        place.write("local.nix", "1");
        changed(true, "a file that git does not track");
        place.write("local.nix", "22");
        changed(true, "what is in it");
        fs::create_dir(place.0.path().join("empty")).unwrap();
        changed(true, "an empty directory");
        fs::create_dir(place.0.path().join("empty/below")).unwrap();
        changed(true, "one below it");
        fs::create_dir(place.0.path().join(".git")).unwrap();
        changed(true, "that there is a repository");
        place.write(".git/HEAD", "x");
        changed(false, "what is in a repository");
        fs::remove_file(place.0.path().join("local.nix")).unwrap();
        std::os::unix::fs::symlink("x", place.0.path().join("local.nix")).unwrap();
        changed(true, "another kind");
    }

    #[test]
    fn declared_files_count_with_the_names_beside_them() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["env", "env/sub", "common/deep"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let tops = [root.path().join("env/shell.nix"), root.path().join("common")];
        fs::write(&tops[0], "").unwrap();
        let inputs = [PathBuf::from("env/shell.nix")];
        let digest = || {
            Surroundings { base: root.path(), tops: &tops, inputs: &inputs, without: None, is_linked: false }
                .digest()
                .unwrap()
        };
        let mut before = digest();
        for (name, counts) in
            [("x", true), ("env/x", true), ("common/deep/x", true), ("env/sub/x", false), ("common/x", true)]
        {
            fs::write(root.path().join(name), "").unwrap();
            let after = digest();
            assert_eq!(before != after, counts, "{name}");
            before = after;
        }
    }

    #[test]
    fn a_question_is_a_path_that_is_written_out_or_a_doubt() {
        let asked = |text: &str| questions(text).map(|q| q.map(str::to_owned)).collect::<Vec<_>>();
        let path = |text: &str| vec![Some(text.to_owned())];
        assert_eq!(asked("if builtins.pathExists ./a.nix then 1"), path("./a.nix"));
        assert_eq!(asked("pathExists (../x/y)"), path("../x/y"));
        assert_eq!(asked("pathExists\n  ./x;"), path("./x"));
        for doubt in [
            "pathExists (./. + \"/x\")",
            "pathExists ./${x}",
            "pathExists ./x${y}",
            "pathExists path",
            "pathExists \"/etc/x\"",
            "pathExists /etc/x",
            "pathExists ~/x",
            "filter pathExists [ ./x ]",
            "inherit (builtins) pathExists",
            "pathExists (./. /* c */ + \"/../x\")",
            "pathExists ((./.) # c\n + \"/../x\")",
            "pathExists (./. + x)",
        ] {
            assert_eq!(asked(doubt), [None], "{doubt}");
        }
        assert_eq!(asked("pathExists ( ( ./x /* c */ ) )"), path("./x"));
        assert!(asked("import ./x").is_empty());
    }

    #[test]
    fn each_path_with_a_way_up_is_a_question() {
        let up = |text: &str| ways_up(text).map(|q| q.map(str::to_owned)).collect::<Vec<_>>();
        let path = |text: &str| vec![Some(text.to_owned())];
        assert_eq!(up("(getAttr (\"path\" + \"Exists\") builtins) ../local.nix"), path("../local.nix"));
        assert_eq!(up("library.asks ../. # above"), path("../."));
        assert_eq!(up("[ ./x/../../y ]"), path("./x/../../y"));
        assert_eq!(up("../a ../b"), [Some("../a".to_owned()), Some("../b".to_owned())]);
        for doubt in [
            "f: p: f (p + \"/../local.nix\")",
            "../. /* c */ + x",
            "./. + ../x",
            "../${x}",
            "\"${./.}/../x\"",
            "p + \"/\" + \"..\" + \"/x\"",
            "<sub/../x>",
            "/etc/../x",
        ] {
            assert_eq!(up(doubt).first(), Some(&None), "{doubt}");
        }
        for none in ["import ./x", "cd ..", "x...", "{ ... }: 1", "a..b", "./a..b/c", "1 .. 2"] {
            assert!(up(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn an_empty_place_outside_counts_and_a_full_one_is_a_doubt() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("env");
        fs::create_dir(&folder).unwrap();
        let (tops, inputs) = ([folder.clone()], [PathBuf::from("shell.nix")]);
        let all =
            Surroundings { base: &folder, tops: &tops, inputs: &inputs, without: None, is_linked: false };
        let text = |text: &str| fs::write(folder.join("shell.nix"), text).unwrap();
        text("builtins.pathExists ./inside && builtins.pathExists ../local.nix");
        let outside = root.path().join("local.nix");
        assert_eq!(all.empty_places().unwrap(), BTreeSet::from([outside.clone()]));
        fs::write(&outside, "").unwrap();
        assert!(all.empty_places().unwrap_err().contains("shell.nix"));
        text("builtins.pathExists somewhere");
        assert!(all.empty_places().unwrap_err().contains("may be outside"));
        text("import ./x + import ./sub/../y");
        assert!(all.empty_places().unwrap().is_empty());
        text("let f = builtins.getAttr (\"path\" + \"Exists\") builtins; in f ../local.nix");
        assert!(all.empty_places().unwrap().is_empty());
        fs::remove_file(&outside).unwrap();
        assert_eq!(all.empty_places().unwrap(), BTreeSet::from([outside.clone()]));
        // By way of a link a place is another one.
        text("builtins.pathExists ./link/x && builtins.pathExists ./sub/x");
        std::os::unix::fs::symlink("../elsewhere", folder.join("link")).unwrap();
        fs::create_dir_all(folder.join("sub")).unwrap();
        assert_eq!(all.empty_places().unwrap(), BTreeSet::from([folder.join("link/x")]));
        // What is in a repository is not listed.
        let reference = folder.join(".git/refs/heads/foo");
        text("builtins.pathExists ./.git && builtins.pathExists ./.git/refs/heads/foo");
        assert_eq!(all.empty_places().unwrap(), BTreeSet::from([reference.clone()]));
        fs::create_dir_all(&reference).unwrap();
        assert!(all.empty_places().unwrap_err().contains("may be outside"));
        text("builtins.pathExists ../nothing");
        assert_eq!(all.empty_places().unwrap().len(), 1);
        assert!(Surroundings { is_linked: true, ..all }.empty_places().is_err());
    }
}
