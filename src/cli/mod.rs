//! The command line: the only part that prints, reads the environment and knows everybody.
//!
//! Each command is one file of [`commands`] with `pub struct Args` (what clap parses, and so what help, completions and
//! man pages say) and `pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError>`. Answers go to
//! standard output through [`Output`]; everything else (log, progress, errors) goes to standard error.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. A command that runs another program answers with that program's code.
//! A reader that closed the pipe early (`nixview closure env.lock | head`) is no failure.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};

use crate::sys::inherited::Inherited;

pub mod ask;
pub mod cdi;
pub mod changes;
pub mod commands;
pub mod complete;
pub mod config;
pub mod confirm;
pub mod costed;
mod deferred;
pub mod du_answer;
pub mod du_duplicates;
pub mod du_report;
pub mod environment;
pub mod error;
pub mod host;
pub mod layers_answer;
mod log;
pub mod only_traced;
pub mod output;
pub mod output_file;
mod piped;
mod reference_tree;
pub mod report;
pub mod shown_change;
pub mod size;
pub mod source;
mod spool;
pub mod startup;
pub mod state;
pub mod trace_answer;
pub mod trace_table;
pub mod view;

pub use commands::Command;
pub use error::{CliError, Context as ErrorContext};
pub use output::Output;
pub use state::{StateArgs, StateDirs};

use crate::printable::printable;

/// What `nixview` was asked.
#[derive(Debug, Parser)]
#[command(
    name = "nixview",
    version,
    about = "A private, writable /nix for each container, out of one shared Nix store",
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.\n\
                  Environment: NIXVIEW_LOG sets what is logged (error, warn, info, debug, trace, or module=level); \
                  NO_COLOR turns colours off.",
    max_term_width = 100,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Say more: -v what is done, -vv details, -vvv everything; so does the log of a view that is made ('nixview logs').
    /// NIXVIEW_LOG, if set, decides what is said here
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Where state lies.
    #[command(flatten)]
    pub state: StateArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command gets beside its own arguments.
#[derive(Debug)]
pub struct Context {
    /// Where state and runtime files lie.
    pub state: StateDirs,
    /// Where the answer goes.
    pub output: Output,
    /// What programs inherit that a command runs.
    pub inherited: Inherited,
    /// How many `-v` were given.
    pub verbose: u8,
}

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A shell that asks for completions gets them, and that is all.
    clap_complete::CompleteEnv::with_factory(definition).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(error),
    };
    log::start(cli.verbose);
    let answer = run(&cli);
    match answer {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn run(cli: &Cli) -> Result<ExitCode, CliError> {
    let inherited = Inherited::take().context("cannot set limits and signals of this process")?;
    let state = StateDirs::from_args(&cli.state)?;
    cli.command.run(&Context { state, output: Output::new(), inherited, verbose: cli.verbose })
}

/// The definition of the command line, with the arguments of all commands: for completions, man pages and usage lines.
#[must_use]
pub fn definition() -> clap::Command {
    let mut definition = Cli::command();
    definition.build();
    definition
}

/// Prints help or what was wrong with the usage; 0 for help that was asked for, else 2.
///
/// The message repeats arguments, so that it is made again of printable ones. Its usage line has what the arguments lack,
/// and no option that the environment gives.
///
/// No guess leads to a command that deletes: 'restart' is not 'reset'.
fn usage(error: clap::Error) -> ExitCode {
    let shown = std::env::args_os().map(|argument| printable(&argument.display().to_string()).into_owned());
    // Help names the variables.
    let command = if error.use_stderr() { without_environment(definition()) } else { definition() };
    let again = command.try_get_matches_from(shown).err();
    let error = without_deleting(again.filter(|again| again.kind() == error.kind()).unwrap_or(error));
    match error.print() {
        Ok(()) if error.exit_code() == 0 => ExitCode::SUCCESS,
        Err(broken) if broken.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

/// A command that reads no variables.
fn without_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| argument.env(None)).mut_subcommands(without_environment)
}

/// Takes commands that delete what cannot be had again out of the guesses.
fn without_deleting(mut error: clap::Error) -> clap::Error {
    const DELETING: [&str; 4] = ["reset", "remove", "prune", "gc"];
    let kind = ContextKind::SuggestedSubcommand;
    match error.remove(kind) {
        Some(ContextValue::Strings(mut guesses)) => {
            guesses.retain(|guess| !DELETING.contains(&guess.as_str()));
            if !guesses.is_empty() {
                error.insert(kind, ContextValue::Strings(guesses));
            }
        }
        Some(ContextValue::String(guess)) if !DELETING.contains(&guess.as_str()) => {
            error.insert(kind, ContextValue::String(guess));
        }
        _ => {}
    }
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn no_guess_deletes() {
        for (words, guess) in [
            (&["nixview", "restart"][..], None),
            (&["nixview", "rest"], None),
            (&["nixview", "upper", "removed"], None),
            (&["nixview", "statsu"], Some("status")),
        ] {
            let error = without_deleting(Cli::try_parse_from(words).unwrap_err());
            let text = error.to_string();
            assert_eq!(error.kind(), clap::error::ErrorKind::InvalidSubcommand, "{text}");
            match guess {
                Some(guess) => assert!(text.contains(guess), "{text}"),
                None => assert!(!text.contains("similar"), "{text}"),
            }
        }
    }

    /// Help is the only documentation most people read: no option without, and none that hides its default.
    #[test]
    fn every_argument_has_help_and_every_command_an_example() {
        for command in definition().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says what it does");
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains("nixview "), "{name} has an example in after_help");
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{name} {id} has help");
            }
        }
    }
}
