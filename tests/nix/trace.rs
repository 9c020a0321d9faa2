//! Traces of real programs, and what their locks are worth: a real environment, used again with only what was used; and real Nix in such a view.
//!
//! `NIXVIEW_DEBIAN_STORE` is what `test-images/debian-store/build` made: a folder with `envs.tsv` and `root`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::gcroots::nix;
use crate::support::scene::{Ran, Scene, ran};
use crate::support::skip::skip;
use nixview::lock::EnvLock;
use serde_json::Value;

/// What python does: imports of its own, a library, a subprocess of a shell, and an answer.
const JOB: &str = "import json, subprocess, sys, xml.etree.ElementTree as tree\n\
    print(json.dumps({'n': sum(range(100)), 'tag': tree.fromstring('<a b=\"c\"/>').tag}))\n\
    print(subprocess.run(['/bin/sh', '-c', 'echo shell'], capture_output=True, text=True).stdout, sys.version_info[0])\n";

/// A small store of real programs.
struct Real {
    scene: Scene,
    store: PathBuf,
    environment: String,
}

impl Real {
    fn new() -> Option<Self> {
        let Some(made) = std::env::var_os("NIXVIEW_DEBIAN_STORE").map(PathBuf::from) else {
            skip!("NIXVIEW_DEBIAN_STORE names no small Debian store");
            return None;
        };
        if Command::new("bwrap").arg("--version").output().is_err() {
            skip!("bwrap is not installed");
            return None;
        }
        let table = fs::read_to_string(made.join("envs.tsv")).unwrap();
        let mut lines = table.lines().map(|line| line.split('\t'));
        let environment =
            lines.find_map(|mut cells| (cells.next() == Some("python")).then(|| cells.next().unwrap()));
        let root = made.join("root");
        let root = fs::read_to_string(&root).map_or(root, |text| PathBuf::from(text.trim()));
        let real = Self {
            scene: Scene::new(),
            store: root.join("nix/store"),
            environment: environment.unwrap().to_owned(),
        };
        real.nixview(&["lock", &real.environment, "-o", &real.file("python.lock")]).ok();
        Some(real)
    }

    fn file(&self, name: &str) -> String {
        self.scene.path(name).to_str().unwrap().to_owned()
    }

    fn nixview(&self, arguments: &[&str]) -> Ran {
        let mut command = self.scene.command();
        let (first, rest) = arguments.split_first().unwrap();
        ran(command.arg(first).arg("--store").arg(&self.store).args(rest).output().unwrap())
    }

