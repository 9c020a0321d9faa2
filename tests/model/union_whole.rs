//! An upper that is used with several closures: of a store path that a closure does not have, no part shows.

use std::sync::Arc;

use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::{Disk, MemDisk, View, caller, name, options};
use nixview::layer::mem::MemLayer;
use nixview::layer::{Lower, Upper};
use nixview::union::{Io, UnionFs};
use nixview::vfs::{Errno, OpenFlags, RenameMode, Vfs};
use nixview::view::members::Members;
use nixview::view::store_root::ClosureLower;

const P: &str = "00000000000000000000000000000000-p";
const Q: &str = "11111111111111111111111111111111-q";

type Over<U> = View<UnionFs<ClosureLower<MemLayer>, U>>;

fn store() -> MemLayer {
    let store = MemLayer::new();
    for dir in [P, Q] {
        store.add_dir(dir, 0o755).unwrap();
        store.add_dir(&format!("{dir}/bin"), 0o755).unwrap();
        store.add_file(&format!("{dir}/bin/tool"), 0o755, dir.as_bytes()).unwrap();
        store.add_file(&format!("{dir}/file"), 0o644, b"file").unwrap();
    }
    store.freeze();
    store
}

/// A view of these members, whose upper is that of the disk.
fn view<D: Disk>(store: &MemLayer, disk: &D, members: &[&str]) -> Over<D::U> {
    let members = Arc::new(Members::of_names(members.iter().copied()).unwrap());
    View::new(ClosureLower::new(store.clone(), members), disk.upper(), options(Io::Cached))
}

fn listed<F: Vfs>(view: &mut View<F>, path: &str) -> Vec<String> {
    let ino = view.ino(path);
    let mut names: Vec<String> = view.names(ino, 2).iter().map(|e| e.name.to_string()).collect();
    names.sort();
    names
}

fn make<L: Lower, U: Upper>(view: &mut View<UnionFs<L, U>>, path: &str) -> Result<(), Errno> {
    let (above, last) = path.rsplit_once('/').unwrap();
    let dir = view.ino(above);
    view.fs.mkdir(caller(), dir, &name(last), 0o755).map(drop).map_err(|e| e.errno())
}

fn rename<L: Lower, U: Upper>(view: &mut View<UnionFs<L, U>>, from: &str, to: &str) -> Result<(), Errno> {
    let store = view.ino("store");
    let (from, to) = (name(from), name(to));
    view.fs.rename((store, &from), (store, &to), RenameMode::Replace).map_err(|e| e.errno())
}

fn a_part_stays_hidden_and_comes_back<D: Disk>(disk: &D) {
    let store = store();
    let mut first = view(&store, disk, &[P, Q]);
    first.write(&format!("store/{P}/bin/tool"), 0, b"mine").unwrap();
    first.write(&format!("store/{Q}/file"), 0, b"mine").unwrap();
    make(&mut first, "store/own").unwrap();
    make(&mut first, "store/own/inner").unwrap();
    let before = first.tree();

    let mut other = view(&store, disk, &[Q]);
    assert_eq!(listed(&mut other, "store"), [Q, "own"]);
    assert_eq!(listed(&mut other, "store/own"), ["inner"]);
    assert_eq!(other.walk(&format!("store/{P}")), Err(Errno::ENOENT));
    let dir = other.ino("store");
    let (p, own) = (name(P), name("own"));
    // As a directory that is not empty and cannot be looked up: nothing takes its place, nothing removes it.
    assert_eq!(make(&mut other, &format!("store/{P}")), Err(Errno::EEXIST));
    let errno = |error: nixview::vfs::Error| error.errno();
    assert_eq!(other.fs.symlink(caller(), dir, &p, b"x").map_err(errno), Err(Errno::EEXIST));
    let file = other.ino(&format!("store/{Q}/file"));
    assert_eq!(other.fs.link(file, dir, &p).map_err(errno), Err(Errno::EEXIST));
    let open = |flags| other.fs.create(caller(), dir, &p, 0o644, OpenFlags(flags)).map(drop).map_err(errno);
    assert_eq!(open(libc::O_RDWR | libc::O_CREAT), Err(Errno::EISDIR));
    assert_eq!(open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL), Err(Errno::EEXIST));
    assert_eq!(rename(&mut other, "own", P), Err(Errno::EEXIST));
    assert_eq!(rename(&mut other, P, "new"), Err(Errno::ENOENT));
    assert_eq!(other.fs.rmdir(dir, &p).map_err(errno), Err(Errno::ENOENT));
    let inner = other.ino("store/own");
    other.fs.rmdir(inner, &name("inner")).unwrap();
    other.fs.rmdir(dir, &own).unwrap();
    make(&mut other, "store/own").unwrap();
    make(&mut other, "store/own/inner").unwrap();

    let mut again = view(&store, disk, &[P, Q]);
    let shown = |tree: &std::collections::BTreeMap<String, crate::support::union_support::Shown>| {
        tree.iter().map(|(path, shown)| (path.clone(), shown.content.clone())).collect::<Vec<_>>()
    };
    assert_eq!(shown(&again.tree()), shown(&before), "nothing was deleted");
}

#[test]
fn a_part_of_a_path_that_is_not_shown_stays_hidden_and_comes_back() {
    a_part_stays_hidden_and_comes_back(&MemDisk::new());
    a_part_stays_hidden_and_comes_back(&DirDisk::new());
}

#[test]
fn a_moved_part_stays_hidden_and_is_moved_nowhere_that_hides_it() {
    let (store, disk) = (store(), MemDisk::new());
    let mut first = view(&store, &disk, &[P, Q]);
    first.write(&format!("store/{P}/bin/tool"), 0, b"mine").unwrap();
    rename(&mut first, P, "moved").unwrap();
    assert_eq!(listed(&mut first, "store"), [Q, "moved"]);
    let mut other = view(&store, &disk, &[Q]);
    assert_eq!(listed(&mut other, "store"), [Q]);
    assert_eq!(other.walk("store/moved"), Err(Errno::ENOENT));
    // Its old name is free: there is a whiteout.
    make(&mut other, &format!("store/{P}")).unwrap();
    let mut again = view(&store, &disk, &[P, Q]);
    assert_eq!(listed(&mut again, "store/moved"), ["bin", "file"]);
    assert_eq!(listed(&mut again, &format!("store/{P}")), [""; 0]);
    // A part deeper in a path shows, as on overlayfs; where it would not, mv copies.
    let (moved, q) = (again.ino("store/moved"), again.ino(&format!("store/{Q}")));
    again.fs.rename((moved, &name("bin")), (q, &name("deep")), RenameMode::Replace).unwrap();
    let mut other = view(&store, &disk, &[Q]);
    assert_eq!(listed(&mut other, &format!("store/{Q}/deep")), ["tool"]);
    let (q, dir) = (other.ino(&format!("store/{Q}")), other.ino("store"));
    let answer = other.fs.rename((q, &name("deep")), (dir, &name("top")), RenameMode::Replace);
    assert_eq!(answer.map_err(|e| e.errno()), Err(Errno::EXDEV));
}

#[test]
fn a_whole_path_of_the_upper_shows_with_every_closure() {
    let (store, disk) = (store(), MemDisk::new());
    let mut first = view(&store, &disk, &[Q]);
    make(&mut first, &format!("store/{P}")).unwrap();
    make(&mut first, &format!("store/{P}/own")).unwrap();
    for members in [&[Q][..], &[P, Q], &[]] {
        let mut view = view(&store, &disk, members);
        assert_eq!(listed(&mut view, &format!("store/{P}")), ["own"], "with {members:?}");
    }
}
