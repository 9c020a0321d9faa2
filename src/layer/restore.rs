//! What taking changes back, and writing a tree that came from elsewhere, needs of an upper beside the union's part.

use std::io;

use super::Upper;
use crate::vfs::Name;

/// An upper whose changes can be taken back. Each change is one step, as those of [`Upper`] are.
pub trait Restore: Upper {
    /// Takes the mark of an opaque directory away, and the redirect that meant nothing in it: what the lower has at its
    /// path shows through, but for names that the upper has or hides.
    fn make_transparent(&self, dir: &Self::Object) -> io::Result<()>;

    /// Removes a name with all that is below it, or the whiteout there: what the lower has shows from then on.
    /// `ENOENT` if there is neither.
    fn discard(&self, dir: &Self::Object, name: &Name) -> io::Result<()>;
}
