//! What a user other than root may ask of the daemon.
//!
//! | | root | others |
//! |---|---|---|
//! | views | all | those that they asked for, named `uUID-NAME` |
//! | mount on | any directory | a directory that is theirs; or a detached mount, which they can use in a user namespace of their own |
//! | lock | what they opened for reading | the same |
//! | store | any | the daemon's |
//! | owner | any | themselves |
//! | lock's size | 64 MiB | [`super::USERS_LOCK`] |
//! | number of views | any | [`Allowed::views_per_user`] |
//! | upper | any | one of their own in the state directory, a temporary one, none |
//!
//! The rest of a request cannot give more than these: every view is `nosuid` and `nodev`, and shows store paths that
//! everybody on the host can read.

use std::os::fd::OwnedFd;

use rustix::fs::fstat;

use super::super::error::{Attempt, Failure};
use super::super::keeper::Dirs;
use super::super::record::Record;
use super::Allowed;
use crate::control::{MountRequest, Place, Upper};
use crate::sys::socket::Peer;
use crate::view::ViewName;

/// The longest text for people in a request, in bytes.
const TEXT_MAX: usize = 4096;

/// Makes a request of `peer` one that may be granted.
///
/// # Errors
/// What of it may not, and what may.
pub(super) fn restrict(
    request: &mut MountRequest,
    target: Option<&OwnedFd>,
    peer: Peer,
    dirs: &Dirs,
    allowed: &Allowed,
) -> Result<(), Failure> {
    let own = (peer.uid, peer.gid);
    if request.owner.is_some_and(|owner| owner != own) {
        return Err(Failure::new(format!(
            "the user {} may have views that belong to {}:{} alone",
            peer.uid, own.0, own.1
        )));
    }
    request.owner = Some(own);
    request.allow_other = true;
    // Of no use to who may not choose it.
    request.state_dir = None;
    // Compared by name: what another path leads to is not this process's to look at for a user.
    if request.store != allowed.store {
        let given = allowed.store.display();
        return Err(Failure::new(format!("users may have views of the store {given} alone"))
            .hint(format!("ask with --store {given}")));
    }
    if request.trace.is_some() {
        return Err(Failure::new("only root may have the daemon write a trace")
            .hint("without the daemon ('--no-daemon') the view is traced as you; or trace it with 'nixview run --trace'"));
    }
    if request.devices {
        return Err(Failure::new("only root may have a view in which device nodes can be made"));
    }
    let name = match (&request.name, &request.place) {
        (Some(name), _) => name.parse().attempt(|| "cannot name the view".to_owned())?,
        (None, Place::Directory { path }) => ViewName::of_target(path)
            .ok_or_else(|| Failure::new("the view needs a name").hint("give it one with --name"))?,
        (None, Place::Handed { .. }) => return Err(Failure::new("the view needs a name")),
    };
    let named = full_name(&name, peer.uid)?;
    request.upper = match &request.upper {
        Upper::Named => {
            Upper::Directory { path: dirs.state.join("users").join(peer.uid.to_string()).join(name.as_str()) }
        }
        Upper::Directory { .. } => {
            return Err(Failure::new("only root may name the directory of an upper")
                .hint("without --upper it lies in the daemon's state directory; or --tmp, or --read-only"));
        }
        Upper::Temporary => Upper::Temporary,
        Upper::ReadOnly => Upper::ReadOnly,
    };
    request.name = Some(named.as_str().to_owned());
    if let Place::Directory { path } = &request.place {
        let target = target
            .ok_or_else(|| Failure::new("the directory to mount on must be opened by the one who asks"))?;
        let found = fstat(target).attempt(|| format!("cannot mount on {}", path.display()))?;
        if found.st_uid != peer.uid {
            return Err(Failure::new(format!(
                "{} belongs to the user {}, not to {}",
                path.display(),
                found.st_uid,
                peer.uid
            ))
            .hint("a view can be mounted on a directory of one's own"));
        }
    }
    Ok(())
}

/// Refuses one view more than a user may have.
///
/// # Errors
/// How many that is.
pub(super) fn check_number(has: usize, peer: Peer, allowed: &Allowed) -> Result<(), Failure> {
    if has < allowed.views_per_user {
        return Ok(());
    }
    Err(Failure::new(format!("the user {} has {has} views, which is as many as a user may have", peer.uid))
        .hint("'nixview status' lists them; the daemon's --views-per-user sets how many"))
}

