//! `nixview du --html`, `--svg` and `--png`: gathers what a report shows, and writes it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::commands::{du, layers};
use super::du_answer::Answer;
use super::output::size;
use super::output_file::Destination;
use super::report::{Data, Head, Picture, page, pictures};
use super::trace_answer::{self, TraceAnswer};
use super::trace_table::{Column, Show};
use super::{CliError, Context, ErrorContext};

/// Writes what was asked for, the page into `file` if there is one.
///
/// # Errors
/// If a trace cannot be used, or a file cannot be written.
pub fn write(
    args: &du::Args,
    answer: &Answer,
    file: Option<Destination>,
    context: &Context,
) -> Result<(), CliError> {
    let failed = "cannot make the report";
    let mut all = Map::new();
    all.insert("du".to_owned(), serde_json::to_value(answer).context(failed)?);
    let given: Vec<String> = answer.environments.iter().map(|env| env.given.clone()).collect();
    let no_layers = match layers(args, given, context) {
        Ok(answer) => {
            all.insert("layers".to_owned(), serde_json::to_value(answer.json()).context(failed)?);
            None
        }
        Err(error) => Some(error.lines().join("; ").trim_start_matches("nixview: ").to_owned()),
    };
    if !args.trace.is_empty() {
        let traces = traces(args, context)?;
        all.insert("traces".to_owned(), serde_json::to_value(traces).context(failed)?);
    }
    let data = Data::new(Value::Object(all));

    if let Some(path) = &args.html {
        let html = page(&data, &Head { when: when()?, no_layers: no_layers.clone() });
        match file {
            None => context.output.data(html.as_bytes())?,
            Some(file) => {
                file.write(html.as_bytes())?;
                context.output.note(&format!(
                    "nixview: wrote {}, {}",
                    path.display(),
                    size(html.len() as u64)
                ));
            }
        }
    }
    for (how, dir) in [(Picture::Svg, &args.svg), (Picture::Png, &args.png)] {
        let Some(dir) = dir else { continue };
        for file in pictures(&data, how, dir, args.force)? {
            context.output.note(&format!("nixview: wrote {}", file.display()));
        }
    }
    if let Some(why) = no_layers {
        context.output.note(&format!("nixview: warning: the report is without layers: {why}"));
    }
    Ok(())
}

/// How the environments would look as images; nothing but the whole store has none.
fn layers(
    args: &du::Args,
    environments: Vec<String>,
    context: &Context,
) -> Result<super::layers_answer::Answer, CliError> {
    if environments.is_empty() {
        return Err(CliError::new("no environment was given"));
    }
    layers::answer(&layers::Args::of(environments, args.store.clone()), context)
}

/// What was used, of each environment that was traced.
fn traces(args: &du::Args, context: &Context) -> Result<Vec<TraceAnswer>, CliError> {
    let read = trace_answer::read(&args.trace)?;
    let mut by_closure: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for (file, trace) in args.trace.iter().zip(&read) {
        let digest = &trace.head.closure.digest;
        match by_closure.iter_mut().find(|(known, _)| known == digest) {
            Some((_, files)) => files.push(file.clone()),
            None => by_closure.push((digest.clone(), vec![file.clone()])),
        }
    }
    let make = |(_, traces): (String, Vec<PathBuf>)| {
        let store = Some(args.store.clone());
        let asked = trace_answer::Asked { traces, lock: None, store, afresh: args.rescan };
        let mut answer = trace_answer::make(&asked, context)?;
        // As 'nixview trace report' does.
        answer.select(Show::All, Column::Allocated, None);
        Ok(answer)
    };
    let mut answers = by_closure.into_iter().map(make).collect::<Result<Vec<_>, _>>()?;
    answers.sort_by(|a, b| (&a.environment, &a.lock).cmp(&(&b.environment, &b.lock)));
    Ok(answers)
}

/// Now in UTC, or what SOURCE_DATE_EPOCH says, so that a page can be made again.
fn when() -> Result<String, CliError> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds: u64 = text
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH is '{text}', and not a number of seconds"))?;
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        }
        Err(_) => SystemTime::now(),
    };
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}
