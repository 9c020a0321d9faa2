//! A plain tree that behaves as a file system should, histories of operations, and running them on both.
//!
//! Operands are numbers that are taken modulo what there is at that moment, so that every history means something;
//! names are of three letters, so that they collide. After each operation the errno is compared, and the whole tree.

use std::collections::{BTreeMap, BTreeSet};

use nixview::union::{Io, Options, UnionFs};
use nixview::vfs::{
    Errno, FileKind, Handle, Ino, OpenFlags, RenameMode, SetAttr, SetTime, Timespec, XattrMode,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{Counted, Disk, EPOCH, View, caller, name, options};

/// An operation; `usize`s choose a letter, a directory (`Index`), or an object.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named after the system calls")]
pub enum Op {
    Create {
        dir: Index,
        name: u8,
        permissions: u16,
        exclusive: bool,
    },
    Mkdir {
        dir: Index,
        name: u8,
        permissions: u16,
    },
    Symlink {
        dir: Index,
        name: u8,
        target: u8,
    },
    Fifo {
        dir: Index,
        name: u8,
    },
    /// A character device 0:0, which is not to be taken for a whiteout.
    ZeroDevice {
        dir: Index,
        name: u8,
    },
    Link {
        of: Index,
        dir: Index,
        name: u8,
    },
    Unlink {
        dir: Index,
        name: u8,
    },
    Rmdir {
        dir: Index,
        name: u8,
    },
    Rename {
        from: Index,
        name: u8,
        to: Index,
        new: u8,
        mode: u8,
    },
    Write {
        of: Index,
        offset: u8,
        data: Vec<u8>,
    },
    WriteUnopened {
        of: Index,
        offset: u8,
        data: Vec<u8>,
    },
    OpenTruncated {
        of: Index,
    },
    Truncate {
        of: Index,
        size: u8,
    },
    Chmod {
        of: Index,
        permissions: u16,
    },
    Touch {
        of: Index,
        seconds: u8,
    },
    SetXattr {
        of: Index,
        name: u8,
        value: u8,
        mode: u8,
    },
    RemoveXattr {
        of: Index,
        name: u8,
    },
    Allocate {
        of: Index,
        offset: u8,
        length: u8,
    },
    /// Removes all below a directory and the directory, and makes it again.
    Renew {
        of: Index,
    },
    Hold {
        of: Index,
        writes: bool,
    },
    WriteHeld {
        held: Index,
        offset: u8,
        data: Vec<u8>,
    },
    TruncateHeld {
        held: Index,
        size: u8,
    },
    Close {
        held: Index,
    },
    Forget,
    Remount,
}

pub fn op() -> impl Strategy<Value = Op> {
    let i = any::<Index>;
    let n = || 0_u8..3;
    let p = || any::<u16>().prop_map(|p| 0o700 | p & 0o77);
    let data = || prop::collection::vec(any::<u8>(), 1..6);
    prop_oneof![
        3 => (i(), n(), p(), any::<bool>()).prop_map(|(dir, name, permissions, exclusive)| Op::Create { dir, name, permissions, exclusive }),
        3 => (i(), n(), p()).prop_map(|(dir, name, permissions)| Op::Mkdir { dir, name, permissions }),
        1 => (i(), n(), n()).prop_map(|(dir, name, target)| Op::Symlink { dir, name, target }),
        1 => (i(), n()).prop_map(|(dir, name)| Op::Fifo { dir, name }),
        1 => (i(), n()).prop_map(|(dir, name)| Op::ZeroDevice { dir, name }),
        2 => (i(), i(), n()).prop_map(|(of, dir, name)| Op::Link { of, dir, name }),
        4 => (i(), n()).prop_map(|(dir, name)| Op::Unlink { dir, name }),
        3 => (i(), n()).prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        8 => (i(), n(), i(), n(), 0_u8..5).prop_map(|(from, name, to, new, mode)| Op::Rename { from, name, to, new, mode }),
        2 => (i(), any::<u8>(), data()).prop_map(|(of, offset, data)| Op::Write { of, offset, data }),
        1 => (i(), any::<u8>(), data()).prop_map(|(of, offset, data)| Op::WriteUnopened { of, offset, data }),
        1 => i().prop_map(|of| Op::OpenTruncated { of }),
        2 => (i(), any::<u8>()).prop_map(|(of, size)| Op::Truncate { of, size }),
        1 => (i(), p()).prop_map(|(of, permissions)| Op::Chmod { of, permissions }),
        1 => (i(), any::<u8>()).prop_map(|(of, seconds)| Op::Touch { of, seconds }),
        1 => (i(), n(), any::<u8>(), 0_u8..3).prop_map(|(of, name, value, mode)| Op::SetXattr { of, name, value, mode }),
        1 => (i(), n()).prop_map(|(of, name)| Op::RemoveXattr { of, name }),
        1 => (i(), any::<u8>(), any::<u8>()).prop_map(|(of, offset, length)| Op::Allocate { of, offset, length }),
        2 => i().prop_map(|of| Op::Renew { of }),
        2 => (i(), any::<bool>()).prop_map(|(of, writes)| Op::Hold { of, writes }),
        1 => (i(), any::<u8>(), data()).prop_map(|(held, offset, data)| Op::WriteHeld { held, offset, data }),
        1 => (i(), any::<u8>()).prop_map(|(held, size)| Op::TruncateHeld { held, size }),
        1 => i().prop_map(|held| Op::Close { held }),
        1 => Just(Op::Forget),
        2 => Just(Op::Remount),
    ]
}

pub const LETTERS: [&str; 3] = ["a", "b", "c"];

fn letter(n: u8) -> &'static str {
    LETTERS[n as usize % 3]
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: FileKind,
    pub permissions: u16,
    pub nlink: u32,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub names: BTreeMap<String, usize>,
    /// The lower has it.
    pub lower: bool,
    /// Known if it was set and nothing happened since.
    pub mtime: Option<Timespec>,
    /// The number that it was first seen with.
    pub ino: Option<Ino>,
}

