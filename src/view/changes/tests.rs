#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::File;
use std::os::fd::AsFd;

use super::*;
use crate::layer::dir::{self, Format, UpperReader};
use crate::layer::mem::MemLayer;
use crate::layer::{Lower, Redirect, Upper};
use crate::sys::names::create_directory;
use crate::sys::open::open_directory;
use crate::vfs::{SetAttr, SetTime, Timespec, XattrMode};

const OLD: Timespec = Timespec { seconds: 1, nanoseconds: 0 };

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn path(text: &str) -> Vec<Name> {
    text.split('/').map(name).collect()
}

/// Files end with their content; all that has a trailing slash is a directory.
fn layer(paths: &[&str]) -> MemLayer {
    let layer = MemLayer::new();
    for path in paths {
        match path.split_once('=') {
            Some((path, content)) => layer.add_file(path, 0o644, content.as_bytes()).unwrap(),
            None => layer.add_dir(path.trim_end_matches('/'), 0o755).unwrap(),
        };
    }
    for path in paths {
        let path = path.split_once('=').map_or(*path, |(path, _)| path);
        set_time(&layer, path.trim_end_matches('/'), OLD);
    }
    layer
}

fn set_time(layer: &MemLayer, at: &str, time: Timespec) {
    let object = layer.resolve(&path(at)).unwrap();
    let mtime = Some(SetTime::At(time));
    layer.set_attr(&object, &SetAttr { mtime, ..SetAttr::default() }).unwrap();
}

fn found(lower: &MemLayer, upper: &MemLayer, owner: Option<(u32, u32)>) -> Vec<(String, What)> {
    let mut all = Vec::new();
    changes(Trees { lower, upper, owner }, &[], &mut |change| {
        all.push((shown(&change.path), change.what.clone()));
        Ok(())
    })
    .unwrap();
    all
}

fn metadata(change: impl FnOnce(&mut Aspects)) -> What {
    let mut aspects = Aspects::default();
    change(&mut aspects);
    What::Metadata(aspects)
}

#[test]
fn a_copy_that_equals_its_original_is_no_change() {
    let tree = ["d/", "d/f=text", "d/g=more"];
    let (lower, upper) = (layer(&tree), layer(&tree));
    assert_eq!(found(&lower, &upper, None), []);
    let object = upper.resolve(&path("d/f")).unwrap();
    upper.set_xattr(&object, b"user.b", b"1", XattrMode::Set).unwrap();
    upper.set_xattr(&object, b"user.a", b"1", XattrMode::Set).unwrap();
    upper
        .set_attr(&object, &SetAttr { permissions: Some(0o600), gid: Some(7), ..SetAttr::default() })
        .unwrap();
    let expected = metadata(|aspects| {
        (aspects.mode, aspects.owner) = (true, true);
        aspects.xattrs = vec![b"user.a".to_vec(), b"user.b".to_vec()];
    });
    assert_eq!(found(&lower, &upper, None), [("/d/f".to_owned(), expected)]);
}

#[test]
fn the_lower_counts_as_it_is_shown() {
    let (lower, upper) = (layer(&["d/", "f=x"]), layer(&["d/", "f=x"]));
    let all = found(&lower, &upper, Some((5, 6)));
    let owner = || metadata(|aspects| aspects.owner = true);
    assert_eq!(all, [("/".to_owned(), owner()), ("/d".to_owned(), owner()), ("/f".to_owned(), owner())]);
}

#[test]
fn the_time_of_a_directory_counts_unless_its_names_explain_it() {
    let lower = layer(&["d/", "d/e/", "d/e/f=x"]);
    let upper = layer(&["d/", "d/e/"]);
    let later = Timespec { seconds: 9, nanoseconds: 1 };
    set_time(&upper, "d", later);
    set_time(&upper, "d/e", later);
    let time = || metadata(|aspects| aspects.mtime = true);
    assert_eq!(found(&lower, &upper, None), [("/d".to_owned(), time()), ("/d/e".to_owned(), time())]);
    upper.remove(&upper.resolve(&path("d/e")).unwrap(), &name("f"), true).unwrap();
    let gone = What::Deleted(Extent { names: 1, bytes: 1 });
    assert_eq!(found(&lower, &upper, None), [("/d".to_owned(), time()), ("/d/e/f".to_owned(), gone)]);
}

#[test]
fn what_an_opaque_directory_hides_is_deleted_or_replaced() {
    let lower = layer(&["d/", "d/a=same", "d/b=old", "d/c/", "d/c/x=12345", "d/c/y/", "d/e/", "d/e/z=1"]);
    // Made by overlayfs: a directory in an opaque one has no mark of its own.
    let upper = layer(&["d/", "d/a=same", "d/b=new", "d/e/", "d/n/"]);
    upper.make_opaque(&upper.resolve(&path("d")).unwrap()).unwrap();
    let expected = [
        ("/d/b", What::Modified(Aspects::default())),
        ("/d/c", What::Deleted(Extent { names: 3, bytes: 5 })),
        ("/d/e/z", What::Deleted(Extent { names: 1, bytes: 1 })),
        ("/d/n", What::Added),
    ];
    let expected: Vec<_> = expected.map(|(path, what)| (path.to_owned(), what)).into();
    assert_eq!(found(&lower, &upper, None), expected);

    // Back to the lower, one after the other, the rest as it was.
    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    assert_eq!(reset(trees, &path("d/e/z"), true).unwrap(), Reset::Done);
    assert_eq!(
        found(&lower, &upper, None),
        [expected.get(..2).unwrap(), expected.get(3..).unwrap()].concat()
    );
    assert_eq!(reset(trees, &path("d/c"), true).unwrap(), Reset::Done);
    assert_eq!(reset(trees, &path("d/n"), true).unwrap(), Reset::Done);
    assert_eq!(reset(trees, &path("d/n"), true).unwrap(), Reset::Unchanged);
    assert_eq!(found(&lower, &upper, None), expected.get(..1).unwrap());
    let error = reset(trees, &path("d/a/x"), true).unwrap_err();
    assert_eq!(error.to_string(), "cannot reset '/d/a/x': '/d/a' is no directory in the view; reset that");
}

