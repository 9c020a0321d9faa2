//! `nixview completions`: a script by which a shell asks nixview itself what can come next.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::cli::{CliError, Context, ErrorContext};

/// Arguments of `nixview completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The script calls nixview, which must be in PATH: it offers commands, options, and the names of views, uppers and \
    devices that there are.\n\nExamples:\n  \
    nixview completions bash > /usr/share/bash-completion/completions/nixview\n  \
    nixview completions zsh > /usr/share/zsh/site-functions/_nixview\n  \
    nixview completions fish > ~/.config/fish/completions/nixview.fish"
)]
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
    let name = args.shell.to_string();
    let shells = clap_complete::env::Shells::builtins();
    let shell = shells
        .completer(&name)
        .ok_or_else(|| CliError::new(format!("there are no completions for {name}")))?;
    let mut script = Vec::new();
    shell
        .write_registration("COMPLETE", "nixview", "nixview", "nixview", &mut script)
        .context("cannot make the script")?;
    context.output.data(&script)?;
    Ok(ExitCode::SUCCESS)
}
