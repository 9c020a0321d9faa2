//! Layers in the hands of others: an image with a view's changes, unpacked by umoci, is what the view shows. And `diff` beside a
//! mounted view. As root, on real mounts.

use crate::support::scene::{Scene, on_each_backend};
use crate::support::skip::skip;

/// Changes of all kinds, in a view at `.`; `$1`… are members of its closure: right, sparse, twin, data, empty.
const CHANGES: &str = r#"
set -e
right=store/$1 sparse=store/$2 twin=store/$3 data=store/$4 empty=store/$5
echo more >> $right/bin/where
chmod 6755 $right/bin/where
rm -r $sparse $twin/nothing
rm -r $empty; mkdir $empty; echo again > $empty/file
ln -s /etc/passwd $twin/nothing
mkdir -p store/new/deep; echo text > store/new/a; ln store/new/a store/new/deep/b; chown 1234:2345678 store/new/a
touch -d '2001-02-03 04:05:06.789' store/new/a
long=$(printf %0250d 7); mkdir -p store/$long/$long; echo long > store/$long/$long/$long
ln -s $long$long$long store/$long/link
mkfifo store/new/fifo
printf 'not utf-8' > "$(printf 'store/new/\377')"
truncate -s 3M store/new/holes; printf end >> store/new/holes
setfattr -n user.odd -v 0x0a3230206e69782f0a00ff store/new/a
chmod 700 $data/share; mv store/new/deep store/moved; mv $data store/data
"#;

/// What there is below a directory: everything but times of directories, numbers and link counts of directories.
const TREE: &str = r"find . -printf '%P %y %m %U %G %l ' -a \( -type d -printf '\n' -o -printf '%n %T@ ' -a \( -type f -printf '%s ' -exec sha256sum -- {} \; -o -printf '\n' \) \) | sed 's/  *\.[^ ]*$//' | LC_ALL=C sort | cat -v";

/// The same for a backend: overlayfs shows how many links the store has of a file.
fn tree_on(scene: &Scene) -> String {
    if scene.by_overlayfs() { TREE.replace("'%n %T@ '", "' %T@ '") } else { TREE.to_owned() }
}

/// The same without `var`, which the image of these tests has not: its first layer is the store alone.
fn tree_of_store(scene: &Scene) -> String {
    tree_on(scene).replace("find . ", "find . -path ./var -prune -o ")
}

fn changed(scene: Scene) -> Scene {
    scene.mount("env-b", "a", &["--name", "web"]).ok();
    change(&scene, "a");
    scene
}

fn change(scene: &Scene, at: &str) {
    let members = ["right", "sparse", "twin", "data", "empty"].map(|label| scene.store.path(label)).join(" ");
    let script = CHANGES.replace('\'', r"'\''");
    scene.shell(&format!("cd {at} && timeout 20 bash -c '{script}' - {members}")).ok();
}

fn has(scene: &Scene, program: &str) -> bool {
    let found = scene.shell(&format!("command -v {program}")).code == Some(0);
    if !found {
        skip!("{program} is not installed");
    }
    found
}

