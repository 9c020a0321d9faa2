//! `nixview umount`: ends a view.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::view::{absolute, failed};
use crate::cli::{CliError, Context, ErrorContext};
use crate::daemon::registry::Registry;
use crate::daemon::stop::{Stopped, Which, stop};
use crate::sys::mountinfo;
use crate::view::ViewName;

/// Arguments of `nixview umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Comes back when the view's server has ended and cleaned up.\n\n\
    Examples:\n  \
    nixview umount web\n  \
    nixview umount /run/views/web\n  \
    nixview umount --lazy web")]
pub struct Args {
    /// Unmount it also while it is used; those who use it can finish [default: refuse]
    #[arg(short, long)]
    pub lazy: bool,
    /// The name of the view, or where it is mounted
    #[arg(value_name = "VIEW")]
    pub view: PathBuf,
}

/// Unmounts.
///
/// # Errors
/// If there is no such view, or it is used.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let Some(registry) = Registry::existing(&context.state.runtime) else {
        return Err(CliError::new("no view is mounted").hint(format!(
            "views are registered in {}; see --runtime-dir",
            context.state.runtime.display()
        )));
    };
    let path = resolved(&absolute(&args.view)?);
    let which = match named(args, &registry, &path)? {
        Some(name) => Which::Name(name),
        None => Which::Path(&path),
    };
    match stop(&registry, &which, args.lazy).map_err(failed)? {
        Stopped::Ended(name) => context.output.note(&format!("view '{name}' has ended")),
        Stopped::WasDead(name) => {
            context.output.note(&format!("the server of view '{name}' was dead; what it left was removed"));
        }
        Stopped::StillUsed(name) if args.lazy => {
            context
                .output
                .note(&format!("view '{name}' is unmounted, and ends when nobody uses it any more"));
        }
        Stopped::StillUsed(name) => {
            return Err(CliError::new(format!(
                "view '{name}' is unmounted here, but its server goes on: another mount namespace has it"
            ))
            .hint("end what runs there; a container, or 'unshare -m'"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The name that is meant, or `None` if the path is: whatever has a '/', and a mount point that no view has as its name.
fn named(args: &Args, registry: &Registry, path: &std::path::Path) -> Result<Option<ViewName>, CliError> {
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

/// Without symbolic links in front of the last name, which is left alone: it may be a view that does not answer.
fn resolved(path: &std::path::Path) -> PathBuf {
    match (path.parent().map(std::path::Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}
