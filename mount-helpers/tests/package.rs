//! The maintainer scripts of the Debian package, run with a scratch directory in the place of `/` (`DPKG_ROOT`, as dpkg does with
//! `--force-script-chrootless`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nixview::sys::lock;
use tempfile::TempDir;

/// What is below a state directory; the names are those of docs/operations.md.
const TREE: &[&str] = &[
    "closures.sqlite",
    "closures.sqlite-wal",
    "closures/k-v1.erofs",
    "closures/k-v1.json",
    "closures/mounted-v1.erofs",
    "temporary/tmp-3-0/lock",
    "temporary/tmp-3-0/tree/nix/kept",
    "temporary/tmp-4-0/lock",
    "scans.sqlite.corrupt",
    "temporary/tmp-1-0/lock",
    "temporary/tmp-1-0/tree/nix/kept",
    "temporary/tmp-2-0/lock",
    "temporary/tmp-2-0/tree/nix/gone",
    "logs/live.log",
    "logs/ended.log",
    "logs/ended.log.1",
    "nix-state/shown/nix/db/db.sqlite",
    "nix-state/unused/nix/db/db.sqlite",
    "nix-state/draft-1-0/nix/db/db.sqlite",
    "uppers/web/tree/nix/file",
    "users/1000/web/tree/nix/file",
];

struct Purge {
    root: TempDir,
}

impl Purge {
    fn of(tree: &[&str]) -> Self {
        let purge = Self { root: tempfile::tempdir().unwrap() };
        for path in tree {
            let path = purge.state().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        purge
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("var/lib/nixview")
    }

    /// Runs `postrm`; answers what it said.
    fn run(&self, how: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian/postrm");
        let mut command = Command::new("/bin/sh");
        let output = command.arg(script).arg(how).env("DPKG_ROOT", self.root.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The files that are left, in order.
    fn left(&self) -> Vec<String> {
        let found = Command::new("find").arg(self.state()).args(["-type", "f", "-printf", "%P\n"]).output();
        let text = String::from_utf8(found.unwrap().stdout).unwrap();
        let mut left: Vec<_> = text.lines().map(str::to_owned).collect();
        left.sort();
        left
    }
}

#[test]
fn purging_keeps_what_a_mounted_view_holds_and_says_so() {
    let purge = Purge::of(TREE);
    let upper = purge.state().join("temporary/tmp-1-0/lock");
    let upper = File::options().read(true).write(true).open(upper).unwrap();
    assert!(lock::try_lock(&upper).unwrap());
    let shown = File::open(purge.state().join("nix-state/shown")).unwrap();
    rustix::fs::flock(&shown, rustix::fs::FlockOperation::LockShared).unwrap();
    let log = File::open(purge.state().join("logs/live.log")).unwrap();
    rustix::fs::flock(&log, rustix::fs::FlockOperation::LockShared).unwrap();
    let image = File::open(purge.state().join("closures/mounted-v1.erofs")).unwrap();
    rustix::fs::flock(&image, rustix::fs::FlockOperation::LockShared).unwrap();
    // Of overlays without a keeper: one is of this run of the system.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let unkept = purge.state().join("temporary/tmp-3-0/lock");
    fs::write(&unkept, format!("4242\noverlay 51 {} 77\n", boot.trim_end())).unwrap();
    let old = "4242\noverlay 51 00000000-0000-0000-0000-000000000000 77\n";
    fs::write(purge.state().join("temporary/tmp-4-0/lock"), old).unwrap();
    let said = purge.run("purge");
    let stays = [
        "closures/mounted-v1.erofs",
        "logs/live.log",
        "nix-state/shown/nix/db/db.sqlite",
        "temporary/tmp-1-0/lock",
        "temporary/tmp-1-0/tree/nix/kept",
        "temporary/tmp-3-0/lock",
        "temporary/tmp-3-0/tree/nix/kept",
    ];
    let changes = ["uppers/web/tree/nix/file", "users/1000/web/tree/nix/file"];
    assert_eq!(purge.left(), [&stays[..], &changes[..]].concat(), "{said}");
    let held = [
        "temporary/tmp-1-0",
        "temporary/tmp-3-0",
        "nix-state/shown",
        "closures/mounted-v1.erofs",
        "logs/live.log",
    ];
    for kept in held {
        let line = format!("nixview: {} is kept: a mounted view uses it", purge.state().join(kept).display());
        assert!(said.contains(&line), "{said}");
    }
    for kept in ["uppers", "users"] {
        let line = format!("{} is kept: it has changes of views", purge.state().join(kept).display());
        assert!(said.contains(&line), "{said}");
    }
    assert_eq!(said.lines().count(), 8, "{said}");

    // The views have ended.
    drop((upper, shown, log, image));
    fs::write(&unkept, "4242\n").unwrap();
    purge.run("purge");
    assert_eq!(purge.left(), changes);
}

#[test]
fn purging_leaves_nothing_where_nothing_is_used_or_was_written() {
    let purge = Purge::of(&TREE[..TREE.len() - 2]);
    assert_eq!(purge.run("purge"), "");
    assert!(!purge.state().exists());
}

#[test]
fn removing_without_purging_touches_no_state() {
    let purge = Purge::of(TREE);
    assert_eq!(purge.run("remove"), "");
    assert_eq!(purge.left().len(), TREE.len());
}
