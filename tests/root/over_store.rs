//! Views over the directory that their store is in: neither keeper nor server may wait for the view itself.

use std::fs;
use std::path::Path;

use crate::support::scene::{Scene, kill};
use crate::support::strace;
use crate::support::wait::{PATIENCE, eventually};

/// The paths that processes gave to the kernel, out of the output of strace(1); the contents of symbolic links are none.
fn paths(strace: &str) -> Vec<String> {
    let calls = strace.lines().filter(|line| !line.contains("symlink"));
    let texts = calls.flat_map(|line| line.split('"').skip(1).step_by(2));
    texts.filter(|text| text.starts_with('/')).map(str::to_owned).collect()
}

/// Looks at all that a view shows, and changes it; with a server of before, which was killed.
fn use_all_of(scene: &Scene, view: &str) {
    let hello = format!("{view}/store/{}/bin/hello", scene.store.path("left"));
    let looked = scene
        .shell(&format!(
            "ls {view}/store | wc -l; cat {view}/var/nix/db/schema; ls -laR {view}/var/nix >/dev/null; cat {hello} >/dev/null"
        ))
        .ok();
    assert_eq!(looked.out, format!("{}\n10", scene.store.closure("env-a").len()));
    scene
        .shell(&format!(
            "echo '# changed' >>{hello}; mkdir {view}/new; mv {hello} {view}/new/; rm {view}/new/*"
        ))
        .ok();
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_view_over_its_store_opens_no_path_below_itself() {
    for io in ["passthrough", "cached"] {
        let scene = Scene::new();
        let view = scene.path("s/nix");
        let trace = view.join("web.trace");
        let options = ["--name", "web", "--tmp", "--io", io, "--trace", trace.to_str().unwrap()];
        scene.mount("env-a", "s/nix", &options).ok();
        let (keeper, server) = (scene.keeper("web"), scene.server("web"));
        let calls = scene.path("strace");
        let watching = strace::paths(&[keeper, server], &calls);
        // The first look is the second server's.
        kill(server);
        use_all_of(&scene, "s/nix");
        let status = scene.status("web");
        assert_eq!((status["state"].as_str(), status["restarts"].as_u64()), (Some("mounted"), Some(1)));
        // What the view hides is not compared with the view.
        scene.nixview(&["diff", "web"]).failed(1, &["is hidden here by the view on"]);
        // The roots that it shows are no old ones of the host's.
        let root = scene.store.root().to_str().unwrap();
        assert_eq!(scene.nixview(&["gc", "--store", root]).ok().err, "");
        scene.nixview(&["umount", view.to_str().unwrap()]).ok();
        eventually("the keeper ends", PATIENCE, || scene.processes().is_empty());
        strace::end(watching);
        let calls = fs::read_to_string(calls).unwrap();
        assert!(calls.contains("db.sqlite"), "the look was watched: {calls}");
        let used = paths(&calls);
        let below: Vec<_> = used
            .iter()
            .filter(|path| Path::new(path).starts_with(&view) && Path::new(path) != view.as_path())
            .collect();
        assert!(below.is_empty(), "{below:#?}");
        scene.assert_nothing_left();
        let traced = fs::read_to_string(&trace).unwrap();
        assert!(traced.contains("bin/hello") && traced.contains("until"), "{traced}");
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_that_is_bound_over_its_store_later_serves_on() {
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    scene.shell("mount --bind a s/nix").ok();
    kill(scene.server("web"));
    use_all_of(&scene, "s/nix");
    scene.shell("umount s/nix && umount a").ok();
    eventually("the keeper ends", PATIENCE, || scene.processes().is_empty());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_over_its_store_is_ended_by_the_server_alone() {
    let scene = Scene::on("fuse");
    scene.mount("env-a", "s/nix", &["--name", "web", "--tmp"]).ok();
    kill(scene.keeper("web"));
    use_all_of(&scene, "s/nix");
    scene.shell("umount s/nix").ok();
    eventually("the server ends", PATIENCE, || scene.processes().is_empty());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_dead_view_over_its_store_is_taken_away_with_its_roots() {
    let scene = Scene::on("fuse");
    scene.mount("env-a", "s/nix", &["--name", "web", "--tmp"]).ok();
    use_all_of(&scene, "s/nix");
    scene.kill_view("web");
    scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_is_not_mounted_on_what_it_would_hide() {
    let scene = Scene::new();
    scene.mount("env-a", "a", &["--name", "first", "--tmp"]).ok();
    for (target, why) in [
        ("s/nix/store", "it is the directory of the store, which the view would hide"),
        ("s/nix/var/nix", "it is the directory of Nix's state"),
        ("state", "it is the directory of nixview's state"),
        ("run", "it is the directory of nixview's runtime state"),
        ("run/views", "it is in the directory of nixview's runtime state"),
        (".", "the directory of nixview's state"),
    ] {
        scene.mount("env-a", target, &["--name", "web", "--tmp"]).failed(1, &["cannot mount on", why]);
    }
    scene.nixview(&["umount", "first"]).ok();
    scene.assert_nothing_left();
}