/// The plain tree. Inode 0 is the root; inodes that were removed stay.
#[derive(Clone, Debug)]
pub struct Model {
    pub inodes: Vec<Inode>,
    /// Directories that the lower has can be moved.
    pub redirects: bool,
}

impl Model {
    /// The tree that [`super::populate`] makes.
    pub fn new(redirects: bool) -> Self {
        let mut model = Self { inodes: Vec::new(), redirects };
        let lower = |kind, permissions, content: &str| {
            let mut inode = inode(kind, permissions);
            inode.content = content.as_bytes().to_vec();
            inode.lower = true;
            inode.mtime = Some(EPOCH);
            if kind == FileKind::Regular && !content.is_empty() {
                inode.xattrs.insert(b"user.l".to_vec(), b"lower".to_vec());
            }
            inode
        };
        use FileKind::{Directory, Regular, Symlink};
        model.inodes.push(lower(Directory, 0o755, ""));
        for (parent, name, inode) in [
            (0, "a", lower(Directory, 0o755, "")),
            (1, "a", lower(Regular, 0o644, "lower a/a")),
            (1, "b", lower(Directory, 0o755, "")),
            (3, "a", lower(Regular, 0o755, "lower a/b/a")),
            (3, "b", lower(Symlink, 0o777, "a/b")),
            (3, "c", lower(Directory, 0o755, "")),
            (6, "a", lower(Regular, 0o600, "")),
            (0, "b", lower(Regular, 0o744, "lower b")),
            (0, "c", lower(Directory, 0o755, "")),
        ] {
            model.inodes.push(inode);
            let new = model.inodes.len() - 1;
            model.inodes[parent].names.insert(name.to_owned(), new);
        }
        model
    }

    /// Paths of all directories, the root ("") first.
    fn directories(&self) -> Vec<String> {
        self.paths(|i| i.kind == FileKind::Directory)
    }

