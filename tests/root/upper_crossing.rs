//! An upper crosses between the kernel's overlayfs and a FUSE view at random points, and shows the same tree in both: that
//! of a plain directory in which the same was done.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nixview::layer::dir::{check, check_top};
use nixview::vfs::Name;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::XattrFlags;

use crate::overlay_oracle::{Seen, Tmpfs, apply, walk};
use crate::support::closure_lab::{Lab, Overlay, in_work, open, shell};
use crate::support::effort::pick;
use crate::support::fuse_tree::private_namespace;
use crate::support::skip::skip;
use crate::support::union_support::model::{Op, op};
use std::os::fd::AsFd;

type Shown = BTreeMap<String, Seen>;

/// A tmpfs in a mount namespace of the test's own.
pub(crate) fn place() -> Option<Tmpfs> {
    if !private_namespace() {
        return None;
    }
    match Tmpfs::mount() {
        Ok(tmpfs) => Some(tmpfs),
        Err(error) => {
            skip!("{error}");
            None
        }
    }
}

pub(crate) fn shown(at: &Path) -> Shown {
    let mut all = BTreeMap::new();
    walk(at, String::new(), &mut all);
    all
}

/// Without times: the plain directory was changed at others.
fn timeless(mut shown: Shown) -> Shown {
    for seen in shown.values_mut() {
        seen.mtime = (0, 0);
    }
    shown
}

fn differ(what: &str, one: &Shown, other: &Shown) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    let all: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let lines = all.into_iter().filter(|path| one.get(*path) != other.get(*path));
    let lines: Vec<String> =
        lines.map(|path| format!("{path}: {:?}\n   {:?}", one.get(path), other.get(path))).collect();
    Err(format!("{what}:\n{}", lines.join("\n")))
}

/// What the rule for uppers has against the tree of one.
pub(crate) fn objections(upper: &Path) -> Vec<String> {
    let (tree, base) = (open(&upper.join("tree")), Name::new(b"nix").unwrap());
    let found = [check_top(tree.as_fd(), &base).unwrap(), check(tree.as_fd(), &base).unwrap()];
    found.into_iter().flat_map(|found| found.first).map(|o| format!("{}: {}", o.path, o.why)).collect()
}

/// Works in a backend and in the plain directory, and compares.
fn work(
    at: &Path,
    plain: &Path,
    ops: &[Op],
    before: &mut Option<Shown>,
    done: &Cell<u64>,
) -> Result<(), String> {
    if let Some(before) = before {
        differ("the other backend, this one", before, &shown(at))?;
    }
    for op in ops {
        let (ours, theirs) = (apply(at, op), apply(plain, op));
        if ours.is_ok() != theirs.is_ok() {
            return Err(format!("{op:?}: {ours:?}, in a plain directory: {theirs:?}"));
        }
        done.set(done.get() + u64::from(ours.is_ok()));
    }
    let after = shown(at);
    differ("the view, a plain directory", &timeless(shown(at)), &timeless(shown(plain)))?;
    *before = Some(after);
    Ok(())
}

