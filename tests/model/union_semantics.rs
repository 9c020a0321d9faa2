//! The promises of docs/semantics.md, one test each, over layers in memory.

use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::{Disk, EPOCH, MemDisk, View, caller, name, options};
use nixview::layer::mem::MemLayer;
use nixview::layer::{Lower, NewObject, Presence, Upper};
use nixview::union::{Io, Options, UnionFs};
use nixview::vfs::access_list::{ACCESS_LIST, DEFAULT_LIST};
use nixview::vfs::{
    Caller, Errno, FileKind, Flow, Ino, OpenFlags, RenameMode, SeekTarget, SetAttr, SetTime, Timespec, Vfs,
    XattrMode,
};

fn view(disk: &MemDisk, io: Io) -> View<UnionFs<MemLayer, MemLayer>> {
    View::new(disk.lower(), disk.upper(), options(io))
}

fn errno<T: std::fmt::Debug>(result: nixview::vfs::Result<T>) -> Errno {
    result.unwrap_err().errno()
}

const CHMOD: SetAttr =
    SetAttr { permissions: Some(0o700), uid: None, gid: None, size: None, atime: None, mtime: None };

fn size(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

#[test]
fn lower_attributes_tell_nothing_of_others() {
    let disk = MemDisk::new();
    let squash = Options { owner: Some((1000, 100)), ..options(Io::Cached) };
    let mut view = View::new(disk.lower(), disk.upper(), squash);
    let attr = view.walk("b").unwrap();
    assert_eq!((attr.uid, attr.gid, attr.nlink), (1000, 100, 1));
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (EPOCH, EPOCH, EPOCH));
    view.write("b", 0, b"x").unwrap();
    let attr = view.walk("b").unwrap();
    assert_eq!((attr.uid, attr.gid, attr.permissions), (1000, 100, 0o744), "the copy belongs to the owner");
    assert!(attr.ctime > EPOCH);
    assert_eq!(view.walk("a").unwrap().nlink, 1, "directories have one link");
}

#[test]
fn directories_of_the_upper_alone_count_their_subdirectories() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let root = Ino::ROOT;
    let links = |view: &View<UnionFs<_, _>>, dir| view.fs.getattr(dir, None).unwrap().nlink;
    let make = |view: &View<UnionFs<_, _>>, parent, n| {
        view.fs.mkdir(caller(), parent, &name(n), 0o755).unwrap().attr.ino
    };
    let (one, two) = (make(&view, root, "one"), make(&view, root, "two"));
    let inner = make(&view, one, "inner");
    assert_eq!((links(&view, one), links(&view, two), links(&view, inner)), (3, 2, 2));
    view.fs.rename((one, &name("inner")), (two, &name("inner")), RenameMode::Replace).unwrap();
    assert_eq!((links(&view, one), links(&view, two)), (2, 3));
    view.fs.rmdir(two, &name("inner")).unwrap();
    assert_eq!((links(&view, two), links(&view, inner)), (2, 0));

    // What the lower has counts nothing, before and after it is copied up.
    let lower = view.ino("a");
    assert_eq!((links(&view, root), links(&view, lower)), (1, 1));
    make(&view, lower, "new");
    assert_eq!((links(&view, root), links(&view, lower)), (1, 1));
}

#[test]
fn numbers_stay_through_copy_up_rename_and_remount() {
    let disk = MemDisk::new();
    let mut first = view(&disk, Io::Passthrough);
    let (file, dir) = (first.ino("a/b/a"), first.ino("a/b"));
    first.write("a/b/a", 0, b"x").unwrap();
    assert_eq!((first.ino("a/b/a"), first.ino("a/b")), (file, dir));
    let root = Ino::ROOT;
    first.fs.rename((dir, &name("a")), (root, &name("moved")), RenameMode::Replace).unwrap();
    assert_eq!(first.ino("moved"), file);
    let mut second = view(&disk, Io::Passthrough);
    assert_eq!((second.ino("moved"), second.ino("a/b")), (file, dir));
    let born = second.fs.mkdir(caller(), root, &name("born"), 0o755).unwrap().attr.ino;
    assert!(u32::try_from(born.0).is_ok(), "32-bit programs see what is born: {born}");
    assert_eq!(view(&disk, Io::Cached).ino("born"), born);
}

