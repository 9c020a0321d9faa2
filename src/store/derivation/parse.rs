//! The ATerm grammar of `.drv` files, as `parseDerivation` of Nix accepts it (`src/libstore/derivations.cc`).
//!
//! A list is read as Nix reads it: a comma before an element may be missing or stand in front of the first one, but
//! not after the last. There is no nesting beyond the fixed one, so depth is bounded by the grammar.

use std::collections::{BTreeMap, BTreeSet};

use super::{Derivation, Output};
use crate::store::path::{StoreDir, StorePath};

/// Where and why a text is no derivation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {problem}")]
pub struct ParseError {
    /// Offset of the byte that does not fit; the length of the text if it ends too early.
    pub offset: usize,
    /// What is wrong there.
    pub problem: String,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().take(300).map(char::from).collect()
}

fn fail<T>(offset: usize, problem: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError { offset, problem: problem.into() })
}

impl Reader<'_> {
    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expect(&mut self, wanted: &'static str) -> Result<(), ParseError> {
        let common = self.rest().iter().zip(wanted.as_bytes()).take_while(|(a, b)| a == b).count();
        if common == wanted.len() {
            self.at += common;
            return Ok(());
        }
        let offset = self.at + common;
        if offset >= self.text.len() {
            return fail(self.text.len(), format!("the text ends where '{wanted}' is expected"));
        }
        fail(offset, format!("'{wanted}' is expected"))
    }

    /// True at the end of a list, which is consumed; else a comma before the next element is.
    fn end_of_list(&mut self) -> bool {
        match self.rest().first() {
            Some(b',') => {
                self.at += 1;
                false
            }
            Some(b']') => {
                self.at += 1;
                true
            }
            _ => false,
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, ParseError> {
        self.expect("\"")?;
        let rest = self.rest();
        let mut length = 0;
        let mut escapes = 0;
        loop {
            match rest.get(length) {
                None => return fail(self.text.len(), "the text ends inside a string"),
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes += 1;
                    length += 2;
                }
                Some(_) => length += 1,
            }
        }
        let raw = rest.get(..length).unwrap_or_default();
        let mut value = Vec::with_capacity(length - escapes);
        let mut bytes = raw.iter();
        while let Some(&byte) = bytes.next() {
            value.push(match byte {
                b'\\' => match bytes.next() {
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b't') => b'\t',
                    Some(&other) => other,
                    None => return fail(self.text.len(), "the text ends inside a string"),
                },
                other => other,
            });
        }
        self.at += length + 1;
        Ok(value)
    }

    fn path(&mut self, dir: &StoreDir) -> Result<StorePath, ParseError> {
        let offset = self.at;
        let full = self.string()?;
        store_path(dir, &full, offset)
    }

    fn output_name(&mut self) -> Result<String, ParseError> {
        let offset = self.at;
        let name = self.string()?;
        let fits = |b: &u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(b);
        match String::from_utf8(name) {
            Ok(name) if !name.is_empty() && name.as_bytes().iter().all(fits) => Ok(name),
            Ok(name) => fail(offset, format!("'{}' is no name of an output", shown(name.as_bytes()))),
            Err(error) => fail(offset, format!("'{}' is no name of an output", shown(error.as_bytes()))),
        }
    }

    fn strings<C: Default + Extend<Vec<u8>>>(&mut self) -> Result<C, ParseError> {
        self.expect("[")?;
        let mut all = C::default();
        while !self.end_of_list() {
            all.extend([self.string()?]);
        }
        Ok(all)
    }
}

fn store_path(dir: &StoreDir, full: &[u8], offset: usize) -> Result<StorePath, ParseError> {
    dir.parse(full).map_err(|error| ParseError { offset, problem: error.to_string() })
}

/// The digits that a hash of this algorithm has in base 16, base 32 and base 64; `None` for an unknown algorithm.
fn hash_lengths(algorithm: &str) -> Option<[usize; 3]> {
    let bytes = match algorithm.strip_prefix("r:").unwrap_or(algorithm) {
        "md5" => 16_usize,
        "sha1" => 20,
        "sha256" => 32,
        "sha512" => 64,
        _ => return None,
    };
    Some([bytes * 2, (bytes * 8).div_ceil(5), bytes.div_ceil(3) * 4])
}

