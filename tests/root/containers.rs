//! Containers of runc, crun, podman and bubblewrap with views of a tiny store: by hook, as devices, bound in.
//!
//! Uses the scripts of `test-images/oci`, which people use as well, and the hook beside nixview
//! (`cargo build --workspace --bins`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::scene::{self, Ran, Scene, on_each_backend};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-images/oci")
}

/// The hook that was built with nixview.
pub(crate) fn hook() -> PathBuf {
    let hook = Path::new(env!("CARGO_BIN_EXE_nixview")).with_file_name("nixview-oci-hook");
    let built = fs::metadata(&hook).and_then(|found| found.modified());
    let built = built.expect("no nixview-oci-hook beside nixview: cargo build --workspace --bins");
    for below in ["mount-helpers/oci-hook", "src/control", "src/sys"] {
        for source in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(below)).unwrap().flatten() {
            let changed = source.metadata().unwrap().modified().unwrap();
            assert!(
                changed <= built,
                "nixview-oci-hook is older than its sources: cargo build --workspace --bins"
            );
        }
    }
    hook
}

/// A scene whose views are made by hooks.
struct Host {
    scene: Scene,
    store: Vec<String>,
    hook: PathBuf,
}

impl Host {
    fn new() -> Self {
        Self::of(Scene::new())
    }

    fn of(scene: Scene) -> Self {
        let store = scene.store_digest();
        Self { scene, store, hook: hook() }
    }

    fn text(&self, below: &str) -> String {
        self.scene.path(below).to_str().unwrap().to_owned()
    }

    /// `test-images/oci/run`: a shell script in a container with a view of env-a.
    fn run(&self, runtime: &str, how: &str, script: &str) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).arg(scripts().join("run")).args(["--runtime", runtime, "--how", how]);
        command.arg("--store").arg(self.scene.store.root()).arg(self.scene.path("env-a.lock"));
        command.args(["--", "/bin/sh", "-c", script]);
        self.environment(&mut command);
        scene::ran(command.output().unwrap())
    }

    fn environment(&self, command: &mut Command) {
        command.env("NIXVIEW", env!("CARGO_BIN_EXE_nixview")).env("NIXVIEW_OCI_HOOK", &self.hook);
        command.env("NIXVIEW_STATE_DIR", self.scene.path("state"));
        command.env("NIXVIEW_RUNTIME_DIR", self.scene.path("run"));
        command.env("TMPDIR", self.scene.dir.path()).env_remove("NIXVIEW_LOG").stdin(Stdio::null());
        self.scene.choose_backend(command);
    }

    /// The root that containers of `container` have, with `/nix` as `PLANT` says.
    fn rootfs(&self, plant: Option<&str>) {
        let mut command = Command::new(scripts().join("rootfs"));
        command.arg(self.scene.path("rootfs"));
        command.envs(plant.map(|target| ("PLANT", target)));
        assert!(command.status().unwrap().success());
    }

    /// A bundle for a container of runc whose view is described by annotations.
    fn bundle(&self, annotations: &[(&str, &str)], more: &[&str], script: &str) {
        let state = self.text("state");
        let runtime = self.text("run");
        let hook = self.hook.to_str().unwrap();
        let mut command = Command::new("python3");
        command.arg(scripts().join("bundle.py")).arg(self.scene.dir.path()).args(["--env", "PATH=/bin"]);
        for (name, value) in annotations {
            command.args(["--annotation", &format!("dev.nixview.{name}={value}")]);
        }
        if !more.contains(&"--hook") {
            command.args(["--hook", hook, "--state-dir", &state, "--runtime-dir", &runtime, ";"]);
        }
        command.args(more).args(["--", "/bin/sh", "-c", script]);
        assert!(command.status().unwrap().success());
    }

    /// The usual annotations, and more.
    fn annotated(&self, more: &[(&str, &str)], options: &[&str], script: &str) {
        let lock = self.text("env-a.lock");
        let store = self.text("s");
        let mut all = vec![("closure", lock.as_str()), ("store", store.as_str())];
        all.extend(self.scene.backend().map(|backend| ("backend", backend)));
        all.extend(more);
        self.bundle(&all, options, script);
    }

    fn runc(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", "runc", "--root"]).arg(self.scene.path("runc")).args(words);
        command.current_dir(self.scene.dir.path()).stdin(Stdio::null());
        command
    }

    /// The id of the bundle's container: runc names its control group by it, and tests run at once.
    fn id(&self) -> &str {
        self.scene.dir.path().file_name().unwrap().to_str().unwrap()
    }

    /// Runs the bundle.
    fn run_bundle(&self) -> Ran {
        scene::ran(self.runc(&["run", self.id()]).output().unwrap())
    }

    /// Fails if something of a view stays longer than a server takes to end by itself, or the store was changed.
    fn assert_nothing_left(&self) {
        eventually("the servers end", PATIENCE, || self.scene.processes().is_empty());
        self.scene.assert_nothing_left();
        assert_eq!(self.scene.store_digest(), self.store, "the store was changed");
        let left: Vec<_> = self.scene.names("").into_iter().filter(|name| name.starts_with("oci.")).collect();
        assert_eq!(left, Vec::<String>::new(), "directories of containers");
    }
}

