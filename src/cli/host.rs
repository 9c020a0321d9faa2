//! What of this host is for mount(8), container runtimes, the daemon and systemd: a part of `nixview doctor`.

use std::fs;
use std::path::{Path, PathBuf};

use super::output::size;
use super::{Context, ask, cdi};
use crate::daemon::doctor::Check;

/// Where mount(8) looks for its helper.
const HELPERS: [&str; 3] = ["sbin/mount.nixview", "usr/sbin/mount.nixview", "usr/local/sbin/mount.nixview"];

/// Where the hook of container runtimes usually is.
const HOOKS: [&str; 3] = [
    "usr/libexec/oci/hooks.d/nixview-oci-hook",
    "usr/local/libexec/oci/hooks.d/nixview-oci-hook",
    "usr/local/bin/nixview-oci-hook",
];

/// Where container runtimes look for devices.
const CDI: [&str; 2] = ["etc/cdi", "var/run/cdi"];

/// Where systemd looks for units, the first first.
const UNITS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Less free space than this is too little for an upper.
const LITTLE: u64 = 1 << 30;

/// Looks at all of it.
#[must_use]
pub fn examine(context: &Context) -> Vec<Check> {
    let root = Path::new("/");
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut checks = vec![
        mount_helper(root),
        hook(root, beside.as_deref()),
        daemon(context),
        devices(root),
        free_space(&context.state.state),
    ];
    checks.extend(
        [Some("nixview.service".to_owned()), service(&own)]
            .into_iter()
            .flatten()
            .filter_map(|unit| kill_mode(root, &unit)),
    );
    checks
}

fn first(root: &Path, places: &[&str]) -> Option<PathBuf> {
    places.iter().map(|place| root.join(place)).find(|place| place.is_file())
}

fn mount_helper(root: &Path) -> Check {
    let name = "mount helper";
    match first(root, &HELPERS) {
        Some(found) => Check::good(name, found.display().to_string()),
        None => Check::limited(
            name,
            "not installed",
            "'mount -t nixview' and fstab need it: link /sbin/mount.nixview and /sbin/umount.nixview to nixview-mount, as the package does",
        ),
    }
}

fn hook(root: &Path, beside: Option<&Path>) -> Check {
    let name = "container hook";
    let beside = beside.map(|dir| dir.join("nixview-oci-hook")).filter(|hook| hook.is_file());
    match beside.or_else(|| first(root, &HOOKS)) {
        Some(found) => Check::good(name, found.display().to_string()),
        None => Check::limited(
            name,
            "not installed",
            "'nixview cdi', annotations of containers and hooks.d need nixview-oci-hook: build and install nixview-helpers, or the package",
        ),
    }
}

fn daemon(context: &Context) -> Check {
    let name = "daemon";
    match ask::daemon(context) {
        Ok(Some(_)) => Check::good(name, "answers"),
        Ok(None) => Check::limited(
            name,
            "does not answer this user",
            "views are mounted without it; with 'systemctl enable --now nixview.socket' users without root get views with passthrough",
        ),
        Err(error) => Check::limited(name, error.to_string(), "start 'nixview daemon' again"),
    }
}

fn devices(root: &Path) -> Check {
    let name = "CDI devices";
    let mut names = Vec::new();
    for dir in CDI {
        match cdi::found(&root.join(dir)) {
            Ok(found) => names.extend(found.into_iter().map(|device| device.name)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Check::limited(name, format!("/{dir}: {error}"), "let this user read it");
            }
        }
    }
    if names.is_empty() {
        let advice = "'nixview cdi LOCK' makes one: then 'podman run --device nixview.dev/env=NAME' gives a container a view";
        Check::limited(name, "none", advice)
    } else {
        Check::good(name, names.join(", "))
    }
}

fn free_space(state: &Path) -> Check {
    let name = "free space";
    let there = state.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(found) => {
            let (free, all) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
            let said = format!("{} of {} for {}", size(free), size(all), state.display());
            if free < LITTLE {
                let advice = "uppers take what views write: 'nixview upper list' and 'prune', 'nixview gc', or --state-dir on another disk";
                Check::limited(name, said, advice)
            } else {
                Check::good(name, said)
            }
        }
        Err(error) => {
            Check::limited(name, format!("{}: {error}", there.display()), "name another with --state-dir")
        }
    }
}

