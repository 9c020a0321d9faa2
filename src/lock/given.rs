//! What people give to be locked, recognised by what it looks like and where it leads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::LockError;
use super::link::{Target, follow};
use crate::store::{Location, StorePath, path_list};
use crate::sys::open::open_input;

/// Something that can be locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// A store path, given by its name, by a link, or by something inside it.
    Path(StorePath),
    /// Outputs of a derivation, sorted; all of them if none is named.
    Outputs {
        /// The derivation.
        derivation: StorePath,
        /// The names of the outputs.
        outputs: Vec<String>,
    },
    /// A directory made by Nixpkgs' `closureInfo`.
    ClosureInfo(PathBuf),
    /// A file with the JSON of `nix path-info`.
    PathInfo(PathBuf),
    /// A list, one store path or `PATH.drv^OUTPUTS` a line, that is read from standard input.
    List,
    /// A file with a Nix expression.
    Expression {
        /// The file.
        file: PathBuf,
        /// The attribute of its value.
        attribute: Option<String>,
    },
}

impl Given {
    /// Recognises what a text means: `-`; a store path, its base name, or `….drv^out,dev`; a file or directory, links
    /// followed; `FILE#ATTRIBUTE`.
    ///
    /// # Errors
    /// If it is nothing that can be locked; the error says what can.
    pub fn recognise(text: &str, location: &Location) -> Result<Self, LockError> {
        if text == "-" {
            return Ok(Self::List);
        }
        if let Some(given) = in_store(text, location)? {
            return Ok(given);
        }
        if let Some((path, outputs)) = text.rsplit_once('^')
            && let Target::Store(derivation, _) = follow(Path::new(path), location)?
        {
            return with_outputs(derivation, outputs, text);
        }
        let whole = follow(Path::new(text), location)?;
        let (target, attribute) = match (whole, text.rsplit_once('#')) {
            (Target::Missing, Some((file, attribute))) => {
                (follow(Path::new(file), location)?, Some(attribute.to_owned()))
            }
            (whole, _) => (whole, None),
        };
        match target {
            Target::Store(..) if attribute.is_some() => {
                Err(refuse(text, "an attribute is of an expression, and this leads into the store"))
            }
            // The closure of such a path is the list that is in it, and the path.
            Target::Store(path, _) if path_list::is_closure_info(&location.real_path(&path)) => {
                Ok(Self::ClosureInfo(location.real_path(&path)))
            }
            Target::Store(path, _) => Ok(Self::Path(path)),
            Target::Outside(place) => outside(place, attribute, text),
            Target::Missing => Err(refuse(text, EXPECTED)),
        }
    }

    /// Recognises a line of a list: only what needs no look at this machine.
    ///
    /// # Errors
    /// If it is neither a store path nor outputs of a derivation.
    pub fn from_line(line: &str, location: &Location) -> Result<Self, LockError> {
        match in_store(line, location)? {
            Some(given) => Ok(given),
            None => Err(refuse(line, "a list has full store paths or PATH.drv^OUTPUTS, one a line")),
        }
    }
}

const EXPECTED: &str = "there is no such file; give a store path, PATH.drv or PATH.drv^OUTPUTS, a link to one of them \
                        (result, a profile), a closureInfo directory, a file of 'nix path-info --json', FILE.nix or \
                        FILE.nix#ATTRIBUTE, or - for a list on standard input";

fn refuse(given: &str, problem: impl Into<String>) -> LockError {
    let shown: String = given.chars().take(300).flat_map(char::escape_debug).collect();
    LockError::Source { given: shown, problem: problem.into() }
}

