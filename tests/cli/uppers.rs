//! `nixview upper` and `status` without a mounted view.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::changed::Changed;
use crate::support::scene::Scene;
use crate::support::skip::skip;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Makes an upper one that was last used so long ago.
fn age(changed: &Changed, days: u64) {
    let lock = fs::File::options().write(true).open(changed.upper.join("lock")).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(days * 86400 + 60)).unwrap();
}

#[test]
fn a_list_tells_what_an_upper_takes_since_when_and_for_which_environment() {
    let mut changed = Changed::new("env-b", "web");
    changed.create("store/big", &[1; 100_000]);
    age(&changed, 3);
    let listed = changed.nixview(&["upper", "list"]).ok().out;
    let row = listed.lines().find(|line| line.contains("uppers/web")).unwrap();
    for part in ["env-b", "3 d ago", "KiB", "web"] {
        assert!(row.contains(part), "{part}: {listed}");
    }
    let value = json(&changed.nixview(&["upper", "list", "--json"]).ok().out);
    let upper = &value[0];
    let du = changed.scene.shell("du -sB1 state/uppers/web/tree/nix/store").ok().out;
    let du: u64 = du.split('\t').next().unwrap().parse().unwrap();
    // `tree/nix`, whose own blocks are not counted, holds `store` alone.
    assert_eq!(upper["space"], serde_json::json!({"bytes": du, "objects": 2, "whole": true}));
    assert_eq!(upper["lock"]["name"], "env-b");
    assert!(upper["lock"]["digest"].as_str().unwrap().starts_with("sha256-"), "{value}");
    let ago = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        - upper["used"].as_u64().unwrap();
    assert!((3 * 86400..3 * 86400 + 3600).contains(&ago), "{ago}");
}

#[test]
fn a_prune_removes_what_is_unused_for_long_and_nothing_else() {
    let changed = Changed::new("env-b", "web");
    let young = Changed {
        upper: changed.upper.with_file_name("young"),
        scene: changed.scene,
        label: "env-b".to_owned(),
    };
    drop(young.hold());
    young.settle();
    let changed = Changed { upper: young.upper.with_file_name("web"), ..young };
    age(&changed, 40);
    let path = changed.upper.to_str().unwrap();
    let dry = changed.nixview(&["upper", "prune", "--dry-run"]).ok().out;
    assert_eq!(dry, format!("would remove {path}\n"));
    changed.nixview(&["upper", "prune"]).failed(2, &["--yes", "--dry-run"]);
    assert!(changed.upper.exists());
    assert_eq!(
        changed.nixview(&["upper", "prune", "--older-than", "60d", "--yes"]).ok().out,
        "removed nothing\n"
    );
    // One that is held is used, however long ago that began.
    let held = changed.hold();
    age(&changed, 40);
    assert_eq!(changed.nixview(&["upper", "prune", "--yes"]).ok().out, "removed nothing\n");
    drop(held);
    changed.settle();
    // It was used until now.
    assert_eq!(changed.nixview(&["upper", "prune", "--yes"]).ok().out, "removed nothing\n");
    age(&changed, 40);
    let removed = json(&changed.nixview(&["upper", "prune", "--yes", "--json"]).ok().out);
    assert_eq!(removed, serde_json::json!({"dryRun": false, "removed": [path]}));
    assert_eq!(changed.scene.names("state/uppers"), ["young"]);
}

#[test]
fn where_there_is_nothing_that_is_said() {
    let scene = Scene::new();
    for (command, said) in
        [(&["status"][..], "no views are mounted"), (&["upper", "list"], "no uppers are in")]
    {
        let ran = scene.nixview(command).ok();
        assert!(ran.out.is_empty() && ran.err.contains(said), "{ran:?}");
        let ran = scene.nixview(&[command, &["--json"]].concat()).ok();
        assert_eq!(ran.out, "[]\n");
    }
}

/// As the script of fish asks: the words of the line, the last one begun.
#[test]
fn shells_are_offered_the_names_that_there_are() {
    let changed = Changed::new("env-b", "web");
    let offered_with = |state: &str, words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nixview"));
        command.env("COMPLETE", "fish").env("NIXVIEW_STATE_DIR", changed.scene.path(state));
        command.env("NIXVIEW_RUNTIME_DIR", changed.scene.path("run")).current_dir(changed.scene.dir.path());
        let output = command.args(["--", "nixview"]).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let offered = |words: &[&str]| offered_with("state", words);
    std::fs::create_dir_all(changed.scene.path("state/logs")).unwrap();
    std::fs::write(changed.scene.path("state/logs/web.log"), "").unwrap();
    assert!(offered(&["du", "env-b"]).contains(&"env-b.lock".to_owned()));
    for command in [&["diff"][..], &["reset"], &["export"], &["import"], &["logs"], &["upper", "remove"]] {
        assert!(offered(&[command, &["w"]].concat()).contains(&"web".to_owned()), "{command:?}");
        assert!(!offered(&[command, &["x"]].concat()).contains(&"web".to_owned()), "{command:?}");
    }
    assert!(offered(&["diff", "sta"]).contains(&"state/".to_owned()));
    // What the line says counts, not the environment.
    let web = ["web".to_owned()];
    assert_eq!(offered_with("none", &["diff", "we"]), [""; 0]);
    assert_eq!(offered_with("none", &["diff", "--state-dir", "state", "we"]), web);
    assert_eq!(offered_with("none", &["--state-dir=state", "diff", "we"]), web);
    assert_eq!(offered(&["--state-dir", "none", "diff", "we"]), [""; 0]);
    assert!(offered(&["sta"]).contains(&"status".to_owned()));
    assert!(offered(&["status", "--j"]).contains(&"--json".to_owned()));
}

