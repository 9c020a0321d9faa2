#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn path(letter: char) -> StorePath {
    format!("{}-x", letter.to_string().repeat(32)).parse().unwrap()
}

fn take(gcroots: &Path, letters: &[char]) -> Lease {
    let paths: Vec<StorePath> = letters.iter().map(|letter| path(*letter)).collect();
    Lease::take(gcroots, "web", &StoreDir::default(), &paths).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn roots_name_the_path_as_the_store_does_and_go_again() {
    let gcroots = tempfile::tempdir().unwrap();
    let lease = take(gcroots.path(), &['a', 'b']);
    assert!(lease.dir().parent().unwrap().ends_with("nixview"));
    assert!(lease.dir().file_name().unwrap().to_str().unwrap().starts_with("web-"));
    assert_eq!(lease.dir().metadata().unwrap().mode() & 0o555, 0o555, "whoever collects must see them");
    assert_eq!(lease.count(), 2);
    let link = lease.dir().join(path('a').as_str());
    assert_eq!(fs::read_link(link).unwrap(), StoreDir::default().join(&path('a')));
    assert!(sweep(gcroots.path()).unwrap().dead.is_empty());
    remove_dead(lease.dir()).unwrap();
    assert_eq!(names(lease.dir()).len(), 3, "it is held");
    let dir = lease.dir().to_owned();
    lease.release().unwrap();
    assert!(!dir.exists());
    remove_dead(&dir).unwrap();
}

#[test]
fn a_name_is_taken_more_than_once_and_dropped_leases_are_swept() {
    let gcroots = tempfile::tempdir().unwrap();
    let (first, second) = (take(gcroots.path(), &['a']), take(gcroots.path(), &['a']));
    assert_ne!(first.dir(), second.dir());
    let (dropped, kept) = (first.dir().to_owned(), second.dir().to_owned());
    drop(first);
    assert!(dropped.join(path('a').as_str()).is_symlink(), "it stays until somebody sweeps");
    assert_eq!(dead(gcroots.path()).unwrap().dead, std::slice::from_ref(&dropped));
    let swept = sweep(gcroots.path()).unwrap();
    assert_eq!((swept.dead, swept.problems.len()), (vec![dropped.clone()], 0));
    assert!(!dropped.exists() && kept.exists());
    drop(second);
    remove_dead(&kept).unwrap();
    assert!(!kept.exists());
}

#[test]
fn what_fails_leaves_nothing() {
    let gcroots = tempfile::tempdir().unwrap();
    // The second link of the same name cannot be made.
    let twice = [path('a'), path('a')];
    let error = Lease::take(gcroots.path(), "web", &StoreDir::default(), &twice).unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    assert!(names(&gcroots.path().join("nixview")).is_empty());
    let missing = gcroots.path().join("missing");
    Lease::take(&missing, "web", &StoreDir::default(), &[path('a')]).unwrap_err();
    assert!(!missing.exists());
    assert!(sweep(&missing).unwrap().dead.is_empty());
}

#[test]
fn what_is_no_lease_stays_and_is_told() {
    let gcroots = tempfile::tempdir().unwrap();
    let told = |swept: Swept| {
        let mut told: Vec<String> = swept.problems.iter().map(ToString::to_string).collect();
        told.sort();
        told
    };
    // Links that somebody made by hand, a file, a link to elsewhere.
    let ours = gcroots.path().join("nixview");
    fs::create_dir_all(ours.join("by-hand")).unwrap();
    symlink("/nix/store/x", ours.join("by-hand/x")).unwrap();
    fs::write(ours.join("file"), "precious").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink("/nix/store/x", elsewhere.path().join("x")).unwrap();
    fs::write(elsewhere.path().join("lease"), "").unwrap();
    symlink(elsewhere.path(), ours.join("link")).unwrap();
    // A file in a lease: its links go, the file stays.
    let lease = take(gcroots.path(), &['a']);
    let filled = lease.dir().to_owned();
    fs::write(filled.join("file"), "precious").unwrap();
    drop(lease);
    for _ in 0..2 {
        let swept = sweep(gcroots.path()).unwrap();
        assert_eq!(swept.dead, Vec::<PathBuf>::new());
        let told = told(swept);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told.iter().any(|told| told.contains(filled.join("file").to_str().unwrap())), "{told:?}");
        assert_eq!(names(&filled), ["file", "lease"]);
    }
    assert_eq!(fs::read_to_string(filled.join("file")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(ours.join("file")).unwrap(), "precious");
    assert_eq!(names(elsewhere.path()), ["lease", "x"]);
    assert_eq!(names(&ours.join("by-hand")), ["x"]);
    fs::remove_file(filled.join("file")).unwrap();
    assert_eq!(sweep(gcroots.path()).unwrap().dead, [filled]);
    // While it is held.
    let lease = take(gcroots.path(), &['a']);
    fs::write(lease.dir().join("file"), "").unwrap();
    assert!(matches!(lease.release().unwrap_err(), GcRootError::Foreign { .. }));
}

#[test]
fn what_a_maker_left_that_was_killed_is_swept() {
    let gcroots = tempfile::tempdir().unwrap();
    let ours = gcroots.path().join("nixview");
    fs::create_dir_all(ours.join("web-empty")).unwrap();
    fs::create_dir_all(ours.join("web-begun")).unwrap();
    fs::write(ours.join("web-begun/lease"), "").unwrap();
    fs::create_dir_all(ours.join("web-fifo")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, ours.join("web-fifo/lease"), FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let swept = sweep(gcroots.path()).unwrap();
    assert_eq!(swept.dead, [ours.join("web-begun")]);
    assert_eq!(swept.problems.len(), 1, "a FIFO, which nobody waits for");
    assert_eq!(names(&ours), ["web-fifo"]);
}

#[test]
fn sweeps_take_no_lease_that_is_being_made_and_leave_none_that_is_dead() {
    const MAKERS: usize = 3;
    let gcroots = tempfile::tempdir().unwrap();
    let makers = std::sync::atomic::AtomicUsize::new(MAKERS);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for maker in 0..MAKERS {
            let (makers, gcroots) = (&makers, gcroots.path());
            scope.spawn(move || {
                for round in 0..150 {
                    let lease = take(gcroots, &['a', 'b', 'c']);
                    std::thread::yield_now();
                    assert_eq!(names(lease.dir()).len(), 4, "a lease that is held was touched");
                    if (maker + round) % 2 == 0 {
                        lease.release().unwrap();
                    }
                }
                makers.fetch_sub(1, order);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while makers.load(order) > 0 {
                    let swept = sweep(gcroots.path()).unwrap();
                    assert!(swept.problems.is_empty(), "{:?}", swept.problems);
                }
            });
        }
    });
    sweep(gcroots.path()).unwrap();
    assert!(names(&gcroots.path().join("nixview")).is_empty());
}

