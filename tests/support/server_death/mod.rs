//! What is known of a view's two processes from outside, and how its server is killed.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::support::caches;
use crate::support::scene::Scene;
use crate::support::strace;
use crate::support::wait::{PATIENCE, eventually};

/// The keeper of a view, whose servers are killed.
pub(crate) struct Victim<'s> {
    pub(crate) scene: &'s Scene,
    pub(crate) name: String,
    pub(crate) keeper: i32,
    /// The server that was killed last.
    last: i32,
    pub(crate) kills: u64,
    command: Option<Child>,
}

fn log(scene: &Scene) -> String {
    fs::read_to_string(scene.path("log")).unwrap()
}

impl Drop for Victim<'_> {
    fn drop(&mut self) {
        if let Some(mut command) = self.command.take() {
            if thread::panicking() {
                let log = log(self.scene);
                let lines: Vec<&str> = log.lines().collect();
                println!("{}", lines[lines.len().saturating_sub(200)..].join("\n"));
            }
            command.kill().ok();
            command.wait().ok();
        }
    }
}

/// Bytes that are noted of the inode number of each file of the store that was forgotten: no other file may get it.
const NUMBER: u64 = 24;

/// What two processes hold when nobody uses their view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    /// Descriptors of the keeper and of the server.
    descriptors: [usize; 2],
    /// Memory of their own, in KiB.
    memory: [u64; 2],
    /// Bytes that are noted for the next server, when this one has written anew what is true.
    notes: u64,
}

impl Holds {
    /// True if there is nothing of what clients did, but for what so many servers had in hands when they were killed: what the
    /// kernel forgets it tells once.
    fn is_no_more_than(&self, before: &Self, (kills, files): (u64, u64)) -> bool {
        // Few kills on a busy machine can lose as many as one server had in its hands.
        let lost = 16 + usize::try_from(kills / 4).unwrap();
        let [keeper, server] = [0, 1].map(|at| self.descriptors[at].saturating_sub(before.descriptors[at]));
        let notes = before.notes + (16 << 10) + kills * 512 + files * NUMBER;
        keeper <= lost && server <= 2 * lost && self.notes <= notes
    }
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// True if all threads of a process sleep: those of a server then wait for requests, and none is left.
fn sleeps(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    })
}

