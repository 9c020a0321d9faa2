//! Directory layers on real file systems, and the kernel's overlayfs as the judge of what is on the disk.
//!
//! Each test runs in a mount namespace of its own, so that no mount and no loop device outlives it.
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::layer_suite::{self, Thing, dir, errno, name};
use crate::support::skip::skip;
use nix::sched::{CloneFlags, unshare};
use nixview::layer::dir::{DirLower, DirUpper, Format, Survey, survey};
use nixview::layer::{Access, EntryKind, LayerFile, Lower, NewObject, Presence, Redirect, Upper};
use nixview::sys;
use nixview::union::{Options, UnionFs};
use nixview::vfs::{Errno, FileKind, Ino, Vfs, XattrMode};
use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};

/// A directory on a file system of its own; unmounted and removed when dropped.
struct Mounted {
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.dir, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.dir.display());
        }
    }
}

/// Puts this thread into a mount namespace of its own; false, with the reason said, if it may not.
fn private_namespace() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        skip!("unshare: {error}");
        return false;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    true
}

/// Runs a command; the reason if it is not there or fails.
fn succeed(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{}: {}", command.get_program().display(), output.stderr.escape_ascii())),
    }
}

/// A new file system, mounted; the reason if that cannot be had here.
fn file_system(kind: &str) -> Result<Mounted, String> {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("mnt");
    fs::create_dir(&dir).unwrap();
    if kind == "tmpfs" {
        rustix::mount::mount("none", &dir, "tmpfs", MountFlags::empty(), None).map_err(|e| e.to_string())?;
        return Ok(Mounted { dir, _temp: temp });
    }
    let image = temp.path().join("image");
    File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let mut mkfs = Command::new(format!("mkfs.{kind}"));
    match kind {
        "xfs" => mkfs.args(["-q", "-m", "reflink=1"]),
        "ext4" => mkfs.args(["-q", "-b", "4096"]),
        _ => mkfs.arg("-q"),
    };
    succeed(mkfs.arg(&image))?;
    succeed(Command::new("mount").args(["-o", "loop", "-t", kind]).args([&image, &dir]))?;
    Ok(Mounted { dir, _temp: temp })
}

/// The suite in all formats, as root with other owners; then copies from a lower on the same file system.
fn on(kind: &str, shares_blocks: bool) {
    if !private_namespace() {
        return;
    }
    let mounted = match file_system(kind) {
        Ok(mounted) => mounted,
        Err(why) => return skip!("{kind}: {why}"),
    };
    for format in Format::ALL {
        let layer = format!("dir on {kind}, {}", format.as_str());
        layer_suite::run(&layer, || {
            let mut bench = dir::bench(&mounted.dir, Some(format)).unwrap();
            bench.owner = (4321, 1234);
            bench
        });
    }
    let store = mounted.dir.join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("file"), vec![b'x'; 1 << 20]).unwrap();
    let lower = DirLower::new(&sys::mount::clone_read_only(&store).unwrap()).unwrap();
    let bench = dir::bench(&mounted.dir, None).unwrap();
    assert_eq!(bench.upper.format(), Format::Trusted, "{kind}: the best format works as root");
    let source = lower.resolve(&[name("file")]).unwrap();
    assert_eq!(errno(lower.open(&source, Access::ReadWrite)), Errno::EROFS);
    let open = lower.open(&source, Access::Read).unwrap();
    let draft = bench.draft(&NewObject::File, 0o644);
    bench.upper.fill(&draft, &open).unwrap();
    assert_eq!(bench.read(&bench.upper.draft_object(&draft)), vec![b'x'; 1 << 20]);
    let counts = bench.upper.copy_counts();
    assert_eq!((counts.cloned, counts.in_kernel), if shares_blocks { (1, 0) } else { (0, 1) }, "{kind}");
    drop(draft);
}

#[test]
#[ignore = "needs root"]
fn directories_on_ext4() {
    on("ext4", false);
}

#[test]
#[ignore = "needs root"]
fn directories_on_xfs() {
    on("xfs", true);
}

#[test]
#[ignore = "needs root"]
fn directories_on_btrfs() {
    on("btrfs", true);
}

#[test]
#[ignore = "needs root"]
fn directories_on_tmpfs() {
    on("tmpfs", false);
}

