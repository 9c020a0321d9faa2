//! All inodes that the kernel knows: number ↔ node, names, lookup counts.
//!
//! Plain data under one lock, which is a leaf: nothing here does I/O. A node stays while it has lookups, open
//! handles, or children that stay. Everything in it except held objects can be written down and restored.

use std::collections::HashMap;
use std::sync::Arc;

use super::node::{Held, Identity, LowerPath, Node, Source};
use super::number::{self, Candidates, Holder, PathHash};
use super::record::{Done, Event, Recorder};
use crate::vfs::{Errno, FileKind, Generation, Ino, Name, Whereabouts};

/// The nodes of a view.
pub(super) struct Table<LO, UO> {
    nodes: HashMap<u64, Node<LO, UO>>,
    /// Numbers of the nodes whose source is the upper alone, by the upper's numbers: authoritative.
    by_upper: HashMap<u64, u64>,
    /// Nodes of the lower that did not get the number of their path, because it was taken.
    displaced: HashMap<(Ino, Name), u64>,
    /// Numbers of inodes that have names and are not known any more: programs may remember them, so no other inode gets
    /// them. Only numbers that are hashes; at most one for each path of the lower and each copy of one.
    reserved: HashMap<u64, Holder>,
    generations: u64,
    /// Who is told of every change.
    recorder: Option<Arc<dyn Recorder>>,
    /// What has changed since it was told last.
    touched: Vec<u64>,
}

impl<LO, UO> Table<LO, UO> {
    /// A table with the root, which is never forgotten.
    pub(super) fn new(root: Source) -> Self {
        let mut node = Node::new(FileKind::Directory, root, Generation(0), PathHash::ROOT);
        node.lookups = 1;
        Self {
            nodes: HashMap::from([(Ino::ROOT.0, node)]),
            by_upper: HashMap::new(),
            displaced: HashMap::new(),
            reserved: HashMap::new(),
            generations: 0,
            recorder: None,
            touched: Vec::new(),
        }
    }

    /// From here on `recorder` is told of every change.
    pub(super) fn tell(&mut self, recorder: Arc<dyn Recorder>) {
        self.recorder = Some(recorder);
    }

    /// Puts nodes back that another table had told of; `generations` is the highest generation that it gave, `reserved`
    /// are the numbers that it kept for inodes that were not known.
    pub(super) fn restore(
        &mut self,
        nodes: Vec<(Ino, Node<LO, UO>)>,
        generations: u64,
        reserved: &[(u64, u64)],
    ) {
        self.generations = generations;
        self.reserved = reserved.iter().map(|(number, holder)| (*number, Holder(*holder))).collect();
        for (ino, node) in nodes.into_iter().filter(|(ino, _)| *ino != Ino::ROOT) {
            if let (Source::Upper(upper), Some(_)) = (node.source, node.links.first()) {
                self.by_upper.insert(upper, ino.0);
            }
            self.nodes.insert(ino.0, node);
        }
        let mut children = HashMap::<u64, u32>::new();
        let mut displaced = Vec::new();
        for (number, node) in &self.nodes {
            for (parent, name) in node.links.iter() {
                *children.entry(parent.0).or_default() += 1;
                if node.source.has_lower() && *number != node.path_hash.number() {
                    displaced.push(((*parent, name.clone()), *number));
                }
            }
        }
        self.displaced.extend(displaced);
        for (ino, children) in children {
            if let Some(dir) = self.nodes.get_mut(&ino) {
                dir.children = children;
            }
        }
    }

    /// A node has changed; it is told by [`commit`](Self::commit), with all others.
    fn touch(&mut self, ino: Ino) {
        if self.recorder.is_some() {
            self.touched.push(ino.0);
        }
    }

