//! What is wanted: by arguments, else by annotations.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use nixview::control::{Backend, Client, ControlError, Upper};
use nixview_helpers::service::Dirs;

use crate::failure::Failure;

/// When a hook is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The container's namespaces exist, its programs do not run yet.
    CreateRuntime,
    /// The container is gone.
    Poststop,
}

/// The arguments.
#[derive(Default, Debug)]
pub(crate) struct Arguments {
    /// The stage, if it is said.
    pub(crate) stage: Option<Stage>,
    /// Values of options, by the name that they have as annotations.
    wanted: BTreeMap<String, String>,
    /// Where nixview keeps its files.
    pub(crate) dirs: Dirs,
    /// The program that serves where no daemon runs, if it is said.
    nixview: Option<PathBuf>,
}

/// A view for a container.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The environment's lock; absolute.
    pub(crate) closure: PathBuf,
    /// Where changes go.
    pub(crate) upper: Upper,
    /// Who owns `/nix`, as the container numbers them.
    pub(crate) owner: (u32, u32),
    /// Where the store is, if it is said; absolute.
    pub(crate) store: Option<PathBuf>,
    /// What the view is made of.
    pub(crate) backend: Backend,
}

/// What annotations begin with.
const PREFIX: &str = "dev.nixview.";

/// The options that annotations have as well.
const NAMES: [&str; 6] = ["closure", "upper", "readonly", "owner", "store", "backend"];

impl Arguments {
    /// Reads the command line.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, Failure> {
        use lexopt::Arg::{Long, Value};
        let usage = |error: lexopt::Error| Failure::new(error.to_string()).hint("nixview-oci-hook --help");
        let text = |word: OsString| {
            word.into_string()
                .map_err(|word| Failure::new(format!("an argument is no UTF-8: {}", word.display())))
        };
        let mut parsed = Self::default();
        let mut parser = lexopt::Parser::from_args(arguments.iter().cloned());
        while let Some(argument) = parser.next().map_err(usage)? {
            match argument {
                Value(stage) if stage == "createRuntime" => parsed.stage = Some(Stage::CreateRuntime),
                Value(stage) if stage == "poststop" => parsed.stage = Some(Stage::Poststop),
                Long("state-dir") => parsed.dirs.state = Some(parser.value().map_err(usage)?.into()),
                Long("runtime-dir") => parsed.dirs.runtime = Some(parser.value().map_err(usage)?.into()),
                Long("nixview") => parsed.nixview = Some(parser.value().map_err(usage)?.into()),
                Long("readonly") => {
                    let value = parser.optional_value().map_or(Ok("true".to_owned()), text)?;
                    parsed.wanted.insert("readonly".to_owned(), value);
                }
                Long(name) if NAMES.contains(&name) => {
                    let name = name.to_owned();
                    parsed.wanted.insert(name, text(parser.value().map_err(usage)?)?);
                }
                other => return Err(usage(other.unexpected())),
            }
        }
        Ok(parsed)
    }

    /// A connection to whoever serves.
    pub(crate) fn client(&self) -> Result<Client, ControlError> {
        self.dirs.client_or(self.nixview.as_deref())
    }

    /// What is wanted; `None` if no view is.
    ///
    /// Where the arguments name a closure, whoever wrote them decides alone: annotations, which may be another's, are
    /// not looked at.
    pub(crate) fn wanted(&self, annotations: &BTreeMap<String, String>) -> Result<Option<Wanted>, Failure> {
        if self.wanted.contains_key("closure") {
            return wanted(&self.wanted, "--").map(Some);
        }
        let ours = annotations.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(PREFIX)?;
            Some((name.to_owned(), value.clone()))
        });
        let mut all: BTreeMap<String, String> = ours.collect();
        if !all.contains_key("closure") {
            return Ok(None);
        }
        if let Some(unknown) = all.keys().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(Failure::new(format!("there is no annotation '{PREFIX}{unknown}'"))
                .hint(format!("those that there are: {PREFIX}{}", NAMES.join(&format!(", {PREFIX}")))));
        }
        all.extend(self.wanted.clone());
        wanted(&all, PREFIX).map(Some)
    }
}

