//! Real Nix finds nothing wrong with the tiny store, and answers as it does.
use std::process::{Command, Output};

use crate::support::skip::skip;
use mini_store::MiniStore;

/// Runs `nix-store` on the store below its root; nothing where Nix is not installed.
fn nix_store(store: &MiniStore, args: &[&str]) -> Option<Output> {
    let remote = format!("local?root={}", store.root().display());
    match Command::new("nix-store").args(args).env("NIX_REMOTE", remote).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip!("nix-store: {error}");
            None
        }
    }
}

/// The base names that a query prints, sorted.
fn answer(store: &MiniStore, args: &[&str]) -> Option<Vec<String>> {
    let output = nix_store(store, args)?;
    assert!(output.status.success(), "nix-store {args:?}: {}", output.stderr.escape_ascii());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut bases: Vec<String> = text.lines().map(|line| line.replace("/nix/store/", "")).collect();
    bases.sort();
    Some(bases)
}

#[test]
#[ignore = "needs Nix"]
fn nix_verifies_every_hash() {
    let store = MiniStore::temporary();
    let Some(output) = nix_store(&store, &["--verify", "--check-contents"]) else { return };
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("error") && !said.contains("modified"), "{said}");
}

#[test]
#[ignore = "needs Nix"]
fn nix_answers_the_same() {
    let store = MiniStore::temporary();
    for label in store.labels().filter(|label| store.member(label).tree.is_some()) {
        let path = store.logical(label);
        let Some(references) = answer(&store, &["-q", "--references", &path]) else { return };
        assert_eq!(references, store.references(label), "references of {label}");
        assert_eq!(answer(&store, &["-qR", &path]).unwrap(), store.closure(label), "closure of {label}");
        let with_outputs = answer(&store, &["-qR", "--include-outputs", &path]).unwrap();
        assert_eq!(with_outputs, store.build_closure(label), "closure of {label} with outputs");
    }
}
