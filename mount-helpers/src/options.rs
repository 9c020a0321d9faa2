//! The options after `-o`, as mount(8) and fstab(5) have them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nixview::control::{Backend, Io, MountRequest, Upper};

use crate::service::Dirs;

/// What mount(8), fstab(5) and systemd.mount(5) say for themselves: nothing of it changes a view.
const OF_OTHERS: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "diratime",
    "dirsync",
    "fail",
    "group",
    "iversion",
    "lazytime",
    "noatime",
    "noauto",
    "nodiratime",
    "nofail",
    "noiversion",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "strictatime",
    "sync",
    "user",
    "users",
];

/// What the kernel shows of a mounted view, and mount(8) says again when it is remounted.
const OF_THE_KERNEL: &[&str] =
    &["blksize", "fd", "group_id", "max_read", "rootmode", "seclabel", "subtype", "user_id"];

/// What is wrong with an option.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// There is none of that name.
    #[error("unknown option '{0}' (mount -s ignores it)")]
    Unknown(String),
    /// It has no value, or one that it cannot have.
    #[error("option '{name}': {problem}")]
    Value {
        /// Which.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two options contradict each other, or nixview never does what one asks for.
    #[error("{0}")]
    Refused(&'static str),
}

/// Options, as far as they say something of a view.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// `remount`: change what is mounted.
    pub remount: bool,
    /// `ro` or `rw`, whichever came last.
    pub read_only: Option<bool>,
    /// `noexec` or `exec`, whichever came last.
    pub no_exec: Option<bool>,
    /// `state-dir`, `runtime-dir`.
    pub dirs: Dirs,
    name: Option<String>,
    store: Option<PathBuf>,
    upper: Option<Upper>,
    upper_size: Option<u64>,
    upper_inodes: Option<u64>,
    owner: Option<(u32, u32)>,
    backend: Option<Backend>,
    io: Option<Io>,
    acl: bool,
    devices: bool,
    require_gc_roots: bool,
    no_gc_warning: bool,
    no_restart: bool,
    private: bool,
    threads: Option<u8>,
    trace: Option<PathBuf>,
}

