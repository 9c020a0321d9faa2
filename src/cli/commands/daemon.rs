//! `nixview daemon`: serves views to whoever may ask for them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::config::Config;
use crate::cli::view::{absolute, dirs, failed};
use crate::cli::{CliError, Context, ErrorContext};
use crate::daemon::service::{self, Allowed, Service};
use crate::sys::socket;

/// Arguments of `nixview daemon`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Listens on control.sock in the runtime directory, or on the socket that systemd hands over \
    (sd_listen_fds(3)), and tells systemd when it is ready (sd_notify(3)). Views have servers of their own: they \
    serve on when the daemon ends, however it does.\n\n\
    Root may ask for everything. Other users, once they may connect, get views that are shown as theirs, mounted on \
    directories of their own.\n\n\
    Examples:\n  \
    nixview daemon\n  \
    systemctl enable --now nixview.socket\n  \
    nixview -v daemon --store /srv/store/nix/store"
)]
pub struct Args {
    /// The store that users other than root may have views of
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
    /// How many views each user other than root may have at once
    #[arg(long, value_name = "N", default_value = "64")]
    pub views_per_user: usize,
    /// Serve the one connection that is standard input, then end: for programs that start a daemon of their own
    #[arg(long)]
    pub once: bool,
}

/// Serves.
///
/// # Errors
/// If it cannot listen.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let allowed = Allowed {
        store: absolute(&args.store)?,
        views_per_user: args.views_per_user,
        prefer_overlay: Config::read()?.prefers_overlay(),
    };
    if args.once {
        service::serve_one(io::stdin().as_fd(), &dirs(context), &allowed).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let listener = handed_over()?;
    let service = Service::listen(dirs(context), allowed, listener).map_err(failed)?;
    let ready = || {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    };
    service.serve(ready).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// The socket that systemd opened, if it did.
fn handed_over() -> Result<Option<OwnedFd>, CliError> {
    let cannot = "cannot take the socket that was handed over";
    let mut given = sd_notify::listen_fds().context(cannot)?;
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(number), None) => socket::handed_over(number).map(Some).context(cannot),
        (Some(_), Some(_)) => Err(CliError::new("more than one socket was handed over")
            .hint("the daemon listens on one: a socket unit with one ListenSequentialPacket")),
    }
}
