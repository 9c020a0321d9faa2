//! What a server's notes come to: read back, and written as short as they can be.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::memory::{begin_frame, end_frame, frames};
use crate::fuse::{self, OpenFiles};
use crate::union::record::{self, Done, Event, Intent, NodeRecord};
use crate::vfs::{Generation, Handle, Ino};

/// One note.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Note<'a> {
    /// Of the union.
    #[serde(borrow)]
    Union(Event<'a>),
    /// The request must not be carried out twice, and is about to be.
    Start,
    /// The inode is served from this backing file.
    Backed { ino: u64, id: u32 },
    /// It is not any more.
    Unbacked { ino: u64 },
    /// What this request had got and the kernel does not know of is taken back.
    TakenBack { request: u64 },
    /// This request was answered: it is not asked again.
    Answered { request: u64 },
    /// The highest numbers that were given.
    Highest { generation: u64, handle: u64, backing: u32, intent: u64 },
}

/// What a request has got.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Got {
    lookups: HashMap<u64, i64>,
    handles: Vec<u64>,
    done: Option<Done>,
    started: bool,
}

impl Got {
    /// True if it is not worth a note.
    fn is_nothing(&self) -> bool {
        self.done.is_none()
            && !self.started
            && self.handles.is_empty()
            && self.lookups.values().all(|n| *n <= 0)
    }

    /// The request has made something, or changed what it was to.
    pub(super) fn finish(&mut self, done: Done) {
        self.done = Some(done);
    }

    /// Takes out what is to be taken back, and answers it with what was done for good; `handles` are those that are open.
    pub(super) fn take(&mut self, handles: &BTreeMap<u64, (u64, bool)>) -> fuse::Past {
        let made = match self.done {
            Some(Done::Made { ino, generation }) => Some((Ino(ino), Generation(generation))),
            _ => None,
        };
        let kept = |ino: u64| i64::from(made.is_some_and(|(made, _)| made.0 == ino));
        let lookups = self.lookups.drain().filter_map(|(ino, count)| {
            let count = u64::try_from(count - kept(ino)).ok().filter(|n| *n > 0)?;
            Some((Ino(ino), count))
        });
        let lookups = lookups.collect();
        let handles =
            self.handles.drain(..).filter_map(|handle| Some((Ino(handles.get(&handle)?.0), Handle(handle))));
        fuse::Past {
            lookups,
            handles: handles.collect(),
            made,
            changed: self.done == Some(Done::Changed),
            started: self.started,
        }
    }
}

fn gone(ino: u64, holder: Option<u64>) -> Note<'static> {
    Note::Union(Event::Gone { ino, holder })
}

/// All that is known, out of the notes `'a`.
#[derive(Debug, Default)]
pub(super) struct Past<'a> {
    nodes: HashMap<u64, NodeRecord<'a>>,
    /// The inodes that numbers of unknown inodes belong to.
    reserved: BTreeMap<u64, u64>,
    /// Inode, and whether it is the lower's file.
    pub(super) handles: BTreeMap<u64, (u64, bool)>,
    /// With the request.
    intents: BTreeMap<u64, (u64, Intent<'a>)>,
    pub(super) got: HashMap<u64, Got>,
    backings: HashMap<u64, u32>,
    generation: u64,
    handle: u64,
    backing: u32,
    pub(super) intent: u64,
}

