//! What an upper may hold before the kernel's overlayfs is mounted over it.
//!
//! The overlay's root is the union of the roots of all its layers, and a container gets the directory `nix` of it alone.
//! One of the layers is the whole store, in which overlayfs finds whatever path a redirect names. So a redirect may
//! name nothing but what the container's own directory shows. overlayfs writes no other; copies of uppers, archives
//! and hands do.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;

use super::walk::{shown, walk};
use super::{DirObject, Format, marks, unless, whiteout};
use crate::sys;
use crate::vfs::{Errno, FileKind, Name};

/// The longest value of a redirect, in bytes: no path is longer.
const VALUE_MAX: usize = 4095;

/// How many objections are kept.
const KEPT: usize = 10;

/// Something in an upper that could show more than the closure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Objection {
    /// Where, from the top of the tree, escaped.
    pub path: String,
    /// What is wrong there.
    pub why: String,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Objections {
    /// The first of them.
    pub first: Vec<Objection>,
    /// How many there are.
    pub count: usize,
}

impl Objections {
    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, path: &str, why: impl Into<String>) {
        self.count += 1;
        if self.first.len() < KEPT {
            let path = if path.is_empty() { "/" } else { path };
            self.first.push(Objection { path: path.to_owned(), why: why.into() });
        }
    }
}

/// Looks at the top of an upper, and at its directory `base`, for what no upper has there: other names, and redirects.
///
/// Takes a few system calls whatever the size of the tree.
///
/// # Errors
/// Those of the system calls.
pub fn check_top(tree: BorrowedFd<'_>, base: &Name) -> io::Result<Objections> {
    let mut objections = Objections::default();
    let listing = sys::open::open_listing(tree)?;
    sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
        if name != base.as_bytes() {
            objections.add(&format!("/{}", name.escape_ascii()), format!("only '{base}' may be there"));
        }
        Ok(())
    })?;
    let shown = format!("/{base}");
    marks_of(tree, "", None, &mut objections)?;
    match sys::open::open_path(tree, base.as_bytes()) {
        Err(error) if Errno::of(&error) == Errno::ENOENT => objections.add(&shown, "it is missing"),
        object => {
            let object = DirObject::new(object?);
            if super::read::kind(&object)? == FileKind::Directory {
                marks_of(object.as_fd(), &shown, None, &mut objections)?;
            } else {
                objections.add(&shown, "it is no directory");
            }
        }
    }
    Ok(objections)
}

