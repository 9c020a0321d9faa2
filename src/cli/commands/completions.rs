//! `nixview completions`: a completion script, made from the definition of the command line.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::cli::{CliError, Context, definition};

/// Arguments of `nixview completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    nixview completions bash > /usr/share/bash-completion/completions/nixview\n  \
    nixview completions zsh > /usr/share/zsh/site-functions/_nixview\n  \
    nixview completions fish > ~/.config/fish/completions/nixview.fish")]
pub struct Args {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// If it cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "nixview", &mut script);
    context.output.data(&script)?;
    Ok(ExitCode::SUCCESS)
}