    /// Tells of what has changed, as one change, and of what the request has got by it.
    fn commit<'a>(&'a mut self, got: impl IntoIterator<Item = Event<'a>>) {
        let Some(recorder) = &self.recorder else { return };
        self.touched.dedup();
        let mut events: Vec<Event<'_>> = Vec::with_capacity(self.touched.len() + 1);
        // The root is what the disk says it is.
        for ino in self.touched.iter().copied().filter(|ino| *ino != Ino::ROOT.0) {
            events.push(match self.nodes.get(&ino) {
                Some(node) => Event::Node { ino, node: node.record() },
                None => Event::Gone { ino, holder: self.reserved.get(&ino).map(|holder| holder.0) },
            });
        }
        events.extend(got);
        if !events.is_empty() {
            recorder.note(&events);
        }
        drop(events);
        self.touched.clear();
    }

    pub(super) fn get(&self, ino: Ino) -> Result<&Node<LO, UO>, Errno> {
        self.nodes.get(&ino.0).ok_or(Errno::ESTALE)
    }

    pub(super) fn get_mut(&mut self, ino: Ino) -> Result<&mut Node<LO, UO>, Errno> {
        self.nodes.get_mut(&ino.0).ok_or(Errno::ESTALE)
    }

    /// True if a name leads to the inode.
    pub(super) fn is_linked(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.nodes.get(&ino.0).is_some_and(|n| n.links.first().is_some())
    }

    /// The names from the root to an inode; `None` if one of them is gone.
    pub(super) fn path(&self, ino: Ino) -> Option<Vec<Name>> {
        let mut path = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name) = self.nodes.get(&at.0)?.links.first()?;
            path.push(name.clone());
            at = *parent;
        }
        path.reverse();
        Some(path)
    }

    /// The names from the root of the lower to what an inode shows of it; `None` if one of them is gone. It is the
    /// same as long as the node is known and the lower shows, whatever is moved in the view.
    pub(super) fn lower_path(&self, ino: Ino) -> Option<Vec<Name>> {
        let mut path = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let node = self.nodes.get(&at.0)?;
            if let Some(moved) = &node.moved {
                path.extend(moved.iter().rev().cloned());
                break;
            }
            let (parent, name) = node.links.first()?;
            path.push(name.clone());
            at = *parent;
        }
        path.reverse();
        Some(path)
    }

    /// Where an inode is: in the lower, as long as that shows.
    pub(super) fn whereabouts(&self, ino: Ino) -> Option<Whereabouts> {
        let upper = !self.nodes.get(&ino.0)?.source.has_lower();
        let names = if upper { self.path(ino) } else { self.lower_path(ino) }?;
        let path = names.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        Some(Whereabouts { path, upper })
    }

    /// The directories above an inode, nearest first, the root last; ends where a name is gone.
    pub(super) fn ancestors(&self, ino: Ino) -> Vec<Ino> {
        let mut found = Vec::new();
        let mut at = ino;
        while let Some((parent, _)) = self.nodes.get(&at.0).and_then(|n| n.links.first()) {
            found.push(*parent);
            at = *parent;
        }
        found
    }

    /// The hash of the path in the lower of what was found under a name.
    fn path_hash(&self, parent: Ino, name: &Name, found: &Identity) -> PathHash {
        if let Some(moved) = &found.moved {
            return PathHash::of_names(moved);
        }
        self.nodes.get(&parent.0).map_or(PathHash::ROOT, |dir| dir.path_hash.child(name))
    }

    /// The number of the known node that stands for what was found under a name.
    pub(super) fn identify(&self, parent: Ino, name: &Name, found: &Identity) -> Option<Ino> {
        if let Source::Upper(ino) = found.source {
            return self.by_upper.get(&ino).copied().map(Ino);
        }
        let displaced = if self.displaced.is_empty() {
            None
        } else {
            self.displaced.get(&(parent, name.clone())).copied()
        };
        let number = displaced.unwrap_or_else(|| self.path_hash(parent, name, found).number());
        let node = self.nodes.get(&number)?;
        node.links.contains(parent, name).then_some(Ino(number))
    }

    /// The node for what was found under a name, made if it is not known. Adds `lookups` to its count.
    pub(super) fn intern(&mut self, parent: Ino, name: &Name, found: &Identity, lookups: u64) -> Ino {
        let ino = self.interned(parent, name, found, lookups);
        let count = i64::try_from(lookups).ok();
        self.commit(count.map(|count| Event::Looked { ino: ino.0, count }));
        ino
    }

    /// The node for what a request has just made, with its lookup; the intent `settles` was carried out. It is told as one
    /// change: else one that is resumed in between would count the lookup once more.
    pub(super) fn intern_made(
        &mut self,
        parent: Ino,
        name: &Name,
        found: &Identity,
        settles: Option<u64>,
    ) -> (Ino, Generation) {
        let ino = self.interned(parent, name, found, 1);
        let generation = self.nodes.get(&ino.0).map_or(Generation(0), |node| node.generation);
        let looked = Event::Looked { ino: ino.0, count: 1 };
        let done = Some(Done::Made { ino: ino.0, generation: generation.0 });
        let settled = settles.map(|id| Event::Settled { id, done });
        self.commit([looked].into_iter().chain(settled));
        (ino, generation)
    }

    fn interned(&mut self, parent: Ino, name: &Name, found: &Identity, lookups: u64) -> Ino {
        let known = self.identify(parent, name, found);
        let ino = known.unwrap_or_else(|| self.insert(parent, name, found));
        let node = self.nodes.get_mut(&ino.0);
        let new_link = node.is_some_and(|node| {
            node.lookups += lookups;
            if found.source.has_lower() {
                node.source = found.source;
            }
            !node.links.contains(parent, name)
        });
        if new_link {
            self.add_link(ino, parent, name);
        }
        self.touch(ino);
        ino
    }

    fn insert(&mut self, parent: Ino, name: &Name, found: &Identity) -> Ino {
        let path_hash = self.path_hash(parent, name, found);
        let upper = found.source.upper().map(number::of_upper);
        let mut node = Node::new(found.kind, found.source, Generation(0), path_hash);
        let free = self.free_number(found.candidates(path_hash), node.holder());
        let generation = if Some(free) == upper {
            self.generations += 1;
            Generation(self.generations)
        } else {
            Generation(0)
        };
        match found.source {
            Source::Upper(ino) => drop(self.by_upper.insert(ino, free)),
            Source::Lower | Source::Both(_) if free != path_hash.number() => {
                self.displaced.insert((parent, name.clone()), free);
            }
            Source::Lower | Source::Both(_) => {}
        }
        node.generation = generation;
        node.moved.clone_from(&found.moved);
        self.nodes.insert(free, node);
        Ino(free)
    }

    /// The first candidate that no known inode has and that does not belong to one that is not known.
    fn free_number(&mut self, mut candidates: Candidates, holder: Holder) -> u64 {
        loop {
            let number = candidates.next();
            let others = self.reserved.get(&number).is_some_and(|reserved| *reserved != holder);
            if !others && !self.nodes.contains_key(&number) {
                self.reserved.remove(&number);
                return number;
            }
        }
    }

    /// Gives a node a further name; a name leads to it again, so what is held for the lack of one is let go.
    fn add_link(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            node.links.add((parent, name.clone()));
            if node.held.as_ref().is_some_and(|held| held.lower.is_none()) {
                node.held = None;
            }
            if let Some(dir) = self.nodes.get_mut(&parent.0) {
                dir.children += 1;
            }
        }
    }

    /// Takes a name from a node. If it was the last, the node keeps `held` as long as it is known.
    pub(super) fn remove_link(&mut self, ino: Ino, parent: Ino, name: &Name, held: Held<LO, UO>) -> Dropped {
        let mut dropped = Dropped::default();
        let lower_at = self.place_to_remember(ino, held.lower.as_ref());
        let Some(node) = self.nodes.get_mut(&ino.0) else { return dropped };
        if !node.links.remove(parent, name) {
            return dropped;
        }
        if node.links.first().is_none() {
            let (lower, lower_at) = match node.held.take().map(|old| (old.lower, old.lower_at)) {
                Some((Some(lower), at)) => (Some(lower), at),
                _ => (held.lower, lower_at),
            };
            node.held = Some(Box::new(Held { lower, lower_at, upper: held.upper }));
        }
        self.displaced.remove(&(parent, name.clone()));
        if let Some(dir) = self.nodes.get_mut(&parent.0) {
            dir.children = dir.children.saturating_sub(1);
        }
        self.touch(ino);
        self.prune(ino, &mut dropped);
        self.prune(parent, &mut dropped);
        self.commit(None);
        dropped
    }

    /// Where the lower has what an inode shows, if that is to be remembered.
    fn place_to_remember(&self, ino: Ino, lower: Option<&LO>) -> Option<LowerPath> {
        self.recorder.as_ref().and(lower)?;
        self.lower_path(ino).map(Into::into)
    }

    /// The content of an inode that was copied up is read from the lower until nobody has it open.
    pub(super) fn keep_lower(&mut self, ino: Ino, lower: LO) {
        let lower_at = self.place_to_remember(ino, Some(&lower));
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            node.held = Some(Box::new(Held { lower: Some(lower), lower_at, upper: None }));
            self.touch(ino);
            self.commit(None);
        }
    }

    /// An inode without a name was copied: it is `copy` of the upper now, which has none either. Who reads the lower's
    /// content through an open file goes on to.
    pub(super) fn copied_nameless(&mut self, ino: Ino, number: u64, copy: UO) {
        self.set_copied(ino, number);
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            let (lower, lower_at) = match node.held.take().map(|old| (old.lower, old.lower_at)) {
                Some((lower, at)) if node.lower_opens > 0 => (lower, at),
                _ => (None, None),
            };
            node.held = Some(Box::new(Held { lower, lower_at, upper: Some(copy) }));
        }
        self.commit(None);
    }

    /// An inode that readers have open is another from now on than the one that its name stands for.
    pub(super) fn detach(
        &mut self,
        ino: Ino,
        upper: u64,
        parent: Ino,
        name: &Name,
        held: Held<LO, UO>,
    ) -> Dropped {
        self.by_upper.remove(&upper);
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            node.source = Source::Upper(upper);
        }
        self.remove_link(ino, parent, name, held)
    }

    /// Moves names of nodes, all at once: each node from one name to another. `lower` is where the lower has a
    /// directory through which it shows.
    pub(super) fn move_links(&mut self, moves: &[Move<'_>]) {
        let displaced: Vec<_> =
            moves.iter().map(|m| self.displaced.remove(&(m.from.0, m.from.1.clone()))).collect();
        for (moved, number) in moves.iter().zip(displaced) {
            self.move_link(moved);
            if let Some(number) = number {
                self.displaced.insert((moved.to.0, moved.to.1.clone()), number);
            }
            self.touch(moved.ino);
        }
        self.commit(None);
    }

    fn move_link(&mut self, Move { ino, from, to, lower }: &Move<'_>) {
        let Some(node) = self.nodes.get_mut(&ino.0) else { return };
        if node.links.remove(from.0, from.1) {
            node.links.add((to.0, to.1.clone()));
            node.moved.clone_from(lower);
            if let Some(dir) = self.nodes.get_mut(&from.0.0) {
                dir.children = dir.children.saturating_sub(1);
            }
            if let Some(dir) = self.nodes.get_mut(&to.0.0) {
                dir.children += 1;
            }
        }
    }

    /// An inode of the lower is one of the upper from now on, under the same number.
    pub(super) fn copied_up(&mut self, ino: Ino, upper: u64) {
        self.set_copied(ino, upper);
        self.commit(None);
    }

    fn set_copied(&mut self, ino: Ino, upper: u64) {
        self.touch(ino);
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            if node.kind == FileKind::Directory && node.links.first().is_some() {
                node.source = Source::Both(upper);
            } else {
                node.source = Source::Upper(upper);
                self.by_upper.insert(upper, ino.0);
                if let Some(link) = node.links.first() {
                    self.displaced.remove(link);
                }
            }
        }
    }

    /// Takes from a lookup count what the kernel gives back.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) -> Dropped {
        self.take_lookups(ino, count, None)
    }

    /// Takes back a lookup that was counted for this request, and that the kernel will not hear of.
    pub(super) fn unlook(&mut self, ino: Ino) -> Dropped {
        self.take_lookups(ino, 1, Some(Event::Looked { ino: ino.0, count: -1 }))
    }

    fn take_lookups(&mut self, ino: Ino, count: u64, got: Option<Event<'_>>) -> Dropped {
        let mut dropped = Dropped::default();
        if ino != Ino::ROOT
            && let Some(node) = self.nodes.get_mut(&ino.0)
        {
            node.lookups = node.lookups.saturating_sub(count);
            self.touch(ino);
            self.prune(ino, &mut dropped);
            self.commit(got);
        }
        dropped
    }

    /// An open handle is gone.
    pub(super) fn closed(&mut self, ino: Ino, lower: bool) -> Dropped {
        let mut dropped = Dropped::default();
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            node.opens = node.opens.saturating_sub(1);
            if lower {
                node.lower_opens = node.lower_opens.saturating_sub(1);
            }
            let mut let_go = false;
            if node.lower_opens == 0
                && node.source != Source::Lower
                && let Some(held) = &mut node.held
            {
                let_go = held.lower.take().is_some();
                held.lower_at = None;
                if held.upper.is_none() {
                    node.held = None;
                }
            }
            if let_go {
                self.touch(ino);
            }
            self.prune(ino, &mut dropped);
            self.commit(None);
        }
        dropped
    }

    /// Drops a node that nobody can ask for, and the directories that only it kept.
    fn prune(&mut self, ino: Ino, dropped: &mut Dropped) {
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            if !self.nodes.get(&ino.0).is_some_and(Node::is_unused) {
                return;
            }
            let Some(node) = self.nodes.remove(&ino.0) else { return };
            self.touch(ino);
            let exact = node.source.upper().is_some_and(|upper| number::is_exact(ino.0, upper));
            if !exact && node.links.first().is_some() {
                self.reserved.insert(ino.0, node.holder());
            }
            dropped.0.push(ino);
            if let Source::Upper(upper) = node.source
                && self.by_upper.get(&upper) == Some(&ino.0)
            {
                self.by_upper.remove(&upper);
            }
            for (parent, name) in node.links.all() {
                if !self.displaced.is_empty() {
                    self.displaced.remove(&(parent, name));
                }
                if let Some(dir) = self.nodes.get_mut(&parent.0) {
                    dir.children = dir.children.saturating_sub(1);
                    if dir.is_unused() {
                        match next {
                            None => next = Some(parent),
                            Some(_) => self.prune(parent, dropped),
                        }
                    }
                }
            }
        }
    }

    /// An open handle is there; `lower` if the kernel reads the lower's file through it.
    pub(super) fn opened(&mut self, ino: Ino, lower: bool) {
        if let Some(node) = self.nodes.get_mut(&ino.0) {
            node.opens += 1;
            if lower {
                node.lower_opens += 1;
            }
        }
    }

    /// How many nodes are known.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// A name that a node gets in place of another.
