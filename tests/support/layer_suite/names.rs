//! Changes of names: every kind of thing that can be changed, over every kind of thing that can be there.

use nixview::layer::{NewObject, Upper};
use nixview::vfs::Errno;

use super::{Bench, Test, Thing, errno, name};

pub(crate) fn tests<U: Upper>() -> Vec<Test<U>> {
    vec![
        ("publish_over_everything", publish_over_everything),
        ("remove_everything", remove_everything),
        ("rename_everything_over_everything", rename_everything_over_everything),
        ("link_over_everything", link_over_everything),
        ("exchange_everything", exchange_everything),
        ("rename_of_one_object_over_itself", rename_of_one_object_over_itself),
        ("what_is_not_there_cannot_be_changed", what_is_not_there_cannot_be_changed),
        ("opaque_marks_stay_with_their_directory", opaque_marks_stay_with_their_directory),
    ]
}

fn publish_over_everything<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let drafts = [
        (NewObject::File, Thing::File),
        (NewObject::Symlink(b"x"), Thing::Symlink),
        (NewObject::Directory { opaque: true }, Thing::EmptyDir),
        (NewObject::Directory { opaque: false }, Thing::EmptyDir),
    ];
    for (i, (new, made)) in drafts.iter().enumerate() {
        for there in Thing::ALL {
            let text = format!("{i}-{there:?}");
            let before = b.put(&root, &text, there);
            let draft = b.draft(new, 0o755);
            let ino = b.upper.stat(&b.upper.draft_object(&draft)).unwrap().ino;
            let answer = b.upper.publish(draft, &root, &name(&text));
            if there == Thing::FullDir {
                assert_eq!(errno(answer), Errno::ENOTEMPTY, "{made:?} over {there:?}");
                assert_eq!((b.thing(&root, &text), b.ino(&root, &text)), (there, before));
            } else {
                answer.unwrap_or_else(|e| panic!("{made:?} over {there:?}: {e}"));
                assert_eq!((b.thing(&root, &text), b.ino(&root, &text)), (*made, Some(ino)));
            }
            assert_eq!((b.work)(), 0, "{made:?} over {there:?}: what was displaced is gone");
        }
    }
}

fn remove_everything<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    for whiteout in [false, true] {
        for there in Thing::ALL {
            let text = format!("{whiteout}-{there:?}");
            b.put(&root, &text, there);
            let answer = b.upper.remove(&root, &name(&text), whiteout);
            let left = match (there, whiteout) {
                (Thing::FullDir, _) => {
                    assert_eq!(errno(answer), Errno::ENOTEMPTY);
                    there
                }
                (Thing::Absent, false) => {
                    assert_eq!(errno(answer), Errno::ENOENT);
                    there
                }
                _ => {
                    answer.unwrap_or_else(|e| panic!("{there:?}, whiteout {whiteout}: {e}"));
                    if whiteout { Thing::Whiteout } else { Thing::Absent }
                }
            };
            assert_eq!(b.thing(&root, &text), left, "{there:?}, whiteout {whiteout}");
            assert_eq!((b.work)(), 0);
        }
    }
}

fn rename_everything_over_everything<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let (from_dir, to_dir) = (b.add_dir(&root, "from"), b.add_dir(&root, "to"));
    for whiteout in [false, true] {
        for moved in Thing::ALL.into_iter().filter(|t| !matches!(t, Thing::Absent | Thing::Whiteout)) {
            for there in Thing::ALL {
                let text = format!("{whiteout}-{moved:?}-{there:?}");
                let what = format!("{moved:?} over {there:?}, whiteout {whiteout}");
                let ino = b.put(&from_dir, &text, moved);
                let target = b.put(&to_dir, &text, there);
                let (from, to) = ((&from_dir, &name(&text)), (&to_dir, &name(&text)));
                let answer = b.upper.rename(from, to, whiteout);
                let refused = match (moved.is_dir(), there) {
                    (_, Thing::Absent | Thing::Whiteout) => None,
                    (true, Thing::FullDir) => Some(Errno::ENOTEMPTY),
                    (true, _) if !there.is_dir() => Some(Errno::ENOTDIR),
                    (false, _) if there.is_dir() => Some(Errno::EISDIR),
                    _ => None,
                };
                match refused {
                    Some(expected) => {
                        assert_eq!(errno(answer), expected, "{what}");
                        assert_eq!(
                            (b.thing(&from_dir, &text), b.ino(&from_dir, &text)),
                            (moved, ino),
                            "{what}"
                        );
                        assert_eq!(
                            (b.thing(&to_dir, &text), b.ino(&to_dir, &text)),
                            (there, target),
                            "{what}"
                        );
                    }
                    None => {
                        answer.unwrap_or_else(|e| panic!("{what}: {e}"));
                        let left = if whiteout { Thing::Whiteout } else { Thing::Absent };
                        assert_eq!(b.thing(&from_dir, &text), left, "{what}");
                        assert_eq!((b.thing(&to_dir, &text), b.ino(&to_dir, &text)), (moved, ino), "{what}");
                    }
                }
                assert_eq!((b.work)(), 0, "{what}");
            }
        }
    }
}

