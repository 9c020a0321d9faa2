//! `nixview layers`: environments as OCI images.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::costed::{self, Costed};
use crate::cli::layers_answer::{Answer, Compressed, OfEnvironment, PopularityFrom};
use crate::cli::{CliError, Context, ErrorContext};
use crate::json;
use crate::store::{Database, Location};
use crate::sys::open::open_input;
use crate::usage::oci_layers::archive::Compression;
use crate::usage::oci_layers::nixery::{Popularity, popularity};
use crate::usage::oci_layers::recorded::{self, RecordedError};
use crate::usage::oci_layers::run::{Asked, RunError, Step, run as simulate};
use crate::usage::oci_layers::{Graph, LayoutError, Strategy};

/// Arguments of `nixview layers`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "ENV is a lock file, the name of a view that is mounted, or anything that 'nixview lock' takes: a store path, a \
    derivation, a result. Nothing is built: the layers are those that the tools would make.\n\n\
    Strategies:\n  \
    popularity     nixpkgs' dockerTools until 25.05: the most popular paths alone, the rest in one layer\n  \
    auto           nixpkgs' dockerTools since 25.11: the largest paths decide what belongs together\n  \
    nixery         Nixery (2025-11): each large or popular path, with what is needed through it alone\n  \
    nix2container  nix2container (2026-03): as popularity, by the number of ways to a path; its own default, one layer, is per-image\n  \
    per-path       a layer for each path: the most that can be shared; no runtime stacks that many\n  \
    per-image      one layer for all\n\n\
    Columns: DISTINCT layers of all images; SHARED, which several have; STORED, each distinct layer once, as in a registry; what the \
    FIRST pulls where nothing is there, and the LAST where all others are; UNPACKED, what overlay2 keeps, where a layer is shared \
    only if all below it are. Sizes are those of one kind of archive for all strategies, that of dockerTools; with --compress \
    STORED, FIRST and LAST are compressed. The layer that tools add for links and configuration is left out.\n\n\
    Examples:\n  \
    nixview layers web.lock db.lock\n  \
    nixview layers --strategy popularity,auto --max-layers 40 *.lock\n  \
    nixview layers --compress zstd --level 3 *.lock\n  \
    nixview layers --json --strategy nixery web.lock | jq '.simulations[].layers[] | {bytes, paths}'"
)]
pub struct Args {
    /// The environments, in the order in which they are pulled
    #[arg(value_name = "ENV", required = true)]
    pub environments: Vec<String>,
    /// The store: a directory that ends in nix/store, or one that contains nix/store
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
    /// How to cut closures into layers; several with commas [default: all]
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    pub strategy: Vec<StrategyArg>,
    /// The most layers of an image, with the one that dockerTools and Nixery add; several with commas [default: 100 and 125; for
    /// nixery its own 95]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(2..))]
    pub max_layers: Vec<u32>,
    /// For nixery: a JSON object with the number of references by package name [default: counted in the store's database]
    #[arg(long, value_name = "FILE")]
    pub popularity: Option<PathBuf>,
    /// Compress each layer, to see how large it is then; reads all files [default: archives alone]
    #[arg(long, value_name = "HOW", value_enum)]
    pub compress: Option<CompressArg>,
    /// How hard to compress: 0 to 9 for gzip, 1 to 22 for zstd [default: 6 for gzip, 3 for zstd]
    #[arg(long, value_name = "N", requires = "compress")]
    pub level: Option<u32>,
    /// Answer as JSON, with every layer [default: as a table]
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Answer as CSV, a line for each strategy and environment, in bytes [default: as a table]
    #[arg(long)]
    pub csv: bool,
}

/// A strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum StrategyArg {
    /// dockerTools until 25.05
    Popularity,
    /// dockerTools since 25.11
    Auto,
    /// Nixery
    Nixery,
    /// nix2container
    #[value(name = "nix2container")]
    Nix2container,
    /// A layer for each path
    PerPath,
    /// One layer
    PerImage,
}

/// How to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CompressArg {
    /// As most images are
    Gzip,
    /// Faster and smaller
    Zstd,
}

impl Args {
    /// All strategies, and nothing compressed.
    #[must_use]
    pub fn of(environments: Vec<String>, store: PathBuf) -> Self {
        Self {
            environments,
            store,
            strategy: Vec::new(),
            max_layers: Vec::new(),
            popularity: None,
            compress: None,
            level: None,
            json: false,
            csv: false,
        }
    }

    /// The strategies, each with its limit.
    fn strategies(&self) -> Vec<(Strategy, usize)> {
        let asked = |strategy: &Strategy| {
            self.strategy.is_empty() || self.strategy.iter().any(|one| one.strategy() == *strategy)
        };
        let given: BTreeSet<usize> =
            self.max_layers.iter().filter_map(|most| usize::try_from(*most).ok()).collect();
        let mut all = Vec::new();
        for strategy in Strategy::ALL.into_iter().filter(asked) {
            match (strategy.usual_limits(), given.is_empty()) {
                ([], _) => all.push((strategy, usize::MAX)),
                (usual, true) => all.extend(usual.iter().map(|most| (strategy, *most))),
                (_, false) => all.extend(given.iter().map(|most| (strategy, *most))),
            }
        }
        all
    }

