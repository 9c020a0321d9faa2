//! What an upper without a limit takes, counted as far as is cheap.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use serde::Serialize;

use crate::sys;
use crate::vfs::Errno;

/// How deep is counted: each level keeps a directory open.
const DEPTH: usize = 64;

/// What was counted of an upper.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// Bytes of the blocks of what was counted; what shares blocks with the store counts in full.
    pub bytes: u64,
    /// Objects of any kind, whiteouts among them, without the top directory.
    pub objects: u64,
    /// False if there is more than was counted.
    pub whole: bool,
}

/// Counts what is below a directory, `most` objects at most. What comes or goes meanwhile is in it or not.
///
/// # Errors
/// What cannot be read.
pub(super) fn count(top: &OwnedFd, most: u64) -> io::Result<Space> {
    let mut count =
        Counting { space: Space { whole: true, ..Space::default() }, most, linked: HashSet::new() };
    let mut frames = vec![Frame { names: count.names(top)?, dir: top.try_clone()? }];
    loop {
        let depth = frames.len();
        let Some(frame) = frames.last_mut() else { break };
        let Some(name) = frame.names.pop() else {
            frames.pop();
            continue;
        };
        let Some(found) = gone(sys::stat::stat_name(frame.dir.as_fd(), &name))? else { continue };
        if !count.add(&found) {
            break;
        }
        if FileType::from_raw_mode(found.stx_mode.into()) != FileType::Directory {
            continue;
        }
        if depth >= DEPTH {
            count.space.whole = false;
        } else if let Some(dir) = gone(sys::open::open_directory(frame.dir.as_fd(), &name))? {
            let names = count.names(&dir)?;
            frames.push(Frame { names, dir });
        }
    }
    Ok(count.space)
}

/// A directory, and the names in it that are left.
struct Frame {
    names: Vec<Vec<u8>>,
    dir: OwnedFd,
}

struct Counting {
    space: Space,
    most: u64,
    /// Inodes that have several names, once they were counted.
    linked: HashSet<u64>,
}

impl Counting {
    /// False if that was the last.
    fn add(&mut self, found: &rustix::fs::Statx) -> bool {
        if self.space.objects >= self.most {
            self.space.whole = false;
            return false;
        }
        self.space.objects += 1;
        if found.stx_nlink < 2
            || FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory
            || self.linked.insert(found.stx_ino)
        {
            self.space.bytes += found.stx_blocks * 512;
        }
        true
    }

    /// The names of a directory; not many more than are counted.
    fn names(&mut self, dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
        let left = usize::try_from(self.most - self.space.objects).unwrap_or(usize::MAX);
        let mut names = Vec::new();
        let enough = || io::Error::from(Errno::EOVERFLOW);
        let listed = sys::open::open_listing(dir.as_fd()).and_then(|listing| {
            sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
                names.push(name.to_vec());
                if names.len() > left { Err(enough()) } else { Ok(()) }
            })
        });
        match listed {
            Err(error) if Errno::of(&error) == Errno::EOVERFLOW => {}
            answer => drop(gone(answer)?),
        }
        Ok(names)
    }
}

fn gone<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs;

    use super::*;

    #[test]
    fn what_is_counted_is_what_du_counts_and_no_more_than_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a/file"), dir.path().join("a/b/link")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/b/root")).unwrap();
        let top = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let du =
            std::process::Command::new("du").arg("-s").arg("-B1").arg(dir.path().join("a")).output().unwrap();
        let du: u64 = String::from_utf8(du.stdout).unwrap().split('\t').next().unwrap().parse().unwrap();
        assert_eq!(count(&top, 1000).unwrap(), Space { bytes: du, objects: 5, whole: true });
        assert_eq!(count(&top, 5).unwrap().objects, 5);
        for most in 0..5 {
            let some = count(&top, most).unwrap();
            assert_eq!((some.objects, some.whole), (most, false));
        }
        let deep = dir.path().join("d/".repeat(200));
        fs::create_dir_all(deep).unwrap();
        assert!(!count(&top, 1000).unwrap().whole);
    }
}
