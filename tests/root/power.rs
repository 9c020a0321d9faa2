//! The power fails under an upper on ext4 and on xfs: the file system is shut down without its journal being written, the
//! server dies, the disk is mounted again and recovers, and the view with it.
//!
//! Both keep names and metadata in the order in which they were changed. So the tree is the plain one after some
//! operation, not before the last that was synced; and content that was synced is there.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::effort::pick;
use crate::support::history::{HISTORY, Tree, expected, fill, tree};
use crate::support::scene::Scene;

/// What is synced after an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sync {
    Nothing,
    /// The files that it changed; what it did to names goes with them.
    Files,
    /// All files and directories.
    All,
}

/// What was acknowledged: names and metadata, and all contents, after so many operations.
#[derive(Clone, Copy, Debug, Default)]
struct Synced {
    names: usize,
    contents: usize,
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Syncs after operation `at` (from 0), and says what that promises.
fn sync_after(at: usize, how: Sync, dir: &Path, allowed: &[Tree], synced: &mut Synced) {
    let (before, after) = (&allowed[at], &allowed[at + 1]);
    let files: Vec<&PathBuf> = after
        .iter()
        .filter(|(path, shown)| shown.metadata.starts_with("(\"100") && before.get(*path) != Some(*shown))
        .map(|(path, _)| path)
        .collect();
    match how {
        Sync::Nothing => {}
        // What moves with its directory is not changed itself.
        Sync::Files if files.is_empty() || HISTORY[at].0.contains("director") => {}
        Sync::Files => {
            files.iter().for_each(|path| sync(&dir.join(path)));
            synced.names = at + 1;
        }
        Sync::All => {
            for (path, shown) in after {
                if ["(\"100", "(\"40"].iter().any(|kind| shown.metadata.starts_with(kind)) {
                    sync(&dir.join(path));
                }
            }
            *synced = Synced { names: at + 1, contents: at + 1 };
        }
    }
}

/// Does the first `count` operations, and syncs as the `seed` says.
fn run(dir: PathBuf, allowed: Vec<Tree>, count: usize, mut seed: usize) -> Synced {
    let (done, ended) = mpsc::channel();
    // Not joined: one that hangs would hang the test.
    thread::spawn(move || {
        let mut synced = Synced::default();
        for (at, (what, op)) in HISTORY.iter().enumerate().take(count) {
            op(&dir).unwrap_or_else(|error| panic!("{what}: {error}"));
            seed = (seed * 1_103_515_245 + 12_345) % (1 << 31);
            let how = match seed >> 16 & 7 {
                0 => Sync::All,
                1 | 2 => Sync::Files,
                _ => Sync::Nothing,
            };
            sync_after(at, how, &dir, &allowed, &mut synced);
        }
        done.send(synced).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("an operation hangs or fails")
}

/// The moments at which names and metadata were what is found.
fn moments<'t>(found: &'t Tree, allowed: &'t [Tree], from: usize) -> impl Iterator<Item = usize> + 't {
    let same = |tree: &Tree| {
        tree.len() == found.len()
            && tree.iter().all(|(path, shown)| found.get(path).is_some_and(|f| f.metadata == shown.metadata))
    };
    (from..allowed.len()).filter(move |at| same(&allowed[*at]))
}

/// Checks that content that was synced, or is the lower's, is there; whatever else a file holds, it has a length it had.
fn check_contents(found: &Tree, at: usize, allowed: &[Tree], synced: usize) {
    let since = &allowed[synced..];
    let known: BTreeSet<&[u8]> =
        since.iter().flat_map(|tree| tree.values().map(|shown| &shown.content[..])).collect();
    for (path, shown) in found {
        let durable = allowed[synced].values().any(|old| old.content == allowed[at][path].content);
        assert!(!durable || known.contains(&shown.content[..]), "{path:?}: {shown:?}");
        if allowed[synced].contains_key(path) {
            let had = since
                .iter()
                .filter_map(|tree| tree.get(path))
                .any(|s| s.content.len() == shown.content.len());
            assert!(had, "{path:?} never had this length: {shown:?}");
        }
    }
}

/// A scene with an empty disk at `disk`, and the directory of the history in its views.
fn scene_on(file_system: &str) -> (Scene, PathBuf) {
    let scene = Scene::new();
    fill(&scene.store.real("data"));
    let dir = scene.path("a/store").join(scene.store.path("data"));
    scene.shell(&format!("truncate -s 400M image && mkfs.{file_system} -q image && mkdir disk")).ok();
    scene.shell("mount -o loop image disk").ok();
    (scene, dir)
}

/// The power fails and comes back; the view `p` is to be mounted again.
fn cut_power(scene: &Scene) {
    scene.shell("xfs_io -x -c shutdown disk").ok();
    scene.kill_view("p");
    scene.nixview(&["status"]).ok();
    scene.shell("umount disk && mount -o loop image disk").ok();
}

fn power_fails_on(file_system: &str) {
    let (scene, dir) = scene_on(file_system);
    let allowed = expected(scene.dir.path());
    let mut lost = 0;
    for round in 0..pick(4, 24) {
        let upper = scene.path(&format!("disk/u{round}"));
        let io = if round % 2 == 0 { "passthrough" } else { "cached" };
        let options = ["--name", "p", "--io", io, "--upper", upper.to_str().unwrap()];
        scene.mount("env-b", "a", &options).ok();
        let count = 3 + (round * 17) % (HISTORY.len() - 3);
        let synced = run(dir.clone(), allowed.clone(), count, round + 1);
        cut_power(&scene);
        scene.mount("env-b", "a", &options).ok();
        assert_eq!(scene.names(&format!("disk/u{round}/work")), Vec::<String>::new(), "drafts are left");
        let mut found = tree(&dir);
        found.retain(|path, _| allowed.iter().any(|allowed| allowed.contains_key(path)));
        found.insert(PathBuf::new(), allowed[0][Path::new("")].clone());
        let mut found_at = moments(&found, &allowed[..=count], synced.names);
        let Some(at) = found_at.next() else {
            let any: Vec<usize> = moments(&found, &allowed, 0).collect();
            panic!("round {round}, {io}, after {count}, {synced:?}: it is as at {any:?}: {found:?}");
        };
        check_contents(&found, at, &allowed[..=count], synced.contents);
        lost += count - at;
        println!("{file_system}, {io}: {count} operations, {synced:?}: found as after {at}");
        scene.nixview(&["umount", "p"]).ok();
    }
    scene.shell("umount disk").ok();
    assert!(lost > 0, "no power failed: nothing was ever lost");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn what_was_synced_survives_a_power_cut_on_ext4() {
    power_fails_on("ext4");
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn what_was_synced_survives_a_power_cut_on_xfs() {
    power_fails_on("xfs");
}

/// Opened with `O_DSYNC` or `O_SYNC`, each write is durable when it is answered.
#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn synchronous_writes_survive_a_power_cut() {
    let (scene, dir) = scene_on("ext4");
    let upper = scene.path("disk/u");
    for (io, flag) in [
        ("passthrough", libc::O_DSYNC),
        ("cached", libc::O_DSYNC),
        ("passthrough", libc::O_SYNC),
        ("cached", libc::O_SYNC),
    ] {
        let options = ["--name", "p", "--io", io, "--upper", upper.to_str().unwrap()];
        scene.mount("env-b", "a", &options).ok();
        let what = format!("{io} with {flag:o}");
        for name in ["f0", "f1"] {
            let file = OpenOptions::new().write(true).custom_flags(flag).open(dir.join(name)).unwrap();
            file.write_all_at(what.as_bytes(), 3).unwrap();
        }
        cut_power(&scene);
        scene.mount("env-b", "a", &options).ok();
        for name in ["f0", "f1"] {
            let content = fs::read(dir.join(name)).unwrap();
            assert_eq!(content[3..3 + what.len()].escape_ascii().to_string(), what, "{name}");
        }
        scene.nixview(&["umount", "p"]).ok();
    }
    scene.shell("umount disk").ok();
    scene.assert_nothing_left();
}
