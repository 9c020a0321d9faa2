//! The messages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::container::Container;

/// The version of the messages; another one is refused.
pub const VERSION: u32 = 1;

/// What somebody asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// [`VERSION`]. It is looked at before anything else of the message.
    pub version: u32,
    /// What is to be done.
    pub operation: Operation,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Operation {
    /// Serve a view.
    Mount(Box<MountRequest>),
    /// End a view, and wait until nothing is left of it.
    Unmount {
        /// Which.
        view: ViewRef,
        /// Also while it is used.
        lazy: bool,
        /// Only if it was made for this container; else there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<Container>,
    },
    /// Tell which views there are: of the one who asks, or for root of all.
    List,
    /// Hand over what the log of a view holds, also of one that has ended.
    Log {
        /// Its name.
        name: String,
    },
}

/// A view that is wanted. Nothing is left of it if it cannot be had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountRequest {
    /// Its name; for a view on a directory made from that one's path if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the lock was read from: for people. What counts is the descriptor.
    pub lock_file: PathBuf,
    /// Where the view goes.
    pub place: Place,
    /// The store: a directory that ends in `nix/store`, or one that contains it.
    pub store: PathBuf,
    /// Where changes go.
    pub upper: Upper,
    /// The most bytes that the upper may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_size: Option<u64>,
    /// The most inodes that the upper may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_inodes: Option<u64>,
    /// User and group that everything of the store is shown as; without them 0 and 0, for others than root their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// What the view is made of.
    #[serde(default, skip_serializing_if = "Backend::is_auto")]
    pub backend: Backend,
    /// Who reads files.
    #[serde(default)]
    pub io: Io,
    /// Access control lists are kept and obeyed.
    #[serde(default)]
    pub acl: bool,
    /// Device nodes can be made. For root alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub devices: bool,
    /// Fail if the garbage collector cannot be kept from the closure.
    #[serde(default)]
    pub require_gc_roots: bool,
    /// Say nothing if the garbage collector cannot be kept from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_gc_warning: bool,
    /// Users other than the one who serves may use it.
    #[serde(default)]
    pub allow_other: bool,
    /// No program in it can be executed.
    #[serde(default)]
    pub no_exec: bool,
    /// The mount table shows the lock as the source of a view on a directory, as fstab(5) needs it. Containers that get
    /// the directory by a bind mount see it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub show_source: bool,
    /// The view ends when its server dies, which is else started again.
    #[serde(default)]
    pub no_restart: bool,
    /// The state directory that the sender means, if it means a certain one; another one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// How many requests are worked on at once, 1 to 64; without a number 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u8>,
    /// The file that is to say at the end what of it was used (absolute). For root alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<PathBuf>,
    /// The container that it is for. If a view of another one has the name, it is called `NAME-2`, `NAME-3` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// How much the view's log tells beyond news: 2 details, 3 everything.
    #[serde(default, skip_serializing_if = "is_quiet")]
    pub verbose: u8,
}

fn is_quiet(verbose: &u8) -> bool {
    *verbose == 0
}

impl MountRequest {
    /// A view of the lock `lock_file` at `place`, with everything else as it is by default.
    #[must_use]
    pub fn new(lock_file: PathBuf, place: Place, upper: Upper) -> Self {
        Self {
            name: None,
            lock_file,
            place,
            store: PathBuf::from("/nix/store"),
            upper,
            upper_size: None,
            upper_inodes: None,
            owner: None,
            backend: Backend::Auto,
            io: Io::Auto,
            acl: false,
            devices: false,
            require_gc_roots: false,
            no_gc_warning: false,
            allow_other: true,
            no_exec: false,
            show_source: false,
            no_restart: false,
            state_dir: None,
            threads: None,
            trace: None,
            container: None,
            verbose: 0,
        }
    }
}

/// Where a view goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Place {
    /// On the directory whose descriptor comes with the request.
    Directory {
        /// Its path, for errors.
        path: PathBuf,
    },
    /// To the one who asks, as a detached mount. The view ends when that mount, or the mount namespace that it was
    /// given a place in, is gone.
    Handed {
        /// What it is for, for people: `container 1234 (/nix)`.
        purpose: String,
    },
}

/// Where changes go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Upper {
    /// Into an upper of the view's name in the state directory, which stays.
    Named,
    /// Into this directory (absolute), which stays. For root alone.
    Directory {
        /// Which.
        path: PathBuf,
    },
    /// Into an upper that goes with the view.
    Temporary,
    /// Nowhere: every change is refused.
    ReadOnly,
}

/// What a view is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// The kernel's overlayfs where it can do all that is asked for, else a FUSE server.
    #[default]
    Auto,
    /// A FUSE server.
    Fuse,
    /// The kernel's overlayfs, or there is no view.
    Overlay,
}

impl Backend {
    /// The one of this name: `auto`, `fuse`, `overlay`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "fuse" => Some(Self::Fuse),
            "overlay" => Some(Self::Overlay),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fuse => "fuse",
            Self::Overlay => "overlay",
        }
    }

    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Who reads files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Io {
    /// The kernel where it can, else the server.
    #[default]
    Auto,
    /// The kernel, or there is no view.
    Passthrough,
    /// The server.
    Cached,
}

/// Which view is meant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ViewRef {
    /// The one of this name.
    Name(String),
    /// The one that is mounted here (absolute).
    Path(PathBuf),
}

/// What comes back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// What came of the request.
    pub answer: Answer,
}

/// What came of a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    /// The view can be used.
    Mounted {
        /// Its name.
        name: String,
        /// The record of the view, as `nixview status --json` shows it.
        record: serde_json::Value,
        /// What did not stop it, but should be known.
        warnings: Vec<String>,
    },
    /// The view was ended.
    Stopped {
        /// Its name.
        name: String,
        /// How.
        how: Stopped,
    },
    /// The views that there are.
    Views {
        /// One each: its name, and its record where there is one.
        views: Vec<serde_json::Value>,
    },
    /// The lines of a log are in the file whose descriptor comes with the answer.
    Log {
        /// The name of the view.
        name: String,
    },
    /// It failed, and nothing is left of the attempt.
    Failed {
        /// What failed, where and why.
        what: String,
        /// What can be done, a line each.
        hints: Vec<String>,
    },
}

/// How a view was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stopped {
    /// Its server has cleaned up and ended.
    Ended,
    /// Its server was dead; what it left was taken away.
    WasDead,
    /// It is unmounted, and ends when nobody uses it any more.
    StillUsed,
    /// There is none of that name (any more).
    Absent,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written_and_unknown_fields_are_refused() {
        let place = Place::Handed { purpose: "container x".to_owned() };
        let mount = MountRequest::new("/srv/env.lock".into(), place, Upper::Temporary);
        let request = Request { version: VERSION, operation: Operation::Mount(Box::new(mount)) };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let odd = text.replace("\"store\"", "\"colour\":1,\"store\"");
        assert!(serde_json::from_str::<Request>(&odd).unwrap_err().to_string().contains("colour"));
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        let text = r#"{"version":1,"operation":{"mount":{"lockFile":"/l","place":{"handed":{"purpose":"p"}},
            "store":"/nix/store","upper":"readOnly"}}}"#;
        let Operation::Mount(request) = serde_json::from_str::<Request>(text).unwrap().operation else {
            panic!("a mount");
        };
        assert_eq!((request.owner, request.io, request.threads), (None, Io::Auto, None));
    }
}
