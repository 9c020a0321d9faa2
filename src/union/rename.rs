//! Moving and exchanging names.
//!
//! Files are copied up first. Directories move if they are the upper's alone; one that the lower has, or shows through,
//! answers `EXDEV`, as overlayfs without `redirect_dir`, and mv(1) copies it.

use super::copy_up::Need;
use super::place::{FoundOf, PlaceOf};
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Errno, Ino, Name, RenameMode};

/// Both ends of a move, looked up with the directories' locks held.
struct Ends<'a, L: Lower, U: Upper> {
    from: &'a PlaceOf<L, U>,
    to: &'a PlaceOf<L, U>,
    source: FoundOf<L, U>,
    target: Option<FoundOf<L, U>>,
    source_ino: Option<Ino>,
    target_ino: Option<Ino>,
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    pub(super) fn move_name(&self, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Outcome<()> {
        let upper = self.upper()?;
        let mut victim = None;
        loop {
            let (a, b) = (self.place(from.0)?, self.place(to.0)?);
            let source = self.find(&a, from.1)?.ok_or(Errno::ENOENT)?;
            let target = self.find(&b, to.1)?;
            let directories = source.is_directory() || target.as_ref().is_some_and(|t| t.is_directory());
            match mode {
                RenameMode::NoReplace if target.is_some() => return Err(Errno::EEXIST),
                RenameMode::Exchange if target.is_none() => return Err(Errno::ENOENT),
                _ if from == to => return Ok(()),
                _ => {}
            }
            self.copy_up_file(from, &source)?;
            if mode == RenameMode::Exchange
                && let Some(target) = &target
            {
                self.copy_up_file(to, target)?;
            }
            let (a, b) = (self.changeable_place(from.0)?, self.changeable_place(to.0)?);
            let _topology = directories.then(|| self.topology.lock());
            let mut locks = vec![from.0, to.0];
            locks.extend(victim);
            let _changing = self.lock_names(&locks);
            if !self.is_current(&a)? || !self.is_current(&b)? {
                continue;
            }
            let source = self.find(&a, from.1)?.ok_or(Errno::ENOENT)?;
            let target = self.find(&b, to.1)?;
            let (source_ino, target_ino) = {
                let table = self.table.lock();
                let known = |ino, name, found: &FoundOf<L, U>| table.identify(ino, name, &found.identity);
                (known(from.0, from.1, &source), target.as_ref().and_then(|t| known(to.0, to.1, t)))
            };
            let ends = Ends { from: &a, to: &b, source, target, source_ino, target_ino };
            if ends.touches_directories() && !directories {
                continue;
            }
            if self.refuse(&ends, from, to, mode)? {
                return Ok(());
            }
            let files = [Some(&ends.source), ends.target.as_ref().filter(|_| mode == RenameMode::Exchange)];
            if files.into_iter().flatten().any(|f| f.upper.is_none()) {
                continue;
            }
            if mode == RenameMode::Exchange {
                return self.exchange(upper, ends, from, to);
            }
            if let Some(target) = ends.target.as_ref().filter(|t| t.is_directory()) {
                if ends.target_ino.is_some() && ends.target_ino != victim {
                    victim = ends.target_ino;
                    continue;
                }
                self.check_empty(target)?;
            }
            return self.replace(upper, ends, from, to);
        }
    }

    /// Copies up what is moved; directories are not.
    fn copy_up_file(&self, at: (Ino, &Name), found: &FoundOf<L, U>) -> Outcome<()> {
        if found.upper.is_none()
            && !found.is_directory()
            && let Some(pinned) = self.pin(at.0, at.1)?
        {
            self.copy_up(pinned.ino, Need::Metadata, &|_| Ok(()))?;
        }
        Ok(())
    }

    /// The rules of rename(2), in the kernel's order. True: there is nothing to do.
    fn refuse(
        &self,
        ends: &Ends<'_, L, U>,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
    ) -> Outcome<bool> {
        let exchange = mode == RenameMode::Exchange;
        match (&ends.target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            _ => {}
        }
        let is_above = |moved: Option<Ino>, dir: Ino| {
            moved.is_some_and(|ino| ino == dir || self.table.lock().ancestors(dir).contains(&ino))
        };
        if ends.source.is_directory() && is_above(ends.source_ino, to.0) {
            return Err(Errno::EINVAL);
        }
        let Some(target) = &ends.target else { return self.refuse_merged(ends, exchange) };
        if target.is_directory() && is_above(ends.target_ino, from.0) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if ends.source.upper.is_some() && ends.source.source() == target.source() {
            return Ok(true);
        }
        match (ends.source.is_directory(), target.is_directory()) {
            (true, false) if !exchange => Err(Errno::ENOTDIR),
            (false, true) if !exchange => Err(Errno::EISDIR),
            _ => self.refuse_merged(ends, exchange),
        }
    }

    /// `EXDEV` for directories through which the lower shows, or would show at the other place.
    fn refuse_merged(&self, ends: &Ends<'_, L, U>, exchange: bool) -> Outcome<bool> {
        let target = ends.target.as_ref().filter(|_| exchange).map(|t| (t, ends.from));
        for (moved, place) in [Some((&ends.source, ends.to)), target].into_iter().flatten() {
            if !moved.is_directory() {
                continue;
            }
            let Some(object) = moved.upper.as_ref().filter(|_| moved.lower.is_none()) else {
                return Err(Errno::EXDEV);
            };
            if place.lower.is_some() && !self.upper()?.is_opaque(object)? {
                return Err(Errno::EXDEV);
            }
        }
        Ok(false)
    }

    fn replace(&self, upper: &U, ends: Ends<'_, L, U>, from: (Ino, &Name), to: (Ino, &Name)) -> Outcome<()> {
        let (Some(a), Some(b)) = (&ends.from.upper, &ends.to.upper) else { return Err(Errno::ESTALE) };
        let whiteout = self.lower_has(ends.from, from.1)?;
        upper.rename((a, from.1), (b, to.1), whiteout)?;
        if let Some(target) = ends.target {
            self.unlinked(ends.target_ino, to, target);
        }
        if let Some(ino) = ends.source_ino {
            self.table.lock().move_link(ino, from, to);
        }
        Ok(())
    }

    fn exchange(&self, upper: &U, ends: Ends<'_, L, U>, from: (Ino, &Name), to: (Ino, &Name)) -> Outcome<()> {
        let (Some(a), Some(b)) = (&ends.from.upper, &ends.to.upper) else { return Err(Errno::ESTALE) };
        upper.exchange((a, from.1), (b, to.1))?;
        let mut table = self.table.lock();
        if let Some(ino) = ends.source_ino {
            table.move_link(ino, from, to);
        }
        if let Some(ino) = ends.target_ino {
            table.move_link(ino, to, from);
        }
        Ok(())
    }
}

impl<L: Lower, U: Upper> Ends<'_, L, U> {
    fn touches_directories(&self) -> bool {
        self.source.is_directory() || self.target.as_ref().is_some_and(|t| t.is_directory())
    }
}
