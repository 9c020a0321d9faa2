#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;

use super::entry::{Body, Entry};
use super::read::Reader;
use super::*;
use crate::layer::mem::MemLayer;
use crate::layer::{Access, LayerFile, Lower, NewObject, Presence, Restore, Upper};
use crate::vfs::{Errno, SetAttr, SetTime, Timespec, XattrMode};
use crate::view::changes::Trees;

mod hidden;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn path(text: &str) -> Vec<Name> {
    text.split('/').filter(|part| !part.is_empty()).map(name).collect()
}

fn entry(path: &str, body: Body) -> Entry {
    let mtime = Timespec { seconds: 7, nanoseconds: 5 };
    Entry { path: path.into(), body, permissions: 0o640, uid: 3, gid: 4, mtime, xattrs: Vec::new() }
}

/// The bytes of an archive of these; files hold as many `x` as they are long.
fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(encode::headers(entry).unwrap());
        if let Body::File { size, .. } = entry.body {
            bytes.resize(bytes.len() + usize::try_from(size).unwrap(), b'x');
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn lower() -> MemLayer {
    let lower = MemLayer::new();
    for dir in ["store", "store/p", "store/p/bin"] {
        lower.add_dir(dir, 0o555).unwrap();
    }
    lower.add_file("store/p/bin/a", 0o444, b"lower").unwrap();
    for dir in ["store", "store/p", "store/p/bin"] {
        let mtime = Some(SetTime::At(Timespec { seconds: 1, nanoseconds: 0 }));
        let object = lower.resolve(&path(dir)).unwrap();
        lower.set_attr(&object, &SetAttr { mtime, ..SetAttr::default() }).unwrap();
    }
    lower
}

fn import_with(bytes: &[u8], skip_others: bool) -> (Result<Imported, ImportError>, MemLayer) {
    let (lower, upper) = (lower(), MemLayer::new());
    let source = Source { prefix: path("nix"), skip_others, max_size: 1 << 30 };
    let trees = Trees { lower: &lower, upper: &upper, owner: Some((1, 2)) };
    let answer = import(&source, bytes, Target { trees, owner: None, devices: true, set_id: true });
    (answer, upper)
}

fn imported(entries: &[Entry]) -> MemLayer {
    let (answer, upper) = import_with(&archive(entries), false);
    answer.unwrap();
    upper
}

/// What is said of an archive that is refused.
fn refused(bytes: &[u8]) -> String {
    import_with(bytes, false).0.unwrap_err().to_string()
}

fn is_whiteout(upper: &MemLayer, at: &str) -> bool {
    let mut names = path(at);
    let last = names.pop().unwrap();
    let dir = upper.resolve(&names).unwrap();
    matches!(Upper::presence(upper, &dir, &last).unwrap(), Presence::Whiteout)
}

/// All that is in an upper, by path.
fn tree(upper: &MemLayer) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![Vec::new()];
    while let Some(at) = pending.pop() {
        let dir = upper.resolve(&at).unwrap();
        for entry in upper.read_dir(&dir).unwrap() {
            let mut inner = at.clone();
            inner.push(entry.name.clone());
            let shown = crate::view::changes::shown(&inner);
            let Presence::Present(object) = Upper::presence(upper, &dir, &entry.name).unwrap() else {
                all.insert(shown, "whiteout".to_owned());
                continue;
            };
            let stat = upper.stat(&object).unwrap();
            let mut content = String::new();
            match stat.kind {
                FileKind::Directory => {
                    content = format!("opaque {}", Upper::is_opaque(upper, &object).unwrap());
                    pending.push(inner);
                }
                FileKind::Regular => {
                    let mut bytes = vec![0; usize::try_from(stat.size).unwrap()];
                    upper.open(&object, Access::Read).unwrap().read_at(0, &mut bytes).unwrap();
                    content = bytes.escape_ascii().to_string();
                }
                FileKind::Symlink => content = upper.read_link(&object).unwrap().escape_ascii().to_string(),
                _ => {}
            }
            let mut xattrs = Vec::new();
            for attribute in upper.list_xattr(&object).unwrap() {
                xattrs.push((upper.get_xattr(&object, &attribute).unwrap(), attribute));
            }
            let (kind, links) = (stat.kind, if stat.kind == FileKind::Directory { 0 } else { stat.nlink });
            let told = (kind, stat.permissions, stat.uid, stat.gid, stat.rdev, links, stat.mtime, xattrs);
            all.insert(shown, format!("{told:?} {content}"));
        }
    }
    all
}

