//! A program that is run for a limited time, and what it says.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nixview::sys::signals::wait_readable;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long a killed program may take to be gone.
const LAST: Duration = Duration::from_secs(20);

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Ran {
    /// How it ended; nothing if it did not end in its time.
    pub(crate) status: Option<ExitStatus>,
    /// What it printed, standard error included. Bytes that are no text are escaped.
    pub(crate) said: String,
}

impl Ran {
    /// Whether it ended well.
    pub(crate) fn is_ok(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// Its exit code, if it exited by itself.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.and_then(|s| s.code())
    }

    /// How it ended and the last lines that it said, as one line.
    pub(crate) fn reason(&self) -> String {
        let lines: Vec<&str> = self.said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join(" | ");
        let end = match self.status {
            None => "it did not end in its time".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            },
        };
        format!("{end}: {last}").chars().take(400).collect()
    }
}

/// Runs a program until it ends or `limit` is over; then `free` is called, and it is killed with all its group. `log` gets
/// what it says.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    log: &Path,
    free: impl FnOnce() -> io::Result<()>,
) -> io::Result<Ran> {
    let output = File::create(log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let mut child = command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display()))
    })?;
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let ended = |limit| Ok::<_, io::Error>(wait_readable(&[process.as_fd()], Some(limit))?.contains(&true));
    let in_time = ended(limit)?;
    if !in_time {
        free()?;
    }
    // Also what it left in the background.
    match kill_process_group(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    if !ended(LAST)? {
        return Err(io::Error::other(format!("{} cannot be killed", command.get_program().display())));
    }
    let status = reap(&mut child)?;
    Ok(Ran { status: in_time.then_some(status), said: text(&fs::read(log)?) })
}

fn reap(child: &mut Child) -> io::Result<ExitStatus> {
    child.wait()
}

/// Bytes as text; what is none is escaped.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .fold(String::new(), |all, chunk| all + chunk.valid() + &chunk.invalid().escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::cell::Cell;

    use super::*;

    fn shell(script: &str, limit: Duration, freed: &Cell<bool>) -> Ran {
        let log = std::env::temp_dir().join(format!("conformance.{}.{}", std::process::id(), script.len()));
        let free = || {
            freed.set(true);
            Ok(())
        };
        let ran = run(Command::new("sh").args(["-c", script]), limit, &log, free).unwrap();
        fs::remove_file(log).unwrap();
        ran
    }

    #[test]
    fn what_ends_is_told_with_its_last_words() {
        let freed = Cell::new(false);
        let ran = shell("echo one; echo two >&2; printf '\\377'; exit 3", Duration::from_secs(60), &freed);
        assert_eq!((ran.code(), ran.is_ok()), (Some(3), false));
        assert_eq!(ran.reason(), "exit 3: one | two | \\xff");
        assert!(!freed.get());
        assert!(shell("true", Duration::from_secs(60), &freed).is_ok());
        assert_eq!(shell("kill -9 $$ ", Duration::from_secs(60), &freed).reason(), "signal 9: ");
    }

    #[test]
    fn what_does_not_end_is_freed_and_killed_with_its_children() {
        let freed = Cell::new(false);
        let ran = shell("sleep 1000 & echo $!; wait", Duration::from_millis(300), &freed);
        assert!(ran.status.is_none() && freed.get());
        assert!(ran.reason().starts_with("it did not end in its time"));
        let child = Pid::from_raw(ran.said.trim().parse().unwrap()).unwrap();
        let gone = pidfd_open(child, PidfdFlags::empty());
        let gone = gone.map(|p| wait_readable(&[p.as_fd()], Some(LAST)).unwrap().contains(&true));
        assert!(gone.unwrap_or(true), "the child lives on");
    }
}
