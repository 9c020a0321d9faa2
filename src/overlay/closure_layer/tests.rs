#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::fs::{self, File, FileTimes, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::vfs::Errno;

struct Store(tempfile::TempDir);

impl Store {
    /// `d` a directory, `f` a file of 3 bytes, `l` a link.
    fn new() -> Self {
        let store = Self(tempfile::tempdir().unwrap());
        fs::create_dir(store.at("d")).unwrap();
        fs::write(store.at("f"), "abc").unwrap();
        symlink("d/inside", store.at("l")).unwrap();
        for (name, mode) in [("d", 0o555), ("f", 0o4555)] {
            let file = File::open(store.at(name)).unwrap();
            file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(7)))
                .unwrap();
            fs::set_permissions(store.at(name), Permissions::from_mode(mode)).unwrap();
        }
        store
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn survey(&self, names: &[&str]) -> Result<Survey, ClosureLayerError> {
        let names = names.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect();
        Survey::of(File::open(self.0.path()).unwrap().as_fd(), names)
    }

    fn layer(&self, names: &[&str], nix_state: bool, max: u64) -> ClosureLayer {
        let store = File::open(self.0.path()).unwrap();
        self.survey(names).unwrap().layer(store.as_fd(), nix_state, max).unwrap()
    }
}

fn find<'t>(node: &'t Node, path: &str) -> &'t Node {
    path.split('/').fold(node, |node, name| {
        let entry = node.entries().iter().find(|entry| entry.name.as_bytes() == name.as_bytes());
        &entry.unwrap_or_else(|| panic!("no {name}")).node
    })
}

#[test]
fn members_are_marked_directories_links_and_contents() {
    let store = Store::new();
    let ClosureLayer { tree, stand_ins } = store.layer(&["l", "f", "d", "d"], false, 3);
    assert_eq!(stand_ins, []);
    let nix = find(tree.top(), "nix");
    assert_eq!((nix.permissions, nix.mtime, &nix.marks), (0o755, TIME, &vec![Mark::Opaque]));
    assert_eq!(nix.entries().len(), 1);
    let members = find(nix, "store");
    assert_eq!((members.permissions, members.mtime, &members.marks), (0o755, TIME, &vec![]));
    let names: Vec<_> = members.entries().iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["d", "f", "l"]);
    let seven = Timespec { seconds: 7, nanoseconds: 0 };
    let d = find(members, "d");
    assert_eq!((d.permissions, d.mtime, &d.marks), (0o555, seven, &vec![Mark::Redirect(b"/d".to_vec())]));
    assert_eq!(d.content, Content::Directory(vec![]));
    // No set-id bits in what has contents.
    let f = find(members, "f");
    assert_eq!((f.permissions, f.mtime, &f.marks), (0o555, seven, &vec![]));
    assert_eq!(f.content, Content::File(b"abc".to_vec()));
    let l = find(members, "l");
    let link = fs::symlink_metadata(store.at("l")).unwrap();
    assert_eq!((&l.content, l.marks.len()), (&Content::Symlink(b"d/inside".to_vec()), 0));
    assert_eq!(l.mtime.seconds, link.mtime());
}

#[test]
fn beyond_the_limit_files_have_their_lengths_alone() {
    let store = Store::new();
    let ClosureLayer { tree, stand_ins } = store.layer(&["d", "f"], true, 2);
    assert_eq!(stand_ins, [StandIn { name: "f".to_owned(), size: 3 }]);
    let f = find(tree.top(), "nix/store/f");
    assert_eq!(f.content, Content::Hole(3));
    assert_eq!(f.marks, [Mark::Metacopy, Mark::Redirect(b"/f".to_vec())]);
    let var = find(tree.top(), "nix/var");
    assert_eq!((var.permissions, &var.marks), (0o755, &vec![Mark::Redirect(b"/nix-state".to_vec())]));
    assert_eq!(store.layer(&[], false, 0).tree.top().entries().len(), 1, "an empty closure has a layer too");
}

#[test]
fn what_cannot_be_shown_is_named() {
    let store = Store::new();
    let missing = store.survey(&["d", "gone"]).unwrap_err();
    assert_eq!(missing.to_string(), "the store has no 'gone', which the closure names");
    assert_eq!(missing.errno(), Errno::ENOENT);
    rustix::fs::mkfifoat(rustix::fs::CWD, store.at("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(store.at("socket")).unwrap());
    for (name, kind) in [("fifo", "FIFO"), ("socket", "socket")] {
        let error = store.survey(&["d", name]).unwrap_err().to_string();
        assert!(error.contains(&format!("'{name}' of the store is a {kind}")), "{error}");
    }
}

#[test]
fn a_file_that_changes_after_it_was_looked_at_is_refused() {
    let store = Store::new();
    let survey = store.survey(&["f"]).unwrap();
    let opened = File::open(store.0.path()).unwrap();
    fs::set_permissions(store.at("f"), Permissions::from_mode(0o644)).unwrap();
    fs::write(store.at("f"), "longer").unwrap();
    let error = survey.layer(opened.as_fd(), false, 100).unwrap_err();
    assert!(matches!(error, ClosureLayerError::Changed(_)), "{error}");
    fs::remove_file(store.at("f")).unwrap();
    symlink("d/inside", store.at("f")).unwrap();
    let error = survey.layer(opened.as_fd(), false, 100).unwrap_err();
    assert_eq!(error.errno(), Errno::ELOOP, "a link is not followed");
}

#[test]
fn a_survey_tells_every_difference() {
    let store = Store::new();
    let digest = |names: &[&str]| store.survey(names).unwrap().digest();
    let names = ["d", "f", "l"];
    let first = digest(&names);
    assert_eq!(first, digest(&["l", "d", "f"]));
    assert_ne!(first, digest(&["d", "f"]));
    let mut seen = vec![first];
    let mut differs = |what: &str| {
        let now = digest(&names);
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    fs::set_permissions(store.at("d"), Permissions::from_mode(0o755)).unwrap();
    differs("permissions");
    fs::write(store.at("d/new"), "").unwrap();
    differs("time");
    fs::remove_file(store.at("l")).unwrap();
    symlink("d/outside", store.at("l")).unwrap();
    differs("target");
    fs::remove_file(store.at("f")).unwrap();
    fs::create_dir(store.at("f")).unwrap();
    differs("kind");
}

#[test]
fn reading_contents_leaves_the_access_time() {
    let store = Store::new();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    File::open(store.at("f")).unwrap().set_times(FileTimes::new().set_accessed(old)).unwrap();
    store.layer(&["f"], false, 100);
    assert_eq!(fs::metadata(store.at("f")).unwrap().accessed().unwrap(), old);
}
