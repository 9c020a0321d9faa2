//! The JSON of `nix path-info --json`, in all shapes that it has had, and of `exportReferencesGraph`.
//!
//! - Before Nix 2.19: a list of objects with `path`; `"valid": false` for a path that is not.
//! - Since 2.19: an object keyed by full path; `null` for a path that is not valid.
//! - With `--json-format` 2 and 3: `{"version", "storeDir", "info"}` with base names everywhere and hashes as objects.
//! - `exportReferencesGraph` with structured attributes (`.attrs.json`): lists as the first shape, under the graphs' names.

use serde_json::{Map, Value};

use super::path::{StoreDir, StorePath};
use super::recorded::{Record, Recorded};
use crate::json;

/// The newest version of the format that is known.
const VERSION_MAX: u64 = 3;

/// Where and why a JSON text says nothing of store paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct PathInfoError {
    /// The place, as a path from the top (`.info.HASH-NAME.references[2]`), or `line L column C` of bad JSON.
    pub at: String,
    /// What is wrong there.
    pub problem: String,
}

fn fail<T>(at: &str, problem: impl Into<String>) -> Result<T, PathInfoError> {
    let at = if at.is_empty() { "the top" } else { at };
    Err(PathInfoError { at: at.to_owned(), problem: problem.into() })
}

/// A store path, in full or its base name alone.
fn store_path(dir: &StoreDir, text: &str, at: &str) -> Result<StorePath, PathInfoError> {
    let read = if text.starts_with('/') { dir.parse(text.as_bytes()) } else { text.parse() };
    read.or_else(|error| fail(at, error.to_string()))
}

fn path_of(dir: &StoreDir, value: &Value, at: &str) -> Result<StorePath, PathInfoError> {
    match value {
        Value::String(text) => store_path(dir, text, at),
        _ => fail(at, "a store path is expected"),
    }
}

/// What is said of one path; `None` if it says that the path is not valid.
fn record(dir: &StoreDir, value: &Value, at: &str) -> Result<Option<Record>, PathInfoError> {
    let info = match value {
        Value::Null => return Ok(None),
        Value::Object(info) => info,
        _ => return fail(at, "an object with 'references' is expected"),
    };
    if info.get("valid") == Some(&Value::Bool(false)) {
        return Ok(None);
    }
    let Some(Value::Array(list)) = info.get("references") else {
        return fail(at, "there is no list 'references'");
    };
    let references = list
        .iter()
        .enumerate()
        .map(|(i, value)| path_of(dir, value, &format!("{at}.references[{i}]")))
        .collect::<Result<Vec<_>, _>>()?;
    let deriver = match info.get("deriver") {
        None | Some(Value::Null) => None,
        // Nix's word for an unknown one in some places.
        Some(Value::String(text)) if text.is_empty() || text == "unknown-deriver" => None,
        Some(value) => Some(path_of(dir, value, &format!("{at}.deriver"))?),
    };
    let nar_size = match info.get("narSize") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_u64() {
            Some(size) => Some(size).filter(|size| *size > 0),
            None => return fail(&format!("{at}.narSize"), "a number of bytes is expected"),
        },
    };
    Ok(Some(Record { references, nar_size, deriver }))
}

fn add(
    all: &mut Recorded,
    dir: &StoreDir,
    path: StorePath,
    value: &Value,
    at: &str,
) -> Result<(), PathInfoError> {
    let Some(record) = record(dir, value, at)? else { return Ok(()) };
    if all.insert(path, record) { Ok(()) } else { fail(at, "the path is described twice, differently") }
}

fn add_list(all: &mut Recorded, dir: &StoreDir, list: &[Value], at: &str) -> Result<(), PathInfoError> {
    for (i, value) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let Some(path) = value.get("path") else { return fail(&at, "there is no 'path'") };
        let path = path_of(dir, path, &format!("{at}.path"))?;
        add(all, dir, path, value, &at)?;
    }
    Ok(())
}

fn add_object(
    all: &mut Recorded,
    dir: &StoreDir,
    object: &Map<String, Value>,
    at: &str,
) -> Result<(), PathInfoError> {
    for (key, value) in object {
        let at = format!("{at}.{}", key.chars().take(300).flat_map(char::escape_debug).collect::<String>());
        add(all, dir, store_path(dir, key, &at)?, value, &at)?;
    }
    Ok(())
}

fn is_graph(value: &Value) -> bool {
    value.as_array().is_some_and(|list| {
        !list.is_empty() && list.iter().all(|v| v.get("path").is_some() && v.get("references").is_some())
    })
}

