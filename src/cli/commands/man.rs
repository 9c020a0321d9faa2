//! `nixview man`: man pages, made from the definition of the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::output_file::{Destination, Kind};
use crate::cli::{CliError, Context, ErrorContext, definition};

mod page;

/// Arguments of `nixview man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    nixview man | man -l -\n  \
    nixview man /usr/local/share/man/man1")]
pub struct Args {
    /// Directory to write nixview.1 and a page for each command into; it is created if it is missing. Pages of section 8
    /// (mount.nixview, nixview-oci-hook) go beside one that is called man1 into man8 [default: print the page of nixview
    /// itself]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Pages of section 8, of programs that others call.
const SECTION_8: [(&str, &str); 3] = [
    ("mount.nixview.8", include_str!("man/mount.nixview.8")),
    ("umount.nixview.8", ".so man8/mount.nixview.8\n"),
    ("nixview-oci-hook.8", include_str!("man/nixview-oci-hook.8")),
];

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
            let pages = pages();
            let page = pages.first().ok_or_else(|| CliError::new("there is no page"))?;
            context.output.data(&render(page, &pages)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A command that has a page, and its name: `nixview-trace-report`.
type Page = (String, clap::Command);

/// The commands with all below them, `nixview` first.
fn pages() -> Vec<Page> {
    fn add(name: String, command: &clap::Command, all: &mut Vec<Page>) {
        all.push((name.clone(), command.clone()));
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            add(format!("{name}-{}", below.get_name()), below, all);
        }
    }
    let mut definition = definition();
    definition.build();
    let mut all = Vec::new();
    add("nixview".to_owned(), &definition, &mut all);
    all
}

/// Writes `nixview.1`, `nixview-COMMAND.1` and the pages of section 8; gives their number.
fn write_pages(dir: &Path) -> Result<usize, CliError> {
    let make =
        |dir: &Path| std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()));
    make(dir)?;
    let pages = pages();
    for page in &pages {
        put(dir, &format!("{}.1", page.0), &render(page, &pages)?)?;
    }
    // Programs that show pages look for each section in a directory of its own.
    let beside = dir.file_name().is_some_and(|name| name == "man1").then(|| dir.with_file_name("man8"));
    let dir = beside.as_deref().unwrap_or(dir);
    make(dir)?;
    for (name, text) in SECTION_8 {
        put(dir, name, text.as_bytes())?;
    }
    Ok(pages.len() + SECTION_8.len())
}

fn put(dir: &Path, name: &str, page: &[u8]) -> Result<(), CliError> {
    Destination::find(&dir.join(name), Kind::ManPage, false)?.write(page)
}

fn render((name, command): &Page, pages: &[Page]) -> Result<Vec<u8>, CliError> {
    // Those above and directly below it, and for nixview itself none: its page lists them.
    let near = |other: &str| {
        let (long, short) =
            if other.len() > name.len() { (other, name.as_str()) } else { (name.as_str(), other) };
        long != short && long.strip_prefix(short).is_some_and(|rest| rest.starts_with('-'))
    };
    let others: Vec<String> = if name == "nixview" {
        Vec::new()
    } else {
        pages.iter().map(|(other, _)| other.clone()).filter(|other| near(other)).collect()
    };
    let mut page = Vec::new();
    page::write(command, name, &others, &mut page)
        .with_context(|| format!("cannot make the page {name}.1"))?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn each_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let count = write_pages(&dir.path().join("man1")).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!(count, names(&dir.path().join("man1")) + names(&dir.path().join("man8")));
        assert!(count > definition().get_subcommands().count() + 3);
        let page = read("man1/nixview-completions.1");
        assert!(page.contains("nixview\\-completions"), "{page}");
        let page = read("man1/nixview-trace-report.1");
        assert!(page.contains(".SH EXAMPLES\n.nf\nnixview trace report web.trace\n"), "{page}");
        assert!(page.contains(".BR nixview\\-trace (1)"), "{page}");
        assert!(read("man8/mount.nixview.8").contains("x\\-systemd.automount"));
        // Where there are no sections, all are in one directory.
        let one = dir.path().join("all");
        assert_eq!(write_pages(&one).unwrap(), names(&one));
    }
}