fn wanted(values: &BTreeMap<String, String>, prefix: &str) -> Result<Wanted, Failure> {
    let wrong = |name: &str, value: &str, must: &str| {
        Failure::new(format!("{prefix}{name} is '{value}': it must be {must}"))
    };
    let path = |name: &str| match values.get(name) {
        None => Ok(None),
        Some(text) if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        Some(text) => Err(wrong(name, text, "an absolute path")),
    };
    let Some(closure) = path("closure")? else {
        return Err(Failure::new("no closure is named"));
    };
    let read_only = match values.get("readonly").map(String::as_str) {
        None | Some("false" | "0" | "no") => false,
        Some("true" | "1" | "yes" | "") => true,
        Some(other) => return Err(wrong("readonly", other, "'true' or 'false'")),
    };
    let upper = match values.get("upper").map(String::as_str) {
        Some(_) if read_only => {
            return Err(Failure::new(format!("{prefix}upper and {prefix}readonly do not go together")));
        }
        None if read_only => Upper::ReadOnly,
        None | Some("tmp") => Upper::Temporary,
        Some(text) if text.starts_with('/') => Upper::Directory { path: text.into() },
        Some(text) => return Err(wrong("upper", text, "'tmp' or an absolute path")),
    };
    let owner = match values.get("owner") {
        None => (0, 0),
        Some(text) => ids(text).ok_or_else(|| wrong("owner", text, "two numbers, as in 1000:100"))?,
    };
    let backend = match values.get("backend") {
        None => Backend::Auto,
        Some(text) => {
            Backend::of_name(text).ok_or_else(|| wrong("backend", text, "auto, fuse or overlay"))?
        }
    };
    Ok(Wanted { closure, upper, owner, store: path("store")?, backend })
}

fn ids(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    Some((id(uid)?, id(gid)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Arguments::parse(&words).unwrap()
    }

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_is_done_without_a_closure() {
        let others = BTreeMap::from([("io.other.closure".to_owned(), "/x".to_owned())]);
        for words in [&[][..], &["poststop"], &["--store", "/s"]] {
            assert_eq!(arguments(words).wanted(&others).unwrap(), None);
        }
        assert_eq!(arguments(&[]).wanted(&annotations(&[("upper", "/u")])).unwrap(), None);
    }

    #[test]
    fn annotations_say_what_is_wanted() {
        let plain = arguments(&[]).wanted(&annotations(&[("closure", "/l")])).unwrap().unwrap();
        let want = Wanted {
            closure: "/l".into(),
            upper: Upper::Temporary,
            owner: (0, 0),
            store: None,
            backend: Backend::Auto,
        };
        assert_eq!(plain, want);
        let all = [
            ("closure", "/l"),
            ("upper", "/u"),
            ("owner", "7:8"),
            ("store", "/s"),
            ("readonly", "false"),
            ("backend", "fuse"),
        ];
        let full = arguments(&["--store", "/t"]).wanted(&annotations(&all)).unwrap().unwrap();
        let upper = Upper::Directory { path: "/u".into() };
        assert_eq!(
            full,
            Wanted { upper, owner: (7, 8), store: Some("/t".into()), backend: Backend::Fuse, ..want }
        );
    }

    #[test]
    fn who_names_a_closure_in_arguments_decides_alone() {
        let theirs = annotations(&[("closure", "/evil"), ("upper", "/etc"), ("readonly", "maybe")]);
        let words = ["createRuntime", "--closure=/l", "--readonly", "--owner", "1:2"];
        let parsed = arguments(&words);
        assert_eq!(parsed.stage, Some(Stage::CreateRuntime));
        let wanted = parsed.wanted(&theirs).unwrap().unwrap();
        assert_eq!((wanted.closure, wanted.upper, wanted.owner), ("/l".into(), Upper::ReadOnly, (1, 2)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |pairs: &[(&str, &str)]| {
            let mut all = annotations(&[("closure", "/l")]);
            all.extend(annotations(pairs));
            arguments(&[]).wanted(&all).unwrap_err().lines().concat()
        };
        for (name, value) in [
            ("closure", "relative"),
            ("upper", "relative"),
            ("store", ""),
            ("owner", "1"),
            ("owner", "4294967295:0"),
            ("readonly", "maybe"),
            ("uper", "/x"),
        ] {
            assert!(refused(&[(name, value)]).contains(&format!("dev.nixview.{name}")), "{name}={value}");
        }
        assert!(refused(&[("upper", "tmp"), ("readonly", "true")]).contains("together"));
        for words in [&["--colour"][..], &["--closure"], &["start"]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            Arguments::parse(&words).unwrap_err();
        }
    }
}
