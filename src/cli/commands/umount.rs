//! `nixview umount`: ends a view.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::view::{failed, mount_path};
use crate::cli::{CliError, Context, ErrorContext, ask};
use crate::control::{self, ViewRef};
use crate::daemon::registry::Registry;
use crate::daemon::stop::{Stopped, Which, stop};
use crate::sys::mountinfo;
use crate::view::ViewName;

/// Arguments of `nixview umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Comes back when the view's server has ended and cleaned up.\n\n\
    With --lazy a view on a directory is detached: 'nixview status' shows it so, processes that use it can finish, and it \
    ends after the last of them. The view of a container ends at once: processes that use it get ENOTCONN.\n\n\
    Examples:\n  \
    nixview umount web\n  \
    nixview umount /run/views/web\n  \
    nixview umount --lazy web")]
pub struct Args {
    /// Unmount it also while it is used; in a container, end it under its users [default: refuse]
    #[arg(short, long)]
    pub lazy: bool,
    /// The name of the view, or where it is mounted (also a symbolic link to that)
    #[arg(value_name = "VIEW", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_directories))]
    pub view: PathBuf,
}

/// Unmounts.
///
/// # Errors
/// If there is no such view, or it is used.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let path = mount_path(&args.view)?;
    if !rustix::process::geteuid().is_root()
        && let Some((name, how)) = asked(args, context, &path)?
    {
        return told(args, context, &name, how);
    }
    let Some(registry) = Registry::existing(&context.state.runtime) else {
        return Err(CliError::new("no view is mounted").hint(format!(
            "views are registered in {}; see --runtime-dir",
            context.state.runtime.display()
        )));
    };
    let which = match named(args, &registry, &path)? {
        Some(name) => Which::Name(name),
        None => Which::Path(&path),
    };
    let (name, how) = match stop(&registry, &which, args.lazy).map_err(failed)? {
        Stopped::Ended(name) => (name, control::Stopped::Ended),
        Stopped::WasDead(name) => (name, control::Stopped::WasDead),
        Stopped::StillUsed(name) => (name, control::Stopped::StillUsed),
    };
    told(args, context, name.as_str(), how)
}

/// What the daemon did, if it serves the view: a user cannot end what root serves.
fn asked(
    args: &Args,
    context: &Context,
    path: &Path,
) -> Result<Option<(String, control::Stopped)>, CliError> {
    let Some(client) = ask::daemon(context)? else { return Ok(None) };
    let text = args.view.to_str().unwrap_or("/");
    let is_name = !text.contains('/') && text.parse::<ViewName>().is_ok();
    let by_name = is_name.then(|| ViewRef::Name(text.to_owned()));
    for view in by_name.into_iter().chain([ViewRef::Path(path.to_owned())]) {
        match client.unmount(view, args.lazy).map_err(ask::refused)? {
            (_, control::Stopped::Absent) => {}
            ended => return Ok(Some(ended)),
        }
    }
    Ok(None)
}

fn told(args: &Args, context: &Context, name: &str, how: control::Stopped) -> Result<ExitCode, CliError> {
    match how {
        control::Stopped::Ended => context.output.note(&format!("view '{name}' has ended")),
        control::Stopped::WasDead => {
            context.output.note(&format!("the server of view '{name}' was dead; what it left was removed"));
        }
        control::Stopped::StillUsed if args.lazy => {
            context
                .output
                .note(&format!("view '{name}' is unmounted, and ends when nobody uses it any more"));
        }
        control::Stopped::StillUsed => {
            return Err(CliError::new(format!(
                "view '{name}' is not mounted here any more, but still in use"
            ))
            .hint("by processes that had it open, or by another mount namespace: a container, 'unshare -m'")
            .hint("it ends when nothing uses it any more"));
        }
        control::Stopped::Absent => return Err(CliError::new(format!("there is no view named '{name}'"))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The name that is meant, or `None` if the path is: whatever has a '/', and a mount point that no view has as its name.
fn named(args: &Args, registry: &Registry, path: &Path) -> Result<Option<ViewName>, CliError> {
    let text = args.view.to_str().unwrap_or("/");
    if text.contains('/') {
        return Ok(None);
    }
    let name = text.parse::<ViewName>();
    if let Ok(name) = &name
        && registry.state(name).context("cannot read the registry of views")?.is_some()
    {
        return Ok(Some(name.clone()));
    }
    if mountinfo::mount_at(path).context("cannot read the mount table")?.is_some() {
        return Ok(None);
    }
    name.map(Some).context("cannot find the view")
}
