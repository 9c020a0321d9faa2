//! How Nix names store paths (`src/libstore/store-api.cc`, the comment at `StorePath`).

use sha2::{Digest, Sha256};

use crate::STORE_DIR;

/// The digits of nixbase32: no `e`, `o`, `t`, `u`.
const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nix's base 32: the number read from its least significant end, written most significant digit first.
#[must_use]
pub fn base32(bytes: &[u8]) -> String {
    let digits = (bytes.len() * 8).div_ceil(5);
    let digit = |n: usize| {
        let (byte, shift) = (n * 5 / 8, n * 5 % 8);
        let low = u16::from(bytes[byte]) | u16::from(*bytes.get(byte + 1).unwrap_or(&0)) << 8;
        char::from(DIGITS[usize::from(low >> shift) % 32])
    };
    (0..digits).rev().map(digit).collect()
}

/// The base name that a fingerprint gives: SHA-256 folded to 20 bytes, in base 32, and the name.
fn base_name(kind: &str, hash: &[u8; 32], name: &str) -> String {
    let fingerprint = format!("{kind}:sha256:{}:{STORE_DIR}:{name}", hex(hash));
    let mut folded = [0; 20];
    for (i, byte) in sha256(fingerprint.as_bytes()).into_iter().enumerate() {
        folded[i % 20] ^= byte;
    }
    format!("{}-{name}", base32(&folded))
}

/// The base name of a text with references, which is what a `.drv` is. `references` are full paths, sorted.
#[must_use]
pub fn of_text(text: &[u8], references: &[String], name: &str) -> String {
    let kind = references.iter().fold("text".to_owned(), |kind, reference| kind + ":" + reference);
    base_name(&kind, &sha256(text), name)
}

/// The base name of a source without references, by the hash of its NAR: `nix-store --add`.
#[must_use]
pub fn of_source(nar: &[u8; 32], name: &str) -> String {
    base_name("source", nar, name)
}

/// The base name of an output of a derivation, by the derivation's hash modulo its outputs.
#[must_use]
pub fn of_output(output: &str, modulo: &[u8; 32], name: &str) -> String {
    let name = if output == "out" { name.to_owned() } else { format!("{name}-{output}") };
    base_name(&format!("output:{output}"), modulo, &name)
}

/// The base name of a file whose contents are known before it is built, by their flat hash.
#[must_use]
pub fn of_fixed(flat: &[u8; 32], name: &str) -> String {
    base_name("output:out", &sha256(format!("fixed:out:sha256:{}:", hex(flat)).as_bytes()), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_nix() {
        // nix-hash --to-base32 --type sha256 of the SHA-256 of nothing.
        assert_eq!(base32(&sha256(b"")), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
    }
}
