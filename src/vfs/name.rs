//! One component of a path.

use std::fmt;
use std::sync::Arc;

use super::error::Errno;

/// The longest name a directory entry can have, in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;

/// One valid path component: 1 to 255 bytes, without `/` and NUL, and neither `.` nor `..`.
///
/// Names are bytes, not text. Cloning is cheap (a shared allocation). Ordering is bytewise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks and takes over one component.
    ///
    /// # Errors
    /// `ENAMETOOLONG` over 255 bytes (checked before anything else, as the kernel's file systems do);
    /// `EINVAL` for an empty name, `.`, `..`, or one with `/` or NUL.
    pub fn new(bytes: &[u8]) -> Result<Self, Errno> {
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(|b| matches!(b, 0 | b'/'))
        {
            return Err(Errno::EINVAL);
        }
        Ok(Self(Arc::from(bytes)))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    /// The name for people: what is not printable ASCII or valid UTF-8 is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => write!(f, "{}", text.escape_debug()),
            Err(_) => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_a_directory_can_hold_and_nothing_else() {
        for good in [&b"a"[..], b"...", b".x", b"\xff\n", &[b'x'; 255]] {
            assert_eq!(Name::new(good).map(|n| n.as_bytes().to_vec()), Ok(good.to_vec()));
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(Name::new(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'/'; 256]), Err(Errno::ENAMETOOLONG), "length is checked first");
    }
}
