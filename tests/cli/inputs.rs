//! What commands read: a FIFO or a device that is named as a file is an error, and never waited for.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use rustix::fs::{CWD, Mode};

use crate::support::changed::Changed;
use crate::support::scene::ran;

#[test]
fn a_fifo_is_no_file_and_not_waited_for() {
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    fs::create_dir(scene.path("cdi")).unwrap();
    let names = ["fifo", "fifo.nix", "cdi/nixview-x.json"];
    let fifos = names.map(|name| scene.path(name));
    for fifo in &fifos {
        rustix::fs::mkfifoat(CWD, fifo, Mode::from_raw_mode(0o600)).unwrap();
    }
    let store = scene.store.root().to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["lock", "--store", store, "fifo"],
        &["lock", "--store", store, "fifo.nix"],
        &["lock", "--store", store, "fifo#attribute"],
        &["lock", "--store", store, "--extra-root", "x=fifo", scene.store.path("env-a")],
        &["lock", "--store", store, "--only-traced", "fifo", "env-a.lock", "-o", "small.lock"],
        &["lock", "--store", store, "--only-traced", "fifo", "fifo", "-o", "small.lock"],
        &["closure", "--store", store, "fifo"],
        &["closure", "--store", store, "--diff", "fifo", "env-a.lock"],
        &["du", "--store", store, "fifo"],
        &["du", "--store", store, "env-a.lock", "--html", "-", "--trace", "fifo"],
        &["layers", "--store", store, "fifo"],
        &["layers", "--store", store, "env-a.lock", "--strategy", "nixery", "--popularity", "fifo"],
        &["trace", "report", "fifo"],
        &["trace", "report", "--lock", "fifo", "fifo"],
        &["cdi", "fifo", "--hook", "/bin/sh"],
        &["cdi", "--list", "--dir", "cdi"],
        &["diff", "web", "--closure", "fifo"],
        &["reset", "web", "--dry-run", "--closure", "fifo"],
        &["export", "web", "-o", "out.tar", "--closure", "fifo"],
        &["import", "new", "fifo", "--closure", "env-a.lock", "--store", store],
        &["import", "new", "out.tar", "--closure", "fifo", "--store", store],
        &["mount", "--store", store, "--closure", "fifo", "a"],
        &["run", "--store", store, "--closure", "fifo", "--", "true"],
        &["shell", "--store", store, "--closure", "fifo"],
    ];
    let run = |words: &[&str]| {
        let mut command = scene.command();
        ran(command.args(words).current_dir(scene.dir.path()).output().unwrap())
    };
    let all = |how: &str| {
        for words in commands {
            let answer = run(words);
            assert!(matches!(answer.code, Some(1 | 126)), "{how}: {words:?}: {answer:?}");
            let why = ["no regular file", "neither a file nor a directory"];
            assert!(why.iter().any(|why| answer.err.contains(why)), "{how}: {words:?}: {answer:?}");
        }
    };
    all("without a writer");
    // With one that says nothing.
    let open = |fifo| fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(fifo);
    let writers: Vec<_> = fifos.iter().map(|fifo| open(fifo).unwrap()).collect();
    all("with a writer");
    drop(writers);
    // Nor a device that never ends.
    for words in [
        &["trace", "report", "/dev/zero"][..],
        &["cdi", "/dev/zero", "--hook", "/bin/sh"],
        &["diff", "web", "--closure", "/dev/zero"],
    ] {
        run(words).failed(1, &["it is a device, and no regular file"]);
    }
}

/// A pipe that a program has the other end of is a stream, where a file is read once from its beginning.
#[test]
fn a_pipe_of_a_program_is_read() {
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    let shell = |line: &str| {
        let (state, run) = (scene.path("state"), scene.path("run"));
        let line = format!("nv() {{ \"$0\" --state-dir \"$1\" --runtime-dir \"$2\" \"$@\"; }}; {line}");
        let line = line.replacen("\"$@\"", "\"${@}\"", 1);
        let mut bash = Command::new("timeout");
        bash.args(["60", "bash", "-c"])
            .arg(line.replace("$1", state.to_str().unwrap()).replace("$2", run.to_str().unwrap()));
        ran(bash.arg(env!("CARGO_BIN_EXE_nixview")).current_dir(scene.dir.path()).output().unwrap())
    };
    // A device of containers reads its lock again and again.
    shell("nv cdi <(cat env-a.lock) --name x --hook /bin/sh").failed(1, &["no regular file"]);
    shell("nv diff web --closure <(cat env-b.lock)").ok();
    let count = |line: &str| shell(line).ok().out.lines().count();
    let paths = count("nv closure --store s env-b.lock");
    assert!(paths > 1);
    assert_eq!(count("nv closure --store s <(cat env-b.lock)"), paths);
    assert_eq!(count("cat env-b.lock | nv closure --store s /dev/stdin"), paths);
    shell("nv closure --store s --diff <(cat env-b.lock) env-b.lock").ok();
    shell("[ \"$(nv du --store s <(cat env-b.lock))\" = \"$(nv du --store s env-b.lock)\" ]").ok();
    shell("cat env-b.lock | nv layers --store s /dev/stdin").ok();
    // Read as 'nix path-info --json', which a lock is not.
    shell("cat env-b.lock | nv lock --store s /dev/stdin").failed(1, &["no JSON of 'nix path-info'"]);
    shell("nv export web -o a.tar && nv import new <(cat a.tar) --closure env-b.lock --store s").ok();
    shell("cat a.tar | nv import newer - --closure env-b.lock --store s").ok();
    shell("cat a.tar | nv import newest /dev/stdin --closure env-b.lock --store s").ok();
}

#[test]
fn a_fifo_in_the_state_directory_is_not_waited_for() {
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    fs::create_dir_all(scene.path("fresh/logs")).unwrap();
    for name in ["fresh/closures.sqlite", "fresh/logs/old.log"] {
        rustix::fs::mkfifoat(CWD, scene.path(name), Mode::from_raw_mode(0o600)).unwrap();
    }
    let run = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_nixview"), "--state-dir", "fresh", "--runtime-dir", "run"]);
        ran(command.args(words).current_dir(scene.dir.path()).output().unwrap())
    };
    run(&["logs", "old"]).failed(1, &["no regular file"]);
    run(&["closure", "--store", "s", "env-b.lock"]).ok();
}
