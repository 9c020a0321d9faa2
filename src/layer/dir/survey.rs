//! A look at a tree that somebody else, usually the kernel's overlayfs, used as an upper.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use super::walk::{shown, walk};
use super::{DirObject, Format, marks, unless};
use crate::sys;
use crate::vfs::{Errno, Name};

/// What a tree that is to become an upper holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// The format that its directories are marked in; `None` if there are none, and any would do.
    pub format: Option<Format>,
    /// Why it cannot be read rightly, for people; `None` if it can.
    pub unsupported: Option<String>,
}

/// Reads all objects below `data`, the top of a tree, and looks for marks of overlayfs, and into `work` for its state.
///
/// Takes time in proportion to the tree, and memory in proportion to its depth and to the names beside the way down: for a
/// tree that we did not write, once. Stops at the first object that cannot
/// be read rightly: metadata-only copies, whiteouts in attributes, an index, a volatile mount that was not
/// ended, marks of both privileges.
///
/// # Errors
/// Those of the system calls.
pub fn survey(data: BorrowedFd<'_>, work: BorrowedFd<'_>) -> io::Result<Survey> {
    let mut survey = Survey { format: None, unsupported: unfinished(work)? };
    let root = DirObject::new(sys::open::open_directory(data, b".")?);
    survey.object(root.as_fd(), &[])?;
    if survey.unsupported.is_none() {
        walk(root, |path, object, _| {
            survey.object(object.as_fd(), path)?;
            Ok(if survey.unsupported.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    Ok(survey)
}

/// What overlayfs keeps in a work directory and we do not read.
fn unfinished(work: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let has = |path: &[u8]| -> io::Result<bool> {
        let Some(dir) = unless(sys::open::open_directory(work, path), &[Errno::ENOENT, Errno::ENOTDIR])?
        else {
            return Ok(false);
        };
        let mut any = false;
        let listing = sys::open::open_listing(dir.as_fd())?;
        sys::dirent::for_each_name(listing.as_fd(), |_, _, _| {
            any = true;
            Ok(())
        })?;
        Ok(any)
    };
    Ok(if has(b"index")? {
        Some("overlayfs used it with an index of hard links (index=on or nfs_export=on)".to_owned())
    } else if has(b"work/incompat")? {
        Some("overlayfs used it with the option 'volatile' and did not end in order".to_owned())
    } else {
        None
    })
}

impl Survey {
    fn object(&mut self, object: BorrowedFd<'_>, path: &[Name]) -> io::Result<()> {
        let names = sys::xattr::list(object)?;
        for format in [Format::Trusted, Format::User] {
            // Other marks that are supported mean the same in every format: nothing.
            let meant = [Some(format.opaque_name()), format.redirect_name()];
            if names.iter().any(|name| meant.iter().flatten().any(|mark| name == mark.as_bytes())) {
                if self.format.is_some_and(|other| other != format) {
                    self.unsupported = Some(format!(
                        "it has both trusted.overlay and user.overlay marks, at '{}'",
                        shown(path)
                    ));
                }
                self.format = Some(format);
            }
            if let Some(mark) = marks::unknown(object, &names, format)? {
                self.unsupported = Some(format!(
                    "'{}' has the attribute {}, which is not supported",
                    shown(path),
                    mark.escape_ascii()
                ));
            }
        }
        Ok(())
    }
}