pub(crate) fn children(pid: i32) -> Vec<i32> {
    let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    all.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

impl<'s> Victim<'s> {
    pub(crate) fn new(scene: &'s Scene, name: &str) -> Self {
        Self { scene, name: name.to_owned(), keeper: scene.keeper(name), last: 0, kills: 0, command: None }
    }

    /// Mounts a view of env-a, whose keeper writes its log into the scene.
    pub(crate) fn mount(scene: &'s Scene, name: &str, options: &[&str]) -> Self {
        let mut command = scene.direct();
        command.args(["mount", "-f", "--name", name, "--closure"]).arg(scene.path("env-a.lock"));
        command.arg("--store").arg(scene.store.root()).args(options).arg(scene.path("a"));
        if let Some(filter) = std::env::var_os("NIXVIEW_SERVER_LOG") {
            command.env("NIXVIEW_LOG", filter);
        }
        command.stderr(File::create(scene.path("log")).unwrap());
        let mut child = command.spawn().unwrap();
        eventually("the view can be used", PATIENCE, || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", log(scene));
            log(scene).contains(&format!("view '{name}'"))
        });
        let mut victim = Self::new(scene, name);
        victim.command = Some(child);
        assert_eq!(victim.keeper, i32::try_from(victim.command.as_ref().unwrap().id()).unwrap());
        victim
    }

    /// The keeper was killed: nothing is expected of it any more.
    pub(crate) fn forget(mut self) {
        if let Some(mut command) = self.command.take() {
            command.wait().unwrap();
        }
    }

    /// True if the keeper has ended.
    pub(crate) fn has_ended(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.keeper)).is_ok_and(|stat| stat.contains(") Z "))
    }

    /// The keeper has ended by itself, and has said this.
    pub(crate) fn failed(mut self, told: &str) {
        let mut command = self.command.take().unwrap();
        eventually("the keeper ends", PATIENCE, || command.try_wait().unwrap().is_some());
        assert_eq!(command.wait().unwrap().code(), Some(1));
        let log = log(self.scene);
        assert!(log.contains(told), "{told:?} is not said: {log}");
    }

    /// Unmounts the view; its keeper has nothing to complain of.
    pub(crate) fn umount(mut self) {
        self.scene.nixview(&["umount", &self.name]).ok();
        let mut command = self.command.take().unwrap();
        eventually("the keeper ends", PATIENCE, || command.try_wait().unwrap().is_some());
        assert_eq!(command.wait().unwrap().code(), Some(0));
    }

    /// The server that there is, which is not the one that was killed last.
    pub(crate) fn server(&self) -> i32 {
        let mut server = self.last;
        eventually("a server follows the last one", PATIENCE, || {
            server = self.scene.server(&self.name);
            server != self.last && parent(server) == Some(self.keeper)
        });
        server
    }

    /// Kills the server, and waits until it is dead.
    pub(crate) fn kill(&mut self) {
        self.kill_after(Duration::ZERO);
    }

    /// Kills the server when it has been there for so long, and waits until it is dead.
    pub(crate) fn kill_after(&mut self, time: Duration) {
        let server = self.server();
        thread::sleep(time);
        let pid = Pid::from_raw(server).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!(parent(server), Some(self.keeper));
        pidfd_send_signal(&process, Signal::KILL).unwrap();
        let ended = nixview::sys::signals::wait_readable(&[process.as_fd()], Some(Duration::from_secs(10)));
        assert_eq!(ended.unwrap(), [true], "{server} survives its end");
        self.last = server;
        self.kills += 1;
    }

    /// Kills the server, and waits for nothing.
    pub(crate) fn tell_to_die(&self) {
        rustix::process::kill_process(Pid::from_raw(self.server()).unwrap(), Signal::KILL).unwrap();
    }

    /// Lets strace(1) kill the server before its `n`-th `call` while `work` is done; false if it made fewer.
    pub(crate) fn killed_at(&mut self, call: &str, n: usize, work: impl FnOnce()) -> bool {
        let server = self.server();
        let strace = strace::kill_at(call, n, server);
        work();
        // strace(1) ends with what it watches.
        strace::end(strace);
        let killed = self.scene.server(&self.name) != server || parent(server) != Some(self.keeper);
        if killed {
            self.last = server;
            self.kills += 1;
        }
        killed
    }

    /// Kills the server while `work` is done, and those that come after it before their `n`-th `call`, until two have died.
    pub(crate) fn killed_at_start(&mut self, call: &str, n: usize, start: impl FnOnce(), time: Duration) {
        let strace = strace::kill_at(call, n, self.keeper);
        let before = self.restarts();
        start();
        self.kill_after(time);
        // The second may live: then it has made fewer calls so far.
        let until = Instant::now() + Duration::from_millis(400);
        while self.restarts() < before + 2 && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        strace::end(strace);
        self.kills = self.restarts();
        self.last = 0;
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.scene.status(&self.name)["restarts"].as_u64().unwrap()
    }

    /// Comes back when the server answers.
    pub(crate) fn answers(&self, dir: &str) {
        // A file system's numbers are asked for each time.
        self.scene.shell(&format!("stat -f {dir}")).ok();
    }

    fn files_of_the_store(&self) -> u64 {
        let found =
            self.scene.shell(&format!("find {} | wc -l", self.scene.store.store_dir().display())).ok();
        found.out.trim().parse().unwrap()
    }

    fn holds(&self) -> Holds {
        let both = [self.keeper, self.server()];
        let memory = |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let open = |pid| -> Vec<PathBuf> {
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let is_note = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_str().unwrap().contains("memfd:nixview-view"))
        };
        let notes =
            open(self.keeper).into_iter().filter(is_note).map(|path| fs::metadata(path).unwrap().len());
        Holds { descriptors: both.map(|pid| open(pid).len()), memory: both.map(memory), notes: notes.sum() }
    }

    /// What is held by the next server when the kernel has forgotten all that it can; looks again until that is no more
    /// than before.
    pub(crate) fn at_rest(&mut self, dir: &str, before: Option<(Holds, u64)>) -> Holds {
        let deadline = Instant::now() + PATIENCE;
        let files = self.files_of_the_store();
        loop {
            // Directories can go only after what is in them; and the server hears of it a little later.
            for _ in 0..3 {
                caches::drop_inodes();
                thread::sleep(Duration::from_millis(50));
            }
            // One that is killed with forgets in its hands leaves them to nobody, as the kernel tells them once.
            eventually("the server has nothing to do", PATIENCE, || {
                (0..5).all(|_| {
                    thread::sleep(Duration::from_millis(20));
                    sleeps(self.server())
                })
            });
            // What it was told to forget is noted with the next answer.
            self.answers(dir);
            self.kill();
            let killed = Instant::now();
            self.answers(dir);
            println!("{}: an answer {:?} after kill {}", self.name, killed.elapsed(), self.kills);
            let holds = self.holds();
            let enough = before.is_none_or(|(before, kills)| holds.is_no_more_than(&before, (kills, files)));
            if enough || Instant::now() > deadline {
                return holds;
            }
        }
    }

    /// Fails if something stayed that clients had.
    pub(crate) fn assert_nothing_kept(&mut self, dir: &str, before: Holds) {
        let kills = self.kills;
        let now = self.at_rest(dir, Some((before, kills)));
        println!("{}: {now:?}, at the start {before:?}", self.name);
        let files = self.files_of_the_store();
        assert!(now.is_no_more_than(&before, (kills, files)), "{now:?} after {before:?}, {files} files");
        for at in 0..2 {
            assert!(now.memory[at] <= before.memory[at] + 8192, "{now:?} after {before:?}");
        }
    }
}
