//! What an upper changes, and taking it back, after random histories: against a comparison of the two whole trees.

use std::collections::BTreeMap;

use crate::support::effort::pick;
use crate::support::union_support;
use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::model::{Op, Run, op};
use crate::support::union_support::{Disk, MemDisk, View, name, options};
use nixview::layer::fault::{FaultUpper, Faults};
use nixview::layer::{Lower, Restore};
use nixview::union::Io;
use nixview::vfs::{FileKind, Name, Timespec};
use nixview::view::changes::{Change, ReadUpper, Reset, ResetError, Trees, What, changes, reset, shown};
use nixview::view::oci_layer::{Exporting, Source, Target, export, import};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What of an object counts.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    kind: FileKind,
    permissions: u16,
    owner: (u32, u32),
    mtime: Option<Timespec>,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Tree = BTreeMap<String, Seen>;

fn tree<L: Lower, U: nixview::layer::Upper>(lower: L, upper: U) -> Tree {
    let all = View::new(lower, upper, options(Io::Cached)).tree();
    let seen = |shown: union_support::Shown| Seen {
        kind: shown.attr.kind,
        permissions: if shown.attr.kind == FileKind::Symlink { 0 } else { shown.attr.permissions },
        owner: (shown.attr.uid, shown.attr.gid),
        // A directory's own is another test's.
        mtime: (shown.attr.kind != FileKind::Directory).then_some(shown.attr.mtime),
        content: shown.content,
        xattrs: shown.xattrs,
    };
    all.into_iter().map(|(path, shown)| (path, seen(shown))).collect()
}

/// The tree that shows, and that of the lower alone.
fn trees<D: Disk>(disk: &D) -> (Tree, Tree) {
    let now = tree(disk.lower(), disk.upper());
    (now, tree(disk.lower(), MemDisk::new().upper))
}

fn play<D: Disk>(disk: &D, ops: &[Op]) -> Result<(), String> {
    let mut run = Run::new(disk, Io::Cached);
    ops.iter().try_for_each(|op| run.step(op))
}

fn found<L: Lower, U: ReadUpper>(lower: &L, upper: &U, start: &[Name]) -> Vec<Change> {
    let mut found = Vec::new();
    let trees = Trees { lower, upper, owner: None };
    changes(trees, start, &mut |change| {
        found.push(change.clone());
        Ok(())
    })
    .unwrap();
    found
}

/// Path, letter, and the metadata that differ.
type Line = (String, char, Vec<String>);

fn lines(changes: &[Change]) -> Vec<Line> {
    let mut all = Vec::new();
    for change in changes {
        let (letter, aspects) = match &change.what {
            What::Added => ('A', None),
            What::Deleted(_) => ('D', None),
            What::Modified(aspects) => ('M', Some(aspects)),
            What::Metadata(aspects) => ('P', Some(aspects)),
            What::TypeChanged(_) => ('T', None),
        };
        let mut words = Vec::new();
        if let Some(aspects) = aspects {
            let directory = change.after.is_some_and(|facts| facts.kind == FileKind::Directory);
            words.extend(aspects.mode.then(|| "mode".to_owned()));
            words.extend((aspects.mtime && !directory).then(|| "mtime".to_owned()));
            words.extend(aspects.xattrs.iter().map(|name| name.escape_ascii().to_string()));
            if letter == 'P' && words.is_empty() && directory {
                continue;
            }
        }
        let path = if change.path.is_empty() { String::new() } else { shown(&change.path) };
        all.push((path, letter, words));
    }
    all
}

/// The same, found by comparing everything.
fn expected(now: &Tree, base: &Tree) -> Vec<Line> {
    let mut all = Vec::new();
    let paths: std::collections::BTreeSet<&String> = now.keys().chain(base.keys()).collect();
    for path in paths {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        match (now.get(path), base.get(path)) {
            (Some(_), None) => all.push((path.clone(), 'A', Vec::new())),
            // What was in a directory went with it.
            (None, Some(_)) if now.get(above).is_some_and(|dir| dir.kind == FileKind::Directory) => {
                all.push((path.clone(), 'D', Vec::new()));
            }
            (Some(after), Some(before)) if after.kind != before.kind => {
                all.push((path.clone(), 'T', Vec::new()));
            }
            (Some(after), Some(before)) => {
                let mut words = Vec::new();
                words.extend((after.permissions != before.permissions).then(|| "mode".to_owned()));
                words.extend((after.mtime != before.mtime).then(|| "mtime".to_owned()));
                let names: std::collections::BTreeSet<_> =
                    after.xattrs.keys().chain(before.xattrs.keys()).collect();
                let differ = names.into_iter().filter(|n| after.xattrs.get(*n) != before.xattrs.get(*n));
                words.extend(differ.map(|name| name.escape_ascii().to_string()));
                if after.content != before.content {
                    all.push((path.clone(), 'M', words));
                } else if !words.is_empty() {
                    all.push((path.clone(), 'P', words));
                }
            }
            _ => {}
        }
    }
    all
}

