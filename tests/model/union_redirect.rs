//! Directories that the lower has, moved: what shows, what is stored, and what damaged redirects do.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::{Disk, MemDisk, Shown, View, caller, name, options};
use nixview::layer::dir::Format;
use nixview::layer::fault::{FaultUpper, Faults};
use nixview::layer::mem::MemLayer;
use nixview::layer::{Lower, NewObject, Presence, REDIRECT_MAX, Redirect, Upper};
use nixview::sys;
use nixview::union::{Io, UnionFs};
use nixview::vfs::{Errno, Flow, Ino, Name, OpenFlags, RenameMode, Vfs};
use nixview::view::members::Members;
use nixview::view::store_root::ClosureLower;
use rustix::fs::XattrFlags;

type Mem = View<UnionFs<MemLayer, MemLayer>>;

fn view(disk: &MemDisk) -> Mem {
    View::new(disk.lower(), disk.upper(), options(Io::Cached))
}

fn split(path: &str) -> (&str, Name) {
    let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name(last))
}

fn rename<L: Lower, U: Upper>(
    view: &mut View<UnionFs<L, U>>,
    from: &str,
    to: &str,
    mode: RenameMode,
) -> Result<(), Errno> {
    let ((from, a), (to, b)) = (split(from), split(to));
    let (from, to) = (view.ino(from), view.ino(to));
    view.fs.rename((from, &a), (to, &b), mode).map_err(|e| e.errno())
}

fn moved<L: Lower, U: Upper>(view: &mut View<UnionFs<L, U>>, from: &str, to: &str) {
    rename(view, from, to, RenameMode::Replace).unwrap_or_else(|e| panic!("{from} to {to}: {e:?}"));
}

fn path(text: &str) -> Vec<Name> {
    text.split('/').filter(|n| !n.is_empty()).map(name).collect()
}

/// What is noted with a directory of the upper.
fn noted(upper: &MemLayer, text: &str) -> Option<Redirect> {
    upper.redirect(&upper.resolve(&path(text)).unwrap()).unwrap()
}

fn names<L: Lower, U: Upper>(view: &mut View<UnionFs<L, U>>, at: &str) -> Vec<String> {
    let ino = view.ino(at);
    let mut all: Vec<String> = view.names(ino, 8).iter().map(|e| e.name.to_string()).collect();
    all.sort();
    all
}

#[test]
fn a_moved_directory_shows_the_same_under_the_same_numbers() {
    let disk = MemDisk::new();
    let mut first = view(&disk);
    first.write("a/a", 0, b"UPPER").unwrap();
    let below = |tree: std::collections::BTreeMap<String, Shown>, top: &str| -> Vec<(String, Shown)> {
        let inside = tree.into_iter().filter_map(|(p, s)| Some((p.strip_prefix(top)?.to_owned(), s)));
        inside.filter(|(p, _)| !p.is_empty()).collect()
    };
    let before = below(first.tree(), "/a/");
    let number = first.ino("a");
    let mut at = "a".to_owned();
    // Within a directory, into others, below itself's old place, and home again.
    first.fs.mkdir(caller(), Ino::ROOT, &name("own"), 0o755).unwrap();
    for to in ["x", "c/x", "own/x", "own/y", "a"] {
        moved(&mut first, &at, to);
        assert_eq!(first.walk(&at), Err(Errno::ENOENT), "moved to {to}");
        let mut second = view(&disk);
        for view in [&mut first, &mut second] {
            assert_eq!(view.ino(to), number, "{to}");
            assert_eq!(below(view.tree(), &format!("/{to}/")), before, "{to}");
            let (dir, inner) = (view.ino(split(to).0), view.ino(&format!("{to}/b/c")));
            assert_eq!(view.fs.parent(number).unwrap(), dir, "{to}: '..'");
            assert_eq!(view.fs.parent(inner).unwrap(), view.ino(&format!("{to}/b")));
        }
        at = to.to_owned();
    }
    assert_eq!(noted(&disk.upper, "a"), Some(Redirect::Path(path("a"))));
    assert_eq!(names(&mut first, "own"), [""; 0]);
}

