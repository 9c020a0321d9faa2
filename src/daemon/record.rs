//! The record of a served view, as the registry keeps it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::Container;
use crate::json;
use crate::sys::overlay_use::OverlayUse;
use crate::view::ViewName;
use crate::view::upper_dir::Limit;

/// The backends, as records name them.
pub const BACKEND_FUSE: &str = "fuse";
/// The kernel's overlayfs.
pub const BACKEND_OVERLAY: &str = "overlay";

/// The version of the record's form.
pub const VERSION: u32 = 1;

/// What a server tells of its view, and what must go when the server is dead.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The name of the view.
    pub name: ViewName,
    /// Process id of the keeper, which ends the view when it gets SIGTERM; for people and signals, not to tell whether
    /// it lives. If it was killed, that of the server, which has its duties then.
    pub pid: i32,
    /// Process id of the server, which answers the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<i32>,
    /// How often the server was started again.
    #[serde(default)]
    pub restarts: u32,
    /// The last of them, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_restarts: Vec<RestartRecord>,
    /// False until the view can be used: then the record only says what a killed server leaves.
    pub usable: bool,
    /// When it began to serve, in seconds since 1970.
    pub since: u64,
    /// Where the view is.
    #[serde(deserialize_with = "json::object")]
    pub place: Place,
    /// Number of its mount that no other ever gets, or before Linux 6.8 the one in mountinfo. Numbers of connections are used
    /// again: without this one a dead view's record could name a mount of another registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_id: Option<u64>,
    /// Number of its mount in /proc/PID/mountinfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_in_mountinfo: Option<u64>,
    /// Number of the mount that shows the directory beneath it, of the kind of `mountId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_below: Option<u64>,
    /// The descriptor of process `pid` that leads to the directory beneath the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point_fd: Option<u32>,
    /// The lock that it was made from.
    pub lock_file: PathBuf,
    /// What it shows.
    pub closure: ClosureRecord,
    /// What was added to the closure of its roots; absent if nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_roots: Vec<ExtraRootRecord>,
    /// The store, where it lies on this machine.
    pub store: PathBuf,
    /// What it is made of: `fuse` or `overlay`.
    #[serde(default = "fuse")]
    pub backend: String,
    /// Why it is that, where it could be something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_reason: Option<String>,
    /// The overlay, as [`OverlayUse`] tells of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// Number of the FUSE connection that ends with an overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<u64>,
    /// How files are read: `passthrough` or `cached` by a server, else `kernel`.
    pub io: String,
    /// Where changes go.
    #[serde(deserialize_with = "json::object")]
    pub upper: UpperRecord,
    /// User id that everything of the store belongs to.
    pub uid: u32,
    /// Group id likewise.
    pub gid: u32,
    /// Roots of Nix's garbage collector that were set.
    pub gc_roots: Option<GcRootsRecord>,
    /// The user for whom the daemon serves it; absent if it is the one that the server runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<u32>,
    /// The container that it was made for, if a hook has asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
}

/// What views are made of whose records do not say it.
fn fuse() -> String {
    BACKEND_FUSE.to_owned()
}

/// A server that died, and was started again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartRecord {
    /// When, in seconds since 1970.
    pub time: u64,
    /// How the server before ended.
    pub reason: String,
}

/// How many restarts a record names.
const RESTARTS: usize = 5;

impl Record {
    /// True if it is of an overlay that is used still, which it can be without its keeper.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn is_overlay_mounted(&self) -> io::Result<bool> {
        // Of one that was not told of yet nothing must stay.
        let overlay = self.overlay.as_deref().filter(|_| self.usable).and_then(OverlayUse::parse);
        overlay.map_or(Ok(false), |overlay| overlay.is_used())
    }

    /// Counts a restart of the server, which ended for `reason`.
    pub fn note_restart(&mut self, time: u64, reason: String) {
        self.restarts = self.restarts.saturating_add(1);
        self.last_restarts.push(RestartRecord { time, reason });
        let old = self.last_restarts.len().saturating_sub(RESTARTS);
        self.last_restarts.drain(..old);
    }
}

/// Where a view is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum Place {
    /// Mounted at a path of the host.
    Mounted {
        /// The path, without symbolic links.
        target: PathBuf,
        /// Number of its FUSE connection: tells whether what is there now is still this view.
        connection: u64,
    },
    /// At `/nix` in the mount namespace of one command.
    Private {
        /// The command.
        command: String,
    },
    /// Handed over as a detached mount, to be given a place in another mount namespace.
    Handed {
        /// What it is for.
        purpose: String,
    },
}

/// For people.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { target, .. } => target.display().fmt(f),
            Self::Private { command } => write!(f, "/nix of '{command}'"),
            Self::Handed { purpose } => purpose.fmt(f),
        }
    }
}

/// The closure of a view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClosureRecord {
    /// Digest as in the lock.
    pub digest: String,
    /// How many store paths.
    pub count: u64,
}

/// A path that was added to the closure of the roots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraRootRecord {
    /// What it is for.
    pub name: String,
    /// Its path in the view.
    pub path: String,
}