#[test]
fn a_read_only_view_answers_erofs_to_changes() {
    let disk = MemDisk::new();
    let fs: UnionFs<MemLayer, MemLayer> = UnionFs::new(disk.lower(), None, Options::default()).unwrap();
    let b = fs.lookup(Ino::ROOT, &name("b")).unwrap().unwrap().attr.ino;
    assert_eq!(errno(fs.open(b, OpenFlags(libc::O_WRONLY))), Errno::EROFS);
    assert_eq!(errno(fs.mkdir(caller(), Ino::ROOT, &name("x"), 0o755)), Errno::EROFS);
    assert_eq!(errno(fs.mkdir(caller(), Ino::ROOT, &name("a"), 0o755)), Errno::EEXIST);
    assert_eq!(errno(fs.unlink(Ino::ROOT, &name("b"))), Errno::EROFS);
    assert_eq!(
        errno(fs.rename((Ino::ROOT, &name("b")), (Ino::ROOT, &name("x")), RenameMode::Replace)),
        Errno::EROFS
    );
    assert_eq!(errno(fs.link(b, Ino::ROOT, &name("x"))), Errno::EROFS);
    assert_eq!(errno(fs.setattr(caller(), b, None, &CHMOD)), Errno::EROFS);
    assert_eq!(errno(fs.setxattr(b, b"user.x", b"", XattrMode::Set)), Errno::EROFS);
    assert_eq!(errno(fs.fallocate(b, None, 0, 0, 1)), Errno::EROFS);
    let opened = fs.open(b, OpenFlags(libc::O_RDONLY)).unwrap();
    let mut buffer = [0; 7];
    assert_eq!(fs.read(b, Some(opened.handle), 0, &mut buffer).unwrap(), 7);
    assert_eq!(&buffer, b"lower b");
}

#[test]
fn a_reader_through_passthrough_keeps_the_old_bytes_and_the_writer_walks_again() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Passthrough);
    let old = view.ino("b");
    let reader = view.fs.open(old, OpenFlags(libc::O_RDONLY)).unwrap();
    assert_eq!(errno(view.fs.open(old, OpenFlags(libc::O_RDWR))), Errno::ESTALE);
    view.write("b", 0, b"UPPER").unwrap();
    let new = view.ino("b");
    assert_ne!(new, old);
    assert_eq!(view.read_handle(old, reader.handle), b"lower b");
    assert_eq!(view.read(new), b"UPPER b");
    // Operations on the reader's descriptor go to the file, and never see ESTALE.
    view.fs.setattr(caller(), old, Some(reader.handle), &CHMOD).unwrap();
    view.fs.setxattr(old, b"user.x", b"y", XattrMode::Set).unwrap();
    assert_eq!(view.walk("b").unwrap().permissions, 0o700);
    assert_eq!(view.fs.getattr(old, Some(reader.handle)).unwrap().size, 7);
    view.fs.release(old, reader.handle);
    assert_eq!(view.fs.open_handles(), 0);
    let mut again = self::view(&disk, Io::Passthrough);
    assert_eq!(again.ino("b"), new, "also after a remount");
}