pub(super) struct Move<'a> {
    pub(super) ino: Ino,
    pub(super) from: (Ino, &'a Name),
    pub(super) to: (Ino, &'a Name),
    /// For [`Node::moved`].
    pub(super) lower: Option<LowerPath>,
}

/// Numbers that mean nothing any more: what is cached for them goes.
#[derive(Debug, Default)]
#[must_use = "caches keep objects of these"]
pub(super) struct Dropped(pub(super) Vec<Ino>);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::unreachable, clippy::let_underscore_must_use, reason = "test code")]

    use super::*;

    type Nodes = Table<(), ()>;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn file(source: Source) -> Identity {
        Identity { kind: FileKind::Regular, source, origin: None, moved: None }
    }

    fn dir(source: Source) -> Identity {
        Identity { kind: FileKind::Directory, source, origin: None, moved: None }
    }

    const GONE: Held<(), ()> = Held { lower: Some(()), lower_at: None, upper: None };

    #[test]
    fn a_child_keeps_the_directories_above_it() {
        let mut table = Nodes::new(Source::Lower);
        let store = table.intern(Ino::ROOT, &name("store"), &dir(Source::Lower), 1);
        let pkg = table.intern(store, &name("pkg"), &dir(Source::Lower), 1);
        let leaf = table.intern(pkg, &name("leaf"), &file(Source::Lower), 2);
        assert_eq!(table.forget(store, 1).0, []);
        assert_eq!(table.forget(pkg, 1).0, []);
        assert_eq!(table.path(leaf).unwrap(), [name("store"), name("pkg"), name("leaf")]);
        assert_eq!(table.forget(leaf, 1).0, []);
        assert_eq!(table.forget(leaf, 1).0, [leaf, pkg, store]);
        assert_eq!(table.len(), 1);
        assert_eq!(table.forget(Ino::ROOT, 99).0, [], "the root stays");
        assert_eq!(table.forget(leaf, 1).0, [], "an unknown inode is ignored");
    }

    #[test]
    fn an_origin_that_is_taken_changes_the_number_and_nothing_else() {
        let mut table = Nodes::new(Source::Both(2));
        let a = table.intern(Ino::ROOT, &name("a"), &file(Source::Lower), 1);
        let stale = Identity { origin: Some(a.0), ..file(Source::Upper(7)) };
        let b = table.intern(Ino::ROOT, &name("b"), &stale, 1);
        assert_eq!(b, Ino(number::of_upper(7)));
        assert_eq!(table.get(a).unwrap().source, Source::Lower);
        let again = table.intern(Ino::ROOT, &name("b"), &stale, 1);
        assert_eq!(again, b);
        assert_eq!(table.forget(a, 1).0, [a]);
        assert_eq!(
            table.intern(Ino::ROOT, &name("b"), &stale, 1),
            b,
            "a live inode never changes its number"
        );
        for bad in [0, 1, number::of_upper(9)] {
            let lying = Identity { origin: Some(bad), ..file(Source::Upper(20 + bad % 8)) };
            let ino = table.intern(Ino::ROOT, &name(&format!("bad{bad}")), &lying, 1);
            assert_eq!(ino, Ino(number::of_upper(20 + bad % 8)));
        }
    }

    #[test]
    fn colliding_path_numbers_get_a_second_probe() {
        let mut table = Nodes::new(Source::Lower);
        let wanted = PathHash::ROOT.child(&name("b")).number();
        // Something else sits at the number of /b already.
        let squatter = Identity { origin: Some(wanted), ..file(Source::Upper(5)) };
        assert_eq!(table.intern(Ino::ROOT, &name("a"), &squatter, 1), Ino(wanted));
        let b = table.intern(Ino::ROOT, &name("b"), &file(Source::Lower), 1);
        assert_ne!(b, Ino(wanted));
        assert_eq!(table.intern(Ino::ROOT, &name("b"), &file(Source::Lower), 1), b);
        assert_eq!(table.forget(Ino(wanted), 1).0, [Ino(wanted)]);
        assert_eq!(table.intern(Ino::ROOT, &name("b"), &file(Source::Lower), 1), b, "found again by name");
        assert_eq!(table.forget(b, 3).0, [b]);
        assert!(table.displaced.is_empty());
        // The squatter has a name, so a program may remember its number: no other inode gets it.
        assert_eq!(table.intern(Ino::ROOT, &name("b"), &file(Source::Lower), 1), b);
        assert_eq!(table.intern(Ino::ROOT, &name("a"), &squatter, 1), Ino(wanted));
    }

    /// Two names of the root whose paths have one short number.
    fn colliding() -> [Name; 2] {
        let mut seen = HashMap::new();
        for n in 0_u32.. {
            let name = name(&format!("f{n}"));
            if let Some(other) = seen.insert(PathHash::ROOT.child(&name).number(), name.clone()) {
                return [other, name];
            }
        }
        unreachable!("there are more names than numbers")
    }

    #[test]
    fn paths_whose_numbers_collide_are_never_one_whatever_is_forgotten_meanwhile() {
        let [a, b] = colliding();
        let mut table = Nodes::new(Source::Both(2));
        let first = table.intern(Ino::ROOT, &a, &file(Source::Lower), 1);
        assert_eq!(table.forget(first, 1).0, [first]);
        let second = table.intern(Ino::ROOT, &b, &file(Source::Lower), 1);
        assert_ne!(second, first, "a program may remember the number of a file that the kernel forgot");
        assert_eq!(table.forget(second, 1).0, [second]);
        assert_eq!(table.intern(Ino::ROOT, &b, &file(Source::Lower), 1), second);
        assert_eq!(table.intern(Ino::ROOT, &a, &file(Source::Lower), 1), first);
        // A copy keeps the number, also once it is forgotten.
        table.copied_up(second, 40);
        assert_eq!(table.forget(second, 1).0, [second]);
        let copy = Identity { origin: Some(second.0), ..file(Source::Upper(40)) };
        assert_eq!(table.intern(Ino::ROOT, &name("moved"), &copy, 1), second);
        // A removed file gives its number back.
        let _ = table.remove_link(first, Ino::ROOT, &a, GONE);
        assert_eq!(table.forget(first, 1).0, [first]);
        assert_eq!(table.reserved, HashMap::new());
    }

    #[test]
    fn a_restored_table_keeps_numbers_of_what_was_forgotten() {
        let [a, b] = colliding();
        let number = PathHash::ROOT.child(&a).number();
        let holder = Holder::path(PathHash::ROOT.child(&a));
        let mut table = Nodes::new(Source::Lower);
        table.restore(Vec::new(), 0, &[(number, holder.0)]);
        assert_ne!(table.intern(Ino::ROOT, &b, &file(Source::Lower), 1), Ino(number));
        assert_eq!(table.intern(Ino::ROOT, &a, &file(Source::Lower), 1), Ino(number));
    }

    #[test]
    fn large_numbers_of_the_upper_are_distinct_below_two_to_the_53rd() {
        let mut table = Nodes::new(Source::Both(2));
        let mut all = std::collections::HashSet::new();
        for n in 0..2000_u64 {
            let upper = u64::MAX - n * 0x1_0000_0001;
            let ino = table.intern(Ino::ROOT, &name(&format!("f{n}")), &file(Source::Upper(upper)), 1);
            assert!(ino.0 < 1 << 53 && all.insert(ino.0));
            assert_eq!(table.forget(ino, 1).0, [ino]);
            assert_eq!(table.intern(Ino::ROOT, &name(&format!("f{n}")), &file(Source::Upper(upper)), 0), ino);
        }
    }

    #[test]
    fn hard_links_are_one_node_and_generations_tell_reused_numbers_apart() {
        let mut table = Nodes::new(Source::Both(2));
        let a = table.intern(Ino::ROOT, &name("a"), &file(Source::Upper(7)), 1);
        assert_eq!(table.intern(Ino::ROOT, &name("b"), &file(Source::Upper(7)), 1), a);
        let first = table.get(a).unwrap().generation;
        assert_eq!(table.remove_link(a, Ino::ROOT, &name("a"), GONE).0, []);
        assert!(table.is_linked(a));
        assert_eq!(table.remove_link(a, Ino::ROOT, &name("b"), GONE).0, []);
        assert!(table.get(a).unwrap().held.is_some());
        assert_eq!(table.forget(a, 2).0, [a]);
        assert_eq!(table.intern(Ino::ROOT, &name("c"), &file(Source::Upper(7)), 1), a);
        assert_ne!(table.get(a).unwrap().generation, first);
    }
}
