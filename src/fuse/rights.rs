//! Rights that a change takes away from a file, where the kernel leaves that to the file system.
//!
//! Of writes, truncations by path and changes of owner the kernel takes care by requests of its own (SETATTR,
//! REMOVEXATTR), as long as `FUSE_HANDLE_KILLPRIV` is not negotiated. Three cases are left: an open that truncates, an access
//! control list on a file whose group the caller is not in, and, of fallocate(2), a set-group-id bit on a file that its
//! group may not execute (fs/fuse/dir.c, `fuse_setattr`, leaves it). The protocol tells the first two by flags that `fuser` 0.18
//! does not pass on, so who asks is looked at here: the user 0 of the mount's user namespace counts as privileged
//! (CAP_FSETID), nobody else does.

use fuser::Request;

use crate::sys::process;
use crate::vfs::{self, Attr, FileKind, Ino, SetAttr, Vfs};

use super::convert;

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
    if request.uid() == 0 {
        return Ok(());
    }
    let attr = vfs.getattr(ino, None)?;
    if attr.permissions & (SET_UID | SET_GID) == 0 {
        return Ok(());
    }
    let kept = attr.permissions & !which(&attr, &|| is_member(request, attr.gid));
    if kept == attr.permissions {
        return Ok(());
    }
    let changes = SetAttr { permissions: Some(kept), ..SetAttr::default() };
    vfs.setattr(convert::caller(request), ino, None, &changes).map(drop)
}

/// True if the caller, who waits for the answer, is in a group; one who cannot be looked at is in none but its own.
fn is_member(request: &Request, gid: u32) -> bool {
    request.gid() == gid || process::supplementary_groups(request.pid()).is_ok_and(|all| all.contains(&gid))
}
