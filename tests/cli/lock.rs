//! The commands lock, closure, gc, completions and man, run as a program on a tiny store; needs no privilege and no Nix.
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mini_store::MiniStore;
use serde_json::Value;

/// A store, a state directory and a place for locks; all gone at the end.
struct Scene {
    store: MiniStore,
    dir: tempfile::TempDir,
}

struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
    }

    fn fails_with(self, why: &str) {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        assert!(self.err.starts_with("nixview: ") && self.err.contains(why), "{}", self.err);
    }
}

impl Scene {
    fn new() -> Self {
        Self { store: MiniStore::temporary(), dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nixview"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("NIXVIEW_STATE_DIR", self.at("state"))
            .env("NIXVIEW_RUNTIME_DIR", self.at("run"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Answer {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// `nixview lock` on this store, to `FILE`.
    fn lock(&self, file: &str, arguments: &[&str]) -> Answer {
        let root = self.store.root().to_str().unwrap();
        self.run(&[&["lock", "--store", root, "-o", file], arguments].concat())
    }

    fn closure(&self, arguments: &[&str]) -> Answer {
        let root = self.store.root().to_str().unwrap();
        self.run(&[&["closure", "--store", root], arguments].concat())
    }

    fn read(&self, file: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.at(file)).unwrap()).unwrap()
    }

    fn lines(&self, bases: &[&str]) -> String {
        bases.iter().map(|base| format!("/nix/store/{base}\n")).collect()
    }
}

#[test]
fn everything_that_leads_to_a_path_locks_the_same_closure() {
    let scene = Scene::new();
    let logical = scene.store.logical("env-a");
    symlink(&logical, scene.at("profile-1-link")).unwrap();
    symlink("profile-1-link", scene.at("profile")).unwrap();
    symlink(scene.store.real("env-a"), scene.at("result")).unwrap();
    let expected = scene.lines(&scene.store.closure("env-a"));
    let real = scene.store.real("env-a");
    let inside = format!("{logical}/bin/hello");
    let drv = scene.store.logical("env-a.drv");
    let output = format!("{drv}^out");
    let all = format!("{drv}^*");
    for given in [
        scene.store.path("env-a"),
        &logical,
        &inside,
        real.to_str().unwrap(),
        "profile",
        "./result",
        &drv,
        &output,
        &all,
    ] {
        scene.lock("a.lock", &[given]).ok();
        assert_eq!(scene.closure(&["a.lock"]).ok(), expected, "{given}");
        let lock = scene.read("a.lock");
        assert_eq!(lock["roots"][0]["path"], logical.as_str());
        assert_eq!(lock["roots"][0]["drvPath"].as_str(), given.contains(".drv").then_some(drv.as_str()));
        assert_eq!(lock["system"], "x86_64-linux");
        assert_eq!(lock["closure"]["count"], 8);
    }
}

#[test]
fn outputs_are_chosen_and_what_is_not_built_is_said() {
    let scene = Scene::new();
    let libc = scene.store.logical("libc.drv");
    scene.lock("l.lock", &[&format!("{libc}^dev,out")]).ok();
    let lock = scene.read("l.lock");
    let outputs: Vec<&str> =
        lock["roots"].as_array().unwrap().iter().map(|r| r["output"].as_str().unwrap()).collect();
    assert_eq!(outputs, ["dev", "out"]);
    scene.lock("x.lock", &[&format!("{libc}^doc")]).fails_with("has no output 'doc'; it has dev, out");
    scene.lock("x.lock", &[&scene.store.logical("partial.drv")]).fails_with("'doc'");
    scene.lock("x.lock", &[&format!("{}^out", scene.store.logical("partial.drv"))]).ok();
    scene.lock("y.lock", &[&scene.store.logical("never.drv")]).fails_with("--realise");
    assert!(!scene.at("y.lock").exists(), "a failure leaves no lock");
    let unknown = format!("/nix/store/{}-none", "a".repeat(32));
    scene.lock("y.lock", &[&unknown]).fails_with("is not known to");
}

#[test]
fn a_name_that_no_path_of_the_closure_has_is_said() {
    let scene = Scene::new();
    scene.lock("l.lock", &[&scene.store.logical("env-a")]).ok();
    scene.closure(&["l.lock", "--why", "nothere"]).fails_with("no path of the closure is called 'nothere'");
}

#[test]
fn modes_are_those_of_nix() {
    let scene = Scene::new();
    let drv = scene.store.logical("env-a.drv");
    scene.lock("b.lock", &["--mode", "build", &drv]).ok();
    let expected = scene.lines(&scene.store.build_closure("env-a.drv"));
    assert_eq!(scene.closure(&["b.lock"]).ok(), expected);
    assert_eq!(scene.read("b.lock")["mode"], "build");

    let left = scene.store.logical("left.drv");
    scene.lock("d.lock", &["--mode", "dev", &left]).ok();
    let paths = scene.closure(&["d.lock"]).ok();
    for label in ["libc", "libc-dev", "builder"] {
        assert!(paths.contains(&scene.store.logical(label)), "{label}");
    }
    assert_eq!(paths.lines().count(), 3, "{paths}");
    // The shell is not part of a derivation: it is named as a root of its own.
    scene.lock("s.lock", &["--mode", "dev", &left, &scene.store.logical("tool")]).ok();
    assert!(scene.closure(&["s.lock"]).ok().contains(&scene.store.logical("tool")));
    let why = scene.closure(&["s.lock", "--why", &scene.store.logical("tool"), "--json"]).ok();
    assert_eq!(serde_json::from_str::<Vec<String>>(&why).unwrap(), [scene.store.logical("tool")]);
    scene.lock("x.lock", &["--mode", "dev", &scene.store.logical("tool")]).fails_with("needs a .drv");
    assert_eq!(scene.lock("x.lock", &["--mode", "all", &drv]).code, 2);
}

/// A registration as `nix-store --dump-db` writes it.
fn registration(store: &MiniStore, labels: &[&str]) -> String {
    let mut text = String::new();
    for label in labels {
        let member = store.member(label);
        let references = store.references(label);
        text += &format!(
            "/nix/store/{}\n{}\n{}\n\n{}\n",
            member.base,
            member.nar.sha256.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            member.nar.size,
            references.len()
        );
        text += &references.iter().map(|r| format!("/nix/store/{r}\n")).collect::<String>();
    }
    text
}

const ENV_A: [&str; 8] = ["config", "env-a", "left", "libc", "link", "right", "tool", "top"];

#[test]
fn a_closure_info_is_locked_also_without_a_database() {
    let scene = Scene::new();
    std::fs::create_dir(scene.at("info")).unwrap();
    std::fs::write(scene.at("info/registration"), registration(&scene.store, &ENV_A)).unwrap();
    let list = scene.lines(&scene.store.closure("env-a"));
    std::fs::write(scene.at("info/store-paths"), &list).unwrap();
    scene.lock("a.lock", &["info"]).ok();
    let with_database = scene.read("a.lock");
    assert_eq!(with_database["roots"].as_array().unwrap().len(), 1, "{with_database}");
    assert_eq!(with_database["source"]["kind"], "closure-info");
    assert_eq!(with_database["source"]["files"].as_array().unwrap().len(), 2);

    std::fs::remove_file(scene.store.database()).unwrap();
    scene.lock("b.lock", &["info"]).ok();
    assert_eq!(scene.read("b.lock")["closure"], with_database["closure"]);
    assert_eq!(scene.closure(&["info"]).ok(), list);

    let short = list.lines().skip(1).map(|l| format!("{l}\n")).collect::<String>();
    std::fs::write(scene.at("info/store-paths"), short).unwrap();
    scene.lock("c.lock", &["info"]).fails_with("not in store-paths");
}

#[test]
fn path_info_is_locked() {
    let scene = Scene::new();
    let records: Vec<Value> = ENV_A
        .iter()
        .map(|label| {
            let references: Vec<String> =
                scene.store.references(label).iter().map(|r| format!("/nix/store/{r}")).collect();
            serde_json::json!({
                "path": scene.store.logical(label), "narHash": "sha256:0", "narSize": scene.store.member(label).nar.size,
                "references": references, "valid": true,
            })
        })
        .collect();
    std::fs::write(scene.at("info.json"), serde_json::to_string(&records).unwrap()).unwrap();
    scene.lock("a.lock", &["info.json"]).ok();
    assert_eq!(scene.read("a.lock")["source"]["kind"], "path-info");
    assert_eq!(scene.closure(&["a.lock"]).ok(), scene.lines(&scene.store.closure("env-a")));
    // A list of two could be read as the two fields by which a lock is known.
    let alone: Vec<&Value> =
        records.iter().filter(|record| record["references"] == serde_json::json!([])).collect();
    let two = [alone[0], &serde_json::json!({ "path": scene.store.logical("tool"), "valid": false })];
    std::fs::write(scene.at("two.json"), serde_json::to_string(&two).unwrap()).unwrap();
    scene.lock("two.lock", &["two.json"]).ok();
    assert_eq!(scene.read("two.lock")["roots"][0]["path"], alone[0]["path"]);
    std::fs::write(scene.at("bad.json"), "{\"a\": 1}").unwrap();
    scene.lock("x.lock", &["bad.json"]).fails_with("path-info");
}

#[test]
fn a_list_is_read_from_standard_input() {
    let scene = Scene::new();
    let root = scene.store.root().to_str().unwrap();
    let list = format!("{}\n\n{}^out\n", scene.store.logical("tool"), scene.store.logical("libc.drv"));
    scene.run_with(&["lock", "--store", root, "-", "-o", "l.lock"], &list).ok();
    let lock = scene.read("l.lock");
    assert_eq!(lock["source"]["kind"], "list");
    assert_eq!(lock["roots"].as_array().unwrap().len(), 2);
    scene.run_with(&["lock", "--store", root, "-"], "").fails_with("no store path");
    scene.run_with(&["lock", "--store", root, "-"], "../../etc/passwd\n").fails_with("full store paths");
    scene.run_with(&["lock", "--store", root, "-"], "/gnu/store/x\n").fails_with("full store paths");
}

#[test]
fn a_store_without_any_record_is_scanned_and_the_lock_says_so() {
    let scene = Scene::new();
    std::fs::remove_file(scene.store.database()).unwrap();
    scene.lock("a.lock", &[scene.store.path("env-a")]).ok();
    assert_eq!(scene.read("a.lock")["closure"]["references"], "scan");
    assert_eq!(scene.closure(&["a.lock"]).ok(), scene.lines(&scene.store.closure("env-a")));
}

#[test]
fn a_lock_whose_digest_lies_is_refused_with_both_counts() {
    let scene = Scene::new();
    scene.lock("a.lock", &[scene.store.path("env-a")]).ok();
    scene.lock("b.lock", &[scene.store.path("env-b")]).ok();
    let mut lock = scene.read("a.lock");
    lock["closure"] = scene.read("b.lock")["closure"].clone();
    lock["closure"]["count"] = 21.into();
    std::fs::write(scene.at("lie.lock"), lock.to_string()).unwrap();
    let answer = scene.closure(&["lie.lock"]);
    assert!(answer.err.contains("has 8 paths") && answer.err.contains("has 21"), "{}", answer.err);
    assert_eq!((answer.code, answer.out.as_str()), (1, ""), "nothing of it is shown");

    let mut lock = scene.read("a.lock");
    lock["roots"][0]["path"] = scene.store.logical("secret").into();
    std::fs::write(scene.at("other.lock"), lock.to_string()).unwrap();
    scene.closure(&["other.lock"]).fails_with("the store does not have");
}

#[test]
fn differences_are_named() {
    let scene = Scene::new();
    scene.lock("a.lock", &[scene.store.path("env-a")]).ok();
    let answer = scene.closure(&["--diff", "a.lock", scene.store.path("env-b")]);
    assert_eq!(answer.code, 1);
    assert!(answer.out.contains(&format!("- {}\n", scene.store.logical("tool"))), "{}", answer.out);
    assert!(answer.out.contains(&format!("+ {}\n", scene.store.logical("data"))), "{}", answer.out);
    assert!(!answer.out.contains(scene.store.path("libc")), "what both have is not named");
    let same = scene.closure(&["--diff", "a.lock", "a.lock", "--json"]);
    assert_eq!(same.code, 0);
    assert_eq!(
        serde_json::from_str::<Value>(&same.out).unwrap(),
        serde_json::json!({"added": [], "removed": []})
    );
    assert_eq!(scene.closure(&["--diff", "a.lock"]).code, 2);
}

#[test]
fn closures_are_shown_in_each_form() {
    let scene = Scene::new();
    let env = scene.store.path("env-a");
    let chain = scene.closure(&[env, "--why", &scene.store.logical("libc")]).ok();
    assert!(chain.lines().next().unwrap().ends_with(env), "{chain}");
    assert!(chain.lines().last().unwrap().ends_with(scene.store.path("libc")), "{chain}");
    // By a name that one member has: with its version, or without.
    for (name, label) in [("left-1.0", "left"), ("top", "top"), ("config.txt", "config")] {
        let by_path = scene.closure(&[env, "--why", &scene.store.logical(label)]).ok();
        assert_eq!(scene.closure(&[env, "--why", name]).ok(), by_path, "{name}");
    }
    scene.closure(&[env, "--why", "no-such-package"]).fails_with("no-such-package");
    let both = scene.closure(&[env, scene.store.path("libc-dev"), "--why", "libc"]);
    both.fails_with("'libc' is the name of 2 paths");
    let absent = scene.closure(&[env, "--why", &scene.store.logical("secret")]);
    assert_eq!((absent.code, absent.out.as_str()), (1, ""));
    let tree = scene.closure(&[env, "--tree"]).ok();
    assert_eq!(tree.lines().filter(|l| l.contains(scene.store.path("right")) && !l.contains('…')).count(), 1);
    assert!(tree.contains("└─ "), "{tree}");
    let value: Value = serde_json::from_str(&scene.closure(&[env, "--json"]).ok()).unwrap();
    assert_eq!(value["count"], 8);
    assert_eq!(value["paths"].as_array().unwrap().len(), 8);
    let summary = scene.closure(&[env, "--summary"]).ok();
    assert!(summary.starts_with("8 paths, ") && summary.contains("sha256-"), "{summary}");
}

#[test]
fn extra_roots_come_with_all_that_they_refer_to() {
    let scene = Scene::new();
    let paths = |closures: &[Vec<String>]| {
        let all: std::collections::BTreeSet<String> = closures.iter().flatten().cloned().collect();
        scene.lines(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let runtime =
        |label: &str| scene.store.closure(label).iter().map(ToString::to_string).collect::<Vec<_>>();
    let build = scene.store.build_closure("left.drv").iter().map(ToString::to_string).collect();
    symlink(scene.store.logical("env-b"), scene.at("result")).unwrap();
    let (extra, other) = ("zz=result", format!("bash={}", scene.store.logical("tool")));
    let extras = ["--extra-root", extra, "--extra-root", &other];

    scene.lock("a.lock", &[&extras[..], &[scene.store.path("env-a")]].concat()).ok();
    let expected = paths(&[runtime("env-a"), runtime("env-b"), runtime("tool")]);
    assert_eq!(scene.closure(&["a.lock"]).ok(), expected);
    let lock = scene.read("a.lock");
    let names: Vec<&str> =
        lock["extraRoots"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bash", "zz"], "sorted by name");
    assert_eq!(lock["extraRoots"][1]["path"], scene.store.logical("env-b").as_str());
    let value: Value = serde_json::from_str(&scene.closure(&["a.lock", "--json", "--summary"]).ok()).unwrap();
    assert_eq!(value["extraRoots"], lock["extraRoots"]);
    assert_eq!(
        (&value["digest"], &value["narSize"]),
        (&lock["closure"]["digest"], &lock["closure"]["narSize"])
    );
    let why = scene.closure(&["a.lock", "--why", &scene.store.logical("data")]).ok();
    assert!(why.lines().next().unwrap().ends_with("-env-b (extra root zz)"), "{why}");
    let why = scene.closure(&["a.lock", "--why", &scene.store.logical("env-a")]).ok();
    assert!(!why.contains("extra root"), "a root is no extra root: {why}");
    assert!(scene.closure(&["a.lock", "--tree"]).ok().contains(scene.store.path("env-b")));
    assert_eq!(scene.closure(&["a.lock", "--extra-root", extra]).code, 2);
    let same = scene.closure(&[&["--diff", "a.lock", scene.store.path("env-a")], &extras[..]].concat());
    assert_eq!(same.code, 2, "a lock has its own");

    // Mode build does not follow the derivations of an extra root, and adds its size.
    let drv = scene.store.logical("left.drv");
    scene.lock("b.lock", &[&extras[..2], &["--mode", "build", &drv]].concat()).ok();
    assert_eq!(scene.closure(&["b.lock"]).ok(), paths(&[build, runtime("env-b")]));
    let sizes = scene.closure(&["b.lock"]).ok();
    let sizes = sizes.lines().map(|path| {
        let label = scene.store.labels().find(|label| scene.store.logical(label) == path).unwrap();
        scene.store.member(label).nar.size
    });
    assert_eq!(scene.read("b.lock")["closure"]["narSize"], sizes.sum::<u64>());
    scene.lock("d.lock", &[&extras[2..], &["--mode", "dev", &drv]].concat()).ok();
    let listed = scene.closure(&["d.lock"]).ok();
    assert!(
        listed.contains(&scene.store.logical("tool")) && listed.contains(&scene.store.logical("libc-dev"))
    );

    let lock = |extras: &[&str]| scene.lock("x.lock", &[extras, &[scene.store.path("env-a")]].concat());
    lock(&["--extra-root", extra, "--extra-root", "zz=result"]).fails_with("given twice");
    lock(&["--extra-root", &format!("x={drv}")]).fails_with("give its output");
    lock(&["--extra-root", "x=none"]).fails_with("no such file");
    lock(&["--extra-root", ".x=result"]).fails_with("not start with a dot");
    lock(&["--extra-root", &format!("x=/nix/store/{}-none", "a".repeat(32))]).fails_with("is not known to");
    for bad in ["x", "=x", "x="] {
        assert_eq!(lock(&["--extra-root", bad]).code, 2, "{bad}");
    }
    assert!(!scene.at("x.lock").exists());
    scene.lock("plain.lock", &[scene.store.path("env-a")]).ok();
    assert!(scene.read("plain.lock").get("extraRoots").is_none());
}

#[test]
fn a_lock_is_written_once_and_not_over_what_it_says_already() {
    let scene = Scene::new();
    let env = scene.store.path("env-a");
    let first: Value =
        serde_json::from_str(&scene.lock("a.lock", &[env, "--json", "--name", "web"]).ok()).unwrap();
    assert_eq!((&first["written"], &first["name"]), (&Value::Bool(true), &Value::from("web")));
    let again: Value =
        serde_json::from_str(&scene.lock("a.lock", &[env, "--json", "--name", "web"]).ok()).unwrap();
    assert_eq!(again["written"], false);
    let printed = scene.lock("-", &[env, "--name", "web"]).ok();
    assert_eq!(printed, std::fs::read_to_string(scene.at("a.lock")).unwrap());
    scene.lock("no/such/dir/a.lock", &[env]).fails_with("no/such/dir/a.lock");
    scene.lock("a.lock", &[env, "--name", "../web"]).fails_with("\"name\"");
    scene.lock("b.lock", &["a.lock"]).fails_with("a lock already");
    scene.lock("b.lock", &["nothing"]).fails_with("FILE.nix#ATTRIBUTE");
    assert_eq!(scene.lock("b.lock", &[env, "--evaluate"]).code, 2);
}

#[test]
fn without_nix_an_expression_says_what_to_do() {
    let scene = Scene::new();
    std::fs::write(scene.at("shell.nix"), "1").unwrap();
    let answer = scene
        .command(&["lock", "--store", scene.store.root().to_str().unwrap(), "shell.nix"])
        .env("PATH", scene.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(answer.stderr).unwrap();
    assert!(said.contains("not on PATH") && said.contains("lock the .drv"), "{said}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let scene = Scene::new();
    let root = scene.store.root().to_str().unwrap();
    let mut child = scene
        .command(&["closure", "--store", root, scene.store.path("env-a")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn caches_are_cleaned() {
    let scene = Scene::new();
    // What is computed of a database that was written to a moment ago is not remembered.
    let stamp = || nixview::store::database::Stamp::take(&scene.store.database()).unwrap();
    let started = std::time::Instant::now();
    while !stamp().is_settled() {
        assert!(started.elapsed().as_secs() < 60, "the database is not written to");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    scene.lock("a.lock", &[scene.store.path("env-a")]).ok();
    let report = |arguments: &[&str]| -> Value {
        serde_json::from_str(&scene.run(&[&["gc", "--json"], arguments].concat()).ok()).unwrap()
    };
    assert_eq!(report(&[])["closures"], 0, "it was just used");
    assert_eq!(report(&["--older-than", "0s", "-n"])["closures"], 1);
    assert_eq!(report(&["--older-than", "0s"])["closures"], 1);
    assert_eq!(report(&["--older-than", "0s"])["closures"], 0);
    assert_eq!(scene.run(&["gc", "--older-than", "soon"]).code, 2);
}

#[test]
fn completions_and_man_pages_are_made() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = scene.run(&["completions", shell]).ok();
        assert!(script.contains("nixview") && script.contains("COMPLETE"), "{shell}: {script}");
    }
    scene.run(&["man", "man1"]).ok();
    let page = std::fs::read_to_string(scene.at("man1/nixview-lock.1")).unwrap();
    assert!(page.contains("realise"), "{page}");
    assert_eq!(scene.run(&["man", "/dev/null/x"]).code, 1);
    assert!(scene.run(&["--help"]).ok().contains("lock"));
    assert_eq!(scene.run(&[]).code, 2);
}

/// The store is never written: not by locking, not by reading its database.
#[test]
fn the_store_stays_as_it_is() {
    fn state(dir: &Path, all: &mut Vec<(PathBuf, std::time::SystemTime)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            all.push((entry.path(), found.modified().unwrap()));
            if found.is_dir() {
                state(&entry.path(), all);
            }
        }
        all.sort();
    }
    let scene = Scene::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    state(scene.store.root(), &mut before);
    scene.lock("a.lock", &[scene.store.path("env-a")]).ok();
    scene.closure(&["a.lock", "--tree"]).ok();
    state(scene.store.root(), &mut after);
    assert_eq!(before, after);
}