#[test]
fn what_is_stored_is_what_overlayfs_stores() {
    let disk = MemDisk::new();
    let mut view = view(&disk);
    moved(&mut view, "a/b", "a/x");
    assert_eq!(noted(&disk.upper, "a/x"), Some(Redirect::Sibling(name("b"))));
    assert_eq!(noted(&disk.upper, "a"), None, "what did not move has no note");
    moved(&mut view, "a/x", "a/y");
    assert_eq!(noted(&disk.upper, "a/y"), Some(Redirect::Sibling(name("b"))), "its first name");
    moved(&mut view, "a", "c/z");
    assert_eq!(noted(&disk.upper, "c/z"), Some(Redirect::Path(path("a"))));
    assert_eq!(noted(&disk.upper, "c/z/y"), Some(Redirect::Sibling(name("b"))));
    moved(&mut view, "c/z/y", "w");
    assert_eq!(
        noted(&disk.upper, "w"),
        Some(Redirect::Path(path("a/b"))),
        "a path of the lower, not the view"
    );
    moved(&mut view, "w/c", "v");
    assert_eq!(noted(&disk.upper, "v"), Some(Redirect::Path(path("a/b/c"))));
    let root = disk.upper.root().unwrap();
    let a = disk.upper.presence(&root, &name("a")).unwrap();
    assert!(matches!(a, Presence::Whiteout), "the lower's name is hidden");
    let w = disk.upper.resolve(&path("w")).unwrap();
    assert!(matches!(disk.upper.presence(&w, &name("c")).unwrap(), Presence::Whiteout));
    for made in ["w", "v", "c/z"] {
        assert!(!disk.upper.is_opaque(&disk.upper.resolve(&path(made)).unwrap()).unwrap());
    }
    // What is made in the old place is new, and the old one can be moved over it.
    let old = view.ino("c/z");
    let new = view.fs.mkdir(caller(), Ino::ROOT, &name("a"), 0o755).unwrap().attr.ino;
    assert_ne!(new, old);
    assert_eq!(names(&mut view, "a"), [""; 0]);
    moved(&mut view, "c/z", "a");
    assert_eq!((view.ino("a"), names(&mut view, "a")), (old, vec!["a".to_owned()]));
}

#[test]
fn directories_and_files_are_exchanged() {
    let disk = MemDisk::new();
    let mut first = view(&disk);
    let numbers = ["a", "b", "c", "a/b/c"].map(|p| first.ino(p));
    rename(&mut first, "a", "c", RenameMode::Exchange).unwrap();
    rename(&mut first, "b", "c/b/c", RenameMode::Exchange).unwrap();
    let mut second = view(&disk);
    for view in [&mut first, &mut second] {
        assert_eq!(["c", "c/b/c", "a", "b"].map(|p| view.ino(p)), numbers);
        assert_eq!(names(view, "a"), [""; 0]);
        assert_eq!(names(view, "c"), ["a", "b"]);
        assert_eq!(names(view, "b"), ["a"], "what was a/b/c");
        let file = view.ino("c/b/c");
        assert_eq!(view.read(file), b"lower b");
    }
    rename(&mut first, "b", "c/b/c", RenameMode::Exchange).unwrap();
    rename(&mut first, "a", "c", RenameMode::Exchange).unwrap();
    assert_eq!(["a", "b", "c", "a/b/c"].map(|p| first.ino(p)), numbers, "and back");
}

