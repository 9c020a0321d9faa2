//! What mount(8) and umount(8) run for views: `mount.nixview`, `mount.fuse.nixview`, `umount.nixview` and
//! `umount.fuse.nixview` are links to this program, which goes by the name that it was called by.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use nixview::printable::printable;
use nixview_helpers::mount::{MountCall, Problem, UmountCall};

const MOUNT_USAGE: &str = "usage: mount -t nixview LOCK DIR [-o OPTIONS]
options: ro, rw, upper=DIR, tmp, upper-size=SIZE, upper-inodes=N, owner=UID:GID, name=NAME, store=DIR,
         backend=auto|overlay|fuse, io=auto|passthrough|cached, acl, noacl, devices, noexec, threads=N, trace=FILE, require-gc-roots, no-gc-warning,
         no-restart, no_allow_other, state-dir=DIR, runtime-dir=DIR, remount";

const UMOUNT_USAGE: &str = "usage: umount DIR [-l] [-f]";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().map(|name| name.display().to_string()).unwrap_or_default();
    let (usage, answer) = if name.starts_with("umount") {
        (
            UMOUNT_USAGE,
            UmountCall::parse(arguments)
                .map(|call| (call.verbose, call.run().map(|done| (done, Vec::new())))),
        )
    } else {
        (MOUNT_USAGE, MountCall::parse(arguments).map(|call| (call.verbose, call.run())))
    };
    match answer {
        Err(problem) => {
            let code = tell(&name, &problem);
            usage.lines().for_each(say);
            code
        }
        Ok((_, Err(problem))) => tell(&name, &problem),
        Ok((verbose, Ok((done, warnings)))) => {
            for warning in warnings {
                say(&format!("{name}: warning: {warning}"));
            }
            if verbose {
                say(&format!("{name}: {done}"));
            }
            ExitCode::SUCCESS
        }
    }
}

fn tell(name: &str, problem: &Problem) -> ExitCode {
    if !problem.what.is_empty() {
        say(&format!("{name}: {}", problem.what));
    }
    for hint in &problem.hints {
        say(&format!("hint: {hint}"));
    }
    ExitCode::from(problem.code)
}

/// Says something to people; if nobody can be told, the exit code still is.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{}", printable(text)));
}