#[test]
fn metadata_is_copied_up_in_place_while_a_reader_has_the_file() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Passthrough);
    let ino = view.ino("b");
    let reader = view.fs.open(ino, OpenFlags(libc::O_RDONLY)).unwrap();
    view.fs.setattr(caller(), ino, Some(reader.handle), &CHMOD).unwrap();
    assert_eq!(view.walk("b").unwrap().ino, ino);
    view.fs.rename((Ino::ROOT, &name("b")), (Ino::ROOT, &name("d")), RenameMode::Replace).unwrap();
    view.fs.link(ino, Ino::ROOT, &name("e")).unwrap();
    assert_eq!((view.ino("d"), view.ino("e")), (ino, ino));
    assert_eq!(errno(view.fs.setattr(caller(), ino, None, &size(2))), Errno::ESTALE);
    let copy = view.ino("d");
    assert_ne!(copy, ino);
    assert_eq!(view.ino("e"), copy, "all names lead to the copy");
    view.fs.setattr(caller(), copy, None, &size(2)).unwrap();
    assert_eq!(view.read(copy), b"lo");
    assert_eq!(view.read_handle(ino, reader.handle), b"lower b");
    view.fs.release(ino, reader.handle);
    view.write("d", 0, b"x").unwrap();
    assert_eq!(view.read(copy), b"xo");
}

#[test]
fn without_passthrough_all_who_have_a_file_open_see_the_same_bytes() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let ino = view.ino("b");
    let reader = view.fs.open(ino, OpenFlags(libc::O_RDONLY)).unwrap();
    view.write("b", 0, b"UPPER").unwrap();
    assert_eq!(view.ino("b"), ino);
    assert_eq!(view.read_handle(ino, reader.handle), b"UPPER b");
    assert_eq!(view.fs.write(ino, None, 5, b"!").unwrap(), 1, "and writes need no open");
    let mut buffer = [0; 16];
    assert_eq!(view.fs.read(ino, None, 0, &mut buffer).unwrap(), 7);
    assert_eq!(&buffer[..7], b"UPPER!b");
}

#[test]
fn removed_inodes_live_on_while_they_are_known() {
    for io in [Io::Cached, Io::Passthrough] {
        let disk = MemDisk::new();
        let mut view = view(&disk, io);
        let (lower, dir) = (view.ino("b"), view.ino("c"));
        view.fs.unlink(Ino::ROOT, &name("b")).unwrap();
        view.fs.rmdir(Ino::ROOT, &name("c")).unwrap();
        assert_eq!(view.fs.getattr(lower, None).unwrap().nlink, 0);
        assert_eq!(view.fs.getattr(dir, None).unwrap().nlink, 0);
        assert_eq!(view.read(lower), b"lower b");
        let opened = view.fs.open(lower, OpenFlags(libc::O_RDWR)).unwrap();
        assert_eq!(view.fs.write(lower, Some(opened.handle), 0, b"UPPER").unwrap(), 5);
        assert_eq!(view.fs.setattr(caller(), lower, Some(opened.handle), &size(6)).unwrap().size, 6);
        assert_eq!(view.read_handle(lower, opened.handle), b"UPPER ");
        assert_eq!(view.fs.getattr(lower, None).unwrap().nlink, 0);
        view.fs.release(lower, opened.handle);
        assert_eq!(errno(view.fs.link(lower, Ino::ROOT, &name("x"))), Errno::ENOENT);
        assert_eq!(errno(view.fs.mkdir(caller(), dir, &name("x"), 0o755)), Errno::ENOENT);
        assert_eq!(view.names(dir, 8), []);
        assert_eq!(view.walk("b"), Err(Errno::ENOENT));
        assert_eq!(disk.upper.drafts(), 0, "the copy has no name anywhere");
        view.forget_all();
        assert_eq!(view.fs.known_inodes(), 1);
    }
}

#[test]
fn a_directory_made_in_place_of_a_removed_one_is_empty() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let b = view.ino("a/b");
    let c = view.ino("a/b/c");
    view.fs.unlink(c, &name("a")).unwrap();
    view.fs.rmdir(b, &name("c")).unwrap();
    let c = view.fs.mkdir(caller(), b, &name("c"), 0o755).unwrap().attr.ino;
    assert_eq!(view.names(c, 8), []);
    assert_eq!(self::view(&disk, Io::Cached).walk("a/b/c/a"), Err(Errno::ENOENT));
    let dir = disk.upper.resolve(&[name("a"), name("b"), name("c")]).unwrap();
    assert!(disk.upper.is_opaque(&dir).unwrap());
}

