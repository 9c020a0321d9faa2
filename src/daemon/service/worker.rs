//! One connection, from the first request to its end.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use super::super::error::{Attempt, Failure};
use super::super::keeper::Dirs;
use super::super::launch::Launched;
use super::super::log::{LogError, LogReader};
use super::super::mounted::{is_mount_of, text_of_record};
use super::super::order::Order;
use super::super::record::Record;
use super::super::registry::{Registry, State};
use super::super::stop::{self, Which};
use super::super::{leftovers, start};
use super::containers;
use super::policy;
use super::{Allowed, USERS_LOCK, is_ours};
use crate::control::{
    self, Answer, Container, MountRequest, Operation, Place, Reply, Request, Stopped, VERSION, ViewRef,
};
use crate::lock::format::MAX_SIZE;
use crate::sys::lock;
use crate::sys::memory_file;
use crate::sys::mountinfo;
use crate::sys::socket::{self, Peer};
use crate::view::ViewName;

/// How long somebody who has connected may say nothing, or not take an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves a connection until its other end closes it, says nothing for a while, or says what is no request.
pub(super) fn serve(connection: BorrowedFd<'_>, peer: Peer, dirs: &Dirs, allowed: &Allowed) {
    let served = Worker { connection, peer, dirs, allowed }.serve();
    if let Err(error) = served {
        tracing::info!(uid = peer.uid, pid = peer.pid, %error, "a connection ended early");
    }
}

struct Worker<'a> {
    connection: BorrowedFd<'a>,
    peer: Peer,
    dirs: &'a Dirs,
    allowed: &'a Allowed,
}

/// An answer, and the mount that goes with it.
type Answered = (Answer, Option<OwnedFd>);

