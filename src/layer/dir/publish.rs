//! Changes of names: each becomes visible by one system call, and what a crash leaves behind is not seen.
//!
//! - Onto nothing, a whiteout or an object of the same kind: rename(2) does it.
//! - Where a directory meets something else (a whiteout is a device) or is displaced with whiteouts in it:
//!   `RENAME_EXCHANGE` with the work directory, and what was displaced is removed there.
//! - A whiteout at the old name: `RENAME_WHITEOUT`, or the one that an exchange left there.
//! - With whiteout files ([`Format::Files`]): the mark is made before the step and removed after it (see `whiteout`).
//!   One change takes two steps there: a directory moved onto one that holds only whiteouts; in between, the empty
//!   directory at the new name is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, RenameFlags};

use super::{DirDraft, DirObject, DirUpper, Format, error, marks, unless, whiteout};
use crate::sys;
use crate::vfs::{Errno, Name};

/// How the system says that one rename cannot do it: a directory is concerned.
const DIRECTORY_MET: &[Errno] = &[Errno::EISDIR, Errno::ENOTDIR, Errno::ENOTEMPTY, Errno::EEXIST];

/// What is under a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Whiteout,
    Directory,
    Other,
}

fn held(dir: &DirObject, name: &Name) -> io::Result<Held> {
    let stat = sys::stat::stat_name(dir.as_fd(), name.as_bytes())?;
    Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Held::Directory,
        _ if whiteout::is_one(&stat) => Held::Whiteout,
        _ => Held::Other,
    })
}

/// `ENOTEMPTY` for a directory with anything in it but whiteouts.
fn refuse_full(upper: &DirUpper, dir: &DirObject, name: &Name) -> io::Result<()> {
    let directory = sys::open::open_directory(dir.as_fd(), name.as_bytes())?;
    if whiteout::only(directory.as_fd(), upper.format)? { Ok(()) } else { Err(error(Errno::ENOTEMPTY)) }
}

/// Removes a whiteout file that has an object beside it and therefore means nothing any more. The change is done by
/// then, so that a failure is none of it.
fn drop_whiteout_file(upper: &DirUpper, dir: &DirObject, name: &Name) {
    if upper.format == Format::Files
        && let Err(error) = whiteout::remove_file(dir, name)
    {
        tracing::warn!(%error, %name, "could not remove a whiteout file that means nothing any more");
    }
}

fn place<'a>((dir, name): (&'a DirObject, &'a Name)) -> (BorrowedFd<'a>, &'a [u8]) {
    (dir.as_fd(), name.as_bytes())
}

/// Gives a draft its name.
pub(super) fn publish(upper: &DirUpper, draft: DirDraft, dir: &DirObject, name: &Name) -> io::Result<()> {
    whiteout::refuse_reserved(upper.format, name)?;
    let to = place((dir, name));
    let renamed = sys::names::rename(draft.place.place(), to, RenameFlags::empty());
    if unless(renamed, DIRECTORY_MET)?.is_some() {
        draft.place.forget();
    } else {
        if held(dir, name)? == Held::Directory {
            refuse_full(upper, dir, name)?;
        }
        sys::names::rename(draft.place.place(), to, RenameFlags::EXCHANGE)?;
        // Dropping the draft removes what was displaced.
        drop(draft);
    }
    drop_whiteout_file(upper, dir, name);
    Ok(())
}

/// Gives an object a further name.
pub(super) fn link(upper: &DirUpper, object: &DirObject, dir: &DirObject, name: &Name) -> io::Result<()> {
    whiteout::refuse_reserved(upper.format, name)?;
    let linked = sys::names::link(object.as_fd(), dir.as_fd(), name.as_bytes());
    if unless(linked, &[Errno::EEXIST])?.is_none() {
        if held(dir, name)? != Held::Whiteout {
            return Err(error(Errno::EEXIST));
        }
        let (temporary, ()) = upper.work.create(|work, free| sys::names::link(object.as_fd(), work, free))?;
        sys::names::rename(temporary.place(), place((dir, name)), RenameFlags::empty())?;
        temporary.forget();
    }
    drop_whiteout_file(upper, dir, name);
    Ok(())
}

/// Removes a name; with `whiteout`, one stands there afterwards.
pub(super) fn remove(upper: &DirUpper, dir: &DirObject, name: &Name, whiteout: bool) -> io::Result<()> {
    match (upper.format, whiteout) {
        (Format::Files, true) => {
            whiteout::refuse_reserved(upper.format, name)?;
            whiteout::create_file(dir, name)?;
            unless(remove_object(upper, dir, name), &[Errno::ENOENT]).map(drop)
        }
        (Format::Files, false) => {
            if whiteout::is_reserved(upper.format, name) {
                return Err(error(Errno::ENOENT));
            }
            // An object that has a whiteout file beside it would leave that behind.
            let hidden = whiteout::remove_file(dir, name)?;
            match remove_object(upper, dir, name) {
                Err(error) if hidden && Errno::of(&error) == Errno::ENOENT => Ok(()),
                answer => answer,
            }
        }
        (_, true) => put_whiteout(upper, dir, name),
        (_, false) => remove_object(upper, dir, name),
    }
}

