//! Metadata, extended attributes and the layer's own marks.

use nixview::layer::{Access, LayerFile, NewObject, Redirect, Upper};
use nixview::vfs::{Errno, FileKind, SetAttr, SetTime, Timespec, XattrMode};

use super::{Bench, Test, Thing, errno, name};

pub(crate) fn tests<U: Upper>() -> Vec<Test<U>> {
    vec![
        ("attributes_change_one_by_one", attributes_change_one_by_one),
        ("a_link_is_not_its_target", a_link_is_not_its_target),
        ("lengths", lengths),
        ("extended_attributes", extended_attributes),
        ("marks_are_nobodys", marks_are_nobodys),
        ("redirects", redirects),
        ("origins", origins),
        ("sizes_of_the_file_system", sizes_of_the_file_system),
    ]
}

fn at(seconds: i64, nanoseconds: u32) -> Timespec {
    Timespec { seconds, nanoseconds }
}

fn attributes_change_one_by_one<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    for new in [
        NewObject::File,
        NewObject::Directory { opaque: false },
        NewObject::Node { kind: FileKind::Fifo, rdev: 0 },
    ] {
        let object = b.add(&root, "x", &new);
        let set = |changes: SetAttr| b.upper.set_attr(&object, &changes).unwrap();
        let stat = || b.upper.stat(&object).unwrap();
        set(SetAttr { permissions: Some(0o4751), ..SetAttr::default() });
        assert_eq!(stat().permissions, 0o4751);
        let (old, new) = (at(1, 0), at(1_000_000_000, 123_456_789));
        set(SetAttr { atime: Some(SetTime::At(old)), mtime: Some(SetTime::At(new)), ..SetAttr::default() });
        assert_eq!((stat().atime, stat().mtime), (old, new));
        set(SetAttr { mtime: Some(SetTime::At(at(-7, 5))), ..SetAttr::default() });
        assert_eq!((stat().atime, stat().mtime), (old, at(-7, 5)), "the other time stays");
        set(SetAttr { atime: Some(SetTime::Now), ..SetAttr::default() });
        assert!(stat().atime > new, "now is later");
        set(SetAttr { uid: Some(b.owner.0), permissions: Some(0o2750), ..SetAttr::default() });
        assert_eq!((stat().uid, stat().permissions), (b.owner.0, 0o2750), "the owner first, then the mode");
        set(SetAttr::default());
        b.upper.remove(&root, &name("x"), false).unwrap();
        let changes = SetAttr { permissions: Some(0o600), ..SetAttr::default() };
        b.upper.set_attr(&object, &changes).unwrap();
        assert_eq!(stat().permissions, 0o600, "also without a name");
    }
}

fn a_link_is_not_its_target<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let file = b.add_file(&root, "file", b"text");
    let before = b.upper.stat(&file).unwrap();
    let link = b.add(&root, "link", &NewObject::Symlink(b"file"));
    let changes = SetAttr {
        uid: Some(b.owner.0),
        gid: Some(b.owner.1),
        mtime: Some(SetTime::At(at(5, 6))),
        ..SetAttr::default()
    };
    b.upper.set_attr(&link, &changes).unwrap();
    assert_eq!(b.upper.stat(&link).unwrap().mtime, at(5, 6));
    let to_length = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(errno(b.upper.set_attr(&link, &to_length)), Errno::EINVAL);
    assert_eq!(b.upper.stat(&file).unwrap(), before);
}

fn lengths<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let file = b.add_file(&root, "file", b"0123456789");
    let set = |size| b.upper.set_attr(&file, &SetAttr { size: Some(size), ..SetAttr::default() });
    set(4).unwrap();
    set(6).unwrap();
    assert_eq!(b.read(&file), b"0123\0\0");
    let open = b.upper.open(&file, Access::ReadWrite).unwrap();
    open.set_attr(&SetAttr { size: Some(1), permissions: Some(0o600), ..SetAttr::default() }).unwrap();
    assert_eq!(b.read(&file), b"0");
    assert_eq!(open.stat().unwrap(), b.upper.stat(&file).unwrap());
    b.put(&root, "dir", Thing::EmptyDir);
    let dir = b.upper.lookup(&root, &name("dir")).unwrap();
    let to_length = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(errno(b.upper.set_attr(&dir, &to_length)), Errno::EISDIR);
}

fn extended_attributes<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    if !b.xattrs {
        return;
    }
    for new in [NewObject::File, NewObject::Directory { opaque: true }] {
        let object = b.add(&root, "x", &new);
        let set = |n: &[u8], v: &[u8], mode| b.upper.set_xattr(&object, n, v, mode);
        assert_eq!(errno(b.upper.get_xattr(&object, b"user.a")), Errno::ENODATA);
        assert_eq!(errno(set(b"user.a", b"1", XattrMode::Replace)), Errno::ENODATA);
        set(b"user.a", b"1", XattrMode::Create).unwrap();
        assert_eq!(errno(set(b"user.a", b"2", XattrMode::Create)), Errno::EEXIST);
        set(b"user.a", b"\0\xff", XattrMode::Replace).unwrap();
        set(b"user.b", b"", XattrMode::Set).unwrap();
        set(b"user.long", &[9; 2000], XattrMode::Set).unwrap();
        assert_eq!(b.upper.get_xattr(&object, b"user.a").unwrap(), b"\0\xff");
        assert_eq!(b.upper.get_xattr(&object, b"user.b").unwrap(), b"");
        assert_eq!(b.upper.get_xattr(&object, b"user.long").unwrap(), [9; 2000]);
        b.upper.remove_xattr(&object, b"user.b").unwrap();
        assert_eq!(errno(b.upper.remove_xattr(&object, b"user.b")), Errno::ENODATA);
        let mut names = b.upper.list_xattr(&object).unwrap();
        names.retain(|n| n.starts_with(b"user."));
        names.sort();
        assert_eq!(names, [b"user.a".to_vec(), b"user.long".to_vec()]);
        b.upper.remove(&root, &name("x"), false).unwrap();
    }
    let closed = b.draft(&NewObject::File, 0o444);
    let object = b.upper.draft_object(&closed);
    b.upper.set_xattr(&object, b"user.copied", b"up", XattrMode::Set).unwrap();
    b.upper.set_origin(&object, 5).unwrap();
    assert_eq!(b.upper.stat(&object).unwrap().permissions, 0o444, "also on a file that is not writable");
}

