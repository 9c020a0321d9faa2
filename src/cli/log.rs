//! The log on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// The variable that decides what is logged, in the syntax of `tracing_subscriber::EnvFilter`.
const VARIABLE: &str = "NIXVIEW_LOG";

/// Starts logging: warnings, or more with each `-v`, or what `NIXVIEW_LOG` says.
pub(super) fn start(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let asked = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let parsed = asked.as_deref().map(EnvFilter::try_new);
    let (filter, wrong) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(level), Some(error)),
        None => (EnvFilter::new(level), None),
    };
    let colours = matches!(
        anstream::AutoStream::choice(&std::io::stderr()),
        anstream::ColorChoice::Always | anstream::ColorChoice::AlwaysAnsi
    );
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started =
        if verbose == 0 { log.without_time().with_target(false).try_init() } else { log.try_init() };
    if let Err(error) = started {
        tracing::debug!(%error, "the log was started before");
    }
    if let Some(error) = wrong {
        tracing::warn!("{VARIABLE} is not understood, logging at '{level}': {error}");
    }
}