fn how(skip: bool) -> Exporting {
    Exporting { prefix: path("nix"), skip, lower_known: true }
}

fn exported(upper: &MemLayer) -> Vec<u8> {
    let mut bytes = Vec::new();
    let trees = Trees { lower: &lower(), upper, owner: Some((1, 2)) };
    export(trees, &how(false), &mut bytes, &mut |_, _| ()).unwrap();
    bytes
}

#[test]
fn what_goes_out_comes_back_as_it_was() {
    let upper = MemLayer::new();
    let long = "n".repeat(255);
    for dir in ["store", "store/p", "store/new", &format!("store/{long}"), &format!("store/{long}/{long}")] {
        upper.add_dir(dir, 0o755).unwrap();
    }
    let new = upper.resolve(&path("store/new")).unwrap();
    upper.make_opaque(&new).unwrap();
    for dir in [format!("store/{long}"), format!("store/{long}/{long}")] {
        upper.make_opaque(&upper.resolve(&path(&dir)).unwrap()).unwrap();
    }
    let file =
        upper.add_file("store/new/f", 0o4755, &[b"data".repeat(3000), vec![0; 9000]].concat()).unwrap();
    upper.set_xattr(&file, b"user.odd", b"a\n20 path=nix/evil\n\0=", XattrMode::Set).unwrap();
    upper.set_xattr(&file, b"user.empty", b"", XattrMode::Set).unwrap();
    let ids = SetAttr { uid: Some(0o7_777_777 + 1), gid: Some(u32::MAX - 1), ..SetAttr::default() };
    upper.set_attr(&file, &ids).unwrap();
    upper.link(&file, &upper.resolve(&path("store/p")).unwrap(), &name("g")).unwrap();
    for (at, seconds, nanoseconds) in
        [("store/new/f", -5, 7), ("store/p", 8_589_934_592, 1), ("store/new", 0, 0)]
    {
        let mtime = Some(SetTime::At(Timespec { seconds, nanoseconds }));
        let object = upper.resolve(&path(at)).unwrap();
        upper.set_attr(&object, &SetAttr { mtime, ..SetAttr::default() }).unwrap();
    }
    upper
        .add(&format!("store/{long}/{long}/l"), &NewObject::Symlink("t".repeat(4000).as_bytes()), 0o777)
        .unwrap();
    for (at, kind, rdev) in [
        ("store/new/fifo", FileKind::Fifo, 0),
        ("store/new/null", FileKind::CharDevice, rustix::fs::makedev(1, 3)),
        ("store/new/block", FileKind::BlockDevice, rustix::fs::makedev(4095, 1_048_575)),
    ] {
        upper.add(at, &NewObject::Node { kind, rdev }, 0o600).unwrap();
    }
    upper.remove(&upper.resolve(&path("store/p")).unwrap(), &name("bin"), true).unwrap();

    let bytes = exported(&upper);
    let (answer, copy) = import_with(&bytes, false);
    answer.unwrap();
    assert_eq!(tree(&copy), tree(&upper));
    assert_eq!(exported(&copy), bytes, "the same upper gives the same bytes");
    for private in [&b"trusted.overlay"[..], b"nixview"] {
        assert!(!bytes.windows(private.len()).any(|window| window == private));
    }
}

#[test]
fn absolute_names_and_targets_are_relative_to_the_root_of_the_archive() {
    let members = [
        entry("/nix/store/new/f", Body::file(3)),
        entry("//nix/./store/new/g", Body::HardLink(b"/nix/store/new/f".to_vec())),
        entry("/nix/store/.wh.p", Body::file(0)),
    ];
    let upper = imported(&members);
    assert_eq!(upper.stat(&upper.resolve(&path("store/new/f")).unwrap()).unwrap().nlink, 2);
    assert!(is_whiteout(&upper, "store/p"));
    assert!(refused(&archive(&[entry("/etc/passwd", Body::file(3))])).contains("does not lie in nix/"));
    assert!(refused(&archive(&[entry("/nix/../../etc/passwd", Body::file(3))])).contains("'..'"));
}

