#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]
use super::*;
use crate::layer::{Lower, NewObject, Upper};
use crate::sys::rounds::Rounds;
use crate::vfs::Name;

pub(super) fn spec(store_dir: &StoreDir) -> UpperSpec<'_> {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    UpperSpec { store_dir, view: "web", owner, format: None, limit: LimitChoice::default() }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

#[test]
fn an_upper_is_made_held_and_found_again() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state/uppers/web");
    let store = StoreDir::default();
    assert!(matches!(UpperDir::open(&path, false, &spec(&store)), Err(UpperError::Missing { .. })));
    let upper = UpperDir::open(&path, true, &spec(&store)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(path.join("tree/nix")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(path.join("work")).unwrap().mode() & 0o7777, 0o700);
    let layer = upper.layer().clone();
    let draft = layer.draft(&NewObject::File, 0o644, spec(&store).owner.0, spec(&store).owner.1).unwrap();
    layer.publish(draft, &layer.root().unwrap(), &name("kept")).unwrap();

    match UpperDir::open(&path, true, &spec(&store)) {
        Err(UpperError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("opened twice: {other:?}"),
    }
    assert!(matches!(remove(&path), Err(UpperError::Busy { .. })));
    let listed = list(&temp.path().join("state/uppers")).unwrap();
    let info = listed[0].as_ref().unwrap();
    assert_eq!((info.held, info.pid, info.meta.view.as_str()), (true, Some(std::process::id()), "web"));

    let format = upper.meta().format;
    drop(upper);
    fs::write(path.join("work/left"), "by a crash").unwrap();
    let again = UpperDir::open(&path, false, &spec(&store)).unwrap();
    assert_eq!(again.meta().format, format);
    assert!(fs::exists(path.join("tree/nix/kept")).unwrap());
    assert!(!fs::exists(path.join("work/left")).unwrap());
    again.remove().unwrap();
    assert!(!fs::exists(&path).unwrap());
    assert!(list(&temp.path().join("state/uppers")).unwrap().is_empty());
}

#[test]
fn what_is_no_upper_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let store = StoreDir::default();
    fs::write(temp.path().join("file"), "mine").unwrap();
    for create in [false, true] {
        let error = UpperDir::open(temp.path(), create, &spec(&store)).unwrap_err();
        assert!(matches!(error, UpperError::NotAnUpper { .. }), "{error}");
        assert!(error.to_string().contains("'file'"), "{error}");
    }
    assert!(matches!(remove(temp.path()), Err(UpperError::NotAnUpper { .. })));
    assert_eq!(fs::read(temp.path().join("file")).unwrap(), b"mine");
    let error = UpperDir::open(&temp.path().join("file"), true, &spec(&store)).unwrap_err();
    assert!(error.to_string().contains("no directory"), "{error}");
}

