//! Inode numbers and positions in listings, as programs keep them: as doubles, in 32 bits, and for later.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::scene::{self, Scene};
use crate::support::skip::skip;

/// Mounts a view with an upper that stays, in which 40 files and a file with two names are born.
fn view(scene: &Scene) -> PathBuf {
    scene.mount("env-a", "a", &["--name", "web", "--upper", scene.path("upper").to_str().unwrap()]).ok();
    let view = scene.path("a");
    if !view.join("born").exists() {
        fs::create_dir(view.join("born")).unwrap();
        for n in 0..40 {
            fs::write(view.join(format!("born/f{n}")), "x").unwrap();
        }
        fs::hard_link(view.join("born/f0"), view.join("born/link")).unwrap();
    }
    view
}

/// The inode numbers of all paths, with what a path's `lstat` says in the view.
fn numbers(view: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![view.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, meta.ino());
    }
    found
}

/// True if the host has a program; else the lack is said.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        skip!("no {program}");
    }
    there
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn numbers_fit_a_double_are_distinct_and_outlive_server_and_mount() {
    let scene = Scene::on("fuse");
    let view = view(&scene);
    let before = numbers(&view);
    assert!(before.len() > 60);
    let mut by_number = BTreeMap::<u64, Vec<&PathBuf>>::new();
    for (path, number) in &before {
        assert!((1..1 << 53).contains(number), "{}: {number}", path.display());
        assert!(u32::try_from(*number).is_ok(), "{}: {number}", path.display());
        by_number.entry(*number).or_default().push(path);
    }
    let same: Vec<_> = by_number.into_values().filter(|paths| paths.len() > 1).collect();
    assert_eq!(same, [[&view.join("born/f0"), &view.join("born/link")]]);
    scene::kill(scene.server("web"));
    assert_eq!(numbers(&view), before);
    // A file of the store, copied up.
    let copied = before.keys().find(|path| path.starts_with(view.join("store")) && path.is_file()).unwrap();
    fs::OpenOptions::new().append(true).open(copied).unwrap();
    fs::set_permissions(copied, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(numbers(&view), before);
    scene.nixview(&["umount", "web"]).ok();
    assert_eq!(numbers(&self::view(&scene)), before);
    // find(1) finds each by its number.
    let (path, number) = before.iter().next_back().unwrap();
    let found = scene.shell(&format!("find a -inum {number}")).ok().out;
    assert_eq!(scene.path(found.trim_end()), *path);
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn javascript_and_jq_tell_files_apart_and_npm_packs_hard_links() {
    let scene = Scene::new();
    let view = view(&scene);
    let born = view.join("born");
    if has("node") {
        let script = "const fs = require('fs'), names = fs.readdirSync('.');\
             console.log(new Set(names.map(name => fs.statSync(name).ino)).size)";
        let counted = Command::new("node").args(["-e", script]).current_dir(&born).output().unwrap();
        assert_eq!(String::from_utf8(counted.stdout).unwrap().trim(), "40");
    }
    if has("jq") {
        let script = "stat -c %i a/born/* | jq . | sort -u | wc -l";
        assert_eq!(scene.shell(script).ok().out.trim(), "40");
        assert_eq!(scene.shell("stat -c %i a/born/* | jq .").out, scene.shell("stat -c %i a/born/*").out);
    }
    if has("npm") {
        // npm's tar stores a file under a second name as a link, by device and inode number.
        let script = "cd a/born && mkdir p && cd p &&
            echo '{\"name\":\"x\",\"version\":\"1.0.0\",\"files\":[\"*.txt\"]}' > package.json &&
            for i in 1 2 3; do echo \"file $i\" > $i.txt; ln $i.txt ../k$i; done &&
            npm pack --silent --offline --cache ../cache >/dev/null && tar xzf x-1.0.0.tgz && cat package/*.txt";
        assert_eq!(scene.shell(script).ok().out, "file 1\nfile 2\nfile 3\n");
    }
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn programs_of_32_bits_see_files_and_list_directories() {
    let scene = Scene::new();
    let program = scene.path("stat32");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stat32.c");
    let built = Command::new("gcc").args(["-m32", "-o"]).arg(&program).arg(source).output();
    if !built.is_ok_and(|built| built.status.success()) {
        skip!("gcc builds no programs of 32 bits");
        return;
    }
    let view = view(&scene);
    let directories: Vec<PathBuf> = numbers(&view).into_keys().filter(|path| path.is_dir()).collect();
    let ran = Command::new(&program).args(&directories).output().unwrap();
    let told = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(told.lines().count(), directories.len());
    for (line, path) in told.lines().zip(&directories) {
        // With `.` and `..`.
        let names = fs::read_dir(path).unwrap().count() + 2;
        assert_eq!(line, format!("0 0 {names}"), "{}", path.display());
    }
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}