#[test]
fn another_kind_is_one_change_and_what_is_in_it_others() {
    let lower = layer(&["a/", "a/x=123", "b=12345"]);
    let upper = layer(&["a=file", "b/", "b/n=1"]);
    assert_eq!(
        found(&lower, &upper, None),
        [
            ("/a".to_owned(), What::TypeChanged(Extent { names: 2, bytes: 3 })),
            ("/b".to_owned(), What::TypeChanged(Extent { names: 1, bytes: 5 })),
            ("/b/n".to_owned(), What::Added),
        ]
    );
}

#[test]
fn depth_needs_no_descriptors_and_no_stack() {
    const DEPTH: usize = 1500;
    let temp = tempfile::tempdir().unwrap();
    let top = File::open(temp.path()).unwrap();
    let mut at = open_directory(top.as_fd(), b".").unwrap();
    for _ in 0..DEPTH {
        create_directory(at.as_fd(), b"d", 0o755).unwrap();
        create_directory(at.as_fd(), b"e", 0o755).unwrap();
        at = open_directory(at.as_fd(), b"d").unwrap();
    }
    let upper = UpperReader::new(&top, Format::Files).unwrap();
    let lower = MemLayer::new();
    let (mut count, mut open) = (0, 0);
    changes(Trees { lower: &lower, upper: &upper, owner: None }, &[], &mut |change| {
        count += usize::from(change.what == What::Added);
        open = open.max(std::fs::read_dir("/proc/self/fd").map_or(usize::MAX, Iterator::count));
        Ok(())
    })
    .unwrap();
    dir::clear(top.as_fd()).unwrap();
    assert_eq!(count, 2 * DEPTH);
    // Other tests of this process have some too.
    assert!(open < 600, "{open} descriptors");
}

#[test]
fn a_hard_link_loses_one_name_by_a_reset() {
    let lower = layer(&["d/", "d/f=old"]);
    let upper = layer(&["d/", "d/f=new"]);
    let (dir, object) = (upper.resolve(&path("d")).unwrap(), upper.resolve(&path("d/f")).unwrap());
    upper.link(&object, &dir, &name("g")).unwrap();
    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    assert_eq!(reset(trees, &path("d/f"), false).unwrap(), Reset::Done);
    assert_eq!(found(&lower, &upper, None), [("/d/g".to_owned(), What::Added)]);
    assert_eq!(upper.stat(&object).unwrap().nlink, 1);
}

#[test]
fn a_moved_directory_is_gone_there_and_all_of_it_is_added_here() {
    const DEPTH: usize = 40;
    let paths: Vec<String> = (1..=DEPTH).map(|depth| vec!["d"; depth].join("/") + "/").collect();
    let file = format!("{}f=text", paths.last().unwrap());
    let paths: Vec<&str> = paths.iter().map(String::as_str).chain([file.as_str(), "m/", "m/old=1"]).collect();
    let lower = layer(&paths);
    let upper = layer(&["m/", "m/own=2"]);
    let moved = upper.resolve(&path("m")).unwrap();
    upper.set_redirect(&moved, &Redirect::Path(path("d"))).unwrap();
    upper.remove(&upper.root().unwrap(), &name("d"), true).unwrap();
    let all = found(&lower, &upper, None);
    let gone = |names, bytes| What::Deleted(Extent { names, bytes });
    assert_eq!(all.first().unwrap(), &("/d".to_owned(), gone(DEPTH as u64 + 1, 4)));
    assert!(all.contains(&("/m/old".to_owned(), gone(1, 1))));
    let added: Vec<&str> = all.iter().filter(|(_, w)| *w == What::Added).map(|(p, _)| p.as_str()).collect();
    assert_eq!(added.len(), DEPTH + 1, "the directories in it, its file and its own: {all:?}");
    assert_eq!(all.len(), DEPTH + 3);

    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    let error = reset(trees, &path("m/d"), true).unwrap_err();
    assert_eq!(error.to_string(), "cannot reset '/m/d': '/m' is moved there in the view; reset that");
    assert_eq!(reset(trees, &path("m"), true).unwrap(), Reset::Done);
    assert_eq!(found(&lower, &upper, None), all.get(..1).unwrap());
    assert_eq!(reset(trees, &path("d"), true).unwrap(), Reset::Done);
    assert_eq!(found(&lower, &upper, None), []);
}