#[test]
fn what_cannot_be_moved_is_refused_and_nothing_changes() {
    let disk = MemDisk::new();
    let mut view = view(&disk);
    let before = view.tree();
    use RenameMode::{Exchange, NoReplace, Replace};
    for (from, to, mode, errno) in [
        ("a", "a/x", Replace, Errno::EINVAL),
        ("a", "a/b/c/x", Replace, Errno::EINVAL),
        ("a", "a/b", Exchange, Errno::EINVAL),
        ("a/b", "a", Exchange, Errno::EINVAL),
        ("a/b", "a", Replace, Errno::ENOTEMPTY),
        ("c", "a", Replace, Errno::ENOTEMPTY),
        ("a", "c", NoReplace, Errno::EEXIST),
        ("a", "b", Replace, Errno::ENOTDIR),
        ("b", "c", Replace, Errno::EISDIR),
        ("a", "none", Exchange, Errno::ENOENT),
        ("none", "a", Replace, Errno::ENOENT),
    ] {
        assert_eq!(rename(&mut view, from, to, mode), Err(errno), "{from} to {to}, {mode:?}");
        // Directories may have been copied up; those tell when their inode changed.
        let mut after = view.tree();
        for (path, shown) in &mut after {
            let old = before[path].attr;
            (shown.attr.ctime, shown.attr.blocks, shown.attr.size) = (old.ctime, old.blocks, old.size);
        }
        assert_eq!(after, before, "{from} to {to}, {mode:?}");
    }
    rename(&mut view, "a", "a", Replace).unwrap();
    // A directory of the lower in which nothing shows any more is empty, whatever hides it.
    let inner = view.ino("a/b/c");
    view.fs.unlink(inner, &name("a")).unwrap();
    moved(&mut view, "c", "a/b/c");
    assert_eq!(names(&mut view, "a/b/c"), [""; 0]);
    assert_eq!(
        self::view(&disk).walk("a/b/c/a"),
        Err(Errno::ENOENT),
        "what it displaced does not show again"
    );
}

#[test]
fn open_files_and_listings_go_on_over_a_move() {
    let disk = MemDisk::new();
    let mut view = view(&disk);
    let (dir, file, unread) = (view.ino("a"), view.ino("a/b/a"), view.ino("a/b/c/a"));
    let handle = view.fs.open(file, OpenFlags(libc::O_RDWR)).unwrap().handle;
    let reader = view.fs.open(unread, OpenFlags(libc::O_RDONLY)).unwrap().handle;
    let mut first = None;
    view.fs
        .readdir(dir, 0, false, &mut |entry| match first {
            None => {
                first = Some(entry.clone());
                Flow::Continue
            }
            Some(_) => Flow::Full,
        })
        .unwrap();
    let first = first.unwrap();
    moved(&mut view, "a", "c/moved");
    let mut rest = Vec::new();
    view.fs
        .readdir(dir, first.cookie, false, &mut |entry| {
            rest.push(entry.name.to_string());
            Flow::Continue
        })
        .unwrap();
    rest.push(first.name.to_string());
    rest.sort();
    assert_eq!(rest, ["a", "b"]);
    assert_eq!(view.fs.write(file, Some(handle), 0, b"UPPER").unwrap(), 5);
    assert_eq!(view.read_handle(unread, reader), b"");
    assert_eq!(view.fs.write(unread, None, 0, b"copied up after the move").unwrap(), 24);
    view.fs.release(file, handle);
    view.fs.release(unread, reader);
    let other = &mut self::view(&disk);
    let (file, unread) = (other.ino("c/moved/b/a"), other.ino("c/moved/b/c/a"));
    assert_eq!(other.read(file), b"UPPER a/b/a");
    assert_eq!(other.read(unread), b"copied up after the move");
    view.forget_all();
    assert_eq!(view.fs.known_inodes(), 1);
}

#[test]
fn a_directory_that_others_made_without_a_mark_takes_nothing_up_when_it_moves() {
    let disk = MemDisk::new();
    disk.upper.add_dir("open", 0o755).unwrap();
    disk.upper.add_file("open/own", 0o644, b"").unwrap();
    let mut view = view(&disk);
    let c = view.ino("a/b/c");
    view.fs.unlink(c, &name("a")).unwrap();
    let number = view.ino("open");
    moved(&mut view, "open", "a/b/c");
    assert_eq!((view.ino("a/b/c"), names(&mut view, "a/b/c")), (number, vec!["own".to_owned()]));
    assert_eq!(names(&mut self::view(&disk), "a/b/c"), ["own"]);
}

