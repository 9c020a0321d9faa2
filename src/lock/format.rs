//! The file `env.lock`, version 1, byte for byte as `docs/env-lock.md` says.
//!
//! One value has one text: keys sorted, two spaces a level, a newline at the end. Reading is stricter than JSON: unknown
//! fields, fields that come twice, other versions, and values that no lock has are refused. All checks are on the
//! bytes that are then used; a file is read once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::LockError;
use super::source::Source;
use crate::closure::Mode;
use crate::store::{StoreDir, StorePath};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u64 = 1;

/// The largest lock that is read, in bytes.
pub const MAX_SIZE: u64 = 64 << 20;

/// The longest name of an environment, in bytes.
pub const MAX_NAME: usize = 128;

/// An environment, pinned: which store paths it is, and how that was found.
///
/// Invariants, kept by [`EnvLock::parse`] and [`EnvLock::check`]: at least one root; roots are distinct and in the store
/// directory; the name is of `0-9a-zA-Z+-._` and does not start with a dot. Fields stand in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvLock {
    /// What the closure of the roots must be.
    pub closure: LockedClosure,
    /// Which closure of the roots it is.
    pub mode: Mode,
    /// What people call the environment.
    pub name: String,
    /// What the closure starts from, in the order in which it was given.
    pub roots: Vec<Root>,
    /// What was locked, and what decided the result.
    pub source: Source,
    /// The store directory that all paths are in.
    pub store_dir: StoreDir,
    /// The system that it is for, as Nix names it: `x86_64-linux`; absent if nothing told.
    pub system: Option<String>,
}

/// What the closure of the roots must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockedClosure {
    /// The number of its members.
    pub count: u64,
    /// SHA-256 over the members' base names, sorted bytewise, each followed by a newline. Covers names, not contents.
    pub digest: Digest,
    /// The sum of the members' NAR sizes in bytes when it was locked, for people; absent if not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nar_size: Option<u64>,
    /// Absent if the store had recorded what refers to what; `scan` if that was found by reading its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<Recorded>,
}

/// How references were found, where nothing had recorded them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recorded {
    /// By looking for hash parts in the contents.
    Scan,
}

/// A path that the closure starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The derivation that it is an output of, where that is known.
    pub derivation: Option<StorePath>,
    /// Which output of it.
    pub output: Option<String>,
    /// The path.
    pub path: StorePath,
}

impl Root {
    /// A path of which nothing else is known.
    #[must_use]
    pub fn plain(path: StorePath) -> Self {
        Self { derivation: None, output: None, path }
    }
}

impl EnvLock {
    /// Reads a lock from its text; `origin` is told in errors.
    ///
    /// # Errors
    /// If it is not exactly a lock of [`VERSION`].
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, LockError> {
        let malformed = |problem: String| LockError::Malformed { origin: origin.to_owned(), problem };
        // The version decides how the rest is to be read, so it is looked at alone and first.
        let head: Head = serde_json::from_slice(text).map_err(|e| malformed(e.to_string()))?;
        match head.version {
            Some(VERSION) => {}
            Some(version) => {
                return Err(LockError::Version { origin: origin.to_owned(), version, known: VERSION });
            }
            None => return Err(malformed("it has no \"version\"".to_owned())),
        }
        let written: Written = serde_json::from_slice(text).map_err(|e| malformed(e.to_string()))?;
        let lock = Self::from_written(written).map_err(malformed)?;
        lock.check().map_err(malformed)?;
        Ok(lock)
    }

    /// Reads the lock in a file, once, and at most [`MAX_SIZE`] of it.
    ///
    /// # Errors
    /// If the file cannot be read, is too large, or is no lock.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        let text = read_bounded(path, MAX_SIZE)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the lock in an open file, from where it stands, as [`EnvLock::read`], but at most `most` bytes; `origin` is told in
    /// errors.
    ///
    /// # Errors
    /// As [`EnvLock::read`].
    pub fn read_from(file: File, origin: &str, most: u64) -> Result<Self, LockError> {
        Self::parse(&bounded(file, Path::new(origin), most)?, origin)
    }

