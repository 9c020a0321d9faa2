//! Real Nix's collector, running all the time, while views are mounted, used, unmounted by all ways, killed at random
//! moments, and their registry is lost: it never takes a member of a view that serves, and in the end takes everything.
//!
//! The moments come from a seed (`NIXVIEW_LEASES_SEED`); it runs for `NIXVIEW_LEASES_SECONDS` (40 if not set).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::effort::pick;
use crate::support::scene::{self, Scene, ran};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};
use nixview::closure::Mode;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

const TARGETS: [&str; 3] = ["a", "b", "c"];
/// Runtime directories: each has a registry of its own.
const REGISTRIES: [&str; 2] = ["run", "run2"];
const LABELS: [&str; 3] = ["env-a", "env-b", "env-a.drv"];

/// Registers again what the collector took; as with Nix, under other numbers than before.
const REGISTER: &str = "BEGIN IMMEDIATE;
    INSERT INTO main.ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
        SELECT path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca FROM kept.ValidPaths
        WHERE path NOT IN (SELECT path FROM main.ValidPaths);
    INSERT OR IGNORE INTO main.Refs SELECT a.id, b.id FROM kept.Refs r
        JOIN kept.ValidPaths ka ON ka.id = r.referrer JOIN main.ValidPaths a ON a.path = ka.path
        JOIN kept.ValidPaths kb ON kb.id = r.reference JOIN main.ValidPaths b ON b.path = kb.path;
    INSERT OR IGNORE INTO main.DerivationOutputs SELECT a.id, o.id, o.path FROM kept.DerivationOutputs o
        JOIN kept.ValidPaths ka ON ka.id = o.drv JOIN main.ValidPaths a ON a.path = ka.path;
    COMMIT;";

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn moment(&mut self, milliseconds: usize) {
        thread::sleep(Duration::from_micros(self.below(milliseconds * 1000) as u64));
    }
}

/// A view that is mounted and served.
struct View {
    target: &'static str,
    label: &'static str,
    registry: &'static str,
    name: String,
    /// Its keeper, and its server.
    pid: i32,
    server: i32,
    /// Its registry was lost.
    forgotten: bool,
}

impl View {
    /// Kills all that serves it.
    fn kill(&self) {
        if self.pid != self.server {
            kill_process(Pid::from_raw(self.pid).unwrap(), Signal::STOP).unwrap();
            scene::kill(self.server);
        }
        scene::kill(self.pid);
    }
}

struct World {
    scene: Scene,
    nix: PathBuf,
    numbers: Numbers,
    views: Vec<View>,
    counts: BTreeMap<&'static str, usize>,
    names: usize,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn wait_for(mut child: Child) -> scene::Ran {
    let deadline = Instant::now() + Duration::from_secs(90);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "a command hangs");
        thread::sleep(Duration::from_millis(1));
    }
    ran(child.wait_with_output().unwrap())
}

/// Real Nix on the scene's store, alone among its processes: else it would spare what any process of the machine has open
/// or in its environment, and fail at one that sits in too deep a directory.
fn nix(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", program]);
    command.args(arguments).stdin(Stdio::null());
    command.env("NIX_REMOTE", format!("local?root={}", root.display()));
    command
}

impl World {
    fn new(seed: u64) -> Self {
        let scene = Scene::on("fuse");
        scene.lock_in("env-a.drv", Mode::Build);
        fs::create_dir(scene.path("c")).unwrap();
        fs::copy(scene.store.database(), scene.path("kept.sqlite")).unwrap();
        scene.shell("cp -a s/nix/store kept && chmod u+w kept && rm -r kept/.links").ok();
        let nix = scene.store.root().to_owned();
        let numbers = Numbers(seed);
        Self { scene, nix, numbers, views: Vec::new(), counts: BTreeMap::new(), names: 0 }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn roots_of_the_test(&self) -> PathBuf {
        self.scene.store.state_dir().join("gcroots/test")
    }

    fn members(&self, label: &str) -> Vec<String> {
        let store = &self.scene.store;
        let members = if label.ends_with(".drv") { store.build_closure(label) } else { store.closure(label) };
        members.into_iter().map(str::to_owned).collect()
    }

    /// Puts back what was collected, with roots of the test's own.
    fn refill(&self) {
        let lock = self.scene.store.state_dir().join("gc.lock");
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).read(true).write(true).open(lock).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let missing =
            "cd kept; for p in *; do test -e ../s/nix/store/$p || cp -a $p ../s/nix/store/ || exit 1; done";
        self.scene.shell(missing).ok();
        let database = rusqlite::Connection::open(self.scene.store.database()).unwrap();
        database.busy_timeout(Duration::from_secs(30)).unwrap();
        let kept = self.scene.path("kept.sqlite");
        database.execute("ATTACH ? AS kept", [kept.to_str().unwrap()]).unwrap();
        database.execute_batch(REGISTER).unwrap();
        let roots = self.roots_of_the_test();
        fs::create_dir_all(&roots).unwrap();
        for label in LABELS {
            for member in self.members(label) {
                let link = roots.join(&member);
                if !link.is_symlink() {
                    symlink(format!("/nix/store/{member}"), link).unwrap();
                }
            }
        }
    }

