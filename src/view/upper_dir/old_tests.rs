#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]
//! Uppers of version 1, whose view has its root at `data`.

use std::os::unix::fs::symlink;

use super::tests::{name, spec};
use super::*;
use crate::layer::{NewObject, Redirect, Upper};
use crate::skip::skip;

/// What an upper of version 1 says of itself.
fn meta_of_before(format: Format) -> String {
    format!(
        "{{\n  \"version\": 1,\n  \"format\": \"{}\",\n  \"storeDir\": \"/nix/store\",\n  \"view\": \"web\",\n  \"temporary\": false\n}}\n",
        format.as_str()
    )
}

/// An upper of version 1 with something in it; answers its format.
fn before(path: &Path) -> Format {
    let store = StoreDir::default();
    let upper = UpperDir::open(path, true, &spec(&store)).unwrap();
    let (format, layer) = (upper.meta().format, upper.layer().clone());
    let (uid, gid) = spec(&store).owner;
    let draft = layer.draft(&NewObject::File, 0o640, uid, gid).unwrap();
    layer.publish(draft, &layer.root().unwrap(), &name("kept")).unwrap();
    drop(upper);
    fs::rename(path.join("tree/nix"), path.join("data")).unwrap();
    fs::remove_dir(path.join("tree")).unwrap();
    fs::set_permissions(path.join("data"), PermissionsExt::from_mode(0o751)).unwrap();
    fs::write(path.join("meta.json"), meta_of_before(format)).unwrap();
    format
}

fn inode(path: &Path) -> (u64, u32, i64) {
    let found = fs::metadata(path).unwrap();
    (found.ino(), found.mode(), found.mtime_nsec())
}

#[test]
fn an_upper_of_before_is_moved_by_the_next_holder_wherever_the_last_one_was_killed() {
    let store = StoreDir::default();
    type Leave = fn(&Path);
    let steps: [(&str, Leave); 5] = [
        ("nothing was done", |_| {}),
        ("'tree' was made", |path| DirBuilder::new().mode(0o700).create(path.join("tree")).unwrap()),
        ("'tree' was made and dressed", |path| fs::create_dir(path.join("tree")).unwrap()),
        ("'data' was moved", |path| {
            fs::create_dir(path.join("tree")).unwrap();
            fs::rename(path.join("data"), path.join("tree/nix")).unwrap();
        }),
        ("'meta.json' was begun", |path| {
            fs::create_dir(path.join("tree")).unwrap();
            fs::rename(path.join("data"), path.join("tree/nix")).unwrap();
            fs::write(path.join("meta.json.new"), "{").unwrap();
        }),
    ];
    for (step, leave) in steps {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("upper");
        before(&path);
        let root = inode(&path.join("data"));
        leave(&path);
        // Who only reads finds it as it was left.
        let look = UpperLook::open(&path).unwrap();
        let seen = look.tree().unwrap();
        assert_eq!(seen.read_dir(&seen.root().unwrap()).unwrap().len(), 1, "{step}");
        assert_eq!(UpperInfo::read(&path).unwrap().unwrap().space(10).unwrap().unwrap().objects, 1, "{step}");
        assert!(root_path(&path).unwrap().join("kept").exists(), "{step}");

        for _ in 0..2 {
            let upper = UpperDir::open(&path, false, &spec(&store)).unwrap();
            assert!(upper.holds_anything().unwrap(), "{step}");
            assert_eq!(inode(&path.join("tree/nix")), root, "{step}");
            assert_eq!(fs::metadata(path.join("tree")).unwrap().mode() & 0o7777, 0o755, "{step}");
            assert!(!fs::exists(path.join("data")).unwrap(), "{step}");
            assert!(upper.meta().old_redirects && upper.meta().own.is_none(), "{step}");
        }
        let text = fs::read_to_string(path.join("meta.json")).unwrap();
        assert!(text.contains("\"version\": 2") && text.contains("\"oldRedirects\": true"), "{text}");
        remove(&path).unwrap();
        assert!(!fs::exists(&path).unwrap());
    }
}

#[test]
fn an_upper_of_before_that_nobody_opened_can_be_removed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    before(&path);
    fs::create_dir(path.join("tree")).unwrap();
    remove(&path).unwrap();
    assert!(!fs::exists(&path).unwrap());
}

#[test]
fn an_upper_with_two_roots_is_refused_and_keeps_both() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    before(&path);
    for make in [|at: &Path| fs::create_dir(at).unwrap(), |at: &Path| symlink("/etc", at).unwrap()] {
        fs::create_dir_all(path.join("tree")).unwrap();
        make(&path.join("tree/nix"));
        let error = UpperDir::open(&path, true, &spec(&store)).unwrap_err();
        assert!(error.to_string().contains("both"), "{error}");
        assert!(fs::exists(path.join("data/kept")).unwrap());
        assert!(fs::symlink_metadata(path.join("tree/nix")).is_ok());
        if path.join("tree/nix").symlink_metadata().unwrap().is_dir() {
            fs::remove_dir(path.join("tree/nix")).unwrap();
        }
    }
}

#[test]
fn redirects_of_both_forms_are_read_and_new_ones_begin_at_the_tree() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    let format = before(&path);
    let Some(attribute) = format.redirect_name() else {
        skip!("the format {} has no redirects", format.as_str());
        return;
    };
    let mark = |at: &str, value: &[u8]| {
        fs::create_dir_all(path.join(at)).unwrap();
        rustix::fs::setxattr(path.join(at), &*attribute, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    mark("data/old", b"/store/a");
    let target = |parts: [&str; 2]| Some(Redirect::Path(parts.map(name).to_vec()));
    let look = UpperLook::open(&path).unwrap().tree().unwrap();
    let read = |at: &str| {
        let object = look.lookup(&look.root().unwrap(), &name(at)).unwrap();
        look.redirect(&object).unwrap()
    };
    assert_eq!(read("old"), target(["store", "a"]));

    let upper = UpperDir::open(&path, false, &spec(&store)).unwrap();
    mark("tree/nix/new", b"/nix/store/b");
    mark("tree/nix/set", b"x");
    let layer = upper.layer();
    let object = |at: &str| layer.lookup(&layer.root().unwrap(), &name(at)).unwrap();
    assert_eq!(layer.redirect(&object("old")).unwrap(), target(["store", "a"]));
    assert_eq!(layer.redirect(&object("new")).unwrap(), target(["store", "b"]));
    layer.set_redirect(&object("set"), &target(["store", "c"]).unwrap()).unwrap();
    assert_eq!(layer.redirect(&object("set")).unwrap(), target(["store", "c"]));
    let mut value = vec![0; 100];
    let length = rustix::fs::getxattr(path.join("tree/nix/set"), &*attribute, &mut value).unwrap();
    assert_eq!(&value[..length], b"/nix/store/c");
}