#[test]
fn a_crash_while_such_a_directory_moves_leaves_it_here_or_there() {
    for n in 0.. {
        let disk = MemDisk::new();
        disk.upper.add_dir("open", 0o755).unwrap();
        disk.upper.add_file("open/own", 0o644, b"").unwrap();
        let faults = Faults::crash_at(n);
        let upper = FaultUpper::new(disk.upper(), faults.clone());
        let mut view = View::new(disk.lower(), upper, options(Io::Cached));
        let crashed = rename(&mut view, "open", "c", RenameMode::Replace).is_err();
        assert_eq!(crashed, faults.crashed());
        let mut view = self::view(&disk);
        let at = if view.walk("open").is_ok() { "open" } else { "c" };
        assert_eq!(names(&mut view, at), ["own"], "change {n}");
        assert!(view.walk("c").is_ok());
        if !crashed {
            assert!(n >= 2 && at == "c", "{n} changes");
            return;
        }
    }
}

#[test]
fn a_lower_part_that_is_gone_leaves_the_upper_part_and_comes_back() {
    let disk = MemDisk::new();
    let mut first = view(&disk);
    let (a, b) = (first.ino("a"), first.ino("a/b"));
    let made = first.fs.mkdir(caller(), a, &name("own"), 0o755).unwrap().attr.ino;
    first.fs.mkdir(caller(), b, &name("inner"), 0o755).unwrap();
    moved(&mut first, "a/b", "a/y");
    moved(&mut first, "a", "x");
    // Another closure, in which there is no a; then one in which a is a file; then the first again.
    let without = MemLayer::new();
    let other = MemLayer::new();
    other.add_file("a", 0o644, b"not a directory").unwrap();
    for lower in [without.clone(), other] {
        let mut view = View::new(lower, disk.upper(), options(Io::Cached));
        assert_eq!((view.ino("x"), view.ino("x/y"), view.ino("x/own")), (a, b, made));
        assert_eq!(names(&mut view, "x"), ["own", "y"]);
        assert_eq!(names(&mut view, "x/y"), ["inner"]);
        assert_eq!(view.walk("a"), Err(Errno::ENOENT), "its whiteout stays");
    }
    let mut view = View::new(without, disk.upper(), options(Io::Cached));
    moved(&mut view, "x", "own");
    moved(&mut view, "own", "x");
    let mut again = self::view(&disk);
    assert_eq!((again.ino("x"), again.ino("x/y")), (a, b));
    assert_eq!(names(&mut again, "x"), ["a", "own", "y"]);
    assert_eq!(names(&mut again, "x/y"), ["a", "b", "c", "inner"]);
}

#[test]
fn one_lower_directory_named_twice_is_two_inodes() {
    // An upper that somebody copied within itself.
    let disk = MemDisk::new();
    for copy in ["one", "two"] {
        let dir = disk.upper.add_dir(copy, 0o755).unwrap();
        disk.upper.set_redirect(&dir, &Redirect::Path(path("a"))).unwrap();
    }
    let mut view = view(&disk);
    let inodes = ["one", "two", "a", "one/a", "two/a", "a/a", "one/b/c", "two/b/c"].map(|p| view.ino(p));
    let distinct: std::collections::HashSet<Ino> = inodes.into_iter().collect();
    assert_eq!(distinct.len(), inodes.len());
    assert_eq!(view.fs.write(inodes[3], None, 0, b"UPPER").unwrap(), 5);
    moved(&mut view, "two", "three");
    assert_eq!(
        ["one", "three", "a", "one/a", "three/a", "a/a", "one/b/c", "three/b/c"].map(|p| view.ino(p)),
        inodes
    );
    assert_eq!(
        ["one/a", "three/a", "a/a"].map(|p| {
            let ino = view.ino(p);
            view.read(ino)[0]
        }),
        *b"Ull"
    );
    view.forget_all();
    assert_eq!(view.fs.known_inodes(), 1);
}

