//! SQLite's way to a database in a directory that is held by a descriptor.
//!
//! SQLite makes a path absolute by the texts of the symbolic links in it (`unixFullPathname`). The text of a link in
//! `/proc/self/fd` is a path, and a mount made later can hide that path. The kernel follows such a link to the descriptor.

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::sync::OnceLock;

use rusqlite::ffi;

/// Lets SQLite leave the links of `/proc/self/fd` to the kernel, in this process from here on.
///
/// # Errors
/// `Unsupported` if this SQLite has no such switch.
pub fn follow_descriptors() -> io::Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    if *DONE.get_or_init(replace_lstat) { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// The type of lstat(2), as SQLite calls it.
type Lstat = unsafe extern "C" fn(*const c_char, *mut libc::stat) -> c_int;

fn replace_lstat() -> bool {
    // SAFETY: SQLite casts it back to the type that it has before it calls it.
    let lstat = unsafe { std::mem::transmute::<Lstat, unsafe extern "C" fn()>(lstat) };
    // SAFETY: a null pointer asks for the default VFS.
    let vfs = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    // SAFETY: it is null or the default VFS, which is never unregistered.
    let set = unsafe { vfs.as_ref() }.and_then(|vfs| vfs.xSetSystemCall);
    // SAFETY: the VFS is the one that the function is of, and the name ends with a zero byte.
    set.is_some_and(|set| unsafe { set(vfs, c"lstat".as_ptr(), Some(lstat)) } == ffi::SQLITE_OK)
}

/// As lstat(2), but for `/proc/self` and the links in its `fd`: of these as stat(2).
unsafe extern "C" fn lstat(path: *const c_char, found: *mut libc::stat) -> c_int {
    // SAFETY: SQLite gives a path that ends with a zero byte.
    let text = unsafe { CStr::from_ptr(path) };
    if is_of_descriptor(text.to_bytes()) {
        // SAFETY: SQLite gives what lstat(2) takes.
        unsafe { libc::stat(path, found) }
    } else {
        // SAFETY: as above.
        unsafe { libc::lstat(path, found) }
    }
}

fn is_of_descriptor(path: &[u8]) -> bool {
    let number = path.strip_prefix(b"/proc/self/fd/");
    path == b"/proc/self" || number.is_some_and(|number| number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_descriptors_and_no_others_are_followed() {
        assert!(is_of_descriptor(b"/proc/self") && is_of_descriptor(b"/proc/self/fd/17"));
        assert!(!is_of_descriptor(b"/proc/self/fd/17/db.sqlite") && !is_of_descriptor(b"/proc/self/cwd"));
    }
}