#[test]
fn paths_and_archives_have_a_largest_size() {
    let long = |names: usize| format!("nix/{}f", "d/".repeat(names - 2));
    imported(&[entry(&long(1000), Body::file(1))]);
    let deep = refused(&archive(&[entry(&long((1 << 14) + 1), Body::file(1))]));
    assert!(deep.contains("more than 16384 names") && deep.len() < 1000, "{deep}");
    let wide = format!("nix/{}", format!("{}/", "n".repeat(255)).repeat(300));
    let wide = refused(&archive(&[entry(&wide, Body::Directory)]));
    assert!(wide.contains("its path has") && wide.contains("may have 65536"));

    let bytes = archive(&[entry("nix/store/f", Body::file(5000))]);
    let (lower, length) = (lower(), bytes.len() as u64);
    for (max_size, fits) in [(length, true), (length - 1, false), (5000, false), (100, false)] {
        let upper = MemLayer::new();
        let source = Source { prefix: path("nix"), skip_others: false, max_size };
        let trees = Trees { lower: &lower, upper: &upper, owner: None };
        let answer =
            import(&source, bytes.as_slice(), Target { trees, owner: None, devices: true, set_id: true });
        assert_eq!(answer.is_ok(), fits, "{max_size} of {length}");
        if let Err(error) = answer {
            assert!(matches!(error.problem, Problem::TooLarge(most) if most == max_size), "{error}");
        }
    }
}

#[test]
fn directories_that_are_implied_are_the_lowers() {
    let upper = imported(&[entry("./nix//store/p/bin/new/deep/f", Body::file(1))]);
    let of = |at: &str| {
        let object = upper.resolve(&path(at)).unwrap();
        let stat = upper.stat(&object).unwrap();
        (stat.permissions, stat.uid, stat.gid, upper.is_opaque(&object).unwrap())
    };
    assert_eq!(of("store/p/bin"), (0o555, 1, 2, false));
    assert_eq!(of("store/p/bin/new"), (0o755, 1, 2, true), "a later closure must not show through");
    let mtime = |at: &str| upper.stat(&upper.resolve(&path(at)).unwrap()).unwrap().mtime.seconds;
    assert_eq!((mtime("store"), mtime("store/p"), mtime("store/p/bin/new")), (1, 1, 1));
}

#[test]
fn of_two_with_one_name_the_later_counts() {
    let upper = imported(&[
        entry("nix/a", Body::Directory),
        entry("nix/a/inner", Body::file(1)),
        entry("nix/b", Body::HardLink(b"nix/a/inner".to_vec())),
        entry("nix/a", Body::Symlink(b"/etc".to_vec())),
        entry("nix/c", Body::file(2)),
        Entry { permissions: 0o700, ..entry("nix/c", Body::Directory) },
        Entry { permissions: 0o711, ..entry("nix/c", Body::Directory) },
    ]);
    let all = tree(&upper);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["/a", "/b", "/c"]);
    assert!(all.get("/a").unwrap().ends_with(" /etc"));
    assert_eq!(upper.stat(&upper.resolve(&path("b")).unwrap()).unwrap().nlink, 1);
    assert_eq!(upper.stat(&upper.resolve(&path("c")).unwrap()).unwrap().permissions, 0o711);
}