#[test]
fn an_upper_that_others_can_enter_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    drop(UpperDir::open(&path, true, &spec(&store)).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "an empty one is made private");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let error = UpperDir::open(&path, true, &spec(&store)).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[test]
fn meta_json_is_checked() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    drop(UpperDir::open(&path, true, &spec(&store)).unwrap());
    let other = StoreDir::new("/gnu/store").unwrap();
    let error = UpperDir::open(&path, true, &spec(&other)).unwrap_err();
    assert!(error.to_string().contains("/gnu/store") && error.to_string().contains("/nix/store"), "{error}");

    let good = fs::read_to_string(path.join("meta.json")).unwrap();
    let cases = [
        (good.replace("\"version\": 2", "\"version\": 3"), "version is 3"),
        (good.replace("\"version\"", "\"extra\": 1, \"version\""), "unknown field"),
        (good.replace("overlay-", "under-").replace("whiteout-", "under-"), "unknown format"),
        (String::new(), "EOF"),
        (" ".repeat(70_000), "longer"),
    ];
    for (text, expected) in cases {
        fs::write(path.join("meta.json"), &text).unwrap();
        let error = UpperDir::open(&path, true, &spec(&store)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(list(temp.path()).unwrap()[0].is_err());
    }
    fs::remove_file(path.join("meta.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path.join("meta.json")).unwrap();
    assert!(UpperDir::open(&path, true, &spec(&store)).is_err(), "a link is not followed");
}

#[test]
fn an_interrupted_start_is_taken_up() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    drop(UpperDir::open(&path, true, &spec(&store)).unwrap());
    fs::remove_file(path.join("meta.json")).unwrap();
    fs::write(path.join("meta.json.new"), "{").unwrap();
    fs::write(path.join("tree/nix/file"), "kept").unwrap();
    drop(UpperDir::open(&path, false, &spec(&store)).unwrap());
    assert_eq!(fs::read(path.join("tree/nix/file")).unwrap(), b"kept");
    assert!(!fs::exists(path.join("meta.json.new")).unwrap());
}

#[test]
fn temporary_uppers_go_and_stale_ones_are_found() {
    let temp = tempfile::tempdir().unwrap();
    let parent = temp.path().join("tmp");
    let store = StoreDir::default();
    let first = UpperDir::temporary(&parent, &spec(&store)).unwrap();
    let second = UpperDir::temporary(&parent, &spec(&store)).unwrap();
    fs::create_dir_all(second.path().join("tree/nix/a/b/c")).unwrap();
    let (first_path, second_path) = (first.path().to_owned(), second.path().to_owned());
    assert_ne!(first_path, second_path);
    drop(first);
    assert!(!fs::exists(&first_path).unwrap());
    assert!(remove_stale(&parent).unwrap().is_empty(), "it is held");
    // As if its server had been killed: the lock is gone, the directory is not.
    let mut killed = second;
    killed.holder = 0;
    drop(killed);
    assert!(fs::exists(&second_path).unwrap());
    // One that was being made when its server was killed, and one that is being made.
    let (left, begun) = (parent.join("tmp-1-0"), parent.join("tmp-2-0"));
    for path in [&left, &begun] {
        fs::create_dir_all(path.join("tree/nix")).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    File::open(&left).unwrap().set_modified(hour_ago).unwrap();
    assert_eq!(stale(&parent).unwrap(), [left.clone(), second_path.clone()]);
    assert_eq!(remove_stale(&parent).unwrap(), [left, second_path]);
    assert_eq!(names_in(open_top(&parent).unwrap().as_fd()).unwrap(), [b"tmp-2-0"]);
}

#[test]
fn a_part_of_the_temporary_uppers_is_looked_at_and_all_of_them_once_one_is_stale() {
    let temp = tempfile::tempdir().unwrap();
    let (parent, store) = (temp.path().join("tmp"), StoreDir::default());
    let rounds = Rounds::kept_in(temp.path().join("rounds"));
    let remove_part = || remove_stale_part(&parent, &rounds).unwrap().len();
    assert_eq!(remove_part(), 0, "there is no such directory");
    let mut held: Vec<_> = (0..70).map(|_| UpperDir::temporary(&parent, &spec(&store)).unwrap()).collect();
    assert_eq!(remove_part(), 0, "the first looks at all");
    let kill = |mut upper: UpperDir| upper.holder = 0;
    kill(held.pop().unwrap());
    assert_eq!((0..3).map(|_| remove_part()).sum::<usize>(), 1, "each is looked at once a round");
    let last = held.pop();
    held.into_iter().for_each(kill);
    assert_eq!(remove_part(), 68);
    drop(last);
    assert!(names_in(open_top(&parent).unwrap().as_fd()).unwrap().is_empty());
}

#[test]
fn what_was_not_used_is_given_back() {
    let temp = tempfile::tempdir().unwrap();
    let store = StoreDir::default();
    let path = temp.path().join("upper");
    UpperDir::open(&path, true, &spec(&store)).unwrap().give_back().unwrap();
    assert!(!fs::exists(&path).unwrap());
    // An empty directory stays one.
    fs::create_dir(&path).unwrap();
    UpperDir::open(&path, true, &spec(&store)).unwrap().give_back().unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    // An upper that was there stays as it was, used or not.
    drop(UpperDir::open(&path, true, &spec(&store)).unwrap());
    fs::write(path.join("tree/nix/kept"), "").unwrap();
    UpperDir::open(&path, true, &spec(&store)).unwrap().give_back().unwrap();
    assert!(fs::exists(path.join("tree/nix/kept")).unwrap());
    assert!(fs::exists(path.join("meta.json")).unwrap());
}

#[test]
fn a_limit_is_part_of_what_an_upper_is() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    fs::create_dir(&path).unwrap();
    let dir = open_top(&path).unwrap();
    let limit = Limit { size: 1 << 30, inodes: Some(1000) };
    let meta = Meta::new(Format::Trusted, &store, "web", false, Some(limit));
    meta.write(dir.as_fd(), &path).unwrap();
    assert_eq!(Meta::read(dir.as_fd(), &path).unwrap().unwrap(), meta);
    let text = fs::read_to_string(path.join("meta.json")).unwrap();
    assert!(text.contains("\"size\": 1073741824") && text.contains("\"inodes\": 1000"), "{text}");
    fs::write(path.join("meta.json"), text.replace("\"size\"", "\"extra\": 1, \"size\"")).unwrap();
    assert!(Meta::read(dir.as_fd(), &path).unwrap_err().to_string().contains("unknown field"));
    let plain = Meta::new(Format::Trusted, &store, "web", false, None);
    plain.write(dir.as_fd(), &path).unwrap();
    assert!(!fs::read_to_string(path.join("meta.json")).unwrap().contains("limit"));
}

#[test]
fn an_upper_that_was_made_without_a_limit_gets_none() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    drop(UpperDir::open(&path, true, &spec(&store)).unwrap());
    fs::write(path.join("tree/nix/file"), "kept").unwrap();
    let limit = LimitChoice { size: Some(1 << 30), inodes: None };
    let wanted = UpperSpec { limit, ..spec(&store) };
    for meta in [true, false] {
        if !meta {
            fs::remove_file(path.join("meta.json")).unwrap();
        }
        let error = UpperDir::open(&path, true, &wanted).unwrap_err();
        assert!(error.to_string().contains("made without one"), "{error}");
        assert_eq!(fs::read(path.join("tree/nix/file")).unwrap(), b"kept");
    }
}

