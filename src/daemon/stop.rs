//! Ends views from outside: unmounts, and waits until the server has cleaned up.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::{Attempt, Failure};
use super::leftovers;
use super::mounted::{MountTables, Mounted, Outcome, is_mount_of, is_view, text_of_record};
use super::record::{Place, Record};
use super::registry::{Registry, State};
use crate::control::Container;
use crate::sys::fuse_connection::FuseConnection;
use crate::sys::mount::Unmount;
use crate::sys::mountinfo;
use crate::sys::signals::wait_readable;
use crate::view::ViewName;

/// How long a server has to clean up after its view was unmounted.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How long who has a view that was handed over may take to let it go, if that is not to be forced.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Which view is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which<'a> {
    /// The one of this name.
    Name(ViewName),
    /// The one that is mounted here (absolute).
    Path(&'a Path),
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// It was unmounted and its server has ended.
    Ended(ViewName),
    /// Its server was dead; what it left was taken away.
    WasDead(ViewName),
    /// It is unmounted, but somebody still uses it, in another mount namespace or (with `lazy`) anywhere; its server
    /// ends when nobody does any more.
    StillUsed(ViewName),
}

/// Unmounts a view, with `lazy` also while it is used. One that was handed over is waited for, since only who has it can
/// take it away; with `lazy` it is ended all the same: who still uses it gets errors.
///
/// # Errors
/// If there is no such view, it is used, or it cannot be unmounted.
pub fn stop(registry: &Registry, which: &Which<'_>, lazy: bool) -> Result<Stopped, Failure> {
    let (name, state) = find(registry, which)?;
    end(registry, name, state, lazy)
}

/// As [`stop`]; `None` if there is no view of that name, or none any more: those that were handed over end by themselves. With
/// `container` a view that was not made for that one is none.
///
/// # Errors
/// If it is used, or cannot be unmounted.
pub fn stop_if_there(
    registry: &Registry,
    name: &ViewName,
    lazy: bool,
    container: Option<&Container>,
) -> Result<Option<Stopped>, Failure> {
    let Some(state) = settled(registry, name)? else { return Ok(None) };
    let made_for = match &state {
        State::Served(record) | State::Unkept(record) | State::Dead(record) => record.container.as_ref(),
        State::Starting => None,
    };
    if container.is_some() && container != made_for {
        return Ok(None);
    }
    end(registry, name.clone(), state, lazy).map(Some)
}

fn end(registry: &Registry, name: ViewName, state: State, lazy: bool) -> Result<Stopped, Failure> {
    let record = match state {
        State::Served(record) => record,
        State::Starting => {
            return Err(Failure::new(format!("the view '{name}' is only being started; try again")));
        }
        State::Unkept(record) => return end_unkept(registry, name, &record, lazy),
        State::Dead(_) => {
            leftovers::clean_if_dead(registry, &name)?;
            return Ok(Stopped::WasDead(name));
        }
    };
    let mut detached = false;
    match &record.place {
        Place::Handed { .. } if lazy => tell_to_end(registry, &name, record.pid)?,
        Place::Handed { .. } => {}
        Place::Mounted { connection, .. } => {
            let here = unmount(registry, &record, lazy)?;
            // If the kernel does not have it any more, its server cleans up.
            detached = !here && FuseConnection::of_number(*connection).is_shown();
        }
        Place::Private { command } => {
            return Err(Failure::new(format!(
                "the view '{name}' belongs to a command that runs in it: {command}"
            ))
            .hint("it ends with the command"));
        }
    }
    let patience = match (&record.place, lazy) {
        (Place::Handed { .. }, false) => LETTING_GO,
        (Place::Mounted { .. }, false) if detached => LETTING_GO,
        (Place::Mounted { .. } | Place::Private { .. }, true) => Duration::from_secs(1),
        _ => CLEAN_UP,
    };
    match wait_for_end(registry, &name, record.pid, patience)? {
        End::Gone => Ok(Stopped::Ended(name)),
        End::Dead => {
            // It died instead of cleaning up.
            leftovers::clean_if_dead(registry, &name)?;
            Ok(Stopped::WasDead(name))
        }
        End::Serving => match &record.place {
            Place::Handed { purpose } if !lazy => {
                Err(Failure::new(format!("the view '{name}' is in use: {purpose}"))
                    .hint("it ends with what uses it")
                    .hint("'nixview umount --lazy' ends it at once; who uses it gets errors then"))
            }
            _ => Ok(Stopped::StillUsed(name)),
        },
    }
}

