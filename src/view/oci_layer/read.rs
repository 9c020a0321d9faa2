//! The members of an archive, which may have been made by anybody.
//!
//! ustar, PAX and GNU headers. Only `tar::Header` is used of the library: its iterator takes PAX records by lines, so that the value of an
//! attribute, which may hold newlines, could pose as the name or the length of a member.

use std::io::Read;

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::entry::{Body, Entry};
use super::{BLOCK, ImportError, Problem, Tried, pax};
use crate::vfs::{FileKind, Timespec};

/// The most that a header that describes another member may hold, in bytes.
const EXTENSION_MAX: u64 = 1 << 20;

/// The most stretches of data that one sparse member may have.
const STRETCHES_MAX: usize = 1 << 20;

const READ: &str = "read it";

/// Reads one member after the other.
pub(super) struct Reader<R> {
    input: R,
    /// How much was read, and how much may be.
    at: u64,
    max: u64,
    /// Content of the current member that was not read yet.
    left: u64,
    /// Zeros that follow it, up to a whole block.
    padding: u64,
    entry: Option<String>,
    offset: u64,
}

/// What the headers before a member say of it.
#[derive(Default)]
struct Described {
    records: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R, max: u64) -> Self {
        Self { input, at: 0, max, left: 0, padding: 0, entry: None, offset: 0 }
    }

    /// The next member; `None` after the block of zeros that ends an archive. What was not read of the content of the last one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ImportError> {
        self.entry = None;
        let answer = self.member();
        answer.map_err(|problem| self.error(problem))
    }

    /// What is wrong with the current member.
    pub(super) fn error(&self, problem: Problem) -> ImportError {
        ImportError { entry: self.entry.clone(), offset: self.offset, problem }
    }

    /// Reads content of the current member, as much as fits; nothing at its end.
    pub(super) fn content(&mut self, buffer: &mut [u8]) -> Result<usize, Problem> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        self.exact(part)?;
        self.left -= wanted as u64;
        Ok(wanted)
    }

    fn member(&mut self) -> Result<Option<Entry>, Problem> {
        let mut described = Described::default();
        loop {
            let (left, padding) = (self.left, self.padding);
            self.skip(left)?;
            self.skip(padding)?;
            (self.left, self.padding) = (0, 0);
            self.offset = self.at;
            let mut header = Header::new_old();
            self.exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                let nothing =
                    described.records.is_none() && described.path.is_none() && described.link.is_none();
                return if nothing {
                    Ok(None)
                } else {
                    Err(Problem::refused("it ends after a header that describes a member"))
                };
            }
            check_sum(&header)?;
            let size = header.entry_size().tried("read its length")?;
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => once(&mut described.records, self.extension(size)?)?,
                EntryType::GNULongName => once(&mut described.path, text(self.extension(size)?))?,
                EntryType::GNULongLink => once(&mut described.link, text(self.extension(size)?))?,
                EntryType::XGlobalHeader => only_comments(&self.extension(size)?)?,
                _ => return self.described(&header, size, described).map(Some),
            }
        }
    }

    /// A member, out of its header and what was said before it.
    fn described(&mut self, header: &Header, size: u64, described: Described) -> Result<Entry, Problem> {
        let mut path = described.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let header_link = header.link_name_bytes().map(std::borrow::Cow::into_owned);
        let mut link = described.link.or(header_link).unwrap_or_default();
        let (mut size, mut xattrs) = (size, Vec::new());
        let (mut uid, mut gid, mut mtime) = (None, None, None);
        let records = described.records.unwrap_or_default();
        for (key, value) in pax::records(&records).map_err(Problem::refused)? {
            let bad = || {
                Problem::refused(format!("the value of '{}' in its PAX header is none", key.escape_ascii()))
            };
            match key {
                b"path" => path = value.to_vec(),
                b"linkpath" => link = value.to_vec(),
                b"size" => size = pax::number(value).ok_or_else(bad)?,
                b"uid" => uid = Some(pax::number(value).ok_or_else(bad)?),
                b"gid" => gid = Some(pax::number(value).ok_or_else(bad)?),
                b"mtime" => mtime = Some(pax::time(value).ok_or_else(bad)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Problem::refused(
                        "it is a sparse member of a kind that is not supported (GNU.sparse in PAX)",
                    ));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(pax::XATTR) {
                        xattrs.retain(|(known, _)| known != name);
                        xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        self.entry = Some(shortened(&path));
        let seconds = match mtime {
            Some(time) => time,
            None => whole_seconds(header)?,
        };
        let id = |given: Option<u64>, own: std::io::Result<u64>| -> Result<u32, Problem> {
            let number = match given {
                Some(number) => number,
                None => own.tried("read its owner")?,
            };
            let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| Problem::refused(format!("its owner {number} is no user")))
        };
        let (uid, gid) = (id(uid, header.uid())?, id(gid, header.gid())?);
        let body = self.body(header, size, &path, link)?;
        while path.last() == Some(&b'/') {
            path.pop();
        }
        let permissions = u16::try_from(header.mode().tried("read its mode")? & 0o7777).unwrap_or_default();
        xattrs.sort_unstable();
        Ok(Entry { path, body, permissions, uid, gid, mtime: seconds, xattrs })
    }

    /// What it is; its content is next, if it has any.
    fn body(&mut self, header: &Header, size: u64, path: &[u8], link: Vec<u8>) -> Result<Body, Problem> {
        let node = |kind| -> Result<Body, Problem> {
            let number = |answer: std::io::Result<Option<u32>>| {
                Ok(answer.tried("read its device number")?.unwrap_or_default())
            };
            let rdev = rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
            Ok(Body::Node { kind, rdev })
        };
        match header.entry_type() {
            // As version 7 of Unix did it.
            EntryType::Regular if path.ends_with(b"/") => Ok(Body::Directory),
            EntryType::Regular | EntryType::Continuous => {
                self.has_content(size)?;
                Ok(Body::file(size))
            }
            EntryType::GNUSparse => self.sparse(header, size),
            // These have no content, whatever their length says.
            EntryType::Directory => Ok(Body::Directory),
            EntryType::Symlink => Ok(Body::Symlink(link)),
            EntryType::Link => Ok(Body::HardLink(link)),
            EntryType::Char => node(FileKind::CharDevice),
            EntryType::Block => node(FileKind::BlockDevice),
            EntryType::Fifo => Ok(Body::Node { kind: FileKind::Fifo, rdev: 0 }),
            other => Err(Problem::refused(format!(
                "members of type '{}' are not supported",
                other.as_byte().escape_ascii()
            ))),
        }
    }

    fn has_content(&mut self, size: u64) -> Result<(), Problem> {
        let whole = size.checked_next_multiple_of(BLOCK as u64);
        let whole = whole.and_then(|whole| self.at.checked_add(whole).map(|_| whole));
        let whole = whole.ok_or_else(|| Problem::refused(format!("its length {size} is too large")))?;
        (self.left, self.padding) = (size, whole - size);
        Ok(())
    }

    /// A sparse member of GNU tar's old kind: where its stretches of data lie is in its header and in blocks after it.
    fn sparse(&mut self, header: &Header, size: u64) -> Result<Body, Problem> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| Problem::refused("it is sparse, and has no header of GNU tar's"))?;
        let real = gnu.real_size().tried("read its length")?;
        let mut data = Vec::new();
        let mut extended = gnu.is_extended();
        stretches(&gnu.sparse, &mut data)?;
        while extended {
            let mut more = GnuExtSparseHeader::new();
            self.exact(more.as_mut_bytes())?;
            stretches(more.sparse(), &mut data)?;
            extended = more.is_extended();
        }
        let (mut end, mut sum) = (0, 0_u64);
        for (offset, length) in &data {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= real);
            end = next
                .ok_or_else(|| Problem::refused("its stretches of data overlap, or are longer than it is"))?;
            sum += length;
        }
        if sum != size {
            return Err(Problem::refused(format!(
                "its stretches of data are {sum} bytes, its content {size}"
            )));
        }
        self.has_content(size)?;
        Ok(Body::File { size: real, data: Some(data) })
    }

    /// Reads to the end of the input, so that what checks it (a compression's checksum) sees all of it.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        self.entry = None;
        let left = self.max.saturating_sub(self.at);
        let mut rest = (&mut self.input).take(left.saturating_add(1));
        let end = std::io::copy(&mut rest, &mut std::io::sink()).tried(READ);
        match end {
            Ok(read) if read <= left => Ok(()),
            Ok(_) => Err(self.error(Problem::TooLarge(self.max))),
            Err(problem) => Err(self.error(problem)),
        }
    }

    /// The content of a header that describes another member.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        if size > EXTENSION_MAX {
            return Err(Problem::refused(format!("a header of {size} bytes is too long")));
        }
        self.has_content(size)?;
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        self.content(&mut content)?;
        Ok(content)
    }

    /// Refuses to read that much more than the archive may have.
    fn may_read(&self, length: u64) -> Result<(), Problem> {
        let within = self.at.checked_add(length).is_some_and(|end| end <= self.max);
        if within { Ok(()) } else { Err(Problem::TooLarge(self.max)) }
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Problem> {
        self.may_read(buffer.len() as u64)?;
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Problem::refused("the archive ends here, before its end"),
            _ => Problem::Io(READ, error),
        })?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<(), Problem> {
        self.may_read(length)?;
        let skipped = std::io::copy(&mut (&mut self.input).take(length), &mut std::io::sink()).tried(READ)?;
        self.at += skipped;
        if skipped == length {
            Ok(())
        } else {
            Err(Problem::refused("the archive ends here, before its end"))
        }
    }
}

