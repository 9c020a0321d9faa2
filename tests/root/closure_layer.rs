//! The closure layer in the kernel: its image shows what an image of mkfs.erofs shows, and
//! overlayfs follows it into the store and nowhere else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nixview::overlay::closure_layer::{ClosureLayer, Survey};
use nixview::overlay::erofs;
use nixview::overlay::write_tree::write_tree;
use nixview::sys::mount;
use nixview::vfs::Name;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};

use crate::support::effort::pick;
use crate::support::scene::alone;
use crate::support::skip::skip;

/// A directory with mounts below it.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Self {
        alone();
        // EROFS refuses image files on a tmpfs.
        Self(tempfile::Builder::new().prefix("cl").tempdir_in("/var/tmp").unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new directory on which a file system is mounted.
    fn mount(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let target = self.at(name);
        fs::create_dir(&target).unwrap();
        run(Command::new("mount").args(arguments).arg(&target));
        target
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.path()).unwrap() {
            match rustix::mount::unmount(entry.unwrap().path(), UnmountFlags::DETACH) {
                // Not all are mount points.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTDIR) => {}
                Err(error) => eprintln!("a mount stays: {error}"),
            }
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", output.stdout.escape_ascii(), output.stderr.escape_ascii());
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// What stat(2), readlink(2), listxattr(2) and read(2) show of an inode.
#[derive(PartialEq, Eq, Debug)]
struct Shown {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    mtime: (i64, i64),
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
}

fn walk(path: &Path) -> BTreeMap<PathBuf, Shown> {
    let mut all = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        let found = fs::symlink_metadata(&at).unwrap();
        let mut content = Vec::new();
        let mut attributes = Vec::new();
        if found.is_symlink() {
            content = fs::read_link(&at).unwrap().into_os_string().into_encoded_bytes();
        } else {
            let opened = File::open(&at).unwrap();
            let mut names = nixview::sys::xattr::list(opened.as_fd()).unwrap();
            names.sort();
            let value = |name: &Vec<u8>| nixview::sys::xattr::get(opened.as_fd(), name).unwrap();
            attributes = names.iter().map(|name| (name.clone(), value(name))).collect();
        }
        if found.is_dir() {
            left.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else if found.is_file() && found.len() < 1 << 20 {
            content = fs::read(&at).unwrap();
        }
        let shown = Shown {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            links: found.nlink(),
            size: if found.is_dir() { 0 } else { found.len() },
            mtime: (found.mtime(), found.mtime_nsec()),
            attributes,
            content,
        };
        all.insert(at.strip_prefix(path).unwrap().to_owned(), shown);
    }
    all
}

/// A store with so many directories, and some files and links.
fn store(dir: &Path, members: usize) -> Vec<Name> {
    fs::create_dir(dir).unwrap();
    let mut names: Vec<String> =
        (0..members).map(|n| format!("{n:032}-{}", "x".repeat([1, 20, 178][n % 3]))).collect();
    for (n, name) in names.iter().enumerate() {
        fs::create_dir(dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode([0o555, 0o755][n % 2])).unwrap();
    }
    if members >= 10 {
        for (name, size) in [("0-empty", 0), ("0-small", 3), ("0-block", 4096), ("0-more", 9000)] {
            fs::write(dir.join(name), "z".repeat(size)).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o444)).unwrap();
            names.push(name.to_owned());
        }
        for (name, target) in [("0-link", "short".to_owned()), ("0-long", "y".repeat(4095))] {
            symlink(target, dir.join(name)).unwrap();
            names.push(name.to_owned());
        }
    }
    names.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect()
}

fn layer(store: &Path, names: Vec<Name>, max_contents: u64) -> ClosureLayer {
    let store = mount::clone_read_only(store).unwrap();
    Survey::of(store.as_fd(), names).unwrap().layer(store.as_fd(), true, max_contents).unwrap()
}

fn check(image: &Path) {
    match Command::new("fsck.erofs").arg("-d3").arg(image).output() {
        Err(error) => skip!("fsck.erofs: {error}"),
        Ok(output) => {
            let said = format!("{}{}", output.stdout.escape_ascii(), output.stderr.escape_ascii());
            assert!(output.status.success() && said.contains("No errors found"), "{said}");
        }
    }
}

/// Of an image and of the tree in a tmpfs the kernel shows the same, and of an image that
/// mkfs.erofs makes of that tree.
fn shows_the_same(members: usize, max_contents: u64) {
    let work = Work::new();
    let names = store(&work.at("store"), members);
    let layer = layer(&work.at("store"), names, max_contents);
    assert_eq!(layer.stand_ins.is_empty(), members < 10 || max_contents > 0);
    let image = work.at("image");
    fs::write(&image, erofs::image(&layer.tree).unwrap()).unwrap();
    check(&image);
    let ours = work.mount("ours", &["-t", "erofs", "-o", "loop,ro", image.to_str().unwrap()]);
    let tmpfs = work.mount("tmpfs", &["-t", "tmpfs", "none"]);
    write_tree(&layer.tree, File::open(&tmpfs).unwrap().as_fd()).unwrap();
    let shown = walk(&ours);
    assert_eq!(
        shown.len(),
        members + if members >= 10 { 6 } else { 0 } + 4,
        "/, nix, store, var and members"
    );
    assert!(shown == walk(&tmpfs), "{members} members: image and tmpfs differ");
    if members > 5_000 {
        return;
    }
    let theirs = work.at("theirs.erofs");
    match Command::new("mkfs.erofs")
        .args(["--quiet", "-Eforce-inode-extended"])
        .arg(&theirs)
        .arg(&tmpfs)
        .output()
    {
        Err(error) => return skip!("mkfs.erofs: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", output.stderr.escape_ascii()),
    }
    let theirs = work.mount("theirs", &["-t", "erofs", "-o", "loop,ro", theirs.to_str().unwrap()]);
    assert!(shown == walk(&theirs), "{members} members: another image than mkfs.erofs makes");
}

