//! Real Nix inside a view: it builds into the view's own store and collects there, and the host sees nothing of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code"
)]

mod scene;

use std::process::Command;

use scene::Scene;

/// A derivation that needs a member of the view, and one that needs that.
fn expression(root: &str) -> String {
    format!(
        r#"let
  env = builtins.storePath {root};
  sh = name: script: more: derivation ({{
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  }} // more);
in rec {{
  one = sh "one" "echo built-for $env > $out" {{ inherit env; }};
  two = sh "two" "mkdir $out; ln -s $one $out/one; cat $one > $out/text" {{ inherit one; }};
}}
"#
    )
}

const SCRIPT: &str = r#"set -eu
export HOME=$DIR NIX_CONF_DIR=$DIR NIX_REMOTE=local
nix-store --load-db < registration
test "$(nix-store -qR $ROOT | sort)" = "$(sort members)"
nix-build --quiet --option sandbox false --option build-users-group '' expression.nix -A two -o result
grep -qx "built-for $ROOT" result/text
nix-store -qR result | grep -qx "$ROOT"
nix-store --verify --check-contents
rm result
nix-collect-garbage --quiet
test -z "$(find /nix/store -maxdepth 1 -name '*-two' -o -maxdepth 1 -name '*-one')"
"#;

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn nix_builds_and_collects_in_a_view_and_the_store_is_as_before() {
    let scene = Scene::new();
    if Command::new("nix-build").arg("--version").output().is_err() {
        eprintln!("skipped: nix-build is not installed");
        return;
    }
    let root = scene.store.logical("env-a");
    let mut dump = Command::new("timeout");
    dump.args(["60", "nix-store", "--dump-db"]);
    dump.env("NIX_REMOTE", format!("local?root={}", scene.store.root().display()));
    let members: Vec<String> =
        scene.store.closure("env-a").iter().map(|name| format!("/nix/store/{name}")).collect();
    let registration = dump.args(&members).output().unwrap();
    assert!(registration.status.success(), "{registration:?}");
    std::fs::write(scene.path("registration"), registration.stdout).unwrap();
    std::fs::write(scene.path("members"), members.join("\n") + "\n").unwrap();
    std::fs::write(scene.path("expression.nix"), expression(&root)).unwrap();
    std::fs::write(scene.path("nix.conf"), "").unwrap();
    let before = scene.store_digest();

    let dir = scene.dir.path().display();
    let script = format!("cd {dir}; DIR={dir} ROOT={root}; {SCRIPT}");
    scene.run("env-a", &["--tmp"], &script).ok();
    assert_eq!(scene.store_digest(), before);
    scene.assert_nothing_left();
}