impl Worker<'_> {
    fn serve(&self) -> io::Result<()> {
        socket::set_receive_timeout(self.connection, PATIENCE)?;
        socket::set_send_timeout(self.connection, PATIENCE)?;
        loop {
            match control::receive::<Request>(self.connection) {
                Ok(None) => return Ok(()),
                Ok(Some((request, descriptors))) => self.answer(request.operation, descriptors)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.reply(failed(Failure::of("this is no request", &error)), None)?;
                    return Err(error);
                }
            }
        }
    }

    fn answer(&self, operation: Operation, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let answered = match operation {
            Operation::Mount(request) => self.mount(*request, descriptors),
            Operation::Unmount { view, lazy, container } => self.unmount(&view, lazy, container.as_ref()),
            Operation::List => self.list(),
            Operation::Log { name } => self.log(&name),
        };
        let (answer, mount) = answered.unwrap_or_else(|failure| (failed(failure), None));
        let sent = self.reply(answer.clone(), mount.as_ref());
        // A view that nobody was told of must not stay; one that was to be handed over ends by itself.
        if let (Err(_), Answer::Mounted { name, .. }, None) = (&sent, &answer, &mount)
            && let (Ok(registry), Ok(name)) = (self.registry(), name.parse())
            && let Err(failure) = stop::stop(&registry, &Which::Name(name), true)
        {
            tracing::warn!(%failure, "a view that nobody was told of stays");
        }
        sent
    }

    fn reply(&self, answer: Answer, mount: Option<&OwnedFd>) -> io::Result<()> {
        let descriptors: Vec<_> = mount.iter().map(|m| m.as_fd()).collect();
        control::send(self.connection, &Reply { version: VERSION, answer }, &descriptors)
    }

    fn registry(&self) -> Result<Registry, Failure> {
        Registry::open(&self.dirs.runtime).attempt(|| "cannot open the registry of views".to_owned())
    }

    /// The right of this user to get another view: one request has it at a time.
    fn turn(&self) -> Result<File, Failure> {
        let path = self.dirs.runtime.join("users.lock");
        let attempt = || format!("cannot lock {}", path.display());
        let mut options = OpenOptions::new();
        let file =
            options.create(true).truncate(false).write(true).mode(0o600).open(&path).attempt(attempt)?;
        lock::wait_lock_of(&file, self.peer.uid).attempt(attempt)?;
        Ok(file)
    }

    fn mount(&self, mut request: MountRequest, descriptors: Vec<OwnedFd>) -> Result<Answered, Failure> {
        let mut descriptors = descriptors.into_iter();
        let lock = descriptors
            .next()
            .ok_or_else(|| Failure::new("the lock must be opened by the one who asks, and sent along"))?;
        let target = descriptors.next();
        if matches!(request.place, Place::Directory { .. }) != target.is_some() {
            return Err(Failure::new("a directory is sent along for a view on one, and only then"));
        }
        policy::check_texts(&request)?;
        let lock = File::from(lock);
        let kind = lock.metadata().attempt(|| "cannot use the lock".to_owned())?;
        if !kind.is_file() {
            return Err(Failure::new("the lock is no regular file"));
        }
        let ours = is_ours(self.peer);
        let mut turn = None;
        if !ours {
            if kind.len() > USERS_LOCK {
                return Err(Failure::new(format!("the lock is larger than {} MiB", USERS_LOCK >> 20)));
            }
            policy::restrict(&mut request, target.as_ref(), self.peer, self.dirs, self.allowed)?;
            // Until the view is in the registry: requests at once get no more than one after another.
            turn = Some(self.turn()?);
            policy::check_number(self.known(&self.registry()?)?.len(), self.peer, self.allowed)?;
        }
        // It may grow while it is read.
        let most = if ours { MAX_SIZE } else { USERS_LOCK };
        let mut order = Order::new(&request, lock, most, target, self.dirs)?;
        order.options.prefer_overlay = self.allowed.prefer_overlay;
        order.options.requested_by = (!ours).then_some(self.peer.uid);
        let Launched { record, warnings, mount, .. } = match &request.container {
            Some(container) => containers::mount(&self.registry()?, &mut order, container, self.dirs)?,
            None => start::mount(&order, self.dirs)?,
        };
        drop(turn);
        tracing::info!(view = %record.name, uid = self.peer.uid, server = record.pid, "mounted");
        let name = record.name.to_string();
        let record = serde_json::to_value(&record).attempt(|| "cannot tell of the view".to_owned())?;
        Ok((Answer::Mounted { name, record, warnings }, mount))
    }

    fn unmount(
        &self,
        view: &ViewRef,
        lazy: bool,
        container: Option<&Container>,
    ) -> Result<Answered, Failure> {
        let registry = self.registry()?;
        let Some(name) = self.find(&registry, view)? else {
            let name = match view {
                ViewRef::Name(name) => name.clone(),
                ViewRef::Path(path) => path.display().to_string(),
            };
            return Ok((Answer::Stopped { name, how: Stopped::Absent }, None));
        };
        let (name, how) = match stop::stop_if_there(&registry, &name, lazy, container)? {
            Some(stop::Stopped::Ended(name)) => (name, Stopped::Ended),
            Some(stop::Stopped::WasDead(name)) => (name, Stopped::WasDead),
            Some(stop::Stopped::StillUsed(name)) => (name, Stopped::StillUsed),
            None => (name, Stopped::Absent),
        };
        tracing::info!(view = %name, uid = self.peer.uid, ?how, "unmounted");
        Ok((Answer::Stopped { name: name.to_string(), how }, None))
    }

    /// The view that is meant, of those that the peer may know of.
    fn find(&self, registry: &Registry, view: &ViewRef) -> Result<Option<ViewName>, Failure> {
        let ours = is_ours(self.peer);
        let names: Vec<ViewName> = match view {
            ViewRef::Name(name) => {
                let name: ViewName = name.parse().attempt(|| "cannot find the view".to_owned())?;
                let full = if ours { None } else { policy::full_name(&name, self.peer.uid).ok() };
                full.into_iter().chain([name]).collect()
            }
            ViewRef::Path(_) => Vec::new(),
        };
        let attempt = || "cannot read the registry of views".to_owned();
        let mut found = match view {
            ViewRef::Name(_) => names,
            // Only looked up in the mount table, never walked: it is the peer's path.
            ViewRef::Path(path) => {
                let mount = mountinfo::mount_at(path).attempt(|| "cannot read the mount table".to_owned())?;
                match mount {
                    Some(mount) => registry
                        .names_of(&text_of_record(&mount), |record| is_mount_of(record, &mount))
                        .attempt(attempt)?,
                    None => Vec::new(),
                }
            }
        };
        found.sort();
        for name in found {
            if let Ok(Some(state)) = registry.state(&name)
                && self.may_know_of(&state)
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// True if the peer may know of a view; of one that is only being started only those who know all.
    fn may_know_of(&self, state: &State) -> bool {
        is_ours(self.peer) || state.record().is_some_and(|record| policy::is_of(record, self.peer.uid))
    }

    /// The views that the peer may know of; without a record those that are only being started.
    fn known(&self, registry: &Registry) -> Result<Vec<(ViewName, Option<Record>)>, Failure> {
        let all = registry.all().attempt(|| "cannot read the registry of views".to_owned())?;
        let known = all.into_iter().filter_map(|(name, state)| Some((name, state.ok()?)));
        let known = known.filter(|(_, state)| self.may_know_of(state));
        Ok(known.map(|(name, state)| (name, state.record().cloned())).collect())
    }

    /// A copy of a log: its file is not the peer's to lock.
    fn log(&self, name: &str) -> Result<Answered, Failure> {
        let attempt = || "cannot read the log".to_owned();
        let name: ViewName = name.parse().attempt(attempt)?;
        let names = if is_ours(self.peer) {
            vec![name]
        } else {
            // The names of a user's views begin so, and those of others do not.
            let own = name.as_str().starts_with(&format!("u{}-", self.peer.uid)).then(|| name.clone());
            policy::full_name(&name, self.peer.uid).ok().into_iter().chain(own).collect()
        };
        let mut missing = Failure::new("there is no such log");
        for name in names {
            match LogReader::open(&self.dirs.state, &name) {
                Ok(mut reader) => {
                    let mut copy = memory_file::new("nixview-log").attempt(attempt)?;
                    for line in reader.news().attempt(attempt)? {
                        copy.write_all(&line.print()).attempt(attempt)?;
                    }
                    copy.rewind().attempt(attempt)?;
                    return Ok((Answer::Log { name: name.to_string() }, Some(copy.into())));
                }
                Err(error @ LogError::Missing { .. }) => missing = Failure::new(error.to_string()),
                Err(error) => return Err(Failure::of(&attempt(), &error)),
            }
        }
        Err(missing)
    }

    fn list(&self) -> Result<Answered, Failure> {
        let registry = self.registry()?;
        let (_, problems) =
            leftovers::sweep(&registry).attempt(|| "cannot read the registry of views".to_owned())?;
        // The daemon itself warns of them, at its own pace.
        problems.iter().for_each(|problem| tracing::debug!(%problem, "cannot clean up"));
        let records = self.known(&registry)?.into_iter().filter_map(|(_, record)| record);
        let views: Result<Vec<_>, _> = records.map(serde_json::to_value).collect();
        Ok((Answer::Views { views: views.attempt(|| "cannot tell of the views".to_owned())? }, None))
    }
}

fn failed(failure: Failure) -> Answer {
    Answer::Failed { what: failure.what, hints: failure.hints }
}
