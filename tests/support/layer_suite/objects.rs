//! Drafts, kinds of objects, and how objects are found.

use nixview::layer::{Access, EntryKind, LayerFile, NewObject, Presence, Upper};
use nixview::vfs::{Errno, FileKind, Name, SetAttr};

use super::{Bench, Test, Thing, errno, name};

pub(crate) fn tests<U: Upper>() -> Vec<Test<U>> {
    vec![
        ("drafts_are_seen_once_published", drafts_are_seen_once_published),
        ("a_crash_leaves_drafts_that_the_next_start_removes", a_crash_leaves_drafts),
        ("every_kind_is_what_it_is", every_kind_is_what_it_is),
        ("a_device_0_0_is_no_whiteout", a_device_0_0_is_no_whiteout),
        ("names_and_paths", names_and_paths),
        ("long_paths", long_paths),
        ("objects_are_inodes", objects_are_inodes),
        ("directories_of_many_names", directories_of_many_names),
        ("marks_have_no_names", marks_have_no_names),
    ]
}

fn drafts_are_seen_once_published<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    for mode in [0o644, 0o444, 0o000, 0o4755, 0o2711] {
        let draft = b.draft(&NewObject::File, mode);
        let object = b.upper.draft_object(&draft);
        let before = b.upper.stat(&object).unwrap();
        assert_eq!((before.permissions, before.uid, before.gid), (mode, b.owner.0, b.owner.1));
        assert_eq!(b.upper.read_dir(&root).unwrap(), []);
        b.upper.publish(draft, &root, &name("f")).unwrap();
        let found = b.upper.lookup(&root, &name("f")).unwrap();
        assert_eq!(b.upper.stat(&found).unwrap().ino, before.ino);
        assert_eq!(b.upper.stat(&found).unwrap().permissions, mode);
        b.upper.remove(&root, &name("f"), false).unwrap();
    }
    drop(b.draft(&NewObject::File, 0o644));
    drop(b.draft(&NewObject::Directory { opaque: true }, 0o555));
    drop(b.draft(&NewObject::Symlink(b"x"), 0o777));
    assert_eq!((b.work)(), 0, "drafts that were dropped are gone");
}

fn a_crash_leaves_drafts<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    b.add_file(&root, "kept", b"content");
    b.put(&root, "gone", Thing::Whiteout);
    let opaque = b.add(&root, "opaque", &NewObject::Directory { opaque: true });
    b.upper.set_origin(&opaque, 77).unwrap();
    for new in [NewObject::File, NewObject::Directory { opaque: true }, NewObject::Symlink(b"/etc")] {
        std::mem::forget(b.draft(&new, 0o700));
    }
    assert!((b.work)() >= 3, "the crash left something");
    let again = (b.reopen)();
    assert_eq!((b.work)(), 0);
    let root = again.root().unwrap();
    let kept = again.lookup(&root, &name("kept")).unwrap();
    assert_eq!(again.stat(&kept).unwrap().size, 7);
    let opaque = again.lookup(&root, &name("opaque")).unwrap();
    assert!(again.is_opaque(&opaque).unwrap());
    if b.xattrs {
        assert_eq!(again.origin(&opaque).unwrap(), Some(77));
    }
    assert_eq!(again.read_dir(&root).unwrap().len(), 3);
}

fn every_kind_is_what_it_is<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let node = |kind| NewObject::Node { kind, rdev: 0 };
    let target = b"../\xff/no where";
    for (new, kind, open_errno) in [
        (NewObject::Directory { opaque: false }, FileKind::Directory, Errno::EISDIR),
        (NewObject::Symlink(target), FileKind::Symlink, Errno::ELOOP),
        (node(FileKind::Fifo), FileKind::Fifo, Errno::ENXIO),
        (node(FileKind::Socket), FileKind::Socket, Errno::ENXIO),
    ] {
        let object = b.add(&root, "x", &new);
        assert_eq!(b.upper.stat(&object).unwrap().kind, kind);
        for access in [Access::Read, Access::ReadWrite] {
            assert_eq!(errno(b.upper.open(&object, access)), open_errno, "{kind:?}");
        }
        match kind {
            FileKind::Symlink => assert_eq!(b.upper.read_link(&object).unwrap(), target),
            _ => assert_eq!(errno(b.upper.read_link(&object)), Errno::EINVAL),
        }
        if kind != FileKind::Directory {
            assert_eq!(errno(b.upper.read_dir(&object)), Errno::ENOTDIR, "{kind:?}");
            assert_eq!(errno(b.upper.lookup(&object, &name("y"))), Errno::ENOTDIR, "{kind:?}");
        }
        b.upper.remove(&root, &name("x"), false).unwrap();
    }
}