/// Reads such a JSON text; `origin` names the file for people. Paths that it says are not valid are left out.
///
/// # Errors
/// With the place, if it is no JSON, has none of the known shapes or an unknown version, or is of another store.
pub fn parse(dir: &StoreDir, text: &[u8], origin: &str) -> Result<Recorded, PathInfoError> {
    let value: Value = json::from_slice(text).map_err(|error| PathInfoError {
        at: format!("line {} column {}", error.line(), error.column()),
        problem: error.to_string(),
    })?;
    let mut all = Recorded::new(origin);
    match &value {
        Value::Array(list) => add_list(&mut all, dir, list, "")?,
        Value::Object(object) => match (object.get("version"), object.get("info")) {
            (Some(version), Some(Value::Object(info))) => {
                match version.as_u64() {
                    Some(1..=VERSION_MAX) => {}
                    _ => {
                        return fail(
                            ".version",
                            format!("{version} is unknown; 1 to {VERSION_MAX} are known"),
                        );
                    }
                }
                match object.get("storeDir") {
                    None => {}
                    Some(Value::String(named)) if named == dir.as_str() => {}
                    Some(named) => return fail(".storeDir", format!("{named} is another store than {dir}")),
                }
                add_object(&mut all, dir, info, ".info")?;
            }
            _ if object.values().any(is_graph) => {
                for (name, list) in object.iter().filter(|(_, value)| is_graph(value)) {
                    let name: String = name.chars().take(300).flat_map(char::escape_debug).collect();
                    add_list(&mut all, dir, list.as_array().map_or(&[], Vec::as_slice), &format!(".{name}"))?;
                }
            }
            _ => add_object(&mut all, dir, object, "")?,
        },
        _ => return fail("", "a list or an object is expected"),
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use crate::store::References;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-b";

    fn read(text: &str) -> Result<Recorded, PathInfoError> {
        let text = text.replace("$A", A).replace("$B", B).replace("$S", "/nix/store");
        parse(&StoreDir::default(), text.as_bytes(), "a test")
    }

    #[test]
    fn every_shape_says_the_same() {
        for (shape, text) in [
            (
                "list",
                r#"[{"path":"$S/$A","narHash":"sha256:0","narSize":120,"references":["$S/$A","$S/$B"],"deriver":"$S/$B.drv","valid":true},
                   {"path":"$S/$B","narSize":7,"references":[]},{"path":"$S/$B.x","valid":false}]"#,
            ),
            (
                "object",
                r#"{"$S/$A":{"narHash":"sha256-0","narSize":120,"references":["$S/$A","$S/$B"],"deriver":"$S/$B.drv"},
                   "$S/$B":{"narSize":7,"references":[],"deriver":null},"$S/$B.x":null}"#,
            ),
            (
                "versioned",
                r#"{"version":2,"storeDir":"$S","info":{"$A":{"version":2,"narHash":{"algorithm":"sha256","format":"base64","hash":"0"},
                   "narSize":120,"references":["$A","$B"],"deriver":"$B.drv","storeDir":"$S"},"$B":{"narSize":7,"references":[]}}}"#,
            ),
            (
                "graph",
                r#"{"name":"x","outputs":{"out":"$S/$A"},"closure":[{"path":"$S/$A","narSize":120,"closureSize":127,"references":["$S/$A","$S/$B"],"deriver":"$S/$B.drv"},
                   {"path":"$S/$B","narSize":7,"references":[]}]}"#,
            ),
        ] {
            let all = read(text).unwrap();
            assert_eq!(all.count(), 2, "{shape}");
            let (a, b): (StorePath, StorePath) = (A.parse().unwrap(), B.parse().unwrap());
            assert_eq!(all.references(&a).unwrap(), [a.clone(), b.clone()], "{shape}");
            assert_eq!(all.get(&a).unwrap().nar_size, Some(120), "{shape}");
            assert_eq!(all.get(&a).unwrap().deriver.as_ref().unwrap().name(), "b.drv", "{shape}");
            assert_eq!(all.roots(), [a], "{shape}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (text, at) in [
            ("{", "line 1 column 1"),
            ("3", "the top"),
            (r#"[{"references":[]}]"#, "[0]"),
            (r#"[{"path":"$S/$A"}]"#, "[0]"),
            (r#"[{"path":"$S/$A","references":["$S/$B","/tmp/x"]}]"#, "[0].references[1]"),
            (r#"{"$S/$A":{"references":[],"narSize":"7"}}"#, ".$S/$A.narSize"),
            (r#"{"version":4,"info":{}}"#, ".version"),
            (r#"{"version":2,"storeDir":"/gnu/store","info":{}}"#, ".storeDir"),
            (r#"[{"path":"$S/$A","references":[]},{"path":"$S/$A","references":["$S/$B"]}]"#, "[1]"),
            (r#"{"x":1}"#, ".x"),
        ] {
            let at = at.replace("$A", A).replace("$S", "/nix/store");
            assert_eq!(read(text).unwrap_err().at, at, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).unwrap_err().problem.contains("recursion"));
    }
}