#[test]
fn copy_up_keeps_everything_and_the_directory_its_times() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let (dir, before) = (view.walk("a/b").unwrap(), view.walk("a/b/a").unwrap());
    let file = view.ino("a/b/a");
    view.fs.setxattr(file, b"user.new", b"1", XattrMode::Set).unwrap();
    let after = view.walk("a/b/a").unwrap();
    assert_eq!((after.mtime, after.permissions, after.size), (before.mtime, before.permissions, before.size));
    assert_eq!(view.fs.getxattr(file, b"user.l").unwrap(), b"lower");
    assert_eq!(view.walk("a/b").unwrap().mtime, dir.mtime);
    assert_eq!(view.read(file), b"lower a/b/a");
    let b = view.ino("b");
    assert_eq!(errno(view.fs.removexattr(b, b"user.none")), Errno::ENODATA);
    let root = disk.upper.root().unwrap();
    assert!(
        matches!(disk.upper.presence(&root, &name("b")).unwrap(), Presence::Absent),
        "nothing to copy for that"
    );
}

#[test]
fn set_gid_directories_give_their_group() {
    let disk = MemDisk::new();
    let view = view(&disk, Io::Cached);
    let dir = view.fs.mkdir(caller(), Ino::ROOT, &name("g"), 0o2775).unwrap().attr.ino;
    let group = SetAttr { gid: Some(4242), ..SetAttr::default() };
    view.fs.setattr(caller(), dir, None, &group).unwrap();
    let inner = view.fs.mkdir(caller(), dir, &name("d"), 0o755).unwrap().attr;
    assert_eq!((inner.gid, inner.permissions), (4242, 0o2755));
    let (file, opened) = view.fs.create(caller(), dir, &name("f"), 0o644, OpenFlags(libc::O_RDWR)).unwrap();
    assert_eq!((file.attr.gid, file.attr.permissions), (4242, 0o644));
    view.fs.release(file.attr.ino, opened.handle);
}

/// A program's device 0:0 and attributes of the names of marks, in a view of any layers: they are what they look like,
/// before and after a remount, and hide nothing.
fn devices_and_marks_of_programs_are_nothing_else<D: Disk>(disk: &D) {
    let root = Ino::ROOT;
    let open = || View::new(disk.lower(), disk.upper(), options(Io::Cached));
    let mode = FileKind::CharDevice.mode_bits() | 0o640;
    let is_device = |view: &mut View<UnionFs<D::L, D::U>>, path: &str, permissions, links| {
        let attr = view.walk(path).unwrap();
        assert_eq!((attr.kind, attr.rdev, attr.size), (FileKind::CharDevice, 0, 0), "{path}");
        assert_eq!((attr.permissions, attr.nlink), (permissions, links), "{path}");
        assert_eq!(errno(view.fs.open(attr.ino, OpenFlags(libc::O_RDWR))), Errno::ENXIO, "{path}");
        assert_eq!(errno(view.fs.setattr(caller(), attr.ino, None, &size(5))), Errno::EINVAL, "{path}");
    };
    let mut view = open();
    let made = view.fs.mknod(caller(), root, &name("n"), mode, 0).unwrap().attr.ino;
    is_device(&mut view, "n", 0o640, 1);
    view.fs.setattr(caller(), made, None, &CHMOD).unwrap();
    let a = view.ino("a");
    // In place of a name of the lower too, and of one that was removed.
    view.fs.rename((root, &name("n")), (root, &name("b")), RenameMode::Replace).unwrap();
    view.fs.unlink(a, &name("a")).unwrap();
    view.fs.link(made, a, &name("a")).unwrap();
    is_device(&mut view, "b", 0o700, 2);

    let dir = view.ino("a/b");
    let marks =
        ["overlay.opaque", "overlay.whiteout", "overlay.redirect", "nixview.origin", "nixview.device"];
    let mut names: Vec<Vec<u8>> = marks.iter().map(|mark| format!("user.{mark}").into_bytes()).collect();
    names.sort();
    for name in &names {
        view.fs.setxattr(dir, name, b"y", XattrMode::Create).unwrap();
        assert_eq!(errno(view.fs.setxattr(dir, name, b"z", XattrMode::Create)), Errno::EEXIST);
    }
    let mut again = open();
    is_device(&mut again, "b", 0o700, 2);
    is_device(&mut again, "a/a", 0o700, 2);
    let dir = again.ino("a/b");
    assert_eq!(again.names(dir, 8).len(), 3, "it is not opaque");
    let mut shown = again.fs.listxattr(dir).unwrap();
    shown.retain(|name| name.starts_with(b"user."));
    shown.sort();
    assert_eq!(shown, names);
    for name in &names {
        assert_eq!(again.fs.getxattr(dir, name).unwrap(), b"y");
        again.fs.removexattr(dir, name).unwrap();
        assert_eq!(errno(again.fs.getxattr(dir, name)), Errno::ENODATA);
    }
    // The lower's name comes back for none of it.
    again.fs.unlink(root, &name("b")).unwrap();
    assert_eq!(again.walk("b"), Err(Errno::ENOENT));
    is_device(&mut again, "a/a", 0o700, 1);
    again.fs.mknod(caller(), root, &name("b"), mode, 0).unwrap();
    is_device(&mut open(), "b", 0o640, 1);
}

