//! The rule of the union: what shows under a name, given what the two layers have there.
//!
//! The rule of the kernel's overlayfs (Documentation/filesystems/overlayfs.rst). Everything that looks at both
//! layers, lookups and listings alike, asks here.

use crate::vfs::FileKind;

/// What the upper has under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Above {
    /// Nothing.
    Absent,
    /// A mark that hides the lower's name.
    Whiteout,
    /// Anything but a directory.
    Other,
    /// A directory.
    Directory {
        /// Nothing of the lower directory shows through it.
        opaque: bool,
    },
}

/// What the lower has under a name, below a directory in which the lower shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Below {
    /// Nothing, or nothing that shows in this directory.
    Absent,
    /// Nothing, in a directory whose directories show only whole ([`Lower::shows_whole`](crate::layer::Lower::shows_whole)).
    Missing,
    /// Anything but a directory.
    Other,
    /// A directory.
    Directory,
}

/// What the union has under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shows {
    /// No such name.
    Nothing,
    /// The upper's object alone.
    Upper,
    /// The lower's object alone.
    Lower,
    /// Two directories as one.
    Both,
}

impl Above {
    /// False if the lower decides nothing, and so need not be asked.
    pub(crate) fn lets_through(self) -> bool {
        matches!(self, Self::Absent | Self::Directory { opaque: false })
    }
}

impl Below {
    pub(crate) fn of(kind: FileKind) -> Self {
        if kind == FileKind::Directory { Self::Directory } else { Self::Other }
    }

    /// Nothing, in a directory whose directories show only whole, or in any other.
    pub(crate) fn nothing(shows_whole: bool) -> Self {
        if shows_whole { Self::Missing } else { Self::Absent }
    }
}

/// The rule.
pub(crate) fn merge(above: Above, below: Below) -> Shows {
    match (above, below) {
        (Above::Whiteout, _) | (Above::Absent, Below::Absent | Below::Missing) => Shows::Nothing,
        // The upper has a part of a directory of another lower.
        (Above::Directory { opaque: false }, Below::Missing) => Shows::Nothing,
        (Above::Absent, _) => Shows::Lower,
        (Above::Directory { opaque: false }, Below::Directory) => Shows::Both,
        (Above::Directory { .. } | Above::Other, _) => Shows::Upper,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_in_full() {
        let open = Above::Directory { opaque: false };
        let opaque = Above::Directory { opaque: true };
        let rule = [
            (Above::Absent, [Shows::Nothing, Shows::Nothing, Shows::Lower, Shows::Lower]),
            (Above::Whiteout, [Shows::Nothing; 4]),
            (Above::Other, [Shows::Upper; 4]),
            (open, [Shows::Upper, Shows::Nothing, Shows::Upper, Shows::Both]),
            (opaque, [Shows::Upper; 4]),
        ];
        for (above, shows) in rule {
            for (below, shows) in
                [Below::Absent, Below::Missing, Below::Other, Below::Directory].into_iter().zip(shows)
            {
                assert_eq!(merge(above, below), shows, "{above:?} over {below:?}");
                let alone = merge(above, Below::Absent);
                assert!(above.lets_through() || shows == alone, "{above:?} hides {below:?}");
            }
        }
    }
}