    /// Runs a program in an otherwise empty root with a view of a lock at `/nix`.
    fn in_view(&self, lock: &str, more: &[&str], program: &[&str]) -> Ran {
        let at = self.file("a");
        let mount = ["mount", "--tmp", "--name", "v", "--closure", lock];
        self.nixview(&mount.into_iter().chain(more.iter().copied()).chain([at.as_str()]).collect::<Vec<_>>())
            .ok();
        let bin = format!("{}/bin", self.environment);
        let mut command = Command::new("timeout");
        command.args([
            "-k",
            "5",
            "60",
            "bwrap",
            "--unshare-all",
            "--die-with-parent",
            "--clearenv",
            "--setenv",
            "PATH",
        ]);
        command
            .arg(&bin)
            .args(["--bind", &at, "/nix", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
        command.args(["--symlink", &bin, "/bin"]).args(program).stdin(Stdio::null());
        let answer = ran(command.output().unwrap());
        self.scene.nixview(&["umount", "v"]).ok();
        answer
    }
}

#[test]
#[ignore = "real programs"]
fn nightly_what_python_used_is_enough_for_it_and_what_it_did_not_use_is_not_there() {
    let Some(real) = Real::new() else { return };
    let (lock, trace, small) = (real.file("python.lock"), real.file("python.trace"), real.file("small.lock"));
    let job = ["python3", "-c", JOB];
    let whole = real.in_view(&lock, &["--trace", &trace], &job).ok();
    assert!(whole.out.contains("\"n\": 4950") && whole.out.contains("shell"), "{whole:?}");
    let text = real.scene.nixview(&["trace", "report", "--json", &trace]).ok().out;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let (all, touched) = (number(&answer["closure"]["paths"]), number(&answer["touched"]["paths"]));
    assert!(touched * 2 < all && touched > 4, "{touched} of {all}");
    assert!(number(&answer["files"]["used"]) > 20 && number(&answer["files"]["gone"]) == 0);
    // What python and its shell are made of was opened.
    let opened = |part: &str| {
        let paths = answer["paths"].as_array().unwrap();
        paths
            .iter()
            .any(|path| path["path"].as_str().unwrap().contains(part) && number(&path["filesUsed"]) > 0)
    };
    for part in ["-libc6-", "-python3.11-minimal-", "-dash-"] {
        assert!(opened(part), "{part}: {answer}");
    }
    let said = real.nixview(&["lock", "--only-traced", &trace, &lock, "-o", &small]).ok();
    assert!(said.out.contains(&format!("of {all} paths")), "{said:?}");
    let kept = EnvLock::read(Path::new(&small)).unwrap().closure.count;
    assert!((touched..=touched + 1).contains(&kept), "what was touched, and the root");
    let again = real.in_view(&small, &[], &job).ok();
    assert_eq!(again.out, whole.out);
    // What was never used: there with the whole lock, and a plain "No such file" with the small one.
    let unused = ["sed", "--version"];
    real.in_view(&lock, &[], &unused).ok();
    real.in_view(&small, &[], &unused).failed(1, &["sed", "No such file or directory"]);
    let dropped =
        fs::canonicalize(real.store.join(Path::new(&real.environment).file_name().unwrap()).join("bin/sed"));
    let dropped =
        format!("/nix/store/{}", dropped.map_or_else(|_| "none".into(), |path| path.display().to_string()));
    let mut command = real.scene.command();
    command.args(["run", "--closure", &small, "--store"]).arg(&real.store).args(["--", &dropped]);
    ran(command.output().unwrap()).failed(127, &["(--only-traced)", "small.lock keeps"]);
    real.scene.assert_nothing_left();
}

#[test]
#[ignore = "real Nix"]
fn nix_in_a_view_of_a_part_finds_nothing_missing_and_collects_nothing_that_is_kept() {
    if Command::new("nix-store").arg("--version").output().is_err() {
        skip!("nix-store is not installed");
        return;
    }
    let scene = Scene::new();
    let lock = scene.path("env-a.lock");
    // What is kept refers to what is not.
    let trace = scene.path("t.trace");
    let uses = ["left/bin/hello", "libc/lib/libc.so.1"].map(|path| {
        let (label, inside) = path.split_once('/').unwrap();
        format!("cat /nix/store/{}/{inside} > /dev/null", scene.store.path(label))
    });
    scene.run("env-a", &["--trace", trace.to_str().unwrap()], &uses.join("; ")).ok();
    let small = scene.path("small.lock");
    let store = scene.store.root().to_str().unwrap();
    let [trace, lock, small] = [&trace, &lock, &small].map(|path| path.to_str().unwrap());
    scene.nixview(&["lock", "--store", store, "--only-traced", trace, lock, "-o", small]).ok();
    fs::write(scene.path("nix.conf"), "build-users-group =\nsandbox = false\nsubstituters =\n").unwrap();
    let script = format!(
        "set -eu; mkdir -p {0}/home; export HOME={0}/home NIX_CONF_DIR={0} NIX_REMOTE=local\n\
         nix-store --verify --check-contents 2>&1; nix-store -qR {1}; echo --; nix-store -q --references {2}; echo --\n\
         nix-store --gc >/dev/null 2>&1; ls /nix/store; {2}/bin/hello",
        scene.dir.path().display(),
        scene.store.logical("env-a"),
        scene.store.logical("left"),
    );
    let said = scene.run("small", &[], &script).ok().out;
    for label in ["env-a", "left", "libc"] {
        assert!(said.lines().any(|line| line == scene.store.path(label)), "{label} is collected: {said}");
    }
    assert!(said.ends_with(mini_store::contents::HELLO), "{said}");
    assert!(!said.contains(scene.store.path("top")) && !said.contains("missing"), "{said}");
    // On the host those are roots that no other of them refers to, so that no collection takes any.
    scene.mount("small", "a", &["--name", "v"]).ok();
    let mut roots: Vec<_> = scene.gc_roots().into_iter().map(|(_, target)| target).collect();
    roots.sort_unstable();
    let kept = ["env-a", "left", "libc"];
    let is_led_to = |label: &str| {
        let others = kept.iter().filter(|other| **other != label);
        others.flat_map(|other| scene.store.references(other)).any(|path| path == scene.store.path(label))
    };
    let expected = kept.iter().filter(|label| !is_led_to(label));
    let mut expected: Vec<_> = expected.map(|label| PathBuf::from(scene.store.logical(label))).collect();
    expected.sort_unstable();
    assert_eq!(roots, expected);
    if let Some(collected) = nix(&scene, "nix-store", &["--gc"]) {
        collected.ok();
    }
    for label in kept {
        assert!(scene.store.real(label).exists(), "{label} is collected");
    }
    scene.nixview(&["umount", "v"]).ok();
    scene.assert_nothing_left();
}
