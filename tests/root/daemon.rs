//! `nixview daemon`: who may what, what stays when it dies, and what it takes to exhaust it.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nixview::control::{Backend, Client, ControlError, MountRequest, Place, Stopped, Upper, ViewRef};
use nixview::sys::{mount, socket};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::scene::{Ran, Scene};
use crate::support::wait::{PATIENCE, eventually};

/// A daemon for the scene's runtime directory, ended with the value.
struct Daemon(Child);

impl Daemon {
    fn start(scene: &Scene) -> Self {
        Self::with(scene, &[])
    }

    fn with(scene: &Scene, more: &[&str]) -> Self {
        let mut command = scene.direct();
        command.arg("daemon").arg("--store").arg(scene.store.root()).args(more);
        let daemon = Self(command.stderr(File::create(scene.path("daemon.log")).unwrap()).spawn().unwrap());
        eventually("the daemon listens", PATIENCE, || {
            Client::connect(&scene.path("run/control.sock")).is_ok_and(|c| c.is_some())
        });
        daemon
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A client of the scene's daemon, or of a `nixview` of its own.
fn client(scene: &Scene, daemon: bool) -> Client {
    if daemon {
        return Client::connect(&scene.path("run/control.sock")).unwrap().expect("a daemon");
    }
    let mut program = scene.direct();
    program.args(["daemon", "--once"]);
    Client::start(program).unwrap()
}

fn handed(scene: &Scene, name: &str) -> (MountRequest, File) {
    let lock = scene.path("env-a.lock");
    let place = Place::Handed { purpose: "a test".to_owned() };
    let mut request = MountRequest::new(lock.clone(), place, Upper::Temporary);
    request.name = Some(name.to_owned());
    request.store = scene.store.root().to_owned();
    request.backend = Backend::Fuse;
    (request, File::open(lock).unwrap())
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn views_serve_on_when_the_daemon_is_killed_and_the_next_one_knows_them() {
    let scene = Scene::on("fuse");
    let daemon = Daemon::start(&scene);
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    scene.mount("env-b", "b", &["--name", "db"]).ok();
    let log = fs::read_to_string(scene.path("daemon.log")).unwrap();
    assert_eq!(log, "", "nothing is said that was not asked for");
    let before = scene.names("a/store");
    fs::write(scene.path("a/kept"), "written before").unwrap();
    daemon.kill();

    assert_eq!(scene.names("a/store"), before);
    assert_eq!(fs::read_to_string(scene.path("a/kept")).unwrap(), "written before");
    // Without a daemon the same commands work, on the views that it had mounted as well.
    assert!(scene.nixview(&["status"]).ok().out.contains("web"));
    scene.nixview(&["umount", "db"]).ok();

    // A server that dies while no daemon runs is cleaned up after by the next one, without being asked.
    scene.mount("env-b", "b", &["--name", "db", "--tmp"]).ok();
    scene.kill_view("db");
    let daemon = Daemon::start(&scene);
    eventually("what the dead server left is gone", PATIENCE, || {
        scene.names("run/views") == ["web.json", "web.lock"] && scene.names("state/temporary").len() == 1
    });
    assert_eq!(scene.mounts(), [scene.path("a")]);
    assert_eq!(scene.nixview(&["status"]).ok().out.lines().count(), 2);
    scene.nixview(&["umount", "web"]).ok();
    daemon.end();
    assert!(!scene.path("run/control.sock").exists());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_is_handed_over_and_ends_with_its_mount() {
    let scene = Scene::on("fuse");
    for with_daemon in [true, false] {
        let daemon = with_daemon.then(|| Daemon::start(&scene));
        let asked = client(&scene, with_daemon);
        let (request, lock) = handed(&scene, "given");
        let mounted = asked.mount(&request, lock.as_fd(), None).unwrap();
        assert_eq!((mounted.name.as_str(), mounted.warnings.len()), ("given", 0));
        let view = mounted.mount.expect("a detached mount");
        assert!(scene.nixview(&["status"]).ok().out.contains("a test"));
        let target = mount::open_target(&scene.path("a")).unwrap();
        mount::attach(view.as_fd(), target.as_fd()).unwrap();
        drop((view, target));
        assert_eq!(scene.names("a/store").len(), scene.store.closure("env-a").len());
        // Another one of the name is refused, and told why.
        let error = asked.mount(&request, File::open(scene.path("env-a.lock")).unwrap().as_fd(), None);
        assert!(error.unwrap_err().to_string().contains("given"));
        scene.shell("umount a").ok();
        let answer = asked.unmount(ViewRef::Name("given".to_owned()), false).unwrap();
        assert!(matches!(answer.1, Stopped::Ended | Stopped::Absent), "{answer:?}");

        // One that nobody gives a place ends by itself, with all that it had.
        let (request, lock) = handed(&scene, "dropped");
        drop(asked.mount(&request, lock.as_fd(), None).unwrap());
        eventually("the view that nobody took ends", PATIENCE, || scene.names("run/views").is_empty());

        // One that is still used is ended all the same if that is asked for.
        let (request, lock) = handed(&scene, "used");
        let mounted = asked.mount(&request, lock.as_fd(), None).unwrap();
        let error = asked.unmount(ViewRef::Name("used".to_owned()), false).unwrap_err();
        assert!(error.to_string().contains("in use: a test"), "{error}");
        let answer = asked.unmount(ViewRef::Name("used".to_owned()), true).unwrap();
        assert_eq!(answer, ("used".to_owned(), Stopped::Ended));
        drop(mounted);
        assert_eq!(
            asked.unmount(ViewRef::Name("used".to_owned()), true).unwrap().1,
            Stopped::Absent,
            "ending twice is no error"
        );
        drop(asked);
        if let Some(daemon) = daemon {
            daemon.end();
        }
        scene.assert_nothing_left();
    }
}

/// `nixview` as another user, with a home of its own and the scene's daemon.
fn as_user(scene: &Scene, uid: u32, arguments: &str) -> Ran {
    let dir = scene.dir.path().display();
    let program = env!("CARGO_BIN_EXE_nixview");
    scene.shell(&format!(
        "setpriv --reuid={uid} --regid={uid} --clear-groups env HOME={dir}/home {program} \
         --state-dir {dir}/home/{uid} --runtime-dir {dir}/run {arguments}"
    ))
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn users_get_views_of_their_own_and_nothing_else() {
    let scene = Scene::new();
    scene
        .shell(
            "chmod 755 . && mkdir -m 0777 home && mkdir mine two && chown 65534:65534 mine two && chmod a+r *.lock",
        )
        .ok();
    let daemon = Daemon::with(&scene, &["--views-per-user", "1"]);
    let dir = scene.dir.path().display();
    let store = scene.store.root().display();
    let lock = format!("--closure {dir}/env-a.lock --store {store}");

    // Who may connect is the socket's mode; root's alone unless somebody opens it.
    assert_eq!(fs::metadata(scene.path("run/control.sock")).unwrap().mode() & 0o777, 0o600);
    scene.shell("chmod 666 run/control.sock").ok();

    scene.mount("env-b", "b", &["--name", "roots", "--tmp"]).ok();
    assert_eq!(fs::metadata(scene.path("run/views")).unwrap().mode() & 0o777, 0o700);
    as_user(&scene, 65534, &format!("mount {lock} --tmp --name web {dir}/mine")).ok();
    as_user(&scene, 65534, &format!("mount {lock} --tmp {dir}/a")).failed(1, &["belongs to the user 0"]);
    as_user(&scene, 65533, &format!("mount {lock} --tmp --name web {dir}/mine"))
        .failed(1, &["a view is mounted on"]);
    as_user(&scene, 65534, &format!("mount {lock} --upper {dir}/home/up {dir}/mine")).failed(1, &[]);
    as_user(&scene, 65534, &format!("mount {lock} --owner 0:0 --tmp {dir}/mine")).failed(1, &[]);

    as_user(&scene, 65534, &format!("mount {lock} --tmp {dir}/two")).failed(1, &["as many as"]);

    // It is the user's: passthrough, by root's daemon, and they write it.
    let shown = as_user(&scene, 65534, "status --json").ok().out;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    assert_eq!((&shown[0]["name"], &shown[0]["uid"]), (&"u65534-web".into(), &65534.into()));
    let found = fs::metadata(scene.path("mine/store")).unwrap();
    assert_eq!((found.uid(), found.gid()), (65534, 65534));
    let write = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    scene.shell(&format!("{write} sh -c 'echo changed >mine/store/own && cat mine/store/own'")).ok();
    scene
        .shell("setpriv --reuid=65533 --regid=65533 --clear-groups sh -c 'echo x >mine/store/own'")
        .failed(2, &[]);

    // Its log is theirs, too, and nobody else's.
    let log = as_user(&scene, 65534, "logs --json web").ok().out;
    assert!(log.contains("the view can be used"), "{log}");
    as_user(&scene, 65533, "logs web").failed(1, &["there is no log of a view named"]);
    as_user(&scene, 65533, "logs u65534-web").failed(1, &["there is no log of a view named"]);
    as_user(&scene, 65534, "logs roots").failed(1, &["there is no log of a view named"]);

    // Others' views neither show nor end.
    assert_eq!(as_user(&scene, 65533, "status --json").ok().out.trim(), "[]");
    for view in ["u65534-web", "web", "roots", &format!("{dir}/b")] {
        as_user(&scene, 65533, &format!("umount {view}")).failed(1, &[]);
    }
    as_user(&scene, 65534, "umount roots").failed(1, &[]);
    as_user(&scene, 65534, "umount web").ok();

    // A kept upper is in the daemon's state directory, apart by user.
    as_user(&scene, 65534, &format!("mount {lock} --name web {dir}/mine")).ok();
    scene.shell(&format!("{write} touch mine/store/kept")).ok();
    as_user(&scene, 65534, &format!("umount {dir}/mine")).ok();
    assert!(scene.path("state/users/65534/web/tree/nix/store/kept").exists());
    scene.nixview(&["umount", "roots"]).ok();
    daemon.end();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn requests_at_once_get_a_user_no_more_views_than_one_may_have() {
    let scene = Scene::new();
    scene
        .shell("chmod 755 . && mkdir -m 0777 home && chmod a+r *.lock && mkdir m1 m2 m3 m4 m5 m6 m7 m8")
        .ok();
    scene.shell("chown 65534:65534 m?").ok();
    let daemon = Daemon::with(&scene, &["--views-per-user", "2"]);
    scene.shell("chmod 666 run/control.sock").ok();
    let dir = scene.dir.path().display();
    let lock = format!("--closure {dir}/env-a.lock --store {}", scene.store.root().display());
    let ran: Vec<Ran> = std::thread::scope(|scope| {
        let mount = |number| {
            let arguments = format!("mount {lock} --tmp --name v{number} {dir}/m{number}");
            let scene = &scene;
            scope.spawn(move || as_user(scene, 65534, &arguments))
        };
        let all: Vec<_> = (1..=8).map(mount).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (mounted, refused): (Vec<_>, Vec<_>) = ran.into_iter().partition(|ran| ran.code == Some(0));
    assert_eq!(mounted.len(), 2, "{refused:?}");
    assert!(refused.iter().all(|ran| ran.err.contains("has 2 views, which is as many as")), "{refused:?}");
    assert_eq!(scene.mounts().len(), 2);
    for number in 1..=8 {
        as_user(&scene, 65534, &format!("umount v{number}"));
    }
    daemon.end();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_is_no_request_costs_its_sender_alone() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene);
    let path = scene.path("run/control.sock");
    let listed = |client: &Client| client.views().unwrap().len();

    for garbage in [
        &b"{"[..],
        b"\0",
        b"[]",
        br#"{"version":2,"operation":"list"}"#,
        br#"{"version":1}"#,
        &[b'x'; 100_000],
    ] {
        let end = socket::connect(&path).unwrap();
        socket::send(&end, garbage, None).unwrap();
        let (answer, _) = socket::receive(&end, 100_000).unwrap();
        assert!(String::from_utf8(answer).unwrap().contains("no request"));
        assert_eq!(socket::receive(&end, 100).unwrap().0, b"", "the connection is closed");
    }
    // A lock that is none, is not there, is a device, or comes without its directory.
    let (request, _) = handed(&scene, "odd");
    let asked = client(&scene, true);
    for (file, why) in [("/dev/zero", "no regular file"), ("/proc/self/mem", ""), ("/bin/sh", "cannot use")] {
        let Ok(file) = File::open(file) else { continue };
        let error = asked.mount(&request, file.as_fd(), None).unwrap_err();
        assert!(matches!(&error, ControlError::Failed { what, .. } if what.contains(why)), "{error:?}");
    }
    let lock = File::open(scene.path("env-a.lock")).unwrap();
    let somewhere = File::open(scene.path("a")).unwrap();
    let error = asked.mount(&request, lock.as_fd(), Some(somewhere.as_fd())).unwrap_err();
    assert!(error.to_string().contains("only then"), "{error}");

    // Ten thousand that connect and say nothing, or vanish: root is served all the same.
    let mut silent: Vec<OwnedFd> = Vec::new();
    let before = scene.processes().len();
    for number in 0..10_000 {
        let end = socket::connect(&path).unwrap();
        if number % 400 == 0 && silent.len() < 20 {
            silent.push(end);
        }
    }
    assert_eq!(listed(&client(&scene, true)), 0);
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    assert_eq!(listed(&client(&scene, true)), 1);
    assert!(scene.processes().len() < before + 80, "workers are bounded");
    drop(silent);
    scene.nixview(&["umount", "web"]).ok();
    drop(asked);
    eventually("the workers end", PATIENCE, || scene.processes().len() == 1);
    daemon.end();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_user_who_hoards_connections_is_refused_and_root_is_served() {
    let scene = Scene::new();
    let daemon = Daemon::start(&scene);
    scene.shell("chmod 755 . && chmod 666 run/control.sock").ok();
    let path = scene.path("run/control.sock");
    // Another user's connections, opened by a thread that is that user.
    let hoard = std::thread::spawn({
        let path = path.clone();
        move || {
            let uid = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            (0..100).map(|_| socket::connect(&path).unwrap()).collect::<Vec<_>>()
        }
    });
    let hoard = hoard.join().unwrap();
    assert_eq!(client(&scene, true).views().unwrap(), Vec::<serde_json::Value>::new());
    let refused = hoard.iter().filter(|end| {
        socket::set_receive_timeout(end, Duration::from_millis(5)).unwrap();
        socket::receive(end, 10_000)
            .is_ok_and(|(text, _)| String::from_utf8(text).unwrap().contains("too many"))
    });
    assert_eq!(refused.count(), 100 - nixview::daemon::service::PER_USER);
    drop(hoard);
    daemon.end();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_service_manager_hands_the_socket_over_and_is_told() {
    let scene = Scene::new();
    let listener = socket::listen(&scene.path("given.sock")).unwrap();
    let told = UnixDatagram::bind(scene.path("told")).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let dir = scene.dir.path().display();
    let line = format!(
        "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec {} --state-dir {dir}/state --runtime-dir {dir}/run daemon",
        env!("CARGO_BIN_EXE_nixview")
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &line]).env("NOTIFY_SOCKET", scene.path("told")).stdin(Stdio::from(listener));
    let daemon = Daemon(command.spawn().unwrap());
    let mut word = [0; 100];
    let length = told.recv(&mut word).unwrap();
    assert_eq!(word[..length].trim_ascii(), b"READY=1");
    let asked = Client::connect(&scene.path("given.sock")).unwrap().expect("a daemon");
    assert_eq!(asked.views().unwrap().len(), 0);
    drop(asked);
    daemon.end();
    assert!(scene.path("given.sock").exists(), "it is the manager's");

    // What is handed over must be such a socket.
    let line = line.replace("3<&0", "3</dev/null");
    let output = Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    scene.assert_nothing_left();
}
