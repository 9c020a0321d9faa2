//! From an upper to an archive.

use std::collections::HashMap;
use std::io::{self, Write};

use super::entry::{Body, Entry, Xattr};
use super::{BLOCK, OPAQUE, WHITEOUT, encode, is_private, is_zero_device, joined};
use crate::layer::{Lower, Presence, Stat};
use crate::vfs::{FileKind, Name, Timespec};
use crate::view::changes::{ChangesError, ReadUpper, Shown, Through, Trees, shown};

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
    /// It is not known what is in a directory of the lower that was moved.
    #[error("'{}' is a directory of the store that was moved: what it shows is in the closure of the view, which is not known", shown(.path))]
    Moved {
        /// Names from the root of the view.
        path: Vec<Name>,
    },
    /// The archive cannot be written.
    #[error("cannot write the layer: {0}")]
    Output(#[source] io::Error),
}

/// How an upper is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exporting {
    /// The directory of the archive that is the root of the view.
    pub prefix: Vec<Name>,
    /// Leave out what an archive cannot hold, and tell it; else it is an error.
    pub skip: bool,
    /// The lower is what the upper was made over; else a directory that was moved is an error, since nobody knows what is in it.
    pub lower_known: bool,
}

/// Writes all that an upper has and hides as a layer.
///
/// The same upper gives the same bytes: names in bytewise order, a directory before what is in it, owners as numbers, times of access and
/// change left out. All of a file is written, holes as zeros: the specification advises against sparse members, and an import makes them
/// holes again. A layer has no word for a directory of the lower that was moved: it is written with all that it shows.
///
/// # Errors
/// [`ExportError`]; what was written until then is no archive.
pub fn export<L: Lower, U: ReadUpper>(
    trees: Trees<'_, L, U>,
    how: &Exporting,
    output: &mut dyn Write,
) -> Result<Exported, ExportError> {
    let mut export = Export { trees, how, output, links: HashMap::new(), exported: Exported::default() };
    let root = trees.upper.root().map_err(|source| failed(&[], source))?;
    let stat = trees.upper.stat(&root).map_err(|source| failed(&[], source))?;
    let opaque = trees.upper.is_opaque(&root).map_err(|source| failed(&[], source))?;
    export.object(&[], &Shown::Upper(root), &stat)?;
    let through = if opaque { Through::Nothing } else { Through::Same };
    let mut pending = vec![Directory { path: Vec::new(), in_upper: true, through }];
    while let Some(directory) = pending.pop() {
        export.directory(&directory, &mut pending)?;
    }
    export.output.write_all(&[0; 2 * BLOCK]).map_err(ExportError::Output)?;
    Ok(export.exported)
}

fn failed(path: &[Name], source: io::Error) -> ExportError {
    ExportError::Read(ChangesError { action: "read", path: path.to_vec(), source })
}

/// A directory whose members are to be written.
struct Directory {
    path: Vec<Name>,
    in_upper: bool,
    through: Through,
}

/// What shows under a name of a directory, as far as it is written.
struct Member<UO, LO> {
    name: Name,
    /// `None`: a whiteout.
    object: Option<Shown<UO, LO>>,
}

type MemberOf<L, U> = Member<<U as Lower>::Object, <L as Lower>::Object>;

struct Export<'e, L, U> {
    trees: Trees<'e, L, U>,
    how: &'e Exporting,
    output: &'e mut dyn Write,
    /// The first path in the archive of inodes that have several.
    links: HashMap<u64, Vec<u8>>,
    exported: Exported,
}

