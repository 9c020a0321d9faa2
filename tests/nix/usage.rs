//! `nixview du` against du(1), Nix's database, Nix's optimiser, and what a disk really gets back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::scene::Scene;
use crate::support::skip::skip;
use serde_json::Value;

fn du(scene: &Scene, store: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["du", "--json", "--store", store.to_str().unwrap()];
    arguments.extend(more);
    serde_json::from_str(&scene.nixview(&arguments).ok().out).unwrap()
}

fn number(value: &Value, keys: &[&str]) -> u64 {
    keys.iter()
        .fold(value, |value, key| &value[*key])
        .as_u64()
        .unwrap_or_else(|| panic!("{keys:?} in {value}"))
}

/// The total of du(1) in bytes, each inode once.
fn real_du(paths: &[PathBuf], apparent: bool) -> u64 {
    let mut command = Command::new("du");
    command.args(["-sc", "--block-size=1"]).args(apparent.then_some("--apparent-size")).args(paths);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// True if this du(1) adds the lengths of directories to the apparent size (coreutils before 9.2).
fn counts_directories() -> bool {
    let dir = tempfile::tempdir().unwrap();
    real_du(&[dir.path().to_owned()], true) > 0
}

fn paths_of(answer: &Value, store: &Path) -> Vec<PathBuf> {
    let paths = answer["paths"].as_array().unwrap();
    let name = |path: &Value| Path::new(path["path"].as_str().unwrap()).file_name().unwrap().to_owned();
    paths.iter().map(|path| store.join("nix/store").join(name(path))).collect()
}

fn nix_store(store: &Path, arguments: &[&str]) -> bool {
    let remote = format!("local?root={}", store.display());
    match Command::new("nix-store").args(arguments).env("NIX_REMOTE", remote).output() {
        Ok(output) => {
            assert!(output.status.success(), "nix-store {arguments:?}: {}", output.stderr.escape_ascii());
            true
        }
        Err(error) => {
            skip!("nix-store: {error}");
            false
        }
    }
}

/// Totals are those of du(1) on the same paths; the parts add up.
fn assert_right(scene: &Scene, store: &Path, environments: &[&str]) -> Value {
    let answer = du(scene, store, environments);
    let paths = paths_of(&answer, store);
    let together = &answer["together"];
    assert_eq!(number(together, &["allocated"]), real_du(&paths, false));
    let directories = if counts_directories() { number(together, &["directoryLengths"]) } else { 0 };
    // du(1) counts an inode with several names once here too.
    let once: BTreeMap<(u64, u64), u64> = files_of(&paths);
    assert_eq!(once.values().sum::<u64>() + directories, real_du(&paths, true));
    for key in ["paths", "files", "directories", "symlinks", "apparent", "allocated", "nar"] {
        let unique: u64 =
            answer["environments"].as_array().unwrap().iter().map(|e| number(e, &["unique", key])).sum();
        assert_eq!(unique + number(&answer, &["shared", key]), number(together, &[key]), "{key}");
    }
    answer
}

/// The lengths of all files and links, by inode.
fn files_of(paths: &[PathBuf]) -> BTreeMap<(u64, u64), u64> {
    let mut found = BTreeMap::new();
    let mut open = paths.to_vec();
    while let Some(path) = open.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.insert((metadata.dev(), metadata.ino()), metadata.len());
        }
    }
    found
}

fn copy_of_store(scene: &Scene, name: &str) -> PathBuf {
    let copy = scene.path(name);
    let from = scene.store.root();
    scene.shell(&format!("cp -a {} {}", from.display(), copy.display())).ok();
    copy
}

#[test]
#[ignore = "needs Nix"]
fn totals_are_those_of_du_before_and_after_the_store_is_optimised() {
    let scene = Scene::new();
    let store = copy_of_store(&scene, "c");
    let locks = ["env-a", "env-b"].map(|label| scene.path(&format!("{label}.lock")));
    let locks = locks.each_ref().map(|lock| lock.to_str().unwrap());
    // The same bytes again in both environments, so that there is something to be linked.
    let data = store.join("nix/store").join(scene.store.path("data"));
    let copies = format!(
        "cd {0} && chmod u+w . && head -c 90000 /dev/urandom >one && chmod a-w one && cp -p one two && chmod u-w .",
        data.display()
    );
    scene.shell(&copies).ok();
    let before = assert_right(&scene, &store, &locks);
    if !nix_store(&store, &["--optimise"]) {
        return;
    }
    let after = assert_right(&scene, &store, &locks);
    assert!(number(&after, &["together", "allocated"]) < number(&before, &["together", "allocated"]));
    for key in ["paths", "files", "symlinks", "apparent", "nar"] {
        assert_eq!(number(&after, &["together", key]), number(&before, &["together", key]), "{key}");
    }
    let again = assert_right(&scene, &store, &locks);
    assert_eq!(again, after, "what is remembered is the same");
    assert_eq!(du(&scene, &store, &[&locks[..], &["--rescan"]].concat()), after);
}

