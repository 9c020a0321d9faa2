//! Which views this host serves: one record and one lock a view, in the runtime directory.
//!
//! ```text
//! RUNTIME/views/NAME.lock   held by the server as long as it lives, however it ends
//! RUNTIME/views/NAME.json   the record: who serves what, where; and what must be cleaned up if the server dies.
//!                           A line of JSON for each state of it; the last whole one counts
//! RUNTIME/rounds/           where the last looks at directories ended that a start cleans in parts ([`Rounds`])
//! RUNTIME/namespace         where a mount namespace with hardly a mount is found ([`crate::sys::small_namespace`])
//! RUNTIME/mounting.lock     held from the look at what is mounted on a directory until a view is mounted or unmounted there
//! ```
//!
//! The lock, and nothing else, tells whether a server lives: pids are used again. A record without a held lock is what
//! a dead server left; whoever finds it takes the lock and cleans up.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys::lock;
use crate::sys::rounds::{self, Rounds};
use crate::sys::signals::wait_readable;
use crate::view::ViewName;

use super::record::{self, Record};

/// Why the registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A server of this name lives.
    #[error("a view named '{name}' is being served already{}", .pid.map(|p| format!(", by process {p}")).unwrap_or_default())]
    Taken {
        /// The name.
        name: ViewName,
        /// Its server, once it has said so.
        pid: Option<i32>,
    },
    /// The keeper of this name is dead, and its overlay is mounted still.
    #[error("the view '{name}' is mounted still, though its keeper was killed")]
    Unkept {
        /// The name.
        name: ViewName,
    },
    /// A file of the registry could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry is another user's, who could have written any record.
    #[error("{path} belongs to the user {owner}: a registry of views belongs to the user that serves them")]
    Foreign {
        /// Its directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A record is not of a form that this version understands.
    #[error("{path} is not a record of a view that this version understands: {problem}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl RegistryError {
    /// True if this user may not read the registry.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What the registry tells of a name.
#[derive(Clone, PartialEq, Debug)]
pub enum State {
    /// A server lives, and has not said yet what it serves.
    Starting,
    /// A server lives and serves this.
    Served(Box<Record>),
    /// An overlay that is still mounted, and whose keeper is dead.
    Unkept(Box<Record>),
    /// The server is dead, and has left this behind.
    Dead(Box<Record>),
}

impl State {
    /// The record, if there is one already.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Starting => None,
            Self::Served(record) | Self::Unkept(record) | Self::Dead(record) => Some(record),
        }
    }
}

/// The views of a host.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
}

/// The right to mount and to unmount: one process of a registry has it at a time.
#[derive(Debug)]
pub struct Turn {
    /// `None` where the registry was removed: no other process of it takes turns.
    _lock: Option<File>,
}

/// The right to serve under a name: the lock, held. Dropping it without [`Claim::withdraw`] leaves the record.
#[derive(Debug)]
pub struct Claim {
    registry: Registry,
    name: ViewName,
    lock: File,
    /// The record, once it was written.
    record: Option<File>,
}