    pub fn paths(&self, wanted: impl Fn(&Inode) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![(String::new(), 0)];
        while let Some((path, at)) = todo.pop() {
            for (name, child) in &self.inodes[at].names {
                todo.push((format!("{path}/{name}"), *child));
            }
            if wanted(&self.inodes[at]) {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    pub fn at(&self, path: &str) -> Option<usize> {
        path.split('/').filter(|p| !p.is_empty()).try_fold(0, |at, n| self.inodes[at].names.get(n).copied())
    }

    fn child(&self, dir: &str, name: &str) -> Option<usize> {
        self.at(&format!("{dir}/{name}"))
    }

    fn touched(&mut self, at: usize) {
        self.inodes[at].mtime = None;
    }

    fn insert(&mut self, dir: &str, name: &str, inode: Inode) {
        self.inodes.push(inode);
        let new = self.inodes.len() - 1;
        self.put(dir, name, new);
    }

    fn put(&mut self, dir: &str, name: &str, what: usize) {
        let dir = self.at(dir).unwrap();
        self.inodes[dir].names.insert(name.to_owned(), what);
        self.touched(dir);
    }

    fn take(&mut self, dir: &str, name: &str) -> usize {
        let dir = self.at(dir).unwrap();
        self.touched(dir);
        self.inodes[dir].names.remove(name).unwrap()
    }

    /// The link count that shows: a directory of the upper alone counts its subdirectories.
    fn links(&self, at: usize) -> u32 {
        let inode = &self.inodes[at];
        if inode.kind != FileKind::Directory || inode.lower {
            return inode.nlink;
        }
        let inside = inode.names.values().filter(|&&at| self.inodes[at].kind == FileKind::Directory);
        2 + inside.count() as u32
    }

    fn unlink(&mut self, dir: &str, name: &str) {
        let gone = self.take(dir, name);
        self.inodes[gone].nlink -= 1;
    }

    fn is_below(&self, path: &str, above: &str) -> bool {
        path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    }

    fn rename(&mut self, from: (&str, &str), to: (&str, &str), mode: RenameMode) -> Result<(), Errno> {
        let source = self.child(from.0, from.1).ok_or(Errno::ENOENT)?;
        let target = self.child(to.0, to.1);
        let exchange = mode == RenameMode::Exchange;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            _ if from == to => return Ok(()),
            _ => {}
        }
        let is_dir = |at: usize| self.inodes[at].kind == FileKind::Directory;
        if is_dir(source) && self.is_below(to.0, &format!("{}/{}", from.0, from.1)) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = target {
            if is_dir(target) && self.is_below(from.0, &format!("{}/{}", to.0, to.1)) {
                return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if source == target {
                return Ok(());
            }
            match (is_dir(source), is_dir(target)) {
                (true, false) if !exchange => return Err(Errno::ENOTDIR),
                (false, true) if !exchange => return Err(Errno::EISDIR),
                _ => {}
            }
        }
        if !exchange && target.is_some_and(|t| !self.inodes[t].names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        let fixed = |at: usize| !self.redirects && is_dir(at) && self.inodes[at].lower;
        if fixed(source) || exchange && target.is_some_and(fixed) {
            return Err(Errno::EXDEV);
        }
        if exchange {
            self.put(from.0, from.1, target.unwrap());
            self.put(to.0, to.1, source);
            return Ok(());
        }
        if target.is_some() {
            self.unlink(to.0, to.1);
        }
        self.take(from.0, from.1);
        self.put(to.0, to.1, source);
        Ok(())
    }
}

fn inode(kind: FileKind, permissions: u16) -> Inode {
    Inode {
        kind,
        permissions,
        nlink: 1,
        content: Vec::new(),
        xattrs: BTreeMap::new(),
        names: BTreeMap::new(),
        lower: false,
        mtime: None,
        ino: None,
    }
}

fn write_at(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

/// An open file, on both sides.
struct Held {
    at: usize,
    ino: Ino,
    handle: Handle,
    writes: bool,
    /// What a reader of the lower reads, whatever happens to the file.
    frozen: Option<Vec<u8>>,
}

type Start<'d, D, F> = Box<dyn Fn(&'d D, Options) -> View<F> + 'd>;

/// The model beside a view; every step is done on both and compared.
pub struct Run<'d, D: Disk, F = UnionFs<<D as Disk>::L, <D as Disk>::U>> {
    pub model: Model,
    disk: &'d D,
    io: Io,
    options: Options,
    pub view: View<F>,
    held: Vec<Held>,
    start: Start<'d, D, F>,
    /// Also with passthrough files are held open: a reader of the lower keeps the bytes that it found.
    pub readers: bool,
}

type Answer = Result<(), Errno>;

fn plain<T>(result: nixview::vfs::Result<T>) -> Result<T, Errno> {
    result.map_err(|e| e.errno())
}

impl<'d, D: Disk> Run<'d, D> {
    pub fn new(disk: &'d D, io: Io) -> Self {
        Self::with(disk, options(io))
    }

    pub fn with(disk: &'d D, options: Options) -> Self {
        Self::over(disk, options, |disk, options| View::new(disk.lower(), disk.upper(), options))
    }
}

impl<'d, D: Disk, F: Counted> Run<'d, D, F> {
    /// Over a view that `start` begins, now and at each remount.
    pub fn over(disk: &'d D, options: Options, start: impl Fn(&'d D, Options) -> View<F> + 'd) -> Self {
        let (model, view, start) = (Model::new(disk.redirects()), start(disk, options), Box::new(start));
        Self { model, disk, io: options.io, options, view, held: Vec::new(), start, readers: false }
    }

    /// Does one operation on both sides; false if they answer differently.
    pub fn step(&mut self, op: &Op) -> Result<(), String> {
        let (expected, got) = self.apply(op);
        if expected == got { Ok(()) } else { Err(format!("{op:?}: expected {expected:?}, got {got:?}")) }
    }

    pub fn a_directory(&self, index: &Index) -> String {
        let all = self.model.directories();
        all[index.index(all.len())].clone()
    }

    /// The path of an object of one of these kinds, if there is any.
    pub fn an_object(&self, index: &Index, kinds: &[FileKind]) -> Option<String> {
        let all = self.model.paths(|i| kinds.contains(&i.kind));
        (!all.is_empty()).then(|| all[index.index(all.len())].clone())
    }

    fn new_object(
        &mut self,
        dir: &str,
        n: &str,
        inode: Inode,
        got: Result<nixview::vfs::Entry, Errno>,
    ) -> (Answer, Answer) {
        let expected = match self.model.child(dir, n) {
            Some(_) => Err(Errno::EEXIST),
            None => {
                self.model.insert(dir, n, inode);
                Ok(())
            }
        };
        let got = got.map(|entry| {
            self.view.count(entry);
        });
        (expected, got)
    }

    /// A change of a file or directory at a path, walking again if told so.
    fn change<T>(
        &mut self,
        path: &str,
        change: impl Fn(&F, Ino) -> nixview::vfs::Result<T>,
    ) -> Result<T, Errno> {
        let ino = self.view.walk(path)?.ino;
        match plain(change(&self.view.fs, ino)) {
            Err(Errno::ESTALE) if self.io == Io::Passthrough => {
                let again = self.view.walk(path)?.ino;
                if let Some(at) = self.model.at(path) {
                    self.model.inodes[at].ino = Some(again);
                }
                plain(change(&self.view.fs, again))
            }
            answer => answer,
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm an operation")]
    fn apply(&mut self, op: &Op) -> (Answer, Answer) {
        const FILE: &[FileKind] = &[FileKind::Regular];
        const BOTH: &[FileKind] = &[FileKind::Regular, FileKind::Directory];
        const LINKABLE: &[FileKind] = &[
            FileKind::Regular,
            FileKind::Symlink,
            FileKind::Fifo,
            FileKind::CharDevice,
            FileKind::Directory,
        ];
        let nothing = (Ok(()), Ok(()));
        match op {
            Op::Create { dir, name: n, permissions, exclusive } => {
                let (dir, n) = (self.a_directory(dir), letter(*n));
                let parent = self.view.ino(&dir);
                let flags = OpenFlags(libc::O_RDONLY | if *exclusive { libc::O_EXCL } else { 0 });
                let got = plain(self.view.fs.create(caller(), parent, &name(n), *permissions, flags));
                let expected = match self.model.child(&dir, n).map(|at| self.model.inodes[at].kind) {
                    Some(_) if *exclusive => Err(Errno::EEXIST),
                    Some(FileKind::Directory) => Err(Errno::EISDIR),
                    Some(FileKind::Symlink) => Err(Errno::ELOOP),
                    Some(FileKind::Regular) => Ok(()),
                    Some(_) => Err(Errno::ENXIO),
                    None => {
                        self.model.insert(&dir, n, inode(FileKind::Regular, *permissions));
                        Ok(())
                    }
                };
                let got = got.map(|(entry, opened)| {
                    self.view.fs.release(entry.attr.ino, opened.handle);
                    self.view.count(entry);
                });
                (expected, got)
            }
            Op::Mkdir { dir, name: n, permissions } => {
                let (dir, n) = (self.a_directory(dir), letter(*n));
                let parent = self.view.ino(&dir);
                let got = plain(self.view.fs.mkdir(caller(), parent, &name(n), *permissions));
                self.new_object(&dir, n, inode(FileKind::Directory, *permissions), got)
            }
            Op::Symlink { dir, name: n, target } => {
                let (dir, n, target) = (self.a_directory(dir), letter(*n), letter(*target));
                let parent = self.view.ino(&dir);
                let got = plain(self.view.fs.symlink(caller(), parent, &name(n), target.as_bytes()));
                let mut made = inode(FileKind::Symlink, 0o777);
                made.content = target.as_bytes().to_vec();
                self.new_object(&dir, n, made, got)
            }
            Op::Fifo { dir, name: n } => {
                let (dir, n) = (self.a_directory(dir), letter(*n));
                let parent = self.view.ino(&dir);
                let mode = FileKind::Fifo.mode_bits() | 0o640;
                let got = plain(self.view.fs.mknod(caller(), parent, &name(n), mode, 0));
                self.new_object(&dir, n, inode(FileKind::Fifo, 0o640), got)
            }
            Op::ZeroDevice { dir, name: n } => {
                let (dir, n) = (self.a_directory(dir), letter(*n));
                let parent = self.view.ino(&dir);
                let mode = FileKind::CharDevice.mode_bits() | 0o640;
                let got = plain(self.view.fs.mknod(caller(), parent, &name(n), mode, 0));
                self.new_object(&dir, n, inode(FileKind::CharDevice, 0o640), got)
            }
            Op::Link { of, dir, name: n } => {
                let Some(path) = self.an_object(of, LINKABLE) else { return nothing };
                let (dir, n) = (self.a_directory(dir), letter(*n));
                let (ino, parent) = (self.view.ino(&path), self.view.ino(&dir));
                let got = plain(self.view.fs.link(ino, parent, &name(n)));
                let at = self.model.at(&path).unwrap();
                let expected = if self.model.child(&dir, n).is_some() {
                    Err(Errno::EEXIST)
                } else if self.model.inodes[at].kind == FileKind::Directory {
                    Err(Errno::EPERM)
                } else {
                    self.model.put(&dir, n, at);
                    self.model.inodes[at].nlink += 1;
                    Ok(())
                };
                let got = got.map(|entry| {
                    self.view.count(entry);
                });
                (expected, got)
            }
            Op::Unlink { dir, name: n } => {
                let (dir, n) = (self.a_directory(dir), letter(*n));
                (self.model_unlink(&dir, n), self.view_unlink(&dir, n))
            }
            Op::Rmdir { dir, name: n } => {
                let (dir, n) = (self.a_directory(dir), letter(*n));
                (self.model_rmdir(&dir, n), self.view_rmdir(&dir, n))
            }
            Op::Rename { from, name: n, to, new, mode } => {
                let (from, to) = (self.a_directory(from), self.a_directory(to));
                let (n, new) = (letter(*n), letter(*new));
                let mode = match mode {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let (a, b) = (self.view.ino(&from), self.view.ino(&to));
                let got = plain(self.view.fs.rename((a, &name(n)), (b, &name(new)), mode));
                (self.model.rename((&from, n), (&to, new), mode), got)
            }
            Op::Write { of, offset, data } => {
                let Some(path) = self.an_object(of, FILE) else { return nothing };
                let got = self.change(&path, |fs, ino| {
                    let opened = fs.open(ino, OpenFlags(libc::O_RDWR))?;
                    let done = fs.write(ino, Some(opened.handle), u64::from(*offset), data);
                    fs.release(ino, opened.handle);
                    done
                });
                self.model_write(&path, *offset, data);
                (Ok(()), got.map(|done| assert_eq!(done, data.len())))
            }
            Op::WriteUnopened { of, offset, data } => {
                let Some(path) = self.an_object(of, FILE) else { return nothing };
                let got = self.change(&path, |fs, ino| fs.write(ino, None, u64::from(*offset), data));
                self.model_write(&path, *offset, data);
                (Ok(()), got.map(|done| assert_eq!(done, data.len())))
            }
            Op::OpenTruncated { of } => {
                let Some(path) = self.an_object(of, FILE) else { return nothing };
                let flags = OpenFlags(libc::O_WRONLY | libc::O_TRUNC);
                let got =
                    self.change(&path, |fs, ino| fs.open(ino, flags).map(|o| fs.release(ino, o.handle)));
                let at = self.model.at(&path).unwrap();
                self.model.inodes[at].content.clear();
                self.model.touched(at);
                (Ok(()), got)
            }
            Op::Truncate { of, size } => {
                let Some(path) = self.an_object(of, BOTH) else { return nothing };
                let size = SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() };
                let got = self.change(&path, |fs, ino| fs.setattr(caller(), ino, None, &size));
                let at = self.model.at(&path).unwrap();
                if self.model.inodes[at].kind == FileKind::Directory {
                    return (Err(Errno::EISDIR), got.map(drop));
                }
                self.model.inodes[at].content.resize(size.size.unwrap() as usize, 0);
                self.model.touched(at);
                (Ok(()), got.map(drop))
            }
            Op::Chmod { of, permissions } => {
                let Some(path) = self.an_object(of, BOTH) else { return nothing };
                let mode = SetAttr { permissions: Some(*permissions), ..SetAttr::default() };
                let got = self.change(&path, |fs, ino| fs.setattr(caller(), ino, None, &mode));
                let at = self.model.at(&path).unwrap();
                self.model.inodes[at].permissions = *permissions;
                (Ok(()), got.map(drop))
            }
            Op::Touch { of, seconds } => {
                let Some(path) = self.an_object(of, LINKABLE) else { return nothing };
                let time = Timespec { seconds: i64::from(*seconds), nanoseconds: 5 };
                let mtime = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
                let got = self.change(&path, |fs, ino| fs.setattr(caller(), ino, None, &mtime));
                let at = self.model.at(&path).unwrap();
                self.model.inodes[at].mtime = Some(time);
                (Ok(()), got.map(drop))
            }
            Op::SetXattr { of, name: n, value, mode } => {
                let Some(path) = self.an_object(of, BOTH) else { return nothing };
                let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][*mode as usize];
                let key = format!("user.{}", ["a", "b", "l"][*n as usize]).into_bytes();
                let got = self.change(&path, |fs, ino| fs.setxattr(ino, &key, &[*value], mode));
                let at = self.model.at(&path).unwrap();
                let expected = match (mode, self.model.inodes[at].xattrs.contains_key(&key)) {
                    (XattrMode::Create, true) => Err(Errno::EEXIST),
                    (XattrMode::Replace, false) => Err(Errno::ENODATA),
                    _ => {
                        self.model.inodes[at].xattrs.insert(key, vec![*value]);
                        Ok(())
                    }
                };
                (expected, got)
            }
            Op::RemoveXattr { of, name: n } => {
                let Some(path) = self.an_object(of, BOTH) else { return nothing };
                let key = format!("user.{}", ["a", "b", "l"][*n as usize]).into_bytes();
                let got = self.change(&path, |fs, ino| fs.removexattr(ino, &key));
                let at = self.model.at(&path).unwrap();
                let old = self.model.inodes[at].xattrs.remove(&key);
                (old.map(drop).ok_or(Errno::ENODATA), got)
            }
            Op::Allocate { of, offset, length } => {
                let Some(path) = self.an_object(of, FILE) else { return nothing };
                let (offset, length) = (u64::from(*offset), u64::from(*length) + 1);
                let got = self.change(&path, |fs, ino| fs.fallocate(ino, None, 0, offset, length));
                let at = self.model.at(&path).unwrap();
                let content = &mut self.model.inodes[at].content;
                content.resize(content.len().max((offset + length) as usize), 0);
                self.model.touched(at);
                (Ok(()), got)
            }
            Op::Renew { of } => {
                let path = self.a_directory(of);
                let Some((parent, n)) = path.rsplit_once('/') else { return nothing };
                self.remove_all(parent, n);
                let ino = self.view.ino(parent);
                let got = plain(self.view.fs.mkdir(caller(), ino, &name(n), 0o750));
                self.new_object(parent, n, inode(FileKind::Directory, 0o750), got)
            }
            Op::Hold { of, writes } => {
                let Some(path) = self.an_object(of, FILE) else { return nothing };
                // With passthrough an open reader keeps old bytes: another model, tested by itself.
                if self.held.len() > 3 || (self.io == Io::Passthrough && !self.readers) {
                    return nothing;
                }
                let flags = OpenFlags(if *writes { libc::O_RDWR } else { libc::O_RDONLY });
                let got = self.change(&path, |fs, ino| Ok((ino, fs.open(ino, flags)?.handle)));
                let at = self.model.at(&path).unwrap();
                let got = got.map(|(ino, handle)| {
                    let lower = self.io == Io::Passthrough && self.view.fs.reads_lower(handle);
                    let frozen = lower.then(|| self.model.inodes[at].content.clone());
                    self.held.push(Held { at, ino, handle, writes: *writes, frozen });
                });
                (Ok(()), got)
            }
            Op::WriteHeld { held, offset, data } => {
                let writers: Vec<&Held> = self.held.iter().filter(|h| h.writes).collect();
                if writers.is_empty() {
                    return nothing;
                }
                let held = writers[held.index(writers.len())];
                let got = plain(self.view.fs.write(held.ino, Some(held.handle), u64::from(*offset), data));
                let at = held.at;
                write_at(&mut self.model.inodes[at].content, *offset as usize, data);
                self.model.touched(at);
                (Ok(()), got.map(drop))
            }
            Op::TruncateHeld { held, size } => {
                let writers: Vec<&Held> = self.held.iter().filter(|h| h.writes).collect();
                if writers.is_empty() {
                    return nothing;
                }
                let held = writers[held.index(writers.len())];
                let length = SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() };
                let got = plain(self.view.fs.setattr(caller(), held.ino, Some(held.handle), &length));
                let at = held.at;
                self.model.inodes[at].content.resize(*size as usize, 0);
                self.model.touched(at);
                (Ok(()), got.map(drop))
            }
            Op::Close { held } => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(held.index(self.held.len()));
                    self.view.fs.release(held.ino, held.handle);
                }
                nothing
            }
            Op::Forget => {
                if self.held.is_empty() {
                    self.view.forget_all();
                    assert_eq!(self.view.fs.known_inodes(), 1, "only the root is left");
                }
                nothing
            }
            Op::Remount => {
                self.held.clear();
                self.view = (self.start)(self.disk, self.options);
                nothing
            }
        }
    }

