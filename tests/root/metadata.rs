//! The metadata side of a view on a real mount: rights that go, attributes, times, locks, space. What a plain directory
//! of the same file system does, a view does, in both modes of reading and writing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::effort::pick;
use crate::support::fuse_tree::{Mounted, private_namespace};
use crate::support::skip::skip;
use crate::support::union_mount::{ALICE, BOB, CAROL, Places, ROOT, as_user, attribute, attributes, outcome};
use nixview::fuse::Io;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
    mknodat,
};

/// Runs in a view of an empty store and beside a plain directory, in each mode.
fn each(test: impl Fn(Io, &Mounted, [&Path; 2])) {
    if !private_namespace() {
        return;
    }
    for io in Places::new().modes() {
        let places = Places::new();
        let m = places.mount(io, None);
        test(io, &m, [&m.path, &places.at("plain")]);
        m.unmount();
    }
}

/// Asserts that `work` answers the same in both places.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, tops: [&Path; 2], work: impl Fn(&Path) -> T) {
    let [ours, theirs] = tops.map(work);
    assert_eq!(ours, theirs, "{what}");
}

fn errno<T>(answer: rustix::io::Result<T>) -> Result<(), i32> {
    answer.map(drop).map_err(|errno| errno.raw_os_error())
}

/// A file capability as the kernel stores it: CAP_NET_RAW, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn set_capability(path: &Path) {
    rustix::fs::setxattr(path, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn rights_go_with_each_change_as_on_the_file_system_below() {
    type Change = fn(&Path) -> io::Result<()>;
    fn writer(path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }
    let changes: [(&str, Change); 12] = [
        ("write", |path| writer(path)?.write_all(b"x")),
        ("append", |path| OpenOptions::new().append(true).open(path)?.write_all(b"x")),
        ("write nothing", |path| writer(path)?.write(b"").map(drop)),
        ("open and truncate", |path| OpenOptions::new().write(true).truncate(true).open(path).map(drop)),
        ("truncate", |path| writer(path)?.set_len(3)),
        ("truncate to the same", |path| writer(path)?.set_len(10)),
        ("allocate", |path| Ok(rustix::fs::fallocate(writer(path)?, FallocateFlags::KEEP_SIZE, 0, 8192)?)),
        ("copy into", |path| {
            let from = path.with_file_name("source");
            Ok(rustix::fs::copy_file_range(File::open(from)?, None, writer(path)?, None, 4).map(drop)?)
        }),
        ("read", |path| fs::read(path).map(drop)),
        ("touch", |path| writer(path)?.set_modified(std::time::UNIX_EPOCH)),
        ("change the owner", |path| chown(path, Some(77), None)),
        ("change nothing of the owner", |path| chown(path, None, None)),
    ];
    each(|io, _, tops| {
        for (what, change) in changes {
            for user in [ROOT, ALICE, BOB, CAROL] {
                for mode in [0o6777, 0o4766, 0o2767, 0o6666, 0o0777] {
                    // FUSE tells nobody that this bit, which gives no right then, is to go (fs/fuse/dir.c, `fuse_setattr`).
                    let stays = user == CAROL && mode & 0o2010 == 0o2000 && what != "allocate";
                    let told = if stays { !0o2000 } else { !0 };
                    if stays && what == "change nothing of the owner" {
                        // That the bit would go is what makes this EPERM elsewhere.
                        continue;
                    }
                    same(&format!("{io:?}: {what} by {user:?}, mode {mode:o}"), tops, |top| {
                        let path = top.join("program");
                        fs::write(top.join("source"), "source").unwrap();
                        fs::write(&path, "0123456789").unwrap();
                        chown(&path, Some(1240), Some(1234)).unwrap();
                        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                        set_capability(&path);
                        let before = fs::metadata(&path).unwrap().mode();
                        assert_eq!(before & 0o7777, mode);
                        let answer = outcome(as_user(user, || change(&path)));
                        let after = fs::metadata(&path).unwrap();
                        let capability = attribute(&path, "security.capability");
                        fs::remove_file(&path).unwrap();
                        (answer, after.mode() & told, after.uid(), after.len(), capability)
                    });
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_truncating_open_takes_rights_from_programs_of_the_store() {
    if !private_namespace() {
        return;
    }
    for io in Places::new().modes() {
        for user in [ROOT, ALICE] {
            let places = Places::new();
            for top in ["store", "plain"] {
                let path = places.at(top).join("program");
                fs::write(&path, "program").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
                set_capability(&path);
            }
            let m = places.mount(io, None);
            same(&format!("{io:?}: {user:?}"), [&m.path, &places.at("plain")], |top| {
                let path = top.join("program");
                as_user(user, || File::create(&path).unwrap());
                (fs::metadata(&path).unwrap().mode(), attribute(&path, "security.capability"))
            });
            m.unmount();
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn attributes_answer_as_on_the_file_system_below() {
    each(|io, _, tops| {
        for kind in ["file", "directory", "link", "fifo", "device", "zero"] {
            same(&format!("{io:?}: {kind}"), tops, |top| {
                let path = top.join(kind);
                let node = |kind, rdev| mknodat(CWD, &path, kind, Mode::from_raw_mode(0o644), rdev).unwrap();
                match kind {
                    "file" => fs::write(&path, "").unwrap(),
                    "directory" => fs::create_dir(&path).unwrap(),
                    "link" => symlink("nowhere", &path).unwrap(),
                    "fifo" => node(FileType::Fifo, 0),
                    "zero" => node(FileType::CharacterDevice, 0),
                    _ => node(FileType::CharacterDevice, 0x103),
                }
                let set =
                    |name: &str, value: &[u8], flags| errno(rustix::fs::lsetxattr(&path, name, value, flags));
                let mut answers = Vec::new();
                for space in ["user", "trusted", "security", "system", "nothing"] {
                    let name = format!("{space}.test");
                    answers.push(set(&name, b"1", XattrFlags::REPLACE));
                    answers.push(set(&name, b"2", XattrFlags::CREATE));
                    answers.push(set(&name, b"3", XattrFlags::CREATE));
                    answers.push(set(&name, b"", XattrFlags::empty()));
                    answers.push(set(&name, b"long enough", XattrFlags::empty()));
                    answers.push(errno(rustix::fs::lgetxattr(&path, &*name, &mut [0_u8; 3][..])));
                    answers.push(as_user(ALICE, || attribute(&path, &name).map(drop)));
                    answers.push(as_user(ALICE, || set(&name, b"hers", XattrFlags::empty())));
                    answers.push(attribute(&path, &format!("{space}.none")).map(drop));
                    answers.push(errno(rustix::fs::lremovexattr(&path, &*format!("{space}.none"))));
                }
                answers.push(set(&format!("user.{}", "n".repeat(250)), b"", XattrFlags::empty()));
                answers.push(set(&format!("user.{}", "n".repeat(251)), b"", XattrFlags::empty()));
                answers.push(set("user.", b"", XattrFlags::empty()));
                answers.push(set("user.big", &[7; 65537], XattrFlags::empty()));
                let (mine, hers) = (attributes(&path), as_user(ALICE, || attributes(&path)));
                (answers, mine, hers)
            });
        }
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn attributes_can_be_as_large_as_linux_allows() {
    if !private_namespace() {
        return;
    }
    let base = tempfile::TempDir::with_prefix("nv").unwrap();
    rustix::mount::mount("none", base.path(), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    {
        let places = Places::new_in(base.path());
        for io in places.modes() {
            let m = places.mount(io, None);
            let path = m.path.join("file");
            fs::write(&path, "").unwrap();
            let largest = vec![7; 65536];
            rustix::fs::setxattr(&path, "trusted.large", &largest, XattrFlags::empty()).unwrap();
            assert_eq!(attribute(&path, "trusted.large").unwrap(), largest, "{io:?}");
            for n in 0..200 {
                let name = format!("trusted.{n}.{}", "n".repeat(200));
                rustix::fs::setxattr(&path, &*name, b"", XattrFlags::empty()).unwrap();
            }
            let listed = attributes(&path).iter().filter(|name| name.starts_with("trusted.")).count();
            assert_eq!(listed, 201, "{io:?}");
            let mut small = [0_u8; 100];
            assert_eq!(errno(rustix::fs::listxattr(&path, &mut small[..])), Err(libc::ERANGE), "{io:?}");
            fs::remove_file(&path).unwrap();
            m.unmount();
        }
    }
    rustix::mount::unmount(base.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn times_are_those_of_the_file_system_below() {
    each(|io, _, tops| {
        let times = [
            (0, 0),
            (-2, 750_000_000),
            (i64::MIN, 0),
            (i64::MIN, 999_999_999),
            (i64::MIN + 1, 1),
            (i64::MAX, 0),
            (i64::MAX, 999_999_999),
            (1 << 33, 5),
            (-(1 << 33), 5),
        ];
        for (tv_sec, tv_nsec) in times {
            same(&format!("{io:?}: {tv_sec} s, {tv_nsec} ns"), tops, |top| {
                let path = top.join("file");
                fs::write(&path, "content").unwrap();
                let time = Timespec { tv_sec, tv_nsec };
                let both = Timestamps { last_access: time, last_modification: time };
                let set = errno(rustix::fs::utimensat(CWD, &path, &both, AtFlags::empty()));
                let seen = fs::metadata(&path).unwrap();
                (set, (seen.atime(), seen.atime_nsec()), (seen.mtime(), seen.mtime_nsec()))
            });
        }
        for top in tops {
            let path = top.join("file");
            let set = |access, modification| {
                let time = |tv_nsec| match tv_nsec {
                    UTIME_NOW | UTIME_OMIT => Timespec { tv_sec: 0, tv_nsec },
                    _ => Timespec { tv_sec: 1000, tv_nsec },
                };
                let both = Timestamps { last_access: time(access), last_modification: time(modification) };
                rustix::fs::utimensat(CWD, &path, &both, AtFlags::empty()).unwrap();
                let seen = fs::metadata(&path).unwrap();
                ((seen.atime(), seen.atime_nsec()), (seen.mtime(), seen.mtime_nsec()))
            };
            assert_eq!(set(7, 8), ((1000, 7), (1000, 8)));
            assert_eq!(set(UTIME_OMIT, 9), ((1000, 7), (1000, 9)));
            let (access, modification) = set(UTIME_NOW, UTIME_OMIT);
            assert!(access.0 > 1_000_000_000 && modification == (1000, 9), "{io:?}");
            let (again, modification) = set(UTIME_OMIT, UTIME_NOW);
            assert!(again == access && modification.0 > 1_000_000_000, "{io:?}");
        }
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn names_links_and_sizes_of_the_file_system() {
    each(|io, _, tops| {
        same(&format!("{io:?}: names"), tops, |top| {
            let make = |name: &str| outcome(fs::write(top.join(name), name));
            let answers =
                [make(&"n".repeat(255)), make(&"n".repeat(256)), make(&"ü".repeat(127)), make("a\nb")];
            (answers, outcome(fs::metadata(top.join("n".repeat(256))).map(drop)))
        });
        same(&format!("{io:?}: links"), tops, |top| {
            let path = |name: &str| top.join(name);
            fs::write(path("one"), "").unwrap();
            fs::hard_link(path("one"), path("two")).unwrap();
            let links = |name: &str| fs::metadata(path(name)).unwrap().nlink();
            let before = (links("one"), links("two"));
            fs::remove_file(path("one")).unwrap();
            (before, links("two"))
        });
        let [ours, theirs] = tops.map(|top| rustix::fs::statvfs(top).unwrap());
        assert_eq!(
            (ours.f_frsize, ours.f_blocks, ours.f_files, ours.f_namemax),
            (theirs.f_frsize, theirs.f_blocks, theirs.f_files, theirs.f_namemax),
            "{io:?}: sizes"
        );
        assert!(ours.f_bavail <= ours.f_bfree && ours.f_bfree <= ours.f_blocks, "{io:?}");
        for (user, groups) in [(ALICE, "own"), (BOB, "Alice's")] {
            same(
                &format!("{io:?}: what {user:?} makes in a set-gid directory, groups: {groups}"),
                tops,
                |top| {
                    let dir = top.join(format!("dir{}", user.0));
                    fs::create_dir(&dir).unwrap();
                    chown(&dir, None, Some(1234)).unwrap();
                    fs::set_permissions(&dir, Permissions::from_mode(0o2777)).unwrap();
                    as_user(user, || {
                        fs::create_dir(dir.join("dir")).unwrap();
                        let mut options = OpenOptions::new();
                        options.write(true).create_new(true).mode(0o2775).open(dir.join("file")).unwrap();
                        mknodat(
                            CWD,
                            dir.join("node"),
                            FileType::CharacterDevice,
                            Mode::from_raw_mode(0o660),
                            0,
                        )
                        .unwrap();
                    });
                    ["dir", "file", "node"].map(|name| {
                        let seen = fs::symlink_metadata(dir.join(name)).unwrap();
                        (seen.mode(), seen.uid(), seen.gid(), seen.rdev())
                    })
                },
            );
        }
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_removed_file_that_is_open_is_a_file_without_names() {
    each(|io, _, tops| {
        same(&format!("{io:?}"), tops, |top| {
            let path = top.join("gone");
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
            file.write_all(b"0123456789").unwrap();
            fs::remove_file(&path).unwrap();
            let links = file.metadata().unwrap().nlink();
            file.set_len(4).unwrap();
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            let again = outcome(
                rustix::fs::linkat(CWD, &*own, CWD, &path, AtFlags::SYMLINK_FOLLOW).map_err(Into::into),
            );
            OpenOptions::new().append(true).open(&own).unwrap().write_all(b"more").unwrap();
            let mut content = String::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut content).unwrap();
            file.set_permissions(Permissions::from_mode(0o600)).unwrap();
            (links, again, content, file.metadata().unwrap().mode(), file.metadata().unwrap().len())
        });
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn space_is_allocated_freed_and_found_as_on_the_file_system_below() {
    let modes = [
        ("allocate", FallocateFlags::empty()),
        ("keep size", FallocateFlags::KEEP_SIZE),
        ("punch", FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE)),
        ("punch without keeping", FallocateFlags::PUNCH_HOLE),
        ("zero", FallocateFlags::ZERO_RANGE),
        ("zero, keep size", FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE)),
        ("collapse", FallocateFlags::COLLAPSE_RANGE),
        ("insert", FallocateFlags::INSERT_RANGE),
        ("unshare", FallocateFlags::UNSHARE_RANGE),
    ];
    each(|io, _, tops| {
        for (what, mode) in modes {
            // FUSE itself passes on no other modes (fs/fuse/file.c, `fuse_file_fallocate`).
            let passed = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
            let allocate = |top: &Path| {
                let path = top.join("space");
                let file = File::create(&path).unwrap();
                file.write_all_at(&[7; 16384], 0).unwrap();
                let answer = errno(rustix::fs::fallocate(&file, mode, 4096, 65536));
                drop(file);
                (answer, fs::read(&path).unwrap(), fs::metadata(&path).unwrap().len())
            };
            if passed.contains(mode) {
                same(&format!("{io:?}: {what}"), tops, allocate);
            } else {
                let (answer, content, _) = allocate(tops[0]);
                assert_eq!(answer, Err(libc::EOPNOTSUPP), "{io:?}: {what}");
                assert_eq!(content, [7; 16384], "{io:?}: {what}");
            }
        }
        same(&format!("{io:?}: holes"), tops, |top| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(top.join("holes"))
                .unwrap();
            file.set_len(1 << 20).unwrap();
            file.write_all_at(&[7; 4096], 1 << 19).unwrap();
            file.sync_all().unwrap();
            let find =
                |from: rustix::fs::SeekFrom| rustix::fs::seek(&file, from).map_err(|e| e.raw_os_error());
            use rustix::fs::SeekFrom::{Data, Hole};
            [
                find(Data(0)),
                find(Hole(0)),
                find(Hole(1 << 19)),
                find(Data(1 << 20)),
                find(Data((1 << 20) - 1)),
                find(Hole(1 << 20)),
            ]
        });
        same(&format!("{io:?}: copies between files"), tops, |top| {
            let (from, to) = (top.join("from"), top.join("to"));
            fs::write(&from, [b'a'; 100_000]).unwrap();
            fs::write(&to, "0123456789").unwrap();
            let (source, target) =
                (File::open(&from).unwrap(), OpenOptions::new().write(true).open(&to).unwrap());
            let (mut at, mut into) = (99_990, 5);
            let copied =
                rustix::fs::copy_file_range(&source, Some(&mut at), &target, Some(&mut into), 50).unwrap();
            (copied, at, into, fs::read(&to).unwrap())
        });
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_limit_of_file_sizes_holds() {
    each(|io, _, tops| {
        // In units of 512 bytes.
        for (what, script) in [
            ("signal", "ulimit -f 8; dd if=/dev/zero of=limited bs=1k count=100 2>/dev/null; echo $?"),
            (
                "errno",
                "ulimit -f 8; trap '' XFSZ; dd if=/dev/zero of=limited bs=1k count=100 2>&1 | sed -n 's/.*: //p' | head -n 1",
            ),
            (
                "truncate",
                "trap '' XFSZ; ulimit -f 8; truncate -s 100k limited 2>&1 | sed 's/.*: //'; truncate -s 4k limited && echo fits",
            ),
            ("allocate", "trap '' XFSZ; ulimit -f 8; fallocate -l 100k limited 2>&1 | sed 's/.*: //'"),
        ] {
            same(&format!("{io:?}: {what}"), tops, |top| {
                let output = Command::new("timeout")
                    .args(["10", "sh", "-c", script])
                    .current_dir(top)
                    .output()
                    .unwrap();
                let length = fs::metadata(top.join("limited")).unwrap().len();
                fs::remove_file(top.join("limited")).unwrap();
                (String::from_utf8(output.stdout).unwrap(), length)
            });
        }
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn appends_of_many_do_not_meet() {
    each(|io, _, tops| {
        let path = tops[0].join("log");
        File::create(&path).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut file = OpenOptions::new().append(true).open(path).unwrap();
                    for n in 0..250 {
                        file.write_all(format!("{writer} {n:040}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        let log = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        let all: Vec<String> = (0..4).flat_map(|w| (0..250).map(move |n| format!("{w} {n:040}"))).collect();
        assert_eq!(lines, all, "{io:?}");
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn direct_io_and_the_page_cache_agree() {
    each(|io, _, tops| {
        let path = tops[0].join("direct");
        fs::write(&path, [b'a'; 8192]).unwrap();
        let mut options = OpenOptions::new();
        let direct = match options.read(true).write(true).custom_flags(libc::O_DIRECT).open(&path) {
            Err(error) => return skip!("O_DIRECT: {error}"),
            Ok(direct) => direct,
        };
        let mut memory = vec![b'b'; 3 * 4096];
        let start = memory.as_ptr().align_offset(4096);
        let aligned = &mut memory[start..start + 4096];
        direct.write_all_at(aligned, 4096).unwrap();
        let content = fs::read(&path).unwrap();
        assert!(content[..4096] == [b'a'; 4096] && content[4096..] == [b'b'; 4096], "{io:?}");
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[b'c'; 100], 0).unwrap();
        direct.read_exact_at(aligned, 0).unwrap();
        assert_eq!(aligned[..101], [&[b'c'; 100][..], b"a"].concat(), "{io:?}");
    });
}

const LOCKS_AND_MAPS: &str = r#"
import errno, fcntl, mmap, os, struct, sys
def refused(call, *arguments):
    try:
        call(*arguments)
        return False
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES), error
        return True
def child(work):
    pid = os.fork()
    if pid == 0:
        os._exit(1 if work() else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(b"." * 8192)
fd = os.open(path, os.O_RDWR)
lock = lambda kind, start, length: struct.pack("hhqqi4x", kind, 0, start, length, 0)
# flock(2): of the open file; shared with the child that has it too, not with one that opens it anew.
fcntl.flock(fd, fcntl.LOCK_EX)
assert not child(lambda: refused(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
assert child(lambda: refused(fcntl.flock, os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB))
fcntl.flock(fd, fcntl.LOCK_UN)
assert not child(lambda: refused(fcntl.flock, os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB))
# POSIX: of the process, by range.
fcntl.lockf(fd, fcntl.LOCK_EX, 100, 0)
assert child(lambda: refused(fcntl.lockf, os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 90))
assert not child(lambda: refused(fcntl.lockf, os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100))
held = child(lambda: struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, lock(fcntl.F_WRLCK, 0, 1)))[4] == os.getppid())
assert held, "F_GETLK names the holder"
os.close(os.open(path, os.O_RDONLY))
assert not child(lambda: refused(fcntl.lockf, os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 90)), "any close frees them"
# Of the open file description (OFD), by range: also within one process.
F_OFD_SETLK = 37
other = os.open(path, os.O_RDWR)
fcntl.fcntl(fd, F_OFD_SETLK, lock(fcntl.F_WRLCK, 0, 100))
assert refused(fcntl.fcntl, other, F_OFD_SETLK, lock(fcntl.F_WRLCK, 50, 1))
fcntl.fcntl(other, F_OFD_SETLK, lock(fcntl.F_WRLCK, 100, 1))
os.close(fd)
fcntl.fcntl(other, F_OFD_SETLK, lock(fcntl.F_WRLCK, 50, 1))
# A shared mapping, and reads and writes, of two processes.
map = mmap.mmap(other, 8192)
map[0:3] = b"map"
def of_child():
    fd = os.open(path, os.O_RDWR)
    seen = os.pread(fd, 3, 0)
    os.pwrite(fd, b"written", 4096)
    second = mmap.mmap(fd, 8192)
    second[100:106] = b"second"
    return seen == b"map"
assert child(of_child)
assert map[4096:4103] == b"written" and map[100:106] == b"second"
map.flush()
assert os.pread(other, 6, 100) == b"second"
# Writes through a mapping take no rights away: not on other file systems either.
os.fchmod(other, 0o4777)
map[0:1] = b"x"
map.flush()
assert os.fstat(other).st_mode & 0o7777 == 0o4777
print("fine")
"#;

#[test]
#[ignore = "needs root and /dev/fuse"]
fn locks_and_shared_mappings_of_two_processes() {
    if Command::new("python3").arg("-V").output().is_err() {
        return skip!("no python3");
    }
    each(|io, _, tops| {
        for top in tops {
            let mut command = Command::new("timeout");
            command.args(["20", "python3", "-c", LOCKS_AND_MAPS]).arg(top.join("locked"));
            let output = command.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert_eq!(said, b"fine\n", "{io:?} at {}: {}", top.display(), said.escape_ascii());
        }
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_directory_of_many_names_is_read_whole_while_it_changes() {
    let stay = pick(20_000, 100_000);
    if !private_namespace() {
        return;
    }
    let places = Places::new();
    for (top, names) in [("store", 0..stay / 2), ("upper/data", stay / 2..stay)] {
        fs::create_dir(places.at(top).join("many")).unwrap();
        for n in names {
            File::create(places.at(top).join(format!("many/stay{n}"))).unwrap();
        }
    }
    for io in places.modes() {
        let m = places.mount(io, None);
        let dir = m.path.join("many");
        let (mut seen, mut made) = (std::collections::HashSet::new(), 0);
        for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if n % 100 == 0 {
                fs::write(dir.join(format!("new{made}")), "").unwrap();
                if made > 0 {
                    fs::remove_file(dir.join(format!("new{}", made - 1))).unwrap();
                }
                made += 1;
            }
            assert!(seen.insert(name), "{io:?}: a name comes twice");
        }
        assert_eq!(seen.iter().filter(|name| name.starts_with("stay")).count(), stay, "{io:?}");
        fs::remove_file(dir.join(format!("new{}", made - 1))).unwrap();
        m.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_write_asks_once() {
    each(|io, m, tops| {
        let path = tops[0].join("file");
        fs::write(&path, "").unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let requests = m.requests(|| {
            for n in 0..50 {
                file.write_all_at(&[7; 4096], n * 4096).unwrap();
            }
        });
        let expected: &[(&str, u64)] = match io {
            Io::Passthrough => &[("getxattr", 50)],
            Io::Cached => &[("write", 50), ("getxattr", 50)],
        };
        let mut sorted = requests.clone();
        sorted.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(sorted, expected, "{io:?}");
    });
}