/// Ends an overlay whose keeper was killed.
fn end_unkept(registry: &Registry, name: ViewName, record: &Record, lazy: bool) -> Result<Stopped, Failure> {
    unmount(registry, record, lazy)?;
    // A process that has just ended may have had a copy of its mount, which goes a moment later.
    let until = Instant::now() + LETTING_GO;
    loop {
        if leftovers::clean_if_dead(registry, &name)? {
            return Ok(Stopped::WasDead(name));
        }
        if Instant::now() >= until {
            // Containers have it.
            return Ok(Stopped::StillUsed(name));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends SIGTERM to the server of a view, if it still is that process.
fn tell_to_end(registry: &Registry, name: &ViewName, pid: i32) -> Result<(), Failure> {
    let attempt = || format!("cannot end the server of the view '{name}'");
    // If it is found to serve after this was opened, the number was not another's.
    let server = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(server)) => server,
        Some(Err(rustix::io::Errno::SRCH)) | None => return Ok(()),
        Some(Err(error)) => return Err(Failure::of(&attempt(), &error)),
    };
    match registry.state(name).attempt(attempt)? {
        Some(State::Served(now)) if now.pid == pid => {}
        _ => return Ok(()),
    }
    match pidfd_send_signal(&server, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(Failure::of(&attempt(), &error)),
    }
}

/// How a wait for the end of a server came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It has cleaned up and given its name back.
    Gone,
    /// It is dead, and has left something.
    Dead,
    /// It serves on.
    Serving,
}