fn link_over_everything<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let mut links = 1;
    let file = b.add_file(&root, "file", b"linked");
    let ino = b.upper.stat(&file).unwrap().ino;
    for there in Thing::ALL {
        let text = format!("{there:?}");
        let before = b.put(&root, &text, there);
        let answer = b.upper.link(&file, &root, &name(&text));
        if matches!(there, Thing::Absent | Thing::Whiteout) {
            answer.unwrap_or_else(|e| panic!("over {there:?}: {e}"));
            links += 1;
            assert_eq!(b.ino(&root, &text), Some(ino));
        } else {
            assert_eq!(errno(answer), Errno::EEXIST, "over {there:?}");
            assert_eq!((b.thing(&root, &text), b.ino(&root, &text)), (there, before));
        }
        assert_eq!(b.upper.stat(&file).unwrap().nlink, links);
    }
    let symlink = b.add(&root, "symlink", &NewObject::Symlink(b"file"));
    b.upper.link(&symlink, &root, &name("symlink2")).unwrap();
    assert_eq!(b.thing(&root, "symlink2"), Thing::Symlink, "the link itself, not its target");
    let dir = b.add_dir(&root, "dir");
    assert_eq!(errno(b.upper.link(&dir, &root, &name("dir2"))), Errno::EPERM);
    let gone = b.add_file(&root, "gone", b"");
    b.upper.remove(&root, &name("gone"), false).unwrap();
    assert_eq!(errno(b.upper.link(&gone, &root, &name("back"))), Errno::ENOENT);
}

fn exchange_everything<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let (one, two) = (b.add_dir(&root, "one"), b.add_dir(&root, "two"));
    let objects = [Thing::File, Thing::Symlink, Thing::EmptyDir, Thing::HollowDir, Thing::FullDir];
    for first in objects {
        for second in objects {
            let text = name(&format!("{first:?}-{second:?}"));
            let shown = text.to_string();
            let (a, z) = (b.put(&one, &shown, first), b.put(&two, &shown, second));
            b.upper.exchange((&one, &text), (&two, &text)).unwrap();
            assert_eq!((b.thing(&one, &shown), b.ino(&one, &shown)), (second, z));
            assert_eq!((b.thing(&two, &shown), b.ino(&two, &shown)), (first, a));
        }
    }
}

fn rename_of_one_object_over_itself<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let file = b.add_file(&root, "a", b"text");
    b.upper.link(&file, &root, &name("b")).unwrap();
    b.upper.rename((&root, &name("a")), (&root, &name("b")), false).unwrap();
    assert_eq!((b.thing(&root, "a"), b.thing(&root, "b")), (Thing::File, Thing::File), "as rename(2)");
    assert_eq!(b.upper.stat(&file).unwrap().nlink, 2);
}

fn what_is_not_there_cannot_be_changed<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    b.put(&root, "file", Thing::File);
    let (none, file) = (name("none"), name("file"));
    assert_eq!(errno(b.upper.rename((&root, &none), (&root, &name("x")), false)), Errno::ENOENT);
    assert_eq!(errno(b.upper.rename((&root, &none), (&root, &file), true)), Errno::ENOENT);
    assert_eq!(errno(b.upper.exchange((&root, &none), (&root, &file))), Errno::ENOENT);
    assert_eq!(errno(b.upper.remove(&root, &none, false)), Errno::ENOENT);
    assert_eq!(b.thing(&root, "none"), Thing::Absent);
    assert_eq!(b.thing(&root, "file"), Thing::File);
}

fn opaque_marks_stay_with_their_directory<U: Upper>(b: &Bench<U>) {
    let root = b.root();
    let opaque = b.add(&root, "opaque", &NewObject::Directory { opaque: true });
    let plain = b.add_dir(&root, "plain");
    assert!(b.upper.is_opaque(&opaque).unwrap());
    assert!(!b.upper.is_opaque(&plain).unwrap());
    assert!(!b.upper.is_opaque(&root).unwrap());
    b.upper.exchange((&root, &name("opaque")), (&root, &name("plain"))).unwrap();
    b.upper.rename((&root, &name("plain")), (&plain, &name("inside")), true).unwrap();
    let found = b.upper.resolve(&[name("opaque"), name("inside")]).unwrap();
    assert!(b.upper.is_opaque(&found).unwrap(), "it was moved along");
    assert!(!b.upper.is_opaque(&b.upper.lookup(&root, &name("opaque")).unwrap()).unwrap());
    b.upper.remove(&plain, &name("inside"), false).unwrap();
    let new = b.add_dir(&plain, "inside");
    assert!(!b.upper.is_opaque(&new).unwrap(), "a new directory of the name does not inherit it");
}
