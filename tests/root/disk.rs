//! A store on a disk of its own, mounted read-only: the database is found and read, and nothing stays behind.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use mini_store::MiniStore;
use nixview::store::{Database, Location, References, StorePath};

fn disk(args: &[&Path]) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-images/disk/disk");
    let output = Command::new(script).args(args).output().unwrap();
    eprint!("{}", output.stderr.escape_ascii());
    output.status.success()
}

fn loop_devices_of(image: &Path) -> String {
    let output = Command::new("losetup").arg("-j").arg(image).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Unmounts on every way out.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        assert!(disk(&[Path::new("umount"), self.0]), "{} stays mounted", self.0.display());
    }
}

fn store_on(file_system: &str) {
    let store = MiniStore::temporary();
    let work = tempfile::Builder::new().prefix("disk").tempdir().unwrap();
    let (image, mountpoint) = (work.path().join("image"), work.path().join("mnt"));
    fs::create_dir(&mountpoint).unwrap();
    assert!(disk(&[Path::new("make"), Path::new(file_system), store.root(), &image]), "no image was made");
    {
        assert!(disk(&[Path::new("mount"), &image, &mountpoint]), "the image was not mounted");
        let _mounted = Mounted(&mountpoint);
        let location = Location::open(&mountpoint).unwrap();
        let path: StorePath = store.path("libc").parse().unwrap();
        let found: BTreeSet<_> =
            Database::open(&location).unwrap().references(&path).unwrap().into_iter().collect();
        assert_eq!(found, BTreeSet::from([path]));
        let config = mountpoint.join("nix/store").join(store.path("config"));
        assert_eq!(fs::read(&config).unwrap(), fs::read(store.real("config")).unwrap());
        assert_eq!(fs::write(&config, "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(loop_devices_of(&image), "", "a loop device stays");
}

#[test]
#[ignore = "needs root and loop devices"]
fn ext4() {
    store_on("ext4");
}

#[test]
#[ignore = "needs root and loop devices"]
fn erofs() {
    store_on("erofs");
}

#[test]
#[ignore = "needs root and loop devices"]
fn squashfs() {
    store_on("squashfs");
}
