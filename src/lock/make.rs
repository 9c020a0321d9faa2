//! Making a lock out of what was given.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::LockError;
use super::evaluate::{Argument, Evaluator, Expression};
use super::format::{
    EnvLock, ExtraRoot, LockedClosure, MAX_NAME, Recorded as How, Root, check_name, read_bounded,
};
use super::given::Given;
use super::known::Known;
use super::realise::{Wanted, can_realise, is_missing, to_realise};
use super::remember::{Remembering, evaluate};
use super::source::{Kind, Source, SourceFile};
use super::starts::Starts;
use crate::closure::{Cache, Closure, Mode, outputs};
use crate::store::{Derivation, Location, Recorded, StorePath, path_info, path_list};

/// How an expression came to its derivations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// Nothing was to be evaluated.
    None,
    /// It is remembered from an evaluation with exactly the same inputs.
    Remembered,
    /// It was evaluated, and the next time with the same inputs need not be.
    Evaluated,
    /// It was evaluated and will be each time, as the text says why.
    Doubtful(String),
}

/// What to lock, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What was given, as people wrote it and as it was recognised.
    pub given: Vec<(String, Given)>,
    /// The text of standard input, for [`Given::List`].
    pub list: Vec<u8>,
    /// Paths that are added with their runtime closures: names, and what was given.
    pub extra_roots: Vec<(String, Given)>,
    /// Which closure.
    pub mode: Mode,
    /// The name of the environment; by default that of the first thing given.
    pub name: Option<String>,
    /// Ask Nix to build or fetch what is missing.
    pub realise: bool,
    /// What is passed to the evaluation.
    pub arguments: Vec<Argument>,
    /// What the expression depends on; if empty, its folder.
    pub inputs: Vec<PathBuf>,
    /// Evaluate also if the result is remembered.
    pub evaluate: bool,
    /// The file that the lock is written to, which is no input.
    pub lock_file: Option<PathBuf>,
    /// The environment variables of the caller, which Nix will see.
    pub environment: BTreeMap<String, String>,
}

/// A new lock and what it was made of.
pub struct Made {
    /// The lock.
    pub lock: EnvLock,
    /// The closure that it pins.
    pub closure: Closure,
    /// What the closure was computed from.
    pub known: Known,
    /// How the expression was evaluated.
    pub evaluation: Evaluation,
}

/// What was given, as roots of a closure.
struct Gathered {
    source: Source,
    /// Paths and outputs of derivations, in order.
    wanted: Vec<Wanted>,
    recorded: Option<Recorded>,
    evaluation: Evaluation,
    system: Option<String>,
    name: Option<String>,
}

/// Makes a lock.
///
/// Evaluates and builds through Nix's programs only where an expression or `realise` asks for it; the store itself is
/// only read.
///
/// # Errors
/// If something given cannot be read or evaluated, an output is not built (and `realise` was not asked for), or the
/// closure cannot be computed.
pub fn make(request: &Request, location: &Location, state_dir: &Path) -> Result<Made, LockError> {
    let Gathered { source, wanted, recorded, evaluation, system, name } =
        gather(request, location, state_dir)?;
    let extra_roots = extra_roots(&request.extra_roots)?;
    let cache = Cache::open(state_dir);
    let compute = |recorded: Option<Recorded>| {
        let known = Known::open(location, recorded, state_dir)?;
        let roots = roots(&known, &wanted, request.mode)?;
        let closure = Starts::new(&roots, &extra_roots, request.mode).closure(&known, &cache)?;
        Ok::<_, LockError>((known, roots, closure))
    };
    let (known, roots, closure) = match compute(recorded.clone()) {
        Err(LockError::Closure(error)) if request.realise && is_missing(&error) && can_realise(location) => {
            let mut missing = to_realise(&wanted, request.mode, location)?;
            let extra: Vec<Wanted> =
                extra_roots.iter().map(|extra| Wanted::Path(extra.path.clone())).collect();
            missing.extend(to_realise(&extra, Mode::Runtime, location)?);
            Evaluator { location }.realise(&missing)?;
            compute(recorded)?
        }
        other => other?,
    };
    let system = system.or_else(|| system_of(&known, &roots, location));
    let lock = EnvLock {
        closure: LockedClosure {
            count: closure.count() as u64,
            digest: Digest::parse(&closure.digest())
                .map_err(|problem| LockError::Malformed { origin: "the new lock".to_owned(), problem })?,
            nar_size: closure.nar_size(),
            references: known.is_scan().then_some(How::Scan),
        },
        environment: None,
        extra_roots,
        mode: request.mode,
        only: None,
        name: request.name.clone().or(name).unwrap_or_else(|| default_name(&roots)),
        roots,
        source,
        store_dir: location.dir.clone(),
        system,
    };
    Ok(Made { lock, closure, known, evaluation })
}

