//! Keeping a view that the kernel makes by itself: waits for its end, and answers nothing.
//!
//! A keeper that has waited for a while becomes `nixview-keep`, a program of a fifth of the memory that only waits, and that
//! becomes nixview again when something happens ([`resume`]). All descriptors stay open through both, and with them the
//! locks, the roots and the anchor. A kill at any point leaves an unkept view, as that of any keeper.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::overlay::Overlay;
use super::setup::Serving;
use super::{Caller, Dirs, GRACE, Held, SETTLING, take_away};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::mounted::Mounted;
use crate::daemon::record::{Record, UpperRecord};
use crate::daemon::registry::{Claim, Registry, State};
use crate::daemon::{leftovers, log};
use crate::sys::execute::{self, Started};
use crate::sys::mount_point::MountPoint;
use crate::sys::signals::{Signals, wait_readable};
use crate::sys::{memory, open, process, socket};
use crate::view::{ViewName, nix_state, upper_dir};

/// How long a keeper waits before it becomes the small program: a command in a view that ends soon is not slowed down.
const SOON: Duration = Duration::from_secs(2);

/// The program that only waits.
const PROGRAM: &str = "nixview-keep";

/// The signals that tell a keeper to end its view.
pub(super) const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// What a keeper passes to the program that it becomes: numbers of descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Where signals arrive.
    pub signals: u32,
    /// The lock of the view's name.
    pub claim: u32,
    /// Becomes readable when the view is gone.
    pub end: u32,
    /// The socket of the caller, for a private view that ends with it.
    pub caller: Option<u32>,
    /// The mount namespace of the command in a private view, as the caller told it.
    pub namespace: Option<u64>,
}

/// Waits for the end of one overlay.
struct Waiting<'w> {
    name: &'w ViewName,
    dirs: &'w Dirs,
    registry: &'w Registry,
    verbose: u8,
    signals: &'w Signals,
    end: BorrowedFd<'w>,
    caller: Option<BorrowedFd<'w>>,
    mounted: Option<Mounted>,
    /// The numbers of what is waited for, as the small program gets them.
    passed: Passed,
    /// What this process was started with, if it was the small program before.
    started: Option<Started>,
}

impl Serving<'_> {
    /// Until the view is used nowhere any more. Comes back only if the process did not become the small program meanwhile.
    pub(super) fn keep_overlay(
        &self,
        mut overlay: Overlay,
        held: &mut Held,
        caller: &mut dyn Caller,
    ) -> Result<(), Failure> {
        drop(overlay.maker.take());
        let mut waiting = Waiting {
            name: &self.spec.name,
            dirs: self.dirs,
            registry: self.registry,
            verbose: self.options.verbose,
            signals: &self.signals,
            end: overlay.end().as_fd(),
            caller: caller.socket().map(AsFd::as_fd),
            mounted: held.mounted.take(),
            passed: Passed {
                signals: open::number(self.signals.as_fd()),
                claim: held.claim.as_ref().map_or(0, |claim| open::number(claim.lock().as_fd())),
                end: open::number(overlay.end().as_fd()),
                caller: caller.socket().map(|socket| open::number(socket.as_fd())),
                namespace: None,
            },
            started: None,
        };
        waiting.until_the_end(self.options.becomes_small.then_some(SOON))?;
        held.overlay_is_gone = true;
        overlay.forget().attempt(|| "cannot note that Nix's state is not used any more".to_owned())
    }
}

/// Resumes the keeper of an overlay, in the process that was the small program.
///
/// # Errors
/// What failed. What is left of the view is that of a keeper that was killed.
pub fn resume(dirs: &Dirs, name: &ViewName, verbose: u8, passed: Passed) -> Result<(), Failure> {
    let attempt = || format!("cannot resume the keeper of the view '{name}'");
    let started = Started::note().attempt(attempt)?;
    memory::stay_small();
    let signals = Signals::block_only(&SIGNALS).attempt(attempt)?;
    let registry = Registry::open(&dirs.runtime).attempt(attempt)?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let record = match registry.state(name).attempt(attempt)? {
        Some(State::Served(record)) if record.pid == own => record,
        _ => return Err(Failure::new(format!("{}: it is another process's", attempt()))),
    };
    log::open(&dirs.state, name, log::level(verbose, passed.caller.is_some()), false).attempt(attempt)?;
    log::detach(&process::null().attempt(attempt)?).attempt(attempt)?;
    let end = execute::inherited(passed.end).attempt(attempt)?;
    // Held to the end: other processes must not see a dead view meanwhile.
    let lock = execute::inherited(passed.claim).attempt(attempt)?;
    let claim = registry.claim_held(name, lock.into());
    let caller = passed.caller.map(execute::inherited).transpose().attempt(attempt)?;
    let point = record.mount_point_fd.map(execute::inherited).transpose().attempt(attempt)?;
    let mut waiting = Waiting {
        name,
        dirs,
        registry: &registry,
        verbose,
        signals: &signals,
        end: end.as_fd(),
        caller: caller.as_ref().map(AsFd::as_fd),
        mounted: Mounted::of_record(&record, point.map(MountPoint::new)),
        passed,
        started: Some(started),
    };
    let answer = waiting.until_the_end(Some(Duration::ZERO)).and_then(|()| {
        // The locks go with all that was passed: what is left is that of a dead keeper, and its overlay is gone.
        waiting.started.take().into_iter().for_each(Started::close);
        take_back(dirs, claim, &record)
    });
    log::end(&answer);
    answer
}