#[test]
fn an_image_that_was_never_finished_is_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("upper");
    let store = StoreDir::default();
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(path.join("upper.img.new"), "half").unwrap();
    UpperDir::open(&path, true, &spec(&store)).unwrap().give_back().unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    // A finished one without its description is something.
    fs::write(path.join("upper.img"), "whole").unwrap();
    let error = UpperDir::open(&path, true, &spec(&store)).unwrap_err();
    assert!(error.to_string().contains("no 'meta.json'"), "{error}");
    assert_eq!(fs::read(path.join("upper.img")).unwrap(), b"whole");
    remove(&path).unwrap();
    assert!(!fs::exists(&path).unwrap());
}

/// What is removed is the upper that was opened, not what has its path by then.
#[test]
fn a_directory_that_got_the_path_of_an_upper_stays() {
    let temp = tempfile::tempdir().unwrap();
    let (path, moved) = (temp.path().join("above/upper"), temp.path().join("moved/upper"));
    let store = StoreDir::default();
    for how in ["removed", "given back", "dropped"] {
        let upper = match how {
            "dropped" => UpperDir::temporary(path.parent().unwrap(), &spec(&store)).unwrap(),
            _ => UpperDir::open(&path, true, &spec(&store)).unwrap(),
        };
        let (held, name) = (upper.path().to_owned(), upper.path().file_name().unwrap().to_owned());
        fs::rename(temp.path().join("above"), temp.path().join("moved")).unwrap();
        fs::create_dir_all(&held).unwrap();
        match how {
            "removed" => upper.remove().unwrap(),
            "given back" => upper.give_back().unwrap(),
            _ => drop(upper),
        }
        assert!(held.is_dir(), "{how}: another directory was removed");
        assert!(!moved.with_file_name(&name).exists(), "{how}: the upper is left");
        fs::remove_dir_all(temp.path().join("above")).unwrap();
        fs::remove_dir(temp.path().join("moved")).unwrap();
    }
}

/// When a directory's names were last changed.
fn changed(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn an_upper_of_ours_is_opened_again_without_a_trial_of_names() {
    let temp = tempfile::tempdir().unwrap();
    let (path, copy) = (temp.path().join("web"), temp.path().join("copy"));
    let store = StoreDir::default();
    drop(UpperDir::open(&path, true, &spec(&store)).unwrap());
    let before = changed(&path.join("work"));
    drop(UpperDir::open(&path, false, &spec(&store)).unwrap());
    assert_eq!(changed(&path.join("work")), before);
    // Where a copy lies, anything may be otherwise.
    let copied = std::process::Command::new("cp").arg("-a").args([&path, &copy]).status().unwrap();
    assert!(copied.success());
    let before = changed(&copy.join("work"));
    drop(UpperDir::open(&copy, false, &spec(&store)).unwrap());
    assert_ne!(changed(&copy.join("work")), before);
}