impl Options {
    /// Adds one `-o` argument: options separated by commas, but not by those in double quotes. `sloppy` leaves out what is
    /// unknown.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn add(&mut self, list: &OsStr, sloppy: bool) -> Result<(), OptionError> {
        for option in split(list.as_bytes()) {
            let mut parts = option.splitn(2, |b| *b == b'=');
            let name = parts.next().unwrap_or_default();
            let name = String::from_utf8(name.to_vec())
                .map_err(|_| OptionError::Unknown(option.escape_ascii().to_string()))?;
            let value = parts.next().map(unquoted);
            match self.set(&name, value) {
                Err(OptionError::Unknown(_)) if sloppy => {}
                answer => answer?,
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Option<OsString>) -> Result<(), OptionError> {
        let bad = |problem| OptionError::Value { name: name.to_owned(), problem };
        let given = |value: Option<OsString>| value.filter(|v| !v.is_empty()).ok_or(bad("it needs a value"));
        let text = |value| given(value)?.into_string().map_err(|_| bad("its value is no text"));
        let path = |value| {
            let path = PathBuf::from(given(value)?);
            if path.is_absolute() { Ok(path) } else { Err(bad("it must be an absolute path")) }
        };
        match name {
            "ro" => self.read_only = Some(true),
            "rw" => self.read_only = Some(false),
            "noexec" => self.no_exec = Some(true),
            "exec" => self.no_exec = Some(false),
            "remount" => self.remount = true,
            "name" => self.name = Some(text(value)?),
            "store" => self.store = Some(path(value)?),
            "state-dir" => self.dirs.state = Some(path(value)?),
            "runtime-dir" => self.dirs.runtime = Some(path(value)?),
            "upper" => self.upper(Upper::Directory { path: path(value)? })?,
            "tmp" => self.upper(Upper::Temporary)?,
            "upper-size" => self.upper_size = Some(size(&text(value)?).ok_or(bad("it must be a size: 2G"))?),
            "upper-inodes" => {
                self.upper_inodes = Some(text(value)?.parse().map_err(|_| bad("it must be a number"))?);
            }
            // `owner` alone is mount(8)'s own: that the owner of the device may mount it.
            "owner" if value.is_some() => {
                self.owner = Some(owner(&text(value)?).ok_or(bad("it must be UID:GID: 1000:100"))?);
            }
            "backend" => {
                self.backend =
                    Some(Backend::of_name(&text(value)?).ok_or(bad("it must be auto, fuse or overlay"))?);
            }
            "io" => self.io = Some(io(&text(value)?).ok_or(bad("it must be auto, passthrough or cached"))?),
            "threads" => {
                let number = text(value)?.parse().ok().filter(|n| (1..=64).contains(n));
                self.threads = Some(number.ok_or(bad("it must be a number from 1 to 64"))?);
            }
            "trace" => self.trace = Some(path(value)?),
            "acl" => self.acl = true,
            "noacl" => self.acl = false,
            "devices" => self.devices = true,
            "require-gc-roots" => self.require_gc_roots = true,
            "no-gc-warning" => self.no_gc_warning = true,
            "no-restart" => self.no_restart = true,
            "no_allow_other" => self.private = true,
            "nosuid" | "nodev" | "default_permissions" | "allow_other" => {}
            // mount(8) says these for `defaults`.
            "suid" | "dev" => {}
            other if OF_OTHERS.contains(&other) || OF_THE_KERNEL.contains(&other) => {}
            other if other.starts_with("x-") || other.starts_with("X-") || other == "comment" => {}
            other => return Err(OptionError::Unknown(other.to_owned())),
        }
        Ok(())
    }

    fn upper(&mut self, upper: Upper) -> Result<(), OptionError> {
        if self.upper.as_ref().is_some_and(|other| *other != upper) {
            return Err(OptionError::Refused(
                "'upper' and 'tmp' do not go together: changes go to one place",
            ));
        }
        self.upper = Some(upper);
        Ok(())
    }

    /// Fills a request with what was said.
    ///
    /// # Errors
    /// [`OptionError::Refused`] for what contradicts itself.
    pub fn fill(&self, request: &mut MountRequest) -> Result<(), OptionError> {
        let read_only = self.read_only == Some(true);
        if read_only && (self.upper.is_some() || self.upper_size.is_some() || self.upper_inodes.is_some()) {
            return Err(OptionError::Refused("'ro' allows no changes: it does not go with an upper"));
        }
        request.upper = match &self.upper {
            Some(upper) => upper.clone(),
            None if read_only => Upper::ReadOnly,
            None => Upper::Named,
        };
        request.name.clone_from(&self.name);
        if let Some(store) = &self.store {
            request.store.clone_from(store);
        }
        request.upper_size = self.upper_size;
        request.upper_inodes = self.upper_inodes;
        request.owner = self.owner;
        request.backend = self.backend.unwrap_or_default();
        request.io = self.io.unwrap_or_default();
        request.acl = self.acl;
        request.devices = self.devices;
        request.require_gc_roots = self.require_gc_roots;
        request.no_gc_warning = self.no_gc_warning;
        request.no_restart = self.no_restart;
        request.allow_other = !self.private;
        request.no_exec = self.no_exec == Some(true);
        request.threads = self.threads;
        request.trace.clone_from(&self.trace);
        request.state_dir.clone_from(&self.dirs.state);
        Ok(())
    }

    /// The option that asks for something else than the mounted view has, of which `record` tells (as `nixview status
    /// --json` does): it cannot change. What fstab says again is not a change; what no record tells (`threads`, …)
    /// counts at the next mount.
    #[must_use]
    pub fn changed(&self, record: &serde_json::Value) -> Option<&'static str> {
        let differs = |option: Option<serde_json::Value>, known: &serde_json::Value| {
            option.is_some_and(|wanted| wanted != *known)
        };
        let upper = record.get("upper").cloned().unwrap_or_default();
        let (kind, path) = match &self.upper {
            Some(Upper::Directory { path }) => (Some("directory"), Some(path.display().to_string())),
            Some(Upper::Temporary) => (Some("temporary"), None),
            _ => (None, None),
        };
        let get = |from: &serde_json::Value, name: &str| from.get(name).cloned().unwrap_or_default();
        let checks = [
            ("owner", differs(self.owner.map(|o| o.0.into()), &get(record, "uid"))),
            ("owner", differs(self.owner.map(|o| o.1.into()), &get(record, "gid"))),
            ("name", differs(self.name.clone().map(Into::into), &get(record, "name"))),
            ("upper or tmp", differs(kind.map(Into::into), &get(&upper, "kind"))),
            ("upper", differs(path.map(Into::into), &get(&upper, "path"))),
        ];
        checks.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
    }
}

/// The options of a list: separated by commas that are not in double quotes.
fn split(list: &[u8]) -> Vec<&[u8]> {
    let mut quoted = false;
    let parts = list.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    parts.filter(|part| !part.is_empty()).collect()
}

fn unquoted(value: &[u8]) -> OsString {
    let inner = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
    OsString::from_vec(inner.unwrap_or(value).to_vec())
}

fn owner(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    let number = |text: &str| text.parse().ok().filter(|n| *n != u32::MAX);
    Some((number(uid)?, number(gid)?))
}

