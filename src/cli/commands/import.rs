//! `nixview import`: an OCI image layer as the changes of a view.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::changes::{Over, OverArgs, prefix_of, told, upper_path};
use crate::cli::output::count;
use crate::cli::size;
use crate::cli::view::{absolute, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::layer::Lower;
use crate::sys::open::open_input;
use crate::view::oci_layer::{
    self, ImportError, Imported, OtherCompression, Problem, Source, Target, decompressed,
};
use crate::view::upper_dir::{LimitChoice, UpperDir, UpperError, UpperLook, UpperSpec};

/// Arguments of `nixview import`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The view must not be mounted. The directory nix/ of the layer becomes the root of the view; the layer may be \
    compressed (gzip, zstd). What fails leaves what was there. A view that was not mounted yet needs --closure.\n\n\
    Examples:\n  \
    nixview import web web.tar\n  \
    nixview import --closure env.lock web2 web.tar\n  \
    nixview import --replace web - < web.tar.gz"
)]
pub struct Args {
    /// What it lies over.
    #[command(flatten)]
    pub over: OverArgs,
    /// Replace the changes that the view has [default: refuse]
    #[arg(long)]
    pub replace: bool,
    /// Leave out what lies elsewhere than in nix/ [default: fail]
    #[arg(long)]
    pub skip_others: bool,
    /// The most that the layer may hold, uncompressed, as in 500M or 100G
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = size::parse)]
    pub max_size: u64,
    /// Make device nodes, which cannot be opened in a view [default: fail]
    #[arg(long)]
    pub devices: bool,
    /// Take set-id bits and file capabilities from files; a view honours neither [default: keep them, and tell]
    #[arg(long)]
    pub no_setid: bool,
    /// Give everything to the owner of the view [default: with root, to whom the layer says]
    #[arg(long)]
    pub no_same_owner: bool,
    /// Print JSON [default: a line]
    #[arg(long)]
    pub json: bool,
    /// The name of a view, or the directory of an upper (anything with a '/'); made if it is missing
    #[arg(value_name = "VIEW", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_uppers))]
    pub view: PathBuf,
    /// The layer; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Serialize)]
struct Report {
    upper: PathBuf,
    entries: u64,
    whiteouts: u64,
    opaque: u64,
    skipped: u64,
    set_id: u64,
}

/// Why the new tree could not be made.
enum Failed {
    Upper(UpperError),
    Import(ImportError),
}

impl From<UpperError> for Failed {
    fn from(error: UpperError) -> Self {
        Self::Upper(error)
    }
}

/// Imports.
///
/// # Errors
/// If a view of the upper is mounted, it holds changes already, or the layer is not one; what was there is there still.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let path = upper_path(&args.view, context)?;
    let last = match UpperLook::open(&path) {
        Ok(look) => look.last_view().map_err(|error| told(&error))?,
        // The open below makes it, or says what is wrong with it.
        Err(_) => None,
    };
    let over = args.over.open(last, context)?;
    let archive: Box<dyn Read> = if args.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = absolute(&args.file)?;
        Box::new(open_input(&file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let archive = decompressed(archive).map_err(|error| {
        let told = CliError::new(format!("cannot read the layer: {error}"));
        match error.get_ref().and_then(|error| error.downcast_ref::<OtherCompression>()) {
            Some(OtherCompression { command, .. }) => {
                told.hint(format!("decompress it, as in '{command} FILE | nixview import VIEW -'"))
            }
            None => told,
        }
    })?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("imported");
    let what = UpperSpec {
        store_dir: &over.view.lock.store_dir,
        view: name,
        owner: over.view.owner,
        format: None,
        limit: LimitChoice::default(),
    };
    let mut upper = UpperDir::open(&path, true, &what).map_err(|error| told(&error))?;
    let progress = context.output.progress("importing");
    let answer = fill(args, &over, &mut upper, archive);
    drop(progress);
    let imported = match answer {
        Ok(imported) => imported,
        Err(error) => {
            upper.give_back().map_err(|error| told(&error))?;
            return Err(error);
        }
    };
    let Imported { entries, whiteouts, opaque, skipped, set_id, first_set_id } = imported;
    if set_id > 0 {
        warn(context, &[told_set_id(set_id, &first_set_id, args.no_setid)]);
    }
    if args.json {
        context.output.json(&Report { upper: path, entries, whiteouts, opaque, skipped, set_id })?;
    } else {
        context.output.line(&format!(
            "{}: {}, {} hidden, {} replaced whole, {} left out",
            path.display(),
            count(entries, "entry", "entries"),
            count(whiteouts, "name", "names"),
            count(opaque, "directory", "directories"),
            skipped
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is said of files that give a program other rights.
fn told_set_id(number: u64, first: &[String], removed: bool) -> String {
    let what = count(number, "file has", "files have");
    let more = if number > first.len() as u64 { ", …" } else { "" };
    let done =
        if removed { "removed" } else { "kept, and without effect in a view; --no-setid removes them" };
    format!("{what} set-id bits or capabilities ({}{more}): {done}", first.join(", "))
}

fn fill(args: &Args, over: &Over, upper: &mut UpperDir, archive: impl Read) -> Result<Imported, CliError> {
    let layer = upper.layer();
    let names = layer.root().and_then(|root| layer.read_dir(&root)).context("cannot read the upper")?;
    if !names.is_empty() && !args.replace {
        return Err(CliError::new(format!("the upper '{}' holds changes", upper.path().display()))
            .hint("--replace replaces them; 'nixview diff' shows them"));
    }
    let privileged = rustix::process::geteuid().is_root();
    let owner = (args.no_same_owner || !privileged).then_some(over.view.owner);
    let (prefix, skip_others) = (prefix_of(&over.view.lock.store_dir)?, args.skip_others);
    let source = Source { prefix, skip_others, max_size: args.max_size };
    let filled = upper.rebuild(over.view.owner, |new| {
        let (devices, set_id) = (args.devices, !args.no_setid);
        let target = Target { trees: over.trees(new), owner, devices, set_id };
        oci_layer::import(&source, archive, target).map_err(Failed::Import)
    });
    let imported = filled.map_err(|error| match error {
        Failed::Upper(error) => told(&error),
        Failed::Import(error) => {
            let told = CliError::new(format!("cannot import {}: {error}", args.file.display()));
            match error.problem {
                Problem::TooLarge(_) => told.hint("--max-size allows more"),
                Problem::Device => told.hint("--devices makes device nodes"),
                _ => told,
            }
        }
    })?;
    upper.record_view(&over.view).map_err(|error| told(&error))?;
    Ok(imported)
}
