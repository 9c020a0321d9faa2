//! Reading the contents of many store paths: in parallel, only what could be equal to something else, and what was read before
//! not again.
//!
//! What nothing else has the length of is equal to nothing. An inode in `.links` is the only one there of its content and execute
//! bit, so that among those alone nothing need be compared either. An inode is read once, whatever names it has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, readlinkat, statx};
use serde::Serialize;

use super::cache::{Cache, Which};
use super::chunks::{Chunk, Chunked, SHORTEST, chunked};
use super::content_cache::Known;
use super::contents::{Entry, Inode, Kind, contents, named};
use super::digest::{Digests, Sha, digests};
use super::links;
use super::scan::{ScanError, which_of};
use crate::store::parallel::with_threads;
use crate::store::{Location, StorePath};

/// Of how many paths what is read is written down together: what a kill costs.
const BATCH: usize = 256;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Chunks too, for which everything must be read.
    pub chunks: bool,
    /// Without what is remembered.
    pub afresh: bool,
}

/// An inode, and what is known of its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// What it is.
    pub inode: Inode,
    /// The number of its content: the same number, the same kind and content.
    pub content: u32,
    /// It has a name in `.links`.
    pub in_links: bool,
    /// Something of the same content and execute bit, which is no part of what was read, has its name in `.links`.
    pub key_is_taken: bool,
}

/// What was read now, beside what was remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// Files and links.
    pub files: u64,
    /// Their lengths.
    pub bytes: u64,
}

/// The contents of store paths.
#[derive(Debug, Default)]
pub struct Contents {
    /// Of each path its names, in the order of Nix's optimiser, as indexes into `inodes`.
    pub paths: Vec<Vec<u32>>,
    /// Each inode once.
    pub inodes: Vec<Held>,
    /// Digests of the contents that were read, by number.
    pub digests: Vec<Option<Sha>>,
    /// Their chunks, if those were asked for.
    pub chunked: Option<Chunked>,
    /// What was read.
    pub reading: Reading,
}