impl Registry {
    /// The registry in a runtime directory, which is made if it is missing (mode 0700).
    ///
    /// # Errors
    /// [`RegistryError::File`]; [`RegistryError::Foreign`] if it is another user's.
    pub fn open(runtime: &Path) -> Result<Self, RegistryError> {
        let dir = runtime.join("views");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| RegistryError::File { path: dir.clone(), source })?;
        let registry = Self { dir };
        registry.check_owner()?;
        Ok(registry)
    }

    /// Fails if the registry is another user's: what its records name is not to be removed then.
    ///
    /// # Errors
    /// [`RegistryError::Foreign`], [`RegistryError::File`].
    pub fn check_owner(&self) -> Result<(), RegistryError> {
        let path = || self.dir.clone();
        let found = fs::symlink_metadata(&self.dir);
        let owner = found.map_err(|source| RegistryError::File { path: path(), source })?.uid();
        if owner == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        Err(RegistryError::Foreign { path: path(), owner })
    }

    /// The registry in a runtime directory, if there is one.
    #[must_use]
    pub fn existing(runtime: &Path) -> Option<Self> {
        let dir = runtime.join("views");
        dir.is_dir().then_some(Self { dir })
    }

    /// Waits until no other process is between its look at what is mounted somewhere and its own mount or unmount: then it is
    /// this one's turn, until the answer is dropped.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn turn(&self) -> Result<Turn, RegistryError> {
        let path = self.dir.with_file_name("mounting.lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let locked = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(|file| lock::wait_lock(&file).map(|()| Some(file))),
        };
        locked.map(|lock| Turn { _lock: lock }).map_err(|source| RegistryError::File { path, source })
    }

    fn file(&self, name: &ViewName, extension: &str) -> PathBuf {
        self.dir.join(format!("{name}.{extension}"))
    }

    /// Takes a name. What a dead server left under it is answered too: clean that up before anything else.
    ///
    /// # Errors
    /// [`RegistryError::Taken`] if a server of this name lives, [`RegistryError::Unkept`] if an overlay of it is mounted without a
    /// keeper, else as the files answer.
    pub fn claim(&self, name: &ViewName) -> Result<(Claim, Option<Record>), RegistryError> {
        let path = self.file(name, "lock");
        let fail = |source| RegistryError::File { path: path.clone(), source };
        let mut waited = false;
        // Whoever withdraws removes the file while holding its lock: a lock on a removed file counts for nothing.
        let lock = loop {
            let mut options = OpenOptions::new();
            let file = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
            let file = file.map_err(fail)?;
            if !lock::try_lock(&file).map_err(fail)? {
                if is_withdrawn(&file).map_err(fail)? && wait_until_removed(&path, &file).map_err(fail)? {
                    continue;
                }
                let record = self.record(name).ok().flatten();
                let pid = record.as_ref().map(|record| record.pid);
                let both = record.into_iter().flat_map(|record| [Some(record.pid), record.server]).flatten();
                // Both, where both are dying.
                if !waited && both.filter(|pid| wait_if_dying(*pid)).count() > 0 {
                    waited = true;
                    continue;
                }
                return Err(RegistryError::Taken { name: name.clone(), pid });
            }
            if is_named(&path, &file).map_err(fail)? {
                break file;
            }
        };
        // Its last holder may have died between the mark and the removal.
        lock.set_len(0).map_err(fail)?;
        let claim = Claim { registry: self.clone(), name: name.clone(), lock, record: None };
        let left = self.record(name)?;
        if let Some(left) = &left
            && left.is_overlay_mounted().map_err(fail)?
        {
            return Err(RegistryError::Unkept { name: name.clone() });
        }
        Ok((claim, left))
    }

    /// The record of a name, whoever wrote it.
    fn record(&self, name: &ViewName) -> Result<Option<Record>, RegistryError> {
        let path = self.file(name, "json");
        let malformed = |problem| RegistryError::Malformed { path: path.clone(), problem };
        match fs::read(&path) {
            Ok(bytes) => record::parse(&bytes).map(Some).map_err(malformed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RegistryError::File { path, source }),
        }
    }

    /// The claim of a name whose lock this process holds already, by a copy of its descriptor.
    #[must_use]
    pub(super) fn claim_held(&self, name: &ViewName, lock: File) -> Claim {
        Claim { registry: self.clone(), name: name.clone(), lock, record: None }
    }

    /// What there is under a name; `None` if nothing is, or if the name is being given back.
    ///
    /// # Errors
    /// [`RegistryError::File`], [`RegistryError::Malformed`].
    pub fn state(&self, name: &ViewName) -> Result<Option<State>, RegistryError> {
        let path = self.file(name, "lock");
        let held = match File::open(&path) {
            Ok(file) => match lock::is_locked(&file).and_then(|held| Ok((held, is_withdrawn(&file)?))) {
                Ok((true, true)) => return Ok(None),
                Ok((held, _)) => held,
                Err(source) => return Err(RegistryError::File { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(RegistryError::File { path, source }),
        };
        Ok(match (held, self.record(name)?) {
            (true, Some(record)) => Some(State::Served(Box::new(record))),
            (true, None) => Some(State::Starting),
            (false, Some(record)) => {
                let mounted = record.is_overlay_mounted();
                let path = PathBuf::from("/proc");
                let record = Box::new(record);
                match mounted.map_err(|source| RegistryError::File { path, source })? {
                    true => Some(State::Unkept(record)),
                    false => Some(State::Dead(record)),
                }
            }
            (false, None) => None,
        })
    }

    /// Where looks at parts of directories are kept.
    #[must_use]
    pub fn rounds(&self) -> Rounds {
        Rounds::kept_in(self.dir.with_file_name("rounds"))
    }

    /// The next names that no process holds: those of the views of a part of the directory.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn next_not_held(&self) -> Result<NextNames, RegistryError> {
        let fail = |source| RegistryError::File { path: self.dir.clone(), source };
        let directory = rounds::open_directory(&self.dir).map_err(fail)?;
        let part = self.rounds().next(directory.as_fd(), 2 * PART).map_err(fail)?;
        let names = part.names.iter().filter_map(|name| name_of_record(name));
        let not_held = names.filter(|name| !self.is_held(name)).collect();
        Ok(NextNames { not_held, whole: part.whole, ended: part.ended })
    }

    /// All names of records that no process holds, sorted. Only the locks are looked at.
    ///
    /// # Errors
    /// [`RegistryError::File`] for the directory.
    pub fn not_held(&self) -> Result<Vec<ViewName>, RegistryError> {
        let fail = |source| RegistryError::File { path: self.dir.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let name = name_of_record(entry.map_err(fail)?.file_name().as_bytes());
            names.extend(name.filter(|name| !self.is_held(name)));
        }
        names.sort();
        Ok(names)
    }

    /// The names whose records are such, sorted. The locks are not looked at, and records that cannot be read are left out.
    /// Only records that have the text `with` are parsed.
    ///
    /// # Errors
    /// [`RegistryError::File`] for the directory.
    pub fn names_of(
        &self,
        with: &str,
        is_such: impl Fn(&Record) -> bool,
    ) -> Result<Vec<ViewName>, RegistryError> {
        let fail = |source| RegistryError::File { path: self.dir.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let name = name_of_record(entry.map_err(fail)?.file_name().as_bytes());
            let is_such = |name: &ViewName| {
                let text =
                    fs::read_to_string(self.file(name, "json")).ok().filter(|text| text.contains(with));
                text.and_then(|text| record::parse(text.as_bytes()).ok()).is_some_and(|found| is_such(&found))
            };
            names.extend(name.filter(is_such));
        }
        names.sort();
        Ok(names)
    }

    /// True if a process holds the lock of a name. One that cannot be looked at is not held: [`state`](Self::state) tells why.
    fn is_held(&self, name: &ViewName) -> bool {
        File::open(self.file(name, "lock")).and_then(lock::is_locked).unwrap_or(false)
    }

    /// All views, sorted by name.
    ///
    /// # Errors
    /// [`RegistryError::File`] for the directory; each view has its own answer, so that one bad record hides no other.
    #[allow(clippy::type_complexity, reason = "a name, and what is known of it or why not")]
    pub fn all(&self) -> Result<Vec<(ViewName, Result<State, RegistryError>)>, RegistryError> {
        let fail = |source| RegistryError::File { path: self.dir.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let file = entry.map_err(fail)?.file_name();
            let name =
                file.to_str().and_then(|f| f.strip_suffix(".json").or_else(|| f.strip_suffix(".lock")));
            names.extend(name.and_then(|n| n.parse::<ViewName>().ok()));
        }
        names.sort();
        names.dedup();
        let mut all = Vec::new();
        for name in names {
            match self.state(&name) {
                Ok(Some(state)) => all.push((name, Ok(state))),
                Ok(None) => {}
                Err(error) => all.push((name, Err(error))),
            }
        }
        Ok(all)
    }
}

/// How many views a start looks at, to clean up after dead ones.
pub const PART: usize = 32;

/// Names of a part of the registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextNames {
    /// Those that no process holds.
    pub not_held: Vec<ViewName>,
    /// The part is the whole.
    pub whole: bool,
    /// The part has the last name of a round.
    pub ended: bool,
}

