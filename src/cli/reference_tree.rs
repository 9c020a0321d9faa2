//! Chains and trees of references, drawn with lines.
//!
//! Below [`DRAWN`] levels the lines stay where they are and a number tells the level: a chain of 100,000 would else be
//! mostly spaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use crate::store::{StoreDir, StorePath};

/// The levels that are drawn with lines of their own.
const DRAWN: usize = 40;

/// The level of a path where the lines do not tell it.
fn level(depth: usize) -> String {
    if depth > DRAWN { format!("[{depth}] ") } else { String::new() }
}

/// Draws a chain, each path below the one that refers to it; `remark` stands behind the first.
pub(super) fn chain(
    out: &mut dyn Write,
    store: &StoreDir,
    chain: &[StorePath],
    remark: &str,
) -> io::Result<()> {
    for (depth, path) in chain.iter().enumerate() {
        let (arrow, remark) = if depth == 0 { ("", remark) } else { ("└─ ", "") };
        let indent = "   ".repeat(depth.saturating_sub(1).min(DRAWN));
        writeln!(out, "{indent}{arrow}{}{store}/{path}{remark}", level(depth))?;
    }
    Ok(())
}

/// Draws what `below` has below each of `tops`, each path's references once. Without recursion: chains can be long.
pub(super) fn tree(
    out: &mut dyn Write,
    store: &StoreDir,
    tops: &[StorePath],
    below: &BTreeMap<StorePath, Vec<StorePath>>,
) -> io::Result<()> {
    let mut seen = BTreeSet::new();
    // Path, its level, what stands before its name, what stands before those of its children.
    let mut open: Vec<(&StorePath, usize, String, String)> =
        tops.iter().rev().map(|top| (top, 0, String::new(), String::new())).collect();
    while let Some((path, depth, head, indent)) = open.pop() {
        let next = below.get(path).map(Vec::as_slice).unwrap_or_default();
        let fresh = seen.insert(path);
        let more = if fresh || next.is_empty() { "" } else { " […]" };
        writeln!(out, "{head}{}{store}/{path}{more}", level(depth))?;
        if !fresh {
            continue;
        }
        for (index, child) in next.iter().enumerate().rev() {
            let (branch, line) =
                if index + 1 == next.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let line = if depth < DRAWN { line } else { "" };
            open.push((child, depth + 1, format!("{indent}{branch}"), format!("{indent}{line}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;

    fn path(number: usize) -> StorePath {
        format!("{number:032}-x").parse().unwrap()
    }

    /// What was drawn, with `N` for the path of that number.
    fn drawn(draw: impl FnOnce(&mut dyn Write, &StoreDir) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        draw(&mut out, &StoreDir::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        let short = text.lines().map(|line| {
            let (head, rest) = line.split_once("/nix/store/").unwrap();
            format!("{head}{}{}\n", rest[..32].trim_start_matches('0'), &rest[34..])
        });
        short.collect()
    }

    #[test]
    fn references_stand_below_what_refers_to_them() {
        let below = BTreeMap::from([
            (path(1), vec![path(2), path(3)]),
            (path(2), vec![path(3)]),
            (path(3), vec![path(4)]),
        ]);
        let tree = drawn(|out, store| tree(out, store, &[path(1), path(5)], &below));
        assert_eq!(tree, "1\n├─ 2\n│  └─ 3\n│     └─ 4\n└─ 3 […]\n5\n");
        let chain = drawn(|out, store| chain(out, store, &[path(1), path(2), path(3)], " (why)"));
        assert_eq!(chain, "1 (why)\n└─ 2\n   └─ 3\n");
    }

    #[test]
    fn a_long_chain_takes_the_same_for_each_path() {
        let count = 100_000;
        let all: Vec<StorePath> = (1..=count).map(path).collect();
        let below: BTreeMap<StorePath, Vec<StorePath>> =
            all.windows(2).map(|two| (two[0].clone(), vec![two[1].clone()])).collect();
        for text in [
            drawn(|out, store| chain(out, store, &all, "")),
            drawn(|out, store| tree(out, store, &all[..1], &below)),
        ] {
            assert_eq!(text.lines().count(), count);
            assert!(text.len() < count * 160, "{} bytes", text.len());
            assert!(text.ends_with("└─ [99999] 100000\n"));
        }
    }
}
