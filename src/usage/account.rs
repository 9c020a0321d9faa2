//! Who costs what: the store paths of several environments, counted so that the parts add up to the whole.
//!
//! Paths, files and lengths belong to store paths: what several environments have is *shared*, what one alone has is
//! *unique* to it. Space on the disk belongs to inodes: on a store whose equal files are hard links, an inode that paths
//! of several environments name is shared although each of the paths is unique. In both ways the unique parts of all
//! environments and the shared part are the whole.
//!
//! What dropping an environment would free (*marginal*) is what its unique paths hold, of the disk those inodes that
//! nothing else names: neither other environments nor anything else in the store. The name that an inode has in `.links` is
//! no such thing: Nix's collector removes it with the last other one.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::measure::{BLOCK, Linked, Measure};
use super::scan::Found;

/// Counts and sizes, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// Store paths that are there.
    pub paths: u64,
    /// Store paths that are recorded and not there; nothing else is known of them.
    pub missing: u64,
    /// Names of regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Lengths of files and links, each name for itself.
    pub apparent: u64,
    /// Lengths of directories.
    pub directory_lengths: u64,
    /// Space on the disk, each inode once.
    pub allocated: u64,
    /// Lengths of the NARs.
    pub nar: u64,
}

impl Sizes {
    /// All but the space of inodes with several names.
    fn add(&mut self, found: &Found) {
        match found {
            Found::Missing => self.missing += 1,
            Found::Measured(measure) => {
                self.paths += 1;
                self.files += measure.files;
                self.directories += measure.directories;
                self.symlinks += measure.symlinks;
                self.apparent += measure.apparent;
                self.directory_lengths += measure.directory_lengths;
                self.allocated += measure.blocks * BLOCK;
                self.nar += measure.nar;
            }
        }
    }

    /// What is left of it without `part`.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self {
            paths: self.paths.saturating_sub(part.paths),
            missing: self.missing.saturating_sub(part.missing),
            files: self.files.saturating_sub(part.files),
            directories: self.directories.saturating_sub(part.directories),
            symlinks: self.symlinks.saturating_sub(part.symlinks),
            apparent: self.apparent.saturating_sub(part.apparent),
            directory_lengths: self.directory_lengths.saturating_sub(part.directory_lengths),
            allocated: self.allocated.saturating_sub(part.allocated),
            nar: self.nar.saturating_sub(part.nar),
        }
    }
}

/// What one environment costs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// All of it.
    pub whole: Sizes,
    /// What no other of the environments has.
    pub unique: Sizes,
    /// What at least one other has.
    pub shared: Sizes,
    /// What would be freed without it.
    pub marginal: Sizes,
}

/// What several environments cost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Of each, in the order given.
    pub environments: Vec<Cost>,
    /// All of them together.
    pub all: Sizes,
    /// What at least two have: `all` without the unique parts.
    pub shared: Sizes,
}

/// What two environments have in common.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Common {
    /// Store paths, and their sizes; of the disk the space of inodes that both name.
    pub sizes: Sizes,
    /// Common paths by paths of either (Jaccard index); 1 for two that are empty.
    pub by_paths: f64,
    /// The same by lengths of NARs.
    pub by_nar: f64,
}

/// What the first environments cost together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cumulative {
    /// How many.
    pub environments: usize,
    /// Space on the disk of one store with all of them.
    pub store: u64,
    /// Lengths of the files of an image for each: what is not shared between images, uncompressed.
    pub images: u64,
    /// The same of one image with all of them.
    pub one_image: u64,
    /// Space on the disk of an image for each, unpacked: a store path counts in each image, alone.
    pub images_allocated: u64,
    /// The same of one image with all of them.
    pub one_image_allocated: u64,
}

/// Measured store paths, and the environments that have them as indexes into these.
pub struct Accounts<'a> {
    found: &'a [Found],
    environments: &'a [Vec<usize>],
    /// How many environments have each path.
    users: Vec<u32>,
    /// Inodes that have a name in `.links`.
    in_links: &'a HashSet<u64>,
}

type Inode = (u64, u64);

fn linked(found: &Found) -> &[Linked] {
    match found {
        Found::Measured(Measure { linked, .. }) => linked,
        Found::Missing => &[],
    }
}

