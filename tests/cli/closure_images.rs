//! Images of closure layers: what erofs-utils say of them, builders that are killed, and `nixview
//! gc`.

use std::convert::Infallible;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nixview::overlay::image_cache::{self, OpenedImage, Request};
use nixview::vfs::Name;

use crate::support::effort::pick;
use crate::support::skip::skip;

/// A store of so many directories, and a state directory.
struct Images {
    dir: tempfile::TempDir,
    names: Vec<Name>,
}

impl Images {
    fn new(members: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        let names: Vec<String> =
            (0..members).map(|n| format!("{n:032}-{}", "y".repeat([3, 40, 178][n % 3]))).collect();
        for name in &names {
            fs::create_dir(dir.path().join("store").join(name)).unwrap();
        }
        let names = names.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect();
        Self { dir, names }
    }

    fn open(&self) -> OpenedImage {
        open(self.dir.path(), &self.names)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("closures")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn image(&self) -> PathBuf {
        self.files().into_iter().find(|path| path.extension().is_some_and(|end| end == "erofs")).unwrap()
    }
}

fn open(dir: &Path, names: &[Name]) -> OpenedImage {
    let store = File::open(dir.join("store")).unwrap();
    let request = Request { state: dir, digest: &[9; 32], nix_state: true, store: store.as_fd() };
    image_cache::open(&request, || Ok::<_, Infallible>(names.to_vec())).unwrap()
}

#[test]
fn erofs_utils_find_no_fault() {
    for members in [0, 1, 10, pick(5_000, 100_000)] {
        let images = Images::new(members);
        images.open();
        let image = images.image();
        let ask = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).arg(&image).output();
            let output = output.map_err(|error| skip!("{program}: {error}")).ok()?;
            let said = format!("{}{}", output.stdout.escape_ascii(), output.stderr.escape_ascii());
            assert!(output.status.success(), "{program}, {members} members: {said}");
            Some(said)
        };
        if let Some(said) = ask("fsck.erofs", "-d3") {
            assert!(said.contains("No errors found"), "{said}");
        }
        if let Some(said) = ask("dump.erofs", "-s") {
            let has = |key: &str, value: String| {
                let found = said.split("\\n").find_map(|line| line.strip_prefix(key));
                assert_eq!(found.map(str::trim), Some(value.as_str()), "{key} in {said}");
            };
            has("Filesystem inode count:", (members + 4).to_string());
            has("Filesystem blocks:", (fs::metadata(&image).unwrap().len() / 4096).to_string());
            has("Filesystem UUID:", "00000000-0000-0000-0000-000000000000".to_owned());
            has("Filesystem features:", "sb_csum mtime".to_owned());
        }
    }
}

/// The directory in which [`a_builder_that_is_killed`] builds.
const BUILDER: &str = "NIXVIEW_TEST_BUILDER";

/// No test: the process that [`a_killed_builder_leaves_nothing_that_counts`] kills.
#[test]
fn a_builder_that_is_killed() {
    let Some(dir) = std::env::var_os(BUILDER).map(PathBuf::from) else { return };
    let entries = fs::read_dir(dir.join("store")).unwrap();
    let name = |entry: fs::DirEntry| Name::new(entry.file_name().as_encoded_bytes()).unwrap();
    let names: Vec<Name> = entries.map(|entry| name(entry.unwrap())).collect();
    loop {
        open(&dir, &names);
        // So that the next one is built again.
        for entry in fs::read_dir(dir.join("closures")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "json") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_killed_builder_leaves_nothing_that_counts() {
    let images = Images::new(2_000);
    images.open();
    let wanted = fs::read(images.image()).unwrap();
    for round in 0..pick(8, 200) {
        let mut builder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "closure_images::a_builder_that_is_killed"])
            .env(BUILDER, images.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(30 + 7 * round % 90));
        builder.kill().unwrap();
        builder.wait().unwrap();
        let opened = images.open();
        assert!(fs::read(images.image()).unwrap() == wanted, "round {round}");
        image_cache::sweep(images.dir.path(), Duration::from_secs(3600), false).unwrap();
        assert_eq!(images.files().len(), 2, "round {round}: {:?}", images.files());
        drop(opened);
    }
}

#[test]
fn nixview_gc_removes_images_that_nothing_holds() {
    let images = Images::new(10);
    let opened = images.open();
    let gc = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nixview"))
            .args(["gc", "--json", "--store"])
            .arg(images.dir.path().join("store"))
            .args(arguments)
            .env("NIXVIEW_STATE_DIR", images.dir.path())
            .env("NIXVIEW_RUNTIME_DIR", images.dir.path().join("run"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", output.stderr.escape_ascii());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["closureImages"].as_u64().unwrap(), report["closureImageBytes"].as_u64().unwrap())
    };
    assert_eq!(gc(&["--older-than", "0s"]), (0, 0), "it is held");
    drop(opened);
    assert_eq!(gc(&[]), (0, 0), "it was just used");
    let (count, bytes) = gc(&["--older-than", "0s", "--dry-run"]);
    assert!(count == 1 && bytes >= fs::metadata(images.image()).unwrap().len(), "{count}, {bytes}");
    assert_eq!(gc(&["--older-than", "0s"]), (1, bytes));
    assert_eq!(images.files(), Vec::<PathBuf>::new());
}