/// The unit that this process is in, if it is a service: views that are mounted from here are in it, too.
fn service(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path.rsplit('/').find(|part| part.ends_with(".service"))?;
    (!unit.starts_with("user@") && unit != "nixview.service").then(|| unit.to_owned())
}

/// Whether the views of a unit outlive its stop; `None` if there is no such unit.
fn kill_mode(root: &Path, unit: &str) -> Option<Check> {
    let name = "KillMode";
    let file = UNITS.iter().map(|dir| root.join(dir).join(unit)).find(|file| file.is_file())?;
    let mut files = vec![file.clone()];
    for dir in UNITS.iter().rev() {
        let added = fs::read_dir(root.join(dir).join(format!("{unit}.d"))).into_iter().flatten().flatten();
        let mut added: Vec<PathBuf> = added.map(|entry| entry.path()).collect();
        added.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        added.sort();
        files.extend(added);
    }
    let mode = files.iter().rev().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let last = text.lines().rev().find_map(|line| line.trim().strip_prefix("KillMode="))?;
        Some(last.trim().to_owned())
    });
    let mode = mode.unwrap_or_default();
    let mode = if mode.is_empty() { "control-group".to_owned() } else { mode };
    let said = format!("{mode} ({unit})");
    Some(match mode.as_str() {
        "process" | "none" => Check::good(name, said),
        _ => {
            let advice = format!(
                "views that are mounted in {unit} end when it stops: 'systemctl edit {unit}', [Service] KillMode=process"
            );
            Check::limited(name, said, advice)
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::daemon::doctor::Health;

    #[test]
    fn the_mode_of_a_unit_is_that_of_its_last_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let mode = || kill_mode(dir.path(), "a.service").map(|check| (check.health, check.found));
        assert_eq!(mode(), None);
        write("lib/systemd/system/a.service", "[Service]\nExecStart=/bin/a\n");
        assert_eq!(mode(), Some((Health::Limited, "control-group (a.service)".to_owned())));
        write("lib/systemd/system/a.service", "[Service]\nKillMode=mixed\n");
        assert_eq!(mode(), Some((Health::Limited, "mixed (a.service)".to_owned())));
        write("etc/systemd/system/a.service.d/b.conf", "[Service]\n KillMode=process\n");
        assert_eq!(mode(), Some((Health::Good, "process (a.service)".to_owned())));
        write("etc/systemd/system/a.service.d/c.conf", "[Service]\nKillMode=\n");
        assert_eq!(mode(), Some((Health::Limited, "control-group (a.service)".to_owned())));
        // The package's own.
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/systemd/nixview.service");
        write("etc/systemd/system/nixview.service", &fs::read_to_string(own).unwrap());
        assert_eq!(kill_mode(dir.path(), "nixview.service").unwrap().health, Health::Good);
    }

    #[test]
    fn a_service_is_told_by_its_cgroup() {
        assert_eq!(service("0::/system.slice/web.service\n").as_deref(), Some("web.service"));
        assert_eq!(
            service("1:name=systemd:/x\n0::/system.slice/web.service/inner\n").as_deref(),
            Some("web.service")
        );
        assert_eq!(service("0::/user.slice/user-0.slice/user@0.service/app.slice/a.scope\n"), None);
        assert_eq!(service("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(service("0::/system.slice/nixview.service\n"), None);
    }

    #[test]
    fn programs_and_devices_are_found_where_they_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mount_helper(dir.path()).health, Health::Limited);
        assert_eq!(hook(dir.path(), Some(dir.path())).health, Health::Limited);
        assert_eq!(devices(dir.path()).health, Health::Limited);
        for file in [HELPERS[1], HOOKS[0]] {
            fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(mount_helper(dir.path()).health, Health::Good);
        assert_eq!(hook(dir.path(), None).health, Health::Good);
        assert_eq!(free_space(&dir.path().join("not/yet")).name, "free space");
    }
}
