//! Listings of directories: both layers as one, in the order of [positions](Position), which depend on names alone.
//!
//! There is no open directory: a request says after which cookie it goes on, and any listing of the directory can
//! answer it, since a name has the same position in all of them. A listing is kept so that n names cost one reading
//! and one sort, however many requests they take. A listing from the start is always a new one if names have changed;
//! going on from a kept one may show names as they were when that was made, as POSIX allows; a name that is gone is
//! left out, since each is looked up as it is handed out.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::lru::Lru;
use super::merge::{Above, Below, Shows, merge};
use super::number::Position;
use super::place::PlaceOf;
use super::{Outcome, UnionFs};
use crate::layer::{EntryKind, Lower, Upper};
use crate::vfs::{DirEntry, FileKind, Flow, Ino, Name};

/// How many directories are being listed at one time without being read again.
const LISTINGS: usize = 8;

/// A listing of more names than this is not kept once it was handed out to its end.
const KEPT_NAMES: usize = 4096;

/// The names of a directory, by position.
#[derive(Debug)]
struct Listing {
    changes: u64,
    names: Vec<(Position, Name)>,
}

/// Listings that were used lately.
#[derive(Debug)]
pub(super) struct Listings {
    recent: Mutex<Lru<Ino, Arc<Listing>>>,
}

impl Default for Listings {
    fn default() -> Self {
        Self { recent: Mutex::new(Lru::new(LISTINGS)) }
    }
}

impl Listings {
    pub(super) fn purge(&self, ino: Ino) {
        let old = self.recent.lock().remove(&ino);
        drop(old);
    }
}

impl Listing {
    /// The cookie of the name at `index`, which has `position`.
    fn cookie(&self, index: usize, position: Position) -> u64 {
        let near = [index.checked_sub(1), index.checked_add(1)];
        let mut near = near.into_iter().flatten().filter_map(|near| self.names.get(near));
        position.cookie(!near.any(|(other, _)| position.is_close_to(*other)))
    }
}

