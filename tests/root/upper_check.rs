//! Which uppers an overlay is mounted over: not those that could show more than the closure.

use std::fs;
use std::path::Path;

use nixview::view::upper_dir::{LimitChoice, UpperError};

use crate::support::closure_lab::{Lab, Overlay, shell};
use crate::support::fuse_tree::private_namespace;
use crate::support::wait;
use crate::upper_crossing::{objections, place, shown};

/// An upper with changes of each kind, which an overlay made.
fn worked(lab: &Lab, name: &str) {
    let mut upper = lab.upper(name).unwrap();
    let given = upper.prepare_for_overlay().unwrap();
    let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
    shell(
        &mounted.nix(),
        "mv store/m1/a store/m2/moved; mv store/m1/c store/m1/renamed; rm store/m1/b; rm -r store/m2/b; \
         mkdir store/m2/b; mkfifo store/m2/fifo; ln store/m2/c store/m2/link; ln -s / store/m2/slash; chmod 4755 store/m2/c; \
         mv store moved-store; mkdir store; mv moved-store/m1 store/; mkdir store/dir",
    );
}

/// Says what keeps an upper from being prepared; none if nothing does.
fn refusal(lab: &Lab, name: &str) -> Option<String> {
    let prepared = lab.upper(name).and_then(|mut upper| upper.prepare_for_overlay().map(drop));
    match prepared {
        Ok(()) => None,
        Err(error @ UpperError::Refused { .. }) => Some(error.to_string()),
        // What is no directory is not even opened.
        Err(error @ (UpperError::Io { .. } | UpperError::NotAnUpper { .. })) => Some(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

const REDIRECT: &str = "setfattr -n trusted.overlay.redirect -v";

#[test]
#[ignore = "needs root and /dev/fuse"]
fn forged_uppers_are_refused_with_path_and_reason() {
    let Some(tmpfs) = place() else { return };
    let lab = Lab::new_in(tmpfs.path());
    worked(&lab, "real");
    assert_eq!(objections(&lab.at("real")), [""; 0]);
    let forged = [
        ("rm -r tree/nix; ln -s /etc tree/nix", "nix"),
        ("rm -r tree/nix; ln -s . tree/nix", "nix"),
        ("rm -r tree/nix; echo x > tree/nix", "nix"),
        ("rm -r tree; ln -s /etc tree", "tree"),
        ("mkdir tree/secret", "tree/secret: only 'nix'"),
        ("echo x > tree/file", "tree/file"),
        (&*format!("{REDIRECT} /secret tree"), "tree/: its redirect"),
        (&*format!("{REDIRECT} secret tree/nix"), "tree/nix: its redirect is 'secret'"),
        (&*format!("{REDIRECT} /secret tree/nix"), "tree/nix: its redirect"),
        (&*format!("{REDIRECT} /nix/store tree/nix"), "tree/nix: its redirect"),
        (
            &*format!("{REDIRECT} /secret tree/nix/store"),
            "tree/nix/store: its redirect is '/secret': it leads out",
        ),
        (&*format!("{REDIRECT} /secret/a tree/nix/store/dir"), "tree/nix/store/dir"),
        (&*format!("mkdir tree/nix/store/dir/deep; {REDIRECT} /.links tree/nix/store/dir/deep"), "deep"),
        (&*format!("{REDIRECT} /nix tree/nix/store/dir"), "leads out of the view"),
        (&*format!("{REDIRECT} /nix/../secret tree/nix/store/dir"), "no path"),
        (&*format!("{REDIRECT} /nix/./secret tree/nix/store/dir"), "no path"),
        (&*format!("{REDIRECT} //secret tree/nix/store/dir"), "no path"),
        (&*format!("{REDIRECT} /nix/store/ tree/nix/store/dir"), "no path"),
        (&*format!("{REDIRECT} ../secret tree/nix/store/dir"), "no name"),
        (&*format!("{REDIRECT} .. tree/nix/store/dir"), "no name"),
        (&*format!("{REDIRECT} . tree/nix/store/dir"), "no name"),
        (&*format!("{REDIRECT} '' tree/nix/store/dir"), "no name"),
        (&*format!("{REDIRECT} 0x2f6e69782f612f00 tree/nix/store/dir"), "no path"),
        (
            &*format!("> tree/nix/store/f; {REDIRECT} /secret/key tree/nix/store/f"),
            "tree/nix/store/f: its redirect",
        ),
        (
            "> tree/nix/store/f; setfattr -n trusted.overlay.metacopy tree/nix/store/f",
            "trusted.overlay.metacopy",
        ),
        ("setfattr -n trusted.overlay.unheard-of -v y tree/nix/store/dir", "trusted.overlay.unheard-of"),
        ("setfattr -n trusted.overlay.opaque -v x tree/nix/store/dir", "trusted.overlay.opaque"),
        (
            "> tree/nix/store/f; setfattr -n trusted.overlay.whiteout -v y tree/nix/store/f",
            "overlay.whiteout",
        ),
        ("mknod tree/nix/store/dir/disk b 8 0", "tree/nix/store/dir/disk: it is a device node"),
        ("mknod tree/nix/store/dir/null c 1 3", "tree/nix/store/dir/null: it is a device node"),
    ];
    for (script, expected) in forged {
        shell(lab.dir.path(), "rm -rf copy; cp -a real copy");
        shell(&lab.at("copy"), script);
        let Some(why) = refusal(&lab, "copy") else { panic!("'{script}' is let through") };
        assert!(why.contains(expected), "{script}: {why}");
        assert!(why.contains("/copy"), "{script}: the upper is named: {why}");
        assert!(refusal(&lab, "copy").is_some(), "{script}: it is still refused the next time");
    }
    // What can be seen without reading the tree is looked at also of uppers that are known.
    for (script, expected) in &forged[..10] {
        shell(lab.dir.path(), "rm -rf known; cp -a real known");
        assert_eq!(refusal(&lab, "known"), None);
        shell(&lab.at("known"), script);
        let Some(why) = refusal(&lab, "known") else { panic!("'{script}' is let through") };
        assert!(why.contains(expected), "{script}: {why}");
    }
    let many = "for n in $(seq 100); do mkdir tree/nix/$n; setfattr -n trusted.overlay.redirect -v /secret tree/nix/$n; done";
    shell(lab.dir.path(), "rm -rf copy; cp -a real copy");
    shell(&lab.at("copy"), many);
    let why = refusal(&lab, "copy").unwrap();
    assert_eq!(why.lines().count(), 12, "{why}");
    assert!(why.ends_with("and 90 more"), "{why}");
}

/// However it was copied; and what was found is noted, so that it is not read again.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn copies_of_real_uppers_are_checked_once_and_show_the_same() {
    let Some(tmpfs) = place() else { return };
    let lab = Lab::new_in(tmpfs.path());
    worked(&lab, "real");
    let show = |name: &str| {
        let mut upper = lab.upper(name).unwrap();
        let given = upper.prepare_for_overlay().unwrap();
        let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
        shown(&mounted.nix())
    };
    let all = show("real");
    let own = |name: &str| {
        let text = fs::read_to_string(lab.at(name).join("meta.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["own"].clone()
    };
    assert!(own("real").is_object());
    let copies = [
        ("cp", "cp -a real cp"),
        (
            "tar",
            "mkdir -m 700 tar; tar -C real --xattrs --xattrs-include='*' -c . | tar -C tar --xattrs --xattrs-include='*' -xp",
        ),
        ("moved", "cp -a real other; mv other moved"),
        ("hand", "mkdir -m 700 hand; cp -a real/tree real/work hand/"),
    ];
    for (name, script) in copies {
        shell(lab.dir.path(), script);
        let before = own_of(&lab.at(name));
        assert_eq!(show(name), all, "{name}");
        assert_ne!(own(name), before, "{name}: it was checked and noted");
        assert_ne!(own(name), own("real"), "{name}");
        let noted = own(name);
        assert_eq!(show(name), all, "{name}");
        assert_eq!(own(name), noted);
    }
    // A FUSE view over a copy notes nothing: it wrote only a part of it.
    shell(lab.dir.path(), "cp -a real fuse");
    let before = own("fuse");
    drop(lab.upper("fuse").unwrap());
    assert_eq!(own("fuse"), before);
}

fn own_of(upper: &Path) -> serde_json::Value {
    let Ok(text) = fs::read_to_string(upper.join("meta.json")) else { return serde_json::Value::Null };
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["own"].clone()
}

/// An upper of the last release, as overlayfs wrote it over a store whose view has its root at the top.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_upper_of_before_is_moved_and_shows_the_same_in_both_backends() {
    let Some(tmpfs) = place() else { return };
    for known in [false, true] {
        let lab = Lab::new_in(tmpfs.path());
        shell(
            lab.dir.path(),
            "mkdir -p flat/store old/data old/work; chmod 700 old; cp -a store/m1 store/m2 flat/store/; touch -d @1 flat/store flat",
        );
        let at = lab.at("merged");
        let top = lab.dir.path().display();
        let layers = format!(
            "lowerdir={top}/flat,upperdir={top}/old/data,workdir={top}/old/work,redirect_dir=on,{}",
            Overlay::OPTIONS
        );
        let mounted = Overlay::mount(&at, &layers).unwrap();
        shell(
            &at,
            "mv store/m1/a store/m2/moved; mv store/m1/c store/m1/renamed; rm store/m1/b; mkdir store/dir; mv store/m2/a store/dir/; \
             rm -r store/m2/b; mkdir store/m2/b; echo new > store/m2/b/new; mkdir own; mv store/m2/moved/b own/; chmod 750 .",
        );
        let before = shown(&at);
        drop(mounted);
        let redirects = |tree: &str| {
            let script = format!(
                "getfattr -R -P -n trusted.overlay.redirect {tree} 2>/dev/null | grep ^trusted | sort"
            );
            shell(&lab.at("old"), &script)
        };
        assert!(redirects("data").contains("=\"/store/m1/a\""), "{}", redirects("data"));
        if known {
            let meta = r#"{"version":1,"format":"overlay-trusted","storeDir":"/nix/store","view":"web","temporary":false}"#;
            fs::write(lab.at("old/meta.json"), meta).unwrap();
        }
        let upper = lab.upper("old").unwrap();
        let mounted = lab.view(&upper);
        assert_eq!(shown(&lab.at("view")), before);
        // A redirect of the new form comes beside those of the old.
        shell(&lab.at("view"), "mv store/m2/moved store/m1/again; mv store/m1/renamed own/renamed");
        let now = shown(&lab.at("view"));
        mounted.unmount();
        drop(upper);
        let old = redirects("tree/nix");
        assert!(old.contains("=\"/store/m1/a\"") && old.contains("=\"/nix/store/m1/c\""), "{old}");

        for _ in 0..2 {
            let mut upper = lab.upper("old").unwrap();
            let given = upper.prepare_for_overlay().unwrap();
            let new = redirects("tree/nix");
            assert!(
                new.lines().all(|line| !line.contains("=\"/") || line.contains("=\"/nix/store/m")),
                "{new}"
            );
            assert_eq!(new.lines().count(), old.lines().count());
            let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
            assert_eq!(shown(&mounted.nix()), now);
            drop((mounted, given, upper));
            let meta = fs::read_to_string(lab.at("old/meta.json")).unwrap();
            assert!(!meta.contains("oldRedirects"), "{meta}");
            assert_eq!(objections(&lab.at("old")), [""; 0]);
        }
        let upper = lab.upper("old").unwrap();
        let mounted = lab.view(&upper);
        assert_eq!(shown(&lab.at("view")), now);
        mounted.unmount();
    }
}

/// Why an upper goes to the FUSE backend.
#[test]
#[ignore = "needs root and overlayfs"]
fn an_upper_that_overlayfs_cannot_take_says_why() {
    if !private_namespace() {
        return;
    }
    let Some(tmpfs) = place() else { return };
    let lab = Lab::new_in(tmpfs.path());
    lab.upper("fit").unwrap().may_be_overlay().unwrap();
    // On an overlay.
    let mut fit = lab.upper("fit").unwrap();
    let given = fit.prepare_for_overlay().unwrap();
    let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
    let nested = format!("{}/upper", mounted.nix().strip_prefix(lab.dir.path()).unwrap().display());
    {
        let why = match lab.upper(&nested) {
            Ok(upper) => upper.may_be_overlay().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(why.contains("not supported"), "{why}");
    }
}

/// An image is known by its last mount: what was done to it by hand is read before an overlay is mounted over it.
#[test]
#[ignore = "needs root, overlayfs and loop devices"]
fn an_image_that_was_mounted_by_hand_is_checked() {
    let Some(tmpfs) = place() else { return };
    let lab = Lab::new_in(tmpfs.path());
    let limit = LimitChoice { size: Some(4 << 20), inodes: None };
    let hold = || lab.limited("upper", limit);
    let own = || own_of(&lab.at("upper"));
    let by_hand = |script: &str| {
        shell(lab.dir.path(), &format!("mkdir -p m; mount -o loop upper/upper.img m; ({script}); umount m"));
        wait::eventually("the loop device is gone", wait::PATIENCE, || {
            shell(lab.dir.path(), "losetup -j upper/upper.img").is_empty()
        });
    };
    drop(hold().unwrap());
    for round in 0..3 {
        let before = own();
        assert!(before.is_object(), "an image that nobody else mounted is known");
        let mut upper = hold().unwrap();
        assert!(own().is_object() && own() != before, "each mount is another");
        let given = upper.prepare_for_overlay().unwrap();
        let mounted = lab.overlay(&given, Overlay::OPTIONS).unwrap();
        assert_eq!(fs::read_dir(mounted.nix().join("store/m1")).unwrap().count(), 3 + round);
        fs::write(mounted.nix().join(format!("store/m1/round{round}")), "kept").unwrap();
        drop((mounted, given, upper));
        // Who only looks changes nothing.
        shell(
            lab.dir.path(),
            "mkdir -p m; mount -o loop,ro,noload upper/upper.img m; ls m/tree/nix; umount m",
        );
    }
    by_hand("setfattr -n trusted.overlay.redirect -v /secret m/tree/nix/store/m1");
    let mut upper = hold().unwrap();
    assert!(own().is_null());
    let why = upper.prepare_for_overlay().unwrap_err().to_string();
    assert!(why.contains("tree/nix/store/m1: its redirect is '/secret'"), "{why}");
    drop(upper);
    by_hand("setfattr -x trusted.overlay.redirect m/tree/nix/store/m1");
    let mut upper = hold().unwrap();
    drop(upper.prepare_for_overlay().unwrap());
    drop(upper);
    assert!(own().is_object(), "it was checked and noted");
}
