//! What nixview mounts on each backend shows the same tree as a plain overlayfs over a copy of the closure, whatever was done in
//! them, and shows it again by the other backend.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::overlay_oracle::{Seen, apply, walk};
use crate::support::closure_lab::Overlay;
use crate::support::effort::pick;
use crate::support::scene::Scene;
use crate::support::union_support::model::{Op, op};

type Shown = BTreeMap<String, Seen>;

/// The two uppers, with the backend that they are mounted by first and the one after it.
const VIEWS: [(&str, [&str; 2]); 2] = [("a", ["fuse", "overlay"]), ("b", ["overlay", "fuse"])];

/// A copy of what a view of `env-a` shows, for a plain overlayfs.
const COPY: &str = "
set -e
mkdir copy copy/store plain
cp -a a/var copy/
for member in $(ls a/store); do cp -a s/nix/store/$member copy/store/; done
for below in . store; do chmod --reference=a/$below copy/$below; done
";

/// Without what differs by design or by the moment: link counts and times.
fn shown(at: &Path) -> Shown {
    let mut all = Shown::new();
    walk(at, String::new(), &mut all);
    for seen in all.values_mut() {
        (seen.mtime, seen.links) = ((0, 0), None);
    }
    all
}

fn same(what: &str, one: &Shown, other: &Shown) -> Result<(), String> {
    let paths = one.keys().chain(other.keys()).filter(|path| one.get(*path) != other.get(*path));
    match paths.min() {
        None => Ok(()),
        Some(path) => Err(format!("{what}: {path}: {:?}, not {:?}", one.get(path), other.get(path))),
    }
}

fn mount(scene: &Scene, round: usize) {
    for (target, backends) in VIEWS {
        let upper = scene.path(&format!("upper-{target}"));
        let options = ["--name", target, "--backend", backends[round], "--upper", upper.to_str().unwrap()];
        scene.mount("env-a", target, &options).ok();
    }
}

fn unmount(scene: &Scene) {
    for (target, _) in VIEWS {
        scene.nixview(&["umount", target]).ok();
    }
}

fn history(scene: &Scene, ops: &[Op], done: &Cell<u64>) -> Result<(), String> {
    mount(scene, 0);
    scene.shell("mkdir data work").ok();
    let at = scene.path("plain");
    let dir = scene.dir.path().display();
    let layers =
        format!("lowerdir={dir}/copy,upperdir={dir}/data,workdir={dir}/work,redirect_dir=on,xino=off");
    let plain = Overlay::mount(&at, &format!("{layers},{}", Overlay::OPTIONS))?;
    let work = || {
        for op in ops {
            let wanted = apply(&at, op);
            done.set(done.get() + u64::from(wanted.is_ok()));
            for (target, backends) in VIEWS {
                let found = apply(&scene.path(target), op);
                if found.is_ok() != wanted.is_ok() {
                    return Err(format!("{op:?}: {found:?} by {}, {wanted:?} by overlayfs", backends[0]));
                }
            }
        }
        let wanted = shown(&at);
        for (target, backends) in VIEWS {
            same(backends[0], &shown(&scene.path(target)), &wanted)?;
        }
        Ok(wanted)
    };
    let outcome = work();
    unmount(scene);
    let outcome = outcome.and_then(|wanted| {
        mount(scene, 1);
        let outcome = VIEWS.iter().try_for_each(|(target, backends)| {
            same(&format!("{backends:?}"), &shown(&scene.path(target)), &wanted)
        });
        unmount(scene);
        outcome
    });
    drop(plain);
    scene.shell("rm -rf data work upper-a upper-b").ok();
    outcome
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn views_of_both_backends_and_a_plain_overlay_show_the_same_after_each_history() {
    let scene = Scene::new();
    let before = scene.store_digest();
    scene.mount("env-a", "a", &["--name", "a", "--read-only"]).ok();
    scene.shell(COPY).ok();
    scene.nixview(&["umount", "a"]).ok();
    let cases = pick(8, 500);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]));
    let done = Cell::new(0);
    let outcome = runner.run(&prop::collection::vec(op(), 20..60), |ops| {
        history(&scene, &ops, &done).map_err(TestCaseError::fail)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(done.get() >= u64::from(cases) * 10, "{} changes in {cases} histories", done.get());
    assert_eq!(scene.store_digest(), before, "the store was changed");
    scene.assert_nothing_left();
    fs::remove_dir_all(scene.path("copy")).unwrap();
}