/// True if this machine runs containers of `runtime`; else says why not.
fn runs(host: &Host, runtime: &str) -> bool {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60"]).arg(scripts().join("probe")).arg(runtime);
    host.environment(&mut command);
    let probed = scene::ran(command.output().unwrap());
    if probed.code != Some(0) {
        let said = probed.err.lines().last().unwrap_or("it says nothing").to_owned();
        skip!("containers of {runtime} do not run here: {said}");
    }
    probed.code == Some(0)
}

/// What every container with a view of env-a must find, and do.
fn has_its_view(host: &Host, runtime: &str, how: &str) {
    let script =
        "set -e; ls /nix/store; echo --; sed -n 's|.* /nix .* - \\([a-z.]*\\) .*|\\1|p' /proc/self/mountinfo
        hello; id -u; echo changed > /nix/new
        c=$(echo /nix/store/*-config.txt); chmod +w $c; echo mine > $c; cat /nix/new $c; exit 7";
    let ran = host.run(runtime, how, script).failed(7, &[]);
    let (listed, rest) = ran.out.split_once("--\n").unwrap();
    let mut want = host.scene.store.closure("env-a");
    want.sort_unstable();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, want, "{runtime} by {how}");
    let kind = if host.scene.by_overlayfs() { "overlay" } else { "fuse.nixview" };
    let hello = mini_store::contents::HELLO;
    assert_eq!(rest, format!("{kind}\n{hello}0\nchanged\nmine\n"), "{runtime} by {how}");
    host.assert_nothing_left();
}

fn in_each_way(runtime: &str, ways: &[&str]) {
    for host in on_each_backend().map(Host::of) {
        if runs(&host, runtime) {
            ways.iter().for_each(|how| has_its_view(&host, runtime, how));
        }
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn containers_of_runc_have_their_view() {
    in_each_way("runc", &["hook", "bind"]);
}

#[test]
#[ignore = "needs root, /dev/fuse and crun"]
fn containers_of_crun_have_their_view() {
    in_each_way("crun", &["hook", "bind"]);
}

#[test]
#[ignore = "needs root, /dev/fuse and podman"]
fn containers_of_podman_have_their_view() {
    in_each_way("podman", &["hook", "cdi", "bind"]);
}

#[test]
#[ignore = "needs root, /dev/fuse and bubblewrap"]
fn containers_of_bubblewrap_have_their_view() {
    in_each_way("bwrap", &["bind"]);
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn annotations_say_where_changes_go_and_who_owns_them() {
    for host in on_each_backend().map(Host::of) {
        if !runs(&host, "runc") {
            continue;
        }
        host.rootfs(None);
        let upper = host.text("upper");
        host.annotated(
            &[("upper", &upper), ("owner", "7:8")],
            &[],
            "stat -c %u:%g /nix /nix/store; echo kept > /nix/new",
        );
        assert_eq!(host.run_bundle().ok().out, "7:8\n7:8\n");
        host.assert_nothing_left();
        host.annotated(&[("upper", &upper)], &[], "cat /nix/new");
        assert_eq!(host.run_bundle().ok().out, "kept\n");
        host.assert_nothing_left();
        host.annotated(&[("readonly", "true")], &[], "touch /nix/new 2>&1; ! test -e /nix/new");
        assert!(host.run_bundle().ok().out.contains("Read-only"));
        host.assert_nothing_left();
        // A container without annotations is left alone.
        host.bundle(&[], &[], "ls /nix");
        assert_eq!(host.run_bundle().ok().out, "");
        host.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn a_hook_that_fails_stops_the_container_and_says_why() {
    let host = Host::new();
    if !runs(&host, "runc") {
        return;
    }
    host.rootfs(None);
    let broken = host.scene.lock("env-b", |lock| lock.closure.count += 1);
    let broken = broken.to_str().unwrap();
    for (annotation, told) in [
        (("closure", "/nowhere/env.lock"), "/nowhere/env.lock: No such file"),
        (("closure", broken), "env-b.lock"),
        (("colour", "red"), "no annotation 'dev.nixview.colour'"),
        (("owner", "me"), "two numbers"),
        (("store", "/nowhere"), "/nowhere"),
    ] {
        host.annotated(&[annotation], &[], "echo it runs");
        let ran = host.run_bundle().failed(1, &["nixview-oci-hook: ", told]);
        assert!(!ran.out.contains("it runs"), "{ran:?}");
        host.assert_nothing_left();
    }
    // The upper of another container that runs.
    let upper = host.text("upper");
    host.scene.mount("env-a", "a", &["--name", "other", "--upper", &upper]).ok();
    host.annotated(&[("upper", &upper)], &[], "echo it runs");
    host.run_bundle().failed(1, &["nixview-oci-hook: ", "upper"]);
    host.scene.nixview(&["umount", "other"]).ok();
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn links_that_an_image_plants_never_lead_out_of_its_root() {
    let host = Host::new();
    if !runs(&host, "runc") {
        return;
    }
    let etc = |path: &str| (fs::metadata(path).unwrap().ino(), fs::read_dir(path).unwrap().count());
    let before = (etc("/etc"), etc("/"));
    let seen = "test -d /nix/store; ls /nix/ > /tmp/n; ls /etc/ > /tmp/e; test \"$(cat /tmp/n)\" = \"$(cat /tmp/e)\" && ls /etc/";
    for plant in ["/etc", "etc", "../../../../../etc", "/../etc/../etc"] {
        fs::remove_dir_all(host.scene.path("rootfs")).ok();
        host.rootfs(Some(plant));
        host.annotated(&[], &[], seen);
        let ran = host.run_bundle().ok();
        assert!(ran.out.contains("store\n") && !ran.out.contains("passwd"), "{plant}: {ran:?}");
        assert_eq!(host.scene.names("rootfs/etc"), ["group", "passwd"], "{plant}");
        host.assert_nothing_left();
    }
    for (plant, told) in [
        ("/", "/ itself"),
        ("../..", "/ itself"),
        ("/nowhere", "leads nowhere"),
        ("/nix", "cannot be followed"),
        ("/proc", "mounted"),
        ("/proc/1/root/etc", "mounted"),
        ("/dev/shm", "mounted"),
        ("/bin/busybox", "no directory"),
    ] {
        fs::remove_dir_all(host.scene.path("rootfs")).unwrap();
        host.rootfs(Some(plant));
        host.annotated(&[], &[], "echo it runs");
        let ran = host.run_bundle().failed(1, &["nixview-oci-hook: /nix in the container's root", told]);
        assert_eq!(ran.out, "", "{plant}");
        host.assert_nothing_left();
    }
    let nix = host.scene.path("rootfs/nix");
    for special in ["touch", "mkfifo"] {
        fs::remove_file(&nix).unwrap();
        assert!(Command::new(special).arg(&nix).status().unwrap().success());
        host.run_bundle().failed(1, &["/nix in the container's root is no directory"]);
        host.assert_nothing_left();
    }
    // An image without /nix gets one.
    fs::remove_file(&nix).unwrap();
    host.annotated(&[], &[], "ls /nix");
    assert!(host.run_bundle().ok().out.contains("store\n"));
    host.assert_nothing_left();
    assert_eq!((etc("/etc"), etc("/")), before, "the host");
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn root_of_a_user_namespace_owns_its_nix() {
    for host in on_each_backend().map(Host::of) {
        if !runs(&host, "runc") {
            continue;
        }
        host.rootfs(None);
        // The way to the root must be open to the container's users.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(host.scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let upper = host.text("upper");
        let script = "set -e; cat /proc/self/uid_map | grep -q 100000; stat -c %u:%g /nix /nix/store/*-config.txt
        mkdir /nix/mine; stat -c %u:%g /nix/mine; c=$(echo /nix/store/*-config.txt); chmod +w $c; echo x > $c; hello";
        host.annotated(
            &[("upper", &upper)],
            &["--map-to", "100000", "--env", "PATH=/bin:/nix/store"],
            &script.replace("hello", "/nix/store/*-left-1.0/bin/hello"),
        );
        let ran = host.run_bundle();
        if ran.code != Some(0) && !ran.err.contains("nixview") && ran.err.contains("user") {
            skip!("runc makes no container in a user namespace here: {}", ran.err.trim());
            continue;
        }
        assert_eq!(ran.ok().out, format!("0:0\n0:0\n0:0\n{}", mini_store::contents::HELLO));
        host.assert_nothing_left();
        let mine = fs::metadata(host.scene.path("upper/tree/nix/mine")).unwrap();
        assert_eq!((mine.uid(), mine.gid()), (100_000, 100_000), "as the host numbers it");
        host.annotated(&[("owner", "70000:0")], &["--map-to", "100000"], "true");
        host.run_bundle().failed(1, &["no id 70000", "hint"]);
        host.assert_nothing_left();
    }
}

/// Runs the bundle with a runtime, in a user namespace, with the capabilities that a container's root may have in there.
fn run_with_capabilities(host: &Host, runtime: &str, how: &str) -> Ran {
    let file = host.scene.path("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set].as_array_mut().unwrap().push("CAP_SYS_ADMIN".into());
    }
    if how == "bind" {
        config.as_object_mut().unwrap().remove("hooks");
    }
    fs::write(&file, config.to_string()).unwrap();
    if runtime == "runc" {
        return host.run_bundle();
    }
    // crun does not do cgroup v1 beside v2 (test-images/oci/runtimes.sh).
    let script =
        "if [ $(stat -fc %T /sys/fs/cgroup) != cgroup2fs ]; then mount -t cgroup2 none /sys/fs/cgroup; fi
        exec timeout -k 5 60 crun --root \"$1/crun\" --cgroup-manager=disabled run --bundle \"$1\" \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(host.scene.dir.path()).arg(host.id()).stdin(Stdio::null());
    scene::ran(command.output().unwrap())
}

#[test]
#[ignore = "needs root, /dev/fuse, and runc or crun"]
fn root_of_a_user_namespace_does_not_take_the_flags_off_its_nix() {
    use std::os::unix::fs::PermissionsExt;
    for host in on_each_backend().map(Host::of) {
        fs::set_permissions(host.scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        host.rootfs(None);
        // The same for a file system that is the container's own, to show that it may.
        let script = "mount -o remount,bind,suid,dev /tmp || echo /tmp is refused
        mount -o remount,bind,suid,dev /nix && echo /nix is changed
        while read -r _ _ _ _ at flags _; do [ $at != /nix ] || echo $flags; done < /proc/self/mountinfo";
        for runtime in ["runc", "crun"] {
            if !runs(&host, runtime) {
                continue;
            }
            for how in ["hook", "bind"] {
                if how == "hook" {
                    host.annotated(&[], &["--map-to", "100000", "--env", "PATH=/bin"], script);
                } else {
                    host.scene
                        .mount("env-a", "a", &["--name", "volume", "--tmp", "--owner", "100000:100000"])
                        .ok();
                    let words = format!(
                        "--map-to 100000 --env PATH=/bin --hook /bin/true ; --bind {}",
                        host.text("a")
                    );
                    host.bundle(&[], &words.split(' ').collect::<Vec<_>>(), script);
                }
                let ran = run_with_capabilities(&host, runtime, how);
                if ran.code == Some(1) && !ran.err.contains("nixview") && ran.err.contains("user") {
                    skip!("{runtime} makes no container in a user namespace here: {}", ran.err.trim());
                } else {
                    assert_eq!(ran.out, "rw,nosuid,nodev,relatime\n", "{runtime} by {how}: {ran:?}");
                }
                if how == "bind" {
                    host.scene.nixview(&["umount", "volume"]).ok();
                }
                host.assert_nothing_left();
            }
        }
    }
}

/// A container that runs until it is ended.
fn start(host: &Host) -> (Child, u32) {
    let child = host.runc(&["run", host.id()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut pid = 0;
    eventually("the container runs", PATIENCE, || {
        let state = scene::ran(host.runc(&["state", host.id()]).output().unwrap());
        let state: serde_json::Value = serde_json::from_str(&state.out).unwrap_or_default();
        pid = state["pid"].as_u64().unwrap_or(0) as u32;
        state["status"] == "running"
    });
    (child, pid)
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn a_container_that_is_killed_leaves_nothing() {
    for host in on_each_backend().map(Host::of) {
        if !runs(&host, "runc") {
            continue;
        }
        host.rootfs(None);
        host.annotated(&[], &[], "echo x > /nix/new; sleep 100");
        let (mut runtime, pid) = start(&host);
        let status = host.scene.nixview(&["status", "--json", &format!("oci-{}", host.id())]).ok().out;
        assert!(status.contains(&format!("container {} (/nix)", host.id())), "{status}");
        scene::kill(pid as i32);
        runtime.wait().unwrap();
        host.assert_nothing_left();

        // Without the runtime, which would call the hook: the view goes with the mount namespace.
        let (mut runtime, pid) = start(&host);
        let children = host.scene.shell(&format!("cat /proc/{}/task/*/children", runtime.id())).ok().out;
        let runc: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
        scene::kill(runc);
        runtime.wait().unwrap();
        scene::kill(pid as i32);
        host.assert_nothing_left();
        // Then the hook finds nothing to do.
        scene::ran(host.runc(&["delete", "--force", host.id()]).output().unwrap()).ok();
        host.assert_nothing_left();
    }
}