/// Waits until the server `pid` of a view has cleaned up, for so long at most.
///
/// # Errors
/// If the registry cannot be read.
pub(super) fn wait_for_end(
    registry: &Registry,
    name: &ViewName,
    pid: i32,
    patience: Duration,
) -> Result<End, Failure> {
    let until = Instant::now() + patience;
    // If it is found to live after this was opened, the number was not another's.
    let server = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut waited = false;
    loop {
        match registry.state(name).attempt(|| "cannot read the registry of views".to_owned())? {
            Some(State::Served(now)) if now.pid == pid => {}
            Some(State::Dead(_)) => return Ok(End::Dead),
            // Killed meanwhile.
            Some(State::Unkept(_)) => return Ok(End::Serving),
            _ => return Ok(End::Gone),
        }
        if let (Some(server), false) = (&server, std::mem::replace(&mut waited, true)) {
            wait_readable(&[server.as_fd()], Some(patience))
                .attempt(|| "cannot wait for the server".to_owned())?;
            continue;
        }
        if Instant::now() >= until {
            return Ok(End::Serving);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Unmounts a view that is mounted on a directory; `false` if it is not mounted in this mount namespace.
fn unmount(registry: &Registry, record: &Record, lazy: bool) -> Result<bool, Failure> {
    let Some(mounted) = Mounted::of_served(record) else { return Ok(false) };
    let target = mounted.target().display();
    let attempt = || format!("cannot unmount {target}");
    let how = if lazy { Unmount::Lazy } else { Unmount::Now };
    let turn = registry.turn().attempt(attempt)?;
    match mounted.unmount(how, &turn) {
        Ok(Outcome::Unmounted) => Ok(true),
        // Unmounted already, or mounted in another namespace only: the wait tells.
        Ok(Outcome::NotHere) => Ok(false),
        Ok(Outcome::Covered(path)) => {
            let path = path.display();
            Err(Failure::new(format!("something else is mounted over the view '{}' on {path}", record.name))
                .hint(format!("unmount that first: umount {path}")))
        }
        Err(error) => {
            let failure = Failure::of(&attempt(), &error);
            Err(match error.raw_os_error() {
                Some(libc::EBUSY) => failure
                    .hint(format!("'fuser -vm {target}' or 'lsof +f -- {target}' lists the processes that use it"))
                    .hint("'nixview umount --lazy' unmounts it now and lets them finish"),
                Some(libc::ESTALE | libc::ELOOP | libc::ENOENT | libc::ENOTDIR) => failure.hint(
                    "the directories above it are renamed all the time; end the program that renames them, and try again",
                ),
                _ => failure,
            })
        }
    }
}

/// What there is under a name, when its server has said what it serves or given the name back: for a moment both look the
/// same.
fn settled(registry: &Registry, name: &ViewName) -> Result<Option<State>, Failure> {
    let until = Instant::now() + CLEAN_UP;
    loop {
        let state = registry.state(name).attempt(|| "cannot read the registry of views".to_owned())?;
        if state != Some(State::Starting) || Instant::now() >= until {
            return Ok(state);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The view that is meant, of those that the registry knows.
///
/// # Errors
/// If there is none, or the registry cannot be read.
pub fn find(registry: &Registry, which: &Which<'_>) -> Result<(ViewName, State), Failure> {
    match which {
        Which::Name(name) => match settled(registry, name)? {
            Some(state) => Ok((name.clone(), state)),
            None => Err(Failure::new(format!("there is no view named '{name}'"))
                .hint("'nixview status' lists the views of this host")),
        },
        Which::Path(path) => find_at(registry, path),
    }
}

/// The view that is mounted at a path. Only looked up in the mount table: a view that was there, and is detached, may still be
/// served.
fn find_at(registry: &Registry, path: &Path) -> Result<(ViewName, State), Failure> {
    let mount = mountinfo::mount_at(path).attempt(|| "cannot read the mount table".to_owned())?;
    let mount = mount.filter(is_view);
    let attempt = || "cannot read the registry of views".to_owned();
    let is_it = |record: &Record| match &mount {
        Some(mount) => is_mount_of(record, mount),
        None => matches!(&record.place, Place::Mounted { target, .. } if target == path),
    };
    // Most views have the name of their directory: the others are looked through only if this one has not.
    let guess = ViewName::of_target(path).filter(|_| mount.is_some());
    let guessed = guess.map(|name| Ok((registry.state(&name).attempt(attempt)?, name))).transpose()?;
    if let Some((Some(state), name)) = guessed
        && state.record().is_some_and(is_it)
    {
        return Ok((name, state));
    }
    let mut was_there = None;
    let with = mount.as_ref().map(text_of_record).unwrap_or_default();
    for name in registry.names_of(&with, is_it).attempt(attempt)? {
        let Ok(Some(state)) = registry.state(&name) else { continue };
        if mount.is_some() || matches!(state, State::Dead(_)) {
            return Ok((name, state));
        }
        was_there = state.record().map(|record| (name, record.clone()));
    }
    let none = Failure::new(format!("no view of this registry is mounted on {}", path.display()));
    Err(match (mount, was_there) {
        (Some(_), _) => none.hint(format!(
            "one of another runtime directory is (--runtime-dir), or a second mount of a view; 'umount {}' takes it away",
            path.display()
        )),
        (None, Some((name, record))) => {
            let tables = MountTables::read().attempt(|| "cannot read the mount table".to_owned())?;
            match tables.place_of(&record).attempt(|| "cannot read the mount table".to_owned())? {
                Some(now) if now == path => none.hint(format!(
                    "something else is mounted over the view '{name}' there; unmount that first"
                )),
                Some(now) => {
                    none.hint(format!("the view '{name}' was, and is mounted on {}", now.display()))
                }
                None => none.hint(format!(
                    "the view '{name}' was, and is detached: it ends when nothing uses it any more"
                )),
            }
        }
        (None, None) => none.hint("'nixview status' lists the views of this host"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_view_that_ends_meanwhile_is_none_and_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let name: ViewName = "web".parse().unwrap();
        assert_eq!(stop_if_there(&registry, &name, true, None).unwrap(), None);
        // Its record is gone, its name not yet given back.
        let (claim, _) = registry.claim(&name).unwrap();
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            claim.withdraw().unwrap();
        });
        assert_eq!(stop_if_there(&registry, &name, true, None).unwrap(), None);
        ending.join().unwrap();
        stop(&registry, &Which::Name(name), true).unwrap_err();
    }
}
