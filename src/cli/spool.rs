//! Text that is printed once what it tells of is done.

use std::fs::File;
use std::io::{self, Seek, Write};

/// Text in a file without a name, compressed: the paths of a deep tree are long, and each is the one before it and a name.
pub(crate) struct Spool(zstd::stream::write::Encoder<'static, File>);

impl Spool {
    /// An empty one.
    ///
    /// # Errors
    /// If there is no place for temporary files.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(zstd::stream::write::Encoder::new(tempfile::tempfile()?, 1)?))
    }

    /// Writes all of it to `output`, but for the first `skip` bytes.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub(crate) fn print(self, output: &mut dyn Write, skip: u64) -> io::Result<()> {
        let mut file = self.0.finish()?;
        file.rewind()?;
        let mut text = zstd::stream::read::Decoder::new(file)?;
        io::copy(&mut io::Read::take(&mut text, skip), &mut io::sink())?;
        io::copy(&mut text, output).map(drop)
    }
}

impl Write for Spool {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;

    #[test]
    fn text_comes_back_without_what_is_skipped() {
        for skip in [0, 1, 5] {
            let mut spool = Spool::new().unwrap();
            spool.write_all(b"some text").unwrap();
            let mut out = Vec::new();
            spool.print(&mut out, skip).unwrap();
            assert_eq!(out, b"some text"[usize::try_from(skip).unwrap()..]);
        }
    }
}
