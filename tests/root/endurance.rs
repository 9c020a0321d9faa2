//! A long load of many threads on one view, with remounts and a `kill -9` in between: every content is right, and the
//! server ends with the descriptors and the memory that it had.
//!
//! For `NIXVIEW_ENDURANCE_SECONDS`, else 4 seconds in the gate and 60 at night, each; `scripts/endurance` runs ten minutes.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::caches;
use crate::support::effort::pick;
use crate::support::endurance::{Worker, fill_store};
use crate::support::scene::Scene;
use crate::support::wait::PATIENCE;

const THREADS: usize = 48;

/// How a part of the load ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Rest,
    Unmount,
    Kill,
}

/// What a server holds when nobody uses it.
#[derive(Clone, Copy, Debug)]
struct Holds {
    descriptors: usize,
    /// Memory of its own, in KiB.
    memory: u64,
}

fn holds(pid: i32) -> Holds {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    Holds {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        memory: line.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// What a server holds once the kernel has forgotten all inodes that it can; looks again until that is what is `wanted`.
fn at_rest(pid: i32, wanted: Option<Holds>) -> Holds {
    let deadline = Instant::now() + if wanted.is_some() { PATIENCE } else { Duration::from_secs(2) };
    loop {
        // Directories can go only after what is in them; and the server hears of it a little later.
        caches::drop_inodes();
        thread::sleep(Duration::from_millis(100));
        let holds = holds(pid);
        if wanted.is_some_and(|wanted| holds.descriptors <= wanted.descriptors) || Instant::now() > deadline {
            return holds;
        }
    }
}

/// Lets all workers work for a while, and waits for them.
fn load(workers: &mut Vec<Worker>, time: Duration, end: impl FnOnce(&AtomicBool)) {
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let killed: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let (done, ended) = mpsc::channel();
    for mut worker in workers.drain(..) {
        let done = done.clone();
        // Not joined: one that hangs would hang the test.
        thread::spawn(move || {
            worker.work(stop, killed);
            drop(done.send(worker));
        });
    }
    drop(done);
    thread::sleep(time);
    end(killed);
    stop.store(true, Ordering::SeqCst);
    for _ in 0..THREADS {
        let worker = ended.recv_timeout(Duration::from_secs(60));
        workers.push(worker.expect("a worker hangs, or was answered what it should not have been"));
    }
}

fn endure(io: &str, time: Duration) {
    let scene = Scene::new();
    fill_store(&scene.store.real("data"), THREADS);
    let before = scene.store_digest();
    let options = ["--name", "long", "--io", io];
    let view = scene.path("a");
    scene.mount("env-b", "a", &options).ok();
    let lower = view.join("store").join(scene.store.path("data"));
    let mut workers: Vec<Worker> = (0..THREADS)
        .map(|n| Worker::new(n, view.join(format!("own{n}")), lower.join(format!("w{n}"))))
        .collect();
    let mut server = scene.server("long");
    let baseline = at_rest(server, None);
    let mut first: Option<Holds> = None;
    let ends = [End::Rest, End::Rest, End::Unmount, End::Rest, End::Kill, End::Rest, End::Unmount, End::Rest];
    for end in ends {
        load(&mut workers, time / u32::try_from(ends.len()).unwrap(), |killed| {
            if end == End::Kill {
                killed.store(true, Ordering::SeqCst);
                scene.kill_view("long");
            }
        });
        if end == End::Unmount {
            scene.nixview(&["umount", "long"]).ok();
        }
        if end != End::Rest {
            scene.mount("env-b", "a", &options).ok();
            server = scene.server("long");
            first = None;
        }
        for worker in &mut workers {
            worker.check();
        }
        let now = at_rest(server, Some(baseline));
        let done: u64 = workers.iter().map(|worker| worker.done).sum();
        println!("{io}: {end:?} after {done} operations: {now:?}, at the start {baseline:?}");
        assert!(now.descriptors <= baseline.descriptors, "{now:?} after {baseline:?}");
        let first = *first.get_or_insert(now);
        assert!(now.memory <= first.memory * 5 / 4 + 4096, "{now:?} after {first:?}");
    }
    assert!(workers.iter().all(|worker| worker.done > 0), "some did nothing");
    drop(workers);
    assert_eq!(scene.names("state/uppers/long/work"), Vec::<String>::new(), "drafts are left");
    scene.nixview(&["umount", "long"]).ok();
    assert_eq!(scene.store_digest(), before, "the store was changed");
    scene.assert_nothing_left();
}

fn time() -> Duration {
    let seconds = std::env::var("NIXVIEW_ENDURANCE_SECONDS").map_or(pick(4, 60), |s| s.parse().unwrap());
    Duration::from_secs(seconds)
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn many_threads_for_long_with_passthrough() {
    endure("passthrough", time());
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn many_threads_for_long_with_cached_files() {
    endure("cached", time());
}