/// Reads what is in `paths` of a store, each once; arguments as those of [`scan`](super::scan::scan). `progress` is told of
/// how many files of how many are read, from several threads.
///
/// # Errors
/// [`ScanError`]; that files of a path are missing is none.
pub fn read(
    location: &Location,
    paths: &[StorePath],
    rows: &[Option<i64>],
    state: &Path,
    options: Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Contents, ScanError> {
    let failed = |source| ScanError::Store { store: location.real.clone(), source };
    let in_links = links::inodes(&location.real).map_err(failed)?;
    let listed = Listed::of(location, paths)?;
    let others = others(location, &listed.inodes, &in_links).map_err(failed)?;
    let needed = needed(&listed.inodes, &in_links, others.values(), options.chunks);
    let mut reader = Reader {
        location,
        paths,
        which: which_of(location, paths, rows)?,
        cache: Cache::open(state, &location.real),
        progress,
        digests: listed.inodes.iter().map(empty).collect::<Result<_, _>>()?,
        remembered: vec![0; paths.len()],
        reading: Reading::default(),
        listed,
    };
    if !options.afresh {
        reader.remember(&needed);
    }
    let mut all = options.chunks.then(Chunked::default);
    let missing = needed.iter().zip(&reader.digests).enumerate();
    let missing: Vec<usize> =
        missing.filter(|(_, (needed, digests))| **needed && digests.is_none()).map(|(at, _)| at).collect();
    reader.read_batches(&missing, all.as_mut())?;
    reader.write(0..paths.len());
    let (numbers, found, first) = reader.numbers()?;
    if let Some(all) = &mut all {
        reader.chunk(&found, &first, options.afresh, all)?;
    }
    let Reader { listed, digests, reading, .. } = reader;
    let held = listed.inodes.iter().zip(&numbers).zip(&digests).map(|((inode, content), digests)| Held {
        inode: *inode,
        content: *content,
        in_links: in_links.contains(&inode.number),
        key_is_taken: digests
            .and_then(|digests| others.get(&digests.key))
            .is_some_and(|other| (other.kind, other.size) == (inode.kind, inode.size)),
    });
    Ok(Contents {
        inodes: held.collect(),
        paths: listed.entries.iter().map(|names| names.iter().map(|(inode, _)| *inode).collect()).collect(),
        digests: found,
        chunked: all,
        reading,
    })
}

/// What has a name in `.links` and is not among `inodes`, by key; nothing if none of `inodes` might be linked with one.
fn others(location: &Location, inodes: &[Inode], in_links: &HashSet<u64>) -> io::Result<HashMap<Sha, Inode>> {
    let known: HashSet<u64> = inodes.iter().map(|inode| inode.number).collect();
    let may_be_linked = inodes.iter().any(|inode| !inode.writable && !in_links.contains(&inode.number));
    if !may_be_linked || in_links.is_subset(&known) {
        return Ok(HashMap::new());
    }
    Ok(links::others(&location.real, &known)?.into_iter().collect())
}

/// The digests of what has no content to be read.
fn empty(inode: &Inode) -> Result<Option<Digests>, ScanError> {
    let is_empty = inode.kind == Kind::File && inode.size == 0;
    is_empty.then(|| digests(inode, io::empty())).transpose().map_err(ScanError::Content)
}

/// Which inodes may be equal to another one, or to one of `others`, which are in `.links`.
fn needed<'a>(
    inodes: &[Inode],
    in_links: &HashSet<u64>,
    others: impl Iterator<Item = &'a Inode>,
    all_files: bool,
) -> Vec<bool> {
    #[derive(Default)]
    struct Class {
        inodes: u32,
        /// One is not what `.links` says by its name.
        loose: bool,
        executable: bool,
        plain: bool,
    }
    let loose = |inode: &Inode| inode.writable || !in_links.contains(&inode.number);
    let elsewhere: HashSet<(Kind, u64)> = others.map(|inode| (inode.kind, inode.size)).collect();
    let mut classes: HashMap<(Kind, u64), Class> = HashMap::new();
    for inode in inodes {
        let class = classes.entry((inode.kind, inode.size)).or_default();
        class.inodes += 1;
        class.loose |= loose(inode);
        class.executable |= inode.executable;
        class.plain |= !inode.executable;
    }
    let needed = inodes.iter().map(|inode| {
        let key = (inode.kind, inode.size);
        let of_class = classes.get(&key).is_some_and(|class| {
            let among = class.inodes > 1 && (class.loose || class.executable && class.plain);
            among || class.loose && elsewhere.contains(&key)
        });
        of_class || all_files && inode.kind == Kind::File && inode.size > 0
    });
    needed.collect()
}

/// One reading of a file or link.
struct Done {
    inode: usize,
    digests: Digests,
    chunks: Option<Vec<Chunk>>,
}

/// The names and inodes of store paths.
struct Listed {
    /// Of each path: inode, and place of the name.
    entries: Vec<Vec<(u32, u32)>>,
    inodes: Vec<Inode>,
    /// Of each inode a path that has it.
    homes: Vec<usize>,
}

impl Listed {
    fn of(location: &Location, paths: &[StorePath]) -> Result<Self, ScanError> {
        let failed = |source| ScanError::Store { store: location.real.clone(), source };
        let all: Vec<io::Result<Vec<Entry>>> =
            with_threads(|| paths.par_iter().map(|path| contents(&location.real_path(path))).collect())
                .map_err(failed)?;
        let mut listed =
            Self { entries: Vec::with_capacity(paths.len()), inodes: Vec::new(), homes: Vec::new() };
        let mut seen: HashMap<(u64, u64), u32> = HashMap::new();
        for (home, entries) in all.into_iter().enumerate() {
            let entries = match entries {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other.map_err(ScanError::Path)?,
            };
            let mut names = Vec::with_capacity(entries.len());
            for entry in entries {
                let next = u32::try_from(listed.inodes.len())
                    .map_err(|_| failed(io::Error::other("it has too many files")))?;
                let inode = *seen.entry(entry.inode.key()).or_insert(next);
                if inode == next {
                    listed.inodes.push(entry.inode);
                    listed.homes.push(home);
                }
                names.push((inode, entry.place));
            }
            listed.entries.push(names);
        }
        Ok(listed)
    }

