//! Directory layers for the suite, in any directory of any file system.

use std::fs::{self, File};
use std::path::Path;

use nixview::layer::dir::{DirUpper, Format};
use nixview::sys;
use rustix::fs::XattrFlags;
use std::os::fd::AsFd;

use super::Bench;

/// Opens the upper in `{data,work}` of a directory, and makes the two if they are missing.
pub(crate) fn open(top: &Path, format: Option<Format>) -> std::io::Result<DirUpper> {
    let dir = |name: &str| {
        fs::create_dir_all(top.join(name))?;
        File::open(top.join(name))
    };
    DirUpper::open(&dir("data")?, &dir("work")?, format)
}

/// An upper in a new directory below `parent`; an error if the format does not work there.
pub(crate) fn bench(parent: &Path, format: Option<Format>) -> std::io::Result<Bench<DirUpper>> {
    let temp = tempfile::tempdir_in(parent)?;
    let top = temp.path().to_owned();
    let upper = open(&top, format)?;
    let work = top.join("work");
    let probe = File::open(&work)?;
    let name = b"user.test";
    let xattrs = sys::xattr::set(probe.as_fd(), name, b"", XattrFlags::empty()).is_ok();
    let (owner, used) = (rustix::process::geteuid().as_raw(), upper.format());
    Ok(Bench {
        upper,
        owner: (owner, rustix::process::getegid().as_raw()),
        xattrs,
        reserves_names: used == Format::Files,
        reopen: Box::new(move || open(&top, Some(used)).unwrap()),
        work: Box::new(move || fs::read_dir(&work).unwrap().count()),
        _keep: Box::new(temp),
    })
}