/// Refuses texts that could not be shown as they are.
///
/// # Errors
/// Which one.
pub(super) fn check_texts(request: &MountRequest) -> Result<(), Failure> {
    let place = match &request.place {
        Place::Directory { path } => path.to_str(),
        Place::Handed { purpose } => Some(purpose.as_str()),
    };
    let mut texts = vec![("place", place), ("lock's path", request.lock_file.to_str())];
    if let Some(container) = &request.container {
        texts.extend([
            ("container", Some(container.id.as_str())),
            ("bundle", Some(container.bundle.as_str())),
        ]);
    }
    for (what, text) in texts {
        let shown = text.is_some_and(|t| t.len() <= TEXT_MAX && !t.chars().any(char::is_control));
        if !shown {
            return Err(Failure::new(format!(
                "the {what} must be text of at most {TEXT_MAX} bytes without control characters"
            )));
        }
    }
    Ok(())
}

/// The name of a user's view: no user can take a name that somebody else counts on.
pub(super) fn full_name(name: &ViewName, uid: u32) -> Result<ViewName, Failure> {
    format!("u{uid}-{name}").parse().attempt(|| "cannot name the view".to_owned())
}

/// True if a view is one that this user asked for.
pub(super) fn is_of(record: &Record, uid: u32) -> bool {
    record.requested_by == Some(uid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::path::PathBuf;

    use super::*;

    /// A store that others may have views of, and a request for one of it.
    fn scene() -> (tempfile::TempDir, Dirs, Allowed, MountRequest) {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: dir.path().join("state"), runtime: dir.path().join("run") };
        let place = Place::Handed { purpose: "test".to_owned() };
        let mut request = MountRequest::new("/l".into(), place, Upper::Named);
        request.name = Some("web".to_owned());
        request.store = dir.path().to_owned();
        let allowed = Allowed { store: dir.path().to_owned(), views_per_user: 1, prefer_overlay: false };
        (dir, dirs, allowed, request)
    }

    const PEER: Peer = Peer { pid: 1, uid: 1000, gid: 100 };

    #[test]
    fn a_view_of_a_user_is_the_users() {
        let (_dir, dirs, allowed, mut request) = scene();
        restrict(&mut request, None, PEER, &dirs, &allowed).unwrap();
        assert_eq!(request.owner, Some((1000, 100)));
        assert_eq!(request.name.as_deref(), Some("u1000-web"));
        assert_eq!(request.upper, Upper::Directory { path: dirs.state.join("users/1000/web") });
    }

    #[test]
    fn what_is_not_theirs_is_refused() {
        let (dir, dirs, allowed, request) = scene();
        let refused = |change: &dyn Fn(&mut MountRequest)| {
            let mut request = request.clone();
            change(&mut request);
            let target = std::fs::File::open("/").unwrap().into();
            restrict(&mut request, Some(&target), PEER, &dirs, &allowed).unwrap_err().what
        };
        assert!(refused(&|r| r.owner = Some((0, 0))).contains("1000:100 alone"));
        assert!(refused(&|r| r.upper = Upper::Directory { path: "/etc".into() }).contains("only root"));
        assert!(refused(&|r| r.name = Some("../x".to_owned())).contains("cannot name"));
        assert!(refused(&|r| r.devices = true).contains("only root"));
        assert!(refused(&|r| r.store = dir.path().join("other")).contains("alone"));
        let place = Place::Directory { path: PathBuf::from("/") };
        assert!(refused(&|r| r.place = place.clone()).contains("belongs to the user 0"));
    }

    #[test]
    fn a_user_has_no_more_views_than_that() {
        let (_dir, _, allowed, _) = scene();
        check_number(0, PEER, &allowed).unwrap();
        assert!(check_number(1, PEER, &allowed).unwrap_err().what.contains("1000"));
    }

    #[test]
    fn texts_can_be_shown() {
        let (_dir, _, _, mut request) = scene();
        check_texts(&request).unwrap();
        request.place = Place::Handed { purpose: "a\x1b[2Jb".to_owned() };
        check_texts(&request).unwrap_err();
    }
}
