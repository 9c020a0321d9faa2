//! What an upper notes with its objects, in extended attributes: opaque directories, redirects, numbers of origin,
//! and devices that look like whiteouts.
//!
//! `trusted.overlay.opaque` and `.redirect` (`user.overlay.…`) are the kernel overlayfs's. `trusted.nixview.origin`
//! (`user.nixview.origin`) is ours: the inode number of the view, 16 hexadecimal digits. So is
//! `trusted.nixview.device` (`user.nixview.device`), of the value `c 0:0`: it makes an empty regular file stand for a
//! character device 0:0 of a program, which as it is would be a whiteout. Programs reach none of these names (see
//! `escape`). What overlayfs can note and we do not read, because it changes what a tree means (metadata-only copies,
//! whiteouts in attributes, or anything not known here), makes the object unusable: `EOPNOTSUPP`.
//!
//! **Symbolic links, devices, FIFOs and sockets** can have `trusted` attributes, but no `user` ones (the system
//! answers `EPERM`). Without privilege the number of origin of such an object is therefore not kept beyond the life of
//! the server: [`set_origin`] does nothing there and [`Marks::origin`] is `None`, so that after a restart the number is
//! that of any object of the upper. Nothing but the number depends on it.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;

use super::{error, unless, whiteout};
use crate::layer::Redirect;
use crate::sys;
use crate::vfs::{Errno, Name};

/// How an upper stores whiteouts, opaque directories and numbers of origin. Stable for the life of an upper.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// Character devices 0:0 and `trusted.*` attributes: overlayfs as root writes it.
    Trusted,
    /// Character devices 0:0 and `user.*` attributes: overlayfs with `userxattr`, as in a user namespace.
    User,
    /// Files named `.wh.NAME` and `.wh..wh..opq`, for file systems that refuse the others; overlayfs cannot read it.
    Files,
}

impl Format {
    /// All formats, the best first.
    pub const ALL: [Self; 3] = [Self::Trusted, Self::User, Self::Files];

    /// The name of the format in files of ours.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "overlay-trusted",
            Self::User => "overlay-user",
            Self::Files => "whiteout-files",
        }
    }

    /// The format of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// What names of overlayfs's attributes start with.
    pub(super) fn overlay_prefix(self) -> &'static str {
        match self {
            Self::Trusted | Self::Files => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    /// The attribute of opaque directories.
    pub(super) fn opaque_name(self) -> String {
        self.overlay_prefix().to_owned() + "opaque"
    }

    /// The attribute of directories whose lower part is elsewhere; `None`: there is no place for it.
    #[must_use]
    pub fn redirect_name(self) -> Option<String> {
        (self != Self::Files).then(|| self.overlay_prefix().to_owned() + "redirect")
    }
}

/// True for names that marks, or escaped attributes of programs, can have in some format.
fn is_reserved(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"trusted.nixview.", b"user.nixview."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The attributes that may hold a number of origin, the better first.
const ORIGIN: [&str; 2] = ["trusted.nixview.origin", "user.nixview.origin"];

/// The attribute that can make an empty file a device, with and without privilege, and its value.
const TRUSTED_DEVICE: &str = "trusted.nixview.device";
const USER_DEVICE: &str = "user.nixview.device";
const ZERO_DEVICE: &[u8] = b"c 0:0";

/// Attributes of overlayfs (after its prefix) that change nothing of what an object is: a file handle of the lower
/// (`origin`), caches (`impure`), names of the mount (`uuid`), link counts and back links that only an index needs, inode
/// flags (`protattr`, of chattr(1)), which views do not have, and attributes of a nested overlayfs.
fn is_harmless(mark: &[u8]) -> bool {
    matches!(mark, b"origin" | b"impure" | b"uuid" | b"nlink" | b"upper" | b"protattr")
        || mark.starts_with(b"overlay.")
}

/// What was noted with an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks {
    /// Nothing of the lower directory shows through this directory. Not looked for in [`Format::Files`].
    pub(super) opaque: bool,
    /// The number that the object has in the view.
    pub(super) origin: Option<u64>,
}

