//! What keeper and server report, and where it is when they are gone.

use std::process::Stdio;

use crate::support::scene::{Ran, Scene, alone, kill, ran};
use crate::support::strace::wait_until;

/// The lines of a view's log: process, level and message.
fn lines(scene: &Scene, name: &str) -> Vec<(String, String, String)> {
    let told = scene.nixview(&["logs", "--json", name]).ok().out;
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        assert!(text("time").ends_with('Z') && line["pid"].as_u64().is_some(), "{line}");
        (text("process"), text("level"), text("message"))
    };
    told.lines().map(line).collect()
}

#[track_caller]
fn assert_told(lines: &[(String, String, String)], process: &str, level: &str, message: &str) {
    let told = lines.iter().any(|(p, l, m)| p == process && l == level && m.contains(message));
    assert!(told, "{process} does not tell at level {level}: {message:?} is not in {lines:#?}");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn why_a_server_died_is_in_status_and_log_and_the_log_outlives_the_view() {
    alone();
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    let follower = scene.command().args(["logs", "--follow", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    kill(scene.server("web"));
    scene.shell("ls a/store").ok();
    let status = scene.status("web");
    assert_eq!(status["restarts"], 1);
    let [last] = status["lastRestarts"].as_array().unwrap().as_slice() else { panic!("{status}") };
    assert_eq!(last["reason"], "was killed by signal 9 (SIGKILL)");
    assert!(last["time"].as_u64().unwrap() >= status["since"].as_u64().unwrap());
    let told = scene.nixview(&["status"]).ok().out;
    assert!(
        told.contains("started again 1 time") && told.contains("(SIGKILL); see 'nixview logs web'"),
        "{told}"
    );
    // By the directory, too.
    let by_path = scene.nixview(&["logs", scene.path("a").to_str().unwrap()]).ok().out;
    assert_eq!(by_path, scene.nixview(&["logs", "web"]).ok().out);
    scene.nixview(&["umount", "web"]).ok();
    let followed: Ran = ran(follower.wait_with_output().unwrap()).ok();
    scene.assert_nothing_left();

    let log = lines(&scene, "web");
    assert_told(&log, "keeper", "info", &format!("place={}", scene.path("a").display()));
    assert_told(&log, "keeper", "warn", "was killed by signal 9 (SIGKILL); it is started again");
    assert_told(&log, "keeper", "info", "the view has ended");
    // The follower printed all of it, and ended with the view.
    assert_eq!(followed.out, scene.nixview(&["logs", "web"]).ok().out);
    let last = scene.nixview(&["logs", "-n", "1", "web"]).ok().out;
    assert!(last.lines().count() == 1 && last.contains("the view has ended"), "{last}");

    // The next view of this name goes on in it, and it goes when it is old.
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    scene.nixview(&["gc", "--older-than", "0s"]).ok();
    assert!(lines(&scene, "web").len() > log.len(), "the log of a live view stays");
    scene.nixview(&["umount", "web"]).ok();
    assert!(scene.nixview(&["gc", "--older-than", "1h"]).ok().out.contains("0 logs"));
    assert!(scene.nixview(&["gc", "--older-than", "0s"]).ok().out.contains("1 log "));
    scene.nixview(&["logs", "web"]).failed(1, &["there is no log of a view named 'web'", "hint: "]);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_is_asked_for_with_v_reaches_the_server() {
    alone();
    let scene = Scene::on("fuse");
    let told = scene.mount("env-a", "a", &["-v", "--name", "quiet", "--tmp"]).ok();
    assert!(told.err.contains("the view can be used"), "-v says what is done: {told:?}");
    scene.mount("env-a", "b", &["-vv", "--name", "loud", "--tmp"]).ok();
    // The second server of a view has the level, too.
    for name in ["quiet", "loud"] {
        kill(scene.server(name));
    }
    scene.shell("ls a/store b/store").ok();
    wait_until("the second server says that it is connected", || {
        lines(&scene, "loud")
            .iter()
            .filter(|(process, level, _)| process == "server" && level == "debug")
            .count()
            > 1
    });
    let quiet = lines(&scene, "quiet");
    assert!(quiet.iter().all(|(_, level, _)| level != "debug"), "{quiet:?}");
    for name in ["quiet", "loud"] {
        scene.nixview(&["umount", name]).ok();
    }
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_server_without_a_keeper_tells_it_and_a_command_leaves_no_log() {
    alone();
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    kill(scene.keeper("web"));
    wait_until("the server goes on alone", || scene.keeper("web") == scene.server("web"));
    scene.nixview(&["umount", "web"]).ok();
    let log = lines(&scene, "web");
    assert_told(&log, "server", "warn", "the keeper is dead");
    assert_told(&log, "server", "info", "the view has ended");

    scene.nixview(&["gc", "--older-than", "0s"]).ok();
    scene.run("env-a", &[], "true").ok();
    scene.run("env-a", &[], "exit 3").failed(3, &[]);
    assert_eq!(scene.names("state/logs"), [""; 0], "nothing happened that is worth a log");
    // What did not become a view is in no state, but says why.
    scene
        .mount("env-a", "a", &["--name", "web", "--trace", "/no/such/dir/t"])
        .failed(1, &["cannot write the trace"]);
    assert_told(&lines(&scene, "web"), "keeper", "error", "cannot write the trace /no/such/dir/t");
    scene.assert_nothing_left();
}