impl<'a> Past<'a> {
    /// Reads notes back.
    ///
    /// # Errors
    /// If they are none.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, postcard::Error> {
        let mut past = Self::default();
        for (request, mut content) in frames(bytes) {
            while !content.is_empty() {
                let (note, rest) = postcard::take_from_bytes::<Note<'a>>(content)?;
                past.add(request, note);
                content = rest;
            }
        }
        Ok(past)
    }

    fn got(&mut self, request: u64) -> Option<&mut Got> {
        (request != 0).then(|| self.got.entry(request).or_default())
    }

    fn add(&mut self, request: u64, note: Note<'a>) {
        match note {
            Note::Union(event) => self.add_event(request, event),
            Note::Start => {
                if let Some(got) = self.got(request) {
                    got.started = true;
                }
            }
            Note::Backed { ino, id } => {
                self.backings.insert(ino, id);
                self.backing = self.backing.max(id);
            }
            Note::Unbacked { ino } => drop(self.backings.remove(&ino)),
            Note::TakenBack { request } => {
                if let Some(got) = self.got.get_mut(&request) {
                    drop(got.take(&BTreeMap::new()));
                }
            }
            Note::Answered { request } => drop(self.got.remove(&request)),
            Note::Highest { generation, handle, backing, intent } => {
                self.generation = self.generation.max(generation);
                self.handle = self.handle.max(handle);
                self.backing = self.backing.max(backing);
                self.intent = self.intent.max(intent);
            }
        }
    }

    fn add_event(&mut self, request: u64, event: Event<'a>) {
        match event {
            Event::Node { ino, node } => {
                self.generation = self.generation.max(node.generation);
                self.nodes.insert(ino, node);
                self.reserved.remove(&ino);
            }
            Event::Gone { ino, holder } => {
                self.nodes.remove(&ino);
                self.reserved.extend(holder.map(|holder| (ino, holder)));
            }
            Event::Looked { ino, count } => {
                if let Some(got) = self.got(request) {
                    *got.lookups.entry(ino).or_default() += count;
                }
            }
            Event::Opened { handle, ino, lower } => {
                self.handles.insert(handle, (ino, lower));
                self.handle = self.handle.max(handle);
                if let Some(got) = self.got(request) {
                    got.handles.push(handle);
                }
            }
            Event::Closed { handle } => drop(self.handles.remove(&handle)),
            Event::Intends { id, intent } => {
                self.intent = self.intent.max(id);
                self.intents.insert(id, (request, intent));
            }
            Event::Settled { id, done } => {
                let request = self.intents.remove(&id).map_or(request, |(request, _)| request);
                if let (Some(done), Some(got)) = (done, self.got(request)) {
                    got.finish(done);
                }
            }
        }
    }

    /// The notes that come to the same; what requests have got only for those of `asked`.
    ///
    /// # Errors
    /// If a note cannot be written.
    pub(super) fn write(&self, asked: &HashSet<u64>) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = Vec::new();
        let mut frame = |request: u64, notes: &[Note<'_>]| -> Result<(), postcard::Error> {
            let start = begin_frame(&mut bytes, request);
            for note in notes {
                bytes = postcard::to_extend(note, std::mem::take(&mut bytes))?;
            }
            end_frame(&mut bytes, start);
            Ok(())
        };
        let (generation, handle, backing, intent) = (self.generation, self.handle, self.backing, self.intent);
        frame(0, &[Note::Highest { generation, handle, backing, intent }])?;
        for (ino, node) in &self.nodes {
            frame(0, &[Note::Union(Event::Node { ino: *ino, node: node.clone() })])?;
        }
        let reserved: Vec<_> = self.reserved.iter().map(|(ino, holder)| gone(*ino, Some(*holder))).collect();
        frame(0, &reserved)?;
        for (handle, (ino, lower)) in &self.handles {
            frame(0, &[Note::Union(Event::Opened { handle: *handle, ino: *ino, lower: *lower })])?;
        }
        for (ino, id) in &self.backings {
            frame(0, &[Note::Backed { ino: *ino, id: *id }])?;
        }
        for (request, got) in self.got.iter().filter(|(r, got)| asked.contains(r) && !got.is_nothing()) {
            let mut notes: Vec<Note<'_>> = Vec::new();
            notes.extend(
                got.lookups.iter().map(|(ino, n)| Note::Union(Event::Looked { ino: *ino, count: *n })),
            );
            for handle in &got.handles {
                if let Some((ino, lower)) = self.handles.get(handle) {
                    notes.push(Note::Union(Event::Opened { handle: *handle, ino: *ino, lower: *lower }));
                }
            }
            // No intent has the number 0.
            notes.extend(got.done.map(|done| Note::Union(Event::Settled { id: 0, done: Some(done) })));
            notes.extend(got.started.then_some(Note::Start));
            frame(*request, &notes)?;
        }
        for (id, (request, intent)) in &self.intents {
            frame(*request, &[Note::Union(Event::Intends { id: *id, intent: intent.clone() })])?;
        }
        Ok(bytes)
    }

    /// The requests that have intents of which is not known what came of them, by the intents' numbers.
    pub(super) fn unsettled(&self) -> HashMap<u64, u64> {
        self.intents.iter().map(|(id, (request, _))| (*id, *request)).collect()
    }

    /// What the union had.
    pub(super) fn of_union(&self) -> record::Past<'a> {
        record::Past {
            nodes: self.nodes.iter().map(|(ino, node)| (*ino, node.clone())).collect(),
            reserved: self.reserved.iter().map(|(ino, holder)| (*ino, *holder)).collect(),
            generations: self.generation,
            handles: self.handles.iter().map(|(h, (ino, lower))| (Handle(*h), Ino(*ino), *lower)).collect(),
            last_handle: self.handle,
            intents: self.intents.iter().map(|(id, (_, intent))| (*id, intent.clone())).collect(),
        }
    }

    /// What the connection had.
    pub(super) fn of_connection(&self) -> OpenFiles {
        let mut opens: HashMap<u64, u64> = HashMap::new();
        for (ino, _) in self.handles.values() {
            *opens.entry(*ino).or_default() += 1;
        }
        let inodes =
            opens.into_iter().map(|(ino, opens)| (Ino(ino), opens, self.backings.get(&ino).copied()));
        OpenFiles { inodes: inodes.collect(), highest: self.backing }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn numbers_of_forgotten_inodes_outlive_many_servers() {
        let mut bytes = Vec::new();
        for note in [gone(7, Some(70)), gone(8, None), gone(9, Some(90)), gone(9, None)] {
            let start = begin_frame(&mut bytes, 0);
            bytes = postcard::to_extend(&note, bytes).unwrap();
            end_frame(&mut bytes, start);
        }
        for _ in 0..3 {
            let past = Past::read(&bytes).unwrap();
            assert_eq!(past.of_union().reserved, [(7, 70), (9, 90)]);
            bytes = past.write(&HashSet::new()).unwrap();
        }
    }
}