fn cross(base: &Path, stretches: &[(bool, Vec<Op>)], done: &Cell<u64>) -> Result<(), String> {
    let lab = Lab::new_in(base);
    let plain = lab.at("plain/nix");
    let mut before = None;
    for (overlay, ops) in stretches {
        let mut upper = lab.upper("upper").map_err(|error| error.to_string())?;
        assert_eq!(in_work(&lab.at("upper")), 0, "what overlayfs left in the work directory is gone");
        if *overlay {
            let given = upper.prepare_for_overlay().map_err(|error| error.to_string())?;
            let mounted = lab.overlay(&given, Overlay::OPTIONS)?;
            work(&mounted.nix(), &plain, ops, &mut before, done)?;
        } else {
            let mounted = lab.view(&upper);
            work(&lab.at("view"), &plain, ops, &mut before, done)?;
            mounted.unmount();
        }
        let objections = objections(&lab.at("upper"));
        if !objections.is_empty() {
            return Err(format!("what a backend wrote is refused: {objections:?}"));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_upper_shows_the_same_tree_in_both_backends_wherever_it_crosses() {
    let Some(tmpfs) = place() else { return };
    let cases = pick(60, 2_000);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]));
    let done = Cell::new(0);
    let stretch = (any::<bool>(), prop::collection::vec(op(), 0..14));
    let outcome = runner.run(&prop::collection::vec(stretch, 2..6), |stretches| {
        cross(tmpfs.path(), &stretches, &done).map_err(TestCaseError::fail)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(done.get() >= u64::from(cases) * 5, "{} changes in {cases} histories", done.get());
}

/// Directories that move across members, and what programs call by the names of overlayfs's marks.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn moves_and_forged_attributes_cross_and_lead_to_nothing_hidden() {
    let Some(tmpfs) = place() else { return };
    let forge = |at: &Path| -> Result<(), rustix::io::Errno> {
        let set = |name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(at, format!("trusted.overlay.{name}"), value, XattrFlags::empty())
        };
        set("redirect", b"/secret")?;
        set("opaque", b"n")
    };
    for overlay_first in [false, true] {
        let lab = Lab::new_in(tmpfs.path());
        let change = |at: &Path, name: &str| {
            let script = format!(
                "mv store/m1/a store/m2/{name}; mkdir store/new-{name}; mv store/m2/{name}/b store/new-{name}/; mkdir {name}; \
                 rm -r store/m2/b 2>/dev/null || :; mkdir -p store/m1/a; echo mine > store/m1/a/{name}"
            );
            shell(at, &script);
            match forge(&at.join(name)) {
                Err(rustix::io::Errno::OPNOTSUPP) => skip!("this kernel escapes no attributes (before 6.7)"),
                answer => answer.unwrap(),
            }
        };
        let mut before = None;
        for (number, overlay) in [overlay_first, !overlay_first, overlay_first].into_iter().enumerate() {
            let mut upper = lab.upper("upper").unwrap();
            let look = |at: &Path, before: &mut Option<Shown>| {
                if let Some(before) = before {
                    differ("the other backend, this one", before, &shown(at)).unwrap();
                }
                change(at, &format!("x{number}"));
                let all = shown(at);
                assert!(!all.values().any(|seen| seen.content.starts_with(b"content of secret")));
                assert!(!all.keys().any(|path| path.contains("secret") || path.contains("key")));
                *before = Some(all);
            };
            if overlay {
                let given = upper.prepare_for_overlay().unwrap();
                let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
                look(&mounted.nix(), &mut before);
            } else {
                let mounted = lab.view(&upper);
                look(&lab.at("view"), &mut before);
                mounted.unmount();
            }
            assert_eq!(objections(&lab.at("upper")), [""; 0]);
        }
        let redirects = shell(
            &lab.at("upper/tree"),
            "getfattr -R -P --absolute-names -n trusted.overlay.redirect . 2>/dev/null | grep ^trusted",
        );
        assert!(redirects.contains("=\"/nix/store/m1/a\""), "{redirects}");
    }
}

/// The marker of a volatile mount stays after a clean end, and must not keep either backend from the next mount.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_upper_of_a_volatile_mount_is_mounted_again() {
    let Some(tmpfs) = place() else { return };
    let lab = Lab::new_in(tmpfs.path());
    for round in 0..2 {
        let mut upper = lab.upper("upper").unwrap();
        let given = upper.prepare_for_overlay().unwrap();
        let mounted = match lab.overlay(&given, &format!("{},volatile", Overlay::OPTIONS)) {
            Ok(mounted) => mounted,
            Err(error) => {
                skip!("volatile: {error}");
                return;
            }
        };
        fs::write(mounted.nix().join(format!("store/m1/round{round}")), "kept").unwrap();
        drop(mounted);
        assert!(lab.at("upper/work/work/incompat/volatile").exists());
        // The same holder, too.
        let given = upper.prepare_for_overlay().unwrap();
        drop(lab.overlay(&given, Overlay::OPTIONS).unwrap());
        drop((given, upper));
        let upper = lab.upper("upper").unwrap();
        let mounted = lab.view(&upper);
        assert_eq!(fs::read(lab.at(&format!("view/store/m1/round{round}"))).unwrap(), b"kept");
        mounted.unmount();
    }
}

/// chattr(1) works on overlayfs; a view shows such files, and lets them be changed.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_chattr_protected_on_overlayfs_is_shown_by_a_view() {
    let Some(tmpfs) = place() else { return };
    let lab = Lab::new_in(tmpfs.path());
    let mut upper = lab.upper("upper").unwrap();
    let given = upper.prepare_for_overlay().unwrap();
    let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
    shell(&mounted.nix(), "echo mine > store/m1/file; chattr +i store/m1/file 2>/dev/null || :");
    let all = shown(&mounted.nix());
    drop((mounted, given, upper));
    let marks = shell(&lab.at("upper"), "getfattr -d -m protattr tree/nix/store/m1/file");
    if !marks.contains("protattr") {
        skip!("this kernel's overlayfs keeps no inode flags");
        return;
    }
    assert_eq!(objections(&lab.at("upper")), [""; 0]);
    let upper = lab.upper("upper").unwrap();
    let mounted = lab.view(&upper);
    differ("overlayfs, the view", &all, &shown(&lab.at("view"))).unwrap();
    mounted.unmount();
}
