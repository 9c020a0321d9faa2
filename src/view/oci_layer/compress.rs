//! Compression of archives, and their digests.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::GzBuilder;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// How an archive is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952), level 6, without name and time.
    Gzip,
    /// zstd (RFC 8878), level 3.
    Zstd,
}

impl Compression {
    /// The media type of such a layer.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// What a layer is called: `sha256:HEX`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digests {
    /// Of the file as it was written.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// Of the archive, uncompressed: its `diff_id` in an image's configuration.
    pub diff_id: String,
}

/// Counts and digests what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn digest(hash: Sha256) -> String {
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(data.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

enum Encoder<W: Write> {
    None(Hashing<W>),
    Gzip(GzEncoder<Hashing<W>>),
    Zstd(zstd::stream::write::Encoder<'static, Hashing<W>>),
}

/// Where an archive goes: compressed and digested on the way. To be [finished](Self::finish).
pub struct Sink<W: Write> {
    encoder: Encoder<W>,
    plain: Sha256,
}

impl<W: Write> Sink<W> {
    /// Writes to `output`.
    ///
    /// # Errors
    /// If the compression cannot be set up.
    pub fn new(output: W, compression: Compression) -> io::Result<Self> {
        let output = Hashing::new(output);
        let encoder = match compression {
            Compression::None => Encoder::None(output),
            Compression::Gzip => {
                Encoder::Gzip(GzBuilder::new().mtime(0).write(output, flate2::Compression::new(6)))
            }
            Compression::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(output, 3)?),
        };
        Ok(Self { encoder, plain: Sha256::new() })
    }

    /// Writes what is left, and answers the digests and the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(self) -> io::Result<(Digests, W)> {
        let mut output = match self.encoder {
            Encoder::None(output) => output,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        output.flush()?;
        let Hashing { inner, hash, size } = output;
        let digests =
            Digests { digest: Hashing::<W>::digest(hash), size, diff_id: Hashing::<W>::digest(self.plain) };
        Ok((digests, inner))
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = match &mut self.encoder {
            Encoder::None(output) => output.write(data),
            Encoder::Gzip(encoder) => encoder.write(data),
            Encoder::Zstd(encoder) => encoder.write(data),
        }?;
        self.plain.update(data.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::None(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// A compression that layers do not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is compressed by {name}; a layer is plain, gzip or zstd")]
pub struct OtherCompression {
    name: &'static str,
    /// The program that decompresses a file, given after it, to standard output.
    pub command: &'static str,
}

/// How streams begin that are compressed otherwise than layers are: the first bytes, the name, and what decompresses them.
const OTHERS: [(&[u8], &str, &str); 5] = [
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"LZIP", "lzip", "lzip -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"\x1f\x9d", "compress", "uncompress -c"),
];

/// The magic number of a zstd frame, and the last three bytes of those of skippable frames (RFC 8878, section 3.1): pzstd begins
/// with one.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

/// The archive behind `input`: what is gzip or zstd by its first bytes is decompressed.
///
/// # Errors
/// If the first bytes cannot be read; `Unsupported` for another compression, with [`OtherCompression`].
pub fn decompressed<'r>(input: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut input = BufReader::with_capacity(128 * 1024, input);
    let start = input.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(input)));
    }
    let skippable =
        start.split_first().is_some_and(|(first, rest)| first >> 4 == 5 && rest.starts_with(SKIPPABLE));
    if start.starts_with(ZSTD) || skippable {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(input)?));
    }
    let other = OTHERS.iter().find(|(magic, ..)| start.starts_with(magic) && !is_header(start));
    if let Some((_, name, command)) = other {
        return Err(io::Error::new(io::ErrorKind::Unsupported, OtherCompression { name, command }));
    }
    Ok(Box::new(input))
}

/// True for a header of a tar archive of today: a member can be called `BZh`.
fn is_header(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn read(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decompressed(input)?.read_to_end(&mut all)?;
        Ok(all)
    }

    /// As the standard has it: magic number, length, that many bytes.
    fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[0x50 + number, 0x2a, 0x4d, 0x18], &length[..], content].concat()
    }

    #[test]
    fn skippable_frames_are_skipped_wherever_they_are() {
        let frame = |text: &[u8]| zstd::bulk::compress(text, 3).unwrap();
        for number in [0, 15] {
            let stream =
                [skippable(number, b"123"), frame(b"some "), skippable(7, b""), frame(b"text")].concat();
            assert_eq!(read(&stream).unwrap(), b"some text");
        }
        assert_eq!(read(&frame(b"plain")).unwrap(), b"plain");
    }

    #[test]
    fn other_compressions_are_called_by_their_names() {
        let starts: [(&[u8], &str, &str); 6] = [
            (b"\xfd7zXZ\0\0\x04", "xz", "xz -dc"),
            (b"BZh91AY&SY", "bzip2", "bzip2 -dc"),
            (b"BZh9\x17\x72\x45", "bzip2", "bzip2 -dc"),
            (b"LZIP\x01", "lzip", "lzip -dc"),
            (b"\x04\x22\x4d\x18\x64", "lz4", "lz4 -dc"),
            (b"\x1f\x9d\x90", "compress", "uncompress -c"),
        ];
        for (start, name, command) in starts {
            let error = read(start).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains(&format!("by {name};")), "{error}");
            let other = error.get_ref().unwrap().downcast_ref::<OtherCompression>().unwrap();
            assert_eq!(other.command, command);
        }
        let mut header = tar::Header::new_ustar();
        header.set_path("BZh9").unwrap();
        assert_eq!(read(header.as_bytes()).unwrap(), header.as_bytes());
    }
}