#[test]
fn hostile_members_are_refused_with_name_and_place() {
    let dot_dot = "nix/../../etc/passwd";
    let long = format!("nix/{}", "x".repeat(256));
    let nul = format!("nix/{}\0b", "x".repeat(120));
    let zero = Body::Node { kind: FileKind::CharDevice, rdev: 0 };
    let link = |target: &str| Body::HardLink(target.into());
    let mark = Entry {
        xattrs: vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())],
        ..entry("nix/a", Body::Directory)
    };
    let own = Entry {
        xattrs: vec![(b"user.nixview.origin".to_vec(), b"1".to_vec())],
        ..entry("nix/a", Body::file(1))
    };
    for (member, why) in [
        (entry("/etc/passwd", Body::file(1)), "does not lie in nix/"),
        (entry(dot_dot, Body::file(1)), "'..'"),
        (entry("etc/passwd", Body::file(1)), "does not lie in nix/"),
        (entry("nixos/a", Body::file(1)), "does not lie in nix/"),
        (entry("nix", Body::file(1)), "the root of the view is a directory"),
        (entry("nix", Body::Symlink(b"/".to_vec())), "the root of the view is a directory"),
        (entry(&long, Body::file(1)), "a name that is none"),
        (entry(&nul, Body::file(1)), "a name that is none"),
        (entry(".wh.nix", Body::file(0)), "hides the root"),
        (entry(".wh..wh..opq", Body::file(0)), "hides the root"),
        (entry("nix/.wh.", Body::file(0)), "hides no name"),
        (entry("nix/.wh..", Body::file(0)), "hides no name"),
        (entry("nix/.wh...", Body::file(0)), "hides no name"),
        (entry("nix/zero", zero), "0:0"),
        (entry("nix/l", link("etc/passwd")), "not in the view"),
        (entry("nix/l", link("/etc/passwd")), "not in the view"),
        (entry("nix/l", link("nix/../etc/passwd")), "'..'"),
        (entry("nix/l", link("nix/none")), "did not come before"),
        (entry("nix/l", link("nix/store/p/bin/a")), "did not come before"),
        (entry("nix/l", link("nix/l")), "a link to itself"),
        (entry("nix/l", link("nix")), "a directory"),
        (mark, "overlayfs"),
        (own, "overlayfs"),
    ] {
        let first = entry("nix/first", Body::file(600));
        let told = refused(&archive(&[first.clone(), member.clone()]));
        // What goes before: a PAX header with its content, the header, two blocks.
        let offset = archive(&[first]).len() - 2 * BLOCK;
        assert!(told.contains(why), "{told}: {why}");
        let shown: String = member.path.escape_ascii().to_string();
        let shown = shown.split("\\x00").next().unwrap();
        assert!(told.contains(&format!("entry '{shown}")), "{told}");
        let at: usize = told.split("at byte ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(at == offset || at == offset + 2 * BLOCK, "{told}: {offset}");
    }
    // A link in the archive is never followed.
    let told = refused(&archive(&[
        entry("nix/link", Body::Symlink(b"/etc".to_vec())),
        entry("nix/link/file", Body::file(0)),
    ]));
    assert!(told.contains("no directory in this archive"), "{told}");
}

/// Imports without devices and set-id bits.
fn import_harmless(bytes: &[u8]) -> (Result<Imported, ImportError>, MemLayer) {
    let (lower, upper) = (lower(), MemLayer::new());
    let source = Source { prefix: path("nix"), skip_others: false, max_size: 1 << 30 };
    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    let answer = import(&source, bytes, Target { trees, owner: None, devices: false, set_id: false });
    (answer, upper)
}

#[test]
fn devices_are_refused_unless_they_are_wanted() {
    for kind in [FileKind::CharDevice, FileKind::BlockDevice] {
        let device = entry("nix/store/d", Body::Node { kind, rdev: rustix::fs::makedev(1, 3) });
        let error = import_harmless(&archive(&[device])).0.unwrap_err();
        assert!(matches!(error.problem, Problem::Device), "{error}");
        assert!(error.to_string().ends_with("of the archive: it is a device node"), "{error}");
    }
    let fifo = entry("nix/store/f", Body::Node { kind: FileKind::Fifo, rdev: 0 });
    import_harmless(&archive(&[fifo])).0.unwrap();
}

#[test]
fn set_id_bits_are_told_and_taken_away_if_so_asked() {
    let with = |at: &str, body: Body, permissions: u16| Entry { permissions, ..entry(at, body) };
    let mut capable = entry("nix/store/capable", Body::file(3));
    capable.xattrs = vec![(b"security.capability".to_vec(), b"x".to_vec())];
    let members = [
        with("nix/store/su", Body::file(3), 0o4755),
        with("nix/store/sg", Body::file(3), 0o2711),
        with("nix/store/dir", Body::Directory, 0o2775),
        with("nix/store/plain", Body::file(3), 0o1755),
        capable,
    ];
    let permissions =
        |upper: &MemLayer, at: &str| upper.stat(&upper.resolve(&path(at)).unwrap()).unwrap().permissions;
    let bytes = archive(&members);
    for (keep, (answer, upper)) in [(true, import_with(&bytes, false)), (false, import_harmless(&bytes))] {
        let told = answer.unwrap();
        assert_eq!(told.set_id, 3);
        assert_eq!(told.first_set_id, ["nix/store/su", "nix/store/sg", "nix/store/capable"]);
        let all = ["store/su", "store/sg", "store/dir", "store/plain"].map(|at| permissions(&upper, at));
        let set_id = if keep { [0o4755, 0o2711] } else { [0o755, 0o711] };
        assert_eq!(all, [set_id[0], set_id[1], 0o2775, 0o1755]);
        let capable = upper.resolve(&path("store/capable")).unwrap();
        assert_eq!(upper.list_xattr(&capable).unwrap().len(), usize::from(keep));
    }
}