/// A full store path or a base name, with outputs or without; `None` for all else.
fn in_store(text: &str, location: &Location) -> Result<Option<Given>, LockError> {
    let (path, outputs) = match text.rsplit_once('^') {
        Some((path, outputs)) => (path, Some(outputs)),
        None => (text, None),
    };
    let base = path.strip_prefix(location.dir.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let parsed = match base {
        Some(base) if base.contains('/') => return Ok(None),
        Some(base) => StorePath::from_base_name(base.as_bytes())
            .map_err(|error| LockError::Path { origin: "what was given".to_owned(), error })?,
        None => match StorePath::from_base_name(path.as_bytes()) {
            Ok(parsed) => parsed,
            Err(_) => return Ok(None),
        },
    };
    match outputs {
        Some(outputs) => with_outputs(parsed, outputs, text).map(Some),
        None if path_list::is_closure_info(&location.real_path(&parsed)) => {
            Ok(Some(Given::ClosureInfo(location.real_path(&parsed))))
        }
        None => Ok(Some(Given::Path(parsed))),
    }
}

fn with_outputs(derivation: StorePath, outputs: &str, text: &str) -> Result<Given, LockError> {
    if !derivation.is_derivation() {
        return Err(refuse(text, "only a .drv has outputs to choose with ^"));
    }
    if outputs == "*" {
        return Ok(Given::Outputs { derivation, outputs: Vec::new() });
    }
    let names: BTreeSet<String> = outputs.split(',').map(str::to_owned).collect();
    if names.contains("") {
        return Err(refuse(text, "after ^ come the names of outputs with a comma between them, or *"));
    }
    Ok(Given::Outputs { derivation, outputs: names.into_iter().collect() })
}

fn outside(place: PathBuf, attribute: Option<String>, text: &str) -> Result<Given, LockError> {
    let flake = |dir: &Path| {
        refuse(
            text,
            format!(
                "flakes are not evaluated here: build it and lock the result ('nix build {0}#NAME', then 'nixview \
                 lock ./result'), or lock its derivation ('nixview lock $(nix path-info --derivation {0}#NAME)')",
                dir.display()
            ),
        )
    };
    let is = |name: &str| place.join(name).is_file();
    if place.is_dir() {
        if path_list::is_closure_info(&place) && attribute.is_none() {
            return Ok(Given::ClosureInfo(place));
        }
        if is("default.nix") {
            return Ok(Given::Expression { file: place.join("default.nix"), attribute });
        }
        if is("flake.nix") {
            return Err(flake(&place));
        }
        return Err(refuse(
            text,
            "it is a directory without default.nix, and not one that closureInfo made (store-paths and registration)",
        ));
    }
    let name = place.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if matches!(name, "flake.nix" | "flake.lock") {
        return Err(flake(place.parent().unwrap_or(&place)));
    }
    if attribute.is_some() || name.ends_with(".nix") {
        if !place.is_file() {
            return Err(refuse(text, "it is no regular file"));
        }
        return Ok(Given::Expression { file: place, attribute });
    }
    match name {
        "registration" | "store-paths" => {
            Err(refuse(text, "give the directory that holds it, as closureInfo made it"))
        }
        _ if place.is_file() => Ok(Given::PathInfo(place)),
        _ => match open_input(&place) {
            Ok(_) => Ok(Given::PathInfo(place)),
            Err(error) => Err(refuse(text, error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::StoreDir;

    const BASE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-env";
    const DRV: &str = "dddddddddddddddddddddddddddddddd-env.drv";

    struct Place(tempfile::TempDir, Location);

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let real = root.path().join("nix/store");
            std::fs::create_dir_all(real.join(BASE)).unwrap();
            let location = Location { dir: StoreDir::default(), real, state: None };
            Self(root, location)
        }

        fn file(&self, name: &str) -> String {
            let file = self.0.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            file.to_str().unwrap().to_owned()
        }

        fn is(&self, text: &str) -> Given {
            Given::recognise(text, &self.1).unwrap()
        }

        fn refuses(&self, text: &str) -> String {
            Given::recognise(text, &self.1).unwrap_err().to_string()
        }
    }

    fn outputs(names: &[&str]) -> Given {
        let outputs = names.iter().map(|n| (*n).to_owned()).collect();
        Given::Outputs { derivation: DRV.parse().unwrap(), outputs }
    }

    #[test]
    fn store_paths_and_outputs() {
        let place = Place::new();
        let path = Given::Path(BASE.parse().unwrap());
        assert_eq!(place.is(BASE), path);
        assert_eq!(place.is(&format!("/nix/store/{BASE}")), path);
        assert_eq!(place.is(&format!("/nix/store/{BASE}/bin/sh")), path);
        assert_eq!(place.is(place.1.real.join(BASE).to_str().unwrap()), path);
        assert_eq!(place.is(&format!("/nix/store/{DRV}^out,dev")), outputs(&["dev", "out"]));
        assert_eq!(place.is(&format!("{DRV}^*")), outputs(&[]));
        let link = place.0.path().join("result");
        symlink(format!("/nix/store/{DRV}"), &link).unwrap();
        assert_eq!(place.is(&format!("{}^out", link.display())), outputs(&["out"]));
        assert_eq!(place.is(link.to_str().unwrap()), Given::Path(DRV.parse().unwrap()));
        assert_eq!(place.is("-"), Given::List);
    }

    #[test]
    fn files_and_directories() {
        let place = Place::new();
        let shell = place.file("p/shell.nix");
        let is_file = |given: Given, name: &str, attribute: Option<&str>| {
            let Given::Expression { file, attribute: found } = given else { return false };
            file.ends_with(name) && found.as_deref() == attribute
        };
        assert!(is_file(place.is(&shell), "p/shell.nix", None));
        assert!(is_file(place.is(&format!("{shell}#a.b")), "p/shell.nix", Some("a.b")));
        let default = place.file("q/default.nix");
        assert!(is_file(place.is(default.strip_suffix("/default.nix").unwrap()), "q/default.nix", None));
        let odd = place.file("p/odd#name.nix");
        assert!(
            is_file(place.is(&odd), "p/odd#name.nix", None),
            "a file that exists is meant before an attribute"
        );
        assert!(matches!(place.is(&place.file("info.json")), Given::PathInfo(_)));
        let registration = place.file("ci/registration");
        let list = place.file("ci/store-paths");
        let dir = list.strip_suffix("/store-paths").unwrap();
        assert!(matches!(place.is(dir), Given::ClosureInfo(_)));
        assert!(place.refuses(&registration).contains("directory that holds it"));
    }

    #[test]
    fn what_cannot_be_locked_says_what_can() {
        let place = Place::new();
        assert!(place.refuses("no/such/thing").contains("FILE.nix#ATTRIBUTE"));
        assert!(place.refuses("/nix/store/short").contains("not a store path"));
        assert!(place.refuses(&format!("{BASE}^out")).contains("only a .drv"));
        assert!(place.refuses(&format!("{DRV}^")).contains("comma"));
        assert!(place.refuses(&format!("{DRV}^out,,dev")).contains("comma"));
        let flake = place.file("f/flake.nix");
        assert!(place.refuses(&flake).contains("nix path-info --derivation"));
        assert!(place.refuses(flake.strip_suffix("/flake.nix").unwrap()).contains("nix build"));
        assert!(place.refuses(place.0.path().to_str().unwrap()).contains("without default.nix"));
        assert!(place.refuses(&format!("{}#x", place.1.real.join(BASE).display())).contains("attribute"));
        for line in [
            "result",
            "./shell.nix",
            "/nix/store/../x",
            "/gnu/store/x",
            " ",
            &format!("/nix/store/{BASE}/bin"),
        ] {
            assert!(Given::from_line(line, &place.1).is_err(), "{line}");
        }
        assert_eq!(Given::from_line(&format!("/nix/store/{DRV}^out"), &place.1).unwrap(), outputs(&["out"]));
    }
}
