//! Going on where another process was killed.
//!
//! The inode table and the handles are put back as they were told ([`record`](super::record)); then the disk is asked of each
//! intent whether it was carried out, and the table brought in step. What the kernel knows means the same from then on.

use std::io;
use std::sync::Arc;

use super::copy_up::Published;
use super::handles::Handles;
use super::inode_table::Move;
use super::node::{Held, Link, LowerPath, Node, names};
use super::place::Side;
use super::record::{Done, Event, HeldOpen, Intent, LinkRecord, Moment, Past, Path, Recorder, made};
use super::{Options, Outcome, UnionFs};
use crate::layer::{Lower, Presence, Upper};
use crate::vfs::{Errno, Ino, Name, Timespec};

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Tells `recorder` of everything from here on. To be called before the first request.
    #[must_use]
    pub fn recorded(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.table.get_mut().tell(Arc::clone(&recorder));
        self.recorder = Some(recorder);
        self
    }

    /// Joins two layers as they were joined by a process that is dead: with the inodes and handles of `past`, of which
    /// `held` were kept open. `recorder` is told what is found out about the intents, and of everything from here on.
    ///
    /// # Errors
    /// Those of reading the layers; `InvalidData` if `past` is not what a union told.
    pub fn resume(
        lower: L,
        upper: Option<U>,
        options: Options,
        recorder: Arc<dyn Recorder>,
        past: &Past<'_>,
        mut held: HeldOpen,
    ) -> io::Result<Self> {
        let mut fs = Self::new(lower, upper, options)?;
        fs.put_back(past, &mut held).map_err(|errno| {
            io::Error::new(io::ErrorKind::InvalidData, format!("what was remembered is unsound: {errno}"))
        })?;
        let fs = fs.recorded(recorder);
        if let Some(upper) = &fs.upper {
            upper.clear_drafts()?;
        }
        let mut intents: Vec<_> = past.intents.iter().collect();
        // What is below a directory that was moved is found again when the table knows of the move.
        let moves_directories =
            |intent: &Intent<'_>| matches!(intent, Intent::Move { directories: true, .. });
        intents.sort_by_key(|(id, intent)| (!moves_directories(intent), *id));
        for (id, intent) in intents {
            let done = match fs.complete(*id, intent, &mut held) {
                Ok(done) => done,
                // The directory, or what was in it, is gone: so is what was intended.
                Err(Errno::ESTALE | Errno::ENOENT) => None,
                Err(errno) => return Err(errno.into()),
            };
            // What was made is settled as it is entered.
            if !matches!(done, Some(Done::Made { .. })) {
                fs.note(&[Event::Settled { id: *id, done }]);
            }
        }
        // Kept for a removal that did not happen, or by a process that was killed before it could let go.
        // What an intent was completed with is kept anew, under the same number.
        let unused: Vec<Ino> = {
            let table = fs.table.lock();
            let holds = |ino: &Ino| {
                table.get(*ino).is_ok_and(|node| node.held.as_ref().is_some_and(|held| held.upper.is_some()))
            };
            held.into_keys().filter(|ino| !holds(ino)).collect()
        };
        for ino in unused {
            fs.recorder.iter().for_each(|recorder| recorder.let_go(ino));
        }
        Ok(fs)
    }

    /// Puts the table and the handles back.
    fn put_back(&mut self, past: &Past<'_>, held: &mut HeldOpen) -> Outcome<()> {
        let passes_through = self.passes_through();
        let mut nodes = Vec::with_capacity(past.nodes.len());
        for (ino, record) in &past.nodes {
            let mut node = Node::restored(record)?;
            let reads = record.reads.as_deref().map(names).transpose()?;
            let object = match &reads {
                Some(path) => self.found_again(path),
                None => None,
            };
            let upper = if record.held { self.taken(held, Ino(*ino)) } else { None };
            if object.is_some() || upper.is_some() {
                let lower_at = reads.map(LowerPath::from);
                node.held = Some(Box::new(Held { lower: object, lower_at, upper }));
            }
            nodes.push((Ino(*ino), node));
        }
        let table = self.table.get_mut();
        table.restore(nodes, past.generations, &past.reserved);
        let side = |lower: bool| if lower { Side::Lower } else { Side::Upper };
        for (_, ino, lower) in &past.handles {
            table.opened(*ino, *lower && passes_through);
        }
        let handles = past.handles.iter().map(|(handle, ino, lower)| (*handle, *ino, side(*lower)));
        self.handles = Handles::restored(past.last_handle, handles);
        Ok(())
    }

    /// What the lower has at a path whose name in the view is gone. Without it the inode answers `ESTALE`, and no other does.
    fn found_again(&self, path: &[Name]) -> Option<L::Object> {
        let found = self.lower.resolve(path);
        found.inspect_err(|error| tracing::warn!(?path, %error, "an inode without a name is lost")).ok()
    }

    /// The upper's inode that was kept open for an inode of the view.
    fn taken(&self, held: &mut HeldOpen, ino: Ino) -> Option<U::Object> {
        let adopted = self.upper.as_ref()?.adopt(held.remove(&ino)?);
        adopted.inspect_err(|error| tracing::warn!(%ino, %error, "an inode without a name is lost")).ok()
    }

    /// Brings the table in step with the disk if an intent was carried out; answers what its request has got.
    fn complete(&self, id: u64, intent: &Intent<'_>, held: &mut HeldOpen) -> Outcome<Option<Done>> {
        match intent {
            Intent::Make { link, object } => {
                let (parent, name) = own(link)?;
                let Some(made_object) = self.is_at(parent, &name, *object)? else { return Ok(None) };
                let place = self.place(parent)?;
                Ok(Some(made(&self.enter(&place, &name, made_object, Some(id))?)))
            }
            Intent::CopyUp { ino, link, object, busy, split, times } => {
                let link = own(link)?;
                let Some(copy) = self.is_at(link.0, &link.1, *object)? else { return Ok(None) };
                self.complete_copy(Ino(*ino), &link, (*object, &copy), (*busy, *split), *times)?;
                Ok(None)
            }
            Intent::Remove { link, object, ino } => {
                let (parent, name) = own(link)?;
                let gone = match (self.presence_at(parent, &name)?, object) {
                    (Presence::Present(found), Some(object)) => self.upper()?.stat(&found)?.ino != *object,
                    (Presence::Whiteout, _) | (Presence::Absent, Some(_)) => true,
                    (Presence::Present(_) | Presence::Absent, None) => false,
                };
                if !gone {
                    return Ok(None);
                }
                self.complete_removal(ino.map(Ino), parent, &name, held)?;
                Ok(Some(Done::Changed))
            }
            Intent::Move { from, to, object, source, target, exchange, .. } => {
                let (from, to) = (own(from)?, own(to)?);
                if self.is_at(to.0, &to.1, *object)?.is_none() {
                    return Ok(None);
                }
                if let (false, Some(ino)) = (*exchange, target.0) {
                    self.complete_removal(Some(Ino(ino)), to.0, &to.1, held)?;
                }
                let (a, b) = ((from.0, &from.1), (to.0, &to.1));
                let mut moves = Vec::new();
                if let Some(ino) = source.0.map(Ino) {
                    moves.push(Move { ino, from: a, to: b, lower: lower_path(&source.1)? });
                }
                if let (true, Some(ino)) = (*exchange, target.0.map(Ino)) {
                    moves.push(Move { ino, from: b, to: a, lower: lower_path(&target.1)? });
                }
                self.table.lock().move_links(&moves);
                Ok(Some(Done::Changed))
            }
        }
    }

    /// What the upper has under a name of a directory.
    fn presence_at(&self, parent: Ino, name: &Name) -> Outcome<Presence<U::Object>> {
        let dir = self.upper_object(parent)?;
        Ok(self.upper()?.presence(&dir, name)?)
    }

    /// The object of the upper under a name, if it is the one with this number.
    fn is_at(&self, parent: Ino, name: &Name, number: u64) -> Outcome<Option<U::Object>> {
        match self.presence_at(parent, name)? {
            Presence::Present(object) if self.upper()?.stat(&object)?.ino == number => Ok(Some(object)),
            _ => Ok(None),
        }
    }

    fn complete_copy(
        &self,
        ino: Ino,
        link: &Link,
        (number, copy): (u64, &U::Object),
        (busy, split): (bool, bool),
        times: (Moment, Moment),
    ) -> Outcome<()> {
        let time = |(seconds, nanoseconds)| Timespec { seconds, nanoseconds };
        let times = (time(times.0), time(times.1));
        let parent = self.upper_object(link.0)?;
        let lower_path = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            if node.source.upper().is_some_and(|u| u != number) {
                return Ok(());
            }
            if !node.links.contains(link.0, &link.1) {
                // The name was the copy's already; perhaps the directory has not got its times back.
                drop(table);
                return self.keep_times(&parent, times);
            }
            busy.then(|| table.lower_path(ino).ok_or(Errno::ESTALE)).transpose()?
        };
        let lower = lower_path.map(|path| self.lower.resolve(&path)).transpose()?;
        self.published(Published { ino, link, object: copy, number, lower, split, parent: &parent, times })
    }

    /// Takes a name from an inode that has lost it on the disk.
    fn complete_removal(
        &self,
        ino: Option<Ino>,
        parent: Ino,
        name: &Name,
        held: &mut HeldOpen,
    ) -> Outcome<()> {
        let Some(ino) = ino else { return Ok(()) };
        let path = {
            let table = self.table.lock();
            let Ok(node) = table.get(ino) else { return Ok(()) };
            if !node.links.contains(parent, name) {
                return Ok(());
            }
            node.source.has_lower().then(|| table.lower_path(ino)).flatten()
        };
        let lower = match path {
            Some(path) => self.found_again(&path),
            None => None,
        };
        let held = Held { lower, lower_at: None, upper: self.taken(held, ino) };
        let dropped = self.table.lock().remove_link(ino, parent, name, held);
        self.purge(dropped);
        Ok(())
    }
}

fn own(link: &LinkRecord<'_>) -> Outcome<Link> {
    Ok((Ino(link.0), Name::new(link.1)?))
}

fn lower_path(path: &Option<Path<'_>>) -> Outcome<Option<LowerPath>> {
    Ok(path.as_deref().map(names).transpose()?.map(Into::into))
}
