//! The hash by which Nix finds what a content-addressed derivation was built to: `hashDerivationModulo`.
//!
//! It does not change when an input with a fixed output is fetched otherwise: such an input counts by its output, any
//! other by its own hash (`src/libstore/derivations.cc`; E. Dolstra, The Purely Functional Software Deployment Model, 5.4).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use sha2::{Digest, Sha256};

use super::{Derivation, Output};
use crate::store::location::Location;
use crate::store::nixbase32;
use crate::store::path::{StoreDir, StorePath};

use super::ReadError;

/// Computes such hashes of the derivations of a store, each `.drv` once.
pub struct Modulo<'a> {
    location: &'a Location,
    /// In base 16, by derivation and output; without the mask, as inputs count.
    known: HashMap<StorePath, BTreeMap<String, String>>,
}

fn base16(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash in base 16, whatever base it is written in.
fn hash_in_base16(algorithm: &str, hash: &str) -> String {
    let bytes = match algorithm.strip_prefix("r:").unwrap_or(algorithm) {
        "md5" => 16,
        "sha1" => 20,
        "sha512" => 64,
        _ => 32_usize,
    };
    let decoded = if hash.len() == bytes * 2 {
        return hash.to_ascii_lowercase();
    } else if hash.len() == nixbase32::encoded_len(bytes) {
        nixbase32::decode(hash.as_bytes())
    } else {
        base64::engine::general_purpose::STANDARD.decode(hash).ok()
    };
    decoded.map_or_else(|| hash.to_owned(), |bytes| base16(&bytes))
}

impl<'a> Modulo<'a> {
    /// For the derivations of a store.
    #[must_use]
    pub fn new(location: &'a Location) -> Self {
        Self { location, known: HashMap::new() }
    }

    /// For each output of a derivation the name of its realisation without the output: `sha256:` and base 16.
    ///
    /// # Errors
    /// If its `.drv` file or that of a derivation that it needs cannot be read.
    pub fn realisations(&mut self, derivation: &StorePath) -> Result<BTreeMap<String, String>, ReadError> {
        let read = Derivation::read(self.location, derivation)?;
        // Inputs first, without recursion: a chain of derivations may be long.
        let mut open: Vec<StorePath> = read.input_derivations.keys().cloned().collect();
        let mut entered = BTreeSet::new();
        while let Some(path) = open.last().cloned() {
            if self.known.contains_key(&path) {
                open.pop();
                continue;
            }
            let input = Derivation::read(self.location, &path)?;
            let is_fixed = input.outputs.values().any(|o| matches!(o, Output::Fixed { .. }));
            let before = open.len();
            if !is_fixed && entered.insert(path.clone()) {
                open.extend(input.input_derivations.keys().filter(|p| !self.known.contains_key(*p)).cloned());
            }
            if open.len() == before {
                open.pop();
                let hashes = self.hashes(&input, false);
                self.known.insert(path, hashes);
            }
        }
        let hashes = self.hashes(&read, true);
        Ok(hashes.into_iter().map(|(name, hash)| (name, format!("sha256:{hash}"))).collect())
    }

    /// The hashes of a derivation whose inputs are known.
    fn hashes(&self, derivation: &Derivation, is_masked: bool) -> BTreeMap<String, String> {
        let dir: &StoreDir = &self.location.dir;
        let fixed: BTreeMap<String, String> = derivation
            .outputs
            .iter()
            .filter_map(|(name, output)| {
                let Output::Fixed { path, algorithm, hash } = output else { return None };
                let hash = hash_in_base16(algorithm, hash);
                let text = format!("fixed:out:{algorithm}:{hash}:{dir}/{path}");
                Some((name.clone(), base16(&Sha256::digest(text))))
            })
            .collect();
        if !fixed.is_empty() {
            return fixed;
        }
        let mut inputs: BTreeMap<Vec<u8>, BTreeSet<String>> = BTreeMap::new();
        for (path, used) in &derivation.input_derivations {
            for name in used {
                // An output that the input does not have leaves a hash that nothing has.
                let hash = self.known.get(path).and_then(|hashes| hashes.get(name));
                let hash = hash.map_or_else(|| path.as_str(), String::as_str);
                inputs.entry(hash.as_bytes().to_vec()).or_default().insert(name.clone());
            }
        }
        let inputs = inputs.into_iter().map(|(hash, used)| (hash, used.into_iter().collect())).collect();
        let hash = base16(&Sha256::digest(derivation.written(dir, &inputs, is_masked)));
        derivation.outputs.keys().map(|name| (name.clone(), hash.clone())).collect()
    }
}