#[test]
fn whiteouts_cannot_be_made_by_programs() {
    devices_and_marks_of_programs_are_nothing_else(&MemDisk::new());
    devices_and_marks_of_programs_are_nothing_else(&DirDisk::new());
    let disk = MemDisk::new();
    let view = view(&disk, Io::Cached);
    let mode = FileKind::CharDevice.mode_bits() | 0o600;
    assert_eq!(view.fs.mknod(caller(), Ino::ROOT, &name("n"), mode, 0x103).unwrap().attr.rdev, 0x103);
}

#[test]
fn a_view_without_devices_makes_only_those_that_lead_nowhere() {
    let disk = MemDisk::new();
    let options = Options { devices: false, ..options(Io::Cached) };
    let mut view = View::new(disk.lower(), disk.upper(), options);
    for (kind, n) in [(FileKind::CharDevice, "new-c"), (FileKind::BlockDevice, "new-b")] {
        let mode = kind.mode_bits() | 0o600;
        assert_eq!(
            errno(view.fs.mknod(caller(), Ino::ROOT, &name(n), mode, 0x103)),
            Errno::EPERM,
            "{kind:?}"
        );
        assert_eq!(view.walk(n), Err(Errno::ENOENT));
        assert_eq!(view.fs.mknod(caller(), Ino::ROOT, &name(n), mode, 0).unwrap().attr.rdev, 0, "{kind:?}");
    }
    let fifo = FileKind::Fifo.mode_bits() | 0o600;
    view.fs.mknod(caller(), Ino::ROOT, &name("fifo"), fifo, 0).unwrap();
}

#[test]
fn a_device_0_0_of_the_lower_is_copied_up_as_one() {
    let lower = MemLayer::new();
    lower.add("n", &NewObject::Node { kind: FileKind::CharDevice, rdev: 0 }, 0o600).unwrap();
    lower.freeze();
    let disk = MemDisk { lower, upper: MemLayer::new() };
    let mut first = view(&disk, Io::Cached);
    let (ino, renamed) = (first.ino("n"), name("m"));
    first.fs.setattr(caller(), ino, None, &CHMOD).unwrap();
    first.fs.rename((Ino::ROOT, &name("n")), (Ino::ROOT, &renamed), RenameMode::Replace).unwrap();
    let attr = view(&disk, Io::Cached).walk("m").unwrap();
    assert_eq!((attr.ino, attr.kind, attr.permissions), (ino, FileKind::CharDevice, 0o700));
    assert_eq!(view(&disk, Io::Cached).walk("n"), Err(Errno::ENOENT));
}

