//! Structured attributes: what `__structuredAttrs` gives a builder, as JSON and as declarations for bash.
//!
//! As Nix has them (`writeStructuredAttrsShell` in `src/libstore/parsed-derivations.cc`): only what bash can hold is
//! declared; numbers must be whole, true is 1 and false is empty.

use serde_json::Value;

use super::is_identifier;
use super::quote::{quote, quoted};
use crate::json;
use crate::store::{Derivation, StoreDir};

/// The JSON, with the paths of the outputs in place of their names, and the same for bash.
pub(super) fn structured(
    json: &[u8],
    derivation: &Derivation,
    store: &StoreDir,
) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut value: Value = json::from_slice(json).map_err(|e| format!("its attributes are no JSON: {e}"))?;
    let Some(map) = value.as_object_mut() else {
        return Err("its attributes are no JSON object".to_owned());
    };
    let outputs = derivation.outputs.iter().map(|(name, output)| {
        let path = output.path().map(|path| format!("{store}/{path}")).unwrap_or_default();
        (name.clone(), Value::String(path))
    });
    map.insert("outputs".to_owned(), Value::Object(outputs.collect()));
    let mut script = Vec::new();
    for (name, value) in map.iter().filter(|(name, _)| is_identifier(name)) {
        declare(name, value, &mut script);
    }
    let json = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
    Ok((json, script))
}

fn declare(name: &str, value: &Value, out: &mut Vec<u8>) {
    let (flags, words) = match value {
        Value::Array(list) => {
            let words: Option<Vec<Vec<u8>>> = list.iter().map(word).collect();
            ("-a ", words)
        }
        Value::Object(map) => {
            let item = |(key, value): (&String, &Value)| {
                let mut item = vec![b'['];
                quote(key.as_bytes(), &mut item);
                item.extend_from_slice(b"]=");
                item.extend_from_slice(&word(value)?);
                Some(item)
            };
            ("-A ", map.iter().map(item).collect())
        }
        simple => {
            if let Some(word) = word(simple) {
                out.extend_from_slice(format!("declare {name}=").as_bytes());
                out.extend_from_slice(&word);
                out.push(b'\n');
            }
            return;
        }
    };
    if let Some(words) = words {
        out.extend_from_slice(format!("declare {flags}{name}=(").as_bytes());
        out.extend_from_slice(&words.join(&b' '));
        out.extend_from_slice(b")\n");
    }
}

/// A value as one word; `None` if it is none.
fn word(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(quoted(text.as_bytes())),
        Value::Null => Some(b"''".to_vec()),
        Value::Bool(value) => Some(if *value { b"1".to_vec() } else { b"''".to_vec() }),
        Value::Number(number) => {
            let whole =
                number.as_i64().map(|n| n.to_string()).or_else(|| number.as_u64().map(|n| n.to_string()));
            let float = || number.as_f64().filter(|f| f.fract() == 0.0).map(|f| format!("{f:.0}"));
            whole.or_else(float).map(String::into_bytes)
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}