    /// Closes what is open and forgets what was looked up: nothing is left then.
    pub fn close_all(&mut self) {
        for held in self.held.drain(..) {
            self.view.fs.release(held.ino, held.handle);
        }
        self.view.forget_all();
        assert_eq!(
            (self.view.fs.known_inodes(), self.view.fs.open_handles()),
            (1, 0),
            "only the root is left"
        );
    }

    fn model_write(&mut self, path: &str, offset: u8, data: &[u8]) {
        let at = self.model.at(path).unwrap();
        write_at(&mut self.model.inodes[at].content, offset as usize, data);
        self.model.touched(at);
    }

    fn model_unlink(&mut self, dir: &str, n: &str) -> Answer {
        let at = self.model.child(dir, n).ok_or(Errno::ENOENT)?;
        if self.model.inodes[at].kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        self.model.unlink(dir, n);
        Ok(())
    }

    fn view_unlink(&mut self, dir: &str, n: &str) -> Answer {
        let parent = self.view.ino(dir);
        plain(self.view.fs.unlink(parent, &name(n)))
    }

    fn model_rmdir(&mut self, dir: &str, n: &str) -> Answer {
        let at = self.model.child(dir, n).ok_or(Errno::ENOENT)?;
        if self.model.inodes[at].kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if !self.model.inodes[at].names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.model.unlink(dir, n);
        Ok(())
    }

