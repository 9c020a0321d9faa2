//! The files that commands write: a file of another kind stays, a link stays a link, and what is no file is written through.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};

use crate::support::changed::Changed;
use crate::support::scene::{Ran, Scene, ran};
use crate::support::skip::skip;

/// A command that writes one file: its words before the name of the file.
type Writer = (&'static str, Vec<String>);

/// Every command with an option for one output file, but for `nixview trace`, which needs a view.
fn writers(changed: &Changed) -> Vec<Writer> {
    let scene = &changed.scene;
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let store = text(scene.store.root());
    let lock = text(&scene.path("env-b.lock"));
    let path = scene.store.path("env-a").to_owned();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        ("lock", words(&["lock", "--store", &store, &path, "-o"])),
        ("cdi", words(&["cdi", &lock, "--hook", "/bin/sh", "-o"])),
        ("export", words(&["export", "web", "-o"])),
        ("du", words(&["du", "--store", &store, &lock, "--html"])),
    ]
}

fn write(changed: &Changed, (_, words): &Writer, file: &str, more: &[&str]) -> Ran {
    let mut command = changed.scene.command();
    command.args(words).arg(file).args(more).current_dir(changed.scene.dir.path());
    ran(command.output().unwrap())
}

fn names(scene: &Scene) -> Vec<String> {
    scene.names("").into_iter().filter(|name| name != "state").collect()
}

#[test]
fn a_file_of_another_kind_needs_force() {
    let changed = Changed::new("env-b", "web");
    let file = changed.scene.path("notes");
    for writer in writers(&changed) {
        fs::write(&file, "what somebody wrote\n").unwrap();
        let said = write(&changed, &writer, "notes", &[]).failed(1, &["notes is no ", "hint: ", "--force"]);
        assert_eq!(fs::read(&file).unwrap(), b"what somebody wrote\n", "{} {said:?}", writer.0);
        write(&changed, &writer, "notes", &["--force"]).ok();
        assert_ne!(fs::read(&file).unwrap(), b"what somebody wrote\n");
        // Now it is of the kind.
        let once = fs::read(&file).unwrap();
        write(&changed, &writer, "notes", &[]).ok();
        fs::write(&file, "").unwrap();
        write(&changed, &writer, "notes", &[]).ok();
        assert_eq!(fs::read(&file).unwrap().len(), once.len(), "{}", writer.0);
        // And of no other.
        for other in writers(&changed).iter().filter(|other| other.0 != writer.0) {
            write(&changed, other, "notes", &[]).failed(1, &["notes is no "]);
        }
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn what_it_reads_is_no_output() {
    let scene = Scene::new();
    let store = scene.store.root().to_str().unwrap();
    let run =
        |words: &[&str]| ran(scene.command().args(words).current_dir(scene.dir.path()).output().unwrap());
    fs::write(scene.path("shell.nix"), "{ }: { }\n").unwrap();
    run(&["lock", "--store", store, "shell.nix", "-o", "shell.nix"]).failed(1, &["shell.nix is no lock"]);
    assert_eq!(fs::read(scene.path("shell.nix")).unwrap(), b"{ }: { }\n");
    fs::write(scene.path("a.trace"), "{\"nixviewTrace\":1}\n").unwrap();
    run(&["lock", "--store", store, "--only-traced", "a.trace", "env-a.lock", "-o", "a.trace"])
        .failed(1, &["a.trace is no lock"]);
    run(&["du", "--store", store, "env-a.lock", "--html", "env-a.lock"]).failed(1, &["is no report"]);
}

#[test]
fn a_link_stays_and_its_target_is_replaced() {
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    fs::create_dir(scene.path("real")).unwrap();
    for writer in writers(&changed) {
        for there in [true, false] {
            let target = scene.path("real/file");
            if there {
                fs::write(&target, "").unwrap();
            }
            symlink("real/file", scene.path("link")).unwrap();
            write(&changed, &writer, "link", &[]).ok();
            assert_eq!(fs::read_link(scene.path("link")).unwrap(), Path::new("real/file"), "{}", writer.0);
            assert!(fs::symlink_metadata(&target).unwrap().is_file());
            fs::remove_file(scene.path("link")).unwrap();
            fs::remove_file(&target).unwrap();
            assert_eq!(scene.names("real"), Vec::<String>::new());
        }
    }
}

#[test]
fn a_fifo_and_a_descriptor_are_written_through() {
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    let fifo = scene.path("fifo");
    rustix::fs::mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
    let before = names(scene);
    for writer in writers(&changed) {
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write(&changed, &writer, "fifo", &[]).ok();
        let through = reader.join().unwrap();
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo() && !through.is_empty());
        write(&changed, &writer, "whole", &[]).ok();
        let whole = fs::read(scene.path("whole")).unwrap();
        // A page has the time in it.
        assert_eq!(through.len(), whole.len(), "{}", writer.0);
        fs::remove_file(scene.path("whole")).unwrap();
        // What the shell has opened is not replaced: it is written where it stands.
        let words: Vec<&str> = writer.1.iter().map(String::as_str).collect();
        let (state, run) = (scene.path("state"), scene.path("run"));
        let line = "printf before > all; nv=$1; state=$2; run=$3; shift 3; \
                    \"$nv\" --state-dir \"$state\" --runtime-dir \"$run\" \"$@\" /dev/fd/9 9>> all >&2 && printf after >> all";
        let mut shell = std::process::Command::new("timeout");
        shell.args(["60", "sh", "-c", line, "sh", env!("CARGO_BIN_EXE_nixview")]).arg(&state).arg(&run);
        ran(shell.args(&words).current_dir(scene.dir.path()).stdin(Stdio::null()).output().unwrap()).ok();
        let all = fs::read(scene.path("all")).unwrap();
        assert!(all.starts_with(b"before") && all.ends_with(b"after"), "{}", writer.0);
        assert_eq!(all.len(), whole.len() + "beforeafter".len(), "{}", writer.0);
        fs::remove_file(scene.path("all")).unwrap();
        // A descriptor that was not handed over is none, even where the program has one of that number.
        for number in 3..12 {
            write(&changed, &writer, &format!("/dev/fd/{number}"), &[]).failed(1, &["cannot write /dev/fd/"]);
        }
        write(&changed, &writer, "/dev/null", &[]).ok();
    }
    assert_eq!(names(scene), before);
}

#[test]
fn standard_output_by_its_path_has_the_output_alone() {
    let changed = Changed::new("env-b", "web");
    for writer in writers(&changed).iter().filter(|writer| ["lock", "export"].contains(&writer.0)) {
        write(&changed, writer, "whole", &[]).ok();
        let whole = fs::read(changed.scene.path("whole")).unwrap();
        for path in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            assert_eq!(write(&changed, writer, path, &[]).ok().out.as_bytes(), whole, "{} {path}", writer.0);
            write(&changed, writer, path, &["--json"]).failed(2, &["--json"]);
        }
        fs::remove_file(changed.scene.path("whole")).unwrap();
    }
}

