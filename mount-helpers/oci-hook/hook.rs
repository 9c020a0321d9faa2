//! The two stages.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nixview::control::{Client, MountRequest, Place, SOCKET, ViewRef};

use crate::container::State;
use crate::failure::{Attempt, Failure};
use crate::options::{Arguments, Stage, Wanted};
use crate::{name, place, tell};

/// Where nixview keeps what does not outlive a reboot, if nobody says otherwise.
const RUNTIME: &str = "/run/nixview";

/// Does what the runtime asks for.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let arguments = Arguments::parse(arguments)?;
    let state = State::read(io::stdin().lock())?;
    let stage = arguments.stage.unwrap_or(match state.status.as_str() {
        "stopped" => Stage::Poststop,
        _ => Stage::CreateRuntime,
    });
    let Some(wanted) = arguments.wanted(&state.annotations)? else { return Ok(()) };
    match stage {
        Stage::CreateRuntime => create(&arguments, &state, &wanted),
        Stage::Poststop => end(&client(&arguments)?, &state),
    }
}

/// Puts a view into the container, or leaves nothing of it.
fn create(arguments: &Arguments, state: &State, wanted: &Wanted) -> Result<(), Failure> {
    // What can fail without a view comes first.
    let namespace = state.mounts()?;
    let root = state.root()?;
    let owner = state.on_host(wanted.owner)?;
    let lock = File::open(&wanted.closure)
        .attempt(|| format!("cannot read the environment {}", wanted.closure.display()))?;
    let place = Place::Handed { purpose: format!("container {} (/nix)", state.id.escape_default()) };
    let mut request = MountRequest::new(wanted.closure.clone(), place, wanted.upper.clone());
    request.name = Some(name::of_container(&state.id));
    request.owner = Some(owner);
    request.state_dir = directory(arguments.state_dir.as_deref(), "NIXVIEW_STATE_DIR");
    if let Some(store) = &wanted.store {
        request.store.clone_from(store);
    }

    let client = client(arguments)?;
    let mounted = client.mount(&request, lock.as_fd(), None)?;
    let warnings: Vec<String> = mounted.warnings.iter().map(|w| format!("warning: {w}")).collect();
    tell(&warnings);
    let placed = match &mounted.mount {
        Some(view) => place::place(view.as_fd(), &namespace, &root),
        None => Err(Failure::new("nixview has handed over no mount")),
    };
    placed.map_err(|failure| {
        drop(mounted);
        match end(&client, state) {
            Ok(()) => failure,
            Err(second) => failure.hint(second.lines().join("; ")),
        }
    })
}

/// Ends the container's view, and waits until nothing is left of it. It may be gone already: it goes with the container's
/// mount namespace.
fn end(client: &Client, state: &State) -> Result<(), Failure> {
    client.unmount(ViewRef::Name(name::of_container(&state.id)), true)?;
    Ok(())
}

fn client(arguments: &Arguments) -> Result<Client, Failure> {
    let state = directory(arguments.state_dir.as_deref(), "NIXVIEW_STATE_DIR");
    let runtime = directory(arguments.runtime_dir.as_deref(), "NIXVIEW_RUNTIME_DIR");
    let mut program = Command::new(nixview(arguments.nixview.as_deref()));
    program.args(["daemon", "--once"]);
    for (option, directory) in [("--state-dir", &state), ("--runtime-dir", &runtime)] {
        if let Some(directory) = directory {
            program.arg(option).arg(directory);
        }
    }
    let socket = runtime.as_deref().unwrap_or(Path::new(RUNTIME)).join(SOCKET);
    Ok(Client::open(&socket, program)?)
}

fn directory(given: Option<&Path>, variable: &str) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(|| env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from))
}

/// The program: as given, beside this one, or whatever PATH has.
fn nixview(given: Option<&Path>) -> PathBuf {
    let beside = || Some(env::current_exe().ok()?.parent()?.join("nixview")).filter(|path| path.is_file());
    given.map(Path::to_owned).or_else(beside).unwrap_or_else(|| PathBuf::from("nixview"))
}
