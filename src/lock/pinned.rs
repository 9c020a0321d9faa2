//! What must be a root of Nix's collector, so that it takes nothing of a closure.

use super::format::EnvLock;
use crate::closure::{Closure, Mode};
use crate::store::StorePath;

impl EnvLock {
    /// The paths that must be roots, so that no member of `closure` goes: in mode `runtime` the roots and extra roots, whose
    /// references are the closure. In the others, and where a part of it is kept, the members are not what the collector follows from the roots (it follows no outputs
    /// of a derivation, unless `keep-outputs` is set), so that each is a root of its own.
    #[must_use]
    pub fn to_pin(&self, closure: &Closure) -> Vec<StorePath> {
        self.few_to_pin().unwrap_or_else(|| closure.paths().to_vec())
    }

    /// As [`EnvLock::to_pin`]; `None` if it is every member.
    #[must_use]
    pub fn few_to_pin(&self) -> Option<Vec<StorePath>> {
        match self.mode {
            Mode::Runtime if self.only.is_none() => Some(self.starts().paths()),
            Mode::Runtime | Mode::Build | Mode::Dev => None,
        }
    }
}