fn a_device_0_0_is_no_whiteout<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let device = NewObject::Node { kind: FileKind::CharDevice, rdev: 0 };
    let draft = match b.upper.draft(&device, 0o400, b.owner.0, b.owner.1) {
        Err(error) if !b.xattrs => return assert_eq!(Errno::of(&error), Errno::EPERM),
        draft => draft.unwrap(),
    };
    b.upper.publish(draft, &root, &name("made")).unwrap();
    b.add_file(&root, "empty", b"");
    b.upper.rename((&root, &name("made")), (&root, &name("x")), true).unwrap();
    let object = b.upper.lookup(&root, &name("x")).unwrap();
    b.upper.link(&object, &root, &name("made")).unwrap();
    b.upper.set_attr(&object, &SetAttr { permissions: Some(0o620), ..SetAttr::default() }).unwrap();
    let again = (b.reopen)();
    let root = again.root().unwrap();
    for text in ["x", "made"] {
        let Presence::Present(found) = again.presence(&root, &name(text)).unwrap() else {
            panic!("{text} is not there");
        };
        let stat = again.stat(&found).unwrap();
        assert_eq!((stat.kind, stat.rdev, stat.size), (FileKind::CharDevice, 0, 0));
        assert_eq!((stat.permissions, stat.nlink), (0o620, 2));
        for access in [Access::Read, Access::ReadWrite] {
            assert_eq!(errno(again.open(&found, access)), Errno::ENXIO);
        }
        let longer = SetAttr { size: Some(1), ..SetAttr::default() };
        assert_eq!(errno(again.set_attr(&found, &longer)), Errno::EINVAL);
        let mark = ["trusted.nixview.device", "user.nixview.device"];
        assert!(mark.iter().all(|mark| errno(again.get_xattr(&found, mark.as_bytes())) == Errno::ENODATA));
    }
    let listed = again.read_dir(&root).unwrap();
    assert!(listed.len() == 3 && listed.iter().all(|e| e.kind != EntryKind::Whiteout), "{listed:?}");
    let dir = b.add_dir(&root, "dir");
    b.upper.link(&object, &dir, &name("y")).unwrap();
    assert_eq!(
        errno(b.upper.remove(&root, &name("dir"), false)),
        Errno::ENOTEMPTY,
        "it is a name like others"
    );
    b.upper.remove(&root, &name("x"), true).unwrap();
    assert!(matches!(b.upper.presence(&root, &name("x")).unwrap(), Presence::Whiteout));
    assert_eq!(b.upper.stat(&object).unwrap().nlink, 2);
}

fn names_and_paths<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let longest = Name::new(&[0xfe; 255]).unwrap();
    let dir = b.add_dir(&root, "dir");
    let draft = b.draft(&NewObject::File, 0o600);
    b.upper.publish(draft, &dir, &longest).unwrap();
    assert_eq!(b.upper.read_dir(&dir).unwrap()[0].name, longest);
    let found = b.upper.resolve(&[name("dir"), longest.clone()]).unwrap();
    assert_eq!(b.upper.stat(&found).unwrap().kind, FileKind::Regular);
    assert_eq!(b.upper.stat(&b.upper.resolve(&[]).unwrap()).unwrap(), b.upper.stat(&root).unwrap());
    assert_eq!(errno(b.upper.resolve(&[name("dir"), longest, name("x")])), Errno::ENOTDIR);
    assert_eq!(errno(b.upper.resolve(&[name("none"), name("x")])), Errno::ENOENT);
    assert_eq!(errno(b.upper.lookup(&dir, &name("none"))), Errno::ENOENT);
    b.add(&root, "link", &NewObject::Symlink(b"dir"));
    let through = errno(b.upper.resolve(&[name("link"), name("x")]));
    assert!(matches!(through, Errno::ELOOP | Errno::ENOTDIR), "{through:?}");
    let link = b.upper.resolve(&[name("link")]).unwrap();
    assert_eq!(b.upper.stat(&link).unwrap().kind, FileKind::Symlink);
}

