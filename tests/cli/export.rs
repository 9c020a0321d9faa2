//! `nixview export` and `import`, without a mount: what goes out of one view comes back in another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use crate::support::changed::Changed;
use crate::support::scene::Ran;
use crate::support::union_support;
use nixview::lock::Digest;
use serde_json::Value;

/// Changes that a layer has a form for each of.
fn changed() -> Changed {
    let mut changed = Changed::new("env-b", "web");
    let right = changed.below("right");
    changed.write(&format!("{right}/bin/where"), b"changed");
    changed.remove_tree(&changed.below("sparse"));
    changed.remove_tree(&changed.below("empty"));
    changed.mkdir(&changed.below("empty"));
    changed.mkdir("store/new");
    changed.create("store/new/file", &[&[7; 5000][..], &[0; 1 << 20], b"end"].concat());
    changed.link("store/new/file", &format!("{right}/bin/link"));
    changed.symlink("store/new/link", "/etc/passwd");
    changed
}

impl Changed {
    fn lock_arguments(&self) -> Vec<String> {
        let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let caller = union_support::caller();
        let owner = format!("{}:{}", caller.uid, caller.gid);
        let lock = text(self.scene.path("env-b.lock"));
        let store = text(self.scene.store.root().to_owned());
        vec!["--closure".into(), lock, "--store".into(), store, "--owner".into(), owner]
    }

    fn import(&self, more: &[&str]) -> Ran {
        let arguments = self.lock_arguments();
        let all: Vec<&str> = ["import"]
            .into_iter()
            .chain(arguments.iter().map(String::as_str))
            .chain(more.iter().copied())
            .collect();
        self.nixview(&all)
    }