/// No process takes a mount out of another mount namespace: what belongs to the view stays as long as the container, whatever its
/// keeper is told or comes to, and then goes.
#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn a_container_keeps_its_overlay_without_a_keeper_and_takes_it_along() {
    let host = Host::new();
    if !runs(&host, "runc") {
        return;
    }
    host.rootfs(None);
    host.annotated(&[("backend", "overlay")], &[], "echo x > /nix/new; sleep 100");
    for signal in [Signal::TERM, Signal::KILL] {
        let (mut runtime, pid) = start(&host);
        let name = format!("oci-{}", host.id());
        let status = host.scene.status(&name);
        assert_eq!(
            (&status["backend"], &status["place"]["kind"]),
            (&"overlay".into(), &"handed".into()),
            "{status}"
        );
        let inside = format!("/proc/{pid}/root/nix");
        eventually("the container writes", PATIENCE, || Path::new(&inside).join("new").exists());
        let before = (host.scene.leases().len(), host.scene.names("state/temporary").len());
        let keeper = host.scene.keeper(&name);
        kill_process(Pid::from_raw(keeper).unwrap(), signal).unwrap();
        if signal == Signal::KILL {
            eventually("the keeper is gone", PATIENCE, || !host.scene.processes().contains(&keeper));
        }
        host.scene.nixview(&["gc", "--store", &host.text("s")]).ok();
        assert_eq!((host.scene.leases().len(), host.scene.names("state/temporary").len()), before);
        assert_eq!(before.0, 1);
        fs::write(format!("{inside}/store/more"), "more").unwrap();
        scene::kill(pid as i32);
        runtime.wait().unwrap();
        eventually("all is swept", PATIENCE, || {
            host.scene.nixview(&["gc", "--store", &host.text("s")]).ok();
            host.scene.leases().is_empty()
        });
        host.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn a_container_that_dies_while_its_view_is_made_leaves_nothing() {
    for host in on_each_backend().map(Host::of) {
        if !runs(&host, "runc") {
            continue;
        }
        host.rootfs(None);
        let (state, runtime) = (host.text("state"), host.text("run"));
        let hook = host.hook.to_str().unwrap().to_owned();
        let program = host.text("hook.sh");
        let call = format!("printf %s \"$state\" | {hook} --state-dir {state} --runtime-dir {runtime}");
        let pid = r#"pid=$(printf %s "$state" | sed 's/.*"pid":\([0-9]*\).*/\1/')"#;
        let wrapped = |body: &str| {
            fs::write(&program, format!("#!/bin/sh\nstate=$(cat)\n{body}\n")).unwrap();
            assert!(Command::new("chmod").args(["+x", &program]).status().unwrap().success());
            host.annotated(&[], &["--hook", &program, ";"], "true");
        };
        // Its first process is killed before, while and after the view is made.
        for body in [
            format!("{pid}; [ $pid = 0 ] || kill -9 $pid; {call}"),
            format!("{pid}; {call} & [ $pid = 0 ] || kill -9 $pid; wait"),
            format!("{pid}; {call}; code=$?; [ $pid = 0 ] || kill -9 $pid; exit $code"),
        ] {
            wrapped(&body);
            let ran = host.run_bundle();
            assert_ne!(ran.code, Some(0), "{ran:?}");
            host.assert_nothing_left();
        }
        // The hook itself is killed, as runtimes do when it takes too long.
        for milliseconds in [1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150] {
            let timeout = format!("timeout --foreground -s KILL {:.3}", f64::from(milliseconds) / 1000.0);
            let begin = call.replace(&hook, &format!("{timeout} {hook}"));
            wrapped(&format!("case $state in *stopped*) exec true;; esac; {begin}"));
            host.run_bundle();
            host.assert_nothing_left();
        }
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and runc"]
fn the_daemon_serves_containers_when_it_runs() {
    let host = Host::of(Scene::on("fuse"));
    if !runs(&host, "runc") {
        return;
    }
    let mut daemon = host.scene.direct();
    let mut daemon = daemon.arg("daemon").spawn().unwrap();
    eventually("the daemon listens", PATIENCE, || host.scene.path("run/control.sock").exists());
    host.rootfs(None);
    host.annotated(&[], &[], "echo x > /nix/new; exec sleep 100");
    let (mut runtime, pid) = start(&host);
    let server = host.scene.server(&format!("oci-{}", host.id()));
    // Killing the daemon costs no container its view.
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let inside = host.runc(&["exec", host.id(), "cat", "/nix/new"]).output().unwrap();
    assert_eq!(scene::ran(inside).ok().out, "x\n");
    assert_eq!(host.scene.server(&format!("oci-{}", host.id())), server);
    scene::kill(pid as i32);
    runtime.wait().unwrap();
    fs::remove_file(host.scene.path("run/control.sock")).unwrap();
    host.assert_nothing_left();
}