fn io(text: &str) -> Option<Io> {
    match text {
        "auto" => Some(Io::Auto),
        "passthrough" => Some(Io::Passthrough),
        "cached" => Some(Io::Cached),
        _ => None,
    }
}

/// Bytes, or with K, M, G or T that many powers of 1024.
fn size(text: &str) -> Option<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let text = text.to_ascii_uppercase();
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)))
        .unwrap_or((text.as_str(), 0));
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use nixview::control::Place;

    use super::*;

    fn parsed(list: &str) -> Result<Options, OptionError> {
        let mut options = Options::default();
        options.add(OsStr::new(list), false).map(|()| options)
    }

    fn request(list: &str) -> Result<MountRequest, OptionError> {
        let place = Place::Directory { path: "/t".into() };
        let mut request = MountRequest::new("/l".into(), place, Upper::Named);
        parsed(list)?.fill(&mut request).map(|()| request)
    }

    #[test]
    fn everything_that_can_be_said_of_a_view_arrives() {
        let all = "rw,upper=/u,owner=1000:100,name=web,store=/s,io=cached,acl,backend=fuse,devices,noexec,upper-size=2G,upper-inodes=9,\
                   threads=2,require-gc-roots,no-gc-warning,no-restart,no_allow_other,state-dir=/st,\
                   trace=/t.trace";
        let got = request(all).unwrap();
        let place = Place::Directory { path: "/t".into() };
        let want = MountRequest {
            name: Some("web".to_owned()),
            store: "/s".into(),
            owner: Some((1000, 100)),
            backend: Backend::Fuse,
            io: Io::Cached,
            acl: true,
            devices: true,
            no_exec: true,
            upper_size: Some(2 << 30),
            upper_inodes: Some(9),
            threads: Some(2),
            trace: Some("/t.trace".into()),
            require_gc_roots: true,
            no_gc_warning: true,
            no_restart: true,
            allow_other: false,
            state_dir: Some("/st".into()),
            ..MountRequest::new("/l".into(), place, Upper::Directory { path: "/u".into() })
        };
        assert_eq!(got, want);
    }

    #[test]
    fn what_fstab_says_for_itself_changes_nothing() {
        let usual = "defaults,noauto,x-systemd.automount,_netdev,nofail,user,suid,dev,X-mount.mkdir,comment=x,relatime";
        assert_eq!(request(usual).unwrap(), request("").unwrap());
        assert_eq!(request("ro").unwrap().upper, Upper::ReadOnly);
        assert_eq!(request("ro,rw").unwrap().upper, Upper::Named);
        assert_eq!(request("owner").unwrap().owner, None);
    }

    #[test]
    fn values_may_be_quoted() {
        let got = request(r#"upper="/with,comma",tmp-not-in-quotes"#);
        assert_eq!(got.unwrap_err(), OptionError::Unknown("tmp-not-in-quotes".to_owned()));
        let got = request(r#"upper="/with,comma",name=web"#).unwrap();
        assert_eq!(got.upper, Upper::Directory { path: "/with,comma".into() });
        assert_eq!(got.name.as_deref(), Some("web"));
    }

    #[test]
    fn what_is_wrong_is_said_and_the_sloppy_are_forgiven() {
        for bad in [
            "owner=me:you",
            "upper=relative",
            "upper",
            "upper-size=many",
            "io=fast",
            "backend=aufs",
            "threads=0",
            "colour=red",
        ] {
            request(bad).unwrap_err();
        }
        for contradiction in ["upper=/u,tmp", "ro,tmp", "ro,upper-size=1G"] {
            assert!(matches!(request(contradiction), Err(OptionError::Refused(_))), "{contradiction}");
        }
        let mut options = Options::default();
        options.add(OsStr::new("colour=red,ro"), true).unwrap();
        assert_eq!(options.read_only, Some(true));
        options.add(OsStr::new("owner=x"), true).unwrap_err();
    }

    #[test]
    fn what_is_said_again_is_no_change() {
        let record = serde_json::json!({
            "name": "web", "uid": 1000, "gid": 100, "upper": {"kind": "directory", "path": "/u"}
        });
        for same in ["ro", "upper=/u,owner=1000:100,threads=3", "name=web,noexec,user_id=0"] {
            assert_eq!(parsed(same).unwrap().changed(&record), None, "{same}");
        }
        for other in ["owner=0:0", "owner=1000:0", "name=x", "upper=/v", "tmp"] {
            assert!(parsed(other).unwrap().changed(&record).is_some(), "{other}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("2g"), Some(2 << 30));
        assert_eq!(size("99999999999T"), None);
        assert_eq!(size("-1"), None);
    }
}
