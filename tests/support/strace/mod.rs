//! strace(1), which kills a process before a system call of it.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets strace(1) kill a process before its `n`-th `call`, and likewise each that it starts; comes back when it watches all
/// threads.
pub(crate) fn kill_at(call: &str, n: usize, pid: i32) -> Child {
    let strace = Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={n}"), "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("strace is needed");
    wait_until("strace does not attach", || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            status.contains(&format!("TracerPid:\t{}\n", strace.id()))
        })
    });
    strace
}

pub(crate) fn has_ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

/// Ends strace(1), which lets go of what it traces.
pub(crate) fn end(mut strace: Child) {
    if !has_ended(&mut strace) {
        kill_process(Pid::from_child(&strace), Signal::TERM).unwrap();
    }
    wait_until("strace does not end", || has_ended(&mut strace));
}