/// The owner of a state directory makes its `gcroots` lead elsewhere: root makes nothing there.
#[test]
fn roots_are_not_made_where_links_of_others_lead() {
    let temp = tempfile::tempdir().unwrap();
    let (state, elsewhere) = (temp.path().join("state"), temp.path().join("elsewhere"));
    fs::create_dir(&state).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let gcroots = state.join("gcroots");
    symlink(&elsewhere, &gcroots).unwrap();
    // One's own links are followed.
    take(&gcroots, &['a']).release().unwrap();
    fs::remove_dir(elsewhere.join("nixview")).unwrap();
    // Those in `nixview` never are.
    fs::remove_file(&gcroots).unwrap();
    fs::create_dir(&gcroots).unwrap();
    symlink(&elsewhere, gcroots.join("nixview")).unwrap();
    Lease::take(&gcroots, "web", &StoreDir::default(), &[path('a')]).unwrap_err();
    fs::remove_file(gcroots.join("nixview")).unwrap();
    fs::remove_dir(&gcroots).unwrap();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    symlink(&elsewhere, &gcroots).unwrap();
    std::os::unix::fs::chown(&state, Some(1000), Some(1000)).unwrap();
    Lease::take(&gcroots, "web", &StoreDir::default(), &[path('a')]).unwrap_err();
    assert!(names(&elsewhere).is_empty(), "root has made something elsewhere");
}

#[test]
fn a_part_of_the_leases_is_looked_at_and_all_of_them_once_one_is_dead() {
    let scene = tempfile::tempdir().unwrap();
    let (gcroots, rounds) = (scene.path().join("gcroots"), Rounds::kept_in(scene.path().join("rounds")));
    fs::create_dir(&gcroots).unwrap();
    let mut held: Vec<_> = (0..100).map(|_| take(&gcroots, &['a'])).collect();
    let sweep_part = || {
        let swept = sweep_part(&gcroots, &rounds).unwrap();
        assert!(swept.problems.is_empty());
        swept.dead.len()
    };
    assert_eq!(sweep_part(), 0, "the first looks at all");
    drop(held.pop());
    let round: Vec<_> = (0..100_usize.div_ceil(PART)).map(|_| sweep_part()).collect();
    assert_eq!(round.iter().sum::<usize>(), 1, "each is looked at once a round: {round:?}");
    let last = held.pop().unwrap();
    drop(held);
    assert_eq!(sweep_part(), 98);
    assert_eq!(names(&gcroots.join(OURS)).len(), 1);
    last.release().unwrap();
}
