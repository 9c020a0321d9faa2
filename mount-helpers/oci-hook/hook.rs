//! The two stages.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nixview::control::{Client, MountRequest, Place, ViewRef};

use crate::container::State;
use crate::failure::{Attempt, Failure};
use crate::options::{Arguments, Stage, Wanted};
use crate::{name, place, tell};

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
        Stage::Poststop => end(&arguments.client()?, &state),
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
    let place =
        Place::Handed { purpose: format!("container {} (/nix)", name::shown(&state.id).escape_default()) };
    let mut request = MountRequest::new(wanted.closure.clone(), place, wanted.upper.clone());
    request.name = Some(name::of_container(&state.id));
    request.owner = Some(owner);
    request.state_dir = arguments.dirs.or_environment().state;
    if let Some(store) = &wanted.store {
        request.store.clone_from(store);
    }

    let client = arguments.client()?;
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
