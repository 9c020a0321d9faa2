//! From an upper to an archive.

use std::collections::HashMap;
use std::io::{self, Write};

use super::entry::{Body, Entry, Xattr};
use super::{BLOCK, OPAQUE, WHITEOUT, encode, is_private, is_zero_device, joined};
use crate::layer::{Descent, Lower, Presence, Stat};
use crate::vfs::{FileKind, Name, Timespec};
use crate::view::changes::{ChangesError, ReadUpper, Shown, Through, Trees, shown};

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Members of the archive.
    pub entries: u64,
    /// Paths that an archive cannot hold; only with `skip`.
    pub skipped: u64,
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

/// Writes all that an upper has and hides as a layer; `skipped` is told of paths that are left out, and why, for people.
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
    skipped: &mut dyn FnMut(&[Name], &str),
) -> Result<Exported, ExportError> {
    let root = trees.upper.root().map_err(|source| failed(&[], source))?;
    let stat = trees.upper.stat(&root).map_err(|source| failed(&[], source))?;
    let opaque = trees.upper.is_opaque(&root).map_err(|source| failed(&[], source))?;
    let mut export = Export {
        trees,
        how,
        output,
        skipped,
        path: Vec::new(),
        frames: Vec::new(),
        upper: Descent::new(root.clone()),
        links: Links::default(),
        exported: Exported::default(),
    };
    export.object(&Shown::Upper(root.clone()), &stat)?;
    let through = if opaque { Through::Nothing } else { Through::Same };
    export.directory(Some(&root), through)?;
    while export.step()? {}
    export.output.write_all(&[0; 2 * BLOCK]).map_err(ExportError::Output)?;
    Ok(export.exported)
}

fn failed(path: &[Name], source: io::Error) -> ExportError {
    ExportError::Read(ChangesError { action: "read", path: path.to_vec(), source })
}

/// A directory of which directories are left to be done.
struct Frame {
    /// How many names its path has.
    depth: usize,
    /// The names of these directories, the next one last.
    names: Vec<Name>,
    in_upper: bool,
    through: Through,
}

struct Export<'e, L, U: Lower> {
    trees: Trees<'e, L, U>,
    how: &'e Exporting,
    output: &'e mut dyn Write,
    skipped: &'e mut dyn FnMut(&[Name], &str),
    /// One path for all: a tree can be of any depth.
    path: Vec<Name>,
    frames: Vec<Frame>,
    /// The directories of the upper on the way to the path.
    upper: Descent<U::Object>,
    links: Links,
    exported: Exported,
}