#[test]
#[ignore = "needs root and loop devices"]
fn an_image_shows_what_mkfs_makes_of_the_tree() {
    for members in [0, 1, 10, 5_000] {
        shows_the_same(members, 1 << 20);
    }
    shows_the_same(10, 0);
    shows_the_same(pick(10_000, 100_000), 1 << 20);
}

/// Mounts an image from its file, without a loop device.
fn mount_file(image: &Path, target: &Path) -> rustix::io::Result<()> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", image)?;
    rustix::mount::fsconfig_create(&context)?;
    let opened =
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    rustix::mount::move_mount(&opened, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

#[test]
#[ignore = "needs root"]
fn an_image_is_mounted_from_its_file() {
    let work = Work::new();
    let names = store(&work.at("store"), 100);
    let layer = layer(&work.at("store"), names, 0);
    fs::write(work.at("image"), erofs::image(&layer.tree).unwrap()).unwrap();
    let (target, tmpfs) = (work.at("m"), work.mount("tmpfs", &["-t", "tmpfs", "none"]));
    fs::create_dir(&target).unwrap();
    match mount_file(&work.at("image"), &target) {
        Err(rustix::io::Errno::NOTBLK) => {
            return skip!(
                "the kernel mounts EROFS from devices alone, or the file system of /var/tmp is none for images"
            );
        }
        answer => answer.unwrap(),
    }
    write_tree(&layer.tree, File::open(&tmpfs).unwrap().as_fd()).unwrap();
    assert!(walk(&target) == walk(&tmpfs));
}

/// overlayfs shows the members with what the store has of them, and nothing of the store besides. A
/// redirect that a member of the store has of its own leads nowhere: the last layer is not asked
/// for any.
#[test]
#[ignore = "needs root and loop devices"]
fn overlayfs_shows_the_closure_and_nothing_besides() {
    let work = Work::new();
    let dir = work.at("store");
    let mut names = store(&dir, 10);
    let secret = "9-secret";
    fs::create_dir(dir.join(secret)).unwrap();
    fs::write(dir.join(secret).join("secret"), "").unwrap();
    let forged = names[0].to_string();
    fs::write(dir.join(&forged).join("own"), "").unwrap();
    let opened = File::open(dir.join(&forged)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    nixview::sys::xattr::set(opened.as_fd(), b"trusted.overlay.redirect", b"/9-secret", flags).unwrap();
    for (max_contents, metacopy) in [(1 << 20, "off"), (0, "on")] {
        names.reverse();
        let layer = layer(&dir, names.clone(), max_contents);
        let at = |name: &str| format!("{name}-{metacopy}");
        let image = work.at(&at("image"));
        fs::write(&image, erofs::image(&layer.tree).unwrap()).unwrap();
        let image = work.mount(&at("i"), &["-t", "erofs", "-o", "loop,ro", image.to_str().unwrap()]);
        fs::create_dir_all(work.at(&at("state")).join("nix-state/nix")).unwrap();
        let (state, options) = (work.at(&at("state")), "redirect_dir=on,index=off,nfs_export=off");
        // A name in the store like that of Nix's state does not show either, if that is opaque.
        fs::create_dir_all(dir.join("nix-state/planted")).unwrap();
        let opened = File::open(state.join("nix-state")).unwrap();
        nixview::sys::xattr::set(opened.as_fd(), b"trusted.overlay.opaque", b"y", flags).unwrap();
        let layers = format!(
            "lowerdir={}:{}:{},{options},metacopy={metacopy}",
            image.display(),
            state.display(),
            dir.display()
        );
        let view = work.mount(&at("v"), &["-t", "overlay", "-o", &layers, "overlay"]).join("nix");
        let mut shown: Vec<String> = fs::read_dir(view.join("store"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        shown.sort();
        let mut wanted: Vec<String> = names.iter().map(Name::to_string).collect();
        wanted.sort();
        assert_eq!(shown, wanted);
        assert!(!view.join("store").join(secret).exists());
        for name in &wanted {
            let (real, here) = (dir.join(name), view.join("store").join(name));
            let seen = |path: &Path| {
                fs::symlink_metadata(path).map(|m| (m.mode(), m.mtime(), m.mtime_nsec())).unwrap()
            };
            assert_eq!(seen(&real), seen(&here), "{name}");
            if real.is_file() {
                assert!(fs::read(&real).unwrap() == fs::read(&here).unwrap(), "{name}");
            }
        }
        let inside: Vec<_> =
            fs::read_dir(view.join("store").join(&forged)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(inside, ["own"]);
        assert_eq!(fs::read_dir(view.join("var")).unwrap().count(), 1);
        for (path, mode) in [("", 0o755), ("store", 0o755), ("var", 0o755)] {
            let found = fs::metadata(view.join(path)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.mtime(), found.uid()), (mode, 1, 0), "/nix/{path}");
        }
    }
}