    fn at(&self, inode: u32) -> Option<&Inode> {
        self.inodes.get(inode as usize)
    }
}

struct Reader<'a> {
    location: &'a Location,
    paths: &'a [StorePath],
    which: Vec<Option<Which>>,
    cache: Cache,
    progress: &'a (dyn Fn(usize, usize) + Sync),
    listed: Listed,
    digests: Vec<Option<Digests>>,
    /// How many digests the cache has of each path.
    remembered: Vec<usize>,
    reading: Reading,
}

/// Of each inode the number of its content, of each content its digest, and an inode that has it.
type Numbers = (Vec<u32>, Vec<Option<Sha>>, Vec<usize>);

impl Reader<'_> {
    /// Takes what the cache has of the paths in which something is needed.
    fn remember(&mut self, needed: &[bool]) {
        let paths = self.paths.iter().zip(&self.which).zip(&self.listed.entries).zip(&mut self.remembered);
        for (((path, which), names), remembered) in paths {
            let Some(which) = which else { continue };
            if !names.iter().any(|(inode, _)| needed.get(*inode as usize) == Some(&true)) {
                continue;
            }
            let by_place: HashMap<u32, u32> = names.iter().map(|(inode, place)| (*place, *inode)).collect();
            for known in self.cache.digests(path.as_str(), which) {
                let Some(at) = by_place.get(&known.place) else { continue };
                let same = self.listed.at(*at).is_some_and(|inode| !inode.writable && known.is_of(inode));
                if let (true, Some(digests)) = (same, self.digests.get_mut(*at as usize)) {
                    *digests = Some(known.digests);
                    *remembered += 1;
                }
            }
        }
    }

    /// Reads inodes, and writes down what is found after each batch.
    fn read_batches(&mut self, inodes: &[usize], mut chunks: Option<&mut Chunked>) -> Result<(), ScanError> {
        let mut by_path: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for inode in inodes {
            let home = self.listed.homes.get(*inode).copied().unwrap_or_default();
            by_path.entry(home).or_default().push(*inode);
        }
        let by_path: Vec<(usize, Vec<usize>)> = by_path.into_iter().collect();
        let done = AtomicUsize::new(0);
        for batch in by_path.chunks(BATCH) {
            let read = |(path, wanted): &(usize, Vec<usize>)| -> io::Result<Vec<Done>> {
                let Some(path) = self.paths.get(*path) else { return Ok(Vec::new()) };
                let told = || (self.progress)(1 + done.fetch_add(1, Ordering::Relaxed), inodes.len());
                read_path(
                    &self.location.real_path(path),
                    &self.listed.inodes,
                    wanted,
                    chunks.is_some(),
                    &told,
                )
            };
            let found: io::Result<Vec<Vec<Done>>> = with_threads(|| batch.par_iter().map(read).collect())
                .map_err(|source| ScanError::Store { store: self.location.real.clone(), source })?;
            let found: Vec<Done> = found.map_err(ScanError::Content)?.into_iter().flatten().collect();
            for one in &found {
                self.reading.files += 1;
                self.reading.bytes += self.listed.inodes.get(one.inode).map_or(0, |inode| inode.size);
                if let Some(slot) = self.digests.get_mut(one.inode) {
                    *slot = Some(one.digests);
                }
                if let (Some(all), Some(chunks)) = (chunks.as_deref_mut(), &one.chunks) {
                    all.add(one.digests.content, chunks).map_err(ScanError::Content)?;
                }
            }
            // Those of what is not longer than the shortest follow from the digest.
            let longer = |one: &&Done| {
                let inode = self.listed.inodes.get(one.inode);
                inode.is_some_and(|inode| inode.size > u64::from(SHORTEST))
            };
            let new = found.iter().filter(longer);
            let new = new.filter_map(|one| Some((&one.digests.content, one.chunks.as_ref()?)));
            self.cache.put_chunks(new);
            self.write(batch.iter().map(|(path, _)| *path));
        }
        Ok(())
    }

    /// Writes down what is known of paths of which more is known than was remembered.
    fn write(&mut self, paths: impl Iterator<Item = usize>) {
        let mut rows = Vec::new();
        for at in paths {
            let (Some(path), Some(Some(which))) = (self.paths.get(at), self.which.get(at)) else { continue };
            let known = |(inode, place): &(u32, u32)| {
                let (at, digests) = (self.listed.at(*inode)?, (*self.digests.get(*inode as usize)?)?);
                let (kind, size, executable) = (at.kind, at.size, at.executable);
                // What has no content need not be kept, and what can be written might be.
                let kept = size > 0 && !at.writable;
                kept.then_some(Known { place: *place, kind, size, executable, digests })
            };
            let known: Vec<Known> =
                self.listed.entries.get(at).into_iter().flatten().filter_map(known).collect();
            if let Some(remembered) = self.remembered.get_mut(at)
                && known.len() > *remembered
            {
                *remembered = known.len();
                rows.push((path.as_str(), which, known));
            }
        }
        if !rows.is_empty() {
            self.cache.put_digests(&rows);
        }
    }

    /// Numbers the contents: what was not read is equal to nothing.
    fn numbers(&self) -> Result<Numbers, ScanError> {
        let mut seen: HashMap<(Kind, u64, Sha), u32> = HashMap::new();
        let (mut numbers, mut found, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (inode, digests)) in self.listed.inodes.iter().zip(&self.digests).enumerate() {
            let next =
                u32::try_from(found.len()).map_err(|error| ScanError::Content(io::Error::other(error)))?;
            let number = match digests {
                Some(digests) => *seen.entry((inode.kind, inode.size, digests.content)).or_insert(next),
                None => next,
            };
            if number == next {
                found.push(digests.map(|digests| digests.content));
                first.push(at);
            }
            numbers.push(number);
        }
        Ok((numbers, found, first))
    }

    /// Finds the chunks of all contents of files that `all` does not have: remembered ones, or read.
    fn chunk(
        &mut self,
        contents: &[Option<Sha>],
        first: &[usize],
        afresh: bool,
        all: &mut Chunked,
    ) -> Result<(), ScanError> {
        let mut missing = Vec::new();
        for (content, at) in contents.iter().zip(first) {
            let (Some(content), Some(inode)) = (content, self.listed.inodes.get(*at)) else { continue };
            if inode.kind != Kind::File || inode.size == 0 || all.has(content) {
                continue;
            }
            let known = match u32::try_from(inode.size) {
                Ok(length) if length <= SHORTEST => Some(vec![Chunk { digest: *content, length }]),
                _ if afresh => None,
                _ => self.cache.chunks(content),
            };
            match known {
                Some(chunks) => all.add(*content, &chunks).map_err(ScanError::Content)?,
                None => missing.push(*at),
            }
        }
        self.read_batches(&missing, Some(all))
    }
}

