//! Derivations: their text (ATerm) and their hash modulo their inputs, from which output paths come.

use std::collections::BTreeMap;

use crate::store_path::{hex, sha256};

/// A derivation, as much of it as the tiny store needs.
#[derive(Clone, Debug, Default)]
pub struct Derivation {
    /// Output name → its full path.
    pub outputs: BTreeMap<String, String>,
    /// The flat SHA-256 of the only output, if it is fixed.
    pub fixed: Option<[u8; 32]>,
    /// Full path of an input derivation → the outputs that are used.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Full paths of input sources, sorted.
    pub sources: Vec<String>,
    /// The program that builds; the sources are its arguments.
    pub builder: String,
    /// The builder's variables, without those of the outputs.
    pub env: BTreeMap<String, String>,
}

impl Derivation {
    /// The text that Nix writes to the `.drv` file.
    #[must_use]
    pub fn text(&self) -> String {
        self.render(&self.inputs, &self.outputs)
    }

    /// The hash that the outputs' paths come from: own outputs blanked, inputs named by their hashes.
    /// `modulo` gives the hash of each input.
    #[must_use]
    pub fn modulo(&self, modulo: &BTreeMap<String, [u8; 32]>) -> [u8; 32] {
        if let (Some(flat), Some(out)) = (&self.fixed, self.outputs.get("out")) {
            return sha256(format!("fixed:out:sha256:{}:{out}", hex(flat)).as_bytes());
        }
        let blank = self.outputs.keys().map(|output| (output.clone(), String::new())).collect();
        let inputs = self.inputs.iter().map(|(drv, outputs)| (hex(&modulo[drv]), outputs.clone())).collect();
        sha256(self.render(&inputs, &blank).as_bytes())
    }

    fn render(&self, inputs: &BTreeMap<String, Vec<String>>, outputs: &BTreeMap<String, String>) -> String {
        let (algorithm, hash) =
            self.fixed.map_or((String::new(), String::new()), |flat| ("sha256".to_owned(), hex(&flat)));
        let outs = outputs.iter().map(|(name, path)| {
            format!("({},{},{},{})", quote(name), quote(path), quote(&algorithm), quote(&hash))
        });
        let ins = inputs
            .iter()
            .map(|(drv, used)| format!("({},{})", quote(drv), list(used.iter().map(|o| quote(o)))));
        let mut env = self.env.clone();
        env.extend(outputs.clone());
        format!(
            "Derive({},{},{},{},{},{},{})",
            list(outs),
            list(ins),
            list(self.sources.iter().map(|source| quote(source))),
            quote("x86_64-linux"),
            quote(&self.builder),
            list(self.sources.iter().map(|source| quote(source))),
            list(env.iter().map(|(name, value)| format!("({},{})", quote(name), quote(value)))),
        )
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
