//! `--upper-size` and `--upper-inodes`: limits that the kernel keeps, on real mounts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::support::scene::{Scene, on_each_backend};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

const MIB: u64 = 1 << 20;

/// What may be left of a full upper that a larger file does not take.
const REST: u64 = 2 * 4096;

/// What statfs(2) says, in bytes and inodes: all, free, all, free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sizes {
    size: u64,
    free: u64,
    inodes: u64,
    inodes_free: u64,
}

fn sizes(path: &Path) -> Sizes {
    let found = rustix::fs::statvfs(path).unwrap();
    let (size, free) = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    Sizes { size, free, inodes: found.f_files, inodes_free: found.f_ffree }
}

/// What overlayfs takes of a limit for the directory that it works in: a block and an inode. What else statfs(2) shows of the
/// limit is the image's there (docs/semantics.md).
fn own(scene: &Scene) -> u64 {
    u64::from(scene.by_overlayfs())
}

/// What a file system of this size shows.
#[track_caller]
fn assert_size(scene: &Scene, view: &Path, size: u64) {
    assert!(scene.by_overlayfs() || sizes(view).size == size, "{:?}", sizes(view));
}

/// The loop devices that something below the scene is attached to.
fn loop_devices(scene: &Scene) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(&file).starts_with(scene.dir.path()) {
            found.push(file);
        }
    }
    found
}

#[track_caller]
fn assert_no_loop_device(scene: &Scene) {
    eventually("no loop device is left", PATIENCE, || loop_devices(scene).is_empty());
}

