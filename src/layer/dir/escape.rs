//! Extended attributes that programs give the names of marks: stored under other names, shown under their own.
//!
//! As the kernel's overlayfs does it since Linux 6.7 (fs/overlayfs/xattrs.c), so that an overlayfs or a view can have its
//! upper within a view: `trusted.overlay.NAME` of a program is `trusted.overlay.overlay.NAME` on the disk, and that is
//! shown as `trusted.overlay.NAME`; what is `trusted.overlay.NAME` on the disk is a mark and not shown. Which names
//! overlayfs means depends on the [`Format`]: `trusted.overlay.`, or `user.overlay.` with `userxattr`; in each the
//! other's are ordinary attributes. `trusted.nixview.` and `user.nixview.` are treated alike in every format.

use std::io;

use super::{Format, error};
use crate::vfs::Errno;

/// The longest name of an attribute, in bytes (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// A reserved prefix, and what is put behind it to escape it.
type Reserved = (&'static [u8], &'static [u8]);

const OWN: [Reserved; 2] = [(b"trusted.nixview.", b"nixview."), (b"user.nixview.", b"nixview.")];

/// The reserved prefix that a name starts with, if any, and the rest of the name.
fn split(name: &[u8], format: Format) -> Option<(Reserved, &[u8])> {
    let overlay = (format.overlay_prefix().as_bytes(), &b"overlay."[..]);
    [overlay].into_iter().chain(OWN).find_map(|reserved| Some((reserved, name.strip_prefix(reserved.0)?)))
}

/// The name on the disk of an attribute that a program names.
///
/// # Errors
/// As overlayfs: `EINVAL` for a reserved prefix with nothing behind it, `EOPNOTSUPP` if the name becomes too long.
pub(super) fn stored(name: &[u8], format: Format) -> io::Result<Vec<u8>> {
    let Some(((prefix, word), rest)) = split(name, format) else { return Ok(name.to_vec()) };
    if rest.is_empty() {
        return Err(error(Errno::EINVAL));
    }
    let escaped = [prefix, word, rest].concat();
    if escaped.len() > NAME_MAX { Err(error(Errno::EOPNOTSUPP)) } else { Ok(escaped) }
}

/// What a program sees an attribute on the disk as; `None` for a mark.
pub(super) fn shown(name: Vec<u8>, format: Format) -> Option<Vec<u8>> {
    match split(&name, format) {
        None => Some(name),
        Some(((prefix, word), rest)) => {
            let rest = rest.strip_prefix(word).filter(|rest| !rest.is_empty())?;
            Some([prefix, rest].concat())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    #[test]
    fn what_programs_name_comes_back_and_marks_do_not_show() {
        for (format, name, on_disk) in [
            (Format::Trusted, "user.x", "user.x"),
            (Format::Trusted, "trusted.overlay.opaque", "trusted.overlay.overlay.opaque"),
            (Format::Trusted, "trusted.overlay.overlay.x", "trusted.overlay.overlay.overlay.x"),
            (Format::Trusted, "trusted.overlay.overlay.", "trusted.overlay.overlay.overlay."),
            (Format::Trusted, "trusted.overlayx", "trusted.overlayx"),
            (Format::Trusted, "user.overlay.opaque", "user.overlay.opaque"),
            (Format::User, "user.overlay.opaque", "user.overlay.overlay.opaque"),
            (Format::User, "trusted.overlay.opaque", "trusted.overlay.opaque"),
            (Format::Files, "trusted.overlay.opaque", "trusted.overlay.overlay.opaque"),
            (Format::Trusted, "trusted.nixview.origin", "trusted.nixview.nixview.origin"),
            (Format::User, "user.nixview.device", "user.nixview.nixview.device"),
        ] {
            let stored = stored(name.as_bytes(), format).unwrap();
            assert_eq!(stored, on_disk.as_bytes());
            assert_eq!(shown(stored, format).as_deref(), Some(name.as_bytes()));
        }
        for format in Format::ALL {
            let opaque = format.opaque_name().into_bytes();
            for mark in [&opaque[..], b"trusted.nixview.origin", b"user.nixview.device"] {
                assert_eq!(shown(mark.to_vec(), format), None, "{format:?}");
            }
        }
    }

    #[test]
    fn no_two_names_are_stored_alike_and_none_as_a_mark() {
        let parts = ["trusted.", "user.", "overlay.", "nixview.", "x"];
        let mut names = vec![String::new()];
        for _ in 0..5 {
            let longer = names.iter().flat_map(|name| parts.map(|part| format!("{name}{part}")));
            names.extend(longer.collect::<Vec<_>>());
            names.sort();
            names.dedup();
        }
        for format in Format::ALL {
            let mut seen = std::collections::HashSet::new();
            for name in &names {
                let Ok(stored) = stored(name.as_bytes(), format) else { continue };
                assert_eq!(shown(stored.clone(), format).as_deref(), Some(name.as_bytes()));
                assert!(seen.insert(stored), "{name}");
            }
        }
    }

    #[test]
    fn names_that_cannot_be_escaped_are_refused_as_by_overlayfs() {
        let refused = |name: &[u8]| Errno::of(&stored(name, Format::Trusted).unwrap_err());
        assert_eq!(refused(b"trusted.overlay."), Errno::EINVAL);
        assert_eq!(refused(b"user.nixview."), Errno::EINVAL);
        let long = |length: usize| [&b"trusted.overlay."[..], &vec![b'n'; length - 16]].concat();
        assert_eq!(stored(&long(247), Format::Trusted).unwrap().len(), 255);
        assert_eq!(refused(&long(248)), Errno::EOPNOTSUPP);
    }
}