#[test]
fn a_listing_survives_changes_between_its_requests() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let dir = view.fs.mkdir(caller(), Ino::ROOT, &name("d"), 0o755).unwrap().attr.ino;
    let file = FileKind::Regular.mode_bits() | 0o644;
    for n in 0..100 {
        view.fs.mknod(caller(), dir, &name(&format!("stay{n}")), file, 0).unwrap();
        view.fs.mknod(caller(), dir, &name(&format!("go{n}")), file, 0).unwrap();
    }
    let mut seen = Vec::new();
    let mut after = 0;
    let mut changed = 0;
    loop {
        let mut batch = 0;
        view.fs
            .readdir(dir, after, false, &mut |entry| {
                if batch == 7 {
                    return Flow::Full;
                }
                batch += 1;
                after = entry.cookie;
                seen.push(entry.name.to_string());
                Flow::Continue
            })
            .unwrap();
        if batch == 0 {
            break;
        }
        for n in changed..(changed + 10).min(100) {
            view.fs.unlink(dir, &name(&format!("go{n}"))).unwrap();
            view.fs.mknod(caller(), dir, &name(&format!("new{n}")), file, 0).unwrap();
        }
        changed += 10;
        view.forget_all();
    }
    seen.sort();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "nothing is listed twice");
    assert_eq!(seen.iter().filter(|n| n.starts_with("stay")).count(), 100, "nothing is lost");
}

#[test]
fn files_answer_what_they_are_not_with_the_right_errno() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let (a, b, l) = (view.ino("a"), view.ino("b"), view.ino("a/b/b"));
    assert_eq!(errno(view.fs.lookup(b, &name("x"))), Errno::ENOTDIR);
    assert_eq!(errno(view.fs.open(a, OpenFlags(libc::O_RDONLY))), Errno::EISDIR);
    assert_eq!(errno(view.fs.setattr(caller(), a, None, &size(0))), Errno::EISDIR);
    assert_eq!(errno(view.fs.setattr(caller(), l, None, &size(0))), Errno::EINVAL);
    assert_eq!(errno(view.fs.readlink(b)), Errno::EINVAL);
    assert_eq!(view.fs.readlink(l).unwrap(), b"a/b");
    assert_eq!(errno(view.fs.unlink(Ino::ROOT, &name("a"))), Errno::EISDIR);
    assert_eq!(errno(view.fs.rmdir(Ino::ROOT, &name("b"))), Errno::ENOTDIR);
    assert_eq!(errno(view.fs.rmdir(Ino::ROOT, &name("a"))), Errno::ENOTEMPTY);
    assert_eq!(errno(view.fs.link(a, Ino::ROOT, &name("x"))), Errno::EPERM);
    assert_eq!(errno(view.fs.getattr(Ino(77), None)), Errno::ESTALE);
    assert_eq!(errno(view.fs.lseek(b, None, 7, SeekTarget::Data)), Errno::ENXIO);
    let inner = view.ino("a/b");
    assert_eq!(view.fs.parent(inner).unwrap(), a);
    assert_eq!(view.fs.parent(Ino::ROOT).unwrap(), Ino::ROOT);
    let long = name(&"x".repeat(255));
    view.fs.mkdir(caller(), Ino::ROOT, &long, 0o755).unwrap();
    view.fs.rmdir(Ino::ROOT, &long).unwrap();
}

#[test]
fn a_stale_origin_changes_a_number_and_never_a_content() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let b = view.ino("b");
    // An upper that was copied from elsewhere: a new file claims the number of /b.
    let object = disk.upper.add_file("liar", 0o644, b"liar").unwrap();
    disk.upper.set_origin(&object, b.0).unwrap();
    let liar = view.ino("liar");
    assert_ne!(liar, b);
    assert_eq!((view.read(b), view.read(liar)), (b"lower b".to_vec(), b"liar".to_vec()));
    let mut other = self::view(&disk, Io::Cached);
    let liar = other.ino("liar");
    let b = other.ino("b");
    assert_ne!(liar, b);
    assert_eq!((other.read(b), other.read(liar)), (b"lower b".to_vec(), b"liar".to_vec()));
}