fn compare<D: Disk>(disk: &D) -> Result<(), String>
where
    D::U: ReadUpper,
{
    let (now, base) = trees(disk);
    let all = found(&disk.lower(), &disk.upper(), &[]);
    let mut lines = lines(&all);
    // A directory comes before what is in it: the order of paths by component.
    let by_names: Vec<_> = all.iter().map(|change| change.path.clone()).collect();
    if !by_names.is_sorted() {
        return Err(format!("not in order: {lines:?}"));
    }
    lines.sort();
    let mut expected = expected(&now, &base);
    expected.sort();
    if lines == expected { Ok(()) } else { Err(format!("found {lines:?}, expected {expected:?}")) }
}

fn names_of(path: &str) -> Vec<Name> {
    path.split('/').filter(|part| !part.is_empty()).map(name).collect()
}

fn is_below(path: &str, above: &str) -> bool {
    path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

fn part(tree: &Tree, path: &str, below: bool) -> Tree {
    tree.iter().filter(|(p, _)| is_below(p, path) == below).map(|(p, s)| (p.clone(), s.clone())).collect()
}

/// Resets one path, and looks at everything.
fn take_back<D: Disk>(disk: &D, which: Index) -> Result<(), String>
where
    D::U: Restore,
{
    let (now, base) = trees(disk);
    let mut paths: Vec<&String> = now.keys().chain(base.keys()).filter(|path| !path.is_empty()).collect();
    paths.sort();
    paths.dedup();
    let Some(path) = paths.get(which.index(paths.len().max(1))).map(|path| (*path).clone()) else {
        return Ok(());
    };
    let (lower, upper) = (disk.lower(), disk.upper());
    let trees_of = Trees { lower: &lower, upper: &upper, owner: None };
    let before = found(&lower, &upper, &names_of(&path));
    let answer = reset(trees_of, &names_of(&path), true);
    let after = tree(disk.lower(), disk.upper());
    if part(&after, &path, false) != part(&now, &path, false) {
        return Err(format!("{path}: something else changed: {now:?} became {after:?}"));
    }
    match answer {
        Ok(done) => {
            if part(&after, &path, true) != part(&base, &path, true) {
                return Err(format!("{path}: {done:?}, and it is not as in the lower: {after:?}"));
            }
            if done == Reset::Unchanged && after != now {
                return Err(format!("{path}: changed, and said to be unchanged"));
            }
            let left = found(&disk.lower(), &disk.upper(), &names_of(&path));
            if left.is_empty() && (done == Reset::Done || before.is_empty()) {
                Ok(())
            } else {
                Err(format!("{path}: {before:?} left {left:?}"))
            }
        }
        Err(ResetError::Above { above, why, .. }) => {
            let above = shown(&above);
            let is_directory = now.get(&above).is_some_and(|seen| seen.kind == FileKind::Directory);
            if after == now && is_directory == (why == "moved there") && is_below(&path, &above) {
                Ok(())
            } else {
                Err(format!("{path}: refused for {above}"))
            }
        }
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn histories(cases: u32, check: impl Fn(&[Op], Index) -> Result<(), String>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]));
    let histories = (prop::collection::vec(op(), 1..30), any::<Index>());
    let outcome = runner.run(&histories, |(ops, which)| check(&ops, which).map_err(TestCaseError::fail));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn every_change_is_found_and_nothing_else_in_memory() {
    histories(pick(150, 1_000), |ops, _| {
        let disk = MemDisk::new();
        play(&disk, ops)?;
        compare(&disk)
    });
}

#[test]
fn every_change_is_found_and_nothing_else_on_a_disk() {
    histories(pick(20, 100), |ops, _| {
        let disk = DirDisk::new();
        play(&disk, ops)?;
        compare(&disk)
    });
}

#[test]
fn a_reset_path_is_as_in_the_lower_and_nothing_else_has_changed_in_memory() {
    histories(pick(200, 1_500), |ops, which| {
        let disk = MemDisk::new();
        play(&disk, ops)?;
        take_back(&disk, which)
    });
}

#[test]
fn a_reset_path_is_as_in_the_lower_and_nothing_else_has_changed_on_a_disk() {
    histories(pick(20, 100), |ops, which| {
        let disk = DirDisk::new();
        play(&disk, ops)?;
        take_back(&disk, which)
    });
}

/// Stopped at its first change, its second, and so on, a reset has happened or has not.
#[test]
fn a_reset_that_is_interrupted_shows_what_was_or_what_was_asked_for() {
    histories(pick(20, 100), |ops, which| {
        for stop in 0.. {
            let disk = MemDisk::new();
            play(&disk, ops)?;
            let (now, base) = trees(&disk);
            let mut paths: Vec<&String> = now.keys().chain(base.keys()).filter(|p| !p.is_empty()).collect();
            paths.sort();
            paths.dedup();
            let path = paths[which.index(paths.len())].clone();
            let faults = Faults::crash_at(stop);
            let upper = FaultUpper::new(disk.upper(), faults.clone());
            let trees_of = Trees { lower: &disk.lower, upper: &upper, owner: None };
            let answer = reset(trees_of, &names_of(&path), false);
            let after = tree(disk.lower(), disk.upper());
            let outside = part(&after, &path, false) == part(&now, &path, false);
            let inside = part(&after, &path, true);
            if !outside || (inside != part(&now, &path, true) && inside != part(&base, &path, true)) {
                return Err(format!("{path}, stopped at {stop}: {now:?} became {after:?}"));
            }
            if !faults.crashed() {
                return match answer {
                    Ok(_) | Err(ResetError::Above { .. }) => Ok(()),
                    Err(error) => Err(error.to_string()),
                };
            }
        }
        Ok(())
    });
}

fn archive<D: Disk>(disk: &D) -> Vec<u8>
where
    D::U: ReadUpper,
{
    let mut bytes = Vec::new();
    let (lower, upper) = (disk.lower(), disk.upper());
    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    let how = Exporting { prefix: vec![name("nix")], skip: false, lower_known: true };
    export(trees, &how, &mut bytes, &mut |_, _| ()).unwrap();
    bytes
}

/// Without what a layer cannot hold, and says so.
fn that_goes_out(ops: &[Op]) -> Vec<Op> {
    ops.iter().filter(|op| !matches!(op, Op::ZeroDevice { .. })).cloned().collect()
}

fn goes_out_and_comes_back<D: Disk>(disk: &D, fresh: &D) -> Result<(), String>
where
    D::U: Restore,
{
    let bytes = archive(disk);
    let (lower, upper) = (disk.lower(), fresh.upper());
    let source = Source { prefix: vec![name("nix")], skip_others: false, max_size: 1 << 30 };
    let trees_of = Trees { lower: &lower, upper: &upper, owner: None };
    import(&source, bytes.as_slice(), Target { trees: trees_of, owner: None, devices: true, set_id: true })
        .map_err(|e| e.to_string())?;
    let (before, after) = (tree(disk.lower(), disk.upper()), tree(disk.lower(), fresh.upper()));
    if before != after {
        return Err(format!("{before:?} became {after:?}"));
    }
    if archive(fresh) == bytes { Ok(()) } else { Err("the second archive differs".to_owned()) }
}

#[test]
fn an_archive_makes_the_same_tree_in_memory() {
    histories(pick(150, 1_000), |ops, _| {
        let disk = MemDisk::new();
        play(&disk, &that_goes_out(ops))?;
        goes_out_and_comes_back(&disk, &MemDisk::new())
    });
}

#[test]
fn an_archive_makes_the_same_tree_on_a_disk() {
    histories(pick(20, 100), |ops, _| {
        let disk = DirDisk::new();
        play(&disk, &that_goes_out(ops))?;
        goes_out_and_comes_back(&disk, &DirDisk::new())
    });
}
