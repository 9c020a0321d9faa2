//! Sizes as people write them.

use bytesize::ByteSize;

/// A number of bytes: `500M`, `2G`, `1.5GiB`, `4096`. K, M, G, T and P alone, or with iB, are powers of 1024; with B, of
/// 1000, as for truncate(1) and its like.
///
/// # Errors
/// What is wrong, for people.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let alone = text.ends_with(|last: char| "kmgtpKMGTP".contains(last));
    let parsed = if alone { format!("{text}iB").parse::<ByteSize>() } else { text.parse::<ByteSize>() };
    let bytes = parsed.map_err(|_| "it must be a size, as in 500M, 2G or 1.5GiB".to_owned())?.as_u64();
    if bytes == u64::MAX { Err("it is too large".to_owned()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn letters_alone_are_powers_of_1024() {
        let cases = [
            ("4096", 4096),
            ("1K", 1024),
            ("500M", 500 << 20),
            ("2G", 2 << 30),
            ("2g", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("1.5 GiB", 3 << 29),
            ("3T", 3 << 40),
            ("2GB", 2_000_000_000),
            ("10kB", 10_000),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1G", "2X", "2GiBB", "1.2.3G", "nan", "infM", "0x10", "99999999999999T"] {
            parse(text).unwrap_err();
        }
    }
}
