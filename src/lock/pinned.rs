//! What must be a root of Nix's collector, so that it takes nothing of a closure.

use super::format::EnvLock;
use crate::closure::Mode;
use crate::store::StorePath;

impl EnvLock {
    /// The paths that must be roots, so that no member of the closure goes: in mode `runtime` the roots and extra roots,
    /// whose references are the closure. In the others, and where a part of it is kept, the members are not what the collector
    /// follows from the roots (it follows no outputs of a derivation, unless `keep-outputs` is set): `None`, only the members
    /// tell ([`Database::fewest_roots`](crate::store::database::Database::fewest_roots)).
    #[must_use]
    pub fn few_to_pin(&self) -> Option<Vec<StorePath>> {
        match self.mode {
            Mode::Runtime if self.only.is_none() => Some(self.starts().paths()),
            Mode::Runtime | Mode::Build | Mode::Dev => None,
        }
    }
}
