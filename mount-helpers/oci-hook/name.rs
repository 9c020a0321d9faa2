//! The name of a container's view.

/// The longest name of a view (`nixview::view::ViewName`), in bytes.
const LONGEST: usize = 64;

/// What every name begins with.
const PREFIX: &str = "oci-";

/// The name of the view of the container `id`: the same for the same container, and another one for another.
///
/// Ids of 64 hexadecimal digits, as those of podman, Docker and CRI-O, become their first twelve, which those programs
/// show; others stay as they are if they fit, or get a hash of the whole id at the end.
pub(crate) fn of_container(id: &str) -> String {
    let shown = shown(id);
    if shown.len() < id.len() {
        return format!("{PREFIX}{shown}");
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if id.len() <= LONGEST - PREFIX.len() && id.chars().all(legal) {
        return format!("{PREFIX}{id}");
    }
    let room = LONGEST - PREFIX.len() - 17;
    let start: String = id.chars().map(|c| if legal(c) { c } else { '_' }).take(room).collect();
    format!("{PREFIX}{start}-{:016x}", fnv(id.as_bytes()))
}

/// An id as people know it: of 64 hexadecimal digits the first twelve.
pub(crate) fn shown(id: &str) -> &str {
    let hexadecimal = id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if hexadecimal { id.get(..12).unwrap_or(id) } else { id }
}

/// FNV-1a in 64 bits: the hook at the start and the one at the end may be different builds, so it is none of std's.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;
    use nixview::view::ViewName;

    #[test]
    fn every_id_has_a_name_of_its_own_that_is_legal() {
        let long = "x".repeat(1000);
        let ids = ["web", "a.b_c-9", "", "ä+b", "ä-b", "../../etc", long.as_str(), "a b", &long[1..]];
        let mut names: Vec<String> = ids.iter().map(|id| of_container(id)).collect();
        for name in &names {
            assert!(name.len() <= LONGEST);
            name.parse::<ViewName>().unwrap();
        }
        assert_eq!(names[0], "oci-web");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ids.len());
    }

    #[test]
    fn long_hexadecimal_ids_are_called_as_podman_shows_them() {
        assert_eq!(of_container(&"0123456789abcdef".repeat(4)), "oci-0123456789ab");
    }

    #[test]
    fn the_hash_is_fnv() {
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