    fn compression(&self) -> Result<Option<Compression>, CliError> {
        let level = |least: u32, most: u32, usual: u32, what: &str| match self.level {
            Some(level) if !(least..=most).contains(&level) => {
                Err(CliError::usage(format!("{what} has the levels {least} to {most}, and not {level}")))
            }
            level => Ok(level.unwrap_or(usual)),
        };
        Ok(match self.compress {
            None => None,
            Some(CompressArg::Gzip) => Some(Compression::Gzip { level: level(0, 9, 6, "gzip")? }),
            Some(CompressArg::Zstd) => {
                let level = level(1, 22, 3, "zstd")?;
                Some(Compression::Zstd { level: i32::try_from(level).unwrap_or(3) })
            }
        })
    }
}

impl StrategyArg {
    fn strategy(self) -> Strategy {
        match self {
            Self::Popularity => Strategy::Popularity,
            Self::Auto => Strategy::AutoLayer,
            Self::Nixery => Strategy::Nixery,
            Self::Nix2container => Strategy::Nix2container,
            Self::PerPath => Strategy::PerPath,
            Self::PerImage => Strategy::PerImage,
        }
    }
}

/// Simulates and shows.
///
/// # Errors
/// If an environment cannot be had, the store has no database, or something in it cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let answer = answer(args, context)?;
    if args.json {
        context.output.json(&answer.json())?;
    } else if args.csv {
        answer.csv(&context.output)?;
    } else {
        answer.table(&context.output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Simulates what was asked.
///
/// # Errors
/// As [`run`].
pub fn answer(args: &Args, context: &Context) -> Result<Answer, CliError> {
    let compression = args.compression()?;
    let strategies = args.strategies();
    let location = Location::open(&args.store).context("cannot use the store")?;
    let database = database(&location)?;
    let mut environments = Vec::new();
    for given in &args.environments {
        environments.push(costed::open(given, &args.store, &location, context)?);
    }
    costed::tell_apart(&mut environments);
    let graphs = graphs(&environments, &database)?;
    let of_nixery = strategies.iter().any(|(strategy, _)| *strategy == Strategy::Nixery);
    let (popular, from) = match (&args.popularity, of_nixery) {
        (Some(file), _) => (read_popularity(file)?, Some(PopularityFrom::File(file.clone()))),
        (None, true) => {
            let counts = database.referrer_counts().context("cannot count references in Nix's database")?;
            let counted = popularity(counts.iter().map(|(path, count)| (path.name(), *count)));
            (counted, Some(PopularityFrom::Database(database.file().to_owned())))
        }
        (None, false) => (Popularity::new(), None),
    };
    let asked = Asked { environments: &graphs, strategies: &strategies, popularity: &popular, compression };
    let simulations = {
        let begun = |step| {
            let what = match step {
                Step::Measuring => "paths measured",
                Step::Compressing => "layers compressed",
            };
            (step, context.output.progress(what))
        };
        let shown = parking_lot::Mutex::new(begun(Step::Measuring));
        let told = |step, done, total| {
            let mut shown = shown.lock();
            if shown.0 != step {
                *shown = begun(step);
            }
            shown.1.count(done, total);
        };
        simulate(&location, &asked, &told).map_err(explain)?
    };
    let environments = environments.into_iter().zip(&graphs).map(|(env, graph)| OfEnvironment {
        name: env.name,
        given: env.given,
        paths: graph.count(),
        nar_size: (0..graph.count()).map(|node| graph.nar_size(node)).sum(),
    });
    Ok(Answer {
        dir: location.dir.clone(),
        environments: environments.collect(),
        compressed: compression.map(Compressed::of),
        popularity: from,
        simulations,
    })
}

/// Nix's database: what refers to what is asked of nothing else.
fn database(location: &Location) -> Result<Database, CliError> {
    if location.database_file().is_none_or(|file| !file.exists()) {
        return Err(CliError::new(format!(
            "the store {} has no Nix database: what refers to what, and how large it is, are not known",
            location.real.display()
        ))
        .hint("layers are cut by both; give the store with its var/nix/db/db.sqlite beside it"));
    }
    Database::open(location).context("cannot read Nix's database")
}

fn graphs(environments: &[Costed], database: &Database) -> Result<Vec<Graph>, CliError> {
    let of = |env: &Costed| {
        recorded::graph(database, &env.paths, &env.starts).map_err(|error| {
            let hint = match &error {
                RecordedError::NoSize { path, .. } => {
                    Some(format!("'nix-store --dump PATH | wc -c' tells it; register {path} again with it"))
                }
                RecordedError::Database(_) | RecordedError::Layout(_) => None,
            };
            let what = format!("cannot cut '{}' into layers", env.name);
            let told = Err::<(), _>(error).context(what.clone()).err().unwrap_or_else(|| CliError::new(what));
            match hint {
                Some(hint) => told.hint(hint),
                None => told,
            }
        })
    };
    environments.iter().map(of).collect()
}

fn explain(error: RunError) -> CliError {
    const WHAT: &str = "cannot simulate the images";
    let hint = match &error {
        RunError::Store(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Some("Nix's database has a path that the store has not: 'nix-store --verify --repair' mends that")
        }
        RunError::Layout(LayoutError::Popularity(_)) => {
            Some("the strategy popularity counts with 128 bits; --strategy chooses others")
        }
        RunError::Store(_) | RunError::Layout(_) => None,
    };
    let told = Err::<(), _>(error).context(WHAT).err().unwrap_or_else(|| CliError::new(WHAT));
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn read_popularity(file: &Path) -> Result<Popularity, CliError> {
    let failed = || format!("cannot use the popularity in {}", file.display());
    let mut text = Vec::new();
    open_input(file).and_then(|mut file| file.read_to_end(&mut text)).with_context(failed)?;
    json::from_slice(&text).with_context(failed).map_err(|error| {
        error.hint("it must be a JSON object of package names and numbers, as in {\"glibc-2.40\": 9000}")
    })
}