/// Removes a name and leaves nothing there.
fn remove_object(upper: &DirUpper, dir: &DirObject, name: &Name) -> io::Result<()> {
    let (dir_fd, bytes) = place((dir, name));
    if unless(sys::names::unlink(dir_fd, bytes), &[Errno::EISDIR])?.is_some() {
        return Ok(());
    }
    let removed = sys::names::remove_directory(dir_fd, bytes);
    if unless(removed, &[Errno::ENOTEMPTY, Errno::EEXIST])?.is_some() {
        return Ok(());
    }
    refuse_full(upper, dir, name)?;
    // A directory is replaced by the empty one that holds its new place in the work directory.
    let (temporary, ()) = upper.work.create(|work, free| sys::names::create_directory(work, free, 0o700))?;
    sys::names::rename((dir_fd, bytes), temporary.place(), RenameFlags::empty())
}

/// Puts a whiteout device in place of whatever is there.
fn put_whiteout(upper: &DirUpper, dir: &DirObject, name: &Name) -> io::Result<()> {
    let (dir_fd, bytes) = place((dir, name));
    if unless(whiteout::create_device(dir_fd, bytes), &[Errno::EEXIST])?.is_some() {
        return Ok(());
    }
    let flags = match held(dir, name)? {
        Held::Whiteout => return Ok(()),
        Held::Directory => {
            refuse_full(upper, dir, name)?;
            RenameFlags::EXCHANGE
        }
        Held::Other => RenameFlags::empty(),
    };
    let (temporary, ()) = upper.work.create(whiteout::create_device)?;
    sys::names::rename(temporary.place(), (dir_fd, bytes), flags)?;
    if flags.is_empty() {
        temporary.forget();
    }
    Ok(())
}

/// Moves a name; with `whiteout`, one stands at the old one afterwards.
pub(super) fn rename(
    upper: &DirUpper,
    from: (&DirObject, &Name),
    to: (&DirObject, &Name),
    whiteout: bool,
) -> io::Result<()> {
    whiteout::refuse_reserved(upper.format, to.1)?;
    if whiteout::is_reserved(upper.format, from.1) || held(from.0, from.1)? == Held::Whiteout {
        return Err(error(Errno::ENOENT));
    }
    match upper.format {
        Format::Files => rename_with_files(upper, from, to, whiteout),
        Format::Trusted | Format::User => rename_with_devices(upper, from, to, whiteout),
    }
}

fn rename_with_devices(
    upper: &DirUpper,
    from: (&DirObject, &Name),
    to: (&DirObject, &Name),
    whiteout: bool,
) -> io::Result<()> {
    let flags = if whiteout { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
    let refused = match sys::names::rename(place(from), place(to), flags) {
        Err(error) if DIRECTORY_MET.contains(&Errno::of(&error)) => error,
        answer => return answer,
    };
    match (held(from.0, from.1)?, held(to.0, to.1)?) {
        (Held::Directory, Held::Whiteout) => {
            sys::names::rename(place(from), place(to), RenameFlags::EXCHANGE)?;
            if whiteout { Ok(()) } else { sys::names::unlink(from.0.as_fd(), from.1.as_bytes()) }
        }
        (Held::Directory, Held::Directory) => {
            // Its whiteouts hide all that the lower has there; as an opaque directory it needs none of them.
            refuse_full(upper, to.0, to.1)?;
            let displaced = sys::open::open_directory(to.0.as_fd(), to.1.as_bytes())?;
            marks::set_opaque(displaced.as_fd(), upper.format)?;
            whiteout::remove_devices(displaced.as_fd())?;
            sys::names::rename(place(from), place(to), flags)
        }
        _ => Err(refused),
    }
}

fn rename_with_files(
    upper: &DirUpper,
    from: (&DirObject, &Name),
    to: (&DirObject, &Name),
    whiteout: bool,
) -> io::Result<()> {
    if whiteout {
        whiteout::create_file(from.0, from.1)?;
    } else {
        whiteout::remove_file(from.0, from.1)?;
    }
    match sys::names::rename(place(from), place(to), RenameFlags::empty()) {
        Err(error) if matches!(Errno::of(&error), Errno::ENOTEMPTY | Errno::EEXIST) => {
            remove(upper, to.0, to.1, true)?;
            sys::names::rename(place(from), place(to), RenameFlags::empty())?;
        }
        answer => answer?,
    }
    drop_whiteout_file(upper, to.0, to.1);
    Ok(())
}

/// Swaps two names.
pub(super) fn exchange(upper: &DirUpper, a: (&DirObject, &Name), b: (&DirObject, &Name)) -> io::Result<()> {
    if [a, b].iter().any(|(_, name)| whiteout::is_reserved(upper.format, name)) {
        return Err(error(Errno::ENOENT));
    }
    sys::names::rename(place(a), place(b), RenameFlags::EXCHANGE)
}