/// The first mark of overlayfs among attribute names that we cannot honour; `None` if there is none.
pub(super) fn unknown(
    object: BorrowedFd<'_>,
    names: &[Vec<u8>],
    format: Format,
) -> io::Result<Option<Vec<u8>>> {
    for name in names {
        match name.strip_prefix(format.overlay_prefix().as_bytes()) {
            None => {}
            // `x` is a directory with whiteouts in attributes; other values than `y` mean nothing to overlayfs.
            Some(b"opaque") if sys::xattr::get(object, name)? == b"x" => return Ok(Some(name.clone())),
            Some(b"opaque") => {}
            // Of a file it only matters beside `metacopy`.
            Some(b"redirect") if format.redirect_name().is_some() => {}
            Some(mark) if is_harmless(mark) => {}
            Some(_) => return Ok(Some(name.clone())),
        }
    }
    Ok(None)
}

/// Reads the marks of an object: one system call where there are none.
pub(super) fn read(object: BorrowedFd<'_>, format: Format) -> io::Result<Marks> {
    let names = sys::xattr::list(object)?;
    if !names.iter().any(|name| is_reserved(name)) {
        return Ok(Marks::default());
    }
    if let Some(name) = unknown(object, &names, format)? {
        let name = name.escape_ascii().to_string();
        tracing::warn!(
            attribute = name,
            "an object of the upper has a mark of overlayfs that is not supported"
        );
        return Err(error(Errno::EOPNOTSUPP));
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted.as_bytes());
    let value = |wanted: &str| unless(sys::xattr::get(object, wanted.as_bytes()), &[Errno::ENODATA]);
    let mut marks = Marks::default();
    let opaque = format.opaque_name();
    marks.opaque = has(&opaque) && value(&opaque)?.is_some_and(|v| v == b"y");
    for name in ORIGIN.into_iter().filter(|name| has(name)) {
        marks.origin = marks.origin.or(value(name)?.and_then(|v| decode(&v)));
    }
    Ok(marks)
}

/// True if a directory is marked as opaque.
pub(super) fn is_opaque(dir: BorrowedFd<'_>, format: Format) -> io::Result<bool> {
    let marks = read(dir, format)?;
    match format {
        Format::Trusted | Format::User => Ok(marks.opaque),
        Format::Files => {
            let mark = sys::stat::stat_name(dir, whiteout::OPAQUE_FILE);
            Ok(unless(mark, &[Errno::ENOENT])?.is_some())
        }
    }
}

/// Marks a directory as opaque.
pub(super) fn set_opaque(dir: BorrowedFd<'_>, format: Format) -> io::Result<()> {
    match format {
        Format::Trusted | Format::User => {
            set(dir, format.opaque_name().as_bytes(), b"y", XattrFlags::empty())
        }
        Format::Files => {
            let made = sys::names::create_file(dir, whiteout::OPAQUE_FILE, 0);
            unless(made, &[Errno::EEXIST]).map(drop)
        }
    }
}

/// Where the lower part of a directory is, if it is noted; as seen from `base`, if the upper's top is that directory of the
/// overlay's root.
pub(super) fn redirect(
    dir: BorrowedFd<'_>,
    format: Format,
    base: Option<&Name>,
) -> io::Result<Option<Redirect>> {
    let Some(name) = format.redirect_name() else { return Ok(None) };
    let value = unless(sys::xattr::get(dir, name.as_bytes()), &[Errno::ENODATA, Errno::EOPNOTSUPP])?;
    let Some(value) = value else { return Ok(None) };
    let parsed = Redirect::parse(&value);
    match parsed.and_then(|redirect| base.map_or(Ok(redirect.clone()), |base| redirect.relative_to(base))) {
        Ok(redirect) => Ok(Some(redirect)),
        Err(errno) => {
            let value = value.escape_ascii().to_string();
            tracing::warn!(
                attribute = name,
                value,
                "a directory of the upper has a redirect that is no path"
            );
            Err(error(errno))
        }
    }
}

