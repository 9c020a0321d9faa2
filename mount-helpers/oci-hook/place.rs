//! Where a view goes inside a container's root, whatever the image has planted there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nixview::sys::mount;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::{Attempt, Failure};

/// How `nix` is looked up: the container's root is the root, as it will be for the container, so that no link leads out
/// of it; links of /proc lead nowhere; and what is mounted in the root (its /proc, its /dev, volumes) is not entered.
const RESOLVE: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// How often an `EAGAIN` of openat2(2) (a rename somewhere raced with the walk) is tried again.
const RETRIES: u32 = 128;

/// Enters a mount namespace, for the rest of this process, and places the detached `view` at `/nix` of `root`.
pub(crate) fn place(view: BorrowedFd<'_>, namespace: &File, root: &Path) -> Result<(), Failure> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .attempt(|| "cannot enter the container's mount namespace".to_owned())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root_directory = rustix::fs::open(root, flags, Mode::empty())
        .attempt(|| format!("cannot open the container's root {}", root.display()))?;
    let target = target(root_directory.as_fd())?;
    mount::attach(view, target.as_fd())
        .attempt(|| format!("cannot mount the view at /nix in {}", root.display()))
}

/// The directory that `/nix` is in a container's root; it is made if there is nothing.
fn target(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let found = match open(root) {
        Err(Errno::NOENT) => make(root)?,
        answer => answer.map_err(explained)?,
    };
    let is_root = || {
        let (found, root) = (rustix::fs::fstat(&found)?, rustix::fs::fstat(root)?);
        Ok::<_, io::Error>((found.st_dev, found.st_ino) == (root.st_dev, root.st_ino))
    };
    if is_root().attempt(|| "cannot look at /nix".to_owned())? {
        return Err(Failure::new(
            "/nix in the container's root leads to / itself: nothing can be mounted there",
        ));
    }
    Ok(found)
}

fn open(root: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for _ in 0..RETRIES {
        match rustix::fs::openat2(root, "nix", flags, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
    Err(Errno::AGAIN)
}

/// Makes the directory; a link that leads nowhere is `EEXIST` here, and never followed.
fn make(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    match rustix::fs::mkdirat(root, "nix", Mode::from_raw_mode(0o755)) {
        Ok(()) => open(root).map_err(explained),
        Err(Errno::EXIST) => Err(Failure::new("/nix in the container's root is a link that leads nowhere")),
        Err(Errno::ROFS) => {
            Err(Failure::new("there is no directory /nix in the container's root, which is read-only")
                .hint("let the image have an empty directory /nix"))
        }
        Err(error) => Err(Failure::new(format!("cannot make /nix in the container's root: {error}"))),
    }
}

fn explained(error: Errno) -> Failure {
    let what = match error {
        Errno::NOTDIR => "/nix in the container's root is no directory".to_owned(),
        Errno::LOOP => "/nix in the container's root is a link that cannot be followed".to_owned(),
        Errno::XDEV => {
            return Failure::new(
                "/nix in the container's root is, or leads to, something else that is mounted",
            )
            .hint("leave out the volume at /nix, or the view");
        }
        other => format!("cannot open /nix in the container's root: {other}"),
    };
    Failure::new(what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    /// Where `/nix` of a root leads that `plant` has prepared; the error otherwise.
    fn leads(plant: impl FnOnce(&Path)) -> Result<String, String> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/deep")).unwrap();
        plant(root.path());
        let directory = File::open(root.path()).unwrap();
        let found = target(directory.as_fd()).map_err(|failure| failure.lines().concat())?;
        let path = fs::read_link(nixview::sys::open::proc_path(found.as_fd())).unwrap();
        let below = path.strip_prefix(root.path()).unwrap();
        Ok(below.to_str().unwrap().to_owned())
    }

    fn link(to: &str) -> Result<String, String> {
        leads(|root| symlink(to, root.join("nix")).unwrap())
    }

    #[test]
    fn a_directory_is_used_and_a_missing_one_made() {
        assert_eq!(leads(|_| ()).unwrap(), "nix");
        assert_eq!(leads(|root| fs::create_dir(root.join("nix")).unwrap()).unwrap(), "nix");
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        assert_eq!(link("/etc").unwrap(), "etc");
        assert_eq!(link("etc/deep").unwrap(), "etc/deep");
        assert_eq!(link("../../../../etc").unwrap(), "etc");
        assert_eq!(link("/../../etc/../etc/deep").unwrap(), "etc/deep");
        let twice = leads(|root| {
            symlink("/nix2", root.join("nix")).unwrap();
            symlink("../../../etc", root.join("nix2")).unwrap();
        });
        assert_eq!(twice.unwrap(), "etc");
    }

    #[test]
    fn what_is_no_place_for_a_mount_is_refused() {
        assert!(link("/").unwrap_err().contains("/ itself"));
        assert!(link("..").unwrap_err().contains("/ itself"));
        assert!(link("/nowhere").unwrap_err().contains("nowhere"));
        assert!(link("nix").unwrap_err().contains("link"));
        assert!(leads(|root| fs::write(root.join("nix"), "").unwrap()).unwrap_err().contains("no directory"));
        let fifo = leads(|root| {
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(CWD, root.join("nix"), kind, Mode::from_raw_mode(0o600), 0).unwrap();
        });
        assert!(fifo.unwrap_err().contains("no directory"));
    }

    #[test]
    fn what_is_mounted_in_the_root_is_not_entered() {
        let root = File::open("/").unwrap();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let answer = rustix::fs::openat2(&root, "proc/self", flags, Mode::empty(), RESOLVE);
        assert_eq!(answer.unwrap_err(), Errno::XDEV);
    }
}