/// The extra roots, sorted by name.
fn extra_roots(given: &[(String, Given)]) -> Result<Vec<ExtraRoot>, LockError> {
    let mut all: Vec<ExtraRoot> = Vec::new();
    for (name, given) in given {
        let bad = |problem: String| LockError::Source { given: name.clone(), problem };
        check_name(name).map_err(|problem| bad(format!("the name of an extra root {problem}")))?;
        let path = match given {
            Given::Path(path) if !path.is_derivation() => path.clone(),
            Given::Path(_) | Given::Outputs { .. } => {
                return Err(bad(
                    "an extra root is a path that is built, not a derivation: give its output".to_owned()
                ));
            }
            _ => return Err(bad("an extra root is one store path, or a link to one".to_owned())),
        };
        if all.iter().any(|extra| extra.name == *name) {
            return Err(bad("an extra root of this name was given twice".to_owned()));
        }
        all.push(ExtraRoot { name: name.clone(), path });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn gather(request: &Request, location: &Location, state_dir: &Path) -> Result<Gathered, LockError> {
    let texts = request.given.iter().map(|(text, _)| without_folder(text)).collect();
    let mut all = Gathered {
        source: Source::new(Kind::Paths, texts),
        wanted: Vec::new(),
        recorded: None,
        evaluation: Evaluation::None,
        system: None,
        name: None,
    };
    let mut rich: Option<&str> = None;
    for (text, given) in &request.given {
        if !matches!(given, Given::Path(_) | Given::Outputs { .. })
            && let Some(other) = rich.replace(text)
        {
            return Err(LockError::Source {
                given: text.clone(),
                problem: format!(
                    "together with '{other}' only store paths and outputs of derivations can be given"
                ),
            });
        }
        all.add(text, given, request, location, state_dir)?;
    }
    Ok(all)
}

impl Gathered {
    fn add(
        &mut self,
        text: &str,
        given: &Given,
        request: &Request,
        location: &Location,
        state_dir: &Path,
    ) -> Result<(), LockError> {
        let bad = |problem: String| LockError::Source { given: text.to_owned(), problem };
        match given {
            Given::Path(path) if path.is_derivation() => self.outputs(path, &[]),
            Given::Path(path) => self.wanted.push(Wanted::Path(path.clone())),
            Given::Outputs { derivation, outputs } => self.outputs(derivation, outputs),
            Given::ClosureInfo(dir) => {
                let recorded =
                    path_list::read_closure_info(&location.dir, dir).map_err(|e| bad(e.to_string()))?;
                self.source.kind = Kind::ClosureInfo;
                for name in ["registration", "store-paths"] {
                    let contents = read_bounded(&dir.join(name), path_list::SIZE_MAX)?;
                    self.file(name.to_owned(), &contents);
                }
                self.recorded(recorded, text)?;
            }
            Given::PathInfo(file) => {
                let contents = read_bounded(file, path_list::SIZE_MAX)?;
                let recorded = path_info::parse(&location.dir, &contents, &format!("the file {text}"))
                    .map_err(|e| bad(format!("it is no JSON of 'nix path-info': {e}")))?;
                self.source.kind = Kind::PathInfo;
                self.file(without_folder(text), &contents);
                self.recorded(recorded, text)?;
            }
            Given::List => {
                self.source.kind = Kind::List;
                let list = std::str::from_utf8(&request.list)
                    .map_err(|error| bad(format!("the list on standard input is no text: {error}")))?;
                let mut seen = BTreeSet::new();
                for line in list.lines().map(str::trim_end).filter(|l| !l.is_empty() && seen.insert(*l)) {
                    match Given::from_line(line, location)? {
                        Given::Path(path) if !path.is_derivation() => self.wanted.push(Wanted::Path(path)),
                        Given::Path(path) => self.outputs(&path, &[]),
                        Given::Outputs { derivation, outputs } => self.outputs(&derivation, &outputs),
                        other => return Err(bad(format!("a list cannot have {other:?} in it"))),
                    }
                    self.source.kind = Kind::List;
                }
                if seen.is_empty() {
                    return Err(bad("standard input has no store path".to_owned()));
                }
            }
            Given::Expression { file, attribute } => {
                self.expression(file, attribute.as_deref(), request, location, state_dir)?;
            }
        }
        Ok(())
    }

    fn outputs(&mut self, derivation: &StorePath, names: &[String]) {
        if self.source.kind == Kind::Paths {
            self.source.kind = Kind::Derivations;
        }
        self.wanted.push(Wanted::Outputs(derivation.clone(), names.to_vec()));
    }

    fn file(&mut self, name: String, contents: &[u8]) {
        self.source.files.push(SourceFile { digest: Digest::of(contents), name });
    }

    fn recorded(&mut self, recorded: Recorded, text: &str) -> Result<(), LockError> {
        if recorded.count() == 0 {
            return Err(LockError::Source { given: text.to_owned(), problem: "it has no paths".to_owned() });
        }
        self.wanted.extend(recorded.roots().into_iter().map(Wanted::Path));
        self.recorded = Some(recorded);
        Ok(())
    }

    fn expression(
        &mut self,
        file: &Path,
        attribute: Option<&str>,
        request: &Request,
        location: &Location,
        state_dir: &Path,
    ) -> Result<(), LockError> {
        let expression = Expression {
            file: file.to_owned(),
            attribute: attribute.map(str::to_owned),
            arguments: request.arguments.clone(),
        };
        let found = evaluate(&Remembering {
            evaluator: Evaluator { location },
            expression: &expression,
            inputs: &request.inputs,
            lock_file: request.lock_file.as_deref(),
            environment: &request.environment,
            force: request.evaluate,
            state_dir,
        })?;
        self.source.kind = Kind::Expression;
        self.source.arguments = request.arguments.iter().flat_map(Argument::words).collect();
        self.source.attribute = expression.attribute;
        self.source.inputs = found.inputs;
        self.source.nix_version = Some(found.facts.version);
        self.source.search_path = found.search_path;
        self.file(found.file, &read_bounded(file, super::inputs::MAX_BYTES)?);
        for evaluated in found.derivations {
            self.wanted.push(Wanted::Outputs(evaluated.derivation, vec![evaluated.output]));
        }
        self.system = Some(found.facts.system);
        self.evaluation = found.evaluation;
        self.name = name_of(file, attribute);
        Ok(())
    }
}

/// The roots of the closure: in mode `runtime` outputs, else the derivations themselves.
fn roots(known: &Known, wanted: &[Wanted], mode: Mode) -> Result<Vec<Root>, LockError> {
    let references = known.references();
    let mut roots: Vec<Root> = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |root: Root| {
        if seen.insert(root.path.clone()) {
            roots.push(root);
        }
    };
    for wanted in wanted {
        match wanted {
            Wanted::Path(path) => add(Root::plain(path.clone())),
            Wanted::Outputs(derivation, _) if mode != Mode::Runtime => add(Root::plain(derivation.clone())),
            Wanted::Outputs(derivation, names) => {
                let names = if names.is_empty() {
                    references.outputs(derivation)?.into_iter().map(|output| output.name).collect()
                } else {
                    names.clone()
                };
                for name in names {
                    for path in outputs(references, derivation, std::slice::from_ref(&name))? {
                        add(Root { derivation: Some(derivation.clone()), output: Some(name.clone()), path });
                    }
                }
            }
        }
    }
    Ok(roots)
}

/// The system of the first derivation that is known to make a root.
fn system_of(known: &Known, roots: &[Root], location: &Location) -> Option<String> {
    let deriver = |root: &Root| match (&root.derivation, known) {
        (Some(derivation), _) => Some(derivation.clone()),
        (None, _) if root.path.is_derivation() => Some(root.path.clone()),
        (None, Known::Database(database)) => database.info(&root.path).ok()??.deriver,
        (None, _) => None,
    };
    roots.iter().filter_map(deriver).find_map(|derivation| {
        let system = String::from_utf8(Derivation::read(location, &derivation).ok()?.system).ok()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        (!system.is_empty() && system != "builtin" && system.bytes().all(plain)).then_some(system)
    })
}

/// The name of an expression: its attribute, its file, or its folder if the file has one of the usual names.
fn name_of(file: &Path, attribute: Option<&str>) -> Option<String> {
    let folder = || file.parent()?.file_name()?.to_str().map(str::to_owned);
    let name = match (attribute, file.file_stem()?.to_str()?) {
        (Some(attribute), _) => attribute.rsplit('.').next()?.to_owned(),
        (None, "default" | "shell") => folder()?,
        (None, stem) => stem.to_owned(),
    };
    Some(plain_name(&name))
}

fn default_name(roots: &[Root]) -> String {
    let name = roots.first().map(|root| root.path.name()).unwrap_or_default();
    plain_name(name.strip_suffix(".drv").unwrap_or(name))
}

/// A name as a lock may have it, near to `text`.
fn plain_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "+-._".contains(c) { c } else { '_' };
    let name: String = text.trim_start_matches('.').chars().map(plain).take(MAX_NAME).collect();
    if name.is_empty() { "env".to_owned() } else { name }
}

/// What was given, without the folder it lies in: that differs between machines and tells nothing.
fn without_folder(text: &str) -> String {
    let (path, rest) = text.split_at(text.find(['^', '#']).unwrap_or(text.len()));
    if path.contains("/store/") {
        return text.to_owned();
    }
    match Path::new(path).file_name().and_then(|name| name.to_str()) {
        Some(name) => format!("{name}{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    #[test]
    fn names_come_from_what_was_given() {
        let name = |file: &str, attribute| name_of(Path::new(file), attribute);
        assert_eq!(name("/p/web/default.nix", None).as_deref(), Some("web"));
        assert_eq!(name("/p/web/shell.nix", None).as_deref(), Some("web"));
        assert_eq!(name("/p/web/tools.nix", None).as_deref(), Some("tools"));
        assert_eq!(name("/p/web/default.nix", Some("envs.data sets")).as_deref(), Some("data_sets"));
        assert_eq!(plain_name("..hidden?=x"), "hidden__x");
        assert_eq!(plain_name("..."), "env");
        assert_eq!(plain_name(&"n".repeat(500)).len(), MAX_NAME);
    }

    #[test]
    fn each_path_of_a_long_list_is_a_root_once() {
        let path = |number: usize| -> StorePath { format!("{number:032}-x").parse().unwrap() };
        let count = 160_000;
        // Each twice. To look through all roots for each line would be 25 billion comparisons.
        let wanted: Vec<Wanted> = (0..2 * count).map(|number| Wanted::Path(path(number / 2))).collect();
        let known = Known::Recorded(Recorded::new("a test"));
        let roots = roots(&known, &wanted, Mode::Runtime).unwrap();
        assert!(roots.iter().map(|root| &root.path).eq((0..count).map(path).collect::<Vec<_>>().iter()));
    }

    #[test]
    fn folders_of_this_machine_are_not_recorded() {
        assert_eq!(without_folder("../project/shell.nix#web"), "shell.nix#web");
        assert_eq!(without_folder("/home/me/result^out"), "result^out");
        assert_eq!(without_folder("/nix/store/x-y.drv^out"), "/nix/store/x-y.drv^out");
        assert_eq!(without_folder("-"), "-");
        assert_eq!(without_folder("."), ".");
    }
}
