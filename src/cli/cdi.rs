//! Specifications of the Container Device Interface: devices whose edits are hooks of OCI runtimes.
//!
//! Of the format (<https://github.com/cncf-tags/container-device-interface>, SPEC.md) only what version 0.3.0 has is used,
//! so that every runtime that knows CDI takes it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::json;
use crate::sys::open::open_input;

/// Vendor and class of nixview's devices.
pub const KIND: &str = "nixview.dev/env";

/// The version of the format, and the first in which a name may begin with a digit.
const VERSIONS: [&str; 2] = ["0.3.0", "0.5.0"];

/// A device: a view for each container that asks for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Device {
    /// Its name, after `nixview.dev/env=`.
    pub name: String,
    /// The program that runtimes call.
    pub hook: String,
    /// What it is told, but for the stage.
    pub arguments: Vec<String>,
    /// Variables of the container, as `NAME=VALUE`.
    pub variables: Vec<String>,
}

impl Device {
    /// The value of an option of the hook.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == name)?;
        self.arguments.get(at + 1).map(String::as_str)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    cdi_version: String,
    kind: String,
    devices: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    container_edits: Edits,
}

#[derive(Serialize, Deserialize)]
struct Edits {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(default)]
    hooks: Vec<Hook>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
}

/// The stages at which the hook is called.
const STAGES: [&str; 2] = ["createRuntime", "poststop"];

/// The specification of some devices, to be written as JSON.
#[must_use]
pub fn specification(devices: &[Device]) -> impl Serialize {
    let digit = devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit()));
    let [usual, digits] = VERSIONS;
    let hook = |device: &Device, stage: &str| {
        let mut args = vec!["nixview-oci-hook".to_owned(), stage.to_owned()];
        args.extend(device.arguments.iter().cloned());
        Hook { hook_name: stage.to_owned(), path: device.hook.clone(), args }
    };
    let entry = |device: &Device| Entry {
        name: device.name.clone(),
        container_edits: Edits {
            env: device.variables.clone(),
            hooks: STAGES.iter().map(|stage| hook(device, stage)).collect(),
        },
    };
    Specification {
        cdi_version: if digit { digits } else { usual }.to_owned(),
        kind: KIND.to_owned(),
        devices: devices.iter().map(entry).collect(),
    }
}

/// nixview's devices in a directory of specifications, by name; none if it is missing. What others wrote is left out.
///
/// # Errors
/// If the directory or a specification of nixview's cannot be read.
pub fn found(dir: &Path) -> io::Result<Vec<Device>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut devices = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("nixview-") || !name.ends_with(".json") {
            continue;
        }
        let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        devices.extend(open_input(&path).and_then(devices_in).map_err(told)?);
    }
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(devices)
}

/// The devices of a specification of nixview's, as they stand in it.
///
/// # Errors
/// If it cannot be read; `InvalidData` if it is none.
pub fn devices_in(mut file: File) -> io::Result<Vec<Device>> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let specification: Specification = json::from_slice(&text)?;
    let device = |entry: Entry| {
        let Edits { env: variables, hooks } = entry.container_edits;
        let hook = hooks.into_iter().next()?;
        let arguments = hook.args.into_iter().skip(2).collect();
        Some(Device { name: entry.name, hook: hook.path, arguments, variables })
    };
    Ok(specification.devices.into_iter().filter_map(device).collect())
}

/// True if a text is a specification of nixview's devices and of nothing else.
#[must_use]
pub fn is_ours(text: &[u8]) -> bool {
    json::from_slice::<Specification>(text).is_ok_and(|specification| specification.kind == KIND)
}

/// Whether runtimes take `name` as that of a device.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(b)) {
        return Err("it may have letters, digits and '_', '-', '.', ':'");
    }
    if !alphanumeric(bytes.first()) || !alphanumeric(bytes.last()) {
        return Err("it must begin and end with a letter or digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;

    fn device(name: &str) -> Device {
        let arguments = ["--closure", "/l"].map(str::to_owned).to_vec();
        let variables = vec!["PATH=/p".to_owned()];
        Device { name: name.to_owned(), hook: "/h".to_owned(), arguments, variables }
    }

    #[test]
    fn a_specification_has_both_hooks_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(found(&dir.path().join("none")).unwrap(), []);
        let text = serde_json::to_string(&specification(&[device("web"), device("db")])).unwrap();
        fs::write(dir.path().join("nixview-both.json"), &text).unwrap();
        fs::write(dir.path().join("other.json"), "not ours").unwrap();
        assert_eq!(found(dir.path()).unwrap(), [device("db"), device("web")]);
        assert_eq!(device("web").option("--closure"), Some("/l"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["cdiVersion"], &value["kind"]), (&"0.3.0".into(), &KIND.into()));
        let hook = &value["devices"][0]["containerEdits"]["hooks"][1];
        assert_eq!(value["devices"][0]["containerEdits"]["env"], serde_json::json!(["PATH=/p"]));
        assert_eq!(hook["hookName"], "poststop");
        assert_eq!(hook["args"], serde_json::json!(["nixview-oci-hook", "poststop", "--closure", "/l"]));
    }

    #[test]
    fn names_are_those_that_runtimes_take() {
        for good in ["web", "a", "py3.11", "a:b_c-d", "3d"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "a-", ".", "a/b", "a=b", "a b", "ä"] {
            check_name(bad).unwrap_err();
        }
        let value = serde_json::to_value(specification(&[device("3d")])).unwrap();
        assert_eq!(value["cdiVersion"], "0.5.0");
    }
}