#[test]
fn others_are_left_out_if_so_asked() {
    let members = [
        entry(".", Body::Directory),
        entry("etc", Body::Directory),
        entry("etc/passwd", Body::file(9)),
        entry("nix", Body::Directory),
        entry("nix/a", Body::file(1)),
    ];
    let (answer, upper) = import_with(&archive(&members), true);
    let counts = answer.unwrap();
    assert_eq!((counts.entries, counts.skipped), (2, 2));
    assert_eq!(tree(&upper).len(), 1);
    assert!(refused(&archive(&members)).contains("entry 'etc/'"));
    let hidden = archive(&[entry(".wh.nix", Body::file(0))]);
    assert!(import_with(&hidden, true).0.is_err(), "the root cannot be hidden, whatever is left out");
}

#[test]
fn what_is_no_archive_is_refused_wherever_it_breaks() {
    let good = archive(&[
        entry("nix/a", Body::file(600)),
        entry(&format!("nix/{}", "d".repeat(200)), Body::Directory),
    ]);
    let whole = good.len() - BLOCK;
    for end in 0..whole {
        if end % 37 == 0 || end % BLOCK == 0 {
            let told = refused(good.get(..end).unwrap());
            assert!(told.contains("ends here"), "{end}: {told}");
        }
    }
    import_with(good.get(..whole).unwrap(), false).0.unwrap();
    for flip in 0..good.len() - 2 * BLOCK {
        let mut bad = good.clone();
        *bad.get_mut(flip).unwrap() ^= 0x40;
        // Content may differ; a header that does is refused or says something else, and nothing panics.
        drop(import_with(&bad, true));
    }
    assert!(refused(&[b'x'; 2048]).contains("no header"));
    let mut wrong = good.clone();
    *wrong.first_mut().unwrap() = b'm';
    assert!(refused(&wrong).contains("checksum"));
}

