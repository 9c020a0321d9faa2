//! A view's server is killed, again and again: no client sees an error, and nothing is lost, done twice or kept.
//!
//! `NIXVIEW_SERVER_KILLS` says how often it is killed under load, and `NIXVIEW_KILL_STEP` before each how-manyth call in a
//! history, whatever `NIXVIEW_TEST_EFFORT` is. `NIXVIEW_SERVER_LOG` is what `NIXVIEW_LOG` is to the keeper and its servers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::clients::{self, CLIENTS, OPERATIONS, Place};
use crate::support::effort::{nightly, pick};
use crate::support::endurance::{self, Numbers, Worker};
use crate::support::history::{self, HISTORY, Tree};
use crate::support::scene::{self, Scene};
use crate::support::server_death::{Holds, Victim, children, parent};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};
use nixview::lock::Digest;

const WORKERS: usize = 4;

/// What a client says in the end: its name, what it knows, and how often it has done what it does.
type Ended = (String, Option<Box<Worker>>, Result<u64, String>);

/// Clients at work, each on a thread.
struct Load {
    stop: &'static AtomicBool,
    ended: mpsc::Receiver<Ended>,
    clients: usize,
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl Load {
    fn start(scene: &Scene, view: &Path, workers: Vec<Worker>) -> Self {
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let killed: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let (done, ended) = mpsc::channel();
        let clients = CLIENTS.len() + workers.len();
        // Not joined: one that hangs would hang the test.
        for mut worker in workers {
            let done = done.clone();
            thread::spawn(move || {
                let before = worker.done;
                let worked = catch_unwind(AssertUnwindSafe(|| worker.work(stop, killed)));
                let answer = worked.map(|()| worker.done - before).map_err(|panic| text(&*panic));
                drop(done.send(("worker".to_owned(), Some(Box::new(worker)), answer)));
            });
        }
        for (name, client) in CLIENTS {
            let member = |label: &str| view.join("store").join(scene.store.path(label));
            let place = Place {
                own: view.join(format!("own-{name}")),
                lower: member("left").join(name),
                hello: member("left").join("bin/hello"),
            };
            fs::create_dir(&place.own).unwrap();
            let done = done.clone();
            thread::spawn(move || {
                let keep_on = || !stop.load(Ordering::SeqCst);
                let worked = catch_unwind(AssertUnwindSafe(|| client(&place, &keep_on)));
                let answer = match worked {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(panic) => Err(text(&*panic)),
                };
                drop(done.send(((*name).to_owned(), None, answer)));
            });
        }
        Self { stop, ended, clients }
    }

    /// Stops all, and fails if one saw what it should not have.
    fn end(self) -> (Vec<Worker>, BTreeMap<String, u64>) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut workers, mut done, mut wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        for _ in 0..self.clients {
            let Ok((name, worker, answer)) = self.ended.recv_timeout(PATIENCE) else {
                panic!("a client hangs, not of those that ended: {done:?}; {wrong:?}");
            };
            workers.extend(worker.map(|worker| *worker));
            match answer {
                Ok(count) => *done.entry(name).or_default() += count,
                Err(error) => wrong.push(format!("{name}: {error}")),
            }
        }
        assert_eq!(wrong, Vec::<String>::new(), "clients saw errors; others: {done:?}");
        (workers, done)
    }
}

/// What is to be seen below a directory: kinds, modes, owners, links, times, contents.
fn shown(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = dir.join(&path);
        let found = fs::symlink_metadata(&full).unwrap();
        let mut content = String::new();
        let mut numbers = format!("{:o} {} {} {}", found.mode(), found.uid(), found.gid(), found.mtime());
        if found.is_dir() {
            todo.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        } else {
            numbers += &format!(" {} {}", found.nlink(), found.len());
        }
        if found.is_symlink() {
            content = format!("{:?}", fs::read_link(&full).unwrap());
        } else if found.is_file() {
            content = Digest::of(&fs::read(&full).unwrap()).to_string();
        }
        all.insert(path, format!("{numbers} {content}"));
    }
    all
}

