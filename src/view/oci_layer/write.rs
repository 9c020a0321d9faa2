//! From an upper to an archive.

use std::collections::HashMap;
use std::io::{self, Write};

use super::entry::{Body, Entry, Xattr};
use super::{BLOCK, OPAQUE, WHITEOUT, encode, is_private, is_zero_device, joined};
use crate::layer::{Access, EntryKind, LayerFile, Presence, Redirect, Stat};
use crate::vfs::{FileKind, Name, Timespec};
use crate::view::changes::{ChangesError, ReadUpper, shown};

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Members of the archive.
    pub entries: u64,
    /// Paths that an archive cannot hold, and why, for people; only with `skip`.
    pub skipped: Vec<(Vec<Name>, String)>,
}

/// Why an upper cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The upper cannot be read.
    #[error(transparent)]
    Read(#[from] ChangesError),
    /// A layer cannot hold what is there.
    #[error("'{}' cannot be in a layer: {why}", shown(.path))]
    Unsupported {
        /// Names from the root of the view.
        path: Vec<Name>,
        /// Why not.
        why: String,
    },
    /// The archive cannot be written.
    #[error("cannot write the layer: {0}")]
    Output(#[source] io::Error),
}

/// Writes all that an upper has and hides as a layer whose directory `prefix` is the root of the view.
///
/// The same upper gives the same bytes: names in bytewise order, a directory before what is in it, owners as numbers, times of access and
/// change left out. All of a file is written, holes as zeros: the specification advises against sparse members, and an import makes them
/// holes again. With `skip`, what an archive cannot hold is left out and told; else it is an error.
///
/// # Errors
/// [`ExportError`]; what was written until then is no archive.
pub fn export<U: ReadUpper>(
    upper: &U,
    prefix: &[Name],
    skip: bool,
    output: &mut dyn Write,
) -> Result<Exported, ExportError> {
    let mut export =
        Export { upper, prefix, skip, output, links: HashMap::new(), exported: Exported::default() };
    let root = upper.root().map_err(|source| failed(&[], source))?;
    let stat = upper.stat(&root).map_err(|source| failed(&[], source))?;
    export.object(&[], &root, &stat)?;
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        export.directory(&path, &mut pending)?;
    }
    export.output.write_all(&[0; 2 * BLOCK]).map_err(ExportError::Output)?;
    Ok(export.exported)
}

fn failed(path: &[Name], source: io::Error) -> ExportError {
    ExportError::Read(ChangesError { action: "read", path: path.to_vec(), source })
}

struct Export<'e, U> {
    upper: &'e U,
    prefix: &'e [Name],
    skip: bool,
    output: &'e mut dyn Write,
    /// The first path in the archive of inodes that have several.
    links: HashMap<u64, Vec<u8>>,
    exported: Exported,
}

