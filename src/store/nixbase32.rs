//! Nix's base 32: its own alphabet, least significant digit last (`src/libutil/hash.cc`, `src/libutil/base-nix-32.cc`).

/// The digits: no `e`, `o`, `t`, `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// True for a digit.
#[must_use]
pub fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z') && !matches!(byte, b'e' | b'o' | b't' | b'u')
}

/// The number of digits for so many bytes.
#[must_use]
pub fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes bytes in base 32.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    (0..encoded_len(bytes.len()))
        .rev()
        .map(|digit| {
            let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
            let low = bytes.get(byte).map_or(0, |b| u16::from(*b));
            let high = bytes.get(byte + 1).map_or(0, |b| u16::from(*b));
            let value = usize::from(((high << 8 | low) >> shift) & 31);
            ALPHABET.get(value).map_or('0', |d| char::from(*d))
        })
        .collect()
}

/// Reads base 32; `None` for other digits, a length that no bytes have, or bits beyond the last byte.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let length = text.len() * 5 / 8;
    if encoded_len(length) != text.len() {
        return None;
    }
    let mut bytes = vec![0_u8; length];
    for (digit, &letter) in text.iter().rev().enumerate() {
        let value = u16::try_from(ALPHABET.iter().position(|d| *d == letter)?).ok()?;
        let (at, shift) = (digit * 5 / 8, digit * 5 % 8);
        let [low, high] = (value << shift).to_le_bytes();
        *bytes.get_mut(at)? |= low;
        match bytes.get_mut(at + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return None,
            None => {}
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest;

    #[test]
    fn it_is_nix_own() {
        // nix-hash --type sha256 --to-base32 of the SHA-256 of "abc"; and of its SHA-1 (Nix's own tests).
        assert_eq!(
            encode(&sha2::Sha256::digest(b"abc")),
            "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"
        );
        let sha1 = decode(b"kpcd173cq987hw957sx6m0868wv3x6d9").unwrap();
        assert_eq!(sha1[..4], [0xa9, 0x99, 0x3e, 0x36]);
        assert_eq!(encode(b""), "");
    }

    #[test]
    fn what_no_bytes_encode_to_is_refused() {
        for bad in ["0", "e0", "000", "zz", "A0", "0é", "z0"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decode(b"7z"), Some(vec![255]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_len(bytes.len()));
            prop_assert_eq!(decode(text.as_bytes()), Some(bytes));
        }

        #[test]
        fn what_is_read_is_written_alike(text in "[0-9a-z]{0,40}") {
            if let Some(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