impl<'a> Accounts<'a> {
    /// Of `environments`, each a set of paths of `found`; `in_links` are the inodes in `.links` of the store.
    #[must_use]
    pub fn new(found: &'a [Found], environments: &'a [Vec<usize>], in_links: &'a HashSet<u64>) -> Self {
        let mut users = vec![0u32; found.len()];
        for path in environments.iter().flatten() {
            if let Some(users) = users.get_mut(*path) {
                *users += 1;
            }
        }
        Self { found, environments, users, in_links }
    }

    fn at(&self, path: usize) -> &Found {
        self.found.get(path).unwrap_or(&Found::Missing)
    }

    /// The sizes of a set of paths.
    #[must_use]
    pub fn sizes(&self, paths: impl Iterator<Item = usize>) -> Sizes {
        let mut sizes = Sizes::default();
        let mut seen: HashSet<Inode> = HashSet::new();
        for path in paths {
            let found = self.at(path);
            sizes.add(found);
            for inode in linked(found) {
                if seen.insert((inode.device, inode.inode)) {
                    sizes.allocated += inode.blocks * BLOCK;
                }
            }
        }
        sizes
    }

    /// All paths of at least one environment, each once.
    fn all_paths(&self) -> impl Iterator<Item = usize> + '_ {
        self.users.iter().enumerate().filter(|(_, users)| **users > 0).map(|(path, _)| path)
    }

    /// For each inode with several names the environment that alone names it, or `None` if several do.
    fn owners(&self) -> HashMap<Inode, Option<usize>> {
        let mut owners: HashMap<Inode, Option<usize>> = HashMap::new();
        for (at, paths) in self.environments.iter().enumerate() {
            for inode in paths.iter().flat_map(|path| linked(self.at(*path))) {
                let owner = owners.entry((inode.device, inode.inode)).or_insert(Some(at));
                if *owner != Some(at) {
                    *owner = None;
                }
            }
        }
        owners
    }

    /// What each of the environments costs, and all together.
    #[must_use]
    pub fn account(&self) -> Account {
        let owners = self.owners();
        let environments: Vec<Cost> = (0..self.environments.len()).map(|at| self.cost(at, &owners)).collect();
        let all = self.sizes(self.all_paths());
        let shared = environments.iter().fold(all, |left, cost| left.without(cost.unique));
        Account { environments, all, shared }
    }

    fn cost(&self, at: usize, owners: &HashMap<Inode, Option<usize>>) -> Cost {
        let paths = self.environments.get(at).map_or(&[][..], Vec::as_slice);
        let whole = self.sizes(paths.iter().copied());
        let own = || paths.iter().copied().filter(|path| self.users.get(*path) == Some(&1));
        let mut unique = Sizes::default();
        own().for_each(|path| unique.add(self.at(path)));
        let mut marginal = unique;
        let mut seen: HashSet<Inode> = HashSet::new();
        for inode in paths.iter().flat_map(|path| linked(self.at(*path))) {
            let key = (inode.device, inode.inode);
            if owners.get(&key) == Some(&Some(at)) && seen.insert(key) {
                unique.allocated += inode.blocks * BLOCK;
            }
        }
        let mut names: HashMap<Inode, (u64, &Linked)> = HashMap::new();
        for inode in own().flat_map(|path| linked(self.at(path))) {
            names.entry((inode.device, inode.inode)).or_insert((0, inode)).0 += inode.here;
        }
        for (here, inode) in names.values() {
            let kept_by_links = u64::from(self.in_links.contains(&inode.inode));
            if here + kept_by_links >= inode.names {
                marginal.allocated += inode.blocks * BLOCK;
            }
        }
        Cost { whole, unique, shared: whole.without(unique), marginal }
    }

    /// What each two environments have in common: `matrix[i][j]`, the whole of each on the diagonal.
    #[must_use]
    pub fn matrix(&self) -> Vec<Vec<Common>> {
        let sets: Vec<HashSet<usize>> =
            self.environments.iter().map(|paths| paths.iter().copied().collect()).collect();
        let inodes: Vec<HashMap<Inode, u64>> = self
            .environments
            .iter()
            .map(|paths| {
                let all = paths.iter().flat_map(|path| linked(self.at(*path)));
                all.map(|inode| ((inode.device, inode.inode), inode.blocks)).collect()
            })
            .collect();
        let nar = |paths: &mut dyn Iterator<Item = usize>| -> u64 {
            paths.map(|path| if let Found::Measured(m) = self.at(path) { m.nar } else { 0 }).sum()
        };
        let both = |i: usize, j: usize| -> Option<Common> {
            let (a, b) = (sets.get(i)?, sets.get(j)?);
            let mut sizes = Sizes::default();
            a.intersection(b).for_each(|path| sizes.add(self.at(*path)));
            let (x, y) = (inodes.get(i)?, inodes.get(j)?);
            let common = x.iter().filter(|(inode, _)| y.contains_key(*inode));
            sizes.allocated += common.map(|(_, blocks)| blocks * BLOCK).sum::<u64>();
            let part =
                |common: u64, either: u64| if either == 0 { 1.0 } else { common as f64 / either as f64 };
            let by_paths = part(a.intersection(b).count() as u64, a.union(b).count() as u64);
            let by_nar = part(sizes.nar, nar(&mut a.union(b).copied()));
            Some(Common { sizes, by_paths, by_nar })
        };
        let count = self.environments.len();
        (0..count).map(|i| (0..count).filter_map(|j| both(i, j)).collect()).collect()
    }

    /// What the first one, two, … of the environments cost together.
    #[must_use]
    pub fn cumulative(&self) -> Vec<Cumulative> {
        let mut seen = HashSet::new();
        let mut inodes: HashSet<Inode> = HashSet::new();
        let (mut together, mut images) = (Sizes::default(), 0);
        let (mut images_allocated, mut one_image_allocated) = (0, 0);
        let alone = |path: usize| match self.at(path) {
            Found::Measured(measure) => measure.allocated(),
            Found::Missing => 0,
        };
        let mut curve = Vec::new();
        for (at, paths) in self.environments.iter().enumerate() {
            images += self.sizes(paths.iter().copied()).apparent;
            images_allocated += paths.iter().copied().map(alone).sum::<u64>();
            for path in paths.iter().copied().filter(|path| seen.insert(*path)) {
                together.add(self.at(path));
                one_image_allocated += alone(path);
                for inode in linked(self.at(path)) {
                    if inodes.insert((inode.device, inode.inode)) {
                        together.allocated += inode.blocks * BLOCK;
                    }
                }
            }
            curve.push(Cumulative {
                environments: at + 1,
                store: together.allocated,
                images,
                one_image: together.apparent,
                images_allocated,
                one_image_allocated,
            });
        }
        curve
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;

    fn path(blocks: u64, linked: &[(u64, u64, u64, u64)]) -> Found {
        let linked = linked
            .iter()
            .map(|(inode, blocks, names, here)| Linked {
                device: 1,
                inode: *inode,
                blocks: *blocks,
                names: *names,
                here: *here,
            })
            .collect();
        let measure = Measure {
            files: 1,
            directories: 1,
            apparent: blocks * 100,
            nar: blocks * 1000,
            blocks,
            linked,
            ..Measure::default()
        };
        Found::Measured(measure)
    }

    #[test]
    fn parts_add_up_by_hand() {
        // 0 in both, 1 in the first, 2 in the second; inode 9 is a file of 1 and of 2, inode 8 of 1 and of something outside,
        // inode 7 twice in 2 and in .links.
        let found = [
            path(1, &[]),
            path(2, &[(9, 10, 2, 1), (8, 20, 2, 1)]),
            path(4, &[(9, 10, 2, 1), (7, 40, 3, 2)]),
        ];
        let environments = [vec![0, 1], vec![0, 2]];
        let links = HashSet::from([7]);
        let accounts = Accounts::new(&found, &environments, &links);
        let account = accounts.account();
        let allocated = |sizes: Sizes| sizes.allocated / 512;
        assert_eq!(allocated(account.all), 1 + 2 + 4 + 10 + 20 + 40);
        let [first, second] = account.environments.try_into().unwrap();
        assert_eq!(allocated(first.whole), 1 + 2 + 10 + 20);
        assert_eq!(allocated(first.unique), 2 + 20, "the inode of both is shared");
        assert_eq!(allocated(first.shared), 1 + 10);
        assert_eq!(allocated(first.marginal), 2, "the other names of its inodes stay");
        assert_eq!(allocated(second.unique), 4 + 40);
        assert_eq!(allocated(second.marginal), 4 + 40, "what .links has goes too");
        assert_eq!(allocated(account.shared), 1 + 10);
        assert_eq!((account.shared.paths, account.all.paths, first.unique.nar), (1, 3, 2000));
        let matrix = accounts.matrix();
        assert_eq!(allocated(matrix[0][1].sizes), 11);
        assert!((matrix[0][1].by_paths - 1.0 / 3.0).abs() < 1e-12);
        assert!((matrix[0][1].by_nar - 1.0 / 7.0).abs() < 1e-12);
        assert_eq!(allocated(matrix[1][1].sizes), allocated(second.whole));
        let curve = accounts.cumulative();
        assert_eq!(curve.last().unwrap().store / 512, 77);
        assert_eq!((curve[1].images, curve[1].one_image), (300 + 500, 700));
        // The first image has 0 and 1, the second 0 and 2; inode 9 counts in 1 and in 2, where it is not a link of the other.
        assert_eq!(curve[0].images_allocated / 512, 1 + (2 + 10 + 20));
        assert_eq!(curve[1].images_allocated / 512, 2 + (2 + 10 + 20) + (4 + 10 + 40));
        assert_eq!(curve[1].one_image_allocated / 512, 1 + (2 + 10 + 20) + (4 + 10 + 40));
    }

    proptest::proptest! {
        #[test]
        fn parts_add_up(
            paths in proptest::collection::vec(
                (1u64..9, proptest::collection::vec((0u64..6, 1u64..3), 0..4)), 1..12),
            sets in proptest::collection::vec(proptest::collection::vec(0usize..12, 0..12), 1..5),
        ) {
            // Blocks and names of an inode are the same wherever it is named.
            let mut names = HashMap::new();
            for (inode, here) in paths.iter().flat_map(|(_, linked)| linked) {
                *names.entry(*inode).or_insert(0) += here;
            }
            let found: Vec<Found> = paths
                .iter()
                .map(|(blocks, linked)| {
                    let mut linked: Vec<_> =
                        linked.iter().map(|(inode, here)| (*inode, inode + 1, names[inode], *here)).collect();
                    linked.sort_unstable();
                    linked.dedup_by_key(|l| l.0);
                    path(*blocks, &linked)
                })
                .collect();
            let sets: Vec<Vec<usize>> = sets
                .into_iter()
                .map(|mut set| {
                    set.retain(|path| *path < found.len());
                    set.sort_unstable();
                    set.dedup();
                    set
                })
                .collect();
            let links = HashSet::new();
            let accounts = Accounts::new(&found, &sets, &links);
            let account = accounts.account();
            let of = |pick: fn(&Sizes) -> u64| -> u64 {
                account.environments.iter().map(|cost| pick(&cost.unique)).sum::<u64>() + pick(&account.shared)
            };
            proptest::prop_assert_eq!(of(|s| s.allocated), account.all.allocated);
            proptest::prop_assert_eq!(of(|s| s.nar), account.all.nar);
            proptest::prop_assert_eq!(of(|s| s.paths), account.all.paths);
            for (at, cost) in account.environments.iter().enumerate() {
                proptest::prop_assert!(cost.marginal.allocated <= cost.unique.allocated);
                let others: Vec<Vec<usize>> =
                    sets.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, set)| set.clone()).collect();
                let without = Accounts::new(&found, &others, &links).account().all;
                proptest::prop_assert_eq!(account.all.allocated - without.allocated, cost.unique.allocated);
                proptest::prop_assert_eq!(account.all.nar - without.nar, cost.marginal.nar);
            }
            let curve = accounts.cumulative();
            proptest::prop_assert_eq!(curve.last().unwrap().store, account.all.allocated);
            proptest::prop_assert_eq!(curve.last().unwrap().one_image, account.all.apparent);
        }
    }
}
