//! What is in a template: as Nix makes it at its first start, and the roots of the view.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::error::{NixStateError, Tried};
use crate::store::database::Records;
use crate::store::{StoreDir, StorePath, new_database};
use crate::sys;

/// Directories below `nix`, those above first. Nix makes others when it needs them.
const DIRECTORIES: &[&str] = &[
    "db",
    "gcroots",
    "gcroots/auto",
    "gcroots/nixview",
    "gcroots/per-user",
    "gcroots/per-user/root",
    "profiles",
    "profiles/per-user",
    "profiles/per-user/root",
    "temproots",
    "userpool",
];

/// What Nix keeps free for the collector when the disk is full (`db/reserved`): a hole here. Were it missing, each view's first
/// command would write as much to the upper.
const RESERVED: u64 = 8 << 20;

/// The time of everything: 1 second after the epoch, as of what is in a store.
const OLD: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
};

/// Makes the directory `top`, fills it, and syncs all of it.
///
/// # Errors
/// What SQLite or the system says.
pub(super) fn write(
    top: &Path,
    store: &StoreDir,
    records: &Records,
    roots: &[&StorePath],
) -> Result<(), NixStateError> {
    let nix = top.join("nix");
    directory(top)?;
    directory(&nix)?;
    for name in DIRECTORIES {
        directory(&nix.join(name))?;
    }
    let db = nix.join("db");
    let database = db.join("db.sqlite");
    new_database::write(&database, store, records)?;
    file(&db.join("schema"), 0o644, new_database::VERSION, 0)?;
    file(&db.join("reserved"), 0o600, "", RESERVED)?;
    if !records.realisations.is_empty() {
        file(&db.join("ca-schema"), 0o644, new_database::CA_VERSION, 0)?;
    }
    let opened = File::open(&database).tried("open", &database)?;
    finish_file(&opened, 0o644).tried("finish", &database)?;

    let state = Path::new(store.as_str()).parent().unwrap_or(Path::new("/")).join("var/nix");
    link(&state.join("profiles"), &nix.join("gcroots/profiles"))?;
    for root in roots {
        link(&store.join(root), &nix.join("gcroots/nixview").join(root.as_str()))?;
    }
    for name in DIRECTORIES.iter().rev() {
        finish_directory(&nix.join(name))?;
    }
    finish_directory(&nix)?;
    mark_opaque(top).tried("mark", top)?;
    finish_directory(top)
}

/// Keeps the layers below from showing in it. Without root the template is for FUSE servers alone, which know no layer below.
fn mark_opaque(top: &Path) -> io::Result<()> {
    let opened = File::open(top)?;
    match sys::xattr::set(opened.as_fd(), b"trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => Ok(()),
        answer => answer,
    }
}

fn directory(path: &Path) -> Result<(), NixStateError> {
    fs::create_dir(path).tried("make", path)
}

fn link(target: &Path, path: &Path) -> Result<(), NixStateError> {
    symlink(target, path).tried("make", path)?;
    rustix::fs::utimensat(CWD, path, &OLD, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)
        .tried("set the times of", path)
}

/// Makes a file with a text at its beginning and a length of at least `length` bytes.
fn file(path: &Path, permissions: u16, text: &str, length: u64) -> Result<(), NixStateError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        if length > 0 {
            file.set_len(length)?;
        }
        finish_file(&file, permissions)
    };
    write().tried("write", path)
}

fn finish_file(file: &File, permissions: u16) -> io::Result<()> {
    sys::file::set_permissions(file.as_fd(), permissions)?;
    rustix::fs::futimens(file, &OLD)?;
    file.sync_all()
}

fn finish_directory(path: &Path) -> Result<(), NixStateError> {
    let finish = || {
        let dir = File::open(path)?;
        sys::file::set_permissions(dir.as_fd(), 0o755)?;
        rustix::fs::futimens(&dir, &OLD)?;
        dir.sync_all()
    };
    finish().tried("finish", path)
}
