//! `nixview mount`: a view of an environment on a directory.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::config::Config;
use crate::cli::view::{LimitArgs, UpperArgs, ViewArgs, absolute, described, dirs, failed, warn};
use crate::cli::{CliError, Context, ErrorContext, ask};
use crate::control::{Place, Upper};
use crate::daemon::record::Record;
use crate::daemon::{self, Order};
use crate::json;
use crate::lock::format::MAX_SIZE;
use crate::sys::process::may_mount;
use crate::view::ViewName;

/// Arguments of `nixview mount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Comes back when the view can be used; a process in the background serves it.\n\n\
    Examples:\n  \
    nixview mount --closure env.lock /run/views/web\n  \
    nixview mount --closure env.lock --name web --upper /srv/web.upper /run/views/web\n  \
    nixview mount --closure env.lock --name web --upper-size 2G --upper-inodes 100000 /run/views/web\n  \
    nixview mount --closure env.lock --read-only --owner 1000:100 /run/views/web")]
pub struct Args {
    /// What it shows.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Where changes go.
    #[command(flatten)]
    pub upper: UpperArgs,
    /// How much they may be.
    #[command(flatten)]
    pub limit: LimitArgs,
    /// What to call the view [default: TARGET with '-' for each '/']
    #[arg(long, value_name = "NAME")]
    pub name: Option<ViewName>,
    /// Serve in the foreground until the view ends; Ctrl-C unmounts it [default: in the background]
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount options, separated by commas: ro, acl (as --acl), noexec, allow_other (the default as root), no_allow_other; rw, exec,
    /// nosuid, nodev and default_permissions say what is so anyway
    #[arg(short, value_name = "OPTION", value_delimiter = ',')]
    pub options: Vec<MountOption>,
    /// Mount with fusermount3, as without root [default: only without root]
    #[arg(long)]
    pub fusermount: bool,
    /// Serve it without the daemon ('nixview daemon') also where one runs [default: the daemon serves it]
    #[arg(long)]
    pub no_daemon: bool,
    /// The directory to mount on; it must exist
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
}

/// One of the options after `-o`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are those of mount(8)")]
#[clap(rename_all = "snake_case")]
pub enum MountOption {
    Ro,
    Rw,
    Acl,
    Noexec,
    Exec,
    Nosuid,
    Nodev,
    DefaultPermissions,
    AllowOther,
    NoAllowOther,
}

/// Mounts.
///
/// # Errors
/// If the view cannot be mounted; then nothing is left of it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let target = absolute(&args.target)?;
    let has = |option| args.options.contains(&option);
    let upper = match args.upper.chosen()? {
        Some(Upper::ReadOnly) | None if has(MountOption::Ro) => Upper::ReadOnly,
        Some(_) if has(MountOption::Ro) => {
            return Err(CliError::usage("-o ro allows no changes: --upper and --tmp do not go with it"));
        }
        Some(chosen) => chosen,
        None => Upper::Named,
    };
    let place = Place::Directory { path: target.clone() };
    let mut request = args.view.request(args.name.as_ref(), place, upper, &args.limit)?;
    request.verbose = context.verbose;
    let privileged = may_mount().context("cannot ask for privileges")?;
    request.acl |= has(MountOption::Acl);
    request.allow_other = has(MountOption::AllowOther) || (privileged && !has(MountOption::NoAllowOther));
    request.no_exec = has(MountOption::Noexec);
    args.view.realise(context)?;
    let lock = args.view.lock()?;

    // What the daemon writes is root's: a user's trace is written by the user's own keeper.
    let own =
        args.foreground || args.fusermount || args.no_daemon || (request.trace.is_some() && !privileged);
    if let Some(client) = if own { None } else { ask::daemon(context)? } {
        request.state_dir = privileged.then(|| context.state.state.clone());
        let directory = daemon::open_target(&target).map_err(failed)?;
        let mounted = client.mount(&request, lock.as_fd(), Some(directory.as_fd())).map_err(ask::refused)?;
        warn(context, &mounted.warnings);
        let record: Record = json::from_value(mounted.record)
            .context("the daemon speaks of views as this program does not understand")?;
        context.output.line(&format!("{} on {}", described(&record), target.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut order = Order::new(&request, lock, MAX_SIZE, None, &dirs(context)).map_err(failed)?;
    order.options.prefer_overlay = Config::read()?.prefers_overlay();
    order.options.fusermount |= args.fusermount;
    if args.foreground {
        let usable = &mut |record: &_, warnings: &[String]| {
            warn(context, warnings);
            context.output.note(&format!("{} on {}", described(record), target.display()));
        };
        daemon::mount_in_foreground(&order, &dirs(context), usable).map_err(failed)?;
    } else {
        let launched = daemon::mount(&order, &dirs(context)).map_err(failed)?;
        warn(context, &launched.warnings);
        context.output.line(&format!("{} on {}", described(&launched.record), target.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