/// nixview can use what it makes for itself; an output has the permissions that the caller lets it.
#[test]
fn a_umask_of_all_bits_shuts_no_one_out_of_the_state_directory() {
    use std::os::unix::fs::PermissionsExt;
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    let line = "umask 0777; \"$0\" --state-dir state --runtime-dir run export web -o strict.tar && chmod 600 strict.tar && \
                \"$0\" --state-dir made/state --runtime-dir run import new strict.tar --closure env-b.lock --store s && \
                \"$0\" --state-dir state --runtime-dir run export web -o stricter.tar";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", line, env!("CARGO_BIN_EXE_nixview")]).current_dir(scene.dir.path());
    let done = shell.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let mode = |name: &str| std::fs::metadata(scene.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("made/state"), mode("stricter.tar")), (0o700, 0));
}

/// Makes an upper what the last release would have left: the view's root at `data`.
fn make_old(changed: &Changed) {
    let path = changed.upper.join("meta.json");
    let mut meta = json(&fs::read_to_string(&path).unwrap());
    meta["version"] = 1.into();
    meta.as_object_mut().unwrap().remove("own");
    fs::write(&path, meta.to_string()).unwrap();
    fs::rename(changed.upper.join("tree/nix"), changed.upper.join("data")).unwrap();
    fs::remove_dir(changed.upper.join("tree")).unwrap();
}

#[test]
fn what_only_reads_an_upper_of_the_last_release_leaves_it_as_it_is() {
    let mut changed = Changed::new("env-b", "web");
    changed.create("store/big", &[1; 100_000]);
    let commands: [&[&str]; 5] =
        [&["diff", "web"], &["diff", "--json", "web"], &["upper", "list"], &["status"], &["gc", "--dry-run"]];
    let answers = |changed: &Changed| commands.map(|words| changed.nixview(words).ok().out);
    // A list tells the age, of a new upper in seconds: they could pass between the two lists.
    age(&changed, 3);
    let new = answers(&changed);
    make_old(&changed);
    let look = || {
        changed
            .scene
            .shell("cd state/uppers/web && find . ! -name lock -exec stat -c '%n %i %a %Z' {} + | sort")
            .ok()
            .out
    };
    let before = look();
    assert_eq!(answers(&changed), new);
    assert_eq!(look(), before);
    // A directory that has the tree at neither place says so.
    fs::rename(changed.upper.join("data"), changed.scene.path("aside")).unwrap();
    changed.nixview(&["diff", "web"]).failed(1, &["cannot open the tree", "No such file"]);
}

/// Calls by which an upper changes: a kill before each of them must lose nothing.
const CALLS: [&str; 9] =
    ["mkdirat", "renameat2", "fchownat", "chmod", "fchmodat", "fsync", "unlinkat", "write", "ftruncate"];

#[test]
fn a_kill_before_any_call_of_the_move_of_an_old_upper_loses_nothing() {
    if Command::new("strace").arg("-V").output().is_err() {
        skip!("there is no strace");
        return;
    }
    let mut changed = Changed::new("env-b", "web");
    changed.create("store/kept", b"kept");
    changed.create("store/victim", b"gone");
    make_old(&changed);
    let all = changed.nixview(&["diff", "web"]).ok().out;
    let rest = "A /nix/store/kept\n";
    assert!(all.contains(rest), "{all}");
    changed.scene.shell("cp -a state/uppers/web old").ok();
    let (mut kills, mut moved) = (0, 0);
    for call in CALLS {
        for nth in 1.. {
            changed.scene.shell("rm -rf state/uppers/web; cp -a old state/uppers/web").ok();
            let reset = changed.scene.direct();
            let killed = Command::new("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={call}:signal=KILL:when={nth}")])
                .arg(reset.get_program())
                .args(reset.get_args())
                .args(["reset", "web", "/nix/store/victim"])
                .current_dir(changed.scene.dir.path())
                .output()
                .unwrap();
            let said = changed.nixview(&["diff", "web"]).ok().out;
            if killed.status.success() {
                assert_eq!(said, rest);
                break;
            }
            kills += 1;
            assert!(said == all || said == rest, "a kill before the {nth}. {call}: {said}");
            moved += u32::from(!changed.upper.join("data").exists());
            changed.nixview(&["reset", "web", "/nix/store/victim"]).ok();
            assert_eq!(changed.nixview(&["diff", "web"]).ok().out, rest, "after the {nth}. {call}");
            assert_eq!(fs::read(changed.upper.join("tree/nix/store/kept")).unwrap(), b"kept");
            assert!(!changed.upper.join("data").exists());
            assert_eq!(fs::read_dir(changed.upper.join("work")).unwrap().count(), 0);
            let meta = json(&fs::read_to_string(changed.upper.join("meta.json")).unwrap());
            assert_eq!((&meta["version"], &meta["oldRedirects"]), (&2.into(), &true.into()));
        }
    }
    assert!(kills >= 12 && moved >= 4, "{kills} kills, {moved} of them after the move");
}
