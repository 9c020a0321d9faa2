//! What is there more than once, and what it would save to have it once: by `nix-store --optimise`, and by chunks.
//!
//! Two things are equal for Nix if kind, content and the owner's execute bit are; then it makes them one inode
//! (`src/libstore/optimise-store.cc`). It goes through the store paths by name and through each as its directories are, keeps the
//! first of each in `.links`, and links the others to it. What the owner may write it leaves alone. Other bits of the mode,
//! owner and time are no difference.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::chunks::{Chunked, PARAMETERS};
use super::contents::{Kind, named};
use super::measure::BLOCK;
use super::read::{Contents, Held};

/// What some store paths have more than once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Duplicates {
    /// Names of regular files.
    pub files: u64,
    /// Names of symbolic links.
    pub symlinks: u64,
    /// Different contents of files and links, whatever their execute bits.
    pub contents: u64,
    /// Lengths, each name for itself: `distinct` and `duplicate`.
    pub apparent: u64,
    /// Lengths of the different contents.
    pub distinct: u64,
    /// Lengths of what repeats one of them.
    pub duplicate: u64,
    /// What of `duplicate` takes no space already, being names of an inode that has others here.
    pub linked: u64,
    /// What `nix-store --optimise` would do to these paths and the store's `.links`.
    pub optimise: Optimised,
    /// What storing chunks once would save beside, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Chunks>,
}

/// What `nix-store --optimise` would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Optimised {
    /// Names that it would link to another inode: the number of files that it prints.
    pub files: u64,
    /// Their lengths: the bytes that it says it freed.
    pub nix_bytes: u64,
    /// What the disk would get back: the space of inodes that lose all of their names. Names in `.links` take some of it
    /// again.
    pub disk_bytes: u64,
    /// Inodes that would go.
    pub inodes: u64,
    /// Names that it would add to `.links`.
    pub new_links: u64,
    /// Files that it leaves alone, because their owner may write them.
    pub writable: u64,
}

/// Contents of files in chunks, each stored once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Chunks {
    /// How they are cut; other parameters have other results.
    pub parameters: &'static str,
    /// Different ones.
    pub count: u64,
    /// Their lengths.
    pub distinct: u64,
    /// What that is less than the different contents of files.
    pub saved: u64,
}

/// Contents that are equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// What they are.
    pub kind: Kind,
    /// The length of each.
    pub size: u64,
    /// How many names there are.
    pub names: u64,
    /// How many inodes.
    pub inodes: u64,
    /// Paths and inodes of the names, as indexes of [`Contents`].
    pub members: Vec<(usize, u32)>,
}

/// The names of the members of groups, in the order of the directories; `real` is where a path of `contents` is.
///
/// # Errors
/// As [`named`].
pub fn names_of(
    groups: &[Group],
    contents: &Contents,
    real: &dyn Fn(usize) -> PathBuf,
) -> io::Result<Vec<Vec<(usize, PathBuf)>>> {
    let mut wanted: BTreeMap<usize, HashMap<(u64, u64), usize>> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        for (path, inode) in &group.members {
            if let Some(held) = contents.inodes.get(*inode as usize) {
                wanted.entry(*path).or_default().insert(held.inode.key(), at);
            }
        }
    }
    let mut names = vec![Vec::new(); groups.len()];
    for (path, inodes) in wanted {
        for (name, inode) in named(&real(path))? {
            let at = inodes.get(&inode.key());
            if let Some(names) = at.and_then(|at| names.get_mut(*at)) {
                names.push((path, name));
            }
        }
    }
    Ok(names)
}

/// What Nix makes one inode.
type NixKey = (u32, bool);

fn nix_key(held: &Held) -> NixKey {
    (held.content, held.inode.executable)
}

/// Contents, and what of them has its name in `.links`.
pub struct Equal<'a> {
    contents: &'a Contents,
    in_links: HashSet<NixKey>,
}

