//! `nixview export`: the changes of a view as an OCI image layer.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::changes::{OverArgs, hold, in_view, look, prefix_of, root_of, told, unknown};
use crate::cli::output::{count, size};
use crate::cli::output_file::{Destination, Kind};
use crate::cli::view::warn;
use crate::cli::{CliError, Context, ErrorContext};
use crate::layer::dir::{DirLower, DirUpper};
use crate::vfs::Name;
use crate::view::changes::Trees;
use crate::view::oci_layer::{self, Compression, Digests, ExportError, Exported, Exporting, Sink};
use crate::view::store_root::ClosureLower;

/// Arguments of `nixview export`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The view must not be mounted. The root of the view is the directory nix/ of the layer. The same upper gives the \
    same bytes.\n\n\
    Examples:\n  \
    nixview export web -o web.tar\n  \
    nixview export web --compress gzip -o - | ssh host nixview import web -\n  \
    nixview export web --json -o web.tar | jq -r .digest"
)]
pub struct Args {
    /// What it lies over: needed for directories of the store that were moved.
    #[command(flatten)]
    pub over: OverArgs,
    /// The file to write, whole or not at all; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace a file that is no archive, and write over a block device [default: they are an error]
    #[arg(long)]
    pub force: bool,
    /// How to compress it: none, gzip or zstd
    #[arg(long, value_name = "HOW", default_value = "none", value_enum)]
    pub compress: CompressArg,
    /// Leave out what a layer cannot hold (sockets, names that begin with .wh.) with a warning [default: fail]
    #[arg(long)]
    pub skip_unsupported: bool,
    /// Print the layer's descriptor as JSON [default: as text]
    #[arg(long)]
    pub json: bool,
    /// The name of a view, or the directory of an upper (anything with a '/')
    #[arg(value_name = "VIEW", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_uppers))]
    pub view: PathBuf,
}

/// How to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CompressArg {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// The descriptor of the OCI image specification, and what belongs into an image's configuration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    media_type: &'static str,
    digest: String,
    size: u64,
    diff_id: String,
    entries: u64,
}

/// Exports.
///
/// # Errors
/// If a view of the upper is mounted, something in it cannot be in a layer, or the file cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let named = args.output != Path::new("-");
    let destination = named.then(|| Destination::find(&args.output, Kind::Layer, args.force)).transpose()?;
    let to_output = destination.as_ref().is_none_or(Destination::is_standard_output);
    if to_output && args.json {
        return Err(CliError::usage("--json needs a file: standard output is the layer"));
    }
    let look = look(&args.view, context)?;
    let last = look.last_view().map_err(|error| told(&error))?;
    let owner = last.as_ref().map_or((0, 0), |last| last.owner);
    let upper = hold(&look, owner)?;
    let (lower, problem) = match args.over.open(last, context) {
        Ok(over) => (over.lower, None),
        Err(error) if args.over.closure.is_some() => return Err(error),
        Err(error) => (unknown(&look)?, Some(error)),
    };
    let prefix = prefix_of(&upper.meta().store_dir)?;
    let how = Exporting { prefix, skip: args.skip_unsupported, lower_known: problem.is_none() };
    let root = root_of(&upper.meta().store_dir);
    let job = Job {
        context,
        root,
        trees: Trees { lower: &lower, upper: upper.layer(), owner: Some(owner) },
        how,
        problem,
    };
    let compression = match args.compress {
        CompressArg::None => Compression::None,
        CompressArg::Gzip => Compression::Gzip,
        CompressArg::Zstd => Compression::Zstd,
    };
    let progress = context.output.progress("exporting");
    let (digests, exported) = if let Some(destination) = destination {
        let (answer, file) = job.write(compression, destination.open()?)?;
        file.finish().with_context(|| format!("cannot write {}", args.output.display()))?;
        answer
    } else {
        let output = io::stdout().lock();
        if output.is_terminal() {
            return Err(CliError::usage("a layer is nothing for a terminal").hint("name a file with -o"));
        }
        job.write(compression, output)?.0
    };
    drop(progress);
    let Digests { digest, size: bytes, diff_id } = digests;
    let text = format!("{digest} {bytes} ({}, {})", size(bytes), count(exported.entries, "entry", "entries"));
    match (args.json, to_output) {
        (true, _) => context.output.json(&Report {
            media_type: compression.media_type(),
            digest,
            size: bytes,
            diff_id,
            entries: exported.entries,
        })?,
        (false, true) => context.output.note(&text),
        (false, false) => context.output.line(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is written.
struct Job<'j> {
    context: &'j Context,
    /// Where the root of the view belongs.
    root: String,
    trees: Trees<'j, ClosureLower<DirLower>, DirUpper>,
    how: Exporting,
    /// Why the lower is not known.
    problem: Option<CliError>,
}

impl Job<'_> {
    fn write<W: Write>(
        &self,
        compression: Compression,
        output: W,
    ) -> Result<((Digests, Exported), W), CliError> {
        const OUTPUT: &str = "cannot write the layer";
        let mut sink =
            Sink::new(io::BufWriter::with_capacity(1 << 20, output), compression).context(OUTPUT)?;
        let exported =
            oci_layer::export(self.trees, &self.how, &mut sink, &mut |path, why| self.left_out(path, why))
                .map_err(|error| self.told(&error))?;
        let (digests, output) = sink.finish().context(OUTPUT)?;
        let output = output.into_inner().map_err(io::IntoInnerError::into_error).context(OUTPUT)?;
        Ok(((digests, exported), output))
    }

    fn left_out(&self, path: &[Name], why: &str) {
        let what = format!("{} is not in the layer: {why}", in_view(&self.root, path));
        warn(self.context, &[what]);
    }

    fn told(&self, error: &ExportError) -> CliError {
        let told = CliError::new(error.to_string());
        match (error, &self.problem) {
            (ExportError::Moved { .. }, Some(problem)) => {
                told.hint(format!("{problem}: name the environment with --closure"))
            }
            (ExportError::Unsupported { .. }, _) => {
                told.hint("--skip-unsupported leaves out what a layer cannot hold")
            }
            _ => told,
        }
    }
}
