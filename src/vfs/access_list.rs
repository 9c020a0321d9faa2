//! POSIX access control lists, as far as a file system has to understand them: what a new object inherits.
//!
//! The rules of acl(5), "Object creation and default ACLs". The form is that of the extended attributes
//! (include/uapi/linux/posix_acl_xattr.h): a version, then entries of tag, permissions and id, little-endian.

use super::Errno;

/// The extended attribute with the list that access is checked by.
pub const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// The extended attribute with the list that what is made in a directory inherits.
pub const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

/// Tags of entries (`ACL_USER_OBJ` and so on).
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const NAMED_GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What a new object gets from the default list of its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inherited {
    /// Its mode, the low 12 bits; the umask counts for nothing.
    pub permissions: u16,
    /// Its access list; `None` if the mode says all that would be in it.
    pub access: Option<Vec<u8>>,
}

/// True for the attributes that hold access control lists.
#[must_use]
pub fn is_access_list(attribute: &[u8]) -> bool {
    attribute == ACCESS_LIST || attribute == DEFAULT_LIST
}

/// What an object that is made with `permissions` inherits from the default list `list`.
///
/// Each class gets what both the list and `permissions` allow; the mask stands for the group where there is one.
///
/// # Errors
/// `EINVAL` for what is no list.
pub fn inherit(list: &[u8], permissions: u16) -> Result<Inherited, Errno> {
    let (version, entries) = list.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
    if u32::from_le_bytes(*version) != VERSION {
        return Err(Errno::EINVAL);
    }
    let (entries, rest) = entries.as_chunks::<8>();
    let mut entries: Vec<[u8; 8]> = entries.to_vec();
    let tags: Vec<u16> = entries.iter().map(|[a, b, ..]| u16::from_le_bytes([*a, *b])).collect();
    let known = |tag| matches!(tag, OWNER | USER | GROUP | NAMED_GROUP | MASK | OTHER);
    let whole = [OWNER, GROUP, OTHER].iter().all(|tag| tags.contains(tag));
    if !rest.is_empty() || !whole || !tags.iter().all(|tag| known(*tag)) {
        return Err(Errno::EINVAL);
    }
    let masked = tags.contains(&MASK);
    let mut mode = permissions & 0o7000;
    for (entry, tag) in entries.iter_mut().zip(&tags) {
        let shift = match *tag {
            OWNER => 6,
            MASK => 3,
            GROUP if !masked => 3,
            OTHER => 0,
            _ => continue,
        };
        let [_, _, low, high, ..] = entry;
        let both = u16::from_le_bytes([*low, *high]) & (permissions >> shift) & 0o7;
        [*low, *high] = both.to_le_bytes();
        mode |= both << shift;
    }
    let plain = !masked && tags.iter().all(|tag| matches!(*tag, OWNER | GROUP | OTHER));
    let access = (!plain).then(|| [&VERSION.to_le_bytes()[..], entries.as_flattened()].concat());
    Ok(Inherited { permissions: mode, access })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn the_mode_asked_for_limits_each_class_and_the_mask_the_group() {
        let default = |owner, group, mask, other| {
            list(&[
                (OWNER, owner, NONE),
                (USER, 7, 1),
                (GROUP, group, NONE),
                (MASK, mask, NONE),
                (OTHER, other, NONE),
            ])
        };
        let made = inherit(&default(7, 5, 7, 4), 0o2646);
        let expected = Inherited { permissions: 0o2644, access: Some(default(6, 5, 4, 4)) };
        assert_eq!(made, Ok(expected));
        let made = inherit(&default(5, 7, 6, 0), 0o777);
        assert_eq!(made, Ok(Inherited { permissions: 0o560, access: Some(default(5, 7, 6, 0)) }));
    }

    #[test]
    fn a_list_without_further_entries_is_a_mode() {
        let plain = list(&[(OWNER, 6, NONE), (GROUP, 6, NONE), (OTHER, 0, NONE)]);
        assert_eq!(inherit(&plain, 0o755), Ok(Inherited { permissions: 0o640, access: None }));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let whole = list(&[(OWNER, 7, NONE), (GROUP, 7, NONE), (OTHER, 7, NONE)]);
        let mut other_version = whole.clone();
        other_version.splice(..1, [3]);
        let incomplete = list(&[(OWNER, 7, NONE), (GROUP, 7, NONE)]);
        let unknown = list(&[(OWNER, 7, NONE), (GROUP, 7, NONE), (OTHER, 7, NONE), (0x40, 7, 1)]);
        let cut = whole.get(..whole.len() - 1).unwrap_or_default().to_vec();
        for bad in [Vec::new(), vec![2, 0], other_version, incomplete, unknown, cut] {
            assert_eq!(inherit(&bad, 0o755), Err(Errno::EINVAL), "{bad:?}");
        }
        assert!(inherit(&whole, 0o755).is_ok());
    }
}
