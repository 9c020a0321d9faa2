//! The files that commands write: an existing file of another kind is not replaced unasked.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{CliError, ErrorContext, cdi};
use crate::lock::EnvLock;
use crate::sys::open::proc_path;
use crate::sys::output_file::{OutputFile, OutputTarget};
use crate::trace;

/// How much of a file is read to see what it is, in bytes.
const HEAD: u64 = 64 << 10;

/// What a command writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What `nixview lock` writes.
    Lock,
    /// Devices of the Container Device Interface that are nixview's.
    Devices,
    /// A layer of an OCI image.
    Layer,
    /// What was used of a view.
    Trace,
    /// The page of a report.
    Page,
    /// A figure as text.
    Svg,
    /// A figure as pixels.
    Png,
    /// A table of `nixview du`.
    Table,
    /// A man page of nixview's.
    ManPage,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Devices => "specification of nixview's devices",
            Self::Layer => "tar archive",
            Self::Trace => "trace",
            Self::Page => "report of nixview's",
            Self::Svg => "SVG figure",
            Self::Png => "PNG figure",
            Self::Table => "table of nixview's",
            Self::ManPage => "man page of nixview's",
        }
    }

    /// True if a file is of this kind, or empty.
    fn is_of(self, mut file: File) -> io::Result<bool> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(true);
        }
        if self == Self::Lock {
            return Ok(EnvLock::is_one(Path::new(&proc_path(file.as_fd()))));
        }
        let mut head = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut head)?;
        let has = |text: &[u8]| head.windows(text.len()).any(|part| part == text);
        Ok(match self {
            Self::Lock => false,
            Self::Devices => cdi::is_ours(&head),
            Self::Layer => is_archive(&head, length),
            Self::Trace => trace::is_one(&head),
            Self::Page => head.starts_with(b"<!DOCTYPE html>") && has(b"content=\"nixview "),
            Self::Svg => head.starts_with(b"<svg ") || head.starts_with(b"<?xml") && has(b"<svg "),
            Self::Png => head.starts_with(b"\x89PNG\r\n\x1a\n"),
            Self::Table => super::du_answer::is_table(&head),
            Self::ManPage => (has(b".TH ") || has(b".so man")) && has(b"nixview"),
        })
    }
}

/// True for the beginning of a tar archive, also of one that gzip or zstd has compressed, in a file of `length` bytes.
fn is_archive(head: &[u8], length: u64) -> bool {
    let mut text = Vec::new();
    let unpacked = match head {
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(head).take(HEAD).read_to_end(&mut text),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::Decoder::new(head).and_then(|decoder| decoder.take(HEAD).read_to_end(&mut text))
        }
        _ => return is_tar(head, length == head.len() as u64),
    };
    // The head may end in the middle of the compressed text.
    is_tar(&text, unpacked.is_ok() && (text.len() as u64) < HEAD)
}

/// True for the beginning of a tar archive. One without members is zeros alone; disk images only begin with zeros.
fn is_tar(head: &[u8], whole: bool) -> bool {
    const MAGIC: std::ops::Range<usize> = 257..262;
    const EMPTY: usize = 1024;
    head.get(MAGIC).is_some_and(|magic| magic == b"ustar")
        || whole && head.len() >= EMPTY && head.iter().all(|byte| *byte == 0)
}

/// A place for an output, looked at before the work begins.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    target: OutputTarget,
}

impl Destination {
    /// Finds what `path` names. Without `force` a file that is there must be of `kind`, and a block device is no place.
    ///
    /// # Errors
    /// If there is something else, or no place for a file.
    pub fn find(path: &Path, kind: Kind, force: bool) -> Result<Self, CliError> {
        let shown = path.display();
        let target = OutputTarget::find(path).with_context(|| format!("cannot write {shown}"))?;
        if !force {
            let refuse = |what: &str| {
                Err(CliError::new(format!("{shown} is {what}: it is not replaced"))
                    .hint("name another file, or let --force write it"))
            };
            if target.is_block_device() {
                return refuse("a block device");
            }
            // A file that cannot be read may be anything.
            let known = match target.existing() {
                Ok(None) => true,
                Ok(Some(file)) => kind.is_of(file).unwrap_or(false),
                Err(_) => false,
            };
            if !known {
                return refuse(&format!("no {}", kind.name()));
            }
        }
        Ok(Self { path: path.to_owned(), target })
    }

    /// As [`OutputTarget::is_standard_output`].
    #[must_use]
    pub fn is_standard_output(&self) -> bool {
        self.target.is_standard_output()
    }

    /// The file that would be replaced, if it can be read.
    #[must_use]
    pub fn existing(&self) -> Option<File> {
        self.target.existing().ok().flatten()
    }

    /// Opens it: a regular file appears when it is finished.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(self) -> Result<OutputFile, CliError> {
        let path = self.path;
        self.target.open().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(self, bytes: &[u8]) -> Result<(), CliError> {
        let path = self.path;
        self.target.write(bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// As [`write`](Self::write); answers `false`, and leaves a file as it is, if it has exactly this content.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn update(self, bytes: &[u8]) -> Result<bool, CliError> {
        if self.target.holds(bytes) {
            return Ok(false);
        }
        self.write(bytes).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_of_another_kind_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let all = [
            Kind::Lock,
            Kind::Devices,
            Kind::Layer,
            Kind::Trace,
            Kind::Page,
            Kind::Svg,
            Kind::Png,
            Kind::Table,
            Kind::ManPage,
        ];
        for kind in all {
            fs::write(&path, "").unwrap();
            Destination::find(&path, kind, false).unwrap();
            fs::write(&path, "important, and long enough to be something\n".repeat(20)).unwrap();
            let said = Destination::find(&path, kind, false).unwrap_err().lines().join("\n");
            assert!(said.contains("notes is no ") && said.contains("--force"), "{said}");
            Destination::find(&path, kind, true).unwrap().write(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            fs::write(&path, "{\"a\": 1}").unwrap();
            Destination::find(&path, kind, false).unwrap_err();
            assert!(Destination::find(Path::new("/dev/null"), kind, false).is_ok());
        }
    }

    #[test]
    fn archives_are_known_compressed_or_not() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_cksum();
        let plain = header.as_bytes().to_vec();
        let known = |bytes: &[u8]| is_archive(bytes, bytes.len() as u64);
        let mut long = plain.clone();
        // What does not compress, so that the head ends within the text.
        long.extend((0..200_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()));
        for archive in [plain, long, vec![0; 1024], vec![0; 10_240]] {
            assert!(known(&archive));
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&archive).unwrap();
            for packed in [gzip.finish().unwrap(), zstd::encode_all(archive.as_slice(), 1).unwrap()] {
                let head = packed.get(..packed.len().min(HEAD as usize)).unwrap();
                assert!(is_archive(head, packed.len() as u64));
            }
        }
        assert!(!known(&zstd::encode_all(b"text".as_slice(), 1).unwrap()));
        // A disk image begins with zeros.
        assert!(!is_archive(&[0; HEAD as usize], 4 << 20));
        let file_system = [&[0; 1080][..], b"\x53\xef"].concat();
        assert!(!known(&file_system) && !known(&zstd::encode_all(file_system.as_slice(), 1).unwrap()));
        assert!(!known(b"text"));
    }
}
