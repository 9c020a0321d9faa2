//! Where the lower part of a moved directory is: the value of overlayfs's `redirect` attribute.
//!
//! What the kernel's overlayfs writes and reads (Documentation/filesystems/overlayfs.rst, "redirect_dir"). A name
//! stands for a name in the lower directory of the same parent; a value that starts with `/` is a path from the root
//! of the lower. The value is outside data: whoever can write to an upper's disk chose it. It is made of valid names
//! or it is an error, so that it can lead to nothing but what a walk through the lower finds.

use std::io;

use crate::vfs::{Errno, Name};

/// The longest value that is written, in bytes; rename(2) of a directory that would need more is `EXDEV`. A file system
/// has a few kilobytes for all attributes of an inode. (overlayfs writes up to 256 by default, and reads any length.)
pub const REDIRECT_MAX: usize = 1024;

/// Where the lower directory is that shows through a directory of the upper, if not at the path of that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// Under this name, in the lower directory that shows through the parent.
    Sibling(Name),
    /// At this path from the root of the lower; at least one name.
    Path(Vec<Name>),
    /// At a name that is longer than any can be: nowhere.
    Nowhere,
}

impl Redirect {
    /// Reads the value of the attribute.
    ///
    /// # Errors
    /// As overlayfs answers a lookup: `EINVAL` for an empty value or name, or a `/` in what does not start with one;
    /// `EACCES` for `.` and `..`.
    pub fn parse(value: &[u8]) -> Result<Self, Errno> {
        let names = |path: &[u8]| -> Result<Option<Vec<Name>>, Errno> {
            let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            if parts.iter().any(|part| part.is_empty()) {
                return Err(Errno::EINVAL);
            }
            if parts.iter().any(|part| matches!(*part, b"." | b"..")) {
                return Err(Errno::EACCES);
            }
            match parts.into_iter().map(Name::new).collect::<Result<Vec<_>, Errno>>() {
                Ok(names) => Ok(Some(names)),
                Err(Errno::ENAMETOOLONG) => Ok(None),
                Err(errno) => Err(errno),
            }
        };
        if let Some(path) = value.strip_prefix(b"/") {
            return Ok(names(path)?.map_or(Self::Nowhere, Self::Path));
        }
        if value.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        Ok(names(value)?.and_then(|mut name| name.pop()).map_or(Self::Nowhere, Self::Sibling))
    }

    /// The same as seen from the directory `base` of the root: a path from there. A path that leads elsewhere is one of
    /// the time when uppers had no such directory, and stays as it is.
    ///
    /// # Errors
    /// `EINVAL` for the path of `base` itself.
    pub fn relative_to(self, base: &Name) -> Result<Self, Errno> {
        match self {
            Self::Path(mut path) if path.first() == Some(base) => {
                path.remove(0);
                if path.is_empty() { Err(Errno::EINVAL) } else { Ok(Self::Path(path)) }
            }
            other => Ok(other),
        }
    }

    /// The same as seen from the root, which has the directory `base`.
    #[must_use]
    pub fn within(&self, base: &Name) -> Self {
        match self {
            Self::Path(path) => Self::Path(std::iter::once(base).chain(path).cloned().collect()),
            other => other.clone(),
        }
    }

    /// The value of the attribute.
    ///
    /// # Errors
    /// `EXDEV` for one longer than [`REDIRECT_MAX`], and for [`Redirect::Nowhere`].
    pub fn to_value(&self) -> io::Result<Vec<u8>> {
        let value = match self {
            Self::Sibling(name) => name.as_bytes().to_vec(),
            Self::Path(path) => path.iter().flat_map(|name| [b"/", name.as_bytes()].concat()).collect(),
            Self::Nowhere => return Err(Errno::EXDEV.into()),
        };
        if value.len() > REDIRECT_MAX { Err(Errno::EXDEV.into()) } else { Ok(value) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn name(bytes: &[u8]) -> Name {
        Name::new(bytes).unwrap()
    }

    #[test]
    fn values_are_read_as_written() {
        for (value, redirect) in [
            (&b"a"[..], Redirect::Sibling(name(b"a"))),
            (b"...", Redirect::Sibling(name(b"..."))),
            (b"\xff\n", Redirect::Sibling(name(b"\xff\n"))),
            (b"/a", Redirect::Path(vec![name(b"a")])),
            (b"/store/x/..y", Redirect::Path(vec![name(b"store"), name(b"x"), name(b"..y")])),
        ] {
            assert_eq!(Redirect::parse(value), Ok(redirect.clone()));
            assert_eq!(redirect.to_value().unwrap(), value);
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [&b""[..], b"/", b"//a", b"/a/", b"/a//b", b"a/b", b"a/", b"../a", b"a\0b", b"/a/\0"] {
            assert_eq!(Redirect::parse(bad), Err(Errno::EINVAL), "{}", bad.escape_ascii());
        }
        for bad in [&b"."[..], b"..", b"/.", b"/..", b"/../a", b"/a/.."] {
            assert_eq!(Redirect::parse(bad), Err(Errno::EACCES), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_path_from_the_root_begins_with_the_base() {
        let base = name(b"nix");
        let seen = |value: &[u8]| Redirect::parse(value).unwrap().relative_to(&base);
        for (value, from_base, value_at_root) in [
            (&b"/nix/store/a"[..], Redirect::Path(vec![name(b"store"), name(b"a")]), &b"/nix/store/a"[..]),
            (b"/nix/nix", Redirect::Path(vec![name(b"nix")]), b"/nix/nix"),
            (b"/store/a", Redirect::Path(vec![name(b"store"), name(b"a")]), b"/nix/store/a"),
            (b"nix", Redirect::Sibling(name(b"nix")), b"nix"),
        ] {
            assert_eq!(seen(value), Ok(from_base.clone()));
            assert_eq!(from_base.within(&base).to_value().unwrap(), value_at_root);
        }
        assert_eq!(seen(b"/nix"), Err(Errno::EINVAL), "the root of the view is below nothing of it");
    }

    #[test]
    fn what_is_too_long_leads_nowhere_and_is_not_written() {
        let long = [b'x'; 256];
        assert_eq!(Redirect::parse(&long), Ok(Redirect::Nowhere));
        assert_eq!(Redirect::parse(&[b"/a/", &long[..]].concat()), Ok(Redirect::Nowhere));
        let deep = |count| Redirect::Path(vec![name(&[b'x'; 127]); count]);
        assert_eq!(deep(8).to_value().unwrap().len(), REDIRECT_MAX);
        for redirect in [deep(9), Redirect::Nowhere] {
            assert_eq!(Errno::of(&redirect.to_value().unwrap_err()), Errno::EXDEV);
        }
    }
}
