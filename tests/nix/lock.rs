//! Locking expressions with real Nix, in a store of the test's own.
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::skip::skip;
use serde_json::Value;

const EXPRESSION: &str = r#"
{ version ? "1" }:
let
  make = name: more: derivation ({
    inherit name version;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    outputs = [ "out" "dev" ];
    args = [ "-c" "echo $version $data > $out; echo $out > $dev" ];
    data = ./data.txt;
  } // more);
in {
  plain = make "plain" { };
  user = make "user" { plain = make "plain" { }; };
  imported = make "imported" { extra = import ./extra.nix; };
  folder = make "folder" { src = ./.; };
  outside = make "outside" { text = builtins.readFile ../outside; };
  env = make "env" { text = builtins.getEnv "SOME_VARIABLE"; };
  searched = make "searched" { text = import <lib>; };
  none = 1;
}
"#;

/// A folder with an expression, a private store, and Nix's settings; all gone at the end.
pub(super) struct Scene {
    dir: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        fn unlock(dir: &Path) {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    unlock(&entry.path());
                }
            }
        }
        unlock(self.dir.path());
    }
}

impl Scene {
    /// `None`, and said, if there is no Nix here.
    pub(super) fn new() -> Option<Self> {
        if Command::new("nix-instantiate").arg("--version").output().is_err() {
            skip!("there is no nix-instantiate");
            return None;
        }
        // Nix builds for a store elsewhere in a root of its own, where only a static shell runs.
        if !Path::new("/bin/busybox").exists() {
            skip!("there is no /bin/busybox (Debian: busybox-static)");
            return None;
        }
        let scene = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["conf", "home", "root", "project"] {
            std::fs::create_dir(scene.at(dir)).unwrap();
        }
        let settings =
            "build-users-group =\nsandbox = true\nsandbox-paths = /bin/sh=/bin/busybox\nsubstitute = false\n";
        std::fs::write(scene.at("conf/nix.conf"), settings).unwrap();
        scene.write("project/shell.nix", EXPRESSION);
        scene.write("project/data.txt", "data");
        scene.write("project/extra.nix", "\"extra\"");
        scene.write("outside", "outside");
        // The first command makes the store.
        scene.nix("nix-store", &["--init"]);
        Some(scene)
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("NIX_CONF_DIR", self.at("conf"))
            .env("NIX_PATH", "")
            .env("HOME", self.at("home"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("NIXVIEW_STATE_DIR", self.at("state"))
            .stdin(Stdio::null());
        command
    }

    /// The lines that a program of Nix answers for the private store.
    pub(super) fn nix(&self, program: &str, arguments: &[&str]) -> Vec<String> {
        let remote = format!("local?root={}", self.at("root").display());
        let output = self.command(program).env("NIX_REMOTE", remote).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        self.command(env!("CARGO_BIN_EXE_nixview"))
            .args(["lock", "--store", "root", "-o", "project/env.lock", "--json"])
            .args(arguments)
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    /// Locks, and builds; how it was evaluated and what standard error said.
    pub(super) fn lock(&self, arguments: &[&str]) -> (String, String) {
        self.lock_in(arguments, &[])
    }

    fn lock_in(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (String, String) {
        let output = self.run(&[&["--realise"], arguments].concat(), environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["evaluation"].as_str().unwrap().to_owned(), said)
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, &[]);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(super) fn locked(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.at("project/env.lock")).unwrap()).unwrap()
    }

    fn git(&self, arguments: &[&str]) {
        let run = self.command("git").arg("-C").arg(self.at("project")).args(arguments).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8(run.stderr).unwrap());
    }
}

fn is(answer: &(String, String), evaluation: &str) {
    assert_eq!(answer.0, evaluation, "{}", answer.1);
}

/// Evaluated each time, with a reason.
fn is_doubtful(answer: &(String, String), why: &str) {
    assert_eq!(answer.0, "evaluated");
    assert!(answer.1.contains("evaluated each time") && answer.1.contains(why), "{}", answer.1);
}

#[test]
#[ignore = "needs Nix"]
fn an_expression_is_evaluated_once_until_something_of_it_changes() {
    let Some(scene) = Scene::new() else { return };
    let plain = "project/shell.nix#plain";
    is(&scene.lock(&[plain]), "evaluated");
    is(&scene.lock(&[plain]), "unchanged");
    let lock = scene.locked();
    let drv = scene.nix("nix-instantiate", &["project/shell.nix", "-A", "plain"]);
    assert_eq!(lock["roots"][0]["drvPath"], drv[0].as_str());
    assert_eq!(lock["roots"].as_array().unwrap().len(), 1, "the default output");
    assert_eq!(lock["source"]["inputs"]["count"], 3, "the lock in the folder is no input of itself");
    scene.write("project/data.txt", "changed");
    is(&scene.lock(&[plain]), "evaluated");
    assert_ne!(scene.locked()["roots"], lock["roots"]);
    is(&scene.lock(&[plain, "--argstr", "version", "2"]), "evaluated");
    is(&scene.lock(&[plain, "--argstr", "version", "2"]), "unchanged");
    is(&scene.lock(&[plain, "--arg", "version", "\"2\""]), "evaluated");
    is(&scene.lock(&[plain, "--evaluate"]), "evaluated");
    is(&scene.lock(&["project/shell.nix#imported"]), "evaluated");
    is(&scene.lock(&["project/shell.nix#imported"]), "unchanged");
    scene.write("project/extra.nix", "\"other\"");
    is(&scene.lock(&["project/shell.nix#imported"]), "evaluated");
    is(&scene.lock_in(&[plain], &[("NIXPKGS_ALLOW_UNFREE", "1")]), "evaluated");
    std::fs::create_dir_all(scene.at("home/.config/nixpkgs")).unwrap();
    scene.write("home/.config/nixpkgs/config.nix", "{ }");
    is(&scene.lock(&[plain]), "evaluated");
}

#[test]
#[ignore = "needs Nix"]
fn what_depends_on_something_outside_is_evaluated_each_time() {
    let Some(scene) = Scene::new() else { return };
    for _ in 0..2 {
        is_doubtful(&scene.lock(&["project/shell.nix#outside"]), "outside");
        let variable = [("SOME_VARIABLE", "set")];
        is_doubtful(&scene.lock_in(&["project/shell.nix#env"], &variable), "environment variable");
        scene.write("lib.nix", "\"lib\"");
        is_doubtful(&scene.lock(&["project/shell.nix#searched", "-I", "lib=lib.nix"]), "lib");
    }
    // What is declared is no longer outside.
    let declared = ["project/shell.nix#outside", "--input", "project", "--input", "outside"];
    is(&scene.lock(&declared), "evaluated");
    is(&scene.lock(&declared), "unchanged");
    scene.write("outside", "changed");
    is(&scene.lock(&declared), "evaluated");
}

#[test]
#[ignore = "needs Nix"]
fn a_search_path_in_the_store_is_recorded_and_trusted() {
    let Some(scene) = Scene::new() else { return };
    scene.write("lib.nix", "\"lib\"");
    let lib = scene.nix("nix-store", &["--add", "lib.nix"]).remove(0);
    let entry = format!("lib={}{lib}", scene.at("root").display());
    let arguments = ["project/shell.nix#searched", "-I", &entry];
    is(&scene.lock(&arguments), "evaluated");
    let lock = scene.locked();
    assert_eq!(lock["source"]["searchPath"], serde_json::json!([{ "path": lib, "prefix": "lib" }]));
    scene.write("lib.nix", "\"other\"");
    let other = scene.nix("nix-store", &["--add", "lib.nix"]).remove(0);
    let entry = format!("lib={}{other}", scene.at("root").display());
    is(&scene.lock(&["project/shell.nix#searched", "-I", &entry]), "evaluated");
    assert_ne!(scene.locked()["roots"], lock["roots"]);
}

/// A lookup that fails reads nothing, and succeeds once the name appears.
#[test]
#[ignore = "needs Nix"]
fn a_name_that_appears_on_the_search_path_is_found() {
    let Some(scene) = Scene::new() else { return };
    for (lookup, entry) in [("<overrides>", "np"), ("<sub/below/overrides>", "sub=np")] {
        std::fs::create_dir_all(scene.at("np/below")).unwrap();
        scene.write(
            "project/looks.nix",
            &format!(
                "derivation {{ name = \"e\"; system = builtins.currentSystem; builder = \"/bin/sh\";
                   args = [ \"-c\" \": > $out\" ]; found = (builtins.tryEval {lookup}).success; }}"
            ),
        );
        let arguments = ["project/looks.nix", "-I", entry];
        is(&scene.lock(&arguments), "evaluated");
        is(&scene.lock(&arguments), "unchanged");
        let before = scene.locked()["roots"].clone();
        scene.write("np/overrides", "");
        scene.write("np/below/overrides", "");
        is(&scene.lock(&arguments), "evaluated");
        assert_ne!(scene.locked()["roots"], before, "{lookup}");
        std::fs::remove_dir_all(scene.at("np")).unwrap();
    }
}

#[test]
#[ignore = "needs Nix"]
fn in_a_work_tree_what_git_tracks_decides() {
    let Some(scene) = Scene::new() else { return };
    if Command::new("git").arg("--version").output().is_err() {
        skip!("there is no git");
        return;
    }
    scene.git(&["init", "-q"]);
    scene.git(&["add", "shell.nix", "data.txt"]);
    let plain = "project/shell.nix#plain";
    is(&scene.lock(&[plain]), "evaluated");
    assert_eq!(scene.locked()["source"]["inputs"]["from"], "git");
    scene.write("project/untracked", "x");
    is(&scene.lock(&[plain]), "evaluated");
    is(&scene.lock(&[plain]), "unchanged");
    scene.write("project/data.txt", "uncommitted");
    is(&scene.lock(&[plain]), "evaluated");
    // Files that git does not track, and that the expression reads all the same.
    is_doubtful(&scene.lock(&["project/shell.nix#imported"]), "extra.nix");
    is_doubtful(&scene.lock(&["project/shell.nix#folder"]), "outside its inputs");
    scene.git(&["add", "extra.nix"]);
    is(&scene.lock(&["project/shell.nix#imported"]), "evaluated");
    is(&scene.lock(&["project/shell.nix#imported"]), "unchanged");
}

/// What is absent, and what is listed, decides too: after each change the lock has what Nix evaluates to now.
#[test]
#[ignore = "needs Nix"]
fn what_was_absent_and_what_is_listed_decides() {
    let Some(scene) = Scene::new() else { return };
    let has_git = Command::new("git").arg("--version").output().is_ok();
    if !has_git {
        skip!("there is no git (the part in a work tree)");
    }
    let make = |text: &str| {
        format!(
            "derivation {{ name = \"e\"; system = builtins.currentSystem; builder = \"/bin/sh\";
               args = [ \"-c\" \": > $out\" ]; text = {text}; }}"
        )
    };
    let expressions = [
        ("local", "if builtins.pathExists ./local.nix then import ./local.nix else \"none\""),
        ("listed", "builtins.toJSON (builtins.readDir ./.)"),
        ("below", "builtins.toJSON (builtins.readDir ./sub)"),
        ("copied", "\"${./.}\""),
        ("above", "if builtins.pathExists ../above.nix then \"there\" else \"none\""),
        ("computed", "if builtins.pathExists (./. + \"/../above.nix\") then \"there\" else \"none\""),
        ("filtered", "\"${builtins.path { path = ./sub; name = \"x\"; filter = _: _: true; }}\""),
    ];
    for work_tree in [false, true] {
        if work_tree && !has_git {
            continue;
        }
        for (name, text) in expressions {
            let dir = format!("project/{name}{}", u8::from(work_tree));
            std::fs::create_dir_all(scene.at(&format!("{dir}/env/sub"))).unwrap();
            let file = format!("{dir}/env/default.nix");
            scene.write(&file, &make(text));
            scene.write(&format!("{dir}/env/sub/a"), "");
            if work_tree {
                for arguments in [&["init", "-q"][..], &["add", "-A"]] {
                    let git =
                        scene.command("git").arg("-C").arg(scene.at(&dir)).args(arguments).output().unwrap();
                    assert!(git.status.success());
                }
            }
            let same = |what: &str| {
                // Nothing need be built for this mode.
                let locked = scene.run(&["--mode", "build", &file], &[]);
                assert!(locked.status.success(), "{}", String::from_utf8(locked.stderr).unwrap());
                let evaluated = scene.nix("nix-instantiate", &[&file]);
                let locked = scene.locked()["roots"][0]["path"].clone();
                assert_eq!(locked, evaluated[0].as_str(), "{name} in a work tree ({work_tree}): {what}");
            };
            same("at first");
            if matches!(name, "local" | "listed" | "below" | "above" | "filtered") {
                let again = scene.run(&["--mode", "build", &file], &[]);
                let report: Value = serde_json::from_slice(&again.stdout).unwrap();
                assert_eq!(report["evaluation"], "unchanged", "{}", String::from_utf8(again.stderr).unwrap());
            }
            scene.write(&format!("{dir}/env/local.nix"), "\"local\"");
            same("a file appears");
            scene.write(&format!("{dir}/env/local.nix"), "\"other\"");
            same("it is changed");
            scene.write(&format!("{dir}/env/sub/b"), "");
            same("a file below");
            std::fs::create_dir(scene.at(&format!("{dir}/env/sub/empty"))).unwrap();
            same("an empty directory");
            scene.write(&format!("{dir}/above.nix"), "");
            same("a file above");
            std::fs::remove_file(scene.at(&format!("{dir}/above.nix"))).unwrap();
            std::fs::remove_file(scene.at(&format!("{dir}/env/local.nix"))).unwrap();
            std::fs::remove_dir(scene.at(&format!("{dir}/env/sub/empty"))).unwrap();
            same("all as at first");
        }
    }
    // An entry of the search path that was not there is passed over.
    scene.write("lib.nix", "\"first\"");
    let lib = scene.nix("nix-store", &["--add", "lib.nix"]).remove(0);
    let entry = format!("lib={}{lib}", scene.at("root").display());
    std::fs::create_dir(scene.at("other")).unwrap();
    scene.write("other/shell.nix", EXPRESSION);
    scene.write("other/data.txt", "data");
    let searched = ["other/shell.nix#searched", "-I", "lib=early.nix", "-I", &entry];
    scene.lock(&searched);
    let before = scene.locked();
    scene.write("early.nix", "\"second\"");
    scene.lock(&searched);
    assert_ne!(scene.locked()["roots"], before["roots"]);
}

const WITHOUT_A_RECORD: &str = r#"
let make = name: script: more: derivation ({
  inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
} // more);
in rec {
  vendor = make "vendor" "echo $l > $out" { l = builtins.toFile "Cargo.lock" "version = 3"; };
  chain = make "chain" "echo $f > $out" { f = builtins.toFile "two" "see ${builtins.toFile "one" "1"}"; };
  dot = make "dot" "echo $f > $out" { f = builtins.toFile ".envrc" "use nix"; };
  dep = make "dep" "echo 1 > $out" { };
  plain = make "plain" "echo $dep > $out" { inherit dep; };
  ca = make "ca" "echo $dep > $out" {
    inherit dep; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  };
  onca = make "onca" "echo $ca > $out" { inherit ca; };
}
"#;

/// The same store without its database has the closures of Nix, found in the files.
#[test]
#[ignore = "needs Nix"]
fn a_store_without_a_database_has_the_closures_of_nix() {
    let Some(scene) = Scene::new() else { return };
    scene.write("e.nix", WITHOUT_A_RECORD);
    let settings = std::fs::read_to_string(scene.at("conf/nix.conf")).unwrap();
    scene.write("conf/nix.conf", &format!("{settings}experimental-features = ca-derivations nix-command\n"));
    let all = ["vendor", "chain", "dot", "plain", "onca"];
    let paths = |name: &str| {
        let drv = scene.nix("nix-instantiate", &["e.nix", "-A", name]).remove(0);
        (scene.nix("nix-store", &["--realise", &drv]).remove(0), drv)
    };
    let built: Vec<(String, String)> = all.iter().map(|name| paths(name)).collect();
    // Something that is in no closure, and something that names everything.
    scene.write("stranger", "");
    scene.nix("nix-store", &["--add", "stranger"]);
    scene.write("notes", &built.iter().map(|(out, drv)| format!("{out} {drv}\n")).collect::<String>());
    scene.nix("nix-store", &["--add", "notes"]);
    std::fs::create_dir_all(scene.at("bare/nix")).unwrap();
    let copied = scene.command("cp").args(["-a", "root/nix/store", "bare/nix/store"]).status().unwrap();
    assert!(copied.success());
    // A derivation that is none, in the way of nobody.
    scene.write("bare/nix/store/00000000000000000000000000000000-odd.drv", "Derive(");
    let shown = |mode: &str, path: &str| {
        let told = scene
            .command(env!("CARGO_BIN_EXE_nixview"))
            .args(["closure", "--store", "bare", "--mode", mode, path])
            .output()
            .unwrap();
        assert!(told.status.success(), "{}", String::from_utf8(told.stderr).unwrap());
        String::from_utf8(told.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (name, (out, drv)) in all.iter().zip(&built) {
        let mut expected = scene.nix("nix-store", &["-qR", out]);
        expected.sort();
        assert_eq!(shown("runtime", out), expected, "{name}");
        // Nix 2.8 does not follow content-addressed outputs here; they are found by their names.
        let mut expected = scene.nix("nix-store", &["-qR", "--include-outputs", drv]);
        expected.sort();
        let told = shown("build", drv);
        assert!(expected.iter().all(|path| told.contains(path)), "{name} to build: {told:?}");
        assert!(told == expected || *name == "onca", "{name} to build");
        assert!(told.contains(out), "{name} to build");
    }
}

#[test]
#[ignore = "needs Nix"]
fn what_was_collected_is_made_again() {
    let Some(scene) = Scene::new() else { return };
    let plain = "project/shell.nix#plain";
    is(&scene.lock(&[plain]), "evaluated");
    let before = scene.locked();
    scene.nix("nix-store", &["--gc"]);
    assert!(scene.fails(&["project/env.lock"]).contains("lock already"));
    is(&scene.lock(&[plain]), "evaluated");
    assert_eq!(scene.locked(), before, "the same lock, byte for byte");
}

#[test]
#[ignore = "needs Nix"]
fn the_closure_is_what_nix_says_in_each_mode() {
    let Some(scene) = Scene::new() else { return };
    let user = "project/shell.nix#user";
    let drv = scene.nix("nix-instantiate", &["project/shell.nix", "-A", "user"]).remove(0);
    let input = scene.nix("nix-instantiate", &["project/shell.nix", "-A", "plain"]).remove(0);
    assert!(scene.fails(&[user]).contains("--realise"));
    let shown = || {
        let output = scene
            .command(env!("CARGO_BIN_EXE_nixview"))
            .args(["closure", "--store", "root", "project/env.lock"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    // Developing needs what it is built from and does not build it.
    scene.lock(&["--mode", "dev", user]);
    let used = scene.nix("nix-store", &["-q", "--outputs", &input]);
    let out = used.iter().find(|path| !path.ends_with("-dev")).unwrap();
    let sources: Vec<String> = scene.nix("nix-store", &["-q", "--references", &drv]);
    let sources = sources.iter().filter(|path| !path.ends_with(".drv"));
    let roots: Vec<&str> = ["-qR", out].into_iter().chain(sources.map(String::as_str)).collect();
    assert_eq!(shown(), sorted(scene.nix("nix-store", &roots)));
    assert!(scene.fails(&[user]).contains("not built"));

    scene.lock(&[user]);
    let out = scene.nix("nix-store", &["-q", "--outputs", &drv]);
    let out = out.iter().find(|path| !path.ends_with("-dev")).unwrap();
    assert_eq!(shown(), sorted(scene.nix("nix-store", &["-qR", out])));

    scene.lock(&["--mode", "build", user]);
    assert_eq!(shown(), sorted(scene.nix("nix-store", &["-qR", "--include-outputs", &drv])));
}

#[test]
#[ignore = "needs Nix"]
fn extra_roots_give_what_nix_says_of_roots_and_extra_roots_together() {
    let Some(scene) = Scene::new() else { return };
    let plain = scene.nix("nix-instantiate", &["project/shell.nix", "-A", "plain"]).remove(0);
    let user = scene.nix("nix-instantiate", &["project/shell.nix", "-A", "user"]).remove(0);
    scene.nix("nix-store", &["--realise", &plain, &user]);
    let out = |drv: &str| scene.nix("nix-store", &["-q", "--binding", "out", drv]).remove(0);
    let (plain_out, user_out) = (out(&plain), out(&user));
    // One extra root refers to a derivation, whose outputs are valid: they belong to no runtime closure.
    let text = format!(
        "builtins.toFile \"with-drv\" (builtins.unsafeDiscardOutputDependency {}.drvPath)",
        "(import ./project/shell.nix { }).user"
    );
    let with_drv =
        scene.nix("nix-instantiate", &["--eval", "--read-write-mode", "-I", ".", "-E", &text]).remove(0);
    let with_drv = with_drv.trim_matches('"').to_owned();
    assert_eq!(scene.nix("nix-store", &["-q", "--references", &with_drv]), [user.as_str()]);
    let digest = |queries: &[&[&str]]| {
        let mut all: Vec<String> = queries.iter().flat_map(|query| scene.nix("nix-store", query)).collect();
        all.sort();
        all.dedup();
        let text: String = all.iter().map(|path| format!("{}\n", path.rsplit_once('/').unwrap().1)).collect();
        (nixview::lock::Digest::of(text.as_bytes()).to_string(), all.len() as u64)
    };
    let extra = [format!("a={plain_out}"), format!("b={with_drv}"), format!("c={user_out}")];
    let arguments = |mode: &'static str, source: &str| -> Vec<String> {
        let extra = extra.iter().flat_map(|extra| ["--extra-root", extra.as_str()]);
        extra.chain(["--mode", mode, source]).map(str::to_owned).collect()
    };
    let qr = ["-qR", &plain_out, &with_drv, &user_out];
    let sources: Vec<String> = scene.nix("nix-store", &["-q", "--references", &user]);
    let sources = sources.iter().filter(|path| !path.ends_with(".drv")).map(String::as_str);
    let dev: Vec<&str> = ["-qR", &plain_out].into_iter().chain(sources).collect();
    let plain_dev = scene.nix("nix-store", &["-q", "--binding", "dev", &plain]).remove(0);
    for (mode, source, own) in [
        ("runtime", format!("{plain}^dev"), vec!["-qR", plain_dev.as_str()]),
        ("build", user.clone(), vec!["-qR", "--include-outputs", user.as_str()]),
        ("dev", user.clone(), dev),
    ] {
        let own = digest(&[&qr, &own]);
        let arguments = arguments(mode, &source);
        scene.lock(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let closure = &scene.locked()["closure"];
        assert_eq!(
            (closure["digest"].as_str().unwrap(), closure["count"].as_u64().unwrap()),
            (own.0.as_str(), own.1),
            "{mode}"
        );
    }
}

#[test]
#[ignore = "needs Nix"]
fn an_evaluation_that_fails_says_what_nix_said() {
    let Some(scene) = Scene::new() else { return };
    assert!(scene.fails(&["project/shell.nix#missing"]).contains("attribute 'missing'"));
    scene.write("project/broken.nix", "{");
    assert!(scene.fails(&["project/broken.nix"]).contains("syntax error"));
    assert!(scene.fails(&["project/shell.nix#none"]).contains("nixview: cannot lock"));
    assert!(!scene.at("project/env.lock").exists());
}