/// Notes where the lower part of a directory is, which [`redirect`] then answers.
pub(super) fn set_redirect(
    dir: BorrowedFd<'_>,
    format: Format,
    base: Option<&Name>,
    redirect: &Redirect,
) -> io::Result<()> {
    let name = format.redirect_name().ok_or_else(|| error(Errno::EXDEV))?;
    let value = base.map_or_else(|| redirect.to_value(), |base| redirect.within(base).to_value())?;
    set(dir, name.as_bytes(), &value, XattrFlags::empty())
}

/// Stores the number of origin, where the object can have one (see the head of the module).
pub(super) fn set_origin(object: BorrowedFd<'_>, format: Format, ino: u64) -> io::Result<()> {
    let value = format!("{ino:016x}");
    let [trusted, user] = ORIGIN;
    let store = |name: &str| set(object, name.as_bytes(), value.as_bytes(), XattrFlags::empty());
    const REFUSED: &[Errno] = &[Errno::EPERM, Errno::EOPNOTSUPP];
    match format {
        Format::Trusted => store(trusted),
        Format::User => unless(store(user), REFUSED).map(drop),
        Format::Files => match unless(store(trusted), REFUSED)? {
            Some(()) => Ok(()),
            None => unless(store(user), REFUSED).map(drop),
        },
    }
}

/// Makes an empty regular file stand for a character device 0:0.
///
/// # Errors
/// `EPERM` where the file system or the privilege allows no attribute to tell it by.
pub(super) fn set_device(object: BorrowedFd<'_>, format: Format) -> io::Result<()> {
    for name in device_names(format) {
        let stored = sys::xattr::set(object, name.as_bytes(), ZERO_DEVICE, XattrFlags::empty());
        if unless(stored, &[Errno::EPERM, Errno::EOPNOTSUPP])?.is_some() {
            return Ok(());
        }
    }
    Err(error(Errno::EPERM))
}

/// True for an empty regular file that stands for a character device 0:0.
pub(super) fn is_device(object: BorrowedFd<'_>, format: Format) -> io::Result<bool> {
    for name in device_names(format) {
        let value = unless(sys::xattr::get(object, name.as_bytes()), &[Errno::ENODATA, Errno::EOPNOTSUPP])?;
        if value.is_some_and(|value| value == ZERO_DEVICE) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn device_names(format: Format) -> &'static [&'static str] {
    match format {
        Format::Trusted => &[TRUSTED_DEVICE],
        Format::User => &[USER_DEVICE],
        Format::Files => &[TRUSTED_DEVICE, USER_DEVICE],
    }
}

/// Sets an attribute of an object that this process owns, also where its mode forbids its owner to write.
pub(super) fn set(object: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> io::Result<()> {
    owner_may_write(object, || sys::xattr::set(object, name, value, flags))
}

/// Calls; where that is `EACCES`, because the mode forbids the owner to write and this process has no privilege to
/// ignore it, calls again while the mode allows it.
pub(super) fn owner_may_write<T>(
    object: BorrowedFd<'_>,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match call() {
        Err(refused) if Errno::of(&refused) == Errno::EACCES => {
            let permissions = sys::stat::stat(object)?.stx_mode & 0o7777;
            sys::attr::set_permissions(object, permissions | 0o600)?;
            let answer = call();
            sys::attr::set_permissions(object, permissions)?;
            answer
        }
        answer => answer,
    }
}

/// The number in a stored origin; what is no such number was not stored by us.
fn decode(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 16)?;
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_written_and_nothing_else() {
        for ino in [0, 1, 0xabc, u64::MAX] {
            assert_eq!(decode(format!("{ino:016x}").as_bytes()), Some(ino));
        }
        for bad in
            [&b""[..], b"1", b"+00000000000000f", b"00000000000000000", b"000000000000000g", &[0xff; 16]]
        {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn formats_have_names() {
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.as_str()), Some(format));
        }
        assert_eq!(Format::from_name("overlay"), None);
    }
}