#[test]
#[ignore = "needs root"]
fn a_mounted_view_is_compared_and_neither_reset_nor_exported() {
    for scene in on_each_backend().map(changed) {
        let mounted = scene.nixview(&["diff", "web"]).ok().out;
        let at = scene.path("a");
        assert_eq!(scene.nixview(&["diff", at.to_str().unwrap()]).ok().out, mounted);
        let told = format!("in use by process {}", scene.keeper("web"));
        scene.nixview(&["reset", "web"]).failed(1, &[&told]);
        scene.nixview(&["export", "web", "-o", "layer.tar"]).failed(1, &[&told]);
        for part in [
            format!("M /nix/store/{}/bin/where (mode, mtime)\n", scene.store.path("right")),
            format!("D /nix/store/{}/ (1 name in it, 4.0 MiB)\n", scene.store.path("sparse")),
            format!("T /nix/store/{}/nothing (symlink, was file)\n", scene.store.path("twin")),
            format!("A /nix/store/data/ (moved from /nix/store/{})\n", scene.store.path("data")),
            format!("D /nix/store/{}/ (2 names in it, 256.0 KiB)\n", scene.store.path("data")),
            "A /nix/store/moved/b\n".to_owned(),
            "A /nix/store/new/\\xff\n".to_owned(),
        ] {
            assert!(mounted.contains(&part), "{part}: {mounted}");
        }
        scene.nixview(&["umount", "web"]).ok();
        assert_eq!(scene.nixview(&["diff", "web"]).ok().out, mounted, "mounted or not, the same");

        // Back in the view, some of it and then all.
        let moved = "/nix/store/moved";
        scene.nixview(&["reset", "web", moved, &format!("/nix/store/{}", scene.store.path("sparse"))]).ok();
        scene.mount("env-b", "a", &["--name", "web"]).ok();
        scene
            .shell(&format!(
                "cd a/store && test ! -e moved && cmp {0}/holes.bin {1}/{0}/holes.bin",
                scene.store.path("sparse"),
                scene.store.store_dir().display()
            ))
            .ok();
        scene.nixview(&["umount", "web"]).ok();
        scene.nixview(&["reset", "--yes", "web"]).ok();
        assert_eq!(scene.nixview(&["diff", "--exit-code", "web"]).ok().out, "");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root"]
fn an_import_is_the_view_that_was_exported() {
    for scene in on_each_backend().map(changed) {
        let tree = tree_on(&scene);
        let shown = scene.shell(&format!("cd a && {tree}")).ok().out;
        assert!(shown.lines().count() > 30, "{shown}");
        scene.nixview(&["umount", "web"]).ok();
        let layer = scene.path("layer.tar");
        let layer = layer.to_str().unwrap();
        scene.nixview(&["export", "web", "-o", layer]).ok();
        let (lock, store) = (scene.path("env-b.lock"), scene.store.root().to_owned());
        let over =
            ["--closure", lock.to_str().unwrap(), "--store", store.to_str().unwrap(), "--owner", "0:0"];
        scene.nixview(&[&["import"], &over[..], &["second", layer]].concat()).ok();
        scene.mount("env-b", "b", &["--name", "second"]).ok();
        assert_eq!(scene.shell(&format!("cd b && {tree}")).ok().out, shown);
        let attribute =
            scene.shell("getfattr --only-values -n user.odd b/store/new/a | od -An -tx1").ok().out;
        assert_eq!(attribute.trim(), "0a 32 30 20 6e 69 78 2f 0a 00 ff");
        scene.nixview(&["umount", "second"]).ok();
        scene.assert_nothing_left();
    }
}

/// Makes an image `image:v` whose one layer is the closure of the environment.
const IMAGE: &str = r#"
set -e
rm -rf image bundle
umoci init --layout image
umoci new --image image:v
tar -C $1 -c --format=posix --owner=0 --group=0 --mode=755 --no-recursion -f base.tar nix nix/store
shift_root=$1; shift
tar -C $shift_root -r --format=posix --owner=0 --group=0 -f base.tar "$@"
umoci raw add-layer --image image:v base.tar
"#;

fn make_image(scene: &Scene) {
    let members: Vec<String> =
        scene.store.closure("env-b").iter().map(|path| format!("nix/store/{path}")).collect();
    let root = scene.store.root().display();
    scene.shell(&format!("timeout 25 bash -c '{IMAGE}' - {root} {}", members.join(" "))).ok();
}

/// An image of two layers, the closure and the changes, is what the view shows: whiteouts, opaque directories, links, attributes.
#[test]
#[ignore = "needs root"]
fn umoci_unpacks_what_the_view_shows() {
    for scene in on_each_backend().map(changed) {
        if !has(&scene, "umoci") {
            return;
        }
        let tree = tree_of_store(&scene);
        let shown = scene.shell(&format!("cd a && {tree}")).ok().out;
        scene.nixview(&["umount", "web"]).ok();
        let layer = scene.path("layer.tar");
        scene.nixview(&["export", "web", "-o", layer.to_str().unwrap()]).ok();
        make_image(&scene);
        scene
            .shell("umoci raw add-layer --image image:v layer.tar && umoci unpack --image image:v bundle")
            .ok();
        compare(&scene.shell(&format!("cd bundle/rootfs/nix && {tree}")).ok().out, &shown);
        let read = "getfattr --only-values -n user.odd bundle/rootfs/nix/store/new/a | od -An -tx1";
        assert_eq!(scene.shell(read).ok().out.trim(), "0a 32 30 20 6e 69 78 2f 0a 00 ff");
    }
}

/// The other way: what was changed in an unpacked image, as the layer that umoci makes of it.
#[test]
#[ignore = "needs root"]
fn a_layer_of_umoci_is_what_was_changed() {
    for scene in on_each_backend() {
        if !has(&scene, "umoci") {
            return;
        }
        make_image(&scene);
        scene.shell("umoci unpack --image image:v bundle").ok();
        change(&scene, "bundle/rootfs/nix");
        // umoci rounds times to seconds.
        let tree = tree_of_store(&scene).replace(" %T@ ", " ");
        let changed = scene.shell(&format!("cd bundle/rootfs/nix && {tree}")).ok().out;
        let newest = "umoci repack --image image:v bundle && \
        cp image/blobs/sha256/$(python3 -c \"import json; r = lambda d: json.load(open('image/blobs/sha256/' + d[7:])); \
        print(r(json.load(open('image/index.json'))['manifests'][0]['digest'])['layers'][-1]['digest'][7:])\") layer.tar.gz";
        scene.shell(newest).ok();
        let (lock, store) = (scene.path("env-b.lock"), scene.store.root().to_owned());
        let over =
            ["--closure", lock.to_str().unwrap(), "--store", store.to_str().unwrap(), "--owner", "0:0"];
        let layer = scene.path("layer.tar.gz");
        scene.nixview(&[&["import"], &over[..], &["web", layer.to_str().unwrap()]].concat()).ok();
        scene.mount("env-b", "a", &["--name", "web"]).ok();
        compare(&scene.shell(&format!("cd a && {tree}")).ok().out, &changed);
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}

#[track_caller]
fn compare(unpacked: &str, shown: &str) {
    let (left, right): (Vec<&str>, Vec<&str>) = (unpacked.lines().collect(), shown.lines().collect());
    let alone = |here: &[&str], there: &[&str]| -> String {
        here.iter().filter(|line| !there.contains(line)).map(|line| format!("{line}\n")).collect()
    };
    assert!(
        left == right,
        "unpacked alone:\n{}\nview alone:\n{}",
        alone(&left, &right),
        alone(&right, &left)
    );
}