fn differences(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let paths = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    let differ = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differ.map(|path| format!("{path:?}: {:?}, then {:?}", before.get(path), after.get(path))).collect()
}

/// Something that reads the view but no file, with a limit of time.
fn with_patience<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    // Not joined: it may hang.
    thread::spawn(move || drop(done.send(work())));
    ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it hangs or has failed: {what}"))
}

fn fill_store(scene: &Scene) {
    let member = scene.store.real("left");
    endurance::fill_store(&member, WORKERS);
    for (name, _) in CLIENTS {
        clients::fill(&member.join(name));
    }
}

fn workers(scene: &Scene, view: &Path) -> Vec<Worker> {
    let lower = view.join("store").join(scene.store.path("left"));
    (0..WORKERS).map(|n| Worker::new(n, view.join(format!("own{n}")), lower.join(format!("w{n}")))).collect()
}

fn kills() -> u64 {
    std::env::var("NIXVIEW_SERVER_KILLS").map_or(pick(8, 60), |number| number.parse().unwrap())
}

fn kill_under_load(io: &str) {
    let scene = Scene::new();
    fill_store(&scene);
    let store = scene.store_digest();
    let view = scene.path("a");
    let dir = view.to_str().unwrap().to_owned();
    let mut victim = Victim::mount(&scene, "web", &["--io", io]);
    let before = victim.at_rest(&dir, None);
    let started = Instant::now();
    let load = Load::start(&scene, &view, workers(&scene, &view));
    let mut numbers = Numbers(io.len() as u64);
    let first = victim.kills;
    while victim.kills < first + kills() {
        victim.kill_after(Duration::from_millis(50 + numbers.below(150) as u64));
    }
    // The last one has work, too.
    thread::sleep(Duration::from_secs(2));
    let (workers, done) = load.end();
    println!("{io}: {} kills in {:?}, {done:?}", victim.kills - first, started.elapsed());
    assert!(done.values().all(|count| *count > 0), "some did nothing: {done:?}");
    victim.server();
    assert_eq!(victim.restarts(), victim.kills);
    let in_view = view.clone();
    let check = move || {
        let mut workers = workers;
        workers.iter_mut().for_each(Worker::check);
        (workers, shown(&in_view))
    };
    let (workers, tree) = with_patience("the tree", check);
    victim.assert_nothing_kept(&dir, before);
    victim.umount();
    assert_eq!(scene.store_digest(), store, "the store was changed");
    assert_eq!(scene.names("state/uppers/web/work"), Vec::<String>::new(), "drafts are left");
    scene.assert_nothing_left();

    let victim = Victim::mount(&scene, "web", &["--io", io]);
    let check = move || {
        let mut workers = workers;
        workers.iter_mut().for_each(Worker::check);
        shown(&view)
    };
    let again = with_patience("the tree, mounted again", check);
    assert_eq!(differences(&tree, &again), Vec::<String>::new());
    victim.umount();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn no_client_sees_the_kills_with_passthrough() {
    kill_under_load("passthrough");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn no_client_sees_the_kills_with_cached_files() {
    kill_under_load("cached");
}

/// A view that is used by all clients until the answer is told to end.
fn loaded<'s>(scene: &'s Scene, options: &[&str]) -> (Victim<'s>, Load) {
    fill_store(scene);
    let view = scene.path("a");
    let victim = Victim::mount(scene, "web", options);
    let load = Load::start(scene, &view, workers(scene, &view));
    (victim, load)
}

fn ends_by_itself(scene: &Scene) {
    eventually("the processes of the view end", PATIENCE, || scene.processes().is_empty());
    scene.assert_nothing_left();
}

fn keeper_is_killed(io: &str, upper: &[&str]) {
    let scene = Scene::new();
    let (victim, load) = loaded(&scene, &[&["--io", io], upper].concat());
    let server = victim.server();
    let keeper = victim.keeper;
    scene::kill(keeper);
    victim.forget();
    eventually("the server takes over", PATIENCE, || scene.status("web")["pid"] == server);
    let status = scene.status("web");
    assert_eq!((status["state"].as_str(), &status["server"]), (Some("mounted"), &status["pid"]), "{status}");
    thread::sleep(Duration::from_millis(500));
    let (_, done) = load.end();
    println!("{io}: without a keeper, {done:?}");
    scene.nixview(&["umount", "web"]).ok();
    ends_by_itself(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_server_whose_keeper_is_killed_serves_on_and_takes_the_view_back() {
    keeper_is_killed("passthrough", &[]);
    keeper_is_killed("cached", &["--tmp"]);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_both_leave_is_swept_by_the_next_command() {
    let scene = Scene::new();
    for (at, io) in ["passthrough", "cached"].iter().enumerate() {
        let victim = Victim::mount(&scene, "web", &["--io", io, "--tmp"]);
        fs::write(scene.path("a/new"), "new").unwrap();
        if at == 0 {
            scene.kill_view("web");
        } else {
            // One after the other: the server is alone in between.
            let server = victim.server();
            scene::kill(victim.keeper);
            eventually("the server takes over", PATIENCE, || scene.status("web")["pid"] == server);
            scene::kill(server);
        }
        victim.forget();
        let status = scene.nixview(&["status"]).ok();
        assert!(status.out.contains("dead") && status.out.contains("web"), "{status:?}");
        scene.assert_nothing_left();
    }
}

/// The server dies, and the keeper while it starts another, or before, or after that.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_keeper_that_is_killed_at_a_restart_leaves_a_server_or_what_can_be_swept() {
    let scene = Scene::new();
    let (mut served, mut dead) = (0, 0);
    for round in (0..24).step_by(pick(5, 1)) {
        let io = if round % 2 == 0 { "passthrough" } else { "cached" };
        let victim = Victim::mount(&scene, "web", &["--io", io]);
        fs::write(scene.path("a/new"), "new").unwrap();
        victim.tell_to_die();
        thread::sleep(Duration::from_micros(round * 100));
        scene::kill(victim.keeper);
        victim.forget();
        // The first of them sweeps, if there is something to sweep.
        let mut states = Vec::new();
        eventually("it is served or swept", PATIENCE, || {
            let ran = scene.nixview(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            let Some(view) = status.get(0) else { return true };
            states.push(view["state"].as_str().unwrap().to_owned());
            view["state"] == "mounted" && view["pid"] == view["server"]
        });
        if scene.processes().is_empty() {
            dead += 1;
        } else {
            served += 1;
            assert_eq!(scene.shell("cat a/new").ok().out, "new", "{states:?}");
            scene.nixview(&["umount", "web"]).ok();
        }
        ends_by_itself(&scene);
    }
    println!("{served} served on, {dead} were swept");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_restarts_the_death_of_the_server_ends_the_view() {
    let scene = Scene::new();
    for io in ["passthrough", "cached"] {
        let mut victim = Victim::mount(&scene, "web", &["--io", io, "--no-restart", "--tmp"]);
        fs::write(scene.path("a/new"), "new").unwrap();
        let open = File::open(scene.path("a/new")).unwrap();
        let directory = File::open(scene.path("a")).unwrap();
        victim.kill();
        ends_by_itself(&scene);
        victim.failed("killed by signal 9");
        // Nothing is mounted, and who has something open is told.
        assert_eq!(scene.names("a"), Vec::<String>::new());
        let asked = with_patience("a view that is gone", move || rustix::fs::fstatfs(&directory).map(drop));
        assert_eq!(asked, Err(rustix::io::Errno::NOTCONN));
        drop(open);
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_server_that_dies_again_and_again_is_given_up() {
    let scene = Scene::on("fuse");
    let victim = Victim::mount(&scene, "web", &["--tmp"]);
    fs::write(scene.path("a/new"), "new").unwrap();
    let view = scene.path("a");
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let asked = loop {
            if let Err(error) = rustix::fs::statfs(&view) {
                break error;
            }
        };
        done.send(asked)
    });
    let started = Instant::now();
    let mut kills = 0;
    while parent(victim.keeper).is_some() && started.elapsed() < PATIENCE {
        for server in children(victim.keeper) {
            let pid = rustix::process::Pid::from_raw(server).unwrap();
            // It may have been waited for meanwhile, but nothing else can have its number so soon.
            kills += u64::from(rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
        }
        thread::sleep(Duration::from_millis(1));
        if victim.has_ended() {
            break;
        }
    }
    println!("given up after {kills} kills in {:?}", started.elapsed());
    assert!(kills >= 20);
    victim.failed("it is not started again");
    let told = ended.recv_timeout(PATIENCE).expect("a client hangs");
    use rustix::io::Errno;
    assert!([Errno::NOTCONN, Errno::CONNABORTED, Errno::NODEV].contains(&told), "{told}");
    ends_by_itself(&scene);
    assert_eq!(scene.names("a"), Vec::<String>::new());
}

/// A command in a private view that works when it is told to, line by line.
const TOLD: &str =
    "while read line; do hello > /nix/made && cat /nix/made && rm /nix/made || exit 9; done; exit 7";

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_command_in_a_view_of_its_own_goes_on() {
    let scene = Scene::new();
    for io in ["passthrough", "cached"] {
        let mut command = scene.direct();
        command.args(["run", "--io", io, "--closure"]).arg(scene.path("env-a.lock"));
        command.arg("--store").arg(scene.store.root()).args(["--", "/bin/sh", "-c", TOLD]).current_dir("/");
        told_what_to_do(&scene, command, 7);
        ends_by_itself(&scene);
    }
}

/// Runs a command that does [`TOLD`], and kills the server of its view between the lines and at work.
fn told_what_to_do(scene: &Scene, mut command: Command, code: i32) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (said, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(from).lines().try_for_each(|line| said.send(line.unwrap())));
    let mut works = |times: usize| {
        to.write_all("now\n".repeat(times).as_bytes()).unwrap();
        for _ in 0..times {
            let line = lines.recv_timeout(PATIENCE).expect("the command hangs or has ended");
            assert_eq!(format!("{line}\n"), mini_store::contents::HELLO);
        }
    };
    works(1);
    let names = scene.names("run/views");
    let name = names.iter().find_map(|file| file.strip_suffix(".json")).unwrap_or(&names[0]).to_owned();
    let mut victim = Victim::new(scene, &name);
    for round in 0..pick(3, 10) {
        // While nobody uses the view.
        victim.kill();
        works(1 + round % 3);
    }
    assert_eq!(victim.restarts(), victim.kills);
    drop(to);
    eventually("the command ends", PATIENCE, || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(code));
}

/// The hook that was built with nixview (`cargo build --workspace --bins`).
fn hook() -> PathBuf {
    let hook = Path::new(env!("CARGO_BIN_EXE_nixview")).with_file_name("nixview-oci-hook");
    assert!(hook.exists(), "no nixview-oci-hook beside nixview: cargo build --workspace --bins");
    hook
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn a_container_goes_on() {
    let scene = Scene::on("fuse");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-images/oci");
    let prepared = |program: &str| {
        let mut command = Command::new(scripts.join(program));
        command.env("NIXVIEW", env!("CARGO_BIN_EXE_nixview")).env("NIXVIEW_OCI_HOOK", hook());
        command.env("NIXVIEW_STATE_DIR", scene.path("state")).env("NIXVIEW_RUNTIME_DIR", scene.path("run"));
        command.env("TMPDIR", scene.dir.path()).env_remove("NIXVIEW_LOG").stdin(Stdio::null());
        scene.choose_backend(&mut command);
        command
    };
    let probed = scene::ran(prepared("probe").arg("runc").output().unwrap());
    if probed.code != Some(0) {
        skip!("containers of runc do not run here: {}", probed.err);
        return;
    }
    let mut command = prepared("run");
    command.args(["--runtime", "runc", "--how", "hook", "--store"]).arg(scene.store.root());
    command.arg(scene.path("env-a.lock")).args(["--", "/bin/sh", "-c", TOLD]);
    told_what_to_do(&scene, command, 7);
    ends_by_itself(&scene);
}

/// What a server calls that changes something, here or for somebody else.
const CALLS: &[&str] = &[
    "mkdirat",
    "mknodat",
    "symlinkat",
    "linkat",
    "unlinkat",
    "renameat2",
    "fchmodat",
    "fchownat",
    "setxattr",
    "removexattr",
    "utimensat",
    "ftruncate",
    "pwrite64",
    "fsync",
    "sendmsg",
    "openat2",
    "ioctl",
    // The answers.
    "writev",
];

/// Trees for a history each, in a member of the store.
struct Histories<'s> {
    scene: &'s Scene,
    victim: Victim<'s>,
    lower: PathBuf,
    next: usize,
    /// What shows in the end.
    wanted: Tree,
}

/// So many; each kill needs one.
fn histories() -> usize {
    if std::env::var_os("NIXVIEW_KILL_STEP").is_some() { 2000 } else { pick(30, 2000) }
}

/// A history with all that may be done once, from a tree that nobody has used yet, with files open that it takes the
/// names of.
fn run_history(dir: &Path) -> io::Result<()> {
    let open = ["f8", "f9"].map(|name| File::open(dir.join(name)).unwrap());
    for (what, operation) in HISTORY {
        operation(dir).map_err(|error| io::Error::other(format!("{what}: {error}")))?;
    }
    run_operations(dir)?;
    for (file, name) in open.iter().zip(["f8", "f9"]) {
        let mut content = vec![0; 10_000];
        file.read_exact_at(&mut content, 0)?;
        assert!(content == name.repeat(5000).as_bytes(), "{name}, open and without a name");
    }
    Ok(())
}

fn run_operations(dir: &Path) -> io::Result<()> {
    OPERATIONS.iter().try_for_each(|(what, operation)| {
        operation(&dir.join("once")).map_err(|error| io::Error::other(format!("{what}: {error}")))
    })
}

impl<'s> Histories<'s> {
    fn new(scene: &'s Scene, io: &str) -> Self {
        for at in 0..histories() {
            let dir = scene.store.real("left").join(format!("h{at}"));
            fs::create_dir(&dir).unwrap();
            history::fill(&dir);
            fs::create_dir(dir.join("once")).unwrap();
        }
        history::expected(scene.dir.path());
        let plain = scene.path("plain");
        fs::create_dir(plain.join("once")).unwrap();
        run_operations(&plain).unwrap();
        let victim = Victim::mount(scene, "web", &["--io", io, "--threads", "1"]);
        let lower = scene.path("a/store").join(scene.store.path("left"));
        Self { scene, victim, lower, next: 0, wanted: history::tree(&plain) }
    }

    /// Runs a history while `kill` does what it does, which gets what starts it and what waits for its end.
    fn run<T>(&mut self, what: &str, kill: impl FnOnce(&mut Victim<'s>, &dyn Fn(), &dyn Fn()) -> T) -> T {
        let dir = self.lower.join(format!("h{}", self.next));
        self.next += 1;
        let (done, ended) = mpsc::channel();
        let (start, started) = mpsc::channel();
        // Not joined: it may hang.
        thread::spawn(move || {
            started.recv().unwrap();
            let answer = catch_unwind(AssertUnwindSafe(|| run_history(&dir)));
            let answer = match answer {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(panic) => Err(text(&*panic)),
            };
            done.send((answer, dir))
        });
        let finish = || {
            let (answer, dir) = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what}: it hangs"));
            assert_eq!(answer, Ok(()), "{what}");
            let tree = with_patience("the tree", move || history::tree(&dir));
            assert_right(what, &tree, &self.wanted);
        };
        kill(&mut self.victim, &|| start.send(()).unwrap(), &finish)
    }

    /// Unmounts, mounts again, and looks at all trees once more.
    fn end(self, io: &str, before: Holds) {
        let Self { scene, mut victim, lower, next, wanted } = self;
        victim.assert_nothing_kept(scene.path("a").to_str().unwrap(), before);
        victim.umount();
        scene.assert_nothing_left();
        let victim = Victim::mount(scene, "web", &["--io", io]);
        let check = move || {
            for at in 0..next {
                assert_right("mounted again", &history::tree(&lower.join(format!("h{at}"))), &wanted);
            }
        };
        with_patience("the trees, mounted again", check);
        victim.umount();
        assert_eq!(scene.names("state/uppers/web/work"), Vec::<String>::new(), "drafts are left");
        scene.assert_nothing_left();
    }
}

fn assert_right(what: &str, tree: &Tree, wanted: &Tree) {
    let paths = wanted.keys().chain(tree.keys()).collect::<std::collections::BTreeSet<_>>();
    for path in paths.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        assert_eq!(tree.get(path), wanted.get(path), "{what}: {path:?}");
    }
}

/// Before which of its calls a server is killed.
fn places(io: &str) -> Vec<usize> {
    match std::env::var("NIXVIEW_KILL_STEP") {
        Ok(step) => (1..100_000).step_by(step.parse().unwrap()).collect(),
        Err(_) if nightly() => (1..100_000).step_by(7).collect(),
        Err(_) if io == "passthrough" => vec![1],
        Err(_) => vec![2],
    }
}

fn kill_at_calls(io: &str) {
    let scene = Scene::new();
    let mut histories = Histories::new(&scene, io);
    let dir = scene.path("a").to_str().unwrap().to_owned();
    let before = histories.victim.at_rest(&dir, None);
    let mut kills = BTreeMap::new();
    for call in CALLS.iter().filter(|call| io == "passthrough" || **call != "ioctl") {
        let mut count = 0;
        for n in places(io) {
            let killed = histories.run(&format!("{call} {n}"), |victim, start, finish| {
                victim.killed_at(call, n, || {
                    start();
                    finish();
                })
            });
            if !killed {
                break;
            }
            count += 1;
        }
        kills.insert(*call, count);
    }
    println!("{io}: {} kills: {kills:?}", kills.values().sum::<usize>());
    assert!(kills.values().all(|count| *count > 0), "the history needs not all: {kills:?}");
    histories.end(io, before);
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn each_operation_is_done_once_with_passthrough() {
    kill_at_calls("passthrough");
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn each_operation_is_done_once_with_cached_files() {
    kill_at_calls("cached");
}

/// What a server calls until it serves, and its keeper does not.
const CALLS_AT_START: &[&str] =
    &["pread64", "ftruncate", "pwrite64", "openat2", "unlinkat", "dup3", "ioctl", "sendmsg"];

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_server_that_is_killed_before_it_serves_has_lost_nothing() {
    let scene = Scene::new();
    let mut histories = Histories::new(&scene, "passthrough");
    let dir = scene.path("a").to_str().unwrap().to_owned();
    let before = histories.victim.at_rest(&dir, None);
    let mut kills = BTreeMap::new();
    for call in CALLS_AT_START {
        for n in 1..=pick(1, 3) {
            let first = histories.victim.restarts();
            let time = Duration::from_millis(10 * n as u64);
            histories.run(&format!("{call} {n}"), |victim, start, finish| {
                victim.killed_at_start(call, n, start, time);
                finish();
            });
            *kills.entry(*call).or_default() += histories.victim.restarts() - first;
        }
    }
    println!("{} kills: {kills:?}", kills.values().sum::<u64>());
    assert!(kills.values().sum::<u64>() > pick(8, 24), "servers are not killed at their start: {kills:?}");
    histories.end("passthrough", before);
}
