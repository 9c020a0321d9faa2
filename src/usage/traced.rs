//! What of a closure was used, by what traces say.

use std::collections::BTreeMap;

use crate::trace::{Kind, Kinds, Trace};

/// The most cuts that are looked at: each takes a walk through the closure.
const MOST_CUTS: usize = 2000;

/// How much of a store path was used: numbers of different things in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Used<'t> {
    /// Files that were opened, by their paths below the store path; that of itself is empty.
    pub opened: Vec<&'t [u8]>,
    /// Symbolic links that were read.
    pub links_read: u64,
    /// Directories that were listed.
    pub listed: u64,
    /// Names that were looked up.
    pub looked_up: u64,
    /// Something in it was used, and not only its own name looked up: everything that lists the store directory does that.
    pub touched: bool,
}

/// What several traces say of each store path, by base name; names that are no store paths are there too.
#[must_use]
pub fn by_store_path(traces: &[Trace]) -> BTreeMap<&[u8], Used<'_>> {
    let mut merged: BTreeMap<&[u8], Kinds> = BTreeMap::new();
    for (path, kinds) in traces.iter().flat_map(|trace| &trace.lower) {
        merged.entry(path).or_default().unite(*kinds);
    }
    let mut all: BTreeMap<&[u8], Used<'_>> = BTreeMap::new();
    for (path, kinds) in merged {
        let Some(path) = path.strip_prefix(b"store/") else { continue };
        let mut halves = path.splitn(2, |byte| *byte == b'/');
        let base = halves.next().unwrap_or_default();
        let inside = halves.next().unwrap_or_default();
        let used = all.entry(base).or_default();
        if kinds.has(Kind::Opened) {
            used.opened.push(inside);
        }
        used.links_read += u64::from(kinds.has(Kind::LinkRead));
        used.listed += u64::from(kinds.has(Kind::Listed));
        used.looked_up += u64::from(kinds.has(Kind::LookedUp));
        let looked_up_alone = !Kind::ALL.into_iter().any(|kind| kind != Kind::LookedUp && kinds.has(kind));
        used.touched |= !(inside.is_empty() && looked_up_alone);
    }
    all
}

/// A store path that nothing used, and what would go if nothing referred to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The path.
    pub path: usize,
    /// What was used and refers to it; nothing for one that the environment starts from.
    pub referrers: Vec<usize>,
    /// All that would go, the path among it.
    pub frees: Vec<usize>,
}

/// Where the tree of references can be cut so that only what was not used goes, what frees most first.
///
/// `references` are those of each path, as indexes; `starts` what the environment starts from; `size` is that of a path.
#[must_use]
pub fn cuts(
    references: &[Vec<usize>],
    starts: &[usize],
    touched: &[bool],
    size: impl Fn(usize) -> u64,
) -> Vec<Cut> {
    let is_touched = |path: usize| touched.get(path) == Some(&true);
    let mut referrers: BTreeMap<usize, Vec<usize>> =
        starts.iter().filter(|start| !is_touched(**start)).map(|start| (*start, Vec::new())).collect();
    for (from, to) in references.iter().enumerate().filter(|(from, _)| is_touched(*from)) {
        for path in to.iter().filter(|path| !is_touched(**path)) {
            referrers.entry(*path).or_default().push(from);
        }
    }
    let mut candidates: Vec<(usize, Vec<usize>)> = referrers.into_iter().collect();
    candidates.sort_by_key(|(path, _)| std::cmp::Reverse(size(*path)));
    candidates.truncate(MOST_CUTS);
    let mut cuts = Vec::new();
    for (path, referrers) in candidates {
        let left = reached(references, starts, path);
        let frees: Vec<usize> =
            (0..references.len()).filter(|other| left.get(*other) == Some(&false)).collect();
        if !frees.iter().any(|other| is_touched(*other)) {
            cuts.push(Cut { path, referrers, frees });
        }
    }
    cuts.sort_by_key(|cut| std::cmp::Reverse(cut.frees.iter().map(|path| size(*path)).sum::<u64>()));
    cuts
}

