//! What a runtime tells of a container: its state, and where its root is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use nixview::json;

use nixview::control::Container;

use crate::failure::{Attempt, Failure};

/// The longest state or `config.json` that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// The state of a container, as hooks get it (OCI runtime specification, "State").
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    /// Its id.
    pub(crate) id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub(crate) status: String,
    /// Its first process, as the hook's pid namespace numbers it; 0 or absent when there is none.
    #[serde(default)]
    pub(crate) pid: u32,
    /// The directory of its `config.json`.
    pub(crate) bundle: PathBuf,
    /// Its annotations.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl State {
    /// Reads what the runtime writes to the hook.
    pub(crate) fn read(from: impl Read) -> Result<Self, Failure> {
        parse(from).attempt(|| "cannot read the container's state from standard input".to_owned())
    }

    /// The container, as no other is.
    pub(crate) fn container(&self) -> Result<Container, Failure> {
        Container::new(self.id.clone(), self.bundle(), self.pid)
            .attempt(|| format!("cannot look at the first process of the container '{}'", self.id))
    }

    /// True if a container has this id and bundle.
    pub(crate) fn is_of(&self, container: &Container) -> bool {
        let bundle = [self.bundle(), self.bundle.display().to_string()];
        container.id == self.id && bundle.contains(&container.bundle)
    }

    /// The bundle without symbolic links, if it is still there.
    fn bundle(&self) -> String {
        let path = self.bundle.canonicalize().unwrap_or_else(|_| self.bundle.clone());
        path.display().to_string()
    }

    /// Where the container's root is on the host.
    pub(crate) fn root(&self) -> Result<PathBuf, Failure> {
        #[derive(Deserialize)]
        struct Config {
            root: Root,
        }
        #[derive(Deserialize)]
        struct Root {
            path: PathBuf,
        }
        let file = self.bundle.join("config.json");
        let config: Config = File::open(&file)
            .and_then(parse)
            .attempt(|| format!("cannot tell the container's root from {}", file.display()))?;
        Ok(self.bundle.join(config.root.path))
    }

    /// The mount namespace of the container's first process.
    pub(crate) fn mounts(&self) -> Result<File, Failure> {
        if self.pid == 0 {
            return Err(Failure::new(format!("the container '{}' has no process", self.id))
                .hint("this is a hook for the stages createRuntime and poststop"));
        }
        let path = self.proc("ns/mnt");
        let namespace = File::open(&path).attempt(|| format!("cannot use {}", path.display()))?;
        // The runtime holds on to that process. If it is dead all the same and the pid another's: not into the host's.
        let own = File::open("/proc/self/ns/mnt").attempt(|| "cannot use /proc/self/ns/mnt".to_owned())?;
        if same(&namespace, &own).attempt(|| "cannot compare mount namespaces".to_owned())? {
            return Err(Failure::new(format!(
                "the container '{}' has no mount namespace of its own: its /nix would be the host's",
                self.id
            )));
        }
        Ok(namespace)
    }

    /// What the host calls a user and a group of the container.
    pub(crate) fn on_host(&self, (uid, gid): (u32, u32)) -> Result<(u32, u32), Failure> {
        Ok((self.map("uid_map", uid)?, self.map("gid_map", gid)?))
    }

    fn map(&self, file: &str, inside: u32) -> Result<u32, Failure> {
        let path = self.proc(file);
        let map = fs::read_to_string(&path).attempt(|| format!("cannot read {}", path.display()))?;
        mapped(&map, inside).ok_or_else(|| {
            Failure::new(format!("the container '{}' has no id {inside} in its {file}", self.id))
                .hint("the owner is given as the container numbers its users and groups")
        })
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }
}

fn parse<T: DeserializeOwned>(from: impl Read) -> io::Result<T> {
    let mut text = Vec::new();
    from.take(LIMIT).read_to_end(&mut text)?;
    Ok(json::from_slice(&text)?)
}

fn same(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// The id outside for one inside, by a map of user_namespaces(7).
fn mapped(map: &str, inside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (first, outside, length) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let distance = inside.checked_sub(first).filter(|distance| *distance < length)?;
        outside.checked_add(distance)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn ids_are_mapped_as_the_kernel_writes_maps() {
        let map = "         0     100000      65536\n     70000       1000          1\n";
        assert_eq!(mapped(map, 0), Some(100_000));
        assert_eq!(mapped(map, 65_535), Some(165_535));
        assert_eq!(mapped(map, 65_536), None);
        assert_eq!(mapped(map, 70_000), Some(1000));
        assert_eq!(mapped("0 0 4294967295\n", 7), Some(7));
        assert_eq!(mapped("", 0), None);
    }

    #[test]
    fn states_are_read_as_runtimes_write_them() {
        let runc = r#"{"ociVersion":"1.0.2-dev","id":"a","status":"creating","pid":7,"bundle":"/b","root":"/b/rootfs",
            "annotations":{"dev.nixview.closure":"/l"}}"#;
        let state = State::read(runc.as_bytes()).unwrap();
        assert_eq!((state.id.as_str(), state.pid, state.annotations.len()), ("a", 7, 1));
        let gone = State::read(r#"{"id":"a","status":"stopped","bundle":"/b"}"#.as_bytes()).unwrap();
        assert_eq!((gone.pid, gone.annotations.len()), (0, 0));
        for bad in ["", "{}", "[]", "null", r#"{"id":1}"#] {
            State::read(bad.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn the_root_may_be_relative_to_the_bundle() {
        let bundle = tempfile::tempdir().unwrap();
        let state = |bundle: &Path| State {
            id: "a".to_owned(),
            status: "creating".to_owned(),
            pid: 0,
            bundle: bundle.to_owned(),
            annotations: BTreeMap::new(),
        };
        let config = bundle.path().join("config.json");
        fs::write(&config, r#"{"root":{"path":"rootfs"},"process":{}}"#).unwrap();
        assert_eq!(state(bundle.path()).root().unwrap(), bundle.path().join("rootfs"));
        fs::write(&config, r#"{"root":{"path":"/abs"}}"#).unwrap();
        assert_eq!(state(bundle.path()).root().unwrap(), Path::new("/abs"));
        fs::write(&config, "{}").unwrap();
        state(bundle.path()).root().unwrap_err();
        state(bundle.path()).mounts().unwrap_err();
    }
}