/// How long the kernel may show an overlay after it told that it is gone: its anchor says so before it leaves the list of connections.
const LEAVING: Duration = Duration::from_secs(2);

/// Takes away what is left of the view of this process, which has no lock of it any more but that of its name.
fn take_back(dirs: &Dirs, claim: Claim, record: &Record) -> Result<(), Failure> {
    let until = Instant::now() + LEAVING;
    while record.is_overlay_mounted().attempt(|| "cannot look for the overlay".to_owned())?
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    nix_state::forget_uses(&dirs.state, std::process::id())
        .attempt(|| "cannot note that Nix's state is not used any more".to_owned())?;
    if let UpperRecord::Directory { path, .. } = &record.upper {
        upper_dir::note_end(path).map_err(io::Error::other).attempt(|| "cannot use the upper".to_owned())?;
    }
    leftovers::clean(claim, record)
}

impl Waiting<'_> {
    /// Until the view is used nowhere any more; becomes the small program after `patience`.
    ///
    /// A signal, or the end of the caller of a private view, takes the view from its path and ends the command in it. Containers
    /// that have it keep it, since no process can take a mount out of their mount namespace: it ends with them.
    fn until_the_end(&mut self, patience: Option<Duration>) -> Result<(), Failure> {
        let attempt = || "cannot wait for the end of the view".to_owned();
        let mut patience = patience;
        loop {
            let mut watched = vec![self.end, self.signals.as_fd()];
            watched.extend(self.caller);
            let ready = wait_readable(&watched, patience).attempt(attempt)?;
            if ready.first() == Some(&true) {
                tracing::info!("the view is unmounted everywhere");
                return Ok(());
            }
            if !ready.contains(&true) {
                match self.become_small() {
                    Ok(never) => match never {},
                    Err(error) => tracing::debug!(%error, "the keeper itself waits"),
                }
                // It is not tried again.
                patience = None;
                continue;
            }
            let mut told = ready.get(1) == Some(&true) && self.signals.next().attempt(attempt)?.is_some();
            if let (Some(true), Some(caller)) = (ready.get(2), self.caller) {
                let (message, _) = socket::receive(caller, 64).attempt(attempt)?;
                match <[u8; 8]>::try_from(message.as_slice()) {
                    Ok(number) => self.passed.namespace = Some(u64::from_ne_bytes(number)),
                    Err(_) => {
                        told = true;
                        (self.caller, self.passed.caller) = (None, None);
                    }
                }
            }
            if told {
                tracing::info!("told to end");
                self.take_from_users()?;
            }
        }
    }

    fn take_from_users(&mut self) -> Result<(), Failure> {
        if let Some(mounted) = self.mounted.take() {
            take_away(&mounted, self.registry)?;
        }
        let over = |patience: Duration| {
            wait_readable(&[self.end], Some(patience))
                .map(|ready| ready == [true])
                .attempt(|| "cannot wait".to_owned())
        };
        let ending = over(SETTLING)?;
        if let Some(namespace) = self.passed.namespace.filter(|_| !ending) {
            process::signal_mount_namespace(namespace, rustix::process::Signal::KILL)
                .attempt(|| "cannot end the command".to_owned())?;
        }
        if !over(GRACE)? {
            tracing::warn!(view = %self.name, "still in use somewhere; it ends when it is not");
        }
        Ok(())
    }

    /// Becomes the program that only waits.
    ///
    /// # Errors
    /// If it is not installed, or cannot be executed; this process is as it was then.
    fn become_small(&self) -> io::Result<Infallible> {
        let program = execute::open_program(&small_program()?)?;
        let own = execute::own_program()?;
        let Passed { signals, claim, end, caller, namespace } = self.passed;
        let watched: Vec<u32> = [end, signals].into_iter().chain(caller).collect();
        let count = u32::try_from(watched.len()).unwrap_or_default();
        let text = |number: u32| OsString::from(number.to_string());
        let mut words = vec![OsString::from(PROGRAM), text(open::number(own.as_fd())), text(count)];
        words.extend(watched.into_iter().map(text));
        // From here on what nixview is called with.
        words.extend(["nixview".into(), "--state-dir".into(), self.dirs.state.clone().into()]);
        words.extend(["--runtime-dir".into(), self.dirs.runtime.clone().into()]);
        words.extend((0..self.verbose).map(|_| "-v".into()));
        words.extend(["keep".into(), self.name.as_str().into()]);
        words.extend(["--signals".into(), text(signals), "--end".into(), text(end)]);
        words.extend(["--claim".into(), text(claim)]);
        if let Some(caller) = caller {
            words.extend(["--caller".into(), text(caller)]);
        }
        if let Some(namespace) = namespace {
            words.extend(["--namespace".into(), namespace.to_string().into()]);
        }
        let words =
            words.into_iter().map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()?;
        tracing::debug!("becomes {PROGRAM}");
        match self.started {
            None => execute::keep_descriptors()?,
            Some(_) => execute::keep_descriptor(own.as_fd())?,
        }
        execute::become_program(&program, &words)
    }
}

/// The small program: beside this one, or where a package has it.
fn small_program() -> io::Result<PathBuf> {
    let own = std::fs::read_link("/proc/self/exe")?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let places = [dir.join(PROGRAM), dir.join("../libexec/nixview").join(PROGRAM)];
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| io::ErrorKind::NotFound.into())
}