/// A header with this type and length, and what follows.
fn raw(kind: u8, size: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    for (to, from) in header.as_old_mut().name.iter_mut().zip(b"nix/a") {
        *to = *from;
    }
    for (to, from) in header.as_old_mut().size.iter_mut().zip(size) {
        *to = *from;
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(rest);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[test]
fn lengths_that_lie_are_refused_without_memory_or_time() {
    let giant: &[u8] = &[0xff; 12];
    let exabytes = &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    for (bytes, why) in [
        (raw(b'x', b"77777777777\0", b""), "too long"),
        (raw(b'L', b"77777777777\0", b""), "too long"),
        (raw(b'0', b"77777777777\0", b"x"), "ends here"),
        (raw(b'0', giant, b"x"), "entry"),
        (raw(b'0', exabytes, b"x"), "ends here"),
        (raw(b'S', b"00000001000\0", b"x"), "read its length"),
        (raw(b'x', b"00000000013\0", b"11 size=-1\n"), "is none"),
        (raw(b'x', b"00000000020\0", b"16 GNU.sparse.a=1"), "none"),
        (raw(b'g', b"00000000014\0", b"12 path=foo\n"), "sets 'path'"),
        (raw(b'V', b"00000000000\0", b""), "type 'V'"),
    ] {
        let bytes = [bytes, raw(b'0', b"00000000000\0", b"")].concat();
        let told = refused(&bytes);
        assert!(told.contains(why), "{told}: {why}");
    }
    let twice = [raw(b'L', b"00000000002\0", b"a\0"), raw(b'L', b"00000000002\0", b"b\0")].concat();
    assert!(refused(&twice).contains("two headers"));
}

#[test]
fn gnu_names_and_sparse_members_are_read() {
    let long = [b"nix/".to_vec(), vec![b'n'; 200], b"\0".to_vec()].concat();
    let name_header = raw(b'L', b"00000000315\0", &long);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
        set(&mut header, 0);
    }
    header.set_mode(0o600);
    header.set_size(512 + 3);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(20_000);
    for (block, (offset, length)) in gnu.sparse.iter_mut().zip([(4096, 512), (19_997, 3), (20_000, 0)]) {
        block.set_offset(offset);
        block.set_length(length);
    }
    header.set_cksum();
    let mut content = [vec![b'm'; 512], b"end".to_vec()].concat();
    content.resize(1024, 0);
    let bytes = [name_header, header.as_bytes().to_vec(), content, vec![0; 1024]].concat();
    let (answer, upper) = import_with(&bytes, false);
    answer.unwrap();
    let object = upper.resolve(&path(&"n".repeat(200))).unwrap();
    let mut read = vec![9; 20_000];
    assert_eq!(upper.open(&object, Access::Read).unwrap().read_at(0, &mut read).unwrap(), 20_000);
    let expected = [vec![0; 4096], vec![b'm'; 512], vec![0; 19_997 - 4608], b"end".to_vec()].concat();
    assert_eq!(read, expected);
    let mut reader = Reader::new(bytes.as_slice(), u64::MAX);
    let found = reader.next().unwrap().unwrap();
    assert_eq!(found.body, Body::File { size: 20_000, data: Some(vec![(4096, 512), (19_997, 3)]) });
    assert_eq!(reader.next().unwrap(), None, "what is not read is skipped");
}

#[test]
fn what_a_layer_cannot_hold_is_said_or_left_out() {
    let upper = MemLayer::new();
    upper.add_dir("d", 0o755).unwrap();
    upper.add_file("d/.wh.x", 0o644, b"").unwrap();
    upper.add("d/socket", &NewObject::Node { kind: FileKind::Socket, rdev: 0 }, 0o600).unwrap();
    let file = upper.add_file("d/f", 0o644, b"").unwrap();
    upper.set_xattr(&file, b"user.a=b", b"", XattrMode::Set).unwrap();
    let lower = MemLayer::new();
    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    let error = export(trees, &how(false), &mut Vec::new(), &mut |_, _| ()).unwrap_err();
    assert_eq!(error.to_string(), "'/d/.wh.x' cannot be in a layer: its name is that of a mark in layers");
    let mut bytes = Vec::new();
    let mut skipped = Vec::new();
    let mut told = |path: &[Name], _: &str| skipped.push(crate::view::changes::shown(path));
    let done = export(trees, &how(true), &mut bytes, &mut told).unwrap();
    assert_eq!(skipped, ["/d/.wh.x", "/d/f", "/d/socket"]);
    assert_eq!((done.entries, done.skipped), (2, 3));
    assert_eq!(tree(&import_with(&bytes, false).1).len(), 1);
}

#[test]
fn a_disk_that_fails_keeps_its_errno() {
    let bytes = archive(&[entry("nix/a", Body::file(1))]);
    let (lower, upper) = (lower(), MemLayer::new());
    upper.freeze();
    let trees = Trees { lower: &lower, upper: &upper, owner: None };
    let source = Source { prefix: path("nix"), skip_others: false, max_size: 1 << 30 };
    let error = import(&source, bytes.as_slice(), Target { trees, owner: None, devices: true, set_id: true })
        .unwrap_err();
    let Problem::Io(_, error) = error.problem else { return assert_eq!(error.to_string(), "EROFS") };
    assert_eq!(Errno::of(&error), Errno::EROFS);
}

#[test]
fn a_moved_directory_goes_out_with_what_it_shows() {
    let upper = MemLayer::new();
    let lower = lower();
    lower.add_file("store/p/bin/b", 0o444, b"hidden").unwrap();
    for dir in ["store", "store/p", "store/moved"] {
        upper.add_dir(dir, 0o755).unwrap();
    }
    let (store, moved) =
        (upper.resolve(&path("store")).unwrap(), upper.resolve(&path("store/moved")).unwrap());
    upper.set_redirect(&moved, &crate::layer::Redirect::Path(path("store/p"))).unwrap();
    upper.discard(&store, &name("p")).unwrap();
    upper.remove(&store, &name("p"), true).unwrap();
    upper.add_dir("store/moved/bin", 0o700).unwrap();
    upper.remove(&upper.resolve(&path("store/moved/bin")).unwrap(), &name("b"), true).unwrap();
    let trees = Trees { lower: &lower, upper: &upper, owner: Some((1, 2)) };
    let mut bytes = Vec::new();
    export(trees, &how(false), &mut bytes, &mut |_, _| ()).unwrap();
    let copy = import_with(&bytes, false).1;
    let all = tree(&copy);
    let names: Vec<&String> = all.keys().collect();
    assert_eq!(names, ["/store", "/store/moved", "/store/moved/bin", "/store/moved/bin/a", "/store/p"]);
    assert!(all.get("/store/moved").unwrap().ends_with("opaque true"));
    assert!(all.get("/store/moved/bin/a").unwrap().ends_with(" lower"), "{all:?}");
    assert!(all.get("/store/moved/bin/a").unwrap().contains(", 1, 2, "), "of the view's owner: {all:?}");
    let unknown = Exporting { lower_known: false, ..how(true) };
    let error = export(trees, &unknown, &mut Vec::new(), &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("'/store/moved' is a directory of the store that was moved"), "{error}");
}
