//! Nix's state in views, without Nix: when it is made, by whom it is shared, and how it goes again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::effort::pick;
use crate::support::scene::Scene;

fn states(scene: &Scene) -> Vec<String> {
    let mut names = scene.names("state/nix-state");
    // Notes of which template a closure has.
    names.retain(|name| !name.starts_with("key-"));
    names
}

fn is_whole(scene: &Scene, name: &str) -> bool {
    let db = scene.path("state/nix-state").join(name).join("nix-state/nix/db");
    let connection = rusqlite::Connection::open_with_flags(
        nixview::store::database::uri(&db.join("db.sqlite"), "immutable=1"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI,
    )
    .unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let count: i64 = connection.query_row("SELECT count(*) FROM ValidPaths", [], |row| row.get(0)).unwrap();
    let mut files: Vec<_> =
        fs::read_dir(&db).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["db.sqlite", "reserved", "schema"]);
    sound == "ok" && count == scene.store.closure("env-a").len() as i64
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn it_is_made_at_the_first_look_and_goes_when_nobody_needs_it() {
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "one", "--tmp"]).ok();
    // A listing, also a long one, and all of the store make nothing.
    let listed = scene.shell("ls a; ls -l a >/dev/null; stat a/var >/dev/null; find a/store >/dev/null").ok();
    assert_eq!(listed.out, "store\nvar\n");
    assert_eq!(states(&scene), [""; 0], "nothing is made before somebody looks");
    assert_eq!(scene.shell("ls a/var").ok().out, "nix\n");
    let [name] = states(&scene).try_into().unwrap();
    assert!(is_whole(&scene, &name));
    let shown = scene
        .shell("cat a/var/nix/db/schema; stat -c '%a %u %Y' a/var/nix/db/db.sqlite a/var/nix/profiles")
        .ok();
    assert_eq!(shown.out, "10644 0 1\n755 0 1\n");

    // Another view of the same takes what is there, one of another closure has its own.
    scene.mount("env-a", "b", &["--name", "two", "--read-only"]).ok();
    assert_eq!(
        scene
            .shell("cmp a/var/nix/db/db.sqlite b/var/nix/db/db.sqlite && ls b/var/nix")
            .ok()
            .out
            .lines()
            .next(),
        Some("db")
    );
    assert_eq!(states(&scene), std::slice::from_ref(&name));
    scene.run("env-b", &[], "ls /nix/var/nix >/dev/null").ok();
    assert_eq!(states(&scene).len(), 2);

    let old = scene.nixview(&["gc", "--json", "--older-than", "1h"]).ok().out;
    assert!(old.contains("\"nixStates\": 0"), "{old}");
    let dry = scene.nixview(&["gc", "--json", "--older-than", "0s", "--dry-run"]).ok().out;
    assert!(dry.contains("\"nixStates\": 1"), "{dry}");
    assert_eq!(states(&scene).len(), 2);
    let told = scene.nixview(&["gc", "--older-than", "0s"]).ok().out;
    assert!(told.contains("1 state of Nix"), "{told}");
    assert_eq!(states(&scene), std::slice::from_ref(&name), "what a view shows stays");
    scene.nixview(&["umount", "one"]).ok();
    scene.nixview(&["gc", "--older-than", "0s"]).ok();
    assert_eq!(states(&scene), std::slice::from_ref(&name));
    scene.shell("cat b/var/nix/db/db.sqlite >/dev/null").ok();
    scene.nixview(&["umount", "two"]).ok();
    scene.nixview(&["gc", "--older-than", "0s"]).ok();
    assert_eq!(states(&scene), [""; 0]);
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_maker_that_is_killed_leaves_a_draft_at_most() {
    let scene = Scene::on("fuse");
    let mut drafts = 0;
    let mut whole = 0;
    let mut took = Duration::from_millis(50);
    for attempt in 0..200_u32 {
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        let looked = Instant::now();
        let mut looker = Command::new("ls")
            .arg(scene.path("a/var"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if attempt == 0 {
            assert!(looker.wait().unwrap().success());
            took = looked.elapsed();
        } else {
            std::thread::sleep(took * (attempt % 20) / 16);
        }
        scene.kill_view("web");
        looker.wait().unwrap();
        for name in states(&scene) {
            if name.starts_with("draft-") {
                drafts += 1;
            } else {
                assert!(is_whole(&scene, &name), "{name} after {attempt}");
                whole += 1;
            }
        }
        // It clears away the dead view, and what it was making.
        scene.nixview(&["gc", "--older-than", "0s"]).ok();
        assert_eq!(states(&scene), [""; 0]);
        if attempt >= pick(5, 60) && drafts > pick(0, 3) && whole > 0 {
            break;
        }
    }
    assert!(drafts > 0 && whole > 0, "{drafts} drafts, {whole} whole: the test kills at the wrong moments");
    // Others are not hindered by a draft that is left.
    fs::create_dir_all(scene.path("state/nix-state/draft-1-0/nix-state/nix/db")).unwrap();
    scene.run("env-a", &[], "ls /nix/var/nix/db/db.sqlite").ok();
    assert_eq!(states(&scene).len(), 2);
    scene.nixview(&["gc"]).ok();
    assert_eq!(states(&scene).len(), 1, "drafts go whatever their age");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_cannot_be_made_is_an_error_there_and_nowhere_else() {
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    let database = scene.store.database();
    let (content, found) = (fs::read(&database).unwrap(), fs::metadata(&database).unwrap());
    fs::write(&database, "no database").unwrap();
    for _ in 0..3 {
        scene.shell("ls a/var 2>said").failed(2, &[]);
        assert!(fs::read_to_string(scene.path("said")).unwrap().contains("Input/output error"));
        scene.shell("ls a a/store >/dev/null; cat a/store/*-config.txt; echo x >a/new; rm a/new").ok();
    }
    fs::write(&database, content).unwrap();
    assert_eq!(fs::metadata(&database).unwrap().ino(), found.ino());
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(scene.shell("ls a/var/nix/db").ok().out, "db.sqlite\nreserved\nschema\n");
    assert!(states(&scene).iter().all(|name| !name.starts_with("draft-")));
    scene.nixview(&["umount", "web"]).ok();

    // A store without a database shows none; the closure is found by reading it.
    fs::rename(scene.store.state_dir(), scene.path("away")).unwrap();
    let listed = scene.run("env-a", &[], "ls /nix");
    fs::rename(scene.path("away"), scene.store.state_dir()).unwrap();
    assert_eq!(listed.ok().out, "store\n");
    scene.assert_nothing_left();
}