#[test]
#[ignore = "needs Nix"]
fn lengths_of_archives_are_those_that_nix_recorded() {
    let scene = Scene::new();
    let store = scene.store.root();
    let answer = du(&scene, store, &["--all"]);
    let database = rusqlite::Connection::open(scene.store.database()).unwrap();
    let mut compared = 0;
    for path in answer["paths"].as_array().unwrap() {
        let name = path["path"].as_str().unwrap();
        let recorded: u64 = database
            .query_row("SELECT narSize FROM ValidPaths WHERE path = ?1", [name], |row| row.get::<_, i64>(0))
            .unwrap()
            .try_into()
            .unwrap();
        if number(path, &["missing"]) == 0 {
            assert_eq!(number(path, &["nar"]), recorded, "{name}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

/// What is unique to an environment is deleted from a copy of the store; what the disk gets back is what was said.
#[test]
#[ignore = "needs Nix"]
fn what_an_environment_would_free_is_what_its_paths_free() {
    let scene = Scene::new();
    let locks = ["env-a", "env-b"].map(|label| scene.path(&format!("{label}.lock")));
    let locks = locks.each_ref().map(|lock| lock.to_str().unwrap());
    for optimised in [false, true] {
        for (at, label) in ["env-a", "env-b"].into_iter().enumerate() {
            let store = copy_of_store(&scene, &format!("c{at}{optimised}"));
            if optimised && !nix_store(&store, &["--optimise"]) {
                return;
            }
            let answer = du(&scene, &store, &locks);
            let env = answer["environments"].as_array().unwrap().iter().find(|e| e["name"] == label).unwrap();
            let said = number(env, &["marginal", "allocated"]);
            assert!(said > 0, "{label} has nothing of its own");
            // Whatever is not of the two is in the way of nothing.
            let all = store.join("nix/store");
            let before = real_du(std::slice::from_ref(&all), false);
            let own: BTreeSet<&str> = answer["paths"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|path| path["environments"] == serde_json::json!([label]))
                .map(|path| path["path"].as_str().unwrap())
                .collect();
            for path in own {
                let real = all.join(Path::new(path).file_name().unwrap());
                scene.shell(&format!("chmod -R u+w {0} 2>/dev/null; rm -rf {0}", real.display())).ok();
            }
            // As Nix's collector does afterwards.
            scene.shell(&format!("find {}/.links -type f,l -links 1 -delete", all.display()));
            let freed = before - real_du(std::slice::from_ref(&all), false);
            assert_eq!(freed, said, "{label}, optimised: {optimised}");
        }
    }
}

#[test]
#[ignore = "needs Nix"]
fn a_lock_that_the_store_does_not_fit_is_refused() {
    let scene = Scene::new();
    let lock = scene.lock("env-a", |lock| lock.closure.count += 1);
    let (lock, store) = (lock.to_str().unwrap(), scene.store.root().to_str().unwrap());
    for command in ["du", "layers"] {
        scene.nixview(&[command, "--store", store, lock]).failed(1, &[lock, "lock it again"]);
    }
}

#[test]
#[ignore = "needs Nix"]
fn what_is_recorded_and_not_there_is_said() {
    let scene = Scene::new();
    let store = copy_of_store(&scene, "c");
    let lock = scene.path("env-a.lock");
    let answer = du(&scene, &store, &[lock.to_str().unwrap()]);
    let paths = paths_of(&answer, &store);
    scene.shell(&format!("chmod -R u+w {0}; rm -rf {0}", paths[0].display())).ok();
    let arguments = ["du", "--rescan", "--store", store.to_str().unwrap(), lock.to_str().unwrap()];
    let said = scene.nixview(&arguments).ok();
    assert!(said.err.contains("1 path is recorded and not in"), "{said:?}");
    assert!(said.out.contains("(1 missing)"), "{said:?}");
    let answer = du(&scene, &store, &["--rescan", lock.to_str().unwrap()]);
    assert_eq!(number(&answer, &["together", "missing"]), 1);
    assert_eq!(number(&answer, &["together", "paths"]) + 1, paths.len() as u64);
}

/// Inode, length and blocks of each name of a file or link in a store, without `.links`.
fn names_of(store: &Path) -> BTreeMap<PathBuf, (u64, u64, u64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![store.join("nix/store")];
    while let Some(path) = open.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap());
            open.extend(entries.filter(|entry| entry.file_name() != ".links").map(|entry| entry.path()));
        } else {
            found.insert(path, (metadata.ino(), metadata.len(), metadata.blocks()));
        }
    }
    found
}

/// Space on the disk of the directory `.links`.
fn links_directory(store: &Path) -> u64 {
    fs::metadata(store.join("nix/store/.links")).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Optimises a store and compares what Nix says and does with what was said before; false where there is no Nix.
fn assert_optimised(store: &Path, said: &Value) -> bool {
    let said = |key| number(said, &["optimise", key]);
    let (before, links) = (names_of(store), links_directory(store));
    let all = [store.join("nix/store")];
    let taken = real_du(&all, false);
    let remote = format!("local?root={}", store.display());
    let output = match Command::new("nix-store").arg("--optimise").env("NIX_REMOTE", remote).output() {
        Ok(output) => output,
        Err(error) => {
            skip!("nix-store: {error}");
            return false;
        }
    };
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    let text = String::from_utf8(output.stderr).unwrap();
    let mib = said("nixBytes") as f64 / f64::from(1 << 20);
    let words = format!("{mib:.2} MiB freed by hard-linking {} files", said("files"));
    assert!(text.contains(&words), "{words:?} is not what Nix says: {text}");
    let skipped = text.matches("skipping suspicious writable file").count() as u64;
    assert_eq!(skipped, said("writable"));
    let after = names_of(store);
    let linked: Vec<u64> =
        before.iter().filter(|(name, was)| after[*name].0 != was.0).map(|(_, was)| was.1).collect();
    assert_eq!((linked.len() as u64, linked.iter().sum::<u64>()), (said("files"), said("nixBytes")));
    let inodes = |names: &BTreeMap<PathBuf, (u64, u64, u64)>| -> BTreeMap<u64, u64> {
        names.values().map(|(inode, _, blocks)| (*inode, *blocks)).collect()
    };
    let (old, new) = (inodes(&before), inodes(&after));
    let gone: Vec<u64> = old.iter().filter(|(inode, _)| !new.contains_key(*inode)).map(|(_, b)| *b).collect();
    // Of what has a name elsewhere the inode stays.
    assert!(gone.len() as u64 >= said("inodes"));
    let grown = links_directory(store) - links;
    assert_eq!(taken + grown - real_du(&all, false), said("diskBytes"), "what the disk got back");
    true
}

/// Puts equal and nearly equal files into paths of both environments, and some that have names elsewhere.
fn with_duplicates(scene: &Scene, store: &Path) {
    let at = |label: &str| store.join("nix/store").join(scene.store.path(label));
    let script = format!(
        "set -e; umask 022; chmod u+w {a} {b}; cd {a}
        head -c 90000 /dev/urandom >one; cp one x; cp one again; : >empty; ln -s nowhere link
        head -c 5000 /dev/urandom >small; cp one elsewhere; cp one twice; cp one may-be-written
        chmod 444 one again empty small elsewhere twice; chmod 555 x; chmod 644 may-be-written
        cd {b}; cp {a}/one one; cp {a}/x x; : >empty; : >empty-program; ln -s nowhere link; ln -s somewhere other
        cp {a}/small small; ln {a}/twice twice; ln {a}/elsewhere {outside}
        printf 12345 >length; printf 54321 >same-length
        chmod 444 one empty small length same-length; chmod 555 x empty-program; chmod u-w {a} {b}",
        a = at("left").display(),
        b = at("data").display(),
        outside = store.join("nix/store/rubbish").display(),
    );
    scene.shell(&script).ok();
}

fn locks(scene: &Scene) -> [String; 2] {
    ["env-a", "env-b"].map(|label| scene.path(&format!("{label}.lock")).to_str().unwrap().to_owned())
}

fn duplicates(scene: &Scene, store: &Path, more: &[&str]) -> Value {
    let locks = locks(scene);
    let arguments = [&["--duplicates", &locks[0], &locks[1]], more].concat();
    du(scene, store, &arguments)["duplicates"].clone()
}

#[test]
#[ignore = "needs Nix"]
fn the_optimiser_does_what_was_said() {
    let scene = Scene::new();
    let store = copy_of_store(&scene, "c");
    with_duplicates(&scene, &store);
    let answer = duplicates(&scene, &store, &["--all"]);
    let whole = &answer["wholeStore"];
    // 90,000 bytes: two of `one`, `again`, `elsewhere`, `twice` and the other, less one that is kept; `x`.
    assert!(number(whole, &["optimise", "nixBytes"]) > 5 * 90_000, "{answer}");
    assert!(
        number(whole, &["optimise", "nixBytes"]) > number(whole, &["optimise", "diskBytes"]),
        "one is held"
    );
    assert_eq!(number(&answer, &["linksDirectory"]), links_directory(&store));
    if !assert_optimised(&store, whole) {
        return;
    }
    let again = duplicates(&scene, &store, &["--all"]);
    assert_eq!(
        number(&again, &["read", "files"]),
        1,
        "of all that was read before, what may be written: {again}"
    );
    assert_eq!(number(&again, &["wholeStore", "optimise", "files"]), 0);
    assert_eq!(number(&again, &["linksDirectory"]), links_directory(&store));
    for key in ["files", "symlinks", "contents", "apparent", "distinct", "duplicate"] {
        assert_eq!(number(&again, &["wholeStore", key]), number(whole, &[key]), "{key}");
    }
    assert!(assert_optimised(&store, &again["wholeStore"]));
    // More of what has its name in `.links`, and of what has not; new files of a registered path, so `--rescan`.
    let data = store.join("nix/store").join(scene.store.path("data"));
    let more = format!(
        "cd {0} && chmod u+w . && cp one more && cp x program && head -c 70000 /dev/zero >new && cp new newer \
        && chmod 444 more new newer && chmod u-w .",
        data.display()
    );
    scene.shell(&more).ok();
    let third = duplicates(&scene, &store, &["--all", "--rescan"]);
    assert_eq!(number(&third, &["wholeStore", "optimise", "files"]), 3, "{third}");
    assert!(assert_optimised(&store, &third["wholeStore"]));
}

/// A store in which nothing else is registered is optimised; that is what was said of the environment.
#[test]
#[ignore = "needs Nix"]
fn of_an_environment_it_is_what_the_optimiser_does_to_its_paths() {
    let scene = Scene::new();
    for (at, label) in ["env-a", "env-b"].into_iter().enumerate() {
        for optimised in [false, true] {
            let store = copy_of_store(&scene, &format!("c{at}{optimised}"));
            let database = rusqlite::Connection::open(store.join("nix/var/nix/db/db.sqlite")).unwrap();
            if optimised && !nix_store(&store, &["--optimise"]) {
                return;
            }
            with_duplicates(&scene, &store);
            let answer = duplicates(&scene, &store, &[]);
            let own = answer["environments"].as_array().unwrap().iter().find(|e| e["name"] == label).unwrap();
            assert!(number(own, &["optimise", "files"]) > 0, "{own}");
            assert!(
                number(own, &["optimise", "files"]) < number(&answer, &["together", "optimise", "files"])
            );
            let lock = scene.path(&format!("{label}.lock"));
            let paths = du(&scene, &store, &[lock.to_str().unwrap()])["paths"].clone();
            let names: Vec<&str> =
                paths.as_array().unwrap().iter().map(|path| path["path"].as_str().unwrap()).collect();
            database.execute_batch("DELETE FROM Refs; DELETE FROM DerivationOutputs").unwrap();
            let kept = serde_json::to_string(&names).unwrap();
            database
                .execute("DELETE FROM ValidPaths WHERE path NOT IN (SELECT value FROM json_each(?1))", [kept])
                .unwrap();
            drop(database);
            if !assert_optimised(&store, own) {
                return;
            }
        }
    }
}
