//! Digests of contents: by which equal ones are found, and under which name Nix keeps them in `.links`.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::contents::{Inode, Kind};

/// SHA-256.
pub type Sha = [u8; 32];

/// Of one file or link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Digests {
    /// Of the content, or of the target of a link.
    pub content: Sha,
    /// Of the NAR of it alone, whose base 32 is the name in `.links`: with the kind and the owner's execute bit.
    pub key: Sha,
}

/// How much is read at once.
const BUFFER: usize = 128 << 10;

/// Digests in the making.
pub(super) struct Digesting {
    content: Sha256,
    key: Sha256,
    expected: u64,
    length: u64,
}

fn string(hash: &mut Sha256, text: &[u8]) {
    use sha2::Digest;
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
    padding(hash, text.len() as u64);
}

fn padding(hash: &mut Sha256, length: u64) {
    use sha2::Digest;
    let zeros = [0; 8];
    let missing = usize::try_from(length.next_multiple_of(8) - length).unwrap_or(0);
    hash.update(zeros.get(..missing).unwrap_or(&zeros));
}

impl Digesting {
    /// Of what is like `inode`.
    pub(super) fn new(inode: &Inode) -> Self {
        use sha2::Digest;
        let mut key = Sha256::new();
        let before: &[&[u8]] = match (inode.kind, inode.executable) {
            (Kind::File, false) => &[b"nix-archive-1", b"(", b"type", b"regular", b"contents"],
            (Kind::File, true) => {
                &[b"nix-archive-1", b"(", b"type", b"regular", b"executable", b"", b"contents"]
            }
            (Kind::Link, _) => &[b"nix-archive-1", b"(", b"type", b"symlink", b"target"],
        };
        before.iter().for_each(|text| string(&mut key, text));
        key.update(inode.size.to_le_bytes());
        Self { content: Sha256::new(), key, expected: inode.size, length: 0 }
    }

    /// More of the content.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest;
        self.content.update(bytes);
        self.key.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The digests.
    ///
    /// # Errors
    /// `InvalidData` if it was not as long as it said.
    pub(super) fn finish(mut self) -> io::Result<Digests> {
        use sha2::Digest;
        if self.length != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it was changed while it was read"));
        }
        padding(&mut self.key, self.length);
        string(&mut self.key, b")");
        Ok(Digests { content: self.content.finalize().into(), key: self.key.finalize().into() })
    }
}

/// Of a whole content, which is read piece by piece.
///
/// # Errors
/// As read(2); `InvalidData` if it is not as long as `inode` says.
pub(super) fn digests(inode: &Inode, mut source: impl Read) -> io::Result<Digests> {
    let mut digesting = Digesting::new(inode);
    let length = usize::try_from(inode.size.clamp(1, BUFFER as u64)).unwrap_or(BUFFER);
    let mut buffer = vec![0; length];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return digesting.finish(),
            Ok(read) => digesting.update(buffer.get(..read).unwrap_or(&[])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::store::nixbase32;

    fn inode(kind: Kind, size: u64, executable: bool) -> Inode {
        Inode { device: 1, number: 1, kind, size, blocks: 0, names: 1, executable, writable: false }
    }

    #[test]
    fn keys_are_the_names_that_nix_gives() {
        // What `nix-store --dump FILE | sha256sum` says, in Nix's base 32.
        let key = |kind, content: &str, executable| {
            let found = digests(&inode(kind, content.len() as u64, executable), content.as_bytes()).unwrap();
            nixbase32::encode(&found.key)
        };
        assert_eq!(key(Kind::File, "hello", false), "0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa");
        assert_eq!(key(Kind::File, "hello", true), "1pm3sl0kwg6q94zcndf65j7zh0j368wjfw27v9kx96pb2bwi9y4w");
        assert_eq!(key(Kind::File, "", false), "0ip26j2h11n1kgkz36rl4akv694yz65hr72q4kv4b3lxcbi65b3p");
        assert_eq!(key(Kind::Link, "target", false), "0x67g3311ihxwarw846p2jc8wbxmv9bd8ryh7qjpp6d8yb56536b");
    }

    #[test]
    fn the_content_is_one_thing_and_the_bit_another() {
        let of = |executable| digests(&inode(Kind::File, 5, executable), &b"hello"[..]).unwrap();
        assert_eq!(of(true).content, of(false).content);
        assert_ne!(of(true).key, of(false).key);
        let short = digests(&inode(Kind::File, 6, false), &b"hello"[..]).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::InvalidData);
    }
}