/// Reads what is `wanted` of a store path, by several threads.
fn read_path(
    path: &Path,
    inodes: &[Inode],
    wanted: &[usize],
    chunks: bool,
    told: &(dyn Fn() + Sync),
) -> io::Result<Vec<Done>> {
    let mut left: HashMap<(u64, u64), (usize, Inode)> =
        wanted.iter().filter_map(|at| inodes.get(*at).map(|inode| (inode.key(), (*at, *inode)))).collect();
    let mut found = Vec::with_capacity(left.len());
    for (name, inode) in named(path)? {
        if let Some((at, _)) = left.remove(&inode.key()) {
            found.push((at, name, inode));
        }
    }
    if !left.is_empty() {
        let text = format!("{}: it was changed while it was looked at", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let top = if found.iter().any(|(_, name, _)| !name.as_os_str().is_empty()) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Some(openat(CWD, path, flags, Mode::empty())?)
    } else {
        None
    };
    let one = |(at, name, inode): &(usize, std::path::PathBuf, Inode)| {
        let done = open(path, top.as_ref(), name, inode).and_then(|file| content(file, inode, chunks));
        told();
        let (digests, chunks) = done.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.join(name).display()))
        })?;
        Ok(Done { inode: *at, digests, chunks })
    };
    found.par_iter().map(one).collect()
}