/// A store with a secret beside what a closure shows, and an upper over it.
fn closure() -> (ClosureLower<MemLayer>, MemLayer, [String; 2]) {
    let [shown, hidden] = ["0", "1"].map(|digit| format!("{}-package", digit.repeat(32)));
    let store = MemLayer::new();
    for dir in [&shown, &hidden] {
        store.add_dir(dir, 0o755).unwrap();
        store.add_file(&format!("{dir}/file"), 0o644, dir.as_bytes()).unwrap();
        store.add_dir(&format!("{dir}/inner"), 0o755).unwrap();
    }
    store
        .add(&format!("{shown}/link"), &NewObject::Symlink(format!("../{hidden}").as_bytes()), 0o777)
        .unwrap();
    store.freeze();
    let members = Members::of_names([shown.as_str()]).unwrap();
    (ClosureLower::new(store, Arc::new(members)), MemLayer::new(), [shown, hidden])
}

#[test]
fn a_redirect_shows_nothing_outside_the_closure() {
    let (lower, upper, [shown, hidden]) = closure();
    let lie = |at: &str, text: String| {
        let dir = upper.add_dir(at, 0o755).unwrap();
        upper.set_redirect(&dir, &Redirect::parse(text.as_bytes()).unwrap()).unwrap();
    };
    lie("store", "/store".to_owned());
    for (n, to) in [
        format!("/store/{hidden}"),
        format!("/store/{hidden}/inner"),
        format!("/{hidden}"),
        format!("/store/{shown}/link"),
        format!("/store/{shown}/link/inner"),
        format!("/store/{shown}/file"),
        format!("/store/{shown}/file/x"),
        "/store/.links".to_owned(),
        format!("/store/{}", "x".repeat(200)),
    ]
    .into_iter()
    .enumerate()
    {
        lie(&format!("store/path{n}"), to);
    }
    lie("store/sibling", hidden.clone());
    lie("store/good", format!("/store/{shown}"));
    lie("store/loop", "/store".to_owned());
    let mut view = View::new(lower, upper, options(Io::Cached));
    // In the store a directory shows only whole.
    for n in 0..9 {
        assert_eq!(view.walk(&format!("store/path{n}")), Err(Errno::ENOENT), "{n}");
    }
    assert_eq!(view.walk("store/sibling"), Err(Errno::ENOENT));
    assert_eq!(names(&mut view, "store/good"), ["file", "inner", "link"]);
    // What is in a loop is the lower alone, so it ends, and the filter holds in it.
    assert_eq!(names(&mut view, "store/loop"), [shown.as_str()]);
    assert_eq!(view.walk(&format!("store/loop/{hidden}")), Err(Errno::ENOENT));
    for (path, shown) in view.tree() {
        let content = String::from_utf8(shown.content).unwrap();
        assert!(path.contains("link") || !content.contains(&hidden), "{path}: {content}");
    }
}

#[test]
fn a_damaged_redirect_is_an_error_as_in_overlayfs() {
    let disk = DirDisk::new();
    assert!(disk.redirects());
    let attribute =
        if disk.format == Format::User { "user" } else { "trusted" }.to_owned() + ".overlay.redirect";
    let set = |at: &str, value: &[u8]| {
        let dir = disk.dir.path().join("data").join(at);
        fs::create_dir(&dir).unwrap();
        let dir = File::open(dir).unwrap();
        sys::xattr::set(dir.as_fd(), attribute.as_bytes(), value, XattrFlags::empty()).unwrap();
    };
    let long = [&b"/c/"[..], &[b'x'; 300]].concat();
    let damaged: [(&[u8], Result<(), Errno>); 14] = [
        (b"", Err(Errno::EINVAL)),
        (b"/", Err(Errno::EINVAL)),
        (b"//a", Err(Errno::EINVAL)),
        (b"/a/", Err(Errno::EINVAL)),
        (b"/a//b", Err(Errno::EINVAL)),
        (b"a/b", Err(Errno::EINVAL)),
        (b"a\0", Err(Errno::EINVAL)),
        (b".", Err(Errno::EACCES)),
        (b"..", Err(Errno::EACCES)),
        (b"/../a", Err(Errno::EACCES)),
        (b"/a/..", Err(Errno::EACCES)),
        (&long, Ok(())),
        (b"/none/a", Ok(())),
        (b"/b", Ok(())),
    ];
    for (n, (value, _)) in damaged.iter().enumerate() {
        set(&format!("d{n}"), value);
    }
    let mut view = View::new(disk.lower(), disk.upper(), options(Io::Cached));
    for (n, (value, expected)) in damaged.into_iter().enumerate() {
        let at = format!("d{n}");
        assert_eq!(view.walk(&at).map(drop), expected, "{}", value.escape_ascii());
        let answer = rename(&mut view, &at, &format!("moved{n}"), RenameMode::Replace);
        assert_eq!(answer, expected, "{}", value.escape_ascii());
        if expected.is_ok() {
            assert_eq!(names(&mut view, &format!("moved{n}")), [""; 0], "{}", value.escape_ascii());
        }
    }
    let listed = view.fs.readdir(Ino::ROOT, 0, false, &mut |_| Flow::Continue);
    let listed = listed.unwrap_err().errno();
    assert!(matches!(listed, Errno::EINVAL | Errno::EACCES), "{listed:?}");
}