/// As root a device could be replaced by a file. The nodes are the test's own.
#[test]
fn a_device_is_written_through() {
    let changed = Changed::new("env-b", "web");
    let scene = &changed.scene;
    let node = |name: &str, kind: FileType, major: u32, minor: u32| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, scene.path(name), kind, Mode::from_raw_mode(0o666), device)
    };
    // The block device has no driver: it cannot be written even if it is opened.
    let made = node("null", FileType::CharacterDevice, 1, 3)
        .and_then(|()| node("block", FileType::BlockDevice, 254, 255_000));
    if made.is_err() {
        skip!("no device nodes can be made without privilege");
        return;
    }
    for writer in writers(&changed) {
        for more in [&[][..], &["--force"]] {
            let ran = write(&changed, &writer, "null", more);
            assert!(ran.code == Some(0) || ran.err.contains("Permission denied"), "{ran:?}");
        }
        let found = fs::symlink_metadata(scene.path("null")).unwrap();
        assert!(
            found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(1, 3),
            "{}",
            writer.0
        );
        write(&changed, &writer, "block", &[]).failed(1, &["block is a block device", "--force"]);
        assert!(fs::symlink_metadata(scene.path("block")).unwrap().file_type().is_block_device());
    }
}

/// What a signal interrupts leaves nothing beside the file that is there.
#[test]
fn a_signal_leaves_nothing() {
    let mut changed = Changed::new("env-b", "web");
    changed.create("store/large", &vec![7; 64 << 20]);
    let scene = &changed.scene;
    fs::create_dir(scene.path("out")).unwrap();
    fs::write(scene.path("out/web.tar"), [0; 1024]).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::KILL]
    {
        let mut command = scene.direct();
        command.args(["export", "web", "--compress", "zstd", "-o", "out/web.tar"]);
        let mut child = command.current_dir(scene.dir.path()).stdout(Stdio::null()).spawn().unwrap();
        let files = format!("/proc/{}/fd", child.id());
        let writes = || {
            let mut all = fs::read_dir(&files).into_iter().flatten().flatten();
            all.any(|entry| {
                fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(scene.path("out")))
            })
        };
        let began = Instant::now();
        while !writes() && child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait().unwrap();
        assert_eq!(scene.names("out"), ["web.tar"]);
    }
}

#[test]
fn a_device_of_containers_keeps_its_environment() {
    let scene = Scene::new();
    let cdi = |words: &[&str]| {
        let mut command = scene.command();
        command.arg("cdi").arg("--dir").arg(scene.path("cdi")).args(["--hook", "/bin/sh"]).args(words);
        ran(command.current_dir(scene.dir.path()).output().unwrap())
    };
    cdi(&["env-a.lock", "--name", "web"]).ok();
    cdi(&["env-a.lock", "--name", "web", "--read-only"]).ok();
    let before = fs::read(scene.path("cdi/nixview-web.json")).unwrap();
    cdi(&["env-b.lock", "--name", "web"])
        .failed(1, &["nixview.dev/env=web is there", "env-a.lock", "--force"]);
    assert_eq!(fs::read(scene.path("cdi/nixview-web.json")).unwrap(), before);
    cdi(&["env-b.lock", "--name", "web", "--force"]).ok();
    assert_ne!(fs::read(scene.path("cdi/nixview-web.json")).unwrap(), before);
    // The same where several are in one file.
    cdi(&["env-a.lock", "env-b.lock", "-o", "both.json"]).ok();
    cdi(&["env-a.lock", "-o", "both.json"]).failed(1, &["has the device 'env-b'", "--force"]);
    cdi(&["env-b.lock", "--name", "env-a", "-o", "both.json", "--force"]).ok();
    let mut file = fs::File::create(scene.path("cdi/nixview-broken.json")).unwrap();
    file.write_all(b"no JSON").unwrap();
    cdi(&["env-b.lock", "--name", "db"]).failed(1, &["nixview-broken.json"]);
}
