//! The members of a closure, read when something needs them.

use std::cell::OnceCell;
use std::error::Error;
use std::io;
use std::sync::Arc;

use super::members::Members;
use crate::lock::VerifiedClosure;
use crate::vfs::Name;

/// The members of a closure that was found to be the one that was locked: read once, or never.
#[derive(Debug)]
pub struct LateMembers<'c> {
    closure: &'c VerifiedClosure<'c>,
    read: OnceCell<Arc<Members>>,
}

impl<'c> LateMembers<'c> {
    /// Those of `closure`. Nothing is read yet.
    #[must_use]
    pub fn new(closure: &'c VerifiedClosure<'c>) -> Self {
        Self { closure, read: OnceCell::new() }
    }

    /// The members.
    ///
    /// # Errors
    /// Those of reading the closure; that the names are too long for a set.
    pub fn get(&self) -> Result<Arc<Members>, Box<dyn Error + Send + Sync>> {
        if let Some(members) = self.read.get() {
            return Ok(Arc::clone(members));
        }
        let members = Members::of_names(self.closure.paths()?.names());
        let members =
            members.map_err(|length| format!("the names of the closure are {length} bytes long"))?;
        Ok(Arc::clone(self.read.get_or_init(|| Arc::new(members))))
    }

    /// Their names, sorted.
    ///
    /// # Errors
    /// As [`get`](Self::get); `EINVAL` for what is no name of a file.
    pub fn names(&self) -> Result<Vec<Name>, Box<dyn Error + Send + Sync>> {
        let names = self.get()?.iter().map(Name::new).collect::<Result<_, _>>();
        Ok(names.map_err(io::Error::from)?)
    }
}
