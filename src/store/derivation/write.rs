//! Writing a derivation as Nix writes it (`Derivation::unparse` in `src/libstore/derivations.cc`).

use super::{Derivation, Output};
use crate::store::path::{StoreDir, StorePath};

/// What stands for the input derivations: their names, or what their hashes are (for the hash of a derivation).
pub(super) type Inputs = Vec<(Vec<u8>, Vec<String>)>;

fn quoted(to: &mut Vec<u8>, text: &[u8]) {
    to.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => to.extend([b'\\', byte]),
            b'\n' => to.extend(b"\\n"),
            b'\r' => to.extend(b"\\r"),
            b'\t' => to.extend(b"\\t"),
            other => to.push(other),
        }
    }
    to.push(b'"');
}

fn list<T>(to: &mut Vec<u8>, all: impl IntoIterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    to.push(b'[');
    for (number, one) in all.into_iter().enumerate() {
        if number > 0 {
            to.push(b',');
        }
        write(to, one);
    }
    to.push(b']');
}

fn full(dir: &StoreDir, path: &StorePath) -> String {
    format!("{dir}/{path}")
}

impl Derivation {
    /// The ATerm of the derivation, exactly as Nix writes it.
    #[must_use]
    pub fn to_aterm(&self, dir: &StoreDir) -> Vec<u8> {
        let inputs = self
            .input_derivations
            .iter()
            .map(|(path, used)| (full(dir, path).into_bytes(), used.iter().cloned().collect()))
            .collect();
        self.written(dir, &inputs, false)
    }

    /// The same with other inputs, and with the outputs' own paths left out if `is_masked`.
    pub(super) fn written(&self, dir: &StoreDir, inputs: &Inputs, is_masked: bool) -> Vec<u8> {
        let mut text = b"Derive(".to_vec();
        list(&mut text, &self.outputs, |to, (name, output)| {
            let path = output.path().filter(|_| !is_masked).map(|path| full(dir, path)).unwrap_or_default();
            let (algorithm, hash) = match output {
                Output::InputAddressed(_) | Output::Deferred => ("", ""),
                Output::Fixed { algorithm, hash, .. } => (algorithm.as_str(), hash.as_str()),
                Output::Floating { algorithm } => (algorithm.as_str(), ""),
                Output::Impure { algorithm } => (algorithm.as_str(), "impure"),
            };
            to.push(b'(');
            for (number, part) in [name, path.as_str(), algorithm, hash].iter().enumerate() {
                if number > 0 {
                    to.push(b',');
                }
                quoted(to, part.as_bytes());
            }
            to.push(b')');
        });
        text.push(b',');
        list(&mut text, inputs, |to, (input, used)| {
            to.push(b'(');
            quoted(to, input);
            to.push(b',');
            list(to, used, |to, name| quoted(to, name.as_bytes()));
            to.push(b')');
        });
        text.push(b',');
        list(&mut text, &self.input_sources, |to, path| quoted(to, full(dir, path).as_bytes()));
        text.push(b',');
        quoted(&mut text, &self.system);
        text.push(b',');
        quoted(&mut text, &self.builder);
        text.push(b',');
        list(&mut text, &self.arguments, |to, argument| quoted(to, argument));
        text.push(b',');
        list(&mut text, &self.environment, |to, (name, value)| {
            let own =
                is_masked && std::str::from_utf8(name).is_ok_and(|name| self.outputs.contains_key(name));
            to.push(b'(');
            quoted(to, name);
            to.push(b',');
            quoted(to, if own { b"" } else { value });
            to.push(b')');
        });
        text.push(b')');
        text
    }
}
