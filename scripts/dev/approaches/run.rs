//! Commands with a limit: to their end, to their first line, or until they are told to end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Result;

/// No command may take longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// `program` with words, as a command.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// What the command writes to standard output. An error tells what it wrote to the other.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let child = spawn(command, Stdio::null())?;
    let pid = Pid::from_child(&child);
    let ended = limited(pid, || child.wait_with_output());
    let ended = ended.map_err(|why| format!("{}: {why}", name(command)))??;
    if !ended.status.success() {
        return Err(format!("{}: {}: {}", name(command), ended.status, last_lines(&ended.stderr)).into());
    }
    Ok(String::from_utf8(ended.stdout)?)
}

/// Runs the command with `input` on its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = spawn(command, Stdio::piped())?;
    let pid = Pid::from_child(&child);
    let mut to = child.stdin.take().ok_or("no standard input")?;
    let ended = limited(pid, || {
        let written = to.write_all(input.as_bytes());
        drop(to);
        child.wait_with_output().and_then(|ended| written.map(|()| ended))
    });
    let ended = ended.map_err(|why| format!("{}: {why}", name(command)))??;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}: {}", name(command), ended.status, last_lines(&ended.stderr)).into())
}

/// How long it is from asking for the command until its first line of output; waits for its end after that.
pub(crate) fn first_line(command: &mut Command) -> Result<Duration> {
    let began = Instant::now();
    let mut child = spawn(command, Stdio::null())?;
    let pid = Pid::from_child(&child);
    let mut from = BufReader::new(child.stdout.take().ok_or("no standard output")?);
    let mut line = String::new();
    let ended = limited(pid, || {
        let read = from.read_line(&mut line);
        let took = began.elapsed();
        let rest = read.and_then(|_| from.read_to_end(&mut Vec::new()));
        rest.and_then(|_| child.wait_with_output()).map(|ended| (took, ended))
    });
    let (took, ended) = ended.map_err(|why| format!("{}: {why}", name(command)))??;
    if !ended.status.success() || line.is_empty() {
        return Err(format!("{}: {}: {}", name(command), ended.status, last_lines(&ended.stderr)).into());
    }
    Ok(took)
}

/// A command that said [`READY`] and waits for the end of its standard input.
pub(crate) struct Staying {
    child: Child,
    _from: BufReader<ChildStdout>,
}

/// What a command that stays says when it has done its work.
pub(crate) const READY: &str = "the work is done";

impl Staying {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = spawn(command, Stdio::piped())?;
        let pid = Pid::from_child(&child);
        let mut from = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let ready = limited(pid, || {
            let mut line = String::new();
            while from.read_line(&mut line)? > 0 && line.trim_end() != READY {
                line.clear();
            }
            std::io::Result::Ok(!line.is_empty())
        });
        if matches!(ready, Ok(Ok(true))) {
            return Ok(Self { child, _from: from });
        }
        let ended = child.wait_with_output()?;
        Err(format!("{}: {}: {}", name(command), ended.status, last_lines(&ended.stderr)).into())
    }

    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let pid = Pid::from_child(&self.child);
        limited(pid, || self.child.wait())??;
        Ok(())
    }
}

/// In a process group of its own, so that all of it can be ended.
fn spawn(command: &mut Command, stdin: Stdio) -> Result<Child> {
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().map_err(|e| format!("{}: {e}", name(command)).into())
}

/// Does `work`; ends the process group if that takes longer than [`LIMIT`].
fn limited<T>(group: Pid, work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let late = wait.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            if late && let Err(e) = kill_process_group(group, Signal::KILL) {
                return Some(format!("cannot be ended: {e}"));
            }
            late.then(|| format!("took longer than {} s", LIMIT.as_secs()))
        });
        let worked = work();
        drop(done);
        match watch.join() {
            Ok(None) => Ok(worked),
            Ok(Some(late)) => Err(late),
            Err(_) => Err("the watch on it failed".to_owned()),
        }
    })
}

fn name(command: &Command) -> String {
    let word = |word: &OsStr| word.to_str().unwrap_or("?").chars().take(60).collect::<String>();
    let program = Path::new(command.get_program()).file_name().map(word).unwrap_or_default();
    command.get_args().take(4).map(word).fold(program, |all, next| format!("{all} {next}"))
}

fn last_lines(said: &[u8]) -> String {
    let said = String::from_utf8(said.to_vec()).unwrap_or_default();
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" | ")
}
