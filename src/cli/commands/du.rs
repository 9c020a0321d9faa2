//! `nixview du`: what environments cost on disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::costed::{self, Costed, Together};
use crate::cli::du_answer::{Answer, Column, CsvTable, OfEnvironment, OfPath, OfUpper, Show};
use crate::cli::du_duplicates::{Asked, DuplicatesAnswer};
use crate::cli::du_report;
use crate::cli::output_file::{Destination, Kind};
use crate::cli::{CliError, Context, ErrorContext};
use crate::store::Location;
use crate::usage::account::Accounts;
use crate::usage::links;
use crate::usage::measure::measure_tree;
use crate::usage::scan::{Found, scan};
use crate::view::upper_dir::{self, UpperInfo};

/// A report has everything, in bytes and for people.
const NOT_IN_A_REPORT: [&str; 7] = ["json", "csv", "paths", "matrix", "sort", "top", "human"];

/// Arguments of `nixview du`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
#[command(group = clap::ArgGroup::new("report").args(["html", "svg", "png"]).multiple(true))]
#[command(
    after_help = "ENV is a lock file, the name of a view that is mounted, or anything that 'nixview lock' takes: a store path, a \
    derivation, a result.\n\n\
    Of each environment: all of it; UNIQUE, which no other of them has; SHARED, which others have too; MARGINAL, which would be \
    freed without it. These three are space on the disk, where an inode counts once whatever names it has: equal files of an \
    optimised store are one. APPARENT is the length of all files and links. Everything is in bytes.\n\n\
    What was measured is remembered, as long as a path is registered and the store's hard links are as they were.\n\n\
    Examples:\n  \
    nixview du -h web.lock db.lock\n  \
    nixview du --paths --sort allocated --top 20 web.lock\n  \
    nixview du --matrix *.lock\n  \
    nixview du -h --duplicates --top 10 *.lock\n  \
    nixview du --all --json *.lock\n  \
    nixview du --html report.html *.lock\n  \
    nixview du --svg figures --png figures --trace web.trace web.lock db.lock"
)]
pub struct Args {
    /// What is measured; all of the store with --all
    #[arg(value_name = "ENV", required_unless_present = "all", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_files))]
    pub environments: Vec<String>,
    /// The store: a directory that ends in nix/store, or one that contains nix/store
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
    /// Measure the whole store too, and say what no environment reaches
    #[arg(long)]
    pub all: bool,
    /// Show the store paths instead of the environments, with the environments that have each
    #[arg(long, conflicts_with = "matrix")]
    pub paths: bool,
    /// Show what each two environments have in common, and what the first 1, 2, … cost together
    #[arg(long)]
    pub matrix: bool,
    /// Show what is there more than once, what 'nix-store --optimise' would save, and with --top the largest groups of equal files;
    /// reads what could be equal
    #[arg(long, conflicts_with_all = ["paths", "matrix", "sort"])]
    pub duplicates: bool,
    /// With --duplicates: what storing equal chunks of files once would save too; reads everything
    #[arg(long, requires = "duplicates")]
    pub chunks: bool,
    /// Sort by this column, the largest first, names from a to z; with --json only the paths [default: environments as given,
    /// paths by allocated]
    #[arg(long, value_name = "COLUMN", value_enum)]
    pub sort: Option<Column>,
    /// Show only so many lines [default: all]
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Sizes for people: 1.5 MiB [default: bytes]
    #[arg(short = 'h', long)]
    pub human: bool,
    /// Measure again what is remembered
    #[arg(long)]
    pub rescan: bool,
    /// Answer as JSON, with everything [default: as a table]
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Answer as CSV, in bytes: one table to standard output, or with =DIR each table as a file of this directory [default: as a
    /// table]
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub csv: Option<PathBuf>,
    /// A page with figures and all numbers, of what is asked; '-' is standard output [default: a table]
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_IN_A_REPORT)]
    pub html: Option<PathBuf>,
    /// The figures of that page, each as an SVG file in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = NOT_IN_A_REPORT)]
    pub svg: Option<PathBuf>,
    /// The figures of that page, each as a PNG file of 300 pixels to the inch in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = NOT_IN_A_REPORT)]
    pub png: Option<PathBuf>,
    /// Replace files that are no such page, figure or table, and write over a block device [default: they are an error]
    #[arg(long)]
    pub force: bool,
    /// With --html, --svg or --png: what of an environment was used, by this trace; several times, those of one environment are taken
    /// together
    #[arg(long, value_name = "FILE", requires = "report")]
    pub trace: Vec<PathBuf>,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    pub help: Option<bool>,
}

