//! Operations that may be carried out once: a second try has another answer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};
use rustix::io::Errno;

/// What is done and what must come of it: together they leave their directory empty.
pub(crate) type Operation = (&'static str, fn(&Path) -> io::Result<()>);

fn refused<T>(answer: io::Result<T>, with: Errno) -> io::Result<()> {
    match answer {
        Err(error) if error.raw_os_error() == Some(with.raw_os_error()) => Ok(()),
        Err(error) => Err(io::Error::other(format!("{error} in place of {with}"))),
        Ok(_) => Err(io::Error::other(format!("success in place of {with}"))),
    }
}

fn renamed(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags)?)
}

fn attribute(path: &Path) -> Result<Vec<u8>, Errno> {
    let mut value = [0; 16];
    rustix::fs::getxattr(path, "user.once", &mut value).map(|length| value[..length].to_vec())
}

/// In this order.
pub(crate) const OPERATIONS: &[Operation] = &[
    ("create", |d| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(d.join("file"))?;
        file.write_all_at(b"written", 0)
    }),
    ("create what is there", |d| refused(File::create_new(d.join("file")), Errno::EXIST)),
    ("mkdir", |d| fs::create_dir(d.join("dir"))),
    ("mkdir of what is there", |d| refused(fs::create_dir(d.join("dir")), Errno::EXIST)),
    ("mknod", |d| Ok(rustix::fs::mknodat(CWD, d.join("fifo"), FileType::Fifo, Mode::RUSR, 0)?)),
    ("symlink", |d| symlink("file", d.join("symlink"))),
    ("link", |d| {
        fs::hard_link(d.join("file"), d.join("link"))?;
        assert_eq!(fs::metadata(d.join("file"))?.nlink(), 2);
        Ok(())
    }),
    ("a new attribute", |d| Ok(rustix::fs::setxattr(d.join("file"), "user.once", b"1", XattrFlags::CREATE)?)),
    ("an attribute that is there", |d| {
        let again = rustix::fs::setxattr(d.join("file"), "user.once", b"2", XattrFlags::CREATE);
        assert_eq!((again, attribute(&d.join("link"))), (Err(Errno::EXIST), Ok(b"1".to_vec())));
        Ok(())
    }),
    ("change an attribute", |d| {
        rustix::fs::setxattr(d.join("file"), "user.once", b"3", XattrFlags::REPLACE)?;
        assert_eq!(attribute(&d.join("link")), Ok(b"3".to_vec()));
        Ok(())
    }),
    ("remove an attribute", |d| Ok(rustix::fs::removexattr(d.join("file"), "user.once")?)),
    ("remove none", |d| {
        let again = rustix::fs::removexattr(d.join("file"), "user.once");
        assert_eq!(again, Err(Errno::NODATA));
        Ok(())
    }),
    ("append", |d| {
        let mut file = OpenOptions::new().append(true).open(d.join("file"))?;
        file.write_all(b" and appended")?;
        file.write_all(b" twice")?;
        assert_eq!(fs::read(d.join("link"))?, b"written and appended twice");
        Ok(())
    }),
    ("rename", |d| renamed(d, "link", "dir/moved", RenameFlags::empty())),
    ("rename to what is there", |d| {
        refused(renamed(d, "file", "dir/moved", RenameFlags::NOREPLACE), Errno::EXIST)
    }),
    ("open and empty", |d| {
        let file = OpenOptions::new().write(true).truncate(true).open(d.join("file"))?;
        assert_eq!(fs::metadata(d.join("dir/moved"))?.len(), 0);
        file.write_all_at(b"short", 0)
    }),
    ("replace", |d| {
        fs::write(d.join("new"), "new")?;
        renamed(d, "new", "file", RenameFlags::empty())?;
        assert_eq!(fs::read(d.join("file"))?, b"new");
        assert_eq!(fs::read(d.join("dir/moved"))?, b"short");
        assert_eq!(fs::metadata(d.join("dir/moved"))?.nlink(), 1);
        Ok(())
    }),
    ("exchange", |d| {
        renamed(d, "file", "symlink", RenameFlags::EXCHANGE)?;
        assert_eq!(fs::read_link(d.join("file"))?, Path::new("file"));
        assert_eq!(fs::read(d.join("symlink"))?, b"new");
        Ok(())
    }),
    ("exchange a directory", |d| {
        renamed(d, "dir", "fifo", RenameFlags::EXCHANGE)?;
        assert_eq!(fs::read(d.join("fifo/moved"))?, b"short");
        Ok(())
    }),
    ("a directory over a directory", |d| {
        fs::create_dir(d.join("empty"))?;
        renamed(d, "fifo", "empty", RenameFlags::empty())?;
        assert_eq!(fs::read(d.join("empty/moved"))?, b"short");
        Ok(())
    }),
    ("rmdir of what is not empty", |d| refused(fs::remove_dir(d.join("empty")), Errno::NOTEMPTY)),
    ("unlink below", |d| fs::remove_file(d.join("empty/moved"))),
    ("rmdir", |d| fs::remove_dir(d.join("empty"))),
    ("rmdir of nothing", |d| refused(fs::remove_dir(d.join("empty")), Errno::NOENT)),
    ("unlink", |d| ["file", "symlink", "dir"].iter().try_for_each(|name| fs::remove_file(d.join(name)))),
    ("unlink of nothing", |d| refused(fs::remove_file(d.join("file")), Errno::NOENT)),
];