/// Gives each name its position: that of the name alone, or where two are equal, the next free one, in name order.
fn in_order(names: Vec<Name>) -> Vec<(Position, Name)> {
    let mut listed: Vec<(Position, Name)> = names.into_iter().map(|n| (Position::of(&n), n)).collect();
    listed.sort_unstable();
    let mut least: Option<Position> = None;
    for (position, _) in &mut listed {
        *position = least.map_or(*position, |least| least.max(*position));
        least = Some(position.next());
    }
    listed
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// All names that show in a directory; and those of parts ([`is_part`](Self::is_part)), which keep it from being empty.
    pub(super) fn names(&self, place: &PlaceOf<L, U>) -> Outcome<Vec<Name>> {
        if !place.linked {
            return Ok(Vec::new());
        }
        let mut shown = Vec::new();
        let mut decided = HashSet::new();
        if let (Some(upper), Some(dir)) = (&self.upper, &place.upper) {
            for entry in upper.read_dir(dir)? {
                let above = match entry.kind {
                    EntryKind::Whiteout => Above::Whiteout,
                    // Opaque or not does not change whether the name shows.
                    EntryKind::Object(FileKind::Directory) => Above::Directory { opaque: true },
                    EntryKind::Object(_) => Above::Other,
                };
                if merge(above, Below::Absent) != Shows::Nothing {
                    shown.push(entry.name.clone());
                }
                if place.lower.is_some() {
                    decided.insert(entry.name);
                }
            }
        }
        if let Some(dir) = &place.lower {
            let lower = self.lower.read_dir(dir)?;
            shown.extend(lower.into_iter().map(|e| e.name).filter(|name| !decided.contains(name)));
        }
        Ok(shown)
    }

    fn listing(&self, place: &PlaceOf<L, U>, after: u64) -> Outcome<Arc<Listing>> {
        if let Some(kept) = self.listings.recent.lock().get(&place.ino)
            && (after > 0 || kept.changes == place.changes)
        {
            return Ok(kept);
        }
        let listing = Arc::new(Listing { changes: place.changes, names: in_order(self.names(place)?) });
        let displaced = self.listings.recent.lock().put(place.ino, listing.clone());
        drop(displaced);
        Ok(listing)
    }

    pub(super) fn list(
        &self,
        ino: Ino,
        after: u64,
        lookups: bool,
        sink: &mut dyn FnMut(&DirEntry) -> Flow,
    ) -> Outcome<()> {
        let mut place = self.place(ino)?;
        while place.changes % 2 == 1 {
            drop(self.directories.lock(&[ino]));
            place = self.place(ino)?;
        }
        let listing = self.listing(&place, after)?;
        let left_out = Position::of_cookie(after);
        let start = listing.names.partition_point(|(position, _)| *position <= left_out);
        let mut taken = false;
        for (index, (position, name)) in listing.names.iter().enumerate().skip(start) {
            let entry = match self.find_entry_in(place.clone(), name) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                // What was taken is answered; the next request starts here and gets the error.
                Err(_) if taken => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let flow =
                sink(&DirEntry { name: name.clone(), cookie: listing.cookie(index, *position), entry });
            if flow == Flow::Full || !lookups {
                let dropped = self.table.lock().unlook(entry.attr.ino);
                self.purge(dropped);
            }
            if flow == Flow::Full {
                return Ok(());
            }
            taken = true;
        }
        if listing.names.len() > KEPT_NAMES {
            self.listings.purge(ino);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;

    #[test]
    fn cookies_are_distinct_and_do_not_depend_on_others() {
        let names: Vec<Name> = (0..1000).map(|n| Name::new(format!("f{n}").as_bytes()).unwrap()).collect();
        let all = in_order(names.clone());
        let few = in_order(names.into_iter().step_by(7).collect());
        assert!(all.windows(2).all(|w| w.first().unwrap().0 < w.last().unwrap().0));
        assert!(all.first().unwrap().0 > Position::of_cookie(2));
        assert!(few.iter().all(|entry| all.contains(entry)));
    }

    /// Which name follows each name of a listing, by its cookie.
    fn following(names: &[Name], of: &Listing) -> Vec<Option<Name>> {
        let cookie = |name: &Name| {
            let (index, (position, _)) = of.names.iter().enumerate().find(|(_, (_, n))| n == name).unwrap();
            of.cookie(index, *position)
        };
        let after = |name| {
            let left_out = Position::of_cookie(cookie(name));
            of.names.iter().find(|(position, _)| *position > left_out).map(|(_, name)| name.clone())
        };
        names.iter().map(after).collect()
    }

    #[test]
    fn cookies_are_short_but_where_they_would_collide_and_each_leads_to_the_next_name() {
        let mut seen = std::collections::HashMap::new();
        let mut names: Vec<Name> = Vec::new();
        let pair = (0..).find_map(|n| {
            let name = Name::new(format!("n{n}").as_bytes()).unwrap();
            names.push(name.clone());
            let other = seen.insert(Position::of(&name).cookie(true), name.clone())?;
            Some([other, name])
        });
        let pair = pair.unwrap();
        let listing = Listing { changes: 0, names: in_order(names) };
        let long = |index: usize| listing.cookie(index, listing.names[index].0) > u64::from(u32::MAX);
        let long: Vec<Name> =
            (0..listing.names.len()).filter(|i| long(*i)).map(|i| listing.names[i].1.clone()).collect();
        assert_eq!(long.iter().collect::<HashSet<_>>(), pair.iter().collect());
        let order: Vec<Name> = listing.names.iter().map(|(_, name)| name.clone()).collect();
        let next: Vec<_> = order.iter().skip(1).cloned().map(Some).chain([None]).collect();
        assert_eq!(following(&order[order.len() - 50..], &listing), next[next.len() - 50..]);
        let at: Vec<usize> = pair.iter().map(|name| order.iter().position(|n| n == name).unwrap()).collect();
        assert_eq!(following(&pair, &listing), at.iter().map(|i| next[*i].clone()).collect::<Vec<_>>());
    }
}
