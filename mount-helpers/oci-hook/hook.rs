//! The two stages.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nixview::control::{Client, Container, MountRequest, Place};
use nixview::json;
use nixview::sys::open::open_input;

use crate::container::State;
use crate::failure::{Attempt, Failure};
use crate::options::{Arguments, Stage, Wanted};
use crate::{name, place, tell};

/// How long the first process of a container that has ended may take to die.
const DYING: Duration = Duration::from_secs(2);

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
    let lock = open_input(&wanted.closure)
        .attempt(|| format!("cannot read the environment {}", wanted.closure.display()))?;
    let place =
        Place::Handed { purpose: format!("container {} (/nix)", name::shown(&state.id).escape_default()) };
    let mut request = MountRequest::new(wanted.closure.clone(), place, wanted.upper.clone());
    let container = state.container()?;
    request.name = Some(name::of_container(&state.id));
    request.container = Some(container.clone());
    request.owner = Some(owner);
    request.state_dir = arguments.dirs.or_environment().state;
    request.backend = wanted.backend;
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
        let name = mounted.name.clone();
        drop(mounted);
        match client.unmount_of(name, container).map_err(Failure::from) {
            Ok(_) => failure,
            Err(second) => failure.hint(second.lines().join("; ")),
        }
    })
}

/// Ends the container's view, and waits until nothing is left of it. It may be gone already: it goes with the container's
/// mount namespace.
///
/// Another container may have the same id, and even the same bundle, in another directory of the runtime: the views of those
/// whose first process lives stay.
fn end(client: &Client, state: &State) -> Result<(), Failure> {
    for view in client.views()? {
        let text = |field| view.get(field).cloned().unwrap_or_default();
        let (Ok(container), Ok(name)) =
            (json::from_value::<Container>(text("container")), json::from_value::<String>(text("name")))
        else {
            continue;
        };
        if state.is_of(&container) && is_over(&container)? {
            client.unmount_of(name, container)?;
        }
    }
    Ok(())
}

/// True if the first process of a container has ended, or ends soon: a runtime may call the hook right after it killed it.
fn is_over(container: &Container) -> Result<bool, Failure> {
    let until = Instant::now() + DYING;
    loop {
        let over = container.is_over().attempt(|| format!("cannot look at process {}", container.pid))?;
        if over || Instant::now() >= until {
            return Ok(over);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
