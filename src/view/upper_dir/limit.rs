//! How much an upper may hold.

use serde::{Deserialize, Serialize};

/// What is counted in: blocks of the file system in an upper's image, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// The least limit, in bytes.
pub const LEAST_SIZE: u64 = 1 << 20;

/// The most that an upper may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// Bytes of space: of files, directories and what else takes blocks; a multiple of 4096.
    pub size: u64,
    /// Objects of any kind, the top directory and whiteouts among them; as many as fit if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
}

impl Limit {
    /// The space in blocks.
    pub(super) fn blocks(self) -> u64 {
        self.size / BLOCK
    }
}

/// What is asked for; what is absent stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitChoice {
    /// Bytes of space, rounded down to a multiple of 4096; at least [`LEAST_SIZE`].
    pub size: Option<u64>,
    /// Objects of any kind.
    pub inodes: Option<u64>,
}

impl LimitChoice {
    /// True if anything is asked for.
    #[must_use]
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// The limit that it makes of the one that there is; `None` for none at all.
    pub(super) fn apply(self, now: Option<Limit>) -> Result<Option<Limit>, String> {
        if !self.is_any() {
            return Ok(now);
        }
        let Some(size) = self.size.or(now.map(|limit| limit.size)) else {
            return Err("a limit of inodes needs one of space too".to_owned());
        };
        if size < LEAST_SIZE {
            return Err(format!("the least is {}", for_people(LEAST_SIZE)));
        }
        let inodes = self.inodes.or(now.and_then(|limit| limit.inodes));
        if inodes == Some(0) {
            return Err("the least is one inode, for the top directory".to_owned());
        }
        Ok(Some(Limit { size: size / BLOCK * BLOCK, inodes }))
    }
}

/// How much of its limit an upper holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// The limit of space, in bytes.
    pub size: u64,
    /// Bytes that are used of it.
    pub used: u64,
    /// The limit of objects, or how many fit.
    pub inodes: u64,
    /// How many there are.
    pub inodes_used: u64,
}

/// A number of bytes in a message.
pub(super) fn for_people(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_stays() {
        let now = Some(Limit { size: 8 << 20, inodes: Some(100) });
        let ask = |size, inodes| LimitChoice { size, inodes };
        assert_eq!(ask(None, None).apply(now), Ok(now));
        assert_eq!(ask(None, None).apply(None), Ok(None));
        assert_eq!(ask(Some(1 << 30), None).apply(now), Ok(Some(Limit { size: 1 << 30, inodes: Some(100) })));
        assert_eq!(ask(None, Some(7)).apply(now), Ok(Some(Limit { size: 8 << 20, inodes: Some(7) })));
        let rounded = ask(Some((1 << 20) + 4097), None).apply(None);
        assert_eq!(rounded, Ok(Some(Limit { size: (1 << 20) + 4096, inodes: None })));
    }

    #[test]
    fn what_makes_no_limit_is_refused() {
        let refused = |size, inodes| LimitChoice { size, inodes }.apply(None).err().unwrap_or_default();
        assert!(refused(Some(LEAST_SIZE - 1), None).contains("1.0 MiB"));
        assert!(refused(None, Some(5)).contains("space too"));
        assert!(refused(Some(LEAST_SIZE), Some(0)).contains("one inode"));
    }
}