fn output(reader: &mut Reader<'_>, dir: &StoreDir) -> Result<Output, ParseError> {
    let path_at = reader.at;
    let path = reader.string()?;
    reader.expect(",")?;
    let algorithm_at = reader.at;
    let algorithm = String::from_utf8(reader.string()?).unwrap_or_else(|_| "not UTF-8".to_owned());
    reader.expect(",")?;
    let hash_at = reader.at;
    let hash = reader.string()?;
    if algorithm.is_empty() {
        return if path.is_empty() {
            Ok(Output::Deferred)
        } else {
            store_path(dir, &path, path_at).map(Output::InputAddressed)
        };
    }
    let Some(lengths) = hash_lengths(&algorithm) else {
        let name = shown(algorithm.as_bytes());
        return fail(algorithm_at, format!("'{name}' is no hash algorithm that Nix knows"));
    };
    match hash.as_slice() {
        b"" | b"impure" if !path.is_empty() => {
            fail(path_at, "an output without a fixed hash cannot have a path")
        }
        b"" => Ok(Output::Floating { algorithm }),
        b"impure" => Ok(Output::Impure { algorithm }),
        _ => {
            let digits = hash.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b));
            match String::from_utf8(hash) {
                Ok(hash) if digits && lengths.contains(&hash.len()) => {
                    Ok(Output::Fixed { path: store_path(dir, &path, path_at)?, algorithm, hash })
                }
                _ => fail(hash_at, format!("it is no {algorithm} hash")),
            }
        }
    }
}

/// What Nix demands of the outputs together (`BasicDerivation::type`).
fn check_kinds(outputs: &BTreeMap<String, Output>, offset: usize) -> Result<(), ParseError> {
    let Some((first_name, first)) = outputs.first_key_value() else {
        return fail(offset, "a derivation has at least one output");
    };
    let same = |o: &Output| std::mem::discriminant(o) == std::mem::discriminant(first);
    if !outputs.values().all(same) {
        return fail(offset, "the kinds of the outputs are mixed");
    }
    match first {
        Output::Fixed { .. } if outputs.len() > 1 => fail(offset, "only one output can have a fixed hash"),
        Output::Fixed { .. } if first_name != "out" => {
            fail(offset, "an output with a fixed hash must be named 'out'")
        }
        Output::Floating { .. } if outputs.values().any(|o| o != first) => {
            fail(offset, "the hash algorithms of the outputs differ")
        }
        _ => Ok(()),
    }
}

pub(super) fn derivation(dir: &StoreDir, text: &[u8]) -> Result<Derivation, ParseError> {
    let mut reader = Reader { text, at: 0 };
    reader.expect("Derive([")?;
    let outputs_at = reader.at;
    let mut outputs = BTreeMap::new();
    while !reader.end_of_list() {
        reader.expect("(")?;
        let name = reader.output_name()?;
        reader.expect(",")?;
        let value = output(&mut reader, dir)?;
        reader.expect(")")?;
        outputs.entry(name).or_insert(value);
    }
    check_kinds(&outputs, outputs_at)?;
    reader.expect(",[")?;
    let mut input_derivations = BTreeMap::new();
    while !reader.end_of_list() {
        reader.expect("(")?;
        let path = reader.path(dir)?;
        reader.expect(",[")?;
        let mut used = BTreeSet::new();
        while !reader.end_of_list() {
            used.insert(reader.output_name()?);
        }
        reader.expect(")")?;
        input_derivations.insert(path, used);
    }
    reader.expect(",[")?;
    let mut input_sources = BTreeSet::new();
    while !reader.end_of_list() {
        input_sources.insert(reader.path(dir)?);
    }
    reader.expect(",")?;
    let system = reader.string()?;
    reader.expect(",")?;
    let builder = reader.string()?;
    reader.expect(",")?;
    let arguments = reader.strings::<Vec<_>>()?;
    reader.expect(",[")?;
    let mut environment = BTreeMap::new();
    while !reader.end_of_list() {
        reader.expect("(")?;
        let name = reader.string()?;
        reader.expect(",")?;
        environment.insert(name, reader.string()?);
        reader.expect(")")?;
    }
    reader.expect(")")?;
    Ok(Derivation { outputs, input_derivations, input_sources, system, builder, arguments, environment })
}
