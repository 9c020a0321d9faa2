//! What a mount remembers of a closure: that the store has it, and which template of Nix's state it has. Both hold as long as
//! the database stays as it is, and neither reads the members again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mini_store::MiniStore;
use nixview::closure::Mode;
use nixview::lock::{Digest, EnvLock, LockError, LockedClosure, Root, Source, source::Kind, sweep_verified};
use nixview::store::{Location, StoreDir};
use nixview::view::members::Members;
use nixview::view::nix_state::{NixState, NixStateError};

use crate::closures::{settle, write};

/// A lock of the closure of one member, its digest told by the store's own list.
fn lock(store: &MiniStore, label: &str, mode: Mode) -> EnvLock {
    let mut names = match mode {
        Mode::Runtime => store.closure(label),
        Mode::Build | Mode::Dev => store.build_closure(label),
    };
    names.sort_unstable();
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    EnvLock {
        closure: LockedClosure {
            count: names.len() as u64,
            digest: Digest::of(text.as_bytes()),
            nar_size: None,
            references: None,
        },
        environment: None,
        extra_roots: Vec::new(),
        mode,
        name: label.to_owned(),
        only: None,
        roots: vec![Root::plain(store.path(label).parse().unwrap())],
        source: Source::new(Kind::Paths, vec![label.to_owned()]),
        store_dir: StoreDir::default(),
        system: None,
    }
}

fn notes(state: &Path) -> usize {
    std::fs::read_dir(state.join("verified")).map_or(0, Iterator::count)
}

#[test]
fn a_closure_is_verified_once_for_a_state_of_the_database() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let location = Location::open(store.root()).unwrap();
    let lock = lock(&store, "env-a", Mode::Runtime);
    lock.verified_in(&location, state.path()).unwrap();
    settle(&store);
    lock.verified_in(&location, state.path()).unwrap();
    assert_eq!(notes(state.path()), 1);

    // Nothing else that is remembered is needed: the names are not read.
    std::fs::remove_file(state.path().join("closures.sqlite")).unwrap();
    let verified = lock.verified_in(&location, state.path()).unwrap();
    assert!(!state.path().join("closures.sqlite").exists());
    let names: Vec<&str> = verified.paths().unwrap().names().collect();
    assert_eq!(names, store.closure("env-a"));
    assert!(state.path().join("closures.sqlite").exists(), "now they were");

    let mut other = lock.clone();
    other.closure.digest = Digest::of(b"another closure");
    let refused = other.verified_in(&location, state.path());
    assert!(matches!(refused, Err(LockError::Differs { .. })), "{refused:?}");

    // A member is gone: also if it is collected behind a note.
    let member = store.path("env-a");
    write(&store, &format!("DELETE FROM Refs; DELETE FROM ValidPaths WHERE path = '/nix/store/{member}'"));
    for _ in 0..2 {
        let refused = lock.verified_in(&location, state.path());
        assert!(refused.is_err(), "{refused:?}");
        settle(&store);
    }
    assert_eq!(sweep_verified(state.path(), Duration::from_secs(3600), false).unwrap(), 0);
    assert_eq!(sweep_verified(state.path(), Duration::ZERO, false).unwrap(), 1);
    assert_eq!(notes(state.path()), 0);
}

#[test]
fn the_fewest_members_that_keep_the_others_are_remembered_as_roots_for_the_collector() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let location = Location::open(store.root()).unwrap();
    let lock = lock(&store, "env-a.drv", Mode::Build);
    settle(&store);
    let to_pin = |lock: &EnvLock| {
        let verified = lock.verified_in(&location, state.path()).unwrap();
        verified.to_pin().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let first = to_pin(&lock);
    // Now as it is noted.
    std::fs::remove_file(state.path().join("closures.sqlite")).unwrap();
    assert_eq!(to_pin(&lock), first);
    assert!(!state.path().join("closures.sqlite").exists());

    let members = store.build_closure("env-a.drv");
    let labels: Vec<&str> = store.labels().filter(|label| members.contains(&store.path(label))).collect();
    let references = |label: &str| -> Vec<&str> {
        store.references(label).into_iter().filter(|path| *path != store.path(label)).collect()
    };
    let mut tops: Vec<&str> = labels.iter().map(|label| store.path(label)).collect();
    tops.retain(|path| !labels.iter().any(|label| references(label).contains(path)));
    tops.sort_unstable();
    assert_eq!(first, tops);
    assert!(tops.len() > 1 && tops.len() < members.len(), "{tops:?} of {members:?}");

    // A note without them protects nothing: it counts as none.
    let note = std::fs::read_dir(state.path().join("verified")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&note).unwrap();
    let (kept, _) = text.split_once(&format!(" {}", tops[0])).unwrap();
    std::fs::write(&note, format!("{kept}\n")).unwrap();
    assert_eq!(to_pin(&lock), first);
}

#[test]
fn the_template_of_a_closure_is_found_without_its_members() {
    let store = MiniStore::temporary();
    let state = tempfile::tempdir().unwrap();
    let location = Location::open(store.root()).unwrap();
    let lock = lock(&store, "env-a", Mode::Runtime);
    let members = Arc::new(Members::of_names(store.closure("env-a")).unwrap());
    let tell = || Ok(Arc::clone(&members));
    let refuse = || Err("the members were asked".into());
    let nix = || NixState::of(state.path(), &location, &lock).unwrap().unwrap();
    settle(&store);
    let first = nix().open(&refuse).map(drop);
    assert!(matches!(first, Err(NixStateError::Members(_))), "{first:?}");
    drop(nix().open(&tell).unwrap());
    drop(nix().open(&refuse).unwrap());

    // What the key stands for is another thing in another database, and a template that is gone is made again.
    write(&store, "UPDATE ValidPaths SET registrationTime = registrationTime + 1");
    settle(&store);
    assert!(nix().open(&refuse).is_err());
    drop(nix().open(&tell).unwrap());
    for entry in std::fs::read_dir(state.path().join("nix-state")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    assert!(nix().open(&refuse).is_err());
    drop(nix().open(&tell).unwrap());
    drop(nix().open(&refuse).unwrap());
}
