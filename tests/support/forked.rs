//! Tests of what needs a process without other threads: run in a fork of the test's process.
#![allow(unsafe_code, reason = "fork(2) of a process whose other threads only wait for this one")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Runs `test` in a forked process, and fails if it does.
#[track_caller]
pub(crate) fn forked(test: impl FnOnce()) {
    // SAFETY: the harness's main thread waits for this one meanwhile, and holds no lock that the child needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            std::panic::set_hook(Box::new(|panic| {
                drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{panic}\n").as_bytes()));
            }));
            let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
            nixview::sys::process::end_now(u8::from(!passed));
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "the forked test");
        }
    }
}
