//! `nixview-oci-hook`: gives a container its own view at `/nix`, and ends it with the container.
//!
//! A hook of the OCI runtime specification, for `createRuntime` and `poststop`. What is wanted is told by its arguments
//! (a CDI specification, `config.json`), or without `--closure` by the container's annotations; a container for which
//! neither names a closure is left alone.
//!
//! Links of nixview only how to ask for a view: no SQLite, no FUSE. The view is served from the host's namespaces, by the
//! daemon or by a server of its own; this program is inside the container's mount namespace only for placing the mount.

mod container;
mod failure;
mod hook;
mod name;
mod options;
mod place;

use std::io::Write;
use std::process::ExitCode;

use nixview::printable::printable;

/// What `--help` says.
const HELP: &str = "\
Gives a container a view of an environment at /nix, and ends it with the container.
Called by OCI runtimes with the container's state on standard input.

Usage: nixview-oci-hook [createRuntime|poststop] [OPTIONS]

Without a stage, that is told by the state: 'stopped' is poststop.
Without --closure the container's annotations say what is wanted; with it they are not looked at.

Options                  Annotation
  --closure FILE         dev.nixview.closure   the environment, made by 'nixview lock'; without it nothing is done
  --upper DIR|tmp        dev.nixview.upper     where changes go [default: tmp, until the container ends]
  --readonly             dev.nixview.readonly  'true': no changes
  --owner UID:GID        dev.nixview.owner     who owns /nix, as the container numbers them [default: 0:0]
  --store DIR            dev.nixview.store     where the store is [default: /nix/store]
  --backend NAME         dev.nixview.backend   what the view is made of: auto, overlay, fuse [default: auto]
  --state-dir DIR, --runtime-dir DIR           as for nixview [default: NIXVIEW_STATE_DIR, NIXVIEW_RUNTIME_DIR]
  --nixview PROGRAM      nixview, for when no daemon runs [default: beside this program, else in PATH]
  --help, --version
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(said) = arguments.first().and_then(|first| match first.to_str() {
        Some("--help" | "-h") => Some(HELP),
        Some("--version" | "-V") => Some(concat!("nixview-oci-hook ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => None,
    }) {
        return match std::io::stdout().write_all(said.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match hook::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure.lines());
            ExitCode::FAILURE
        }
    }
}

/// Says something to whoever runs the hook; runtimes show it when the hook fails, or log it.
fn tell(lines: &[String]) {
    let text: String = lines.iter().map(|line| format!("nixview-oci-hook: {}\n", printable(line))).collect();
    // There is nobody else to be told that nobody listens.
    drop(std::io::stderr().write_all(text.as_bytes()));
}