#[test]
#[ignore = "needs root"]
fn devices_are_kept_and_never_opened() {
    let bench = dir::bench(&std::env::temp_dir(), None).unwrap();
    let rdev = rustix::fs::makedev(1, 5);
    for kind in [FileKind::CharDevice, FileKind::BlockDevice] {
        let object = bench.add(&bench.root(), "device", &NewObject::Node { kind, rdev });
        let stat = bench.upper.stat(&object).unwrap();
        assert_eq!((stat.kind, stat.rdev), (kind, rdev));
        assert_eq!(errno(bench.upper.open(&object, Access::Read)), Errno::ENXIO);
        assert_eq!(bench.upper.read_dir(&bench.root()).unwrap()[0].kind, EntryKind::Object(kind));
        bench.upper.remove(&bench.root(), &name("device"), false).unwrap();
    }
}

/// A lower, an upper and a work directory for overlayfs, on a tmpfs.
struct Overlay {
    mounted: Mounted,
}

impl Overlay {
    fn new() -> Result<Self, String> {
        let mounted = file_system("tmpfs")?;
        for dir in ["lower/dir/sub", "lower/tree/a/b", "data", "work", "merged"] {
            fs::create_dir_all(mounted.dir.join(dir)).unwrap();
        }
        for (file, text) in [("file", "lower"), ("dir/one", "1"), ("dir/two", "2"), ("tree/a/b/c", "c")] {
            fs::write(mounted.dir.join("lower").join(file), text).unwrap();
        }
        symlink("file", mounted.dir.join("lower/link")).unwrap();
        Ok(Self { mounted })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.mounted.dir.join(path)
    }

    /// Calls while the overlay is mounted; the reason if it cannot be.
    fn mounted(&self, options: &str, call: impl FnOnce(&Path)) -> Result<(), String> {
        let at = |dir: &str| self.at(dir).display().to_string();
        let all = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("data"), at("work"));
        let options = if options.is_empty() { all } else { format!("{all},{options}") };
        succeed(
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(self.at("merged")),
        )?;
        call(&self.at("merged"));
        unmount(self.at("merged"), UnmountFlags::empty()).map_err(|e| e.to_string())
    }

    fn survey(&self) -> Survey {
        let open = |dir: &str| File::open(self.at(dir)).unwrap();
        survey(open("data").as_fd(), open("work").as_fd()).unwrap()
    }

    fn upper(&self, format: Format) -> io::Result<DirUpper> {
        dir::open(&self.mounted.dir, Some(format))
    }
}

/// An overlay to try things with; nothing, with the reason said, if there is none to be had.
fn overlay() -> Option<Overlay> {
    if !private_namespace() {
        return None;
    }
    Overlay::new().and_then(|o| o.mounted("", |_| {}).map(|()| o)).map_err(|why| skip!("{why}")).ok()
}

/// All paths below a directory with what they are and hold.
fn tree(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let shown = path.strip_prefix(dir).unwrap().display().to_string();
            let what = if meta.is_dir() {
                pending.push(path);
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                assert!(!meta.file_type().is_char_device(), "{shown}: a whiteout shows through");
                fs::read_to_string(&path).unwrap()
            };
            all.push(format!("{shown} {:o} {what}", meta.mode() & 0o7777));
        }
    }
    all.sort();
    all
}

