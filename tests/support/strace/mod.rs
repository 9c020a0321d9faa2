//! strace(1), which kills a process before a system call of it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::wait::{PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// [`eventually`] with the usual limit.
pub(crate) fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    eventually(what, PATIENCE, holds);
}

/// Lets strace(1) kill a process before its `n`-th `call`, and likewise each that it starts; comes back when it watches all
/// threads.
pub(crate) fn kill_at(call: &str, n: usize, pid: i32) -> Child {
    let kill = format!("inject={call}:signal=KILL:when={n}");
    attach(&["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &kill], &[pid])
}

/// Lets strace(1) write into `file` each call with a path that processes, and those that they start, make; comes back when
/// it watches all threads.
pub(crate) fn paths(pids: &[i32], file: &Path) -> Child {
    attach(&["-s", "4096", "-e", "trace=%file", "-o", file.to_str().unwrap()], pids)
}

fn attach(options: &[&str], pids: &[i32]) -> Child {
    let mut command = Command::new("strace");
    command.args(["-f", "-q"]).args(options);
    for pid in pids {
        command.arg("-p").arg(pid.to_string());
    }
    let strace = command.stdin(Stdio::null()).spawn().expect("strace is needed");
    eventually("strace attaches", PATIENCE, || {
        let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap());
        let mut tasks = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
        tasks.all(|status| status.contains(&format!("TracerPid:\t{}\n", strace.id())))
    });
    strace
}

pub(crate) fn has_ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

/// Ends strace(1), which lets go of what it traces.
pub(crate) fn end(mut strace: Child) {
    // A signal that comes right before it waits for the next event is forgotten until that.
    eventually("strace ends", PATIENCE, || {
        has_ended(&mut strace) || {
            kill_process(Pid::from_child(&strace), Signal::TERM).unwrap();
            false
        }
    });
}