    /// True if a file looks like a lock of any version, usable or not; false if it cannot be read.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        #[derive(Deserialize)]
        struct Looks {
            roots: Option<serde::de::IgnoredAny>,
            closure: Option<serde::de::IgnoredAny>,
        }
        let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let text = if is_file { read_bounded(path, MAX_SIZE).ok() } else { None };
        text.is_some_and(|text| {
            serde_json::from_slice(&text).is_ok_and(|l: Looks| l.roots.is_some() && l.closure.is_some())
        })
    }

    /// The text of the lock; the same value always gives the same bytes.
    ///
    /// # Errors
    /// If the value is one that [`EnvLock::parse`] would refuse.
    pub fn print(&self) -> Result<String, LockError> {
        let refused = |problem: String| LockError::Malformed { origin: "the new lock".to_owned(), problem };
        self.check().map_err(refused)?;
        let written = self.to_written();
        let mut text = serde_json::to_string_pretty(&written).map_err(|e| refused(e.to_string()))?;
        text.push('\n');
        Ok(text)
    }

    /// Writes the lock into a file by one rename: a reader sees the old one or the new one, whole.
    ///
    /// Answers `false`, and leaves the file as it is, if it says the same already.
    ///
    /// # Errors
    /// If it cannot be written; then nothing is left behind.
    pub fn write(&self, path: &Path) -> Result<bool, LockError> {
        let text = self.print()?;
        if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        replace(path, text.as_bytes()).map_err(LockError::file("write", path))?;
        Ok(true)
    }

    /// Says what no lock may say, if this one does.
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') {
            return Err(format!("\"name\" must have 1 to {MAX_NAME} characters and not start with a dot"));
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b)) {
            return Err("\"name\" may have letters, digits and +-._ only".to_owned());
        }
        if let Some(system) = &self.system {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            if system.is_empty() || !system.bytes().all(plain) {
                return Err("\"system\" is no system as Nix names them".to_owned());
            }
        }
        if self.roots.is_empty() {
            return Err("it has no roots".to_owned());
        }
        let mut seen = BTreeSet::new();
        for root in &self.roots {
            if !seen.insert(&root.path) {
                return Err(format!("the root {} stands in it twice", root.path));
            }
            if root.derivation.as_ref().is_some_and(|d| !d.is_derivation()) {
                return Err(format!("\"drvPath\" of the root {} is no derivation", root.path));
            }
            let output = |o: &String| StorePath::from_base_name(format!("{ANY_HASH}-{o}").as_bytes()).is_ok();
            if root.output.as_ref().is_some_and(|o| !output(o)) {
                return Err(format!("\"output\" of the root {} is no name of an output", root.path));
            }
        }
        if self.closure.count < seen.len() as u64 {
            return Err("\"closure\" has fewer paths than there are roots".to_owned());
        }
        self.source.check()
    }

    fn from_written(written: Written) -> Result<Self, String> {
        let Written { closure, mode, name, roots, source, store_dir, system, version: _ } = written;
        let path = |text: &str, field: &str, index: usize| {
            store_dir.parse(text.as_bytes()).map_err(|error| format!("roots[{index}].{field}: {error}"))
        };
        let mut all = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            let derivation = root.drv_path.as_deref().map(|t| path(t, "drvPath", index)).transpose()?;
            let output = root.output.clone();
            all.push(Root { derivation, output, path: path(&root.path, "path", index)? });
        }
        Ok(Self { closure, mode, name, roots: all, source, store_dir, system })
    }

    fn to_written(&self) -> Written {
        let full = |path: &StorePath| format!("{}/{path}", self.store_dir);
        let roots = self.roots.iter().map(|root| WrittenRoot {
            drv_path: root.derivation.as_ref().map(full),
            output: root.output.clone(),
            path: full(&root.path),
        });
        Written {
            closure: self.closure.clone(),
            mode: self.mode,
            name: self.name.clone(),
            roots: roots.collect(),
            source: self.source.clone(),
            store_dir: self.store_dir.clone(),
            system: self.system.clone(),
            version: VERSION,
        }
    }
}

/// Any hash part, to judge a name by the rule for names of store paths.
const ANY_HASH: &str = "00000000000000000000000000000000";

/// What is looked at before the version is known. Unknown fields are no error yet; a second `version` is.
#[derive(Deserialize)]
struct Head {
    version: Option<u64>,
}

/// The fields of the file, in its order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    closure: LockedClosure,
    mode: Mode,
    name: String,
    roots: Vec<WrittenRoot>,
    source: Source,
    store_dir: StoreDir,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRoot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drv_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    path: String,
}

/// The contents of a file, if it has at most `limit` bytes; a file that grows meanwhile is not trusted either.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, LockError> {
    bounded(File::open(path).map_err(LockError::file("read", path))?, path, limit)
}