/// Looks at all that is below the directory `base` of an upper's top, which [`check_top`] found to be one.
///
/// Takes time in proportion to the tree.
///
/// # Errors
/// Those of the system calls.
pub fn check(tree: BorrowedFd<'_>, base: &Name) -> io::Result<Objections> {
    let mut objections = Objections::default();
    let root = DirObject::new(sys::open::open_directory(tree, base.as_bytes())?);
    walk(root, |path, object, kind| {
        let path = format!("/{base}{}", shown(path));
        marks_of(object.as_fd(), &path, Some(base), &mut objections)?;
        match kind {
            FileKind::CharDevice if whiteout::is_one(&sys::stat::stat(object.as_fd())?) => {}
            FileKind::CharDevice | FileKind::BlockDevice => objections.add(&path, "it is a device node"),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(objections)
}

/// Judges the attributes of an object; `base` is `None` where no redirect may be.
fn marks_of(
    object: BorrowedFd<'_>,
    path: &str,
    base: Option<&Name>,
    objections: &mut Objections,
) -> io::Result<()> {
    let names = sys::xattr::list(object)?;
    if let Some(name) = marks::unknown(object, &names, Format::Trusted)? {
        objections.add(path, format!("its attribute {} is not supported", name.escape_ascii()));
    }
    let Some(redirect) = value(object, &names)? else { return Ok(()) };
    let why = match base {
        None => Some("there may be none here"),
        Some(base) => wrong(&redirect, base.as_bytes()),
    };
    if let Some(why) = why {
        objections.add(path, format!("its redirect is '{}': {why}", redirect.escape_ascii()));
    }
    Ok(())
}

fn value(object: BorrowedFd<'_>, names: &[Vec<u8>]) -> io::Result<Option<Vec<u8>>> {
    let Some(name) = Format::Trusted.redirect_name() else { return Ok(None) };
    if !names.iter().any(|found| found == name.as_bytes()) {
        return Ok(None);
    }
    unless(sys::xattr::get(object, name.as_bytes()), &[Errno::ENODATA])
}

/// Why a redirect may not be, if it may not: it is one name, or a path of at least two that begins with `base`.
fn wrong(value: &[u8], base: &[u8]) -> Option<&'static str> {
    let odd = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    if value.contains(&0) || value.len() > VALUE_MAX {
        return Some("it is no path");
    }
    let Some(path) = value.strip_prefix(b"/") else {
        let name = !value.contains(&b'/') && !odd(value);
        return if name { None } else { Some("it is no name") };
    };
    let mut parts = path.split(|byte| *byte == b'/');
    if path.split(|byte| *byte == b'/').any(odd) {
        return Some("it is no path");
    }
    if parts.next() != Some(base) || parts.next().is_none() {
        return Some("it leads out of the view");
    }
    None
}

/// Puts `base` before every redirect in `root`, a directory that an overlay of before had as its top, that is a path and
/// does not begin with it. Done again, it changes nothing. Answers how many were changed; nothing is synced.
///
/// What is no path stays as it is.
///
/// # Errors
/// The first that occurs; the rest then is as it was.
pub fn rebase(root: BorrowedFd<'_>, base: &Name) -> io::Result<u64> {
    let mut changed = 0;
    let Some(attribute) = Format::Trusted.redirect_name() else { return Ok(0) };
    let prefix = [b"/", base.as_bytes()].concat();
    let root = DirObject::new(sys::open::open_directory(root, b".")?);
    walk(root, |_, object, _| {
        let names = sys::xattr::list(object.as_fd())?;
        if let Some(old) = value(object.as_fd(), &names)?
            && old.starts_with(b"/")
            && old.get(1..).and_then(|path| path.split(|byte| *byte == b'/').next()) != Some(base.as_bytes())
        {
            let new = [&prefix[..], &old].concat();
            sys::xattr::set(object.as_fd(), attribute.as_bytes(), &new, XattrFlags::REPLACE)?;
            changed += 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn redirects_that_stay_in_the_view_are_let_through_and_no_others() {
        for good in
            [&b"name"[..], b"...", b"\xff", b"/nix/store", b"/nix/store/a/b", b"/nix/var", b"/nix/nix"]
        {
            assert_eq!(wrong(good, b"nix"), None, "{}", good.escape_ascii());
        }
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"a/",
            b"/",
            b"/nix",
            b"/nix/",
            b"//nix/a",
            b"/nix//a",
            b"/nix/a/",
            b"/nix/./a",
            b"/nix/../a",
            b"/nix/a/..",
            b"/nixx/a",
            b"/store/a",
            b"/999-secret",
            b"/.links",
            b"/nix/a\0",
        ] {
            assert!(wrong(bad, b"nix").is_some(), "{}", bad.escape_ascii());
        }
        assert!(wrong(&[b"/nix/", &[b'x'; 4095][..]].concat(), b"nix").is_some());
    }

    #[test]
    fn the_top_of_an_upper_holds_one_real_directory() {
        let base = Name::new(b"nix").unwrap();
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("nix");
        let told = || {
            let found = check_top(fs::File::open(top.path()).unwrap().as_fd(), &base).unwrap();
            found.first.into_iter().map(|objection| objection.why).collect::<Vec<_>>()
        };
        assert_eq!(told(), ["it is missing"]);
        fs::create_dir(&path).unwrap();
        assert_eq!(told(), [""; 0]);
        fs::create_dir(top.path().join("store")).unwrap();
        assert_eq!(told(), ["only 'nix' may be there"]);
        fs::remove_dir(top.path().join("store")).unwrap();
        fs::remove_dir(&path).unwrap();
        for target in ["/etc", ".", "none"] {
            symlink(target, &path).unwrap();
            assert_eq!(told(), ["it is no directory"], "{target}");
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, "").unwrap();
        assert_eq!(told(), ["it is no directory"]);
    }
}