/// What the starts lead to without `left_out`.
fn reached(references: &[Vec<usize>], starts: &[usize], left_out: usize) -> Vec<bool> {
    let mut reached = vec![false; references.len()];
    let mut open: Vec<usize> = starts.to_vec();
    while let Some(path) = open.pop() {
        match reached.get_mut(path) {
            Some(seen) if !*seen && path != left_out => *seen = true,
            _ => continue,
        }
        open.extend(references.get(path).into_iter().flatten());
    }
    reached
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;
    use crate::trace::{Head, TracedClosure, Use, VERSION};

    fn trace(uses: &[(Kind, &str)]) -> Trace {
        let mut trace = Trace::new(Head {
            nixview_trace: VERSION,
            view: "v".to_owned(),
            environment: "e".to_owned(),
            lock_file: "/e.lock".into(),
            closure: TracedClosure { digest: "d".to_owned(), count: 1 },
            store: "/nix/store".into(),
            store_dir: "/nix/store".to_owned(),
            io: "cached".to_owned(),
            exact: true,
            from_start: true,
            since: 0,
        });
        for (kind, path) in uses {
            trace.add(Use { kind: *kind, path: path.as_bytes().to_vec(), upper: false });
        }
        trace
    }

    #[test]
    fn each_thing_counts_once_and_a_look_at_the_name_alone_touches_nothing() {
        let first = trace(&[
            (Kind::Listed, "store"),
            (Kind::LookedUp, "store/a"),
            (Kind::LookedUp, "store/b"),
            (Kind::LookedUp, "store/b/bin"),
            (Kind::Opened, "store/c/bin/sh"),
            (Kind::LookedUp, "store/c/bin/sh"),
            (Kind::LinkRead, "store/d"),
            (Kind::Opened, "var/nix/db/db.sqlite"),
        ]);
        let second =
            trace(&[(Kind::Opened, "store/c/bin/sh"), (Kind::Listed, "store/e"), (Kind::Opened, "store/f")]);
        let traces = [first, second];
        let all = by_store_path(&traces);
        let touched: Vec<(&[u8], bool)> = all.iter().map(|(base, used)| (*base, used.touched)).collect();
        let expected: [(&[u8], bool); 6] =
            [(b"a", false), (b"b", true), (b"c", true), (b"d", true), (b"e", true), (b"f", true)];
        assert_eq!(touched, expected);
        let c = &all[&b"c"[..]];
        assert_eq!((c.opened.as_slice(), c.looked_up, c.listed), (&[&b"bin/sh"[..]][..], 1, 0));
        assert_eq!(all[&b"f"[..]].opened, [&b""[..]]);
        assert_eq!(all[&b"d"[..]].links_read, 1);
    }

    #[test]
    fn a_cut_frees_what_hangs_on_it_alone_and_nothing_that_was_used() {
        // 0 → 1 → 2 → 5, 0 → 3 → 2, 3 → 4: 0 and 4 were used; 6 is a root that nothing used.
        let references =
            [vec![1, 3], vec![2], vec![5], vec![2, 4], vec![], vec![], vec![]].map(|all: Vec<usize>| all);
        let touched = [true, false, false, false, true, false, false];
        let found = cuts(&references, &[0, 6], &touched, |path| 10 + path as u64);
        assert_eq!(
            found,
            [
                Cut { path: 6, referrers: vec![], frees: vec![6] },
                Cut { path: 1, referrers: vec![0], frees: vec![1] },
            ],
            "3 would take 4 along; 2 and 5 are reached two ways"
        );
        let touched = [true, false, false, false, false, false, true];
        let found = cuts(&references, &[0, 6], &touched, |path| 10 + path as u64);
        assert_eq!(found[0], Cut { path: 3, referrers: vec![0], frees: vec![3, 4] });
        assert_eq!(found.len(), 2);
    }
}