#[test]
fn where_a_redirect_cannot_be_stored_the_answer_is_exdev() {
    let (deep, part) = (MemLayer::new(), "x".repeat(250));
    let mut long = String::new();
    for _ in 0..=REDIRECT_MAX / 250 {
        long = format!("{long}/{part}").trim_start_matches('/').to_owned();
        deep.add_dir(&long, 0o755).unwrap();
    }
    deep.add_dir(&format!("{long}/dir"), 0o755).unwrap();
    let upper = MemLayer::new();
    let mut view = View::new(deep, upper.clone(), options(Io::Cached));
    let (from, here) = (format!("{long}/dir"), format!("{long}/here"));
    assert_eq!(rename(&mut view, &from, "there", RenameMode::Replace), Err(Errno::EXDEV));
    moved(&mut view, &from, &here);
    assert_eq!(rename(&mut view, &here, "there", RenameMode::Replace), Err(Errno::EXDEV));
    assert_eq!(noted(&upper, &here), Some(Redirect::Sibling(name("dir"))), "as before");

    let disk = DirDisk::with_format(&std::env::temp_dir(), Some(Format::Files));
    let mut view = View::new(disk.lower(), disk.upper(), options(Io::Cached));
    let before = view.tree().len();
    assert_eq!(rename(&mut view, "a", "x", RenameMode::Replace), Err(Errno::EXDEV));
    assert_eq!(rename(&mut view, "a", "b", RenameMode::Exchange), Err(Errno::EXDEV));
    assert_eq!(rename(&mut view, "b", "a", RenameMode::Exchange), Err(Errno::EXDEV));
    assert_eq!(view.tree().len(), before);
    view.fs.mkdir(caller(), Ino::ROOT, &name("own"), 0o755).unwrap();
    moved(&mut view, "own", "a/own");
}

#[test]
fn a_view_that_moved_directories_over_one_disk_shows_the_same_over_another() {
    // The same history on a disk and in memory: the stored forms mean the same.
    let (disk, mem) = (DirDisk::new(), MemDisk::new());
    let history = [("a/b", "x"), ("a", "x/c/n"), ("x/c", "a"), ("c", "a/n/b"), ("x", "c")];
    let mut on_disk = View::new(disk.lower(), disk.upper(), options(Io::Cached));
    let mut in_mem = view(&mem);
    for (from, to) in history {
        moved(&mut on_disk, from, to);
        moved(&mut in_mem, from, to);
    }
    let mut on_disk = View::new(disk.lower(), disk.upper(), options(Io::Cached));
    let mut in_mem = view(&mem);
    let told = |shown: Shown| (shown.attr.ino, shown.attr.permissions, shown.attr.kind, shown.content);
    let (left, right) = (on_disk.tree(), in_mem.tree());
    let left: Vec<_> = left.into_iter().map(|(path, shown)| (path, told(shown))).collect();
    let right: Vec<_> = right.into_iter().map(|(path, shown)| (path, told(shown))).collect();
    assert_eq!(left, right);
}
