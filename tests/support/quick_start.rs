//! The lines of the README's quick start, as they are pasted into a shell.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::Path;

/// The commands, without prompts.
pub(crate) fn lines() -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let from = readme.split("## Quick start").nth(1).expect("the README has a quick start");
    let section = from.split("\n## ").next().unwrap();
    let blocks = section.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines: Vec<String> =
        blocks.flat_map(str::lines).map(|line| line.strip_prefix("$ ").expect(line).to_owned()).collect();
    assert!(lines.len() > 10, "the quick start was read: {lines:?}");
    lines
}