impl<L: Lower, U: ReadUpper> Export<'_, L, U> {
    /// Writes the members of a directory; those that are directories are left to be done, the first one last.
    fn directory(&mut self, directory: &Directory, pending: &mut Vec<Directory>) -> Result<(), ExportError> {
        let path = &directory.path;
        let (members, opaque) = self.members(directory).map_err(|source| failed(path, source))?;
        let above = [&joined(&self.how.prefix, path), &b"/"[..]].concat();
        if opaque {
            self.mark([&above, OPAQUE].concat())?;
        }
        let mut directories = Vec::new();
        for Member { name, object } in members {
            let inner = [path.as_slice(), std::slice::from_ref(&name)].concat();
            if name.as_bytes().starts_with(WHITEOUT) {
                self.cannot(&inner, "its name is that of a mark in layers")?;
                continue;
            }
            let Some(object) = object else {
                // In an opaque directory it hides nothing that is not hidden already.
                if !opaque {
                    self.mark([&above, WHITEOUT, name.as_bytes()].concat())?;
                }
                continue;
            };
            let stat = self.stat(&object).map_err(|source| failed(&inner, source))?;
            if self.object(&inner, &object, &stat)? && stat.kind == FileKind::Directory {
                directories.push(self.inner(inner, &object, &directory.through)?);
            }
        }
        pending.extend(directories.into_iter().rev());
        Ok(())
    }

    /// What is written of a directory, by name; and whether nothing else shows in it.
    fn members(&self, directory: &Directory) -> io::Result<(Vec<MemberOf<L, U>>, bool)> {
        let Trees { lower, upper, .. } = self.trees;
        let mut members = Vec::new();
        let mut opaque = matches!(directory.through, Through::Elsewhere(_));
        if directory.in_upper {
            let dir = upper.resolve(&directory.path)?;
            opaque |= upper.is_opaque(&dir)?;
            let above = self.lower_of(directory)?.filter(|above| lower.shows_whole(above));
            for entry in upper.read_dir(&dir)? {
                let object = match upper.presence(&dir, &entry.name)? {
                    Presence::Absent => continue,
                    Presence::Whiteout => None,
                    Presence::Present(object)
                        if above.is_some() && self.is_part(directory, &entry.name, &object)? =>
                    {
                        continue;
                    }
                    Presence::Present(object) => Some(Shown::Upper(object)),
                };
                members.push(Member { name: entry.name, object });
            }
        }
        members.sort_unstable_by(|a: &MemberOf<L, U>, b| a.name.cmp(&b.name));
        if let Through::Elsewhere(at) = &directory.through {
            let dir = lower.resolve(&at.path(&directory.path))?;
            let own = members.len();
            for entry in lower.read_dir(&dir)? {
                let known = members.get(..own).unwrap_or_default();
                if known.binary_search_by(|member| member.name.cmp(&entry.name)).is_err() {
                    let object = Some(Shown::Lower(lower.lookup(&dir, &entry.name)?));
                    members.push(Member { name: entry.name, object });
                }
            }
            members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        Ok((members, opaque))
    }

    /// The directory of the lower that shows through one.
    fn lower_of(&self, directory: &Directory) -> io::Result<Option<L::Object>> {
        match &directory.through {
            _ if !self.how.lower_known => Ok(None),
            Through::Nothing => Ok(None),
            Through::Same => self.trees.lower.resolve(&directory.path).map(Some),
            Through::Elsewhere(at) => self.trees.lower.resolve(&at.path(&directory.path)).map(Some),
        }
    }

    /// True for what does not show in a directory whose directories show only whole.
    fn is_part(&self, directory: &Directory, name: &Name, object: &U::Object) -> io::Result<bool> {
        if self.trees.upper.stat(object)?.kind != FileKind::Directory {
            return Ok(false);
        }
        let path = [directory.path.as_slice(), std::slice::from_ref(name)].concat();
        let (through, _) = self.trees.through(object, &path, &directory.through)?;
        self.trees.is_part(object, &through, self.lower_of(directory)?.as_ref())
    }

    /// What is to be done of a directory that was written.
    fn inner(
        &self,
        path: Vec<Name>,
        object: &Shown<U::Object, L::Object>,
        parent: &Through,
    ) -> Result<Directory, ExportError> {
        let Shown::Upper(dir) = object else {
            return Ok(Directory { path, in_upper: false, through: parent.clone() });
        };
        let fail = |source| failed(&path, source);
        if !self.how.lower_known {
            let moved = !self.trees.upper.is_opaque(dir).map_err(fail)?
                && self.trees.upper.redirect(dir).map_err(fail)?.is_some();
            if moved {
                return Err(ExportError::Moved { path });
            }
        }
        let (through, _) = self.trees.through(dir, &path, parent).map_err(fail)?;
        Ok(Directory { path, in_upper: true, through })
    }

    fn stat(&self, object: &Shown<U::Object, L::Object>) -> io::Result<Stat> {
        match object {
            Shown::Upper(object) => self.trees.upper.stat(object),
            // Of the lower each name is an inode of its own.
            Shown::Lower(object) => Ok(Stat { nlink: 1, ..self.trees.lower_stat(object)? }),
        }
    }

    /// Writes an object; `false` if it was skipped.
    fn object(
        &mut self,
        path: &[Name],
        object: &Shown<U::Object, L::Object>,
        stat: &Stat,
    ) -> Result<bool, ExportError> {
        let fail = |source| failed(path, source);
        let in_archive = joined(&self.how.prefix, path);
        let is_linked = stat.nlink > 1 && stat.kind != FileKind::Directory;
        let body = match (self.links.get(&stat.ino).filter(|_| is_linked), stat.kind) {
            (Some(first), _) => Body::HardLink(first.clone()),
            (None, FileKind::Regular) => Body::file(stat.size),
            (None, FileKind::Directory) => Body::Directory,
            (None, FileKind::Symlink) => Body::Symlink(self.trees.read_link(object).map_err(fail)?),
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

    fn xattrs(
        &mut self,
        path: &[Name],
        object: &Shown<U::Object, L::Object>,
    ) -> Result<Vec<Xattr>, ExportError> {
        let fail = |source| failed(path, source);
        let mut names = self.trees.list_xattr(object).map_err(fail)?;
        names.sort_unstable();
        let mut xattrs = Vec::new();
        for name in names {
            if is_private(&name) {
                let why = format!("its attribute {} means something to overlayfs", name.escape_ascii());
                self.cannot(path, &why)?;
                continue;
            }
            let value = self.trees.get_xattr(object, &name).map_err(fail)?;
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
    fn content(
        &mut self,
        path: &[Name],
        object: &Shown<U::Object, L::Object>,
        size: u64,
    ) -> Result<(), ExportError> {
        let fail = |source| failed(path, source);
        let file = self.trees.open(object).map_err(fail)?;
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
        if !self.how.skip {
            return Err(ExportError::Unsupported { path: path.to_vec(), why: why.to_owned() });
        }
        self.exported.skipped.push((path.to_vec(), why.to_owned()));
        Ok(())
    }
}