/// Writes until no more fit; answers how much did. Up to two blocks may be left: one more would need more than that,
/// since it would need a place that says where it is.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let mut sum = 0;
    for length in [256 * 1024, 4096] {
        let block = vec![b'x'; length];
        loop {
            match file.write(&block) {
                Ok(written) => sum += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    file.sync_all().unwrap();
    sum
}

fn full<T: std::fmt::Debug>(answer: io::Result<T>) -> bool {
    match answer {
        Err(error) if error.kind() == ErrorKind::StorageFull => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn space_ends_exactly_at_the_limit_and_comes_back() {
    for scene in on_each_backend() {
        scene.mount("env-a", "a", &["--name", "web", "--upper-size", "16M"]).ok();
        let view = scene.path("a");
        let fresh = sizes(&view);
        let all = 16 * MIB - 4096 * own(&scene);
        assert_size(&scene, &view, 16 * MIB);
        assert_eq!(fresh.free, all - 4096, "the top directory takes a block");

        let written = fill(&view.join("full"));
        assert_size(&scene, &view, 16 * MIB);
        assert!(sizes(&view).free <= REST);
        // Up to two blocks say where the others are.
        let all_but_those = all - 4096 - REST..=all - 4096;
        assert!(all_but_those.contains(&written), "{written}");
        // What is left takes single blocks, and then nothing.
        let single = (0..4).find(|n| full(fs::write(view.join(format!("more{n}")), "x"))).unwrap();
        assert!(single as u64 * 4096 <= REST);
        assert_eq!(sizes(&view).free, 0);
        assert!(full(fs::create_dir(view.join("directory"))));
        assert_eq!(fs::metadata(view.join("full")).unwrap().len(), written);
        for n in 0..=single {
            fs::remove_file(view.join(format!("more{n}"))).unwrap();
        }

        fs::remove_file(view.join("full")).unwrap();
        eventually("all is free again", PATIENCE, || sizes(&view).free == fresh.free);
        let written = fill(&view.join("again"));
        assert!(all_but_those.contains(&written), "{written}");
        assert!(sizes(&view).free <= REST);

        // Holes take nothing, what is written into them does.
        fs::remove_file(view.join("again")).unwrap();
        eventually("all is free again", PATIENCE, || sizes(&view).free == fresh.free);
        let sparse = File::create(view.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert_eq!(sizes(&view).free, fresh.free);
        let block = vec![b'x'; MIB as usize];
        let fit = (0..).find(|n: &u64| full(sparse.write_all_at(&block, n << 30))).unwrap();
        assert!((14..16).contains(&fit), "{fit} MiB");
        drop(sparse);
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
        assert_no_loop_device(&scene);
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn every_object_counts_as_an_inode() {
    for scene in on_each_backend() {
        let tool = scene.store.path("tool").to_owned();
        scene.mount("env-a", "a", &["--name", "web", "--upper-size", "8M", "--upper-inodes", "20"]).ok();
        let view = scene.path("a");
        let fresh = sizes(&view);
        assert_eq!(fresh.inodes_free, 19 - own(&scene), "the top directory is one");
        assert!(scene.by_overlayfs() || fresh.inodes == 20);
        for n in 0..16 - own(&scene) {
            fs::write(view.join(format!("file{n}")), "").unwrap();
        }
        fs::create_dir(view.join("dir")).unwrap();
        std::os::unix::fs::symlink("x", view.join("link")).unwrap();
        scene.shell("mkfifo a/fifo").ok();
        assert_eq!(sizes(&view).inodes_free, 0);
        // Nothing of any kind is made now, not even a whiteout.
        assert!(full(File::create(view.join("one"))));
        assert!(full(fs::create_dir(view.join("one"))));
        assert!(full(std::os::unix::fs::symlink("x", view.join("one"))));
        scene.shell("mkfifo a/one").failed(1, &["No space left"]);
        scene.shell(&format!("rm -r a/store/{tool}")).failed(1, &["No space left"]);
        scene.shell(&format!("test -e a/store/{tool}")).ok();
        // Names alone take none.
        fs::hard_link(view.join("file0"), view.join("second")).unwrap();
        fs::rename(view.join("file1"), view.join("dir/moved")).unwrap();
        assert_eq!(sizes(&view).inodes_free, 0);

        for n in 2..7 {
            fs::remove_file(view.join(format!("file{n}"))).unwrap();
        }
        eventually("they are free again", PATIENCE, || sizes(&view).inodes_free == 5);
        // The directory `store` is copied up for the whiteout in it.
        scene.shell(&format!("rm -r a/store/{tool}")).ok();
        let left = sizes(&view).inodes_free;
        assert_eq!(left, 3, "a directory and a whiteout");
        scene.nixview(&["umount", "web"]).ok();
        assert_no_loop_device(&scene);
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_limit_stays_with_its_upper_and_can_be_changed() {
    let scene = Scene::on("fuse");
    let view = scene.path("a");
    let mount = |more: &[&str]| scene.mount("env-a", "a", &[&["--name", "web"], more].concat());
    let umount = || scene.nixview(&["umount", "web"]).ok();
    let limit = |size: u64, inodes: Option<u64>| {
        let now = sizes(&view);
        assert_eq!(now.size, size);
        assert!(now.free <= size && inodes.is_none_or(|n| n == now.inodes), "{now:?}");
        now.size - now.free
    };
    mount(&["--upper-size", "32M", "--upper-inodes", "300"]).ok();
    fs::write(view.join("kept"), vec![b'k'; 5 * MIB as usize]).unwrap();
    let used = limit(32 * MIB, Some(300));
    umount();
    mount(&[]).ok();
    assert_eq!(limit(32 * MIB, Some(300)), used, "a remount keeps it");
    umount();
    // Larger than the image, twice; fewer, then more inodes; smaller, as far as it fits.
    for (size, mib) in [("200M", 200), ("20G", 20_480), ("6M", 6), ("7.5MiB", 7)] {
        mount(&["--upper-size", size]).ok();
        let bytes = if mib == 7 { 15 * MIB / 2 } else { mib * MIB };
        assert_eq!(limit(bytes, Some(300)), used, "{size}");
        umount();
    }
    for inodes in ["100", "300"] {
        mount(&["--upper-inodes", inodes]).ok();
        limit(15 * MIB / 2, Some(inodes.parse().unwrap()));
        umount();
    }
    mount(&["--upper-size", "4M"]).failed(1, &["5.0 MiB are used already", "state/uppers/web"]);
    mount(&["--upper-inodes", "1"]).failed(1, &["2 inodes are used already"]);
    mount(&["--upper-inodes", "1000000"]).failed(1, &["cannot become 1000000", "new upper"]);
    mount(&["--upper-size", "1K"]).failed(1, &["the least is 1.0 MiB"]);
    scene.assert_nothing_left();
    mount(&[]).ok();
    assert_eq!(limit(15 * MIB / 2, Some(300)), used, "what failed changed nothing");
    assert_eq!(fs::read(view.join("kept")).unwrap(), vec![b'k'; 5 * MIB as usize]);
    let written = fill(&view.join("full"));
    assert!((2 * MIB..5 * MIB / 2).contains(&written), "{written}");
    umount();
    assert_no_loop_device(&scene);
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_limit_that_cannot_be_is_refused() {
    let scene = Scene::new();
    let limited = |more: &[&str]| scene.mount("env-a", "a", &[more, &["--upper-size", "8M"]].concat());
    limited(&["--read-only"]).failed(2, &["read-only"]);
    limited(&["-o", "ro"]).failed(2, &["read-only"]);
    scene.mount("env-a", "a", &["--tmp", "--upper-inodes", "9"]).failed(1, &["one of space too"]);
    scene.mount("env-a", "a", &["--tmp", "--upper-size", "2X"]).failed(2, &["500M"]);
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    fs::write(scene.path("a/kept"), "").unwrap();
    scene.nixview(&["umount", "web"]).ok();
    limited(&["--name", "web"]).failed(1, &["made without one", "new upper"]);
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    assert!(scene.path("a/kept").exists());
    scene.nixview(&["umount", "web"]).ok();
    // Where a file system cannot be mounted.
    let ran = scene.run("env-a", &["--user-namespace", "--upper-size", "8M"], "true");
    ran.failed(1, &["needs root", "loop devices"]);
    // What fails later leaves nothing of it.
    scene.lock("env-a", |lock| lock.closure.count = 99);
    limited(&["--name", "new"]).failed(1, &["99"]);
    limited(&["--tmp"]).failed(1, &["99"]);
    scene.assert_nothing_left();
    assert_eq!(scene.names("state/uppers"), ["web"]);
    assert_no_loop_device(&scene);
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn views_share_no_limit_and_their_use_is_told() {
    let scene = Scene::on("fuse");
    scene.mount("env-a", "a", &["--name", "one", "--upper-size", "8M"]).ok();
    scene.mount("env-a", "b", &["--name", "two", "--tmp", "--upper-size", "8M", "--upper-inodes", "50"]).ok();
    let written = fill(&scene.path("a/full"));
    assert_eq!(sizes(&scene.path("b")).free, 8 * MIB - 4096);
    assert!(fill(&scene.path("b/full")).abs_diff(written) <= REST);

    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&scene.nixview(arguments).ok().out).unwrap()
    };
    let status = json(&["status", "--json"]);
    let used = |target: &str| 8 * MIB - sizes(&scene.path(target)).free;
    assert!(used("b") >= 8 * MIB - REST);
    let two = serde_json::json!({"size": 8 * MIB, "used": used("b"), "inodes": 50, "inodesUsed": 2});
    assert_eq!(status[1]["usage"], two);
    assert_eq!(status[1]["upper"]["limit"], serde_json::json!({"size": 8 * MIB, "inodes": 50}));
    assert_eq!(status[0]["usage"]["used"], used("a"));
    let table = scene.nixview(&["status"]).ok().out;
    assert!(table.contains("8.0 MiB of 8.0 MiB, 2 of 50 inodes"), "{table}");
    let store = scene.store.root().to_str().unwrap();
    let du = json(&["du", "--json", "--store", store, "one", "two"]);
    assert_eq!(
        du["environments"][1]["upper"]["limit"], two,
        "what is used of the limit, not the size of an image"
    );
    let csv = scene.nixview(&["du", "--csv", "--store", store, "two"]).ok().out;
    assert!(csv.trim_end().ends_with(&format!(",{}", used("b"))), "{csv}");
    let mounted = json(&["upper", "list", "--json"]);
    scene.nixview(&["umount", "one"]).ok();
    assert_no_loop_devices_of(&scene, "uppers/one");
    let unmounted = json(&["upper", "list", "--json"]);
    assert_eq!(unmounted[0]["usage"], mounted[0]["usage"], "read of the image without mounting it");
    let table = scene.nixview(&["upper", "list"]).ok().out;
    assert!(table.contains("8.0 MiB of 8.0 MiB"), "{table}");

    scene.nixview(&["umount", "two"]).ok();
    scene.assert_nothing_left();
    let shown =
        scene.run("env-a", &["--upper-size", "16M"], "stat -f -c '%b %S' /nix; echo x > /nix/x").ok().out;
    assert_eq!(shown, "4096 4096\n");
    scene.nixview(&["upper", "remove", "one"]).ok();
    assert_eq!(scene.names("state/uppers"), Vec::<String>::new());
    scene.assert_nothing_left();
    assert_no_loop_device(&scene);
}

#[track_caller]
fn assert_no_loop_devices_of(scene: &Scene, part: &str) {
    eventually("no loop device is left", PATIENCE, || {
        loop_devices(scene).iter().all(|file| !file.contains(part))
    });
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_copy_that_does_not_fit_is_not_made() {
    for scene in on_each_backend() {
        let libc = scene.store.path("libc").to_owned();
        let content: Vec<u8> = (0..5 * MIB as u32).map(|n| (n / 7) as u8).collect();
        fs::write(scene.store.real("libc").join("big"), &content).unwrap();
        let before = scene.store_digest();
        scene.mount("env-a", "a", &["--name", "web", "--upper-size", "4M"]).ok();
        let view = scene.path("a");
        let big = view.join("store").join(&libc).join("big");
        let fresh = sizes(&view);
        for attempt in 0..3 {
            assert!(full(OpenOptions::new().append(true).open(&big)), "attempt {attempt}");
            assert!(full(fs::rename(&big, view.join("elsewhere"))), "attempt {attempt}");
            assert_eq!(fs::read(&big).unwrap(), content);
            assert!(!view.join("elsewhere").exists());
        }
        // The directories above it may have been copied; nothing of the file is there.
        eventually("no more than three directories", PATIENCE, || sizes(&view).free >= fresh.free - 3 * 4096);
        OpenOptions::new().write(true).truncate(true).open(&big).unwrap();
        assert_eq!(fs::metadata(&big).unwrap().len(), 0);
        scene.nixview(&["umount", "web"]).ok();
        assert_eq!(scene.store_digest(), before);
        assert_no_loop_device(&scene);
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_killed_server_leaves_no_device_and_loses_nothing() {
    let scene = Scene::on("fuse");
    for (target, more) in [("a", &["--name", "kept"][..]), ("b", &["--name", "tmp", "--tmp"])] {
        scene.mount("env-a", target, &[more, &["--upper-size", "8M"]].concat()).ok();
        let mut file = File::create(scene.path(target).join("synced")).unwrap();
        file.write_all(&vec![b's'; MIB as usize]).unwrap();
        file.sync_all().unwrap();
        File::open(scene.path(target)).unwrap().sync_all().unwrap();
    }
    assert_eq!(loop_devices(&scene).len(), 2);
    scene.kill_views(["kept", "tmp"]);
    assert_no_loop_device(&scene);
    let status = scene.nixview(&["status"]).ok().out;
    assert_eq!(status.matches("dead").count(), 2, "{status}");
    scene.assert_nothing_left();
    scene.mount("env-a", "a", &["--name", "kept"]).ok();
    assert_eq!(fs::read(scene.path("a/synced")).unwrap(), vec![b's'; MIB as usize]);
    assert_eq!(sizes(&scene.path("a")).size, 8 * MIB);
    scene.nixview(&["umount", "kept"]).ok();
    assert_no_loop_device(&scene);
}

/// A copy of the image while it is mounted is what a loss of power leaves.
#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn what_was_synced_is_in_the_image() {
    for scene in on_each_backend() {
        scene.mount("env-a", "a", &["--name", "web", "--upper-size", "8M"]).ok();
        let mut file = File::create(scene.path("a/synced")).unwrap();
        file.write_all(&vec![b's'; MIB as usize]).unwrap();
        file.sync_all().unwrap();
        File::open(scene.path("a")).unwrap().sync_all().unwrap();
        drop(file);
        scene.shell("cp -a --sparse=always state/uppers/web copy").ok();
        scene.mount("env-a", "b", &["--name", "copy", "--upper", scene.path("copy").to_str().unwrap()]).ok();
        assert_eq!(fs::read(scene.path("b/synced")).unwrap(), vec![b's'; MIB as usize]);
        assert_size(&scene, &scene.path("b"), 8 * MIB);
        for name in ["web", "copy"] {
            scene.nixview(&["umount", name]).ok();
        }
        assert_no_loop_device(&scene);
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn an_image_is_never_mounted_twice() {
    let scene = Scene::on("fuse");
    let upper = scene.path("u").into_os_string().into_string().unwrap();
    let mount = |target: &str| scene.mount("env-a", target, &["--name", "web", "--upper", &upper]);
    scene.mount("env-a", "a", &["--name", "web", "--upper", &upper, "--upper-size", "8M"]).ok();
    fs::write(scene.path("a/file"), "text").unwrap();
    scene.mount("env-a", "b", &["--name", "other", "--upper", &upper]).failed(1, &["in use"]);
    // Open through passthrough: this alone keeps the image mounted when the server is dead.
    let reader = File::open(scene.path("a/file")).unwrap();
    scene.kill_view("web");
    if loop_devices(&scene).is_empty() {
        return skip!("no passthrough: nothing keeps the image");
    }
    mount("b").failed(1, &["upper.img", "still has it open"]);
    assert_eq!(loop_devices(&scene).len(), 1, "it is attached once");
    drop(reader);
    assert_no_loop_device(&scene);
    mount("b").ok();
    assert_eq!(fs::read_to_string(scene.path("b/file")).unwrap(), "text");
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_broken_image_is_refused_and_an_unfinished_one_made_again() {
    let scene = Scene::on("fuse");
    let mount = || scene.mount("env-a", "a", &["--name", "web"]);
    let image = scene.path("state/uppers/web/upper.img");
    scene.mount("env-a", "a", &["--name", "web", "--upper-size", "8M"]).ok();
    fs::write(scene.path("a/file"), "text").unwrap();
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_device(&scene);
    let whole = fs::read(&image).unwrap();
    let spoil = |at: usize, bytes: &[u8]| {
        let mut spoilt = whole.clone();
        spoilt[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&image, spoilt).unwrap();
    };
    // The magic, a number that the checksum covers, the descriptors of the groups; and what the kernel found before.
    for (at, bytes) in
        [(1024 + 0x38, &[0, 0][..]), (1024 + 0x14, &[9]), (4096, &[0xFF; 64]), (1024 + 0x3A, &[3])]
    {
        spoil(at, bytes);
        mount().failed(1, &["uppers/web/upper.img", "e2fsck"]);
        scene.assert_nothing_left();
        assert_no_loop_device(&scene);
    }
    fs::write(&image, &whole[..1000]).unwrap();
    mount().failed(1, &["too short"]);
    fs::remove_file(&image).unwrap();
    mount().failed(1, &["it is missing"]);
    // As a crash leaves it between the two last steps.
    fs::write(image.with_extension("img.new"), "unfinished").unwrap();
    mount().ok();
    assert_eq!(sizes(&scene.path("a")).size, 8 * MIB);
    assert!(!scene.path("a/file").exists());
    scene.nixview(&["umount", "web"]).ok();
    assert_eq!(scene.names("state/uppers/web"), ["lock", "meta.json", "upper.img", "view.json"]);
    assert_no_loop_device(&scene);
    // And before them: it is nothing yet.
    fs::remove_file(scene.path("state/uppers/web/meta.json")).unwrap();
    mount().failed(1, &["no 'meta.json'"]);
    fs::rename(&image, image.with_extension("img.new")).unwrap();
    mount().ok();
    scene.nixview(&["umount", "web"]).ok();
    assert_eq!(scene.names("state/uppers/web"), ["lock", "meta.json", "tree", "view.json", "work"]);
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn an_upper_without_a_free_inode_is_mounted_again() {
    for scene in on_each_backend() {
        scene.mount("env-a", "a", &["--name", "web", "--upper-size", "4M", "--upper-inodes", "100"]).ok();
        let view = scene.path("a");
        let files = (0..).find(|n| full(File::create(view.join(format!("more-{n}"))))).unwrap();
        assert_eq!(files, 99 - own(&scene));
        scene.nixview(&["umount", "web"]).ok();
        // overlayfs has none to try whiteouts with at its start, or none for the directory that it works in.
        let overlay = ["--name", "web", "--backend", "overlay"];
        scene.mount("env-a", "a", &overlay).failed(1, &["by overlayfs cannot be had"]);
        scene.mount("env-a", "a", &["--name", "web", "--backend", "fuse"]).ok();
        assert_eq!(sizes(&view).inodes_free, own(&scene));
        fs::remove_file(view.join("more-0")).unwrap();
        eventually("its inode is free", PATIENCE, || sizes(&view).inodes_free == 1 + own(&scene));
        fs::write(view.join("another"), "x").unwrap();
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}

/// Makes the upper `web` what the last release would have left: the view's root at `data`, also in the image. `hold` is
/// done in its mount: there was no `tree`, so that the ballast or the view had more.
fn make_old(scene: &Scene, inodes: Option<u64>, hold: &str) {
    let path = scene.path("state/uppers/web/meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    meta["version"] = 1.into();
    meta.as_object_mut().unwrap().remove("own");
    if let Some(inodes) = inodes {
        meta["limit"]["inodes"] = inodes.into();
    }
    fs::write(&path, meta.to_string()).unwrap();
    let script = format!(
        "mkdir -p m && mount -o loop state/uppers/web/upper.img m && mv m/tree/nix m/data && rmdir m/tree && {{ {hold}; umount m; }}"
    );
    scene.shell(&script).ok();
    assert_no_loop_device(scene);
}

/// What is in the image of the upper `web`.
fn in_image(scene: &Scene, directory: &str) -> String {
    let script =
        format!("mount -o loop,ro,noload state/uppers/web/upper.img m && ls m/{directory}; umount m");
    let names = scene.shell(&script).ok().out;
    assert_no_loop_device(scene);
    names
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn an_image_of_the_last_release_is_moved_and_keeps_its_limit() {
    const BLOCK: &str = "fallocate -o $(stat -c %s m/ballast/blocks) -l 4096 m/ballast/blocks";
    const INODE: &str = "touch m/ballast/$(ls m/ballast | grep -vc blocks)";
    for is_full in [false, true] {
        let scene = Scene::on("fuse");
        let limits = ["--upper-size", "4M", "--upper-inodes", "100"];
        scene.mount("env-a", "a", &[&["--name", "web"], &limits[..]].concat()).ok();
        let view = scene.path("a");
        fs::write(view.join("kept"), "kept").unwrap();
        if is_full {
            (0..).find(|n| full(File::create(view.join(format!("more-{n}"))))).unwrap();
            fill(&view.join("more-0"));
        }
        let before = sizes(&view);
        scene.nixview(&["umount", "web"]).ok();
        make_old(&scene, None, &format!("{BLOCK}; {INODE}"));
        let diff = scene.nixview(&["diff", "web"]).ok().out;
        assert!(diff.contains("A /nix/kept"), "{diff}");

        scene.mount("env-a", "a", &["--name", "web"]).ok();
        assert_eq!(fs::read(view.join("kept")).unwrap(), b"kept");
        assert_eq!(sizes(&view), before, "the limit is the same");
        assert_eq!(scene.nixview(&["diff", "web"]).ok().out, diff);
        scene.nixview(&["umount", "web"]).ok();
        assert_no_loop_device(&scene);
        assert_eq!(in_image(&scene, "tree"), "nix\n");
        scene.assert_nothing_left();
    }
}

/// The inodes of an image are a multiple of 16: of 98 and those that were the image's own then, none was left.
#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn an_image_of_the_last_release_without_a_free_inode_is_served_as_it_is() {
    const ALL: &str = "n=0; while touch m/data/rest$n 2>/dev/null; do n=$((n+1)); done";
    let scene = Scene::on("fuse");
    let limits = ["--upper-size", "4M", "--upper-inodes", "97"];
    scene.mount("env-a", "a", &[&["--name", "web"], &limits[..]].concat()).ok();
    let view = scene.path("a");
    fs::write(view.join("kept"), "kept").unwrap();
    scene.nixview(&["umount", "web"]).ok();
    make_old(&scene, Some(98), ALL);
    let names = || fs::read_dir(&view).unwrap().count();
    let (mut before, objects) = (None, 97);
    for _ in 0..2 {
        scene.mount("env-a", "a", &["--name", "web"]).ok();
        assert_eq!(fs::read(view.join("kept")).unwrap(), b"kept");
        assert_eq!((sizes(&view).inodes, sizes(&view).inodes_free), (98, 0));
        assert!(names() >= objects && before.is_none_or(|before| before == names()));
        before = Some(names());
        assert!(full(File::create(view.join("another"))));
        scene.nixview(&["umount", "web"]).ok();
        assert_no_loop_device(&scene);
        assert!(in_image(&scene, "").contains("data\n"), "{}", in_image(&scene, ""));
    }
    // It moves once there is room.
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    fs::remove_file(view.join("rest0")).unwrap();
    scene.nixview(&["umount", "web"]).ok();
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    assert_eq!(Some(names() + 1), before);
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_device(&scene);
    assert_eq!(in_image(&scene, "tree"), "nix\n");
    scene.assert_nothing_left();
}

/// Gives the scene a state directory on a file system of its own; the scene unmounts it at the latest.
fn state_on(scene: &Scene, kind: &str, size: u64) -> Option<PathBuf> {
    use rustix::mount::{MountFlags, mount};
    let state = scene.path("state");
    fs::create_dir(&state).unwrap();
    if kind == "tmpfs" {
        mount("none", &state, "tmpfs", MountFlags::empty(), None).unwrap();
        return Some(state);
    }
    let image = scene.path("disk");
    File::create(&image).unwrap().set_len(size).unwrap();
    let made = scene.shell(&format!("mkfs.{kind} -q disk && mount -o loop disk state"));
    if made.code != Some(0) {
        skip!("{kind}: {made:?}");
        return None;
    }
    Some(state)
}

fn exact_on(kind: &str) {
    // df(1) of an overlay tells of the whole image.
    let scene = Scene::on("fuse");
    let Some(state) = state_on(&scene, kind, 400 * MIB) else { return };
    scene.mount("env-a", "a", &["--name", "web", "--upper-size", "16M"]).ok();
    let view = scene.path("a");
    assert_eq!((sizes(&view).size, sizes(&view).free), (16 * MIB, 16 * MIB - 4096), "{kind}");
    fill(&view.join("full"));
    let full = sizes(&view);
    assert!(full.free <= REST, "{kind}: {full:?}");
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_devices_of(&scene, "upper.img");
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    assert_eq!(sizes(&view), full, "{kind}");
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_devices_of(&scene, "upper.img");
    rustix::mount::unmount(state, rustix::mount::UnmountFlags::empty()).unwrap();
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn the_limit_is_exact_on_xfs() {
    exact_on("xfs");
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn the_limit_is_exact_on_btrfs() {
    exact_on("btrfs");
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn the_limit_is_exact_on_tmpfs() {
    exact_on("tmpfs");
}

/// An image takes space when it is written: the disk may end before the limit does.
#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_disk_that_ends_before_the_limit_is_an_error_and_loses_nothing_synced() {
    let scene = Scene::new();
    let Some(state) = state_on(&scene, "ext4", 64 * MIB) else { return };
    fs::write(state.join("other"), vec![b'o'; 8 * MIB as usize]).unwrap();
    scene.mount("env-a", "a", &["--name", "web", "--upper-size", "1G"]).ok();
    let mut file = File::create(scene.path("a/synced")).unwrap();
    file.write_all(&vec![b's'; MIB as usize]).unwrap();
    file.sync_all().unwrap();
    File::open(scene.path("a")).unwrap().sync_all().unwrap();
    // Never told that all is well.
    drop(file);
    let mut file = File::create(scene.path("a/large")).unwrap();
    let block = vec![b'x'; MIB as usize];
    let failed = (0..200).any(|_| file.write_all(&block).and_then(|()| file.sync_data()).is_err());
    assert!(failed, "200 MiB are said to be on a disk of 64");
    drop(file);
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_devices_of(&scene, "upper.img");
    // Something else on the disk goes, and the image is used again: after a repair, if the kernel asks for one.
    fs::remove_file(scene.path("state/other")).unwrap();
    let repaired = scene.shell("e2fsck -fy state/uppers/web/upper.img");
    assert!(repaired.code.is_some_and(|code| code < 4), "{repaired:?}");
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    assert_eq!(fs::read(scene.path("a/synced")).unwrap(), vec![b's'; MIB as usize]);
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_devices_of(&scene, "upper.img");
    rustix::mount::unmount(state, rustix::mount::UnmountFlags::empty()).unwrap();
}

/// What the image takes of the disk is given back when files are removed.
#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn removed_files_give_the_disk_its_space_back() {
    let scene = Scene::new();
    scene.mount("env-a", "a", &["--name", "web", "--upper-size", "64M"]).ok();
    let image = scene.path("state/uppers/web/upper.img");
    let taken = || fs::metadata(&image).unwrap().blocks() * 512;
    fill(&scene.path("a/full"));
    assert!(taken() > 64 * MIB);
    fs::remove_file(scene.path("a/full")).unwrap();
    eventually("given back", PATIENCE, || {
        scene.shell("sync -f a; sync -f state").ok();
        taken() < 16 * MIB
    });
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_device(&scene);
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn changes_are_told_and_taken_back_mounted_or_not() {
    let scene = Scene::new();
    scene.mount("env-a", "a", &["--name", "web", "--upper-size", "8M"]).ok();
    let view = scene.path("a");
    let fresh = sizes(&view);
    fs::write(view.join("new"), vec![b'n'; MIB as usize]).unwrap();
    fs::create_dir(view.join("dir")).unwrap();
    scene.shell("sync -f a").ok();
    let mounted = scene.nixview(&["diff", "web"]).ok().out;
    assert!(mounted.contains("new") && mounted.contains("dir"), "{mounted}");
    scene.nixview(&["umount", "web"]).ok();
    assert_no_loop_device(&scene);
    assert_eq!(scene.nixview(&["diff", "web"]).ok().out, mounted, "the image is mounted for this alone");
    assert_no_loop_device(&scene);

    let layer = scene.path("layer.tar").into_os_string().into_string().unwrap();
    scene.nixview(&["export", "web", "-o", &layer]).ok();
    scene.nixview(&["reset", "--yes", "web"]).ok();
    assert_eq!(scene.nixview(&["diff", "web"]).ok().out, "");
    scene.nixview(&["import", "web", &layer]).ok();
    assert_eq!(scene.nixview(&["diff", "web"]).ok().out, mounted, "out and in again");

    scene.nixview(&["reset", "web", "/nix/dir"]).ok();
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    assert!(view.join("new").exists() && !view.join("dir").exists());
    scene.nixview(&["umount", "web"]).ok();
    scene.nixview(&["reset", "--yes", "web"]).ok();
    scene.mount("env-a", "a", &["--name", "web"]).ok();
    assert_eq!(sizes(&view), fresh, "all of it is taken back, and the limit stays");
    assert_eq!(scene.nixview(&["diff", "web"]).ok().out, "");
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
    assert_no_loop_device(&scene);
}
