//! Records of PAX extended headers: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record (pax(1)).
//!
//! Values are bytes and may have newlines: only the length tells where a record ends.

use crate::vfs::Timespec;

/// Before the name of an extended attribute.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// A key and its value.
pub(super) type Record<'d> = (&'d [u8], &'d [u8]);

/// Appends a record.
pub(super) fn append(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest;
    // The length counts its own digits.
    loop {
        let digits = length.to_string().len();
        if rest + digits == length {
            break;
        }
        length = rest + digits;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The key and the value of each record; what is no record is an error, for people.
pub(super) fn records(mut data: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    const BAD: &str = "its PAX header has a record that is none";
    let mut all = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
        let digits = data.get(..space).unwrap_or_default();
        let length = usize::try_from(number(digits).ok_or(BAD)?).map_err(|_| BAD)?;
        let record = data.get(space + 1..length).ok_or(BAD)?;
        let record = record.strip_suffix(b"\n").ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let (key, value) = record.split_at(equals);
        all.push((key, value.get(1..).unwrap_or_default()));
        data = data.get(length..).unwrap_or_default();
    }
    Ok(all)
}

/// A decimal number without signs.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time as a decimal number of seconds, with as many digits after the point as it needs.
pub(super) fn time_text(time: Timespec) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds, time.nanoseconds) {
        (seconds @ 0.., nanoseconds) => ("", seconds.unsigned_abs(), nanoseconds),
        (seconds, 0) => ("-", seconds.unsigned_abs(), 0),
        (seconds, nanoseconds) => {
            ("-", seconds.unsigned_abs() - 1, 1_000_000_000_u32.saturating_sub(nanoseconds))
        }
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

/// The time of such a text; what is finer than nanoseconds is cut off, towards the past.
pub(super) fn time(text: &[u8]) -> Option<Timespec> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"0");
    if fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let kept: Vec<u8> = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9).collect();
    let mut nanoseconds = u32::try_from(number(&kept)?).ok()?;
    let cut = fraction.iter().skip(9).any(|digit| *digit != b'0');
    if !negative {
        return Some(Timespec { seconds, nanoseconds });
    }
    nanoseconds += u32::from(cut);
    if nanoseconds == 0 {
        return Some(Timespec { seconds: -seconds, nanoseconds: 0 });
    }
    Some(Timespec { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn records_are_read_as_written_whatever_is_in_them() {
        let mut data = Vec::new();
        let values: Vec<Vec<u8>> = [0, 1, 85, 86, 87, 88, 980, 985, 990, 9_990, 100_000]
            .iter()
            .map(|length| vec![b'\n'; *length])
            .chain([b"12 path=evil\n\0=\xff".to_vec()])
            .collect();
        for value in &values {
            append(&mut data, b"SCHILY.xattr.user.x", value);
        }
        let read = records(&data).unwrap();
        assert!(read.iter().all(|(key, _)| *key == b"SCHILY.xattr.user.x"));
        assert_eq!(read.iter().map(|(_, value)| value.to_vec()).collect::<Vec<_>>(), values);
        let mut known = Vec::new();
        append(&mut known, b"path", b"foo");
        assert_eq!(known, b"12 path=foo\n");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [
            &b"x"[..],
            b"12 path=foo",
            b"11 path=foo\n",
            b"99999999999999999999 path=foo\n",
            b"2 path=foo\n",
            b" path=foo\n",
            b"-1 path=foo\n",
            b"9 pathfoo\n",
            b"12 path=foo\nrest",
        ] {
            assert!(records(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert_eq!(records(b"").unwrap(), []);
    }

    #[test]
    fn times_have_nanoseconds_and_signs() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.000000001", 1, 1),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("-1", -1, 0),
            ("-0.5", -1, 500_000_000),
            ("-4.999999993", -5, 7),
        ] {
            let value = Timespec { seconds, nanoseconds };
            assert_eq!(time_text(value), text);
            assert_eq!(time(text.as_bytes()), Some(value));
        }
        assert_eq!(time(b"1.0000000019"), Some(Timespec { seconds: 1, nanoseconds: 1 }));
        assert_eq!(time(b"-0.0000000001"), Some(Timespec { seconds: -1, nanoseconds: 999_999_999 }));
        for bad in ["", "-", "1.", ".5", "1.x", "+1", "1e3", "99999999999999999999", "--1"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }
}
