//! Names of the views of containers: two containers of one id, under two directories of their runtime, have a view each.

use super::super::error::{Attempt, Failure};
use super::super::keeper::Dirs;
use super::super::launch::Launched;
use super::super::order::Order;
use super::super::registry::{Registry, State};
use super::super::start;
use crate::control::Container;
use crate::view::ViewName;

/// How many views may have names that differ in the number alone.
const MOST: usize = 1000;

/// The longest name of a view, in bytes.
const LONGEST: usize = 64;

/// How it stands with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// No view has it, or one whose container is over, which is about to end.
    Free,
    /// A view of the same container has it.
    Own,
    /// Another view has it.
    Taken,
}

/// Serves what was ordered for a container, under the name that was ordered or the next one that is free.
///
/// # Errors
/// If the container has a view already; else as [`start::mount`].
pub(super) fn mount(
    registry: &Registry,
    order: &mut Order,
    container: &Container,
    dirs: &Dirs,
) -> Result<Launched, Failure> {
    let wished = order.spec.name.clone();
    for number in 1..=MOST {
        order.spec.name = numbered(&wished, number)?;
        match use_of(registry, &order.spec.name, container)? {
            Use::Free => {}
            Use::Taken => continue,
            Use::Own => {
                let name = &order.spec.name;
                return Err(Failure::new(format!(
                    "the container '{}' has a view already: '{name}'",
                    container.id
                ))
                .hint("its hook is called twice: for two devices, or for a device and by hooks.d"));
            }
        }
        match start::mount(order, dirs) {
            Err(failure) => {
                // Another view may have taken the name meanwhile.
                if use_of(registry, &order.spec.name, container)? != Use::Taken {
                    return Err(failure);
                }
            }
            answer => return answer,
        }
    }
    Err(Failure::new(format!("{MOST} views have the name '{wished}' with a number")))
}

fn use_of(registry: &Registry, name: &ViewName, container: &Container) -> Result<Use, Failure> {
    let attempt = || format!("cannot take the name '{name}'");
    let record = match registry.state(name).attempt(attempt)? {
        None | Some(State::Dead(_)) => return Ok(Use::Free),
        Some(State::Starting) => return Ok(Use::Taken),
        Some(State::Served(record) | State::Unkept(record)) => record,
    };
    Ok(match &record.container {
        Some(other) if other == container => Use::Own,
        Some(other) if other.is_over().attempt(attempt)? => Use::Free,
        _ => Use::Taken,
    })
}

/// `NAME`, `NAME-2`, `NAME-3` and so on.
fn numbered(name: &ViewName, number: usize) -> Result<ViewName, Failure> {
    if number == 1 {
        return Ok(name.clone());
    }
    let suffix = format!("-{number}");
    let start = name.as_str().get(..LONGEST - suffix.len()).unwrap_or(name.as_str());
    format!("{start}{suffix}").parse().attempt(|| "cannot name the view".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::super::super::record::tests::example;
    use super::*;

    #[test]
    fn numbered_names_are_names() {
        let names = ["oci-web".to_owned(), format!("oci-{}", "x".repeat(60))];
        for name in names.map(|name| name.parse::<ViewName>().unwrap()) {
            assert_eq!(numbered(&name, 1).unwrap(), name);
            assert_ne!(numbered(&name, 2).unwrap(), numbered(&name, 1000).unwrap());
            assert!(numbered(&name, 1000).unwrap().as_str().ends_with("-1000"));
        }
    }

    #[test]
    fn a_name_is_taken_while_its_container_lives() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let name: ViewName = "oci-web".parse().unwrap();
        let container = |bundle: &str, pid| Container::new("web".to_owned(), bundle.to_owned(), pid).unwrap();
        let own = container("/a", std::process::id());
        assert_eq!(use_of(&registry, &name, &own).unwrap(), Use::Free);
        let (mut claim, _) = registry.claim(&name).unwrap();
        assert_eq!(use_of(&registry, &name, &own).unwrap(), Use::Taken);
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        for (holder, want) in [
            (None, Use::Taken),
            (Some(own.clone()), Use::Own),
            (Some(container("/b", child.id())), Use::Taken),
        ] {
            let record = super::super::super::record::Record { container: holder, ..example("oci-web") };
            claim.publish(&record).unwrap();
            assert_eq!(use_of(&registry, &name, &own).unwrap(), want);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(use_of(&registry, &name, &own).unwrap(), Use::Free);
        claim.withdraw().unwrap();
    }
}
