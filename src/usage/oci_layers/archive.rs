//! Archives of layers, as `tar_size` describes them: written, and compressed to see how long that is.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::GzBuilder;
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, open};
use tar::{EntryType, Header};

use super::tar_size::{BLOCK, HUGE, RECORD, directories, extended, name_of};
use super::tree::{Entry, Kind, walk};
use crate::store::parallel::with_threads;
use crate::store::{Location, StorePath};

/// How layers are compressed, each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip {
        /// 0 to 9.
        level: u32,
    },
    /// zstd (RFC 8878).
    Zstd {
        /// 1 to 22.
        level: i32,
    },
}

/// The compressed sizes of some layers; `progress` is told how many are done, of how many, by any thread.
///
/// # Errors
/// If something cannot be read, or changes meanwhile.
pub fn compressed_sizes(
    location: &Location,
    layers: &[&[StorePath]],
    how: Compression,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> io::Result<Vec<u64>> {
    let done = AtomicUsize::new(0);
    let sizes = with_threads(|| {
        layers
            .par_iter()
            .map(|layer| {
                let size = compressed_size(location, layer, how)?;
                progress(1 + done.fetch_add(1, Ordering::Relaxed), layers.len());
                Ok(size)
            })
            .collect::<io::Result<Vec<u64>>>()
    });
    sizes.and_then(|sizes| sizes)
}

/// The compressed size of a layer.
///
/// # Errors
/// As [`compressed_sizes`].
pub fn compressed_size(location: &Location, layer: &[StorePath], how: Compression) -> io::Result<u64> {
    let counted = match how {
        Compression::Gzip { level } => {
            let mut encoder = GzBuilder::new().mtime(0).write(Counting(0), flate2::Compression::new(level));
            write(location, layer, &mut encoder)?;
            encoder.finish()?
        }
        Compression::Zstd { level } => {
            let mut encoder = zstd::stream::write::Encoder::new(Counting(0), level)?;
            write(location, layer, &mut encoder)?;
            encoder.finish()?
        }
    };
    Ok(counted.0)
}

/// Counts what is written, and keeps nothing of it.
struct Counting(u64);

impl Write for Counting {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the archive of a layer.
///
/// # Errors
/// If something cannot be read or written, or a file changes meanwhile.
pub fn write(location: &Location, layer: &[StorePath], output: &mut dyn Write) -> io::Result<()> {
    let mut archive = Archive { output, length: 0 };
    for directory in directories(&location.dir) {
        archive.entry(&directory)?;
    }
    for path in layer {
        walk(&location.real_path(path), &location.dir.join(path), &mut |entry| archive.entry(&entry))?;
    }
    archive.zeros(2 * BLOCK)?;
    let end = archive.length.next_multiple_of(RECORD) - archive.length;
    archive.zeros(end)
}

struct Archive<'o> {
    output: &'o mut dyn Write,
    length: u64,
}

impl Archive<'_> {
    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        self.length += data.len() as u64;
        self.output.write_all(data)
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        self.length += count;
        io::copy(&mut io::repeat(0).take(count), self.output).map(drop)
    }

    /// Up to the end of a block.
    fn pad(&mut self) -> io::Result<()> {
        self.zeros(self.length.next_multiple_of(BLOCK) - self.length)
    }

    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        if let Some(records) = extended(entry) {
            let mut header = header(b"././@PaxHeader", EntryType::XHeader, 0o644, records.len() as u64)?;
            header.set_mtime(0);
            self.header(header)?;
            self.put(&records)?;
            self.pad()?;
        }
        let (kind, size) = match &entry.kind {
            Kind::Directory => (EntryType::Directory, 0),
            Kind::Symlink { .. } => (EntryType::Symlink, 0),
            Kind::File { size } => (EntryType::Regular, *size),
        };
        let mut header = header(&name_of(entry), kind, entry.mode, if size < HUGE { size } else { 0 })?;
        if let (Kind::Symlink { target }, Some(ustar)) = (&entry.kind, header.as_ustar_mut()) {
            fill(&mut ustar.linkname, target);
        }
        self.header(header)?;
        if matches!(entry.kind, Kind::File { .. }) {
            self.content(entry, size)?;
        }
        Ok(())
    }

    fn header(&mut self, mut header: Header) -> io::Result<()> {
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn content(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", entry.real.display()));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open(&entry.real, flags, Mode::empty()).map_err(|error| named(error.into()))?;
        let mut content = std::fs::File::from(file).take(size);
        let copied = io::copy(&mut content, self.output).map_err(named)?;
        self.length += copied;
        if copied != size {
            let why = io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read");
            return Err(named(why));
        }
        self.pad()
    }
}

fn header(name: &[u8], kind: EntryType, mode: u32, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size);
    header.set_username("root")?;
    header.set_groupname("root")?;
    if let Some(ustar) = header.as_ustar_mut() {
        fill(&mut ustar.name, name);
    }
    Ok(header)
}

/// As much of a text as there is room for; all of it is in the PAX header then.
fn fill(field: &mut [u8; 100], text: &[u8]) {
    for (place, byte) in field.iter_mut().zip(text) {
        *place = *byte;
    }
}