/// A path for people: of a very long one the begin and the end.
fn shortened(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let ends = path.split_at_checked(SHOWN).zip(path.len().checked_sub(SHOWN).and_then(|at| path.get(at..)));
    match ends {
        Some(((begin, _), end)) if path.len() > 4 * SHOWN => {
            format!("{}…{}", begin.escape_ascii(), end.escape_ascii())
        }
        _ => path.escape_ascii().to_string(),
    }
}

fn check_sum(header: &Header) -> Result<(), Problem> {
    let told = header.cksum().map_err(|_| Problem::refused("this is no header of a tar archive"))?;
    let spaces = 8 * u32::from(b' ');
    let sum = header.as_bytes().iter().enumerate().fold(spaces, |sum, (index, byte)| {
        if (148..156).contains(&index) { sum } else { sum + u32::from(*byte) }
    });
    if sum == told { Ok(()) } else { Err(Problem::refused("the checksum of its header is wrong")) }
}

fn once(slot: &mut Option<Vec<u8>>, value: Vec<u8>) -> Result<(), Problem> {
    if slot.replace(value).is_some() {
        return Err(Problem::refused("two headers of one kind describe one member"));
    }
    Ok(())
}

/// Up to the NUL that GNU tar puts at the end.
fn text(mut value: Vec<u8>) -> Vec<u8> {
    if value.last() == Some(&0) {
        value.pop();
    }
    value
}

/// What is said of all members must change none.
fn only_comments(records: &[u8]) -> Result<(), Problem> {
    match pax::records(records).map_err(Problem::refused)?.iter().find(|(key, _)| *key != b"comment") {
        Some((key, _)) => {
            Err(Problem::refused(format!("a header for all members sets '{}'", key.escape_ascii())))
        }
        None => Ok(()),
    }
}

fn whole_seconds(header: &Header) -> Result<Timespec, Problem> {
    let seconds = header.mtime().tried("read its time")?;
    let seconds = i64::try_from(seconds).map_err(|_| Problem::refused("its time is none"))?;
    Ok(Timespec { seconds, nanoseconds: 0 })
}

fn stretches(blocks: &[GnuSparseHeader], data: &mut Vec<(u64, u64)>) -> Result<(), Problem> {
    for block in blocks.iter().filter(|block| !block.is_empty()) {
        let offset = block.offset().tried("read where its data lies")?;
        let length = block.length().tried("read where its data lies")?;
        if length > 0 {
            data.push((offset, length));
        }
    }
    if data.len() > STRETCHES_MAX {
        return Err(Problem::refused("it has too many stretches of data"));
    }
    Ok(())
}