#[test]
#[ignore = "needs root"]
fn overlayfs_reads_what_we_write() {
    for (format, options) in [(Format::Trusted, ""), (Format::User, "userxattr")] {
        let Some(overlay) = overlay() else { return };
        fs::remove_dir_all(overlay.at("work")).unwrap();
        let upper = overlay.upper(format).unwrap();
        let root = upper.root().unwrap();
        let put = |dir: &_, text: &str, new: &NewObject<'_>| {
            let draft = upper.draft(new, 0o755, 0, 0).unwrap();
            let object = upper.draft_object(&draft);
            upper.publish(draft, dir, &name(text)).unwrap();
            object
        };
        // A file in place of a file, a hidden link, a merged directory with a hidden file and a new one.
        put(&root, "file", &NewObject::File);
        upper.remove(&root, &name("link"), true).unwrap();
        let dir = put(&root, "dir", &NewObject::Directory { opaque: false });
        upper.remove(&dir, &name("one"), true).unwrap();
        put(&dir, "three", &NewObject::Symlink(b"two"));
        // A tree that was removed and made again, then moved over a whiteout and a whiteout left behind.
        upper.remove(&root, &name("tree"), true).unwrap();
        let tree_dir = put(&root, "tree", &NewObject::Directory { opaque: true });
        put(&tree_dir, "new", &NewObject::File);
        let sub = put(&dir, "sub", &NewObject::Directory { opaque: true });
        put(&sub, "inside", &NewObject::File);
        upper.rename((&dir, &name("sub")), (&root, &name("moved")), true).unwrap();
        upper.set_origin(&tree_dir, 12345).unwrap();
        drop(upper);
        overlay
            .mounted(options, |merged| {
                assert_eq!(
                    tree(merged),
                    [
                        "dir 755 directory",
                        "dir/three 777 -> two",
                        "dir/two 644 2",
                        "file 755 ",
                        "moved 755 directory",
                        "moved/inside 755 ",
                        "tree 755 directory",
                        "tree/new 755 ",
                    ]
                );
            })
            .unwrap();
        assert_eq!(overlay.survey(), Survey { format: Some(format), unsupported: None });
    }
}

