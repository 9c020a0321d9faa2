//! Limits, priority, signals and umask of the caller: they are for the program that it runs, and reach no server.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::scene::{Ran, Scene, alone};
use crate::support::skip::skip;

/// A shell's commands for few of everything: 100 KiB (of 512 bytes) of a file, 64 open files, 60 s, 1 GB of addresses.
/// `kind` is `-S` for soft limits alone.
fn few(kind: &str) -> String {
    let limits = ["-f 200", "-n 64", "-t 60", "-v 1000000", "-s 1000"];
    limits.map(|limit| format!("ulimit {kind} {limit}")).join(" && ")
}

/// True if this process may raise hard limits (CAP_SYS_RESOURCE); else the lack is said.
fn may_raise() -> bool {
    let own = i32::try_from(std::process::id()).unwrap();
    let held = u64::from_str_radix(&proc(own, "status", "CapEff:"), 16).unwrap() >> 24 & 1 == 1;
    if !held {
        skip!("hard limits: no CAP_SYS_RESOURCE");
    }
    held
}

/// Runs `nixview` with `arguments` below a shell's `limits`.
fn limited(scene: &Scene, limits: &str, before: &str, arguments: &str) -> Ran {
    let (program, dir) = (env!("CARGO_BIN_EXE_nixview"), scene.dir.path().display());
    scene.shell(&format!(
        "{limits} && cd / && {before} {program} --state-dir {dir}/state --runtime-dir {dir}/run {arguments}"
    ))
}

/// A member of `env-a` with a large file.
fn large(scene: &Scene) -> String {
    let member = scene.store.real("left");
    File::create(member.join("large")).unwrap().write_all(&vec![b'x'; 300_000]).unwrap();
    format!("store/{}/large", member.file_name().unwrap().to_str().unwrap())
}

/// A line of a file in /proc, without its name.
fn proc(pid: i32, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_closed_to_others(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if !meta.is_symlink() {
            assert_eq!(meta.mode() & 0o022, 0, "{}", path.display());
        }
        if meta.is_dir() && !path.ends_with("tree") {
            assert_closed_to_others(&path);
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_serves_whatever_limits_its_caller_has() {
    alone();
    serves_below(&few("-S"));
    if may_raise() {
        serves_below(&few("-SH"));
    }
}

fn serves_below(limits: &str) {
    let scene = Scene::on("fuse");
    let large = large(&scene);
    let mount = format!(
        "mount --closure {0}/env-a.lock --store {1} --name web --tmp {0}/a",
        scene.dir.path().display(),
        scene.store.root().display()
    );
    let blocking = "nice -n 3 env --block-signal=TERM --block-signal=USR2 --ignore-signal=CHLD";
    limited(&scene, &format!("umask 0 && {limits}"), blocking, &mount).ok();
    for pid in [scene.keeper("web"), scene.server("web")] {
        for limit in ["Max file size", "Max cpu time", "Max address space", "Max data size"] {
            let told = proc(pid, "limits", limit);
            assert!(told.starts_with("unlimited "), "{limit}: {told}");
        }
        let files: u64 = proc(pid, "limits", "Max open files").split(' ').next().unwrap().parse().unwrap();
        assert!(files >= 1024, "{files}");
        // HUP, INT and TERM, which are read from a descriptor; never the caller's USR2.
        assert_eq!(proc(pid, "status", "SigBlk:"), "0000000000004003");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert_eq!(stat.rsplit(')').next().unwrap().split_whitespace().nth(16), Some("0"), "nice: {stat}");
    }
    for dir in ["state", "run"] {
        assert_eq!(fs::metadata(scene.path(dir)).unwrap().mode() & 0o022, 0, "{dir}");
        assert_closed_to_others(&scene.path(dir));
    }
    // Copies of large files, and many open ones.
    let view = scene.path("a");
    OpenOptions::new().append(true).open(view.join(&large)).unwrap().write_all(&[b'y'; 300_000]).unwrap();
    assert_eq!(fs::metadata(view.join(&large)).unwrap().len(), 600_000);
    let made = |n: u32| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(view.join(format!("f{n}")))
    };
    let open: Vec<File> = (0..300).map(|n| made(n).unwrap()).collect();
    assert_eq!(open.len(), 300);
    drop(open);
    fs::DirBuilder::new().create(view.join("made")).unwrap();
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_command_has_what_its_caller_has() {
    alone();
    let kinds = if may_raise() { ["-S", "-SH"].as_slice() } else { &["-S"] };
    kinds.iter().for_each(|kind| has_what_its_caller_has(&few(kind)));
}

fn has_what_its_caller_has(limits: &str) {
    let scene = Scene::on("fuse");
    let large = large(&scene);
    let limits = format!("umask 031 && {limits}");
    let before =
        "nice -n 3 env --block-signal=USR2 --block-signal=INT --ignore-signal=CHLD --ignore-signal=USR1";
    let run = format!(
        "run --closure {}/env-a.lock --store {} --",
        scene.dir.path().display(),
        scene.store.root().display()
    );
    // dash(1) changes the signals of what it runs.
    let shell = "/bin/cat /proc/self/limits; umask; /usr/bin/nice";
    for told in
        [format!("/bin/sh -c '{shell}'"), "/bin/grep -E '^Sig(Blk|Ign):' /proc/self/status".to_owned()]
    {
        let bare = scene.shell(&format!("{limits} && cd / && {before} {told}")).ok().out;
        let same = bare.contains("\n0031\n") || (bare.contains("0802\n") && bare.contains("10200\n"));
        assert!(same, "{bare}");
        assert_eq!(limited(&scene, &limits, before, &format!("{run} {told}")).ok().out, bare);
    }
    // The copy is the server's work, and only what the command writes counts for the command.
    let work = format!(
        "chmod 600 /nix/{large} && /bin/ls /nix/store && ! /bin/sh -c \"/bin/cat /nix/{large} >>/nix/copy\" && /bin/ls /nix/store"
    );
    limited(&scene, "ulimit -S -f 200", "", &format!("{run} /bin/sh -c '{work}'")).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn hard_limits_that_cannot_be_raised_are_refused_or_told_of() {
    alone();
    let scene = Scene::new();
    let large = large(&scene);
    let dir = scene.dir.path().display();
    let run = |limits: &str, script: &str| {
        let without = "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource";
        let store = scene.store.root().display();
        let run = format!("run --closure {dir}/env-a.lock --store {store} -- /bin/sh -c '{script}'");
        limited(&scene, limits, without, &run)
    };
    run("ulimit -n 64", "true").failed(1, &["hard limit of open files is 64", "ulimit -H -n"]);
    run("ulimit -v 400000", "true").failed(1, &["hard limit of address space", "ulimit -H -v"]);
    // A copy that is too long fails as a file of the caller would, and the view serves on.
    let script = format!("chmod 600 /nix/{large} 2>&1; /bin/ls /nix/store");
    let ran = run("ulimit -f 300", &script).ok();
    assert!(ran.out.contains("File too large") && ran.out.contains("-left"), "{}", ran.out);
    assert!(ran.err.contains("hard limit of file sizes is 153600 bytes"), "{}", ran.err);
    // With few descriptors less is kept open for speed.
    let many = "for i in 0 1 2 3 4 5 6 7 8 9; do (exec 3>/nix/a$i 4>/nix/b$i 5>/nix/c$i; sleep 2) & done; ls -R /nix; wait";
    let ran = run("ulimit -n 256", many).ok();
    assert!(!ran.out.contains("Too many") && !ran.err.contains("Too many"), "{}", ran.err);
    scene.assert_nothing_left();
}
