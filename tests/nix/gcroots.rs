//! Real Nix's collector and the roots of mounted views, in a store of the test's own.

use std::process::Command;

use crate::support::scene::{Ran, Scene, ran};
use crate::support::skip::skip;

/// Real Nix on the scene's store; nothing where it is not installed.
pub(crate) fn nix(scene: &Scene, program: &str, arguments: &[&str]) -> Option<Ran> {
    let remote = format!("local?root={}", scene.store.root().display());
    let mut command = Command::new("timeout");
    command.args(["120", program]).args(arguments).env("NIX_REMOTE", remote);
    if Command::new(program).arg("--version").output().is_err() {
        skip!("{program} is not installed");
        return None;
    }
    Some(ran(command.output().unwrap()))
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn members_survive_a_collection_while_they_are_mounted_and_go_afterwards() {
    let scene = Scene::new();
    let Some(none) = nix(&scene, "nix-store", &["--gc", "--print-roots"]) else { return };
    assert!(!none.ok().out.contains("nixview"));
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    let roots = nix(&scene, "nix-store", &["--gc", "--print-roots"]).unwrap().ok().out;
    assert!(
        roots.contains("gcroots/nixview/web-") && roots.contains(&scene.store.logical("env-a")),
        "{roots}"
    );

    nix(&scene, "nix-store", &["--gc"]).unwrap().ok();
    // Nix keeps the derivations that members were built from as well (keep-derivations).
    let left = scene.names("s/nix/store");
    for member in scene.store.closure("env-a") {
        assert!(left.iter().any(|name| name == member), "{member} was collected");
    }
    for other in ["env-b", "data", "secret"] {
        assert!(!left.iter().any(|name| name == scene.store.path(other)), "{other} was not collected");
    }
    let libc = scene.store.path("libc");
    scene.shell(&format!("cat a/store/{libc}/lib/libc.so.1")).ok();
    // A view of what is gone is refused, by name, and leaves nothing.
    scene.mount("env-b", "b", &["--name", "two", "--tmp"]).failed(1, &["env-b"]);

    scene.nixview(&["umount", "web"]).ok();
    nix(&scene, "nix-store", &["--gc"]).unwrap().ok();
    let mut left = scene.names("s/nix/store");
    left.retain(|name| !name.starts_with('.'));
    assert_eq!(left, Vec::<String>::new());
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).failed(1, &["env-a"]);
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn build_closures_are_kept_whole() {
    let scene = Scene::new();
    scene.lock_in("env-a.drv", nixview::closure::Mode::Build);
    scene.mount("env-a.drv", "a", &["--name", "web", "--tmp"]).ok();
    let Some(collected) = nix(&scene, "nix-store", &["--gc"]) else { return };
    collected.ok();
    let left = scene.names("s/nix/store");
    let members = scene.store.build_closure("env-a.drv");
    assert!(members.contains(&scene.store.path("env-a")));
    for member in members {
        assert!(left.iter().any(|name| name == member), "{member} was collected");
    }
    assert!(!left.iter().any(|name| name == scene.store.path("secret")));
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn extra_roots_are_shown_told_and_survive_a_collection() {
    let scene = Scene::new();
    let store = scene.store.root().display().to_string();
    let file = scene.path("extra.lock").display().to_string();
    let extra = format!("data={}", scene.store.logical("data"));
    let env = scene.store.path("env-a");
    scene.nixview(&["lock", "--store", &store, "-o", &file, "--extra-root", &extra, env]).ok();
    scene.mount("extra", "a", &["--name", "extra", "--tmp"]).ok();
    let status = scene.nixview(&["status", "--json", "extra"]).ok().out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let expected = serde_json::json!([{ "name": "data", "path": scene.store.logical("data") }]);
    assert_eq!(status[0]["extraRoots"], expected);
    let status = scene.nixview(&["status"]).ok().out;
    assert!(status.contains(" (with data)"), "{status}");
    if let Some(collected) = nix(&scene, "nix-store", &["--gc"]) {
        collected.ok();
    }
    scene.shell(&format!("ls a/store/{} a/store/{env}", scene.store.path("data"))).ok();
    scene.nixview(&["umount", "extra"]).ok();
    scene.assert_nothing_left();
}

/// A store at /nix in a mount namespace of the test's own, with nix-daemon, and a view of a user who can write neither.
#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn the_daemon_holds_the_roots_of_a_user_as_long_as_the_view_is_there() {
    for program in ["nix-daemon", "nix-store", "busybox"] {
        if Command::new(program).arg("--help").output().is_err() {
            skip!("{program} is not installed");
            return;
        }
    }
    let dir = tempfile::Builder::new().prefix("nv").tempdir_in("/tmp").unwrap();
    let script = r#"
        mount --bind "$D/nix" /nix; cd "$D"; unset NIX_REMOTE; export NIX_CONF_DIR=$D/conf
        cp -a /dev/fuse fuse && chmod 666 fuse && mount --bind fuse /dev/fuse
        mkdir -p hello/bin && cp "$(command -v busybox)" hello/bin/sh
        p=$(nix-store --add hello) && chmod -R a+rX /nix
        nix-daemon >daemon.log 2>&1 & daemon=$!
        until [ -S /nix/var/nix/daemon-socket/socket ]; do sleep 0.05; done
        # Of a process that ends while it looks, Nix makes an error.
        tries() { for _ in $(seq 50); do "$@" && return; sleep 0.1; done; return 1; }
        held() { nix-store --gc --print-roots 2>/dev/null | grep -q "^{temp:.*$p"; }
        nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$D/user" "$D/nixview" \
            --state-dir "$D/user/state" --runtime-dir "$D/user/run" "$@"; }
        nobody lock "$p" -o user/hello.lock >/dev/null 2>&1
        mkfifo user/begun user/end; chmod 666 user/begun user/end
        nobody run --require-gc-roots --closure user/hello.lock -- sh -c "echo begun >user/begun; read line <user/end" 2>said &
        view=$!
        read line <user/begun; echo "$line"
        tries held && echo held
        echo end >user/end; wait $view; echo "ended $?"; cat said
        tries nix-store --delete "$p" >/dev/null 2>&1; test -e "$p" || echo deleted
        nix-store --add hello >/dev/null; chmod -R a+rX /nix; kill $daemon; wait $daemon
        nobody run --closure user/hello.lock -- sh -c : 2>&1 | grep -o "is not safe from Nix's garbage collector\|--add-root\|nix-daemon\|--no-gc-warning"
        nobody run --no-gc-warning --closure user/hello.lock -- sh -c : 2>&1
        NIXVIEW_NO_GC_WARNING=1 nobody run --closure user/hello.lock -- sh -c : 2>&1
        NIXVIEW_NO_GC_WARNING= nobody run --no-gc-warning --closure user/hello.lock -- sh -c : 2>&1
        NIXVIEW_NO_GC_WARNING=1 nobody run --require-gc-roots --closure user/hello.lock -- sh -c : >/dev/null 2>&1; echo "required $?"
        mkdir user/m; chown 65534 user/m
        setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$D/user" PATH=/nonexistent "$D/nixview" --state-dir "$D/user/state" \
            --runtime-dir "$D/user/run" mount --closure user/hello.lock user/m 2>&1 | grep -o 'install the package fuse3'
    "#;
    for below in ["nix", "conf", "user"] {
        std::fs::create_dir(dir.path().join(below)).unwrap();
    }
    std::fs::write(dir.path().join("conf/nix.conf"), "build-users-group =\nallowed-users = *\n").unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_nixview"), dir.path().join("nixview")).unwrap();
    let prepare = "chmod 755 . nixview && chown 65534:65534 user";
    assert!(Command::new("sh").args(["-c", prepare]).current_dir(dir.path()).status().unwrap().success());
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120", "unshare", "--mount", "--propagation", "private", "bash", "-c", script]);
    let ran = ran(command.env("D", dir.path()).output().unwrap());
    let want = "begun\nheld\nended 0\ndeleted\nis not safe from Nix's garbage collector\nnix-daemon\n--add-root\n--no-gc-warning\n\
                required 1\ninstall the package fuse3\n";
    assert_eq!(ran.out, want, "{ran:?}");
}