impl Args {
    /// True if a page or its figures were asked for.
    #[must_use]
    pub fn wants_report(&self) -> bool {
        self.html.is_some() || self.svg.is_some() || self.png.is_some()
    }
}

/// Measures and shows.
///
/// # Errors
/// If an environment cannot be had, or something cannot be measured.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let page = args.html.as_deref().filter(|file| *file != Path::new("-"));
    let page = page.map(|file| Destination::find(file, Kind::Page, args.force)).transpose()?;
    let location = Location::open(&args.store).context("cannot use the store")?;
    let mut environments = Vec::new();
    for given in &args.environments {
        environments.push(costed::open(given, &args.store, &location, context)?);
    }
    costed::tell_apart(&mut environments);
    if args.wants_report() {
        // A report is the same whatever the order of its arguments.
        environments.sort_by(|a, b| (&a.name, &a.given).cmp(&(&b.name, &b.given)));
    }
    let together = costed::together(&environments, &location, args.all)?;
    let found = {
        let progress = context.output.progress("paths measured");
        let told = |done, total| progress.count(done, total);
        scan(&location, &together.paths, &together.rows, &context.state.state, args.rescan, &told)
            .context("cannot measure the environments")?
    };
    let in_links = if is_linked(&found) {
        links::inodes(&location.real)
            .with_context(|| format!("cannot look at {}", location.real.join(".links").display()))?
    } else {
        HashSet::new()
    };
    let accounts = Accounts::new(&found, &together.sets, &in_links);
    let mut answer = answer(args, &location, &environments, &together, &accounts)?;
    if args.duplicates {
        let asked = Asked { chunks: args.chunks, afresh: args.rescan, top: args.top, whole_store: args.all };
        answer.duplicates =
            Some(DuplicatesAnswer::find(asked, &location, &environments, &together, context)?);
    }
    let show = if args.duplicates {
        Show::Duplicates
    } else if args.matrix {
        Show::Matrix
    } else if args.paths {
        Show::Paths
    } else {
        Show::Environments
    };
    if args.wants_report() {
        du_report::write(args, &answer, page, context)?;
    } else if args.json {
        context.output.json(&answer)?;
    } else if let Some(dir) = &args.csv {
        let tables = answer.csv(show).context("cannot write the answer as CSV")?;
        csv(tables, Some(dir.as_path()).filter(|dir| *dir != Path::new("-")), args.force, context)?;
    } else {
        answer.table(show, args.human, &context.output)?;
    }
    let missing: Vec<&str> = together
        .paths
        .iter()
        .zip(&found)
        .filter(|(_, found)| **found == Found::Missing)
        .map(|(path, _)| path.as_str())
        .collect();
    if let Some(first) = missing.first() {
        let count = crate::cli::output::count(missing.len() as u64, "path is", "paths are");
        context.output.note(&format!(
            "nixview: warning: {count} recorded and not in {}: {first}{}",
            location.real.display(),
            if missing.len() > 1 { ", …" } else { "" }
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes each table into a file of its own, or the first to standard output.
fn csv(tables: Vec<CsvTable>, dir: Option<&Path>, force: bool, context: &Context) -> Result<(), CliError> {
    if let Some(dir) = dir {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for CsvTable { name, text } in tables {
            let file = dir.join(format!("{name}.csv"));
            Destination::find(&file, Kind::Table, force)?.write(&text)?;
            context.output.note(&format!("nixview: wrote {}", file.display()));
        }
        return Ok(());
    }
    let mut tables = tables.into_iter();
    if let Some(first) = tables.next() {
        context.output.write(|out| out.write_all(&first.text))?;
    }
    let others: Vec<String> = tables.map(|table| format!("'{}'", table.name)).collect();
    if !others.is_empty() {
        let others = others.join(" and ");
        context.output.note(&format!("nixview: note: --csv=DIR writes also the table {others}"));
    }
    Ok(())
}

/// True if something has several names: then `.links` may be one of them.
fn is_linked(found: &[Found]) -> bool {
    found.iter().any(|found| matches!(found, Found::Measured(measure) if !measure.linked.is_empty()))
}

fn answer(
    args: &Args,
    location: &Location,
    environments: &[Costed],
    together: &Together,
    accounts: &Accounts<'_>,
) -> Result<Answer, CliError> {
    let account = accounts.account();
    let matrix = accounts.matrix();
    let mut rows = Vec::new();
    for (at, (env, cost)) in environments.iter().zip(&account.environments).enumerate() {
        let upper = match &env.upper {
            Some(path) => {
                // One with a limit is an image.
                let tree = upper_dir::root_path(path);
                let measure = measure_tree(tree.as_ref().unwrap_or(path))
                    .with_context(|| format!("cannot measure the upper of '{}'", env.name))?;
                let info = UpperInfo::read(path)
                    .with_context(|| format!("cannot look at the upper of '{}'", env.name))?;
                let holds = info.and_then(|info| info.usage);
                Some(OfUpper::new(path.clone(), &measure, holds))
            }
            None => None,
        };
        let others = environments.iter().zip(matrix.get(at).into_iter().flatten()).enumerate();
        let shared_with = others
            .filter(|(other, (_, common))| *other != at && common.sizes.paths + common.sizes.missing > 0)
            .map(|(_, (other, common))| (other.name.clone(), common.sizes))
            .collect();
        rows.push(OfEnvironment {
            name: env.name.clone(),
            given: env.given.clone(),
            cost: cost.clone(),
            shared_with,
            upper,
        });
    }
    let unreached = args.all.then(|| {
        let reached: HashSet<usize> = together.sets.iter().flatten().copied().collect();
        accounts.sizes((0..together.paths.len()).filter(|path| !reached.contains(path)))
    });
    let store = args.all.then(|| accounts.sizes(0..together.paths.len()));
    let paths = (args.paths || args.json || args.wants_report()).then(|| {
        let mut users: Vec<Vec<String>> = vec![Vec::new(); together.paths.len()];
        for (env, set) in environments.iter().zip(&together.sets) {
            for path in set {
                if let Some(users) = users.get_mut(*path) {
                    users.push(env.name.clone());
                }
            }
        }
        let each = together.paths.iter().zip(users).enumerate();
        each.map(|(at, (path, environments))| OfPath {
            path: format!("{}/{path}", location.dir),
            sizes: accounts.sizes(std::iter::once(at)),
            environments,
        })
        .collect()
    });
    let mut answer = Answer {
        store: location.real.clone(),
        environments: rows,
        together: account.all,
        shared: account.shared,
        whole_store: store,
        unreached,
        paths,
        matrix: matrix.clone(),
        cumulative: accounts.cumulative(),
        duplicates: None,
    };
    answer.sort_paths(args.sort);
    if let Some(top) = args.top {
        answer.cut_paths(top);
    }
    if !args.json && !args.matrix && !args.wants_report() {
        answer.sort_environments(args.sort);
        answer.environments.truncate(args.top.unwrap_or(usize::MAX));
    }
    Ok(answer)
}
