//! Moving and exchanging names.
//!
//! What is moved is copied up first: of a directory itself alone, not what is in it. A directory through which the lower
//! shows takes along where that is, as overlayfs with `redirect_dir=on`; where the upper's format has no place for it,
//! `EXDEV` is answered, and mv(1) copies.

use super::copy_up::Need;
use super::inode_table::Move;
use super::node::{self, LowerPath};
use super::place::{FoundOf, PlaceOf};
use super::record::{self, Done, Intent};
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Redirect, Upper};
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
                _ if target.is_none() && self.is_part(&b, to.1)? => return Err(Errno::EEXIST),
                _ => {}
            }
            self.copy_up_moved(from, &source)?;
            if mode == RenameMode::Exchange
                && let Some(target) = &target
            {
                self.copy_up_moved(to, target)?;
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
            let moved = [Some(&ends.source), ends.target.as_ref().filter(|_| mode == RenameMode::Exchange)];
            if moved.into_iter().flatten().any(|f| f.upper.is_none()) {
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

    /// Copies up what is moved.
    fn copy_up_moved(&self, at: (Ino, &Name), found: &FoundOf<L, U>) -> Outcome<()> {
        if found.upper.is_none()
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
        let Some(target) = &ends.target else { return Ok(false) };
        if target.is_directory() && is_above(ends.target_ino, from.0) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if ends.source.upper.is_some() && ends.source.source() == target.source() {
            return Ok(true);
        }
        match (ends.source.is_directory(), target.is_directory()) {
            (true, false) if !exchange => Err(Errno::ENOTDIR),
            (false, true) if !exchange => Err(Errno::EISDIR),
            _ => Ok(false),
        }
    }

    fn replace(&self, upper: &U, ends: Ends<'_, L, U>, from: (Ino, &Name), to: (Ino, &Name)) -> Outcome<()> {
        let (Some(a), Some(b)) = (&ends.from.upper, &ends.to.upper) else { return Err(Errno::ESTALE) };
        let lower = self.settle_lower(&ends.source, (ends.from, from.1), ends.to)?;
        let whiteout = self.lower_has(ends.from, from.1)?;
        let intending = self.intend(|| ends.intent(from, to, (lower.as_deref(), None), false))?;
        if let Some(target) = &ends.target {
            self.hold(ends.target_ino, target.upper.as_ref());
        }
        upper.rename((a, from.1), (b, to.1), whiteout)?;
        if let Some(target) = ends.target {
            self.unlinked(ends.target_ino, to, target);
        }
        if let Some(ino) = ends.source_ino {
            self.table.lock().move_links(&[Move { ino, from, to, lower }]);
        }
        intending.done(Some(Done::Changed));
        Ok(())
    }

    fn exchange(&self, upper: &U, ends: Ends<'_, L, U>, from: (Ino, &Name), to: (Ino, &Name)) -> Outcome<()> {
        let (Some(a), Some(b)) = (&ends.from.upper, &ends.to.upper) else { return Err(Errno::ESTALE) };
        let Some(target) = &ends.target else { return Err(Errno::ENOENT) };
        let of_source = self.settle_lower(&ends.source, (ends.from, from.1), ends.to)?;
        let of_target = self.settle_lower(target, (ends.to, to.1), ends.from)?;
        let intending =
            self.intend(|| ends.intent(from, to, (of_source.as_deref(), of_target.as_deref()), true))?;
        upper.exchange((a, from.1), (b, to.1))?;
        let there = ends.source_ino.map(|ino| Move { ino, from, to, lower: of_source });
        let back = ends.target_ino.map(|ino| Move { ino, from: to, to: from, lower: of_target });
        let moves: Vec<Move<'_>> = there.into_iter().chain(back).collect();
        self.table.lock().move_links(&moves);
        intending.done(Some(Done::Changed));
        Ok(())
    }

    /// Notes with a directory that will be moved to `to` what it shows of the lower, so that it shows the same there.
    /// What is noted is as true where it is now: if nothing else happens, nothing has happened. Answers where the
    /// lower part is, if there is one.
    fn settle_lower(
        &self,
        found: &FoundOf<L, U>,
        (from, name): (&PlaceOf<L, U>, &Name),
        to: &PlaceOf<L, U>,
    ) -> Outcome<Option<LowerPath>> {
        let Some(object) = found.upper.as_ref().filter(|_| found.is_directory()) else { return Ok(None) };
        let upper = self.upper()?;
        if found.lower.is_none() && upper.is_opaque(object)? {
            return Ok(None);
        }
        let noted = upper.redirect(object)?;
        // Where directories show only whole it would not show; what copies it makes it one.
        if found.lower.is_none() && noted.is_some() && self.shows_whole(to) {
            return Err(Errno::EXDEV);
        }
        let kept = match noted {
            Some(Redirect::Path(_) | Redirect::Nowhere) => true,
            Some(Redirect::Sibling(_)) => from.ino == to.ino,
            None => false,
        };
        let lower = match (&found.identity.moved, &noted) {
            (Some(path), _) => Some(path.clone()),
            (None, None) if found.lower.is_some() => Some(self.path_in_lower(from.ino, name)?),
            // The lower may have it again one day.
            (None, Some(Redirect::Sibling(name))) if from.lower.is_some() => {
                Some(self.path_in_lower(from.ino, name)?)
            }
            _ => None,
        };
        match &lower {
            _ if kept => {}
            Some(path) => {
                let redirect = match path.last() {
                    Some(name) if from.ino == to.ino => Redirect::Sibling(name.clone()),
                    _ => Redirect::Path(path.to_vec()),
                };
                upper.set_redirect(object, &redirect)?;
            }
            None if to.lower.is_some() => upper.make_opaque(object)?,
            None => {}
        }
        Ok(lower.filter(|_| found.lower.is_some()))
    }
}

impl<L: Lower, U: Upper> Ends<'_, L, U> {
    fn intent<'i>(
        &self,
        from: (Ino, &'i Name),
        to: (Ino, &'i Name),
        lower: (Option<&'i [Name]>, Option<&'i [Name]>),
        exchange: bool,
    ) -> Outcome<Intent<'i>> {
        Ok(Intent::Move {
            from: record::link(from.0, from.1),
            to: record::link(to.0, to.1),
            object: self.source.source().upper().ok_or(Errno::ESTALE)?,
            source: (self.source_ino.map(|ino| ino.0), lower.0.map(node::bytes)),
            target: (self.target_ino.map(|ino| ino.0), lower.1.map(node::bytes)),
            exchange,
            directories: self.touches_directories(),
        })
    }

    fn touches_directories(&self) -> bool {
        self.source.is_directory() || self.target.as_ref().is_some_and(|t| t.is_directory())
    }
}