/// Opens a file to be read, or a link; an error if it is not the inode that was listed.
fn open(path: &Path, top: Option<&OwnedFd>, name: &Path, inode: &Inode) -> io::Result<OwnedFd> {
    let how = match inode.kind {
        Kind::File => OFlags::RDONLY | OFlags::NONBLOCK,
        Kind::Link => OFlags::PATH,
    };
    let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match top {
        Some(top) => {
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            openat2(top, name, flags, Mode::empty(), inside)?
        }
        None => openat(CWD, path, flags, Mode::empty())?,
    };
    let stat = statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let same = Inode::of(&stat).is_some_and(|now| (now.key(), now.size) == (inode.key(), inode.size));
    if same { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "it was changed")) }
}

fn content(file: OwnedFd, inode: &Inode, chunks: bool) -> io::Result<(Digests, Option<Vec<Chunk>>)> {
    if inode.kind == Kind::Link {
        let target = readlinkat(file.as_fd(), c"", Vec::new())?;
        return Ok((digests(inode, target.as_bytes())?, None));
    }
    let file = File::from(file);
    if chunks {
        let (digests, chunks) = chunked(inode, file)?;
        return Ok((digests, Some(chunks)));
    }
    Ok((digests(inode, file)?, None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::store::nixbase32;
    use crate::usage::duplicates::{Duplicates, Equal};

    struct Scene {
        dir: tempfile::TempDir,
        location: Location,
        paths: Vec<StorePath>,
        rows: Vec<Option<i64>>,
    }

    impl Scene {
        fn new(names: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().join("nix/store");
            fs::create_dir_all(&store).unwrap();
            let location = Location::open(&store).unwrap();
            let paths: Vec<StorePath> =
                names.iter().map(|name| format!("{}-{name}", "0".repeat(32)).parse().unwrap()).collect();
            for path in &paths {
                fs::create_dir(location.real_path(path)).unwrap();
            }
            let rows = (1..).take(paths.len()).map(Some).collect();
            Self { dir, location, paths, rows }
        }

        fn at(&self, path: usize, name: &str) -> PathBuf {
            self.location.real_path(&self.paths[path]).join(name)
        }

        fn file(&self, path: usize, name: &str, content: &[u8], mode: u32) {
            fs::write(self.at(path, name), content).unwrap();
            fs::set_permissions(self.at(path, name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn read(&self, options: Options) -> (Contents, Duplicates) {
            let contents =
                read(&self.location, &self.paths, &self.rows, self.dir.path(), options, &|_, _| ()).unwrap();
            let all: Vec<usize> = (0..self.paths.len()).collect();
            let duplicates = Equal::new(&contents).duplicates(&all);
            (contents, duplicates)
        }

        fn link(&self, path: usize, name: &str, executable: bool, content: &[u8]) {
            let links = self.location.real.join(".links");
            fs::create_dir_all(&links).unwrap();
            let (kind, size, number) = (Kind::File, content.len() as u64, 0);
            let inode =
                Inode { device: 0, number, kind, size, blocks: 0, names: 1, executable, writable: false };
            let key = nixbase32::encode(&digests(&inode, content).unwrap().key);
            fs::hard_link(self.at(path, name), links.join(key)).unwrap();
        }
    }

    const PLAIN: Options = Options { chunks: false, afresh: false };
    const CHUNKS: Options = Options { chunks: true, afresh: false };

    /// Equal and different files of one length, with and without the bit, empty ones, links, hard links, and one of a length
    /// of its own.
    fn filled() -> Scene {
        let scene = Scene::new(&["a", "b"]);
        scene.file(0, "one", b"12345", 0o444);
        scene.file(0, "other", b"54321", 0o444);
        scene.file(0, "program", b"12345", 0o555);
        scene.file(0, "empty", b"", 0o444);
        scene.file(0, "unique", b"nothing is as long", 0o444);
        symlink("somewhere", scene.at(0, "link")).unwrap();
        fs::hard_link(scene.at(0, "one"), scene.at(1, "hard")).unwrap();
        scene.file(1, "again", b"12345", 0o444);
        scene.file(1, "empty", b"", 0o444);
        symlink("somewhere", scene.at(1, "link")).unwrap();
        symlink("elsewhere", scene.at(1, "away")).unwrap();
        symlink("long, long way", scene.at(1, "unlike")).unwrap();
        scene
    }

    #[test]
    fn only_what_could_be_equal_is_read_and_only_once() {
        let scene = filled();
        let (contents, all) = scene.read(PLAIN);
        // Inodes: one, other, program, again; three links.
        assert_eq!(contents.reading, Reading { files: 7, bytes: 4 * 5 + 3 * 9 });
        assert_eq!((all.files, all.symlinks, all.contents), (8, 4, 7));
        let bytes = 5 * 5 + 18 + 3 * 9 + 14;
        assert_eq!((all.apparent, all.duplicate, all.linked), (bytes, 3 * 5 + 9, 5));
        // Either of the inodes of "12345" goes, an empty one, a link; the program is alone.
        assert_eq!((all.optimise.inodes, all.optimise.new_links), (3, 8));
        assert!((3..=4).contains(&all.optimise.files), "one of two names, or of one");

        let (contents, again) = scene.read(PLAIN);
        assert_eq!((contents.reading, again), (Reading::default(), all.clone()), "nothing is read again");
        let (contents, afresh) = scene.read(Options { afresh: true, ..PLAIN });
        assert_eq!((contents.reading.files, afresh), (7, all));
    }

    #[test]
    fn contents_are_remembered_whatever_becomes_of_hard_links() {
        let scene = filled();
        let (_, before) = scene.read(PLAIN);
        // As the optimiser does it, in an order of its own.
        scene.link(0, "one", false, b"12345");
        fs::remove_file(scene.at(1, "again")).unwrap();
        fs::hard_link(scene.at(0, "one"), scene.at(1, "again")).unwrap();
        let (contents, after) = scene.read(PLAIN);
        assert_eq!(contents.reading, Reading::default());
        assert_eq!((after.duplicate, after.linked), (before.duplicate, 10));
        assert_eq!((after.optimise.files, after.optimise.inodes), (2, 2), "an empty file and a link");
    }

    #[test]
    fn what_links_tell_apart_is_not_read() {
        let scene = Scene::new(&["a"]);
        scene.file(0, "one", b"12345", 0o444);
        scene.file(0, "other", b"54321", 0o444);
        scene.link(0, "one", false, b"12345");
        scene.link(0, "other", false, b"54321");
        let (contents, all) = scene.read(PLAIN);
        assert_eq!((contents.reading.files, all.contents, all.optimise.files), (0, 2, 0));
        // One with the bit might be equal to either, and its name in `.links` does not say.
        scene.file(0, "program", b"54321", 0o555);
        scene.link(0, "program", true, b"54321");
        let (contents, all) = scene.read(PLAIN);
        assert_eq!((contents.reading.files, all.contents, all.optimise.files), (3, 2, 0));
    }

    #[test]
    fn what_has_its_key_in_links_goes_though_nothing_here_is_equal() {
        let scene = Scene::new(&["a", "z"]);
        scene.file(0, "one", b"12345", 0o444);
        scene.file(1, "one", b"12345", 0o444);
        scene.link(1, "one", false, b"12345");
        let alone = Scene { paths: scene.paths[..1].to_vec(), rows: scene.rows[..1].to_vec(), ..scene };
        let (contents, all) = alone.read(PLAIN);
        assert_eq!((contents.reading.files, all.duplicate), (1, 0));
        assert_eq!((all.optimise.files, all.optimise.inodes, all.optimise.new_links), (1, 1, 0));
    }

    #[test]
    fn what_may_be_written_is_not_remembered_nor_linked() {
        let scene = Scene::new(&["a"]);
        scene.file(0, "one", b"12345", 0o644);
        scene.file(0, "two", b"12345", 0o444);
        let (contents, all) = scene.read(PLAIN);
        assert_eq!((contents.reading.files, all.duplicate), (2, 5));
        assert_eq!((all.optimise.files, all.optimise.writable), (0, 1));
        fs::write(scene.at(0, "one"), b"54321").unwrap();
        let (contents, all) = scene.read(PLAIN);
        assert_eq!((contents.reading.files, all.duplicate), (1, 0), "the one that may have changed, and has");
    }

    #[test]
    fn another_path_of_the_name_is_read_again() {
        let mut scene = filled();
        scene.read(PLAIN);
        scene.rows[0] = Some(77);
        // The inode of `one` is remembered by its other path.
        assert_eq!(scene.read(PLAIN).0.reading.files, 3, "other, program, link");
    }

    #[test]
    fn chunks_are_read_with_the_digests_and_remembered() {
        let scene = Scene::new(&["a", "b"]);
        let mut seed = 1u64;
        let mut noise = |length: usize| -> Vec<u8> {
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            };
            (0..length).map(|_| next()).collect()
        };
        let (large, small, one_chunk) = (noise(1 << 20), noise(3000), noise(SHORTEST as usize + 1));
        let longer = [&large[..], &small].concat();
        scene.file(0, "large", &large, 0o444);
        scene.file(0, "small", &small, 0o444);
        scene.file(0, "one chunk", &one_chunk, 0o444);
        scene.file(1, "longer", &longer, 0o444);
        scene.file(1, "same", &large, 0o555);
        scene.file(1, "empty", b"", 0o444);
        // Digests alone first: then what is short need not be read for its chunks.
        assert_eq!(scene.read(PLAIN).0.reading.files, 2);
        let (contents, all) = scene.read(CHUNKS);
        assert_eq!(contents.reading.files, 4, "small, one chunk, longer and one of the equal ones");
        let chunks = all.chunks.clone().unwrap();
        let distinct = (large.len() + longer.len() + small.len() + one_chunk.len()) as u64;
        assert_eq!(chunks.distinct + chunks.saved, distinct);
        assert!(chunks.saved > 512 << 10, "{chunks:?}");
        let (contents, again) = scene.read(CHUNKS);
        assert_eq!((contents.reading, again), (Reading::default(), all.clone()));
        let (contents, afresh) = scene.read(Options { afresh: true, ..CHUNKS });
        assert_eq!((contents.reading.files, afresh), (5, all), "each inode once");
    }

    #[test]
    fn a_path_that_is_missing_has_nothing() {
        let scene = filled();
        fs::remove_dir_all(scene.at(1, "")).unwrap();
        let (contents, all) = scene.read(PLAIN);
        assert!(contents.paths[1].is_empty());
        assert_eq!(all.files, 5);
    }
}