/// The contents of an open file that is called `path`, likewise.
fn bounded(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, LockError> {
    let too_large = || LockError::TooLarge { path: path.to_owned(), limit };
    if file.metadata().map_err(LockError::file("read", path))?.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(LockError::file("read", path))?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Replaces a file by one rename, after its contents have reached the disk.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let draft = directory.join(name);
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        File::open(&directory)?.sync_all()
    };
    let answer = write();
    if let Err(error) = &answer
        && error.kind() != std::io::ErrorKind::AlreadyExists
        && let Err(left) = std::fs::remove_file(&draft)
        && left.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(draft = %draft.display(), %left, "a draft of a lock stays behind");
    }
    answer
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use proptest::prelude::*;

    use super::super::source::{Inputs, InputsFrom, Kind, SearchPathEntry, SourceFile};
    use super::*;

    pub(in super::super) fn path(letter: char, name: &str) -> StorePath {
        format!("{}-{name}", String::from(letter).repeat(32)).parse().unwrap()
    }

    pub(in super::super) fn sample() -> EnvLock {
        EnvLock {
            closure: LockedClosure {
                count: 17,
                digest: Digest::of(b"names"),
                nar_size: Some(1234),
                references: None,
            },
            mode: Mode::Runtime,
            name: "web".to_owned(),
            roots: vec![
                Root {
                    derivation: Some(path('d', "env.drv")),
                    output: Some("out".to_owned()),
                    path: path('a', "env"),
                },
                Root::plain(path('b', "bash")),
            ],
            source: Source::new(Kind::Paths, vec!["result".to_owned()]),
            store_dir: StoreDir::default(),
            system: Some("x86_64-linux".to_owned()),
        }
    }

    /// The text of the sample with one replacement; both must occur.
    fn altered(from: &str, to: &str) -> Vec<u8> {
        let text = sample().print().unwrap();
        assert!(text.contains(from), "the sample has {from}");
        text.replacen(from, to, 1).into_bytes()
    }

    fn refused(text: &[u8]) -> String {
        EnvLock::parse(text, "a.lock").unwrap_err().to_string()
    }

    #[test]
    fn the_text_is_what_the_documentation_shows() {
        let text = sample().print().unwrap();
        let expected = r#"{
  "closure": {
    "count": 17,
    "digest": "sha256-/fIqEF9Ka6UGmpyvAbf8jk8kLaYsgrBnYTKBmwfRpBw=",
    "narSize": 1234
  },
  "mode": "runtime",
  "name": "web",
  "roots": [
    {
      "drvPath": "/nix/store/dddddddddddddddddddddddddddddddd-env.drv",
      "output": "out",
      "path": "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-env"
    },
    {
      "path": "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash"
    }
  ],
  "source": {
    "given": [
      "result"
    ],
    "kind": "paths"
  },
  "storeDir": "/nix/store",
  "system": "x86_64-linux",
  "version": 1
}
"#;
        let digest = sample().closure.digest.to_string();
        assert_eq!(text, expected.replace("sha256-/fIqEF9Ka6UGmpyvAbf8jk8kLaYsgrBnYTKBmwfRpBw=", &digest));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let lock = sample();
        assert_eq!(EnvLock::parse(lock.print().unwrap().as_bytes(), "x").unwrap(), lock);
    }

    #[test]
    fn names_that_are_no_store_paths_are_refused() {
        let bash = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash";
        for (to, why) in [
            ("/nix/store/../bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "roots[1].path"),
            ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/../../../etc", "roots[1].path"),
            ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/bin", "roots[1].path"),
            ("/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "not in the store directory"),
            ("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "not in the store directory"),
            ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-ba\\u0000sh", "roots[1].path"),
            ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-ba\\nsh", "roots[1].path"),
            ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-.bash", "dot"),
            ("/nix/store/eeeebbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "nixbase32"),
            ("/nix/store/", "roots[1].path"),
        ] {
            let said = refused(&altered(bash, to));
            assert!(said.contains(why), "{to}: {said}");
        }
        let long = |n: usize| format!("/nix/store/{}-{}", "b".repeat(32), "n".repeat(n));
        assert!(refused(&altered(bash, &long(212))).contains("longer than 211"));
        assert!(EnvLock::parse(&altered(bash, &long(211)), "x").is_ok());
    }

    #[test]
    fn another_store_directory_moves_all_paths_or_is_refused() {
        assert!(
            refused(&altered("\"storeDir\": \"/nix/store\"", "\"storeDir\": \"/gnu/store\""))
                .contains("roots[0]")
        );
        for wrong in ["", "nix/store", "/nix/store/", "/nix/../store", "/"] {
            refused(&altered("\"storeDir\": \"/nix/store\"", &format!("\"storeDir\": \"{wrong}\"")));
        }
    }

    #[test]
    fn unknown_fields_and_versions_and_doubles_are_refused() {
        for (from, to, why) in [
            ("\"version\": 1", "\"version\": 2", "version 2"),
            ("\"version\": 1", "\"version\": 1.0", "invalid type"),
            ("\"version\": 1", "\"version\": -1", "invalid value"),
            (",\n  \"version\": 1", "", "no \"version\""),
            ("\"version\": 1", "\"version\": 1, \"version\": 1", "duplicate field"),
            ("\"version\": 1", "\"version\": 1, \"extra\": 0", "unknown field"),
            ("\"count\": 17", "\"count\": 17, \"paths\": []", "unknown field"),
            ("\"count\": 17", "\"count\": 17, \"count\": 17", "duplicate field"),
            ("\"output\": \"out\"", "\"output\": \"out\", \"outputs\": []", "unknown field"),
            ("\"kind\": \"paths\"", "\"kind\": \"paths\", \"url\": \"\"", "unknown field"),
            ("\"kind\": \"paths\"", "\"kind\": \"tarball\"", "unknown variant"),
            ("\"mode\": \"runtime\"", "\"mode\": \"everything\"", "unknown variant"),
            ("\"count\": 17", "\"count\": 1", "fewer paths"),
            ("\"count\": 17", "\"count\": -17", "invalid value"),
            ("\"digest\": \"sha256-", "\"digest\": \"sha512-", "sha256-"),
            ("\"name\": \"web\"", "\"name\": \"../web\"", "name"),
            ("\"name\": \"web\"", "\"name\": \"\"", "name"),
            ("\"name\": \"web\"", "\"name\": \"a b\"", "name"),
            ("x86_64-linux", "x86_64\\nlinux", "system"),
            ("\"output\": \"out\"", "\"output\": \"../out\"", "output"),
            ("-env.drv", "-env", "derivation"),
            ("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-env", "twice"),
        ] {
            let said = refused(&altered(from, to));
            assert!(said.starts_with("a.lock") && said.contains(why), "{to}: {said}");
        }
        let name = format!("\"name\": \"{}\"", "n".repeat(MAX_NAME + 1));
        assert!(refused(&altered("\"name\": \"web\"", &name)).contains("name"));
    }

    #[test]
    fn what_is_no_json_is_refused_wherever_it_ends() {
        let text = sample().print().unwrap();
        for end in 0..text.len() - 1 {
            assert!(EnvLock::parse(text.get(..end).unwrap().as_bytes(), "x").is_err(), "cut at {end}");
        }
        for wrong in [&b"[]"[..], b"null", b"\xff", b"{}{}", &b"[".repeat(100_000)] {
            refused(wrong);
        }
        let mut trailing = text.into_bytes();
        trailing.extend_from_slice(b"x");
        refused(&trailing);
    }

    #[test]
    fn a_source_tells_of_an_evaluation_only_if_there_was_one() {
        refused(&altered("\"kind\": \"paths\"", "\"kind\": \"paths\",\n \"nixVersion\": \"2.8.0\""));
        refused(&altered("\"kind\": \"paths\"", "\"kind\": \"expression\""));
        refused(&altered("\"kind\": \"paths\"", "\"kind\": \"paths\", \"attribute\": \"x\""));
    }

    #[test]
    fn a_gigabyte_is_refused_without_reading_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("huge.lock");
        File::create(&file).unwrap().set_len(1 << 30).unwrap();
        let said = EnvLock::read(&file).unwrap_err().to_string();
        assert!(said.contains("larger than 64 MiB"), "{said}");
        // Nor is one whose size cannot be seen beforehand read beyond the limit.
        let said = EnvLock::read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(said.contains("larger than"), "{said}");
    }

    /// The checks are on the bytes that are used: what replaces the file afterwards is not seen.
    #[test]
    fn a_swap_after_the_check_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env.lock");
        sample().write(&file).unwrap();
        let lock = EnvLock::read(&file).unwrap();
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(lock, sample());
    }

    #[test]
    fn writing_is_all_or_nothing_and_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env.lock");
        assert!(sample().write(&file).unwrap());
        assert!(!sample().write(&file).unwrap(), "it said the same already");
        let other = EnvLock { name: "other".to_owned(), ..sample() };
        assert!(other.write(&file).unwrap());
        assert_eq!(EnvLock::read(&file).unwrap(), other);
        let wrong = EnvLock { roots: Vec::new(), ..sample() };
        assert!(wrong.write(&file).is_err());
        assert_eq!(EnvLock::read(&file).unwrap(), other);
        assert!(sample().write(&dir.path().join("no/such/env.lock")).is_err());
        assert!(sample().write(dir.path()).is_err(), "a directory is not replaced");
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["env.lock"]);
    }

    fn store_path() -> impl Strategy<Value = StorePath> {
        ("[0-9abcdfghijklmnpqrsvwxyz]{32}", "[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,20}")
            .prop_map(|(hash, name)| format!("{hash}-{name}").parse().unwrap())
    }

    fn source() -> impl Strategy<Value = Source> {
        let text = "(?s).{0,12}";
        let digest = any::<[u8; 8]>().prop_map(|bytes| Digest::of(&bytes));
        let files = proptest::collection::vec(
            (digest.clone(), text).prop_map(|(digest, name)| SourceFile { digest, name }),
            0..3,
        );
        let inputs = (any::<u64>(), digest, prop_oneof![Just(InputsFrom::Git), Just(InputsFrom::Declared)])
            .prop_map(|(count, digest, from)| Inputs { count, digest, from });
        let entry =
            (proptest::option::of(text), text).prop_map(|(path, prefix)| SearchPathEntry { path, prefix });
        (
            proptest::collection::vec(text, 0..3),
            proptest::option::of(text),
            files,
            proptest::option::of(inputs),
            proptest::collection::vec(entry, 0..3),
            any::<bool>(),
        )
            .prop_map(|(arguments, attribute, files, inputs, search_path, evaluated)| {
                let given = vec!["shell.nix".to_owned()];
                if evaluated {
                    let nix_version = Some("2.8.0".to_owned());
                    Source {
                        arguments,
                        attribute,
                        files,
                        given,
                        inputs,
                        kind: Kind::Expression,
                        nix_version,
                        search_path,
                    }
                } else {
                    Source { files, ..Source::new(Kind::List, given) }
                }
            })
    }

    proptest! {
        #[test]
        fn print_parse_print_is_the_identity(
            roots in proptest::collection::btree_set(store_path(), 1..5),
            derivation in proptest::option::of(store_path()),
            count in 5_u64..,
            nar_size in proptest::option::of(any::<u64>()),
            scanned in any::<bool>(),
            mode in prop_oneof![Just(Mode::Runtime), Just(Mode::Build), Just(Mode::Dev)],
            name in "[a-z0-9+_-][a-z0-9+._-]{0,127}",
            system in proptest::option::of("[a-z0-9_]+-[a-z]+"),
            source in source(),
        ) {
            let derivation: Option<StorePath> = derivation.and_then(|d| format!("{d}.drv").parse().ok());
            let root = |path| Root { derivation: derivation.clone(), output: derivation.as_ref().map(|_| "dev".to_owned()), path };
            let references = scanned.then_some(Recorded::Scan);
            let closure = LockedClosure { count, digest: Digest::of(name.as_bytes()), nar_size, references };
            let roots = roots.into_iter().map(root).collect();
            let lock = EnvLock { closure, mode, name, roots, source, store_dir: StoreDir::default(), system };
            let text = lock.print().unwrap();
            let parsed = EnvLock::parse(text.as_bytes(), "x").unwrap();
            prop_assert_eq!(&parsed, &lock);
            prop_assert_eq!(&parsed.print().unwrap(), &text);
            // Canonical: serde_json's own maps are sorted, and give the same text.
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(sorted(&value, 0) + "\n", text);
        }

        #[test]
        fn no_bytes_make_it_panic(at in 0_usize..800, byte in any::<u8>()) {
            let mut text = sample().print().unwrap().into_bytes();
            let at = at % text.len();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            // Whatever it answers, a lock that is accepted prints as one that is accepted.
            if let Ok(lock) = EnvLock::parse(&text, "x") {
                prop_assert!(lock.print().is_ok());
            }
        }
    }

    /// Canonical JSON, written independently of serde's field order.
    fn sorted(value: &serde_json::Value, depth: usize) -> String {
        let (pad, end) = ("  ".repeat(depth + 1), "  ".repeat(depth));
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                let rows = keys.iter().map(|key| {
                    let key_text = serde_json::to_string(key).unwrap();
                    format!("{pad}{key_text}: {}", sorted(map.get(*key).unwrap(), depth + 1))
                });
                format!("{{\n{}\n{end}}}", rows.collect::<Vec<_>>().join(",\n"))
            }
            serde_json::Value::Array(list) if !list.is_empty() => {
                let rows = list.iter().map(|v| format!("{pad}{}", sorted(v, depth + 1)));
                format!("[\n{}\n{end}]", rows.collect::<Vec<_>>().join(",\n"))
            }
            other => serde_json::to_string(other).unwrap(),
        }
    }
}