    fn out(&self, name: &str) -> String {
        self.scene.path(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn what_one_view_exports_another_imports() {
    let changed = changed();
    let file = changed.out("layer.tar");
    let report: Value =
        serde_json::from_str(&changed.nixview(&["export", "web", "--json", "-o", &file]).ok().out).unwrap();
    let bytes = fs::read(&file).unwrap();
    let hex: String = Digest::of(&bytes).to_string();
    assert!(hex.starts_with("sha256-"));
    assert_eq!(report["size"], bytes.len());
    assert_eq!(report["digest"], report["diffId"]);
    assert_eq!(report["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    let sum = changed.scene.shell(&format!("sha256sum {file}")).ok().out;
    assert_eq!(report["digest"], format!("sha256:{}", sum.split(' ').next().unwrap()));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);

    changed.import(&["second", &file]).ok();
    let mut first = changed.nixview(&["diff", "--json", "web"]).ok().out;
    let mut second = changed.nixview(&["diff", "--json", "second"]).ok().out;
    for diff in [&mut first, &mut second] {
        *diff = diff[diff.find("\"closure\"").unwrap()..].to_owned();
    }
    assert_eq!(first, second);
    // Holes are holes again.
    let of = |view: &str| {
        fs::metadata(changed.scene.path("state/uppers").join(view).join("tree/nix/store/new/file")).unwrap()
    };
    assert_eq!((of("second").size(), of("second").nlink()), (of("web").size(), 2));
    assert!(of("second").blocks() < 100, "{} blocks", of("second").blocks());

    for how in ["gzip", "zstd"] {
        let packed = changed.out(how);
        let again = changed.nixview(&["export", "second", "--json", "--compress", how, "-o", &packed]).ok();
        let again: Value = serde_json::from_str(&again.out).unwrap();
        assert_eq!(again["diffId"], report["digest"], "the same upper gives the same bytes");
        assert!(fs::metadata(&packed).unwrap().len() < 20_000);
        changed.import(&["--replace", how, &packed]).ok();
        assert_eq!(changed.nixview(&["diff", how]).ok().out, changed.nixview(&["diff", "web"]).ok().out);
    }
}

#[test]
fn standard_output_and_input_are_files_too() {
    let changed = changed();
    let mut command = changed.scene.command();
    let piped = command.args(["export", "web", "-o", "-"]).output().unwrap();
    assert!(piped.status.success(), "{piped:?}");
    assert!(String::from_utf8(piped.stderr).unwrap().contains("sha256:"), "the digest is told beside it");
    let file = changed.scene.path("piped.tar");
    fs::write(&file, &piped.stdout).unwrap();
    let mut command = changed.scene.command();
    command.args(["import"]).args(changed.lock_arguments()).args(["second", "-"]);
    let ran = command.stdin(Stdio::from(fs::File::open(&file).unwrap())).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(changed.nixview(&["diff", "second"]).ok().out, changed.nixview(&["diff", "web"]).ok().out);
    changed.nixview(&["export", "web", "--json", "-o", "-"]).failed(2, &["--json needs a file"]);
}

#[test]
fn a_failed_import_leaves_what_was_there() {
    let changed = changed();
    let before = changed.nixview(&["diff", "web"]).ok().out;
    let file = changed.out("layer.tar");
    changed.nixview(&["export", "web", "-o", &file]).ok();
    changed.nixview(&["import", "web", &file]).failed(1, &["holds changes", "--replace"]);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    changed.nixview(&["import", "--replace", "web", &file]).failed(1, &["at byte ", "ends here"]);
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, before);
    assert_eq!(fs::read_dir(changed.upper.join("work")).unwrap().count(), 0);
    // One that was made for it goes again.
    changed.import(&["second", &file]).failed(1, &["ends here"]);
    assert!(!changed.scene.path("state/uppers/second").exists());
    changed.nixview(&["import", "second", &file]).failed(1, &["--closure"]);
    changed.import(&["second", "/none"]).failed(1, &["cannot read /none"]);
    assert!(!changed.scene.path("state/uppers/second").exists());
    // Whole, and over what was there.
    fs::write(&file, &bytes).unwrap();
    let mut changed = changed;
    changed.mkdir("store/other");
    changed.nixview(&["import", "--replace", "web", &file]).ok();
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, before);
}

#[test]
fn a_held_upper_is_neither_exported_nor_imported() {
    let changed = changed();
    let file = changed.out("layer.tar");
    changed.nixview(&["export", "web", "-o", &file]).ok();
    let held = changed.hold();
    let told = format!("in use by process {}", std::process::id());
    changed.nixview(&["export", "web", "-o", &changed.out("other.tar")]).failed(1, &[&told]);
    changed.nixview(&["import", "--replace", "web", &file]).failed(1, &[&told]);
    assert!(!changed.scene.path("other.tar").exists());
    drop(held);
}

#[test]
fn what_cannot_go_out_is_named_and_nothing_is_written() {
    let mut changed = changed();
    changed.create("store/new/.wh.odd\x1b", b"");
    let file = changed.out("layer.tar");
    let format = fs::read_to_string(changed.upper.join("meta.json")).unwrap();
    if format.contains("whiteout-files") {
        // There such a name cannot be.
        changed.nixview(&["export", "web", "-o", &file]).ok();
        return;
    }
    let told = ["'/store/new/.wh.odd\\u{1b}' cannot be in a layer", "--skip-unsupported"];
    changed.nixview(&["export", "web", "-o", &file]).failed(1, &told);
    let left: Vec<String> = changed.scene.names("").into_iter().filter(|name| name.contains("tmp")).collect();
    assert!(!std::path::Path::new(&file).exists() && left.is_empty(), "{left:?}");
    let ran = changed.nixview(&["export", "web", "--skip-unsupported", "-o", &file]).ok();
    assert!(ran.err.contains("warning: /nix/store/new/.wh.odd"), "{}", ran.err);
}

#[test]
fn devices_and_set_id_bits_come_in_only_as_asked() {
    let changed = Changed::new("env-b", "web");
    let layer = changed.out("devices.tar");
    let mut archive = tar::Builder::new(fs::File::create(&layer).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_path("nix/store/null").unwrap();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o666);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    archive.append(&header, std::io::empty()).unwrap();
    archive.finish().unwrap();
    changed
        .import(&["one", &layer])
        .failed(1, &["entry 'nix/store/null'", "it is a device node", "hint: --devices"]);
    assert!(!changed.scene.path("state/uppers/one").exists());

    let layer = changed.out("set-id.tar");
    let tree = "mkdir -p t/nix/store/new && cd t/nix/store/new && touch su plain && chmod 4755 su && tar -C ../../.. -cf";
    changed.scene.shell(&format!("{tree} {layer} nix")).ok();
    let mode = |view: &str| {
        let file = changed.scene.path("state/uppers").join(view).join("tree/nix/store/new/su");
        fs::metadata(file).unwrap().mode() & 0o7777
    };
    let told = "1 file has set-id bits or capabilities (nix/store/new/su): ";
    let kept = changed.import(&["--no-same-owner", "kept", &layer]).ok();
    assert!(kept.err.contains(&format!("warning: {told}kept")), "{kept:?}");
    assert_eq!(mode("kept"), 0o4755);
    let removed = changed.import(&["--no-same-owner", "--no-setid", "--json", "removed", &layer]).ok();
    assert!(removed.err.contains(&format!("warning: {told}removed")), "{removed:?}");
    let report: Value = serde_json::from_str(&removed.out).unwrap();
    assert_eq!(report["set_id"], 1);
    assert_eq!(mode("removed"), 0o755);
}

#[test]
fn what_is_no_layer_or_too_large_a_one_is_called_so() {
    let changed = Changed::new("env-b", "web");
    let xz = changed.out("layer.tar.xz");
    fs::write(&xz, b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46").unwrap();
    let hint = |command: &str| format!("hint: decompress it, as in '{command} FILE | nixview import");
    changed.import(&["one", &xz]).failed(1, &["it is compressed by xz", &hint("xz -dc")]);
    let lz4 = changed.out("layer.tar.lz4");
    fs::write(&lz4, b"\x04\x22\x4d\x18\x64").unwrap();
    changed.import(&["one", &lz4]).failed(1, &["it is compressed by lz4", &hint("lz4 -dc")]);
    let layer = changed.out("layer.tar");
    changed
        .scene
        .shell(&format!("mkdir -p t/nix && truncate -s 2M t/nix/f && tar -C t -cf {layer} nix"))
        .ok();
    changed
        .import(&["one", "--max-size", "1M", &layer])
        .failed(1, &["longer than the 1048576 bytes", "--max-size"]);
    assert!(!changed.scene.path("state/uppers/one").exists());
    changed.import(&["one", "--no-same-owner", "--max-size", "3M", &layer]).ok();
}

/// As GNU tar makes them: with `./` before each name, directories that others imply, long names, holes.
#[test]
fn archives_of_other_programs_are_read() {
    let changed = Changed::new("env-b", "web");
    let long = "n".repeat(200);
    let script = format!(
        "mkdir -p t/nix/store/new && cd t && echo text > nix/store/new/{long} && ln nix/store/new/{long} nix/store/new/l && \
         truncate -s 1M nix/store/new/holes && printf end >> nix/store/new/holes && : > nix/store/.wh.{} && \
         tar -cS --format=gnu -f ../gnu.tar --no-recursion ./nix ./nix/store ./nix/store/new ./nix/store/new/* ./nix/store/.wh.* && \
         tar -c --format=posix -f ../posix.tar . && tar -czS --format=gnu -f ../gnu.tar.gz nix/store/new nix/store/.wh.*",
        changed.scene.store.path("sparse")
    );
    changed.scene.shell(&script).ok();
    let mut seen = Vec::new();
    for archive in ["gnu.tar", "posix.tar", "gnu.tar.gz"] {
        changed.import(&["--no-same-owner", archive, &changed.out(archive)]).ok();
        let all = changed.nixview(&["diff", archive]).ok().out;
        let names: Vec<&str> = all.lines().filter(|line| line.starts_with(['A', 'D'])).collect();
        assert_eq!(names.len(), 5, "{all}");
        assert!(
            all.contains(&format!("D /nix/{}/ (1 name in it, 4.0 MiB)", changed.below("sparse"))),
            "{all}"
        );
        let data = changed.scene.path("state/uppers").join(archive).join("tree/nix/store/new");
        assert_eq!(fs::metadata(data.join("l")).unwrap().nlink(), 2);
        assert!(fs::metadata(data.join("holes")).unwrap().blocks() < 100);
        seen.push(fs::read(data.join("holes")).unwrap());
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]));
    assert!(seen[0].ends_with(b"end"));
}