fn long_paths<U: Upper>(b: &Bench<U>) {
    let text = "d".repeat(200);
    let mut dir = b.root();
    let mut path = Vec::new();
    for _ in 0..45 {
        dir = b.add_dir(&dir, &text);
        path.push(name(&text));
    }
    let found = b.upper.resolve(&path).unwrap();
    assert_eq!(b.upper.stat(&found).unwrap().ino, b.upper.stat(&dir).unwrap().ino);
    path.push(name("none"));
    assert_eq!(errno(b.upper.resolve(&path)), Errno::ENOENT);
}

fn objects_are_inodes<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let (from, to) = (b.add_dir(&root, "from"), b.add_dir(&root, "to"));
    let dir = b.add_dir(&from, "dir");
    let file = b.add_file(&dir, "file", b"text");
    let before = b.upper.stat(&file).unwrap().ino;
    b.upper.rename((&from, &name("dir")), (&to, &name("moved")), false).unwrap();
    b.add_file(&b.add_dir(&from, "dir"), "file", b"other");
    assert_eq!(b.ino(&dir, "file"), Some(before), "the directory is the same under its new name");
    assert_eq!(b.read(&file), b"text");

    let open = b.upper.open(&file, Access::ReadWrite).unwrap();
    b.upper.remove(&dir, &name("file"), false).unwrap();
    assert_eq!(b.upper.stat(&file).unwrap().nlink, 0);
    assert_eq!(open.stat().unwrap().nlink, 0);
    open.write_at(0, b"TEXT").unwrap();
    assert_eq!(b.read(&file), b"TEXT", "a file without a name can be opened by its object");

    b.upper.remove(&to, &name("moved"), false).unwrap();
    let draft = b.draft(&NewObject::File, 0o600);
    assert_eq!(errno(b.upper.publish(draft, &dir, &name("late"))), Errno::ENOENT);
}

fn directories_of_many_names<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let dir = b.add_dir(&root, "many");
    let all: Vec<String> = (0..3000).map(|i| format!("name-{i}-{}", "x".repeat(i % 90))).collect();
    let one = b.add_file(&root, "one", b"");
    for (i, text) in all.iter().enumerate() {
        if i % 3 == 0 {
            b.put(&dir, text, Thing::Whiteout);
        } else {
            b.upper.link(&one, &dir, &name(text)).unwrap();
        }
    }
    let mut listed: Vec<String> =
        b.upper.read_dir(&dir).unwrap().iter().map(|e| e.name.to_string()).collect();
    let mut wanted = all.clone();
    listed.sort();
    wanted.sort();
    assert_eq!(listed, wanted, "each name once");
    assert_eq!(errno(b.upper.remove(&root, &name("many"), false)), Errno::ENOTEMPTY);
    for text in all.iter().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, text)| text) {
        b.upper.remove(&dir, &name(text), true).unwrap();
    }
    b.upper.remove(&root, &name("many"), false).unwrap();
    assert_eq!(b.upper.stat(&one).unwrap().nlink, 1);
}

fn marks_have_no_names<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let dir = b.add(&root, "dir", &NewObject::Directory { opaque: true });
    b.put(&dir, "gone", Thing::Whiteout);
    assert_eq!(b.upper.read_dir(&dir).unwrap().len(), 1, "the whiteout, and no mark");
    for text in [".wh.gone", ".wh..wh..opq", ".wh.", ".wh.new"] {
        let draft = b.draft(&NewObject::File, 0o600);
        let answer = b.upper.publish(draft, &dir, &name(text));
        if b.reserves_names {
            assert_eq!(errno(answer), Errno::EPERM, "{text}");
            assert_eq!(errno(b.upper.lookup(&dir, &name(text))), Errno::ENOENT, "{text}");
            assert_eq!(errno(b.upper.remove(&dir, &name(text), false)), Errno::ENOENT, "{text}");
        } else {
            answer.unwrap();
            assert_eq!(b.thing(&dir, text), Thing::File);
            b.upper.remove(&dir, &name(text), false).unwrap();
        }
    }
    assert_eq!(b.thing(&dir, "gone"), Thing::Whiteout);
    assert!(b.upper.is_opaque(&dir).unwrap());
}