    fn drop_roots_of_the_test(&self) {
        fs::remove_dir_all(self.roots_of_the_test()).unwrap();
    }

    fn collect(&self) {
        ran(nix(&self.nix, "nix-store", &["--gc"]).output().unwrap()).ok();
    }

    fn command(&self, registry: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nixview"));
        command.arg("--state-dir").arg(self.scene.path("state"));
        command.arg("--runtime-dir").arg(self.scene.path(registry)).env_remove("NIXVIEW_LOG");
        self.scene.choose_backend(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn nixview(&self, registry: &str, arguments: &[&str]) -> scene::Ran {
        wait_for(self.command(registry).args(arguments).spawn().unwrap())
    }

    fn gc(&self, registry: &str) -> Command {
        let mut command = self.command(registry);
        command.arg("gc").arg("--store").arg(self.scene.store.root());
        command
    }

    /// Keeper and server of a name, if its view can be used. A server whose keeper was killed is both, once it has seen it.
    fn served(&self, registry: &str, name: &str) -> Option<(i32, i32)> {
        let mut found = None;
        eventually("the server serves or ends", PATIENCE, || {
            let said = self.nixview(registry, &["status", "--json"]).ok().out;
            let all: serde_json::Value = serde_json::from_str(&said).unwrap();
            let view = all.as_array().unwrap().iter().find(|view| view["name"] == name);
            let pid = |view: &serde_json::Value, of: &str| i32::try_from(view[of].as_i64().unwrap()).unwrap();
            let mounted = view.filter(|view| view["state"] == "mounted");
            found = mounted.map(|view| (pid(view, "pid"), pid(view, "server")));
            let lives = found.is_none_or(|(keeper, server)| alive(keeper) && alive(server));
            lives && view.is_none_or(|view| view["state"] == "mounted" || view["state"] == "dead")
        });
        found
    }

    /// Mounts on all targets that are free, and interferes.
    fn mount(&mut self) {
        let mut starting = Vec::new();
        for target in TARGETS {
            if self.views.iter().any(|view| view.target == target) || self.numbers.one_in(4) {
                continue;
            }
            let label = LABELS[self.numbers.below(LABELS.len())];
            let registry = REGISTRIES[self.numbers.below(2)];
            self.names += 1;
            let name = format!("v{}", self.names);
            let mut command = self.command(registry);
            command.args(["mount", "--require-gc-roots", "--name", &name]);
            command.arg(if self.numbers.one_in(3) { "--tmp" } else { "--read-only" });
            command.arg("--closure").arg(self.scene.path(&format!("{label}.lock")));
            command.arg("--store").arg(self.scene.store.root()).arg(self.scene.path(target));
            starting.push((target, label, registry, name, command.spawn().unwrap()));
            self.numbers.moment(4);
        }
        let (mut killed, mut kept) = (false, true);
        if self.numbers.one_in(2) {
            self.numbers.moment(40);
            self.drop_roots_of_the_test();
            kept = false;
        }
        if self.numbers.one_in(3) && !starting.is_empty() {
            killed = true;
            self.count("kills while it starts");
            self.numbers.moment(40);
            self.kill_somebody_of(&starting.iter().map(|(.., child)| child.id()).collect::<Vec<_>>());
        }
        if self.numbers.one_in(4) {
            let mut sweeper = self.gc("run").spawn().unwrap();
            self.numbers.moment(20);
            if self.numbers.one_in(2) {
                self.count("kills of a sweep");
                sweeper.kill().unwrap();
                sweeper.wait().unwrap();
            } else {
                wait_for(sweeper).ok();
            }
        }
        for (target, label, registry, name, child) in starting {
            let answer = wait_for(child);
            let served = self.served(registry, &name);
            match (answer.code, served) {
                (Some(0), Some((pid, server))) => {
                    self.count("mounts");
                    self.views.push(View { target, label, registry, name, pid, server, forgotten: false });
                }
                // Its caller was killed: it may have told it in time, or find out now and end.
                (_, Some((pid, server))) if killed => {
                    self.nixview(registry, &["umount", &name]);
                    eventually("the server ends", PATIENCE, || !alive(pid) && !alive(server));
                }
                (_, None) if killed => {}
                _ => {
                    let collected = ["cannot find the closure", "the store does not have"];
                    let is_collected = collected.iter().any(|why| answer.err.contains(why));
                    assert!(!kept && served.is_none() && is_collected, "{name}: {answer:?}");
                    self.count("closures that were collected before");
                }
            }
        }
        if kept {
            self.drop_roots_of_the_test();
        }
    }

    /// Kills one process that has just begun: a command or a server, none of those whose views are mounted.
    fn kill_somebody_of(&mut self, commands: &[u32]) {
        let mut pids = self.processes();
        pids.retain(|pid| !self.views.iter().any(|view| [view.pid, view.server].contains(pid)));
        // Servers rather than their callers.
        let servers: Vec<i32> = pids
            .iter()
            .copied()
            .filter(|pid| !commands.iter().any(|c| i64::from(*c) == i64::from(*pid)))
            .collect();
        let among = if servers.is_empty() || self.numbers.one_in(4) { pids } else { servers };
        if !among.is_empty() {
            let pid = among[self.numbers.below(among.len())];
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
            eventually("the process ends", PATIENCE, || !alive(pid));
        }
    }

    /// Every member of every view that serves is there, and is what it was; also in the view.
    fn check(&self) {
        for view in &self.views {
            assert!(alive(view.pid) && alive(view.server), "the server of {} has died", view.target);
            for member in self.members(view.label) {
                let place = self.scene.store.store_dir().join(&member);
                assert!(place.symlink_metadata().is_ok(), "{member} of a mounted view was collected");
            }
            let each: String = self
                .members(view.label)
                .iter()
                .map(|member| {
                    format!("diff -r --no-dereference kept/{member} {}/store/{member} && ", view.target)
                })
                .collect();
            let compared = self.scene.shell(&format!("{each} true"));
            assert_eq!(compared.code, Some(0), "{}: {compared:?}", view.label);
        }
    }

    /// Kills the server or the keeper of a view: it is there as before.
    fn kill_half_of_one(&mut self) {
        let known: Vec<usize> = (0..self.views.len()).filter(|at| !self.views[*at].forgotten).collect();
        if known.is_empty() {
            return;
        }
        let at = known[self.numbers.below(known.len())];
        let View { registry, pid, server, .. } = self.views[at];
        let name = self.views[at].name.clone();
        let alone = pid == server;
        if alone {
            return;
        }
        if self.numbers.one_in(2) {
            self.count("keepers killed");
            scene::kill(pid);
        } else {
            self.count("servers killed");
            scene::kill(server);
        }
        let mut now = (pid, server);
        eventually("the other half of the view ends", PATIENCE, || {
            now = self.served(registry, &name).expect("a view is lost with half of it");
            now != (pid, server)
        });
        (self.views[at].pid, self.views[at].server) = now;
    }

    fn gone(&self, view: &View) {
        eventually("the server ends", PATIENCE, || !alive(view.pid) && !alive(view.server));
    }

    /// Ends a view in one of the ways that there are.
    fn end(&mut self, view: &View) {
        let way = if view.forgotten { 1 + self.numbers.below(3) } else { self.numbers.below(4) };
        match way {
            0 => {
                self.count("nixview umount");
                let path = self.scene.path(view.target).into_os_string().into_string().unwrap();
                self.nixview(view.registry, &["umount", &path]).ok();
            }
            1 => {
                self.count("umount(8)");
                let lazy = if self.numbers.one_in(2) { "-l" } else { "" };
                self.scene.shell(&format!("umount {lazy} {}", view.target)).ok();
            }
            2 => {
                self.count("SIGTERM");
                kill_process(Pid::from_raw(view.pid).unwrap(), Signal::TERM).unwrap();
            }
            _ => {
                self.count("SIGKILL");
                view.kill();
                if view.forgotten || self.numbers.one_in(2) {
                    self.scene.shell(&format!("umount -l {}", view.target)).ok();
                } else {
                    // Whoever looks takes the mount away.
                    self.nixview(view.registry, &["status"]).ok();
                }
            }
        }
        if self.numbers.one_in(2) {
            self.gone(view);
        }
    }

    /// What a power cut and the boot after it leave: no server, no mount, no runtime directory.
    fn reboot(&mut self) {
        self.count("reboots");
        for view in std::mem::take(&mut self.views) {
            view.kill();
            self.scene.shell(&format!("umount -l {}", view.target)).ok();
        }
        self.no_servers();
        for registry in REGISTRIES {
            fs::remove_dir_all(self.scene.path(registry)).ok();
        }
    }

    fn no_servers(&self) {
        eventually("the server ends", PATIENCE, || self.processes().is_empty());
    }

    /// Commands that mount, and servers, of both registries.
    fn processes(&self) -> Vec<i32> {
        let state = self.scene.path("state").into_os_string().into_string().unwrap();
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let has = |what: &str| line.split(|b| *b == 0).any(|argument| argument == what.as_bytes());
            if has(&state) && has("mount") {
                pids.push(pid);
            }
        }
        pids
    }

    fn round(&mut self) {
        self.refill();
        self.mount();
        if self.numbers.one_in(2) {
            self.kill_half_of_one();
        }
        self.collect();
        self.check();
        if self.numbers.one_in(6) {
            return self.reboot();
        }
        if self.numbers.one_in(6) {
            self.count("registries lost under living servers");
            let registry = REGISTRIES[self.numbers.below(2)];
            fs::remove_dir_all(self.scene.path(registry)).ok();
            for view in self.views.iter_mut().filter(|view| view.registry == registry) {
                view.forgotten = true;
            }
        }
        for view in std::mem::take(&mut self.views) {
            if self.numbers.one_in(3) {
                self.views.push(view);
            } else {
                self.end(&view);
            }
        }
        if self.numbers.one_in(2) {
            self.kill_half_of_one();
        }
        self.collect();
        self.check();
    }

    /// Ends all views, sweeps once, and collects: nothing is left.
    fn end_all(&mut self) {
        self.count("times that all was collected");
        for view in std::mem::take(&mut self.views) {
            self.end(&view);
            self.gone(&view);
        }
        self.no_servers();
        let registry = REGISTRIES[self.numbers.below(2)];
        wait_for(self.gc(registry).spawn().unwrap()).ok();
        assert_eq!(self.scene.leases(), Vec::<PathBuf>::new());
        // Not those of servers that were killed before they had one: they are left alone for a while.
        let mut uppers = self.scene.names("state/temporary");
        uppers.retain(|name| self.scene.path("state/temporary").join(name).join("meta.json").exists());
        assert_eq!(uppers, Vec::<String>::new());
        self.collect();
        let mut left = self.scene.names("s/nix/store");
        left.retain(|name| !name.starts_with('.'));
        assert_eq!(left, Vec::<String>::new(), "not collected");
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn the_collector_takes_no_member_of_a_served_view_and_in_the_end_everything() {
    if Command::new("nix-store").arg("--version").output().is_err() {
        skip!("nix-store is not installed");
        return;
    }
    let seed = number("NIXVIEW_LEASES_SEED", 20_260_101);
    let until = Instant::now() + Duration::from_secs(number("NIXVIEW_LEASES_SECONDS", pick(10, 300)));
    let mut world = World::new(seed);
    let (stop, collections) = (AtomicBool::new(false), AtomicUsize::new(0));
    let root = world.nix.clone();
    /// Ends the collections also when the test fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            for program in ["nix-store", "nix-collect-garbage"].iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let arguments: &[&str] = if *program == "nix-store" { &["--gc"] } else { &[] };
                ran(nix(&root, program, arguments).output().unwrap()).ok();
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut rounds = 0;
        while Instant::now() < until {
            world.round();
            rounds += 1;
            if rounds % 10 == 0 {
                world.end_all();
            }
        }
        world.end_all();
        println!("seed {seed}: {rounds} rounds, {:?}", world.counts);
    });
    println!("{} collections beside them", collections.load(Ordering::Relaxed));
    // A server that was killed at its end may have let go of its mount after the last sweep looked.
    eventually("no mount is left", PATIENCE, || {
        for registry in REGISTRIES {
            ran(world.gc(registry).output().unwrap()).ok();
        }
        world.scene.mounts().is_empty()
    });
    assert_eq!(world.processes(), Vec::<i32>::new());
    assert_eq!(world.scene.leases(), Vec::<PathBuf>::new());
}