#[test]
#[ignore = "needs root"]
fn we_read_what_overlayfs_writes() {
    for (format, options) in [(Format::Trusted, ""), (Format::User, "userxattr")] {
        let Some(overlay) = overlay() else { return };
        overlay
            .mounted(options, |merged| {
                fs::remove_file(merged.join("link")).unwrap();
                fs::set_permissions(merged.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
                fs::remove_dir_all(merged.join("tree")).unwrap();
                fs::create_dir(merged.join("tree")).unwrap();
                fs::rename(merged.join("dir/one"), merged.join("one")).unwrap();
                fs::remove_dir(merged.join("dir/sub")).unwrap();
            })
            .unwrap();
        assert_eq!(overlay.survey(), Survey { format: Some(format), unsupported: None });
        let upper = overlay.upper(format).unwrap();
        let root = upper.root().unwrap();
        let at = |path: &[&str]| upper.resolve(&path.iter().map(|n| name(n)).collect::<Vec<_>>()).unwrap();
        let whiteout =
            |dir: &_, text: &str| matches!(upper.presence(dir, &name(text)).unwrap(), Presence::Whiteout);
        assert!(whiteout(&root, "link"));
        assert!(upper.is_opaque(&at(&["tree"])).unwrap());
        let dir = at(&["dir"]);
        assert!(!upper.is_opaque(&dir).unwrap());
        assert!(whiteout(&dir, "one") && whiteout(&dir, "sub"));
        for path in ["one", "file"] {
            let file = at(&[path]);
            let open = upper.open(&file, Access::Read).unwrap();
            let mut buffer = [0; 9];
            let got = open.read_at(0, &mut buffer).unwrap();
            assert_eq!(&buffer[..got], if path == "one" { &b"1"[..] } else { b"lower" });
            assert_eq!(upper.origin(&file).unwrap(), None, "overlayfs's own origin is another thing");
        }
        assert_eq!(upper.read_dir(&root).unwrap().len(), 5);
    }
}

#[test]
#[ignore = "needs root"]
fn redirects_are_overlayfs_own() {
    let Some(overlay) = overlay() else { return };
    let path = |names: &[&str]| Redirect::Path(names.iter().map(|n| name(n)).collect());
    overlay
        .mounted("redirect_dir=on", |merged| {
            fs::rename(merged.join("tree/a"), merged.join("moved")).unwrap();
            fs::rename(merged.join("dir"), merged.join("renamed")).unwrap();
        })
        .unwrap();
    assert_eq!(overlay.survey(), Survey { format: Some(Format::Trusted), unsupported: None });
    let upper = overlay.upper(Format::Trusted).unwrap();
    let root = upper.root().unwrap();
    let at = |text: &str| upper.lookup(&root, &name(text)).unwrap();
    assert_eq!(upper.redirect(&at("moved")).unwrap(), Some(path(&["tree", "a"])));
    assert_eq!(upper.redirect(&at("renamed")).unwrap(), Some(Redirect::Sibling(name("dir"))));
    assert!(!upper.is_opaque(&at("moved")).unwrap() && !upper.is_opaque(&at("renamed")).unwrap());

    // The two change places.
    upper.set_redirect(&at("renamed"), &path(&["tree", "a"])).unwrap();
    upper.set_redirect(&at("moved"), &path(&["dir"])).unwrap();
    drop(upper);
    let shown = |merged: &Path| {
        let all = tree(merged);
        assert!(all.contains(&"renamed/b/c 644 c".to_owned()), "{all:?}");
        assert!(all.contains(&"moved/one 644 1".to_owned()), "{all:?}");
    };
    overlay.mounted("redirect_dir=on", shown).unwrap();
    overlay.mounted("redirect_dir=follow", shown).unwrap();
}

/// overlayfs does not follow redirects in `user` attributes: it refuses the directories that have them, and shows the
/// rest. docs/on-disk.md says so.
#[test]
#[ignore = "needs root"]
fn overlayfs_refuses_redirects_of_the_user_format() {
    let Some(overlay) = overlay() else { return };
    fs::remove_dir_all(overlay.at("work")).unwrap();
    let upper = overlay.upper(Format::User).unwrap();
    let draft = upper.draft(&NewObject::Directory { opaque: false }, 0o755, 0, 0).unwrap();
    let object = upper.draft_object(&draft);
    upper.publish(draft, &upper.root().unwrap(), &name("moved")).unwrap();
    upper.set_redirect(&object, &Redirect::Sibling(name("tree"))).unwrap();
    drop(upper);
    assert_eq!(overlay.survey(), Survey { format: Some(Format::User), unsupported: None });
    overlay
        .mounted("userxattr", |merged| {
            let refused = fs::metadata(merged.join("moved")).unwrap_err();
            assert_eq!(Errno::of(&refused), Errno::EPERM);
            assert_eq!(fs::read(merged.join("dir/one")).unwrap(), b"1");
        })
        .unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_overlayfs_writes_and_we_do_not_read_is_refused() {
    /// Options of the mount, what is done in it, and a word of the refusal.
    type Case = (&'static str, fn(&Path), &'static str);
    let cases: [Case; 2] = [
        (
            "metacopy=on,redirect_dir=on",
            |merged| {
                fs::set_permissions(merged.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
            },
            "metacopy",
        ),
        ("volatile", |merged| fs::write(merged.join("file"), "new").unwrap(), "volatile"),
    ];
    for (options, change, expected) in cases {
        let Some(overlay) = overlay() else { return };
        if let Err(why) = overlay.mounted(options, change) {
            skip!("overlayfs with {options}: {why}");
            continue;
        }
        let why = overlay.survey().unsupported.unwrap_or_default();
        assert!(why.contains(expected), "{options}: {why}");
        if expected == "volatile" {
            continue;
        }
        let upper = overlay.upper(Format::Trusted).unwrap();
        let root = upper.root().unwrap();
        let marked = upper.lookup(&root, &name("file")).unwrap();
        assert_eq!(errno(upper.origin(&marked)), Errno::EOPNOTSUPP, "{options}");
        assert_eq!(errno(upper.is_opaque(&marked)), Errno::EOPNOTSUPP, "{options}");
        assert_eq!(errno(upper.open(&marked, Access::Read)), Errno::EOPNOTSUPP, "{options}");
    }
}

#[test]
#[ignore = "needs root"]
fn indexes_and_marks_that_only_tools_write_are_refused() {
    let Some(overlay) = overlay() else { return };
    fs::create_dir_all(overlay.at("work/index/00fb")).unwrap();
    assert!(overlay.survey().unsupported.unwrap_or_default().contains("index"));
    fs::remove_dir_all(overlay.at("work/index")).unwrap();
    assert_eq!(overlay.survey().unsupported, None);

    for (mark, value) in [
        ("trusted.overlay.opaque", &b"x"[..]),
        ("trusted.overlay.whiteout", b"y"),
        ("trusted.overlay.unheard-of", b""),
    ] {
        let dir = overlay.at("data/marked");
        fs::create_dir(&dir).unwrap();
        let fd = File::open(&dir).unwrap();
        sys::xattr::set(fd.as_fd(), mark.as_bytes(), value, XattrFlags::empty()).unwrap();
        let why = overlay.survey().unsupported.unwrap_or_default();
        assert!(why.contains(mark) && why.contains("/marked"), "{why}");
        let upper = overlay.upper(Format::Trusted).unwrap();
        let marked = upper.lookup(&upper.root().unwrap(), &name("marked")).unwrap();
        assert_eq!(errno(upper.is_opaque(&marked)), Errno::EOPNOTSUPP, "{mark}");
        fs::remove_dir(&dir).unwrap();
    }

    fs::create_dir(overlay.at("data/twice")).unwrap();
    let fd = File::open(overlay.at("data/twice")).unwrap();
    for mark in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        sys::xattr::set(fd.as_fd(), mark.as_bytes(), b"y", XattrFlags::empty()).unwrap();
    }
    assert!(overlay.survey().unsupported.unwrap_or_default().contains("both"));
}

#[test]
#[ignore = "needs root"]
fn what_a_container_can_set_is_inert_to_overlayfs_too() {
    let Some(overlay) = overlay() else { return };
    fs::remove_dir_all(overlay.at("work")).unwrap();
    let upper = overlay.upper(Format::Trusted).unwrap();
    let root = upper.root().unwrap();
    let draft = upper.draft(&NewObject::Directory { opaque: false }, 0o755, 0, 0).unwrap();
    let dir = upper.draft_object(&draft);
    upper.publish(draft, &root, &name("dir")).unwrap();
    for mark in [&b"trusted.overlay.opaque"[..], b"user.overlay.opaque", b"trusted.overlay.redirect"] {
        upper.set_xattr(&dir, mark, b"y", XattrMode::Set).unwrap();
    }
    let device = NewObject::Node { kind: FileKind::CharDevice, rdev: 0 };
    let draft = upper.draft(&device, 0o600, 0, 0).unwrap();
    upper.publish(draft, &dir, &name("two")).unwrap();
    let draft = upper.draft(&NewObject::File, 0o644, 0, 0).unwrap();
    upper.publish(draft, &dir, &name(".wh.one")).unwrap();
    drop(upper);
    overlay
        .mounted("", |merged| {
            assert!(merged.join("dir/one").exists());
            // A device 0:0 of a program is an empty file there, and hides nothing of the directory.
            let device = fs::metadata(merged.join("dir/two")).unwrap();
            assert!(device.is_file() && device.len() == 0);
        })
        .unwrap();
}

#[test]
#[ignore = "needs root"]
fn attributes_with_names_of_marks_are_the_same_for_overlayfs() {
    for (format, options) in [(Format::Trusted, ""), (Format::User, "userxattr")] {
        let Some(overlay) = overlay() else { return };
        fs::remove_dir_all(overlay.at("work")).unwrap();
        let marks = ["overlay.opaque", "overlay.overlay.x", "overlay.redirect"];
        let names: Vec<String> =
            marks.iter().flat_map(|m| ["trusted", "user"].map(|space| format!("{space}.{m}"))).collect();
        let upper = overlay.upper(format).unwrap();
        let draft = upper.draft(&NewObject::File, 0o644, 0, 0).unwrap();
        for name in &names {
            upper.set_xattr(&upper.draft_object(&draft), name.as_bytes(), b"ours", XattrMode::Set).unwrap();
        }
        upper.publish(draft, &upper.root().unwrap(), &name("file")).unwrap();
        drop(upper);
        let shown = |file: &File| {
            let mut shown = sys::xattr::list(file.as_fd()).unwrap();
            shown.retain(|name| name.starts_with(b"trusted.") || name.starts_with(b"user."));
            shown.sort();
            shown.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        let mut sorted = names.clone();
        sorted.sort();
        overlay
            .mounted(options, |merged| {
                let file = File::open(merged.join("file")).unwrap();
                assert_eq!(shown(&file), sorted, "{format:?}: on overlayfs");
                for name in &names {
                    assert_eq!(sys::xattr::get(file.as_fd(), name.as_bytes()).unwrap(), b"ours");
                    sys::xattr::set(file.as_fd(), name.as_bytes(), b"theirs", XattrFlags::REPLACE).unwrap();
                }
                let prefix = if format == Format::User { "user.overlay." } else { "trusted.overlay." };
                let long = |length: usize| [prefix.as_bytes(), &vec![b'n'; length - prefix.len()]].concat();
                for (refused, expected) in
                    [(long(248), Errno::EOPNOTSUPP), (long(prefix.len()), Errno::EINVAL)]
                {
                    let theirs = sys::xattr::set(file.as_fd(), &refused, b"", XattrFlags::empty());
                    assert_eq!(
                        errno(theirs),
                        expected,
                        "{format:?}: as we answer, see src/layer/dir/escape.rs"
                    );
                }
            })
            .unwrap();
        let upper = overlay.upper(format).unwrap();
        let object = upper.lookup(&upper.root().unwrap(), &name("file")).unwrap();
        let mut ours = upper.list_xattr(&object).unwrap();
        ours.retain(|name| name.starts_with(b"trusted.") || name.starts_with(b"user."));
        ours.sort();
        assert_eq!(
            ours,
            sorted.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>(),
            "{format:?}"
        );
        for name in &names {
            assert_eq!(upper.get_xattr(&object, name.as_bytes()).unwrap(), b"theirs");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn mounts_in_an_upper_are_not_entered() {
    if !private_namespace() {
        return;
    }
    let mounted = match file_system("tmpfs") {
        Ok(mounted) => mounted,
        Err(why) => return skip!("{why}"),
    };
    let bench = dir::bench(&mounted.dir, None).unwrap();
    bench.put(&bench.root(), "over", Thing::EmptyDir);
    let top = fs::read_dir(&mounted.dir).unwrap().next().unwrap().unwrap().path();
    rustix::mount::mount("none", top.join("data/over"), "tmpfs", MountFlags::empty(), None).unwrap();
    assert_eq!(errno(bench.upper.lookup(&bench.root(), &name("over"))), Errno::EXDEV);
    assert_eq!(errno(bench.upper.resolve(&[name("over"), name("x")])), Errno::EXDEV);
    unmount(top.join("data/over"), UnmountFlags::empty()).unwrap();
    assert_eq!(bench.thing(&bench.root(), "over"), Thing::EmptyDir);
}

#[test]
#[ignore = "needs root"]
fn attributes_of_a_lower_are_shown_as_overlayfs_shows_them_before_and_after_a_copy() {
    let Some(overlay) = overlay() else { return };
    fs::remove_dir_all(overlay.at("work")).unwrap();
    let file = File::open(overlay.at("lower/file")).unwrap();
    for (on_disk, value) in [
        ("trusted.overlay.redirect", &b"a mark"[..]),
        ("trusted.overlay.overlay.opaque", b"of a program"),
        ("user.overlay.opaque", b"ordinary"),
    ] {
        sys::xattr::set(file.as_fd(), on_disk.as_bytes(), value, XattrFlags::empty()).unwrap();
    }
    // The number of origin, a mark of ours, is an attribute like others to overlayfs.
    let ours = |mut names: Vec<Vec<u8>>| {
        names.retain(|name| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user."));
        names.sort();
        names
    };
    let expected = ours(vec![b"trusted.overlay.opaque".to_vec(), b"user.overlay.opaque".to_vec()]);
    let options = Options { durable: false, ..Options::default() };
    let lower = DirLower::new(&File::open(overlay.at("lower")).unwrap()).unwrap();
    let view = UnionFs::new(lower, Some(overlay.upper(Format::Trusted).unwrap()), options).unwrap();
    let ino = view.lookup(Ino::ROOT, &name("file")).unwrap().unwrap().attr.ino;
    for copied in [false, true] {
        assert_eq!(ours(view.listxattr(ino).unwrap()), expected, "copied: {copied}");
        assert_eq!(view.getxattr(ino, b"trusted.overlay.opaque").unwrap(), b"of a program");
        assert_eq!(view.getxattr(ino, b"trusted.overlay.redirect").unwrap_err().errno(), Errno::ENODATA);
        view.setxattr(ino, b"trusted.other", b"", XattrMode::Set).unwrap();
        view.removexattr(ino, b"trusted.other").unwrap();
    }
    drop(view);
    let shown =
        |merged: &Path| ours(sys::xattr::list(File::open(merged.join("file")).unwrap().as_fd()).unwrap());
    overlay.mounted("", |merged| assert_eq!(shown(merged), expected, "of the copy")).unwrap();
    fs::remove_file(overlay.at("data/file")).unwrap();
    overlay.mounted("", |merged| assert_eq!(shown(merged), expected, "of the lower")).unwrap();
}
