//! `nixview mount`: a view of an environment on a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::view::{LimitArgs, UPPERS, UpperArgs, ViewArgs, absolute, described, dirs, failed, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::daemon;
use crate::daemon::server::ServeOptions;
use crate::sys::process::may_mount;
use crate::view::ViewName;
use crate::view::spec::UpperChoice;

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
    let name = match &args.name {
        Some(name) => name.clone(),
        None => ViewName::of_target(&target).ok_or_else(|| {
            CliError::usage(format!("{} makes no name for a view", target.display()))
                .hint("give it one with --name")
        })?,
    };
    let has = |option| args.options.contains(&option);
    let upper = match args.upper.chosen(context)? {
        Some(UpperChoice::ReadOnly) | None if has(MountOption::Ro) => UpperChoice::ReadOnly,
        Some(_) if has(MountOption::Ro) => {
            return Err(CliError::usage("-o ro allows no changes: --upper and --tmp do not go with it"));
        }
        Some(chosen) => chosen,
        None => UpperChoice::Directory(context.state.state.join(UPPERS).join(name.as_str())),
    };
    let mut spec = args.view.spec(name, upper, &args.limit)?;
    spec.access_lists |= has(MountOption::Acl);
    let privileged = may_mount().context("cannot ask for privileges")?;
    let options = ServeOptions {
        allow_other: has(MountOption::AllowOther) || (privileged && !has(MountOption::NoAllowOther)),
        no_exec: has(MountOption::Noexec),
        require_gc_roots: args.view.require_gc_roots,
        fusermount: args.fusermount || !privileged,
        threads: args.view.threads,
    };
    let shown = target.clone();
    if args.foreground {
        let usable = &mut |record: &_, warnings: &[String]| {
            warn(context, warnings);
            context.output.note(&format!("{} on {}", described(record), shown.display()));
        };
        daemon::mount_in_foreground(&spec, &dirs(context), target, options, usable).map_err(failed)?;
    } else {
        let launched = daemon::mount(&spec, &dirs(context), target, options).map_err(failed)?;
        warn(context, &launched.warnings);
        context.output.line(&format!("{} on {}", described(&launched.record), shown.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
