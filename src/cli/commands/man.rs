//! `nixview man`: man pages, made from the definition of the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_mangen::Man;

use crate::cli::output_file::{Destination, Kind};
use crate::cli::{CliError, Context, ErrorContext, definition};

/// Arguments of `nixview man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    nixview man | man -l -\n  \
    nixview man /usr/local/share/man/man1")]
pub struct Args {
    /// Directory to write nixview.1 and a page for each command into; it is created if it is missing [default: print
    /// the page of nixview itself]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints or writes the pages.
///
/// # Errors
/// If a page cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    match &args.dir {
        Some(dir) => {
            let written = write_pages(dir)?;
            context.output.line(&format!("{written} pages in {}", dir.display()))?;
        }
        None => {
            let mut page = Vec::new();
            Man::new(definition()).render(&mut page).context("cannot make the page")?;
            context.output.data(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `nixview.1` and `nixview-COMMAND.1`; gives their number.
fn write_pages(dir: &Path) -> Result<usize, CliError> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut all = definition();
    all.build();
    let mut pages = 1;
    render(&all, dir, "nixview")?;
    for command in all.get_subcommands() {
        render(command, dir, &format!("nixview-{}", command.get_name()))?;
        pages += 1;
    }
    Ok(pages)
}

fn render(command: &clap::Command, dir: &Path, name: &str) -> Result<(), CliError> {
    let mut page = Vec::new();
    let made =
        Man::new(command.clone().display_name(name.to_owned())).title(name.to_owned()).render(&mut page);
    made.with_context(|| format!("cannot make the page {name}.1"))?;
    Destination::find(&dir.join(format!("{name}.1")), Kind::ManPage, false)?.write(&page)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn each_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let pages = write_pages(dir.path()).unwrap();
        assert_eq!(pages, definition().get_subcommands().count() + 1);
        let page = std::fs::read_to_string(dir.path().join("nixview-completions.1")).unwrap();
        assert!(page.contains("nixview\\-completions"), "{page}");
    }
}
