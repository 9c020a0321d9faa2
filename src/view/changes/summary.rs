//! Changes, counted.

use super::{Change, What};

/// How many changes there are, and how much they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Paths that the lower does not have.
    pub added: u64,
    /// Paths that the lower has and the view does not, with all that was in directories.
    pub deleted: u64,
    /// Paths with another content.
    pub modified: u64,
    /// Paths with other metadata alone.
    pub metadata: u64,
    /// Paths of another kind.
    pub type_changed: u64,
    /// Lengths of the files that were added, modified, or are of another kind now, in bytes.
    pub bytes_after: u64,
    /// Lengths of the files of the lower in the place of these, and of those that were deleted, in bytes.
    pub bytes_before: u64,
}

impl Summary {
    /// Counts one more.
    pub fn add(&mut self, change: &Change) {
        let after = change.after.map_or(0, |facts| facts.size);
        let before = change.before.map_or(0, |facts| facts.size);
        let (count, number, before, after) = match &change.what {
            What::Added => (&mut self.added, 1, 0, after),
            What::Deleted(extent) => (&mut self.deleted, extent.names, extent.bytes, 0),
            What::Modified(_) => (&mut self.modified, 1, before, after),
            What::Metadata(_) => (&mut self.metadata, 1, 0, 0),
            What::TypeChanged(extent) => (&mut self.type_changed, 1, extent.bytes, after),
        };
        *count += number;
        self.bytes_before = self.bytes_before.saturating_add(before);
        self.bytes_after = self.bytes_after.saturating_add(after);
    }

    /// Adds what another counted.
    pub fn add_all(&mut self, other: &Self) {
        self.added += other.added;
        self.deleted += other.deleted;
        self.modified += other.modified;
        self.metadata += other.metadata;
        self.type_changed += other.type_changed;
        self.bytes_after = self.bytes_after.saturating_add(other.bytes_after);
        self.bytes_before = self.bytes_before.saturating_add(other.bytes_before);
    }

    /// True if nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
