//! Rights that a change takes away from a file, where the kernel leaves that to the file system.
//!
//! Of writes, truncations by path and changes of owner the kernel takes care by requests of its own (SETATTR,
//! REMOVEXATTR), as long as `FUSE_HANDLE_KILLPRIV` is not negotiated. Three cases are left: an open that truncates, an access
//! control list on a file whose group the caller is not in, and, of fallocate(2), a set-group-id bit on a file that its
//! group may not execute (fs/fuse/dir.c, `fuse_setattr`, leaves it). The protocol tells the first two by flags that `fuser` 0.18
//! does not pass on, so who asks is looked at here: the user 0 of the mount's user namespace counts as privileged
//! (CAP_FSETID), nobody else does.
//!
//! **Who asks.** Where mounts of the file system may be idmapped, the kernel tells it in requests that make something
//! alone, with the ids that the mount maps to (fs/fuse/dev.c, `fuse_get_req`). For the others the asking thread is looked at in /proc; it
//! waits for the answer. Its ids are the host's, not those that the mount maps to: root of a container behind an idmapped mount, and
//! a thread that cannot be looked at, is nobody in particular, and rights go rather than stay.

use std::cell::OnceCell;

use fuser::Request;

use crate::sys::process::{self, Identity};
use crate::vfs::{self, Attr, FileKind, Ino, SetAttr, Vfs};

use super::convert;

/// In the place of an id that the kernel does not tell (`FUSE_INVALID_UIDGID`).
pub(super) const UNTOLD: u32 = u32::MAX;

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const GROUP_EXECUTES: u16 = 0o010;

/// Before content is changed: as fs/attr.c, `setattr_should_drop_suidgid`.
pub(super) fn before_change<V: Vfs>(vfs: &V, request: &Request, ino: Ino) -> vfs::Result<()> {
    drop_bits(vfs, request, ino, |attr, member| {
        let group = if attr.permissions & GROUP_EXECUTES != 0 || !member() { SET_GID } else { 0 };
        if attr.kind == FileKind::Regular { SET_UID | group } else { 0 }
    })
}

/// Before an access control list is set: as fs/posix_acl.c, `posix_acl_update_mode`.
pub(super) fn before_access_list<V: Vfs>(vfs: &V, request: &Request, ino: Ino) -> vfs::Result<()> {
    drop_bits(vfs, request, ino, |_, member| if member() { 0 } else { SET_GID })
}

/// Takes away the bits of the mode that `which` names, given whether the caller is in the file's group.
fn drop_bits<V: Vfs>(
    vfs: &V,
    request: &Request,
    ino: Ino,
    which: impl FnOnce(&Attr, &dyn Fn() -> bool) -> u16,
) -> vfs::Result<()> {
    let asking = Asking::new(request);
    if asking.is_root_for_sure() {
        return Ok(());
    }
    let attr = vfs.getattr(ino, None)?;
    if attr.permissions & (SET_UID | SET_GID) == 0 || asking.is_root() {
        return Ok(());
    }
    let kept = attr.permissions & !which(&attr, &|| asking.is_member(attr.gid));
    if kept == attr.permissions {
        return Ok(());
    }
    let changes = SetAttr { permissions: Some(kept), ..SetAttr::default() };
    vfs.setattr(convert::caller(request), ino, None, &changes).map(drop)
}

/// Who waits for an answer; looked at no sooner than that matters.
struct Asking<'r> {
    request: &'r Request,
    seen: OnceCell<Option<Identity>>,
}

impl<'r> Asking<'r> {
    fn new(request: &'r Request) -> Self {
        Self { request, seen: OnceCell::new() }
    }

    /// `None` for one who cannot be looked at: it has ended, or is in no process namespace of the server's.
    fn identity(&self) -> Option<&Identity> {
        self.seen.get_or_init(|| process::identity(self.request.pid()).ok()).as_ref()
    }

    /// True if the request itself tells that the user 0 asks.
    fn is_root_for_sure(&self) -> bool {
        self.request.uid() == 0
    }

    fn is_root(&self) -> bool {
        match self.request.uid() {
            UNTOLD => self.identity().is_some_and(|identity| identity.uid == 0),
            uid => uid == 0,
        }
    }

    fn is_member(&self, gid: u32) -> bool {
        let own = match self.request.gid() {
            UNTOLD => self.identity().map(|identity| identity.gid),
            own => Some(own),
        };
        own == Some(gid) || self.identity().is_some_and(|identity| identity.groups.contains(&gid))
    }
}

/// True if the user 0 of the mount's user namespace asks.
pub(super) fn is_root(request: &Request) -> bool {
    Asking::new(request).is_root()
}
