//! What is used of a view, recorded on real mounts: against what fanotify(7) says was opened, whatever is killed meanwhile, and by whom.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::caches;
use crate::support::scene::{Scene, kill, ran};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nixview::sys::signals::wait_readable;
use nixview::trace::{self, Kind, Trace};
use rustix::process::{Pid, Signal, kill_process};

const IO: [&str; 2] = ["passthrough", "cached"];

fn read(file: &Path) -> Trace {
    trace::read(file).unwrap_or_else(|error| panic!("{error}"))
}

/// The files of the lower that were opened.
fn opened(trace: &Trace) -> BTreeSet<String> {
    used(trace, Kind::Opened)
}

fn used(trace: &Trace, kind: Kind) -> BTreeSet<String> {
    let paths = trace.lower.iter().filter(|(_, kinds)| kinds.has(kind)).map(|(path, _)| path.clone());
    paths.map(|path| String::from_utf8(path).unwrap()).collect()
}

/// `nixview trace`, as a child.
struct Tracing {
    child: Child,
    file: PathBuf,
}

impl Tracing {
    /// Comes back when the view is being recorded: then a probe of a file that nobody else opens is in it.
    fn start(scene: &Scene, view: &str, more: &[&str]) -> Self {
        let file = scene.path(&format!("{view}.trace"));
        let mut command = scene.direct();
        command.args(["trace", view, "-o"]).arg(&file).args(more);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let tracing = Self { child, file };
        eventually("the trace begins", PATIENCE, || tracing.has_begun());
        tracing
    }

    /// True once the view is being recorded: then the first line of the draft, which has no name, is written.
    fn has_begun(&self) -> bool {
        let all = fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().flatten();
        let directory = self.file.parent().unwrap();
        let is_draft = |link: &Path| {
            fs::read_link(link).is_ok_and(|target| {
                target.parent() == Some(directory)
                    && target.to_str().is_some_and(|t| t.ends_with("(deleted)"))
            })
        };
        all.map(|entry| entry.path())
            .any(|link| is_draft(&link) && fs::metadata(&link).is_ok_and(|found| found.len() > 0))
    }

    /// Kills it; nothing is left of its file.
    fn kill(&mut self) {
        let names = || fs::read_dir(self.file.parent().unwrap()).unwrap().count();
        let before = names();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        assert_eq!(names(), before);
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, which must be a good one; answers what it wrote and said.
    #[track_caller]
    fn end(self) -> (Trace, String) {
        let said = ran(self.child.wait_with_output().unwrap()).ok();
        (read(&self.file), said.out)
    }
}

/// What fanotify(7) says was opened on the file system of a mount, from its making on.
struct Witness {
    group: Fanotify,
    view: PathBuf,
}

impl Witness {
    fn of(view: &Path) -> Option<Self> {
        let group = Fanotify::init(
            InitFlags::FAN_CLASS_NOTIF
                | InitFlags::FAN_NONBLOCK
                | InitFlags::FAN_CLOEXEC
                | InitFlags::FAN_UNLIMITED_QUEUE,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC,
        );
        let group = match group {
            Ok(group) => group,
            Err(error) => {
                skip!("no fanotify: {error}");
                return None;
            }
        };
        let marked = group.mark(
            MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM,
            MaskFlags::FAN_OPEN | MaskFlags::FAN_OPEN_EXEC,
            File::open("/").unwrap().as_fd(),
            Some(view),
        );
        marked.unwrap();
        Some(Self { group, view: view.to_owned() })
    }