impl<'a> Equal<'a> {
    /// Of all that was read of one store.
    #[must_use]
    pub fn new(contents: &'a Contents) -> Self {
        // What may be written need not be any more what its name in `.links` says.
        let linked =
            contents.inodes.iter().filter(|held| held.key_is_taken || held.in_links && !held.inode.writable);
        let in_links = linked.map(nix_key).collect();
        Self { contents, in_links }
    }

    /// The names in some paths: index of the inode, and what that is.
    fn names(&self, path: usize) -> impl Iterator<Item = (u32, &'a Held)> + use<'a> {
        let contents = self.contents;
        let names = contents.paths.get(path).into_iter().flatten();
        names.filter_map(|inode| Some((*inode, contents.inodes.get(*inode as usize)?)))
    }

    /// What a set of paths has more than once. The order is that of Nix, by name.
    #[must_use]
    pub fn duplicates(&self, paths: &[usize]) -> Duplicates {
        let mut all = Duplicates::default();
        let (mut contents, mut inodes) = (HashSet::new(), HashSet::new());
        let mut of_files = 0;
        for (inode, held) in paths.iter().flat_map(|path| self.names(*path)) {
            let size = held.inode.size;
            match held.inode.kind {
                Kind::File => all.files += 1,
                Kind::Link => all.symlinks += 1,
            }
            all.apparent += size;
            if contents.insert(held.content) {
                all.contents += 1;
                all.distinct += size;
                of_files += if held.inode.kind == Kind::File { size } else { 0 };
            } else {
                all.duplicate += size;
            }
            if !inodes.insert(inode) {
                all.linked += size;
            }
        }
        all.optimise = self.optimise(paths);
        all.chunks = self.contents.chunked.as_ref().map(|chunked| self.chunks(chunked, &contents, of_files));
        all
    }

    fn optimise(&self, paths: &[usize]) -> Optimised {
        let mut done = Optimised::default();
        let mut kept: HashMap<NixKey, u32> = HashMap::new();
        let mut lost: HashMap<u32, (u64, &Held)> = HashMap::new();
        for (inode, held) in paths.iter().flat_map(|path| self.names(*path)) {
            if held.in_links {
                continue;
            }
            if held.inode.writable {
                done.writable += 1;
                continue;
            }
            let stays = !self.in_links.contains(&nix_key(held))
                && *kept.entry(nix_key(held)).or_insert_with(|| {
                    done.new_links += 1;
                    inode
                }) == inode;
            if !stays {
                done.files += 1;
                done.nix_bytes += held.inode.size;
                lost.entry(inode).or_insert((0, held)).0 += 1;
            }
        }
        for (names, held) in lost.values() {
            if *names >= held.inode.names {
                done.inodes += 1;
                done.disk_bytes += held.inode.blocks * BLOCK;
            }
        }
        done
    }

    fn chunks(&self, chunked: &Chunked, contents: &HashSet<u32>, of_files: u64) -> Chunks {
        let digests = contents.iter().filter_map(|at| self.contents.digests.get(*at as usize)?.as_ref());
        let (count, distinct) = chunked.distinct(digests);
        Chunks { parameters: PARAMETERS, count, distinct, saved: of_files.saturating_sub(distinct) }
    }

    /// The `top` groups of equal contents in a set of paths that take most space beside one of each, then those of most
    /// repeated bytes.
    #[must_use]
    pub fn largest(&self, paths: &[usize], top: usize) -> Vec<Group> {
        let mut groups: HashMap<u32, Group> = HashMap::new();
        let mut seen = HashSet::new();
        for (inode, held) in paths.iter().flat_map(|path| self.names(*path)) {
            let (kind, size) = (held.inode.kind, held.inode.size);
            let new = Group { kind, size, names: 0, inodes: 0, members: Vec::new() };
            let group = groups.entry(held.content).or_insert(new);
            group.names += 1;
            group.inodes += u64::from(seen.insert(inode));
        }
        let mut sorted: Vec<(u32, Group)> =
            groups.into_iter().filter(|(_, group)| group.names > 1 && group.size > 0).collect();
        sorted.sort_unstable_by_key(|(content, group)| {
            let repeated = (group.inodes - 1) * group.size;
            (std::cmp::Reverse((repeated, (group.names - 1) * group.size)), *content)
        });
        sorted.truncate(top);
        let places: HashMap<u32, usize> =
            sorted.iter().enumerate().map(|(at, (content, _))| (*content, at)).collect();
        for path in paths {
            for (inode, held) in self.names(*path) {
                let group = places.get(&held.content).and_then(|at| sorted.get_mut(*at));
                if let Some((_, group)) = group {
                    group.members.push((*path, inode));
                }
            }
        }
        sorted.into_iter().map(|(_, group)| group).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;
    use crate::usage::contents::Inode;

    /// Of 10 bytes a content and one block, with so many names anywhere.
    fn held(content: u32, names: u64) -> Held {
        let (kind, executable, writable) = (Kind::File, false, false);
        let size = 10 * u64::from(content);
        let inode = Inode { device: 1, number: 0, kind, size, blocks: 1, names, executable, writable };
        Held { inode, content, in_links: false, key_is_taken: false }
    }

    fn executable(mut held: Held) -> Held {
        held.inode.executable = true;
        held
    }

    fn of(inodes: Vec<Held>, paths: Vec<Vec<u32>>) -> Contents {
        Contents { paths, inodes, ..Contents::default() }
    }

    #[test]
    fn by_hand() {
        let link = |mut held: Held| {
            held.inode.kind = Kind::Link;
            held.inode.blocks = 0;
            held
        };
        let writable = |mut held: Held| {
            held.inode.writable = true;
            held
        };
        let inodes = vec![
            held(1, 1),             // 0: the first of its content
            executable(held(1, 1)), // 1: the same content, and another thing for Nix
            held(1, 2),             // 2: a hard link within, both names go
            held(1, 2),             // 3: one of its names is elsewhere, its space stays
            writable(held(1, 1)),   // 4: left alone
            held(0, 1),             // 5: empty
            held(0, 1),             // 6: empty too
            link(held(2, 1)),       // 7: a link
            link(held(2, 1)),       // 8: to the same
            executable(held(1, 1)), // 9: as 1
            held(3, 1),             // 10: alone
        ];
        let contents = of(inodes, vec![vec![0, 1, 2, 2, 5, 7], vec![3, 4, 6, 8, 9, 10]]);
        let equal = Equal::new(&contents);
        let all = equal.duplicates(&[0, 1]);
        assert_eq!((all.files, all.symlinks, all.contents), (10, 2, 4));
        assert_eq!((all.apparent, all.distinct, all.duplicate, all.linked), (140, 60, 80, 10));
        let done = all.optimise;
        assert_eq!((done.files, done.nix_bytes), (6, 10 + 10 + 10 + 20 + 10), "2 twice, 3, 6, 8, 9");
        assert_eq!((done.inodes, done.disk_bytes), (4, 3 * 512), "2, 6, 8 without a block, 9");
        assert_eq!((done.new_links, done.writable), (5, 1));
        let second = equal.duplicates(&[1]);
        assert_eq!((second.files, second.duplicate, second.optimise.files), (5, 20, 0));
        let largest = equal.largest(&[0, 1], 2);
        assert_eq!(
            largest.iter().map(|g| (g.size, g.names, g.inodes)).collect::<Vec<_>>(),
            [(10, 7, 6), (20, 2, 2)]
        );
        assert_eq!(largest[1].members, [(0, 7), (1, 8)]);
    }

    #[test]
    fn what_is_in_links_is_what_the_others_become() {
        let mut kept = held(1, 2);
        kept.in_links = true;
        let taken = |mut held: Held| {
            held.key_is_taken = true;
            held
        };
        // 0 comes first and goes all the same; 2 goes for something that is not among these.
        let contents = of(vec![held(1, 1), kept, taken(held(2, 1))], vec![vec![0, 1, 2]]);
        let done = Equal::new(&contents).duplicates(&[0]).optimise;
        assert_eq!((done.files, done.nix_bytes, done.inodes, done.new_links), (2, 30, 2, 0));
        // Without its name in .links the first is kept.
        let mut bare = contents;
        bare.inodes[1].in_links = false;
        bare.inodes[2].key_is_taken = false;
        let done = Equal::new(&bare).duplicates(&[0]).optimise;
        assert_eq!((done.files, done.nix_bytes, done.inodes, done.new_links), (1, 10, 0, 2));
    }

    /// Nix's optimiser, name by name: names of the paths, and inodes of `.links` by key.
    fn simulate(contents: &Contents, outside: &HashSet<NixKey>) -> (Optimised, Contents) {
        let mut after = of(contents.inodes.clone(), contents.paths.clone());
        let mut links: HashMap<NixKey, Option<u32>> = outside.iter().map(|key| (*key, None)).collect();
        for (at, held) in contents.inodes.iter().enumerate().filter(|(_, held)| held.in_links) {
            links.insert(nix_key(held), Some(at as u32));
        }
        let mut known: HashSet<u32> = links.values().flatten().copied().collect();
        let mut left: Vec<u64> = contents.inodes.iter().map(|held| held.inode.names).collect();
        let mut done = Optimised::default();
        for name in after.paths.iter_mut().flatten() {
            let held = &contents.inodes[*name as usize];
            if known.contains(name) {
                continue;
            }
            if held.inode.writable {
                done.writable += 1;
                continue;
            }
            match links.get(&nix_key(held)) {
                None => {
                    links.insert(nix_key(held), Some(*name));
                    known.insert(*name);
                    after.inodes[*name as usize].in_links = true;
                    done.new_links += 1;
                }
                Some(kept) => {
                    done.files += 1;
                    done.nix_bytes += held.inode.size;
                    left[*name as usize] -= 1;
                    if left[*name as usize] == 0 {
                        done.inodes += 1;
                        done.disk_bytes += held.inode.blocks * BLOCK;
                    }
                    // One elsewhere stands for nothing that is seen here any more.
                    *name = kept.unwrap_or(u32::MAX);
                }
            }
        }
        (done, after)
    }

    proptest::proptest! {
        #[test]
        fn parts_add_up_and_nix_does_what_is_said(
            inodes in proptest::collection::vec((0u32..5, 0u64..2, 0u8..8), 1..14),
            paths in proptest::collection::vec(proptest::collection::vec(0u32..14, 0..9), 1..5),
            outside in proptest::collection::hash_set((0u32..5, proptest::bool::ANY), 0..3),
        ) {
            let count = inodes.len() as u32;
            let paths: Vec<Vec<u32>> =
                paths.into_iter().map(|names| names.into_iter().map(|at| at % count).collect()).collect();
            let mut in_links = outside.clone();
            let inodes: Vec<Held> = inodes
                .into_iter()
                .enumerate()
                .map(|(at, (content, elsewhere, bits))| {
                    let here = paths.iter().flatten().filter(|name| **name == at as u32).count() as u64;
                    let mut held = held(content, here + elsewhere);
                    held.inode.blocks = at as u64;
                    held.inode.executable = bits & 1 != 0;
                    held.inode.writable = bits & 6 == 6;
                    held.key_is_taken = outside.contains(&nix_key(&held));
                    let may_be = bits & 6 == 4 && here > 0 && elsewhere == 1;
                    held.in_links = may_be && in_links.insert(nix_key(&held));
                    held
                })
                .collect();
            let contents = of(inodes, paths);
            let whole: Vec<usize> = (0..contents.paths.len()).collect();
            let all = Equal::new(&contents).duplicates(&whole);
            proptest::prop_assert_eq!(all.apparent, all.distinct + all.duplicate);
            proptest::prop_assert!(all.linked <= all.duplicate);
            let (done, after) = simulate(&contents, &outside);
            proptest::prop_assert_eq!(all.optimise, done);
            let again = Equal::new(&after).duplicates(&whole);
            proptest::prop_assert_eq!((again.optimise.files, again.optimise.new_links), (0, 0));
            for group in Equal::new(&contents).largest(&whole, 3) {
                proptest::prop_assert_eq!(group.names, group.members.len() as u64);
            }
        }
    }
}
