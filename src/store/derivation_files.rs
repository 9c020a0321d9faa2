//! References of derivations out of their `.drv` files, of everything else out of another source.

use super::derivation::Derivation;
use super::location::Location;
use super::path::StorePath;
use super::references::{OutputPath, ReferenceError, References};

/// The `.drv` files of a store, whether they are registered or not, and what was built.
pub struct DerivationFiles<B> {
    location: Location,
    built: B,
}

impl<B: References> DerivationFiles<B> {
    /// Takes derivations from the files at `location`, everything else from `built`.
    #[must_use]
    pub fn new(location: Location, built: B) -> Self {
        Self { location, built }
    }
}

impl<B: References> References for DerivationFiles<B> {
    fn origin(&self) -> String {
        format!("the .drv files of {} with {}", self.location.real.display(), self.built.origin())
    }

    fn references(&self, path: &StorePath) -> Result<Vec<StorePath>, ReferenceError> {
        if path.is_derivation() {
            return Ok(self.derivation(path)?.references());
        }
        self.built.references(path)
    }

    fn is_valid(&self, path: &StorePath) -> Result<bool, ReferenceError> {
        if path.is_derivation() {
            return Ok(self.location.real_path(path).is_file());
        }
        self.built.is_valid(path)
    }

    fn outputs(&self, derivation: &StorePath) -> Result<Vec<OutputPath>, ReferenceError> {
        let outputs = self.derivation(derivation)?.output_paths();
        if outputs.iter().all(|output| output.path.is_some()) {
            return Ok(outputs);
        }
        match self.built.outputs(derivation) {
            Err(ReferenceError::NotRecorded { .. } | ReferenceError::Unknown { .. }) => Ok(outputs),
            told => told,
        }
    }

    fn derivation(&self, derivation: &StorePath) -> Result<Derivation, ReferenceError> {
        Derivation::read(&self.location, derivation)
            .map_err(|error| error.into_reference_error(&self.location))
    }

    fn nar_size(&self, path: &StorePath) -> Result<Option<u64>, ReferenceError> {
        if path.is_derivation() { Ok(None) } else { self.built.nar_size(path) }
    }
}