    /// The regular files that were opened.
    fn opened(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        while wait_readable(&[self.group.as_fd()], Some(Duration::from_millis(50))).unwrap()[0] {
            for event in self.group.read_events().unwrap() {
                assert!(!event.mask().contains(MaskFlags::FAN_Q_OVERFLOW));
                let file = event.fd().unwrap();
                let found = rustix::fs::fstat(file).unwrap();
                if rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::RegularFile {
                    let path = fs::read_link(nixview::sys::open::proc_path(file)).unwrap();
                    all.insert(path.strip_prefix(&self.view).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        all
    }
}

/// Uses a view as programs do: runs one, by a link and by a script, reads, lists, maps nothing twice.
fn work(scene: &Scene, view: &Path) -> BTreeSet<String> {
    let at = |label: &str, below: &str| view.join("store").join(scene.store.path(label)).join(below);
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes.len()
    };
    let out = Command::new(at("left", "bin/hello")).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let script = Command::new("/bin/sh").arg(at("right", "bin/where")).output().unwrap();
    assert!(script.status.success(), "{script:?}");
    assert!(read(&at("libc", "lib/libc.so")) > 0, "through a link");
    assert!(read(&at("libc", "lib/libc.so.1")) > 0, "and again by its name");
    assert!(read(&view.join("store").join(scene.store.path("config"))) > 0, "a store path that is a file");
    // Opened and not read; looked at only; listed only.
    drop(File::open(at("top", "bin/hello-by-script")).unwrap());
    assert!(fs::metadata(at("left", "lib/needs")).unwrap().len() > 0);
    assert!(fs::read_dir(at("top", "d/d")).unwrap().count() > 0);
    assert!(fs::read_link(at("env-a", "bin/tool")).is_ok());
    let name = |label: &str, below: &str| {
        Path::new("store")
            .join(scene.store.path(label))
            .join(below)
            .to_str()
            .unwrap()
            .trim_end_matches('/')
            .to_owned()
    };
    BTreeSet::from([
        name("left", "bin/hello"),
        name("right", "bin/where"),
        name("libc", "lib/libc.so.1"),
        name("config", ""),
        name("top", "bin/hello-by-script"),
    ])
}

#[test]
#[ignore = "mounts"]
fn a_view_that_is_mounted_for_it_records_exactly_what_is_opened() {
    for io in IO {
        let scene = Scene::new();
        let (view, file) = (scene.path("a"), scene.path("a.trace"));
        let name = file.to_str().unwrap();
        scene.mount("env-a", "a", &["--io", io, "--name", "v", "--trace", name]).ok();
        let early = read(&file);
        assert!(early.end.is_none() && early.lower.is_empty() && early.head.exact && early.head.from_start);
        scene.nixview(&["trace", "v"]).failed(1, &["traced from its beginning", "--trace"]);
        let Some(witness) = Witness::of(&view) else { return };
        let expected = work(&scene, &view);
        let witnessed = witness.opened();
        // Twice changes nothing.
        work(&scene, &view);
        fs::write(view.join("own"), "new").unwrap();
        let changed = Path::new("store").join(scene.store.path("left")).join("lib/needs");
        fs::OpenOptions::new().append(true).open(view.join(&changed)).unwrap();
        drop(witness);
        scene.nixview(&["umount", "v"]).ok();
        let trace = read(&file);
        assert_eq!(witnessed, expected, "fanotify, {io}");
        let mut all = expected;
        all.insert(changed.to_str().unwrap().to_owned());
        assert_eq!(opened(&trace), all, "{io}");
        assert_eq!((trace.head.io.as_str(), trace.head.exact), (io, true));
        assert!(trace.end.unwrap().complete);
        assert!(trace.upper.keys().any(|path| path == b"own"), "{:?}", trace.upper);
        let tool = format!("store/{}/bin/tool", scene.store.path("env-a"));
        assert!(used(&trace, Kind::LinkRead).contains(&tool));
        assert!(used(&trace, Kind::Listed).contains(&format!("store/{}/d/d", scene.store.path("top"))));
        assert!(
            used(&trace, Kind::LookedUp).contains(&format!("store/{}/lib/needs", scene.store.path("left")))
        );
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "mounts"]
fn a_running_view_is_traced_until_a_signal_for_a_time_and_until_its_end() {
    let scene = Scene::new();
    let view = scene.path("a");
    scene.mount("env-a", "a", &["--io", "passthrough", "--name", "v"]).ok();
    // Warm: what was opened before counts when it is opened again.
    let expected = work(&scene, &view);
    for signal in [Signal::INT, Signal::TERM] {
        let tracing = Tracing::start(&scene, "v", &[]);
        assert_eq!(work(&scene, &view), expected);
        scene.nixview(&["trace", "v"]).failed(1, &["is being traced already"]);
        tracing.send(signal);
        let (trace, said) = tracing.end();
        assert_eq!(opened(&trace), expected);
        assert!(trace.head.exact && !trace.head.from_start && trace.end.unwrap().complete);
        assert!(said.contains("5 files of 5 of ") && said.contains("were opened"), "{said}");
    }
    let tracing = Tracing::start(&scene, "v", &["--for", "300ms", "--json"]);
    let (trace, said) = tracing.end();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["opened"].as_u64(), said["complete"].as_bool()), (Some(0), Some(true)), "{said}");
    assert!(trace.end.unwrap().until >= trace.head.since);
    // By its path too, and into a file of its name.
    let by_path =
        scene.command().args(["trace", "./a", "--for", "1ms"]).current_dir(scene.dir.path()).output();
    ran(by_path.unwrap()).ok();
    assert_eq!(opened(&read(&scene.path("v.trace"))), BTreeSet::new());
    let tracing = Tracing::start(&scene, "v", &[]);
    work(&scene, &view);
    scene.nixview(&["umount", "v"]).ok();
    let (trace, _) = tracing.end();
    assert_eq!(opened(&trace), expected, "until the view's end");
    scene.nixview(&["trace", "v"]).failed(1, &["there is no view named 'v'"]);
    scene.assert_nothing_left();
}

#[test]
#[ignore = "mounts"]
fn a_cached_view_that_runs_already_is_traced_by_what_is_read_and_says_so() {
    let _kept = caches::keep();
    let scene = Scene::new();
    let view = scene.path("a");
    scene.mount("env-a", "a", &["--io", "cached", "--name", "v"]).ok();
    let needs = Path::new("store").join(scene.store.path("left")).join("lib/needs");
    fs::read(view.join(&needs)).unwrap();
    let tracing = Tracing::start(&scene, "v", &[]);
    let mut expected = work(&scene, &view);
    fs::read(view.join(&needs)).unwrap();
    tracing.send(Signal::INT);
    let (trace, said) = tracing.end();
    // What was opened and not read, and what the page cache had.
    expected.retain(|path| !path.ends_with("hello-by-script"));
    assert_eq!(opened(&trace), expected);
    assert!(!trace.head.exact && said.contains("page cache"), "{said}");
    scene.nixview(&["umount", "v"]).ok();
}

/// Files to open, each once, in a member that is made of many.
fn many(scene: &Scene, view: &Path, count: usize) -> Vec<PathBuf> {
    let dir = scene.store.real("data").join("share");
    let mode = |mode| fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o755);
    let names: Vec<String> = (0..count).map(|n| format!("many-{n:04}")).collect();
    for name in &names {
        fs::write(dir.join(name), name).unwrap();
    }
    mode(0o555);
    let below = Path::new("store").join(scene.store.path("data")).join("share");
    names.iter().map(|name| view.join(&below).join(name)).collect()
}

#[test]
#[ignore = "mounts"]
fn nothing_that_was_opened_is_lost_with_a_server() {
    for whole in [true, false] {
        for io in IO {
            let scene = Scene::new();
            let (view, file) = (scene.path("b"), scene.path("whole.trace"));
            let files = many(&scene, &view, 600);
            let name = file.to_str().unwrap().to_owned();
            let more = ["--io", io, "--name", "v"]
                .into_iter()
                .chain(whole.then_some(["--trace", &name]).into_iter().flatten());
            scene.mount("env-b", "b", &more.collect::<Vec<_>>()).ok();
            let tracing = (!whole).then(|| Tracing::start(&scene, "v", &[]));
            thread::scope(|scope| {
                let halves: Vec<_> = files
                    .chunks(300)
                    .map(|files| {
                        scope.spawn(move || {
                            files.iter().for_each(|file| assert!(!fs::read(file).unwrap().is_empty()));
                        })
                    })
                    .collect();
                let mut last = 0;
                for _ in 0..8 {
                    // The one that is dead stands in the record until the next one has begun.
                    eventually("a server follows", PATIENCE, || scene.server("v") != last);
                    last = scene.server("v");
                    kill(last);
                    thread::sleep(Duration::from_millis(15));
                }
                halves.into_iter().for_each(|half| half.join().unwrap());
            });
            assert!(scene.status("v")["restarts"].as_u64().unwrap() >= 7);
            let trace = match tracing {
                Some(tracing) => {
                    tracing.send(Signal::INT);
                    let (trace, _) = tracing.end();
                    scene.nixview(&["umount", "v"]).ok();
                    trace
                }
                None => {
                    scene.nixview(&["umount", "v"]).ok();
                    read(&file)
                }
            };
            let found = opened(&trace);
            let lost: Vec<_> = files
                .iter()
                .filter(|file| !found.contains(file.strip_prefix(&view).unwrap().to_str().unwrap()))
                .collect();
            assert!(lost.is_empty(), "{io}, whole {whole}: {} lost: {lost:?}", lost.len());
            scene.assert_nothing_left();
        }
    }
}

#[test]
#[ignore = "mounts"]
fn a_server_that_is_alone_goes_on_recording_and_writes_the_file() {
    let scene = Scene::new();
    let (view, file) = (scene.path("a"), scene.path("a.trace"));
    scene.mount("env-a", "a", &["--name", "v", "--trace", file.to_str().unwrap()]).ok();
    kill(scene.keeper("v"));
    let expected = work(&scene, &view);
    eventually("the server goes on alone", PATIENCE, || {
        scene.status("v")["pid"] == scene.status("v")["server"]
    });
    scene.nixview(&["umount", "v"]).ok();
    assert_eq!(opened(&read(&file)), expected);
    scene.assert_nothing_left();

    scene.mount("env-a", "a", &["--name", "v", "--io", "passthrough"]).ok();
    let tracing = Tracing::start(&scene, "v", &[]);
    work(&scene, &view);
    kill(scene.keeper("v"));
    let more = Path::new("store").join(scene.store.path("left")).join("lib/needs");
    fs::read(view.join(&more)).unwrap();
    tracing.send(Signal::INT);
    let mut all = expected;
    all.insert(more.to_str().unwrap().to_owned());
    assert_eq!(opened(&tracing.end().0), all);
    // And it can be traced again.
    let tracing = Tracing::start(&scene, "v", &[]);
    work(&scene, &view);
    scene.nixview(&["umount", "v"]).ok();
    assert_eq!(opened(&tracing.end().0).len(), 5);
    scene.assert_nothing_left();
}

/// The length of the log that a keeper has.
fn log_length(keeper: i32) -> u64 {
    let entries = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().flatten();
    let is_log = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.to_str().unwrap().starts_with("/memfd:nixview-trace-log "))
    };
    let log = entries.map(|entry| entry.path()).find(is_log).unwrap();
    fs::metadata(log).unwrap().size()
}