    fn view_rmdir(&mut self, dir: &str, n: &str) -> Answer {
        let parent = self.view.ino(dir);
        plain(self.view.fs.rmdir(parent, &name(n)))
    }

    fn remove_all(&mut self, dir: &str, n: &str) {
        let path = format!("{dir}/{n}");
        let at = self.model.at(&path).unwrap();
        let inside: Vec<(String, usize)> =
            self.model.inodes[at].names.iter().map(|(n, at)| (n.clone(), *at)).collect();
        for (inner, at) in inside {
            if self.model.inodes[at].kind == FileKind::Directory {
                self.remove_all(&path, &inner);
            } else {
                assert_eq!(
                    (self.model_unlink(&path, &inner), self.view_unlink(&path, &inner)),
                    (Ok(()), Ok(()))
                );
            }
        }
        assert_eq!((self.model_rmdir(dir, n), self.view_rmdir(dir, n)), (Ok(()), Ok(())));
    }

    /// Compares everything that shows, and what the open files see.
    pub fn compare(&mut self) -> Result<(), String> {
        let tree = self.view.tree();
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for path in self.model.paths(|_| true) {
            let at = self.model.at(&path).unwrap();
            expected.insert(path, at);
        }
        let (want, have): (BTreeSet<_>, BTreeSet<_>) = (expected.keys().collect(), tree.keys().collect());
        if want != have {
            return Err(format!("names: expected {want:?}, got {have:?}"));
        }
        let mut numbers: BTreeMap<Ino, usize> = BTreeMap::new();
        for (path, shown) in &tree {
            let at = expected[path];
            let links = self.model.links(at);
            let inode = &mut self.model.inodes[at];
            let attr = &shown.attr;
            let known = *inode.ino.get_or_insert(attr.ino);
            let content = matches!(inode.kind, FileKind::Regular | FileKind::Symlink);
            let checks = [
                ("kind", attr.kind == inode.kind),
                ("permissions", inode.kind == FileKind::Symlink || attr.permissions == inode.permissions),
                ("links", attr.nlink == links),
                ("size", !content || attr.size == inode.content.len() as u64),
                ("content", shown.content == inode.content),
                ("attributes", shown.xattrs == inode.xattrs),
                ("mtime", inode.mtime.is_none_or(|time| time == attr.mtime)),
                ("number", known == attr.ino),
                ("distinct number", *numbers.entry(attr.ino).or_insert(at) == at),
                ("owner", (attr.uid, attr.gid) == (caller().uid, caller().gid)),
            ];
            if let Some((what, _)) = checks.iter().find(|(_, right)| !right) {
                return Err(format!("{path}: {what}: expected {inode:?}, got {shown:?}"));
            }
        }
        for held in &self.held {
            let inode = &self.model.inodes[held.at];
            let attr = self.view.fs.getattr(held.ino, Some(held.handle)).map_err(|e| e.to_string())?;
            let content = held.frozen.as_ref().unwrap_or(&inode.content);
            let links = held.frozen.is_some() || attr.nlink == inode.nlink;
            if self.view.read_handle(held.ino, held.handle) != *content || !links {
                return Err(format!("an open file: expected {inode:?}, got {attr:?}"));
            }
        }
        Ok(())
    }
}

/// Runs a history; the message tells where it went wrong.
pub fn run<D: Disk>(disk: &D, io: Io, ops: &[Op]) -> Result<(), String> {
    let mut run = Run::new(disk, io);
    run.compare()?;
    for op in ops {
        run.step(op)?;
        run.compare().map_err(|e| format!("after {op:?}: {e}"))?;
    }
    run.apply(&Op::Remount).0.map_err(|e| format!("{e:?}"))?;
    run.compare().map_err(|e| format!("after the last remount: {e}"))
}