impl<U: ReadUpper> Export<'_, U> {
    /// Writes the members of a directory; those that are directories are left to be done, the first one last.
    fn directory(&mut self, path: &[Name], pending: &mut Vec<Vec<Name>>) -> Result<(), ExportError> {
        let fail = |source| failed(path, source);
        let dir = self.upper.resolve(path).map_err(fail)?;
        let opaque = self.upper.is_opaque(&dir).map_err(fail)?;
        if opaque {
            let mark = [&joined(self.prefix, path), &b"/"[..], OPAQUE].concat();
            self.mark(mark)?;
        }
        let mut entries = self.upper.read_dir(&dir).map_err(fail)?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut directories = Vec::new();
        for entry in entries {
            let mut inner = path.to_vec();
            inner.push(entry.name.clone());
            if entry.name.as_bytes().starts_with(WHITEOUT) {
                self.cannot(&inner, "its name is that of a mark in layers")?;
                continue;
            }
            match self.upper.presence(&dir, &entry.name).map_err(|source| failed(&inner, source))? {
                Presence::Absent => {}
                // In an opaque directory it hides nothing that is not hidden already.
                Presence::Whiteout if opaque => {}
                Presence::Whiteout => {
                    let above = joined(self.prefix, path);
                    self.mark([&above, &b"/"[..], WHITEOUT, entry.name.as_bytes()].concat())?;
                }
                Presence::Present(object) => {
                    let stat = self.upper.stat(&object).map_err(|source| failed(&inner, source))?;
                    let written = self.object(&inner, &object, &stat)?;
                    if written && entry.kind == EntryKind::Object(FileKind::Directory) {
                        directories.push(inner);
                    }
                }
            }
        }
        pending.extend(directories.into_iter().rev());
        Ok(())
    }

    /// Writes an object; `false` if it was skipped.
    fn object(&mut self, path: &[Name], object: &U::Object, stat: &Stat) -> Result<bool, ExportError> {
        let fail = |source| failed(path, source);
        if stat.kind == FileKind::Directory && self.is_moved(path, object).map_err(fail)? {
            const WHY: &str =
                "it was moved, and what the store has in it is not in the upper: replace it by a copy";
            return self.cannot(path, WHY).map(|()| false);
        }
        let in_archive = joined(self.prefix, path);
        let is_linked = stat.nlink > 1 && stat.kind != FileKind::Directory;
        let body = match (self.links.get(&stat.ino).filter(|_| is_linked), stat.kind) {
            (Some(first), _) => Body::HardLink(first.clone()),
            (None, FileKind::Regular) => Body::file(stat.size),
            (None, FileKind::Directory) => Body::Directory,
            (None, FileKind::Symlink) => Body::Symlink(self.upper.read_link(object).map_err(fail)?),
            (None, FileKind::Socket) => {
                return self.cannot(path, "it is a socket").map(|()| false);
            }
            (None, kind) if is_zero_device(kind, stat.rdev) => {
                return self.cannot(path, "a device 0:0 would hide a name").map(|()| false);
            }
            (None, kind @ (FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo)) => {
                Body::Node { kind, rdev: stat.rdev }
            }
        };
        let xattrs = match body {
            Body::HardLink(_) => Vec::new(),
            _ => self.xattrs(path, object)?,
        };
        let entry = Entry {
            path: in_archive,
            permissions: if stat.kind == FileKind::Symlink { 0o777 } else { stat.permissions },
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs,
            body,
        };
        match encode::headers(&entry) {
            Ok(headers) => self.output.write_all(&headers).map_err(ExportError::Output)?,
            Err(error) => return self.cannot(path, &error.to_string()).map(|()| false),
        }
        if let Body::File { size, .. } = entry.body {
            self.content(path, object, size)?;
        }
        self.exported.entries += 1;
        if is_linked {
            self.links.entry(stat.ino).or_insert(entry.path);
        }
        Ok(true)
    }

    /// True for a directory that shows what the lower has elsewhere. Those above it do not: they would not go out.
    fn is_moved(&self, path: &[Name], dir: &U::Object) -> io::Result<bool> {
        if path.is_empty() || self.upper.is_opaque(dir)? {
            return Ok(false);
        }
        Ok(match self.upper.redirect(dir)? {
            None => false,
            Some(Redirect::Path(target)) => target != path,
            Some(Redirect::Sibling(name)) => path.last() != Some(&name),
            Some(Redirect::Nowhere) => true,
        })
    }

    fn xattrs(&mut self, path: &[Name], object: &U::Object) -> Result<Vec<Xattr>, ExportError> {
        let fail = |source| failed(path, source);
        let mut names = self.upper.list_xattr(object).map_err(fail)?;
        names.sort_unstable();
        let mut xattrs = Vec::new();
        for name in names {
            if is_private(&name) {
                let why = format!("its attribute {} means something to overlayfs", name.escape_ascii());
                self.cannot(path, &why)?;
                continue;
            }
            let value = self.upper.get_xattr(object, &name).map_err(fail)?;
            xattrs.push((name, value));
        }
        Ok(xattrs)
    }

    /// Writes a mark: an empty file of nobody's.
    fn mark(&mut self, path: Vec<u8>) -> Result<(), ExportError> {
        let mtime = Timespec::default();
        let entry =
            Entry { path, body: Body::file(0), permissions: 0, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        self.exported.entries += 1;
        encode::headers(&entry)
            .and_then(|headers| self.output.write_all(&headers))
            .map_err(ExportError::Output)
    }

    /// Writes the content of a file, as long as its header said.
    fn content(&mut self, path: &[Name], object: &U::Object, size: u64) -> Result<(), ExportError> {
        let fail = |source| failed(path, source);
        let file = self.upper.open(object, Access::Read).map_err(fail)?;
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < size {
            let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK);
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let got = file.read_at(at, part).map_err(fail)?;
            let data = part.get(..got).filter(|data| !data.is_empty());
            let data = data.ok_or_else(|| fail(io::Error::other("it became shorter while it was read")))?;
            self.output.write_all(data).map_err(ExportError::Output)?;
            at += got as u64;
        }
        let padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or_default();
        let zeros = [0; BLOCK];
        self.output.write_all(zeros.get(..padding).unwrap_or_default()).map_err(ExportError::Output)
    }

    fn cannot(&mut self, path: &[Name], why: &str) -> Result<(), ExportError> {
        if !self.skip {
            return Err(ExportError::Unsupported { path: path.to_vec(), why: why.to_owned() });
        }
        self.exported.skipped.push((path.to_vec(), why.to_owned()));
        Ok(())
    }
}
