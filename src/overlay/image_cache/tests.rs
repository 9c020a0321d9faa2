#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::overlay::closure_layer::ClosureLayerError;

const DIGEST: [u8; 32] = [7; 32];

struct Scene {
    dir: tempfile::TempDir,
    names: Vec<Name>,
}

impl Scene {
    /// A store of so many directories, and a file.
    fn new(members: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        let mut names = vec!["file".to_owned()];
        names.extend((0..members).map(|n| format!("{n:0>50}")));
        for name in &names[1..] {
            fs::create_dir(dir.path().join("store").join(name)).unwrap();
        }
        fs::write(dir.path().join("store/file"), "contents").unwrap();
        Self { names: names.iter().map(|n| Name::new(n.as_bytes()).unwrap()).collect(), dir }
    }

    fn store(&self, name: &str) -> PathBuf {
        self.dir.path().join("store").join(name)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn try_open(&self, names: impl FnOnce() -> Vec<Name>) -> Result<OpenedImage, ImageError> {
        let store = File::open(self.store("")).unwrap();
        let (state, store) = (self.state(), store.as_fd());
        let request = Request { state: &state, digest: &DIGEST, nix_state: false, store };
        open(&request, || Ok::<_, Infallible>(names()))
    }

    /// Opens it; answers its bytes, and whether it was built.
    fn open(&self) -> (Vec<u8>, bool) {
        let opened = self.try_open(|| self.names.clone()).unwrap();
        (bytes(&opened), opened.built)
    }

    /// Opens it where nothing of the closure may be looked at; answers its bytes.
    fn open_at_once(&self) -> Vec<u8> {
        let opened = self.try_open(|| panic!("the names were asked for")).unwrap();
        assert!(!opened.built);
        bytes(&opened)
    }

    /// The one file of the cache with this ending.
    fn cached(&self, ending: &str) -> PathBuf {
        let all: Vec<PathBuf> =
            self.files().into_iter().filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state().join(DIRECTORY)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Opens the image for changing it behind the cache's back.
    fn image_for_damage(&self) -> File {
        let path = self.cached(".erofs");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        OpenOptions::new().write(true).open(path).unwrap()
    }
}

fn bytes(opened: &OpenedImage) -> Vec<u8> {
    let mut file = File::from(opened.file.try_clone().unwrap());
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Longer than [`record::STEP`].
fn let_the_store_settle() {
    std::thread::sleep(Duration::from_millis(2_100));
}

#[test]
fn an_image_is_built_once_and_then_opened_without_a_look_at_its_members() {
    let scene = Scene::new(100);
    let (first, built) = scene.open();
    assert!(built && first.len() % 4096 == 0);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(scene.state().join(DIRECTORY)), 0o700);
    assert_eq!((mode(scene.cached(".erofs")), mode(scene.cached(".json"))), (0o400, 0o600));
    assert!(scene.cached(".erofs").to_str().unwrap().contains("-v1.erofs"));
    // The store's change time is too young to prove anything: its members are looked at, and
    // nothing is built.
    assert_eq!(scene.open(), (first.clone(), false));
    let_the_store_settle();
    assert_eq!(scene.open(), (first.clone(), false));
    assert_eq!(scene.open_at_once(), first);
    // An image that was touched is read, and only that.
    fs::set_permissions(scene.cached(".erofs"), Permissions::from_mode(0o440)).unwrap();
    assert_eq!(scene.open_at_once(), first);
    // A store that changed has its members looked at.
    fs::create_dir(scene.store("new")).unwrap();
    assert_eq!(scene.open(), (first, false));
}

#[test]
fn the_same_members_have_the_same_image_in_any_order() {
    let mut scene = Scene::new(70);
    let (first, _) = scene.open();
    fs::remove_dir_all(scene.state()).unwrap();
    scene.names.reverse();
    scene.names.swap(3, 50);
    assert_eq!(scene.open(), (first, true));
}

#[test]
fn a_damaged_image_is_built_again() {
    let scene = Scene::new(100);
    let (whole, _) = scene.open();
    for block in 0..whole.len() / 4096 {
        let at = block * 4096;
        scene.image_for_damage().set_len(at as u64).unwrap();
        assert_eq!(scene.open(), (whole.clone(), true), "cut at {at}");
        let flipped = at + block * 7;
        scene.image_for_damage().write_all_at(&[!whole[flipped]], flipped as u64).unwrap();
        assert_eq!(scene.open(), (whole.clone(), true), "a byte at {flipped}");
    }
    let longer = whole.len() as u64;
    scene.image_for_damage().write_all_at(&[0], longer).unwrap();
    assert_eq!(scene.open(), (whole.clone(), true), "longer");
    fs::remove_file(scene.cached(".erofs")).unwrap();
    assert_eq!(scene.open(), (whole, true), "no image");
}

#[test]
fn without_a_record_an_image_is_built_again() {
    let scene = Scene::new(3);
    let (whole, _) = scene.open();
    let good = fs::read_to_string(scene.cached(".json")).unwrap();
    let unknown = good.replace("\"members\"", "\"more\": 1, \"members\"");
    for bad in
        ["", "{}", "[]", &good[..good.len() / 2], &good.replace("\"version\": 1", "\"version\": 2"), &unknown]
    {
        fs::write(scene.cached(".json"), bad).unwrap();
        assert_eq!(scene.open(), (whole.clone(), true), "{bad}");
    }
    fs::remove_file(scene.cached(".json")).unwrap();
    assert_eq!(scene.open(), (whole.clone(), true));
    let wrong = fs::read_to_string(scene.cached(".json")).unwrap().replace("\"length\": ", "\"length\": 1");
    fs::write(scene.cached(".json"), wrong).unwrap();
    fs::set_permissions(scene.cached(".erofs"), Permissions::from_mode(0o440)).unwrap();
    assert_eq!(scene.open(), (whole, true));
}

#[test]
fn a_store_that_lost_or_replaced_a_member_is_noticed() {
    let scene = Scene::new(3);
    let_the_store_settle();
    let (first, _) = scene.open();
    scene.open_at_once();
    fs::remove_file(scene.store("file")).unwrap();
    let error = scene.try_open(|| scene.names.clone()).unwrap_err();
    assert!(
        matches!(&error, ImageError::Layer(ClosureLayerError::Missing(name)) if name.as_bytes() == b"file")
    );
    fs::create_dir(scene.store("file")).unwrap();
    let (second, built) = scene.open();
    assert!(built && second != first);
}

#[test]
fn files_without_contents_are_measured_at_each_open() {
    let scene = Scene::new(1);
    let file = OpenOptions::new().write(true).open(scene.store("file")).unwrap();
    file.set_len(17 << 20).unwrap();
    let_the_store_settle();
    let opened = scene.try_open(|| scene.names.clone()).unwrap();
    assert!(opened.metacopy && opened.built && bytes(&opened).len() < 100_000);
    scene.open_at_once();
    // In place: the store directory does not change.
    file.set_len(18 << 20).unwrap();
    let opened = scene.try_open(|| scene.names.clone()).unwrap();
    assert!(opened.metacopy && opened.built);
}

#[test]
fn of_many_who_want_an_image_one_builds_it() {
    let scene = Scene::new(300);
    let opened: Vec<(Vec<u8>, bool)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| scene.open())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(opened.iter().filter(|(_, built)| *built).count(), 1);
    assert!(opened.iter().all(|(bytes, _)| *bytes == opened[0].0));
    assert_eq!(scene.files().len(), 2, "{:?}", scene.files());
}

#[test]
fn a_sweep_removes_what_nothing_holds() {
    let scene = Scene::new(3);
    let sweep = |age, dry_run| {
        let swept = sweep(&scene.state(), Duration::from_secs(age), dry_run).unwrap();
        (swept.images, swept.leftovers)
    };
    assert_eq!(sweep(0, false), (0, 0), "no directory");
    let opened = scene.try_open(|| scene.names.clone()).unwrap();
    let directory = Directory::existing(&scene.state()).unwrap().unwrap();
    let draft = Draft::make(&directory, 0o400).unwrap();
    // What a process leaves that was killed while it wrote, or between two removals.
    fs::write(scene.state().join(DIRECTORY).join("draft-1-0"), "half").unwrap();
    fs::write(scene.state().join(DIRECTORY).join("gone-v1.json"), "{}").unwrap();
    assert_eq!(sweep(0, true), (0, 2), "dry");
    assert_eq!(sweep(0, false), (0, 2));
    assert_eq!(scene.files().len(), 3, "image, record and the draft of a process that lives");
    drop((opened, draft));
    assert_eq!(sweep(3600, false), (0, 0), "used lately");
    assert_eq!(sweep(0, true), (1, 0), "dry");
    assert_eq!(sweep(0, false), (1, 0));
    assert!(scene.files().is_empty(), "{:?}", scene.files());
    assert!(scene.open().1);
}

#[test]
fn use_keeps_an_image_young() {
    let scene = Scene::new(3);
    let_the_store_settle();
    scene.open();
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    File::open(scene.cached(".json")).unwrap().set_modified(old).unwrap();
    assert_eq!(sweep(&scene.state(), Duration::from_secs(3600), true).unwrap().images, 1);
    scene.open_at_once();
    assert_eq!(sweep(&scene.state(), Duration::from_secs(3600), true).unwrap().images, 0);
}

#[test]
fn images_with_and_without_state_and_of_other_closures_are_others() {
    let scene = Scene::new(1);
    let store = File::open(scene.store("")).unwrap();
    for (digest, nix_state) in [([1; 32], false), ([1; 32], true), ([2; 32], false)] {
        let state = scene.state();
        let request = Request { state: &state, digest: &digest, nix_state, store: store.as_fd() };
        assert!(open(&request, || Ok::<_, Infallible>(scene.names.clone())).unwrap().built);
    }
    assert_eq!(scene.files().len(), 6);
    let state = scene.state();
    let request = Request { state: &state, digest: &[3; 32], nix_state: false, store: store.as_fd() };
    let error = open(&request, || Err("the database is gone")).unwrap_err();
    assert_eq!(error.to_string(), "cannot tell the members of the closure: the database is gone");
}
