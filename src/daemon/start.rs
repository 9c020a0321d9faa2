//! Starts servers: in the background, in the foreground, and for a command.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::error::{Attempt, Failure};
use super::keeper::{Caller, Destination, Dirs, ServeOptions, serve};
use super::launch::{Launched, Report, Reporter, Waiting, launch};
use super::leftovers;
use super::log;
use super::order::Order;
use super::record::Record;
use super::registry::Registry;
use super::run::{self, Outcome, Program};
use crate::sys::{namespace, process};
use crate::view::spec::ViewSpec;

/// Serves what was ordered in a process in the background, and comes back when it can be used.
///
/// To be called without other threads: the server is a fork of this process.
///
/// # Errors
/// What the server failed with; then nothing is left of it.
pub fn mount(order: &Order, dirs: &Dirs) -> Result<Launched, Failure> {
    let Order { spec, destination, options } = order;
    background(spec, dirs, destination, *options)
        .attempt(|| "cannot start the view's server".to_owned())?
        .wait()
}

/// Serves what was ordered, a view on a directory, until it ends; `usable` is told when it can be used.
///
/// # Errors
/// What failed; then nothing is left of it, or the failure says what.
pub fn mount_in_foreground(
    order: &Order,
    dirs: &Dirs,
    usable: &mut dyn FnMut(&Record, &[String]),
) -> Result<(), Failure> {
    struct Here<'a>(&'a mut dyn FnMut(&Record, &[String]));
    impl Caller for Here<'_> {
        fn usable(&mut self, record: &Record, warnings: Vec<String>, _: Option<&OwnedFd>) -> io::Result<()> {
            (self.0)(record, &warnings);
            Ok(())
        }

        fn socket(&self) -> Option<&OwnedFd> {
            None
        }

        fn leave(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    rustix::process::chdir("/").attempt(|| "cannot leave the working directory".to_owned())?;
    // Its output is the caller's.
    let options = ServeOptions { becomes_small: false, ..order.options };
    serve(&order.spec, dirs, &order.destination, options, &mut Here(usable))
}

/// Runs a command with a view at `/nix` in a mount namespace of its own; comes back when nothing of it is left.
///
/// A process without CAP_SYS_ADMIN, or with `user_namespace` any, enters a user namespace first, for good. To be
/// called without other threads.
///
/// # Errors
/// If the view or the namespaces cannot be had.
pub fn run(
    spec: &ViewSpec,
    dirs: &Dirs,
    program: &Program,
    options: ServeOptions,
    user_namespace: bool,
    usable: &mut dyn FnMut(&Record, &[String]),
) -> Result<Outcome, Failure> {
    if user_namespace || !process::may_mount().attempt(|| "cannot ask for privileges".to_owned())? {
        namespace::own_user_namespace().map_err(|error| {
            Failure::of("cannot have a user namespace, which 'run' needs without root", &error)
                .hint("'nixview doctor' says what forbids it; or run it as root")
        })?;
        namespace::own_mounts().attempt(|| "cannot have a mount namespace".to_owned())?;
    }
    let signals = run::take_signals().attempt(|| "cannot take signals".to_owned())?;
    let destination = Destination::Private { command: program.program.display().to_string() };
    let launched = background(spec, dirs, &destination, options)
        .attempt(|| "cannot start the view's server".to_owned())?
        .wait()?;
    usable(&launched.record, &launched.warnings);
    let outcome = run::supervise(program, launched, &signals);
    let registry =
        Registry::open(&dirs.runtime).attempt(|| "cannot open the registry of views".to_owned())?;
    leftovers::clean_if_dead(&registry, &spec.name)?;
    outcome
}

fn background(
    spec: &ViewSpec,
    dirs: &Dirs,
    destination: &Destination,
    options: ServeOptions,
) -> io::Result<Waiting> {
    let kept: Vec<_> = match destination {
        Destination::Directory { opened: Some(directory), .. } => vec![directory.as_fd()],
        _ => Vec::new(),
    };
    launch(&kept, |reporter| {
        let null = match process::null() {
            Ok(null) => null,
            Err(error) => {
                let failure = Failure::of("cannot open /dev/null", &error);
                return u8::from(reporter.report(&Report::Failed(failure), None).is_err()) + 1;
            }
        };
        let private = matches!(destination, Destination::Private { .. });
        let mut caller = Elsewhere { reporter: Some(reporter), null, private, told: false };
        match (serve(spec, dirs, destination, options, &mut caller), &caller.reporter) {
            (Ok(()), _) => 0,
            (Err(failure), Some(reporter)) if !caller.told => {
                // If the caller is gone nobody is left to be told.
                u8::from(reporter.report(&Report::Failed(failure), None).is_err()) + 1
            }
            // It is in the view's log.
            (Err(_), _) => 1,
        }
    })
}

/// The process that asked for the view.
struct Elsewhere {
    /// `None` in a process that does not talk to it.
    reporter: Option<Reporter>,
    /// `/dev/null`, opened before a view can be mounted over `/dev`.
    null: OwnedFd,
    private: bool,
    told: bool,
}

impl Caller for Elsewhere {
    fn usable(&mut self, record: &Record, warnings: Vec<String>, mount: Option<&OwnedFd>) -> io::Result<()> {
        let report = Report::Usable { record: Box::new(record.clone()), warnings };
        self.reporter.as_ref().ok_or(io::ErrorKind::NotConnected)?.report(&report, mount)?;
        self.told = true;
        log::detach(&self.null)
    }

    fn socket(&self) -> Option<&OwnedFd> {
        self.reporter.as_ref().filter(|_| self.private).map(Reporter::socket)
    }

    fn leave(&mut self) -> io::Result<()> {
        self.reporter = None;
        // Whoever reads the caller's output waits for its end.
        log::detach(&self.null)
    }
}