/// Where the changes of a view go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum UpperRecord {
    /// Into a directory that stays.
    Directory {
        /// Which.
        path: PathBuf,
        /// The most that it may hold.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "json::optional_object"
        )]
        limit: Option<Limit>,
    },
    /// Into a directory that is removed at the end.
    Temporary {
        /// Which.
        path: PathBuf,
        /// The most that it may hold.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "json::optional_object"
        )]
        limit: Option<Limit>,
    },
    /// Nowhere: the view is read-only.
    ReadOnly,
}

/// For people.
impl fmt::Display for UpperRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, .. } => path.display().fmt(f),
            Self::Temporary { .. } => "temporary".fmt(f),
            Self::ReadOnly => "read-only".fmt(f),
        }
    }
}

/// Roots of Nix's garbage collector.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcRootsRecord {
    /// The directory that holds them.
    pub dir: PathBuf,
    /// How many.
    pub count: usize,
}

/// Reads a record: the last whole line counts.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(bytes: &[u8]) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').rfind(|line| line.ends_with(b"\n"));
    let line = whole.ok_or_else(|| "it has no whole line".to_owned())?;
    let problem = match json::from_slice::<Record>(line) {
        Ok(record) if record.version == VERSION => return Ok(record),
        Ok(_) => String::new(),
        Err(problem) => problem.to_string(),
    };
    let versioned: Versioned = json::from_slice(line).map_err(|e| e.to_string())?;
    if versioned.version != VERSION {
        return Err(format!("its version is {}, this program knows version {VERSION}", versioned.version));
    }
    Err(problem)
}

/// Prints a record: one line of JSON.
///
/// # Errors
/// `InvalidData` for a path that is not UTF-8, which JSON cannot hold.
pub fn print(record: &Record) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(record)?;
    text.push(b'\n');
    Ok(text)
}

/// A text that the records have of views whose file system has this number: others need not be parsed.
pub(super) fn text_of_connection(number: u64) -> String {
    format!("\"connection\":{number}")
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    pub(in super::super) fn example(name: &str) -> Record {
        Record {
            version: VERSION,
            name: name.parse().unwrap(),
            pid: 4242,
            server: Some(4243),
            restarts: 2,
            last_restarts: vec![RestartRecord {
                time: 1_700_000_060,
                reason: "was killed by signal 9".into(),
            }],
            usable: true,
            since: 1_700_000_000,
            place: Place::Mounted { target: "/run/views/web".into(), connection: 77 },
            mount_id: Some(2_147_483_700),
            mount_in_mountinfo: Some(63),
            mount_below: Some(2_147_483_650),
            mount_point_fd: Some(7),
            lock_file: "/srv/env.lock".into(),
            closure: ClosureRecord { digest: "sha256-x".into(), count: 3 },
            extra_roots: vec![ExtraRootRecord { name: "fonts".into(), path: "/nix/store/f-fonts".into() }],
            store: "/nix/store".into(),
            backend: "fuse".into(),
            backend_reason: None,
            overlay: None,
            anchor: None,
            io: "passthrough".into(),
            upper: UpperRecord::Temporary { path: "/var/lib/nixview/tmp/web".into(), limit: None },
            uid: 0,
            gid: 0,
            gc_roots: Some(GcRootsRecord { dir: "/nix/var/nix/gcroots/nixview/web".into(), count: 1 }),
            requested_by: None,
            container: None,
        }
    }

    #[test]
    fn printed_records_are_read_again() {
        let record = example("web");
        assert_eq!(parse(&print(&record).unwrap()).unwrap(), record);
        assert!(String::from_utf8(print(&record).unwrap()).unwrap().contains(&text_of_connection(77)));
    }

    #[test]
    fn other_versions_and_unknown_fields_are_refused() {
        let text = String::from_utf8(print(&example("web")).unwrap()).unwrap();
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert!(parse(newer.as_bytes()).unwrap_err().contains("version is 2"));
        let more = text.replace("\"pid\"", "\"extra\": 1, \"pid\"");
        assert!(parse(more.as_bytes()).unwrap_err().contains("extra"));
    }

    #[test]
    fn arrays_in_place_of_objects_are_refused() {
        let whole: serde_json::Value = json::from_slice(&print(&example("web")).unwrap()).unwrap();
        for at in ["", "/place", "/closure", "/extraRoots/0", "/upper", "/gcRoots"] {
            let mut changed = whole.clone();
            let place = changed.pointer_mut(at).unwrap();
            *place = place.as_object().unwrap().values().cloned().collect();
            parse(format!("{changed}\n").as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn the_last_restarts_are_named_and_all_are_counted() {
        let mut record = example("web");
        for time in 1..=7 {
            record.note_restart(time, format!("reason {time}"));
        }
        assert_eq!(record.restarts, 9);
        let named: Vec<_> = record.last_restarts.iter().map(|restart| restart.time).collect();
        assert_eq!(named, [3, 4, 5, 6, 7]);
    }

    #[test]
    fn the_last_whole_line_counts() {
        let (first, mut second) = (example("web"), example("web"));
        second.usable = !first.usable;
        let both = [print(&first).unwrap(), print(&second).unwrap()].concat();
        assert_eq!(parse(&both).unwrap(), second);
        for cut in print(&first).unwrap().len()..both.len() {
            assert_eq!(parse(both.get(..cut).unwrap()).unwrap(), first, "cut at {cut}");
        }
        parse(b"").unwrap_err();
        parse(b"{").unwrap_err();
    }
}