impl<L: Lower, U: ReadUpper> Export<'_, L, U> {
    /// Does the next directory that is left; `false` if there is none.
    fn step(&mut self) -> Result<bool, ExportError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(false) };
        self.path.truncate(frame.depth);
        self.links.up(frame.depth);
        let (name, in_upper, through) = (frame.names.pop(), frame.in_upper, frame.through.clone());
        // A directory is left before its last one is entered: a chain of them takes no frames.
        if frame.names.is_empty() {
            self.frames.pop();
        }
        let Some(name) = name else { return Ok(true) };
        let mut own = None;
        if in_upper {
            let lookup = |dir: &U::Object, name: &Name| self.trees.upper.lookup(dir, name);
            let dir = self.upper.at(&self.path, lookup).map_err(|source| failed(&self.path, source))?;
            let presence =
                self.trees.upper.presence(&dir, &name).map_err(|source| failed(&self.path, source))?;
            if let Presence::Present(object) = presence {
                own = Some(object);
            }
        }
        self.path.push(name);
        let through = match &own {
            Some(dir) => {
                self.upper.down(self.path.len(), dir.clone());
                self.through(dir, &through)?
            }
            None => through,
        };
        self.directory(own.as_ref(), through)?;
        Ok(true)
    }

    /// Writes the members of the directory at the path, `own` in the upper; those that are directories are left to be done.
    fn directory(&mut self, own: Option<&U::Object>, through: Through) -> Result<(), ExportError> {
        let fail = |source| failed(&self.path, source);
        let upper = self.trees.upper;
        let elsewhere = match &through {
            Through::Elsewhere(at) => Some(self.trees.lower.resolve(&at.path(&self.path)).map_err(fail)?),
            Through::Nothing | Through::Same => None,
        };
        let above = match (&through, own) {
            (Through::Same, Some(_)) if self.how.lower_known => {
                Some(self.trees.lower.resolve(&self.path).map_err(fail)?)
            }
            (Through::Elsewhere(_), Some(_)) if self.how.lower_known => elsewhere.clone(),
            _ => None,
        };
        let above = above.filter(|above| self.trees.lower.shows_whole(above));
        let mut opaque = elsewhere.is_some();
        let mut names = Vec::new();
        if let Some(dir) = own {
            opaque |= upper.is_opaque(dir).map_err(fail)?;
            names.extend(upper.read_dir(dir).map_err(fail)?.into_iter().map(|entry| entry.name));
        }
        if let Some(dir) = &elsewhere {
            names.extend(self.trees.lower.read_dir(dir).map_err(fail)?.into_iter().map(|entry| entry.name));
        }
        names.sort_unstable();
        names.dedup();
        if opaque {
            self.mark(b"", OPAQUE)?;
        }
        let mut directories = Vec::new();
        for name in names {
            self.path.push(name.clone());
            let is_directory = self.member(&name, own, elsewhere.as_ref(), above.as_ref(), opaque, &through);
            self.path.pop();
            self.links.up(self.path.len());
            if is_directory? {
                directories.push(name);
            }
        }
        if !directories.is_empty() {
            directories.reverse();
            directories.shrink_to_fit();
            let (depth, in_upper) = (self.path.len(), own.is_some());
            self.frames.push(Frame { depth, names: directories, in_upper, through });
        }
        Ok(())
    }

    /// Writes what shows under the last name of the path; `true` for a directory in which more is to be done.
    fn member(
        &mut self,
        name: &Name,
        own: Option<&U::Object>,
        elsewhere: Option<&L::Object>,
        above: Option<&L::Object>,
        opaque: bool,
        through: &Through,
    ) -> Result<bool, ExportError> {
        let fail = |source| failed(&self.path, source);
        let presence = match own {
            Some(dir) => self.trees.upper.presence(dir, name).map_err(fail)?,
            None => Presence::Absent,
        };
        let object = match (presence, elsewhere) {
            (Presence::Present(object), _) => {
                if above.is_some() && self.is_part(&object, above, through).map_err(fail)? {
                    return Ok(false);
                }
                Some(Shown::Upper(object))
            }
            (Presence::Whiteout, _) => None,
            (Presence::Absent, Some(dir)) => {
                Some(Shown::Lower(self.trees.lower.lookup(dir, name).map_err(fail)?))
            }
            (Presence::Absent, None) => return Ok(false),
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.cannot("its name is that of a mark in layers").map(|()| false);
        }
        let Some(object) = object else {
            // In an opaque directory it hides nothing that is not hidden already.
            if !opaque {
                self.path.pop();
                let marked = self.mark(WHITEOUT, name.as_bytes());
                self.path.push(name.clone());
                marked?;
            }
            return Ok(false);
        };
        let stat = self.stat(&object).map_err(fail)?;
        Ok(self.object(&object, &stat)? && stat.kind == FileKind::Directory)
    }

    /// True for what does not show in a directory whose directories show only whole.
    fn is_part(&self, object: &U::Object, above: Option<&L::Object>, parent: &Through) -> io::Result<bool> {
        if self.trees.upper.stat(object)?.kind != FileKind::Directory {
            return Ok(false);
        }
        let (through, _) = self.trees.through(object, &self.path, parent)?;
        self.trees.is_part(object, &through, above)
    }

    /// What shows through the directory `dir` of the upper at the path.
    fn through(&self, dir: &U::Object, parent: &Through) -> Result<Through, ExportError> {
        let fail = |source| failed(&self.path, source);
        if !self.how.lower_known {
            let moved = !self.trees.upper.is_opaque(dir).map_err(fail)?
                && self.trees.upper.redirect(dir).map_err(fail)?.is_some();
            if moved {
                return Err(ExportError::Moved { path: self.path.clone() });
            }
        }
        self.trees.through(dir, &self.path, parent).map(|(through, _)| through).map_err(fail)
    }

    fn stat(&self, object: &Shown<U::Object, L::Object>) -> io::Result<Stat> {
        match object {
            Shown::Upper(object) => self.trees.upper.stat(object),
            // Of the lower each name is an inode of its own.
            Shown::Lower(object) => Ok(Stat { nlink: 1, ..self.trees.lower_stat(object)? }),
        }
    }

    /// Writes an object; `false` if it was skipped.
    fn object(&mut self, object: &Shown<U::Object, L::Object>, stat: &Stat) -> Result<bool, ExportError> {
        let fail = |source| failed(&self.path, source);
        let in_archive = joined(&self.how.prefix, &self.path);
        let is_linked = stat.nlink > 1 && stat.kind != FileKind::Directory;
        let first = self.links.first(stat.ino).filter(|_| is_linked);
        let body = match (first, stat.kind) {
            (Some(first), _) => Body::HardLink(joined(&self.how.prefix, &first)),
            (None, FileKind::Regular) => Body::file(stat.size),
            (None, FileKind::Directory) => Body::Directory,
            (None, FileKind::Symlink) => Body::Symlink(self.trees.read_link(object).map_err(fail)?),
            (None, FileKind::Socket) => {
                return self.cannot("it is a socket").map(|()| false);
            }
            (None, kind) if is_zero_device(kind, stat.rdev) => {
                return self.cannot("a device 0:0 would hide a name").map(|()| false);
            }
            (None, kind @ (FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo)) => {
                Body::Node { kind, rdev: stat.rdev }
            }
        };
        let xattrs = match body {
            Body::HardLink(_) => Vec::new(),
            _ => self.xattrs(object)?,
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
            Err(error) => return self.cannot(&error.to_string()).map(|()| false),
        }
        if let Body::File { size, .. } = entry.body {
            self.content(object, size)?;
        }
        self.exported.entries += 1;
        if is_linked {
            self.links.note(stat.ino, &self.path);
        }
        Ok(true)
    }

    fn xattrs(&mut self, object: &Shown<U::Object, L::Object>) -> Result<Vec<Xattr>, ExportError> {
        let listed = self.trees.list_xattr(object);
        let mut names = listed.map_err(|source| failed(&self.path, source))?;
        names.sort_unstable();
        let mut xattrs = Vec::new();
        for name in names {
            if is_private(&name) {
                let why = format!("its attribute {} means something to overlayfs", name.escape_ascii());
                self.cannot(&why)?;
                continue;
            }
            let value = self.trees.get_xattr(object, &name);
            let value = value.map_err(|source| failed(&self.path, source))?;
            xattrs.push((name, value));
        }
        Ok(xattrs)
    }

    /// Writes a mark in the directory at the path: an empty file of nobody's.
    fn mark(&mut self, kind: &[u8], name: &[u8]) -> Result<(), ExportError> {
        let path = [&joined(&self.how.prefix, &self.path), &b"/"[..], kind, name].concat();
        let mtime = Timespec::default();
        let entry =
            Entry { path, body: Body::file(0), permissions: 0, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        self.exported.entries += 1;
        encode::headers(&entry)
            .and_then(|headers| self.output.write_all(&headers))
            .map_err(ExportError::Output)
    }

    /// Writes the content of a file, as long as its header said.
    fn content(&mut self, object: &Shown<U::Object, L::Object>, size: u64) -> Result<(), ExportError> {
        let fail = |source| failed(&self.path, source);
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

    /// Leaves out what is at the path, or fails.
    fn cannot(&mut self, why: &str) -> Result<(), ExportError> {
        if !self.how.skip {
            return Err(ExportError::Unsupported { path: self.path.clone(), why: why.to_owned() });
        }
        (self.skipped)(&self.path, why);
        self.exported.skipped += 1;
        Ok(())
    }
}

/// The first paths of inodes that have several names, whose directories are kept once.
#[derive(Default)]
struct Links {
    /// Each name, and the place of the directory that it is in; `None` for the root.
    names: Vec<(Option<usize>, Name)>,
    /// The places of the first names on the way to the current path.
    way: Vec<usize>,
    of: HashMap<u64, usize>,
}

impl Links {
    /// Goes back up to a directory to which `depth` names lead.
    fn up(&mut self, depth: usize) {
        self.way.truncate(depth);
    }

    /// Notes the current path as the first one of an inode, unless there is one.
    fn note(&mut self, ino: u64, path: &[Name]) {
        if self.of.contains_key(&ino) {
            return;
        }
        for name in path.get(self.way.len()..).unwrap_or_default() {
            self.names.push((self.way.last().copied(), name.clone()));
            self.way.push(self.names.len() - 1);
        }
        self.of.extend(self.way.last().map(|place| (ino, *place)));
    }

    /// The first path of an inode.
    fn first(&self, ino: u64) -> Option<Vec<Name>> {
        let mut at = Some(*self.of.get(&ino)?);
        let mut path = Vec::new();
        while let Some((above, name)) = at.and_then(|place| self.names.get(place)) {
            path.push(name.clone());
            at = *above;
        }
        path.reverse();
        Some(path)
    }
}
