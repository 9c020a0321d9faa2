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

/// The archive behind `input`: what is gzip or zstd by its first bytes is decompressed.
///
/// # Errors
/// If the first bytes cannot be read.
pub fn decompressed<'r>(input: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut input = BufReader::with_capacity(128 * 1024, input);
    let start = input.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(input)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(input)?));
    }
    Ok(Box::new(input))
}