/// The name of the view that a file is the record of.
fn name_of_record(file: &[u8]) -> Option<ViewName> {
    std::str::from_utf8(file).ok()?.strip_suffix(".json")?.parse().ok()
}

/// The size of a record's file from which on it is written anew, in bytes: a server that dies again and again adds a line each
/// time.
const MOST: u64 = 64 << 10;

/// The content of the lock file of a name that is being given back. Otherwise the file is empty.
const WITHDRAWN: &[u8] = b"withdrawn\n";

/// True if the holder of a lock file is giving its name back.
fn is_withdrawn(lock: &File) -> io::Result<bool> {
    lock.metadata().map(|found| found.len() > 0)
}

/// True if the path names this very file.
fn is_named(path: &Path, file: &File) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for the removal of a lock file, which follows its mark at once. `false` if it is still there after a second.
fn wait_until_removed(path: &Path, lock: &File) -> io::Result<bool> {
    for _ in 0..1000 {
        if !is_named(path, lock)? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

/// Waits for the end of a process that was killed: it has no command line any more, but still all its locks. `false`
/// if it lives on, or does not end within a second. A process has none for a moment, too, when it becomes another program.
fn wait_if_dying(pid: i32) -> bool {
    let Some(server) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    let is_dying = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
    let has_ended =
        |within| wait_readable(&[server.as_fd()], Some(within)).is_ok_and(|all| all.contains(&true));
    let deadline = Instant::now() + DEATH;
    while is_dying() && Instant::now() < deadline {
        if has_ended(LOOK_AGAIN) {
            return true;
        }
    }
    false
}

/// How long a process that was killed takes to end.
const DEATH: Duration = Duration::from_secs(1);

/// How often it is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Claim {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &ViewName {
        &self.name
    }

    /// The registry that it is a name of.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The descriptor of the lock: the claim lives as long as any process has it.
    #[must_use]
    pub fn lock(&self) -> &File {
        &self.lock
    }

    /// Writes the record; readers see the one before or this one.
    ///
    /// The first is made under another name and renamed; those after it are a line more, which costs no new file until the
    /// file has [`MOST`] bytes. A process whose file another has written anew since finds it without a name.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn publish(&mut self, record: &Record) -> Result<(), RegistryError> {
        let path = self.registry.file(&self.name, "json");
        let draft = self.registry.file(&self.name, "json~");
        let write = |known: &mut Option<File>| -> io::Result<()> {
            let line = record::print(record)?;
            if let Some(file) = known {
                let found = file.metadata()?;
                if found.nlink() > 0 && found.len() < MOST {
                    return file.write_all(&line);
                }
            }
            let mut options = OpenOptions::new();
            let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(&line)?;
            fs::rename(&draft, &path)?;
            *known = Some(file);
            Ok(())
        };
        write(&mut self.record).map_err(|source| RegistryError::File { path: path.clone(), source })
    }

    /// Gives the name back: nothing of it is left.
    ///
    /// # Errors
    /// [`RegistryError::File`].
    pub fn withdraw(self) -> Result<(), RegistryError> {
        let mark = |source| RegistryError::File { path: self.registry.file(&self.name, "lock"), source };
        self.lock.write_all_at(WITHDRAWN, 0).map_err(mark)?;
        // The lock file last: until then no other process can claim the name.
        for extension in ["json~", "json", "lock"] {
            let path = self.registry.file(&self.name, extension);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RegistryError::File { path, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::super::record::tests::example;
    use super::*;

    fn name(text: &str) -> ViewName {
        text.parse().unwrap()
    }

    #[test]
    fn a_process_that_dies_is_waited_for_and_one_that_lives_is_not() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(!wait_if_dying(i32::try_from(std::process::id()).unwrap()));
        child.kill().unwrap();
        while !fs::read(format!("/proc/{pid}/cmdline")).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert!(wait_if_dying(pid));
        child.wait().unwrap();
        assert!(!wait_if_dying(pid), "it is gone");
    }

    #[test]
    fn a_name_is_served_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (mut claim, left) = registry.claim(&name("web")).unwrap();
        assert_eq!(left, None);
        assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Starting));
        claim.publish(&example("web")).unwrap();
        assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Served(Box::new(example("web")))));
        let other = Record { usable: false, ..example("web") };
        claim.publish(&other).unwrap();
        assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Served(Box::new(other))));
        let error = registry.claim(&name("web")).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", example("web").pid)), "{error}");
        claim.withdraw().unwrap();
        assert_eq!(registry.state(&name("web")).unwrap(), None);
        assert_eq!(fs::read_dir(dir.path().join("views")).unwrap().count(), 0);
    }

    /// A look in the middle of the end: the record is gone, the lock file is not.
    #[test]
    fn a_name_that_is_being_given_back_is_no_view_and_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (claim, _) = registry.claim(&name("web")).unwrap();
        claim.lock().write_all_at(WITHDRAWN, 0).unwrap();
        assert_eq!(registry.state(&name("web")).unwrap(), None);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| registry.claim(&name("web")).map(|_| ()));
            std::thread::sleep(Duration::from_millis(20));
            claim.withdraw().unwrap();
            next.join().unwrap().unwrap();
        });
        // Its holder was killed in the middle: the next one starts as any other.
        let (claim, _) = registry.claim(&name("web")).unwrap();
        claim.lock().write_all_at(WITHDRAWN, 0).unwrap();
        drop(claim);
        let (_claim, _) = registry.claim(&name("web")).unwrap();
        assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Starting));
    }

    #[test]
    fn what_a_dead_server_left_is_found_and_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (mut claim, _) = registry.claim(&name("web")).unwrap();
        claim.publish(&example("web")).unwrap();
        drop(claim);
        assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Dead(Box::new(example("web")))));
        let (_claim, left) = registry.claim(&name("web")).unwrap();
        assert_eq!(left, Some(example("web")));
    }

    #[test]
    fn a_record_that_changes_for_ever_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (mut claim, _) = registry.claim(&name("web")).unwrap();
        let file = dir.path().join("views/web.json");
        for restarts in 0..1000 {
            let record = Record { restarts, ..example("web") };
            claim.publish(&record).unwrap();
            assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Served(Box::new(record))));
            assert!(fs::metadata(&file).unwrap().len() < MOST + 4096);
        }
        // Another process has written it anew, and this one has the file of before.
        fs::remove_file(&file).unwrap();
        claim.publish(&example("web")).unwrap();
        assert_eq!(registry.state(&name("web")).unwrap(), Some(State::Served(Box::new(example("web")))));
    }

    #[test]
    fn a_registry_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (mut claim, _) = registry.claim(&name("web")).unwrap();
        claim.publish(&example("web")).unwrap();
        drop(claim);
        std::os::unix::fs::chown(dir.path().join("views"), Some(1000), Some(1000)).unwrap();
        assert!(matches!(Registry::open(dir.path()), Err(RegistryError::Foreign { owner: 1000, .. })));
        // It can be read, and nothing that its records name is removed.
        let registry = Registry::existing(dir.path()).unwrap();
        assert!(matches!(registry.state(&name("web")).unwrap(), Some(State::Dead(_))));
        let (cleaned, problems) = super::super::leftovers::sweep(&registry).unwrap();
        assert!(cleaned.is_empty() && problems.iter().all(|p| p.what.contains("belongs to the user 1000")));
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn one_bad_record_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        fs::write(dir.path().join("views/bad.json"), "{").unwrap();
        let (mut claim, _) = registry.claim(&name("good")).unwrap();
        claim.publish(&example("good")).unwrap();
        let all = registry.all().unwrap();
        assert_eq!(
            all.iter().map(|(n, s)| (n.as_str(), s.is_ok())).collect::<Vec<_>>(),
            [("bad", false), ("good", true)]
        );
    }

    #[test]
    fn a_start_cleans_up_after_a_part_and_after_all_once_one_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let serve = |number: usize| {
            let name = format!("v{number}");
            let (mut claim, _) = registry.claim(&self::name(&name)).unwrap();
            let place = record::Place::Private { command: "sh".into() };
            let upper = record::UpperRecord::ReadOnly;
            claim.publish(&Record { place, upper, gc_roots: None, ..example(&name) }).unwrap();
            claim
        };
        let mut held: Vec<_> = (0..100).map(serve).collect();
        let sweep_part = || {
            let before = registry.all().unwrap().len();
            let (problems, ended) = super::super::leftovers::sweep_part(&registry).unwrap();
            assert!(problems.is_empty(), "{problems:?}");
            (before - registry.all().unwrap().len(), ended)
        };
        assert_eq!(sweep_part(), (0, true), "the first looks at all");
        drop(held.pop());
        let round: Vec<_> = (0..100_usize.div_ceil(PART)).map(|_| sweep_part()).collect();
        assert_eq!(round.iter().map(|(cleaned, _)| cleaned).sum::<usize>(), 1, "{round:?}");
        assert_eq!(round.iter().filter(|(_, ended)| *ended).count(), 1, "{round:?}");
        let last = held.pop().unwrap();
        drop(held);
        assert_eq!(sweep_part().0, 98);
        last.withdraw().unwrap();
        assert!(registry.all().unwrap().is_empty());
    }

    #[test]
    fn claims_race_for_a_name_that_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let held = std::sync::atomic::AtomicU32::new(0);
        let won = std::sync::atomic::AtomicU32::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok((claim, _)) = registry.claim(&name("web")) {
                            assert_eq!(held.fetch_add(1, order), 0, "two hold one name");
                            won.fetch_add(1, order);
                            held.fetch_sub(1, order);
                            claim.withdraw().unwrap();
                        }
                    }
                });
            }
        });
        assert!(won.load(order) > 0);
    }
}