#[test]
fn an_open_upper_directory_shows_through_and_an_opaque_one_does_not() {
    let disk = MemDisk::new();
    disk.upper.add_dir("a", 0o755).unwrap();
    disk.upper.add("c", &NewObject::Directory { opaque: true }, 0o755).unwrap();
    disk.upper.add_file("a/new", 0o644, b"").unwrap();
    let mut view = view(&disk, Io::Cached);
    let a = view.ino("a");
    let mut names: Vec<String> = view.names(a, 8).iter().map(|e| e.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "new"]);
}

#[test]
fn times_are_set_and_kept() {
    let disk = MemDisk::new();
    let mut view = view(&disk, Io::Cached);
    let time = Timespec { seconds: 7, nanoseconds: 5 };
    let b = view.ino("b");
    let at = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
    assert_eq!(view.fs.setattr(caller(), b, None, &at).unwrap().mtime, time);
    let now = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
    assert!(view.fs.setattr(caller(), b, None, &now).unwrap().mtime > time);
}

#[test]
fn access_control_lists_are_refused_where_the_upper_has_none() {
    let disk = MemDisk::new();
    let (upper, list) = (disk.upper(), b"system.posix_acl_access");
    let made = upper.draft(&NewObject::File, 0o640, 0, 0).unwrap();
    upper.set_xattr(&upper.draft_object(&made), list, b"stored by others", XattrMode::Set).unwrap();
    upper.publish(made, &upper.root().unwrap(), &name("theirs")).unwrap();
    disk.upper.refuse_access_lists();
    let mut view = view(&disk, Io::Cached);
    assert!(!view.fs.keeps_access_lists());
    let (lower, theirs) = (view.ino("b"), view.ino("theirs"));
    for (ino, kind) in [(lower, "access"), (theirs, "access"), (Ino::ROOT, "default")] {
        let attribute = format!("system.posix_acl_{kind}").into_bytes();
        let set = view.fs.setxattr(ino, &attribute, b"list", XattrMode::Set);
        assert_eq!(errno(set), Errno::EOPNOTSUPP);
        assert_eq!(errno(view.fs.getxattr(ino, &attribute)), Errno::EOPNOTSUPP);
        assert_eq!(errno(view.fs.removexattr(ino, &attribute)), Errno::EOPNOTSUPP);
        assert!(!view.fs.listxattr(ino).unwrap().contains(&attribute));
    }
    assert_eq!(
        disk.upper().read_dir(&disk.upper().root().unwrap()).unwrap().len(),
        1,
        "nothing was copied up"
    );
}

