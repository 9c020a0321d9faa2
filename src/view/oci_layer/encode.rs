//! A member's headers, as bytes.

use std::io;

use tar::{EntryType, Header};

use super::entry::{Body, Entry};
use super::{BLOCK, pax};
use crate::vfs::FileKind;

/// The longest that fits into a plain header, in bytes.
const NAME_FIELD: usize = 100;

/// The largest number that a field of 8 digits takes, its last byte being a NUL.
const ID_FIELD: u32 = 0o7_777_777;

/// The largest number that a field of 12 digits takes.
const LONG_FIELD: u64 = 0o77_777_777_777;

/// The headers of a member: a plain one, and before it a PAX header for what that cannot say. The content follows.
///
/// # Errors
/// `InvalidInput` for what neither can say: an attribute name with `=`.
pub(super) fn headers(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut header = Header::new_ustar();
    let mut path = entry.path.clone();
    if entry.body == Body::Directory {
        path.push(b'/');
    }
    name_field(&mut header.as_old_mut().name, &path, b"path", &mut records);
    let (kind, size) = match &entry.body {
        Body::File { size, .. } => (EntryType::Regular, *size),
        Body::Directory => (EntryType::Directory, 0),
        Body::Symlink(target) => {
            name_field(&mut header.as_old_mut().linkname, target, b"linkpath", &mut records);
            (EntryType::Symlink, 0)
        }
        Body::HardLink(target) => {
            name_field(&mut header.as_old_mut().linkname, target, b"linkpath", &mut records);
            (EntryType::Link, 0)
        }
        Body::Node { kind, rdev } => {
            header.set_device_major(rustix::fs::major(*rdev))?;
            header.set_device_minor(rustix::fs::minor(*rdev))?;
            (node_type(*kind)?, 0)
        }
    };
    header.set_entry_type(kind);
    header.set_mode(entry.permissions.into());
    header.set_size(size);
    if size > LONG_FIELD {
        pax::append(&mut records, b"size", size.to_string().as_bytes());
    }
    for (id, key) in [(entry.uid, &b"uid"[..]), (entry.gid, b"gid")] {
        if id > ID_FIELD {
            pax::append(&mut records, key, id.to_string().as_bytes());
        }
    }
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    let seconds = u64::try_from(entry.mtime.seconds).ok().filter(|seconds| *seconds <= LONG_FIELD);
    header.set_mtime(seconds.unwrap_or_default());
    if seconds.is_none() || entry.mtime.nanoseconds != 0 {
        pax::append(&mut records, b"mtime", pax::time_text(entry.mtime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        if name.contains(&b'=') {
            let why = format!("the name of its attribute {} has a '='", name.escape_ascii());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        pax::append(&mut records, &[pax::XATTR, name].concat(), value);
    }
    header.set_cksum();
    let mut bytes = Vec::new();
    if !records.is_empty() {
        pax_header(&records, &mut bytes);
    }
    bytes.extend_from_slice(header.as_bytes());
    Ok(bytes)
}

/// Puts a name where it fits, and into a record too where it does not.
fn name_field(field: &mut [u8; NAME_FIELD], value: &[u8], key: &[u8], records: &mut Vec<u8>) {
    if value.len() > NAME_FIELD {
        pax::append(records, key, value);
    }
    for (to, from) in field.iter_mut().zip(value) {
        *to = *from;
    }
}

fn node_type(kind: FileKind) -> io::Result<EntryType> {
    match kind {
        FileKind::CharDevice => Ok(EntryType::Char),
        FileKind::BlockDevice => Ok(EntryType::Block),
        FileKind::Fifo => Ok(EntryType::Fifo),
        FileKind::Regular | FileKind::Directory | FileKind::Symlink | FileKind::Socket => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a tar archive has no such kind of file"))
        }
    }
}

fn pax_header(records: &[u8], bytes: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    for (to, from) in header.as_old_mut().name.iter_mut().zip(b"PaxHeaders/entry") {
        *to = *from;
    }
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(records);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}