#[test]
#[ignore = "mounts"]
fn a_tracer_that_is_killed_is_forgotten() {
    let scene = Scene::new();
    let view = scene.path("a");
    scene.mount("env-a", "a", &["--name", "v", "--io", "passthrough"]).ok();
    let keeper = scene.keeper("v");
    let mut tracing = Tracing::start(&scene, "v", &[]);
    work(&scene, &view);
    assert!(log_length(keeper) > 0);
    tracing.kill();
    eventually("the server stops recording for nobody", PATIENCE, || log_length(keeper) == 0);
    let expected = work(&scene, &view);
    assert_eq!(log_length(keeper), 0);
    let mut tracing = Tracing::start(&scene, "v", &[]);
    tracing.kill();
    let tracing = Tracing::start(&scene, "v", &[]);
    work(&scene, &view);
    tracing.send(Signal::TERM);
    assert_eq!(opened(&tracing.end().0), expected);
    scene.nixview(&["umount", "v"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "mounts"]
fn another_user_cannot_trace_a_view() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "v"]).ok();
    let program = scene.path("nixview");
    fs::copy(env!("CARGO_BIN_EXE_nixview"), &program).unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for dir in ["", "run"] {
        open(&scene.path(dir), 0o755);
    }
    let traced = |output: &str| {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).arg(&program).args(["trace", "v", "--for", "1ms", "-o", output]);
        command.arg("--state-dir").arg("/nonexistent").arg("--runtime-dir").arg(scene.path("run"));
        ran(command.uid(65534).gid(65534).current_dir("/").stdin(Stdio::null()).output().unwrap())
    };
    traced("/tmp/no.trace").failed(1, &["run/views", "Permission denied", "only root and the user"]);
    // The registry is not what keeps others out.
    open(&scene.path("run/views"), 0o755);
    for file in ["v.lock", "v.json"] {
        open(&scene.path("run/views").join(file), 0o644);
    }
    traced("/tmp/no.trace")
        .failed(1, &["cannot trace the view 'v'", "Permission denied", "only root and the user"]);
    // What cannot be written is told before anything is recorded for nothing.
    scene.nixview(&["trace", "v", "-o", "/no/such/dir/x"]).failed(1, &["cannot write /no/such/dir/x"]);
    scene.nixview(&["trace", "v", "-o", "/dev/null", "--for", "1ms"]).ok();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    scene.nixview(&["trace", "v", "-o", "/tmp/ok.trace", "--for", "1ms"]).ok();
    fs::remove_file("/tmp/ok.trace").unwrap();
    scene.nixview(&["umount", "v"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "mounts"]
fn a_trace_replaces_traces_alone() {
    let scene = Scene::on("fuse");
    let notes = scene.path("notes");
    fs::write(&notes, "what somebody wrote\n").unwrap();
    let (name, fifo) = (notes.to_str().unwrap(), scene.path("fifo"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let mount = |file: &str| scene.mount("env-a", "a", &["--name", "v", "--trace", file]);
    mount(name).failed(1, &["notes", "it is there, and no trace"]);
    // The keeper has not the descriptors of who asks, and does not wait for a reader.
    for other in [fifo.to_str().unwrap(), "/dev/stdout", "/dev/fd/9"] {
        mount(other).failed(1, &["it is no regular file"]);
    }
    scene.assert_nothing_left();
    mount("/dev/null").ok();
    scene.nixview(&["umount", "v"]).ok();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    scene.mount("env-a", "a", &["--name", "v"]).ok();
    let trace = |more: &[&str]| scene.nixview(&[&["trace", "v", "--for", "1ms", "-o", name], more].concat());
    trace(&[]).failed(1, &["notes is no trace", "--force"]);
    assert_eq!(fs::read(&notes).unwrap(), b"what somebody wrote\n");
    trace(&["--force"]).ok();
    trace(&[]).ok();
    read(&notes);
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    scene.nixview(&["trace", "v", "--for", "1ms", "-o", fifo.to_str().unwrap()]).ok();
    assert!(trace::is_one(&reader.join().unwrap()));
    scene.nixview(&["umount", "v"]).ok();
    mount(name).ok();
    scene.nixview(&["umount", "v"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "mounts"]
fn a_command_is_traced_and_what_fails_leaves_nothing() {
    let scene = Scene::new();
    let file = scene.path("run.trace");
    let name = file.to_str().unwrap();
    let hello = format!("/nix/store/{}/bin/hello", scene.store.path("env-a"));
    let said = scene.run("env-a", &["--trace", name], &format!("exec {hello}")).ok();
    assert_eq!(said.out, mini_store::contents::HELLO);
    assert!(said.err.contains("1 file of 1 of ") && said.err.contains("was opened"), "{said:?}");
    let trace = read(&file);
    assert_eq!(opened(&trace), BTreeSet::from([format!("store/{}/bin/hello", scene.store.path("left"))]));
    fs::remove_file(&file).unwrap();
    scene.run("env-a", &["--trace", name], "exit 3").failed(3, &["0 files of 0 of "]);
    fs::remove_file(&file).unwrap();
    // Nowhere to write: no view, and nothing of it.
    scene
        .run("env-a", &["--trace", "/no/such/dir/t"], "true")
        .failed(1, &["cannot write the trace /no/such/dir/t"]);
    scene
        .mount("env-a", "a", &["--trace", "/no/such/dir/t"])
        .failed(1, &["cannot write the trace /no/such/dir/t"]);
    scene.assert_nothing_left();
}