fn marks_are_nobodys<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let dir = b.add(&root, "dir", &NewObject::Directory { opaque: true });
    b.upper.set_origin(&dir, 3).unwrap();
    let shown = || {
        let mut shown = b.upper.list_xattr(&dir).unwrap();
        shown.retain(|n| n.starts_with(b"trusted.") || n.starts_with(b"user."));
        shown
    };
    assert_eq!(shown(), Vec::<Vec<u8>>::new());
    for mark in ["overlay.opaque", "overlay.redirect", "nixview.origin", "nixview.device", "nixview.anything"]
    {
        for space in ["trusted", "user"] {
            let mark = format!("{space}.{mark}").into_bytes();
            assert_eq!(errno(b.upper.get_xattr(&dir, &mark)), Errno::ENODATA);
            assert_eq!(errno(b.upper.remove_xattr(&dir, &mark)), Errno::ENODATA);
            match b.upper.set_xattr(&dir, &mark, b"x", XattrMode::Set).map_err(|error| Errno::of(&error)) {
                // Neither a privilege nor attributes are everywhere.
                Err(Errno::EPERM | Errno::EOPNOTSUPP) if space == "trusted" || !b.xattrs => continue,
                answer => answer.unwrap(),
            }
            assert_eq!(shown(), std::slice::from_ref(&mark));
            assert_eq!(b.upper.get_xattr(&dir, &mark).unwrap(), b"x");
            assert!(b.upper.is_opaque(&dir).unwrap());
            assert!(matches!(b.upper.origin(&dir).unwrap(), None | Some(3)));
            b.upper.remove_xattr(&dir, &mark).unwrap();
        }
    }
    assert!(b.upper.is_opaque(&dir).unwrap());
}

fn redirects<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let dir = b.add(&root, "dir", &NewObject::Directory { opaque: false });
    assert_eq!(b.upper.redirect(&dir).unwrap(), None);
    let path = Redirect::Path(vec![name("store"), name("x")]);
    if b.reserves_names {
        assert_eq!(errno(b.upper.set_redirect(&dir, &path)), Errno::EXDEV, "there is no place for it");
        assert_eq!(b.upper.redirect(&dir).unwrap(), None);
    } else {
        for redirect in [Redirect::Sibling(name("old")), path] {
            b.upper.set_redirect(&dir, &redirect).unwrap();
            b.upper.rename((&root, &name("dir")), (&root, &name("moved")), false).unwrap();
            b.upper.rename((&root, &name("moved")), (&root, &name("dir")), false).unwrap();
            let again = (b.reopen)();
            let found = again.lookup(&again.root().unwrap(), &name("dir")).unwrap();
            assert_eq!(again.redirect(&found).unwrap(), Some(redirect));
        }
        let long = Redirect::Path(vec![name(&"x".repeat(255)); 5]);
        let before = b.upper.redirect(&dir).unwrap();
        assert_eq!(errno(b.upper.set_redirect(&dir, &long)), Errno::EXDEV);
        assert_eq!(b.upper.redirect(&dir).unwrap(), before);
    }
    assert!(!b.upper.is_opaque(&dir).unwrap());
    b.upper.make_opaque(&dir).unwrap();
    b.upper.make_opaque(&dir).unwrap();
    assert!((b.reopen)().is_opaque(&dir).unwrap());
}

fn origins<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let kinds = [
        NewObject::File,
        NewObject::Directory { opaque: false },
        NewObject::Symlink(b"x"),
        NewObject::Node { kind: FileKind::Fifo, rdev: 0 },
    ];
    for (i, new) in kinds.iter().enumerate() {
        let text = format!("{i}");
        let object = b.add(&root, &text, new);
        assert_eq!(b.upper.origin(&object).unwrap(), None);
        b.upper.set_origin(&object, 1).unwrap();
        b.upper.set_origin(&object, u64::MAX - 5).unwrap();
        b.upper.rename((&root, &name(&text)), (&root, &name(&format!("moved{i}"))), false).unwrap();
        let again = (b.reopen)();
        let found = again.lookup(&again.root().unwrap(), &name(&format!("moved{i}"))).unwrap();
        let kept = again.origin(&found).unwrap();
        assert_eq!(kept, b.upper.origin(&object).unwrap());
        // Symbolic links and nodes may not be able to hold one.
        assert!(kept == Some(u64::MAX - 5) || (kept.is_none() && (i > 1 || !b.xattrs)), "{new:?}: {kept:?}");
    }
}

fn sizes_of_the_file_system<U: Upper>(b: &Bench<U>) {
    let sizes = b.upper.statfs().unwrap();
    assert!(sizes.block_size.is_power_of_two() && sizes.name_max >= 255, "{sizes:?}");
    assert!(sizes.blocks >= sizes.blocks_free && sizes.blocks_free >= sizes.blocks_available);
    b.upper.sync_dir(&b.root()).unwrap();
    let file = b.add_file(&b.root(), "f", b"x");
    let open = b.upper.open(&file, Access::ReadWrite).unwrap();
    open.sync(true).unwrap();
    open.sync(false).unwrap();
}