/// A list with a named user: owner, that user, group, mask, others.
fn access_list(owner: u8, user: u8, group: u8, mask: u8, other: u8) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let named = rustix::process::getuid().as_raw();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1_u16, owner, none), (2, user, named), (4, group, none), (16, mask, none), (32, other, none)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(u16::from(permissions).to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

#[test]
fn what_is_made_inherits_the_default_list_or_obeys_the_umask() {
    let disk = MemDisk::new();
    let view = view(&disk, Io::Cached);
    let umask = Caller { umask: 0o027, ..caller() };
    let (root, fifo) = (Ino::ROOT, FileKind::Fifo.mode_bits() | 0o666);
    let dir = view.fs.mkdir(umask, root, &name("d"), 0o777).unwrap().attr;
    assert_eq!(dir.permissions, 0o750);
    assert_eq!(view.fs.mknod(umask, dir.ino, &name("p"), fifo, 0).unwrap().attr.permissions, 0o640);
    assert_eq!(view.fs.symlink(umask, dir.ino, &name("l"), b"x").unwrap().attr.permissions, 0o777);

    let default = access_list(7, 6, 5, 7, 0);
    view.fs.setxattr(dir.ino, DEFAULT_LIST, &default, XattrMode::Set).unwrap();
    let inner = view.fs.mkdir(umask, dir.ino, &name("d"), 0o1777).unwrap().attr;
    assert_eq!(inner.permissions, 0o1770, "the list, not the umask");
    assert_eq!(view.fs.getxattr(inner.ino, DEFAULT_LIST).unwrap(), default);
    assert_eq!(view.fs.getxattr(inner.ino, ACCESS_LIST).unwrap(), default);
    let (file, opened) =
        view.fs.create(umask, inner.ino, &name("f"), 0o640, OpenFlags(libc::O_RDWR)).unwrap();
    view.fs.release(file.attr.ino, opened.handle);
    assert_eq!(file.attr.permissions, 0o640);
    assert_eq!(view.fs.getxattr(file.attr.ino, ACCESS_LIST).unwrap(), access_list(6, 6, 5, 4, 0));
    assert_eq!(errno(view.fs.getxattr(file.attr.ino, DEFAULT_LIST)), Errno::ENODATA);
    let link = view.fs.symlink(umask, inner.ino, &name("l"), b"x").unwrap().attr.ino;
    assert_eq!(errno(view.fs.getxattr(link, ACCESS_LIST)), Errno::ENODATA);
    view.fs.removexattr(inner.ino, DEFAULT_LIST).unwrap();
    view.fs.removexattr(inner.ino, DEFAULT_LIST).unwrap();
    assert_eq!(view.fs.mkdir(umask, inner.ino, &name("e"), 0o777).unwrap().attr.permissions, 0o750);
}

#[test]
fn lists_of_the_lower_count_where_its_owners_do() {
    let lower = MemLayer::new();
    let file = lower.add_file("f", 0o640, b"x").unwrap();
    let list = access_list(6, 6, 0, 6, 0);
    lower.set_xattr(&file, ACCESS_LIST, &list, XattrMode::Set).unwrap();
    lower.freeze();
    let disk = MemDisk { lower, upper: MemLayer::new() };
    let mut plain = view(&disk, Io::Cached);
    let ino = plain.ino("f");
    assert_eq!(plain.fs.getxattr(ino, ACCESS_LIST).unwrap(), list);
    plain.fs.setattr(caller(), ino, None, &size(0)).unwrap();
    assert_eq!(plain.fs.getxattr(ino, ACCESS_LIST).unwrap(), list, "and goes with the copy");

    let disk = MemDisk { lower: disk.lower, upper: MemLayer::new() };
    let squash = Options { owner: Some((1000, 100)), ..options(Io::Cached) };
    let mut squashed = View::new(disk.lower(), disk.upper(), squash);
    let ino = squashed.ino("f");
    for _ in 0..2 {
        assert_eq!(errno(squashed.fs.getxattr(ino, ACCESS_LIST)), Errno::ENODATA);
        assert_eq!(squashed.fs.listxattr(ino).unwrap(), Vec::<Vec<u8>>::new());
        squashed.fs.removexattr(ino, ACCESS_LIST).unwrap();
        squashed.write("f", 0, b"copied").unwrap();
    }
}

#[test]
fn a_copy_without_the_content_has_no_capabilities() {
    let lower = MemLayer::new();
    for path in ["all", "none"] {
        let file = lower.add_file(path, 0o755, b"program").unwrap();
        lower.set_xattr(&file, b"security.capability", b"all of them", XattrMode::Set).unwrap();
    }
    lower.freeze();
    let mut view = view(&MemDisk { lower, upper: MemLayer::new() }, Io::Cached);
    let (all, none) = (view.ino("all"), view.ino("none"));
    view.fs.setattr(caller(), all, None, &CHMOD).unwrap();
    view.fs.setattr(caller(), none, None, &size(0)).unwrap();
    assert_eq!(view.fs.getxattr(all, b"security.capability").unwrap(), b"all of them");
    assert_eq!(errno(view.fs.getxattr(none, b"security.capability")), Errno::ENODATA);
}
