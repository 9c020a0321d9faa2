//! The union behind a real mount: what the kernel keeps must agree with what two layers become.
//!
//! Each test has a mount namespace of its own; the server is threads of the test's process.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::support::effort::pick;
use crate::support::fuse_tree::{Mounted, has_passthrough, private_namespace};
use crate::support::wait::{PATIENCE, eventually};
use nixview::fuse::Io;
use nixview::layer::dir::{DirLower, DirUpper};
use nixview::sys::mount;
use nixview::telemetry::metrics::Operation;
use nixview::union::{self, UnionFs};
use tempfile::{TempDir, tempdir};

/// A store, an upper for it, and a place for the view.
struct Places {
    store: TempDir,
    upper: TempDir,
    view: TempDir,
}

impl Places {
    fn new() -> Self {
        let places = Self { store: tempdir().unwrap(), upper: tempdir().unwrap(), view: tempdir().unwrap() };
        for dir in ["data", "work"] {
            fs::create_dir(places.upper.path().join(dir)).unwrap();
        }
        fill(places.store.path());
        places
    }

    fn mount(&self, io: Io) -> Mounted {
        let clone = mount::clone_read_only(self.store.path()).unwrap();
        let open = |name: &str| File::open(self.upper.path().join(name)).unwrap();
        let upper = DirUpper::open(&open("data"), &open("work"), None).unwrap();
        let of_union = match io {
            Io::Passthrough => union::Io::Passthrough,
            Io::Cached => union::Io::Cached,
        };
        let options = union::Options { io: of_union, durable: false, ..union::Options::default() };
        let union = UnionFs::new(DirLower::new(&clone).unwrap(), Some(upper), options).unwrap();
        Mounted::new(Arc::new(union), self.view.path(), io, false)
    }
}

fn fill(root: &Path) {
    for dir in ["a/b", "b/a", "c"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for dir in ["a", "a/b", "b", "b/a", "c"] {
        for name in ["a", "b", "c"] {
            let path = root.join(dir).join(name);
            if !path.exists() {
                fs::write(&path, format!("{dir}/{name} of the store\n").repeat(20)).unwrap();
            }
        }
    }
    symlink("a/c", root.join("link")).unwrap();
}

/// Everything that a tree shows, but numbers and link counts.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let content = if meta.is_dir() {
                todo.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes()
            } else {
                let content = fs::read(&full).unwrap();
                assert_eq!(content.len() as u64, meta.len(), "{full:?}");
                content
            };
            found.insert(path, (meta.mode(), content));
        }
    }
    found
}

fn errno<T>(answer: &io::Result<T>) -> Option<i32> {
    answer.as_ref().err().map(|error| error.raw_os_error().unwrap_or(-1))
}

fn modes(store: &Path) -> Vec<Io> {
    [Io::Passthrough, Io::Cached]
        .into_iter()
        .filter(|io| *io == Io::Cached || has_passthrough(store))
        .collect()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_writer_gets_its_copy_while_a_reader_keeps_the_file_open() {
    if !private_namespace() {
        return;
    }
    type Write = fn(&Path) -> io::Result<()>;
    let writes: [(&str, Write); 6] = [
        ("append", |path| OpenOptions::new().append(true).open(path)?.write_all(b"more")),
        ("read and write", |path| OpenOptions::new().read(true).write(true).open(path)?.write_all(b"x")),
        ("open and truncate", |path| fs::write(path, "short")),
        ("truncate by path", |path| {
            Command::new("truncate").args(["-s", "7"]).arg(path).status().map(|_| ())
        }),
        ("chmod", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600))),
        ("replace", |path| {
            fs::write(path.with_file_name("new"), "new")?;
            fs::rename(path.with_file_name("new"), path)
        }),
    ];
    let places = Places::new();
    for io in modes(places.store.path()) {
        let before = tree(places.store.path());
        for (what, write) in writes {
            let places = Places::new();
            let m = places.mount(io);
            let path = m.path.join("a/a");
            let old = fs::read(&path).unwrap();
            let mut reader = File::open(&path).unwrap();
            assert_eq!(reader.read(&mut [0; 5]).unwrap(), 5);
            assert_eq!(errno(&write(&path)), None, "{io:?}: {what}");

            let plain = tempdir().unwrap();
            fill(plain.path());
            write(&plain.path().join("a/a")).unwrap();
            assert_eq!(tree(&m.path), tree(plain.path()), "{io:?}: {what}");
            let mut kept = Vec::new();
            reader.seek(SeekFrom::Start(0)).unwrap();
            reader.read_to_end(&mut kept).unwrap();
            if io == Io::Passthrough || what == "replace" {
                assert_eq!(kept, old, "{io:?}: {what}: the reader keeps what it opened");
            } else {
                assert_eq!(kept, fs::read(&path).unwrap(), "{io:?}: {what}: it is one file");
            }
            assert_eq!(reader.metadata().unwrap().len(), kept.len() as u64, "{io:?}: {what}");
            drop(reader);
            m.unmount();
            let again = places.mount(io);
            assert_eq!(tree(&again.path), tree(plain.path()), "{io:?}: {what}: after a remount");
            again.unmount();
            assert_eq!(tree(places.store.path()), before, "{io:?}: {what}: the store is as it was");
        }
    }
}

/// Waits until the kernel has released all files that were opened: it does so some time after their close.
fn wait_for_releases(m: &Mounted) {
    let worked = |operation| {
        let count = m.metrics.get(operation);
        count.requests - count.errors
    };
    eventually("each file that was closed is released", PATIENCE, || {
        worked(Operation::Open) + worked(Operation::Create) == worked(Operation::Release)
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn metadata_changes_through_an_open_file_work_and_keep_its_number() {
    if !private_namespace() {
        return;
    }
    for io in modes(Places::new().store.path()) {
        let places = Places::new();
        let m = places.mount(io);
        let path = m.path.join("a/a");
        let reader = File::open(&path).unwrap();
        let number = reader.metadata().unwrap().ino();
        reader.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        reader.set_modified(UNIX_EPOCH).unwrap();
        rustix::fs::fsetxattr(&reader, "user.x", b"value", rustix::fs::XattrFlags::empty()).unwrap();
        let mut value = [0; 5];
        assert_eq!(rustix::fs::getxattr(&path, "user.x", &mut value), Ok(5), "{io:?}");
        for meta in [reader.metadata().unwrap(), fs::metadata(&path).unwrap()] {
            assert_eq!(meta.ino(), number, "{io:?}");
            assert_eq!(meta.mode() & 0o7777, 0o600, "{io:?}");
            assert_eq!(meta.modified().unwrap(), UNIX_EPOCH, "{io:?}");
        }
        drop(reader);
        wait_for_releases(&m);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), number, "{io:?}: a copy keeps the number");
        m.unmount();
        let again = places.mount(io);
        assert_eq!(fs::metadata(again.path.join("a/a")).unwrap().ino(), number, "{io:?}: after a remount");
        again.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn warm_metadata_of_both_layers_costs_no_request() {
    if !private_namespace() {
        return;
    }
    for io in modes(Places::new().store.path()) {
        let places = Places::new();
        let m = places.mount(io);
        fs::write(m.path.join("a/new"), "new").unwrap();
        fs::remove_file(m.path.join("a/c")).unwrap();
        fs::create_dir(m.path.join("d")).unwrap();
        let look = || {
            for (path, _) in shown(&m.path) {
                assert!(fs::symlink_metadata(m.path.join(path)).is_ok());
            }
            assert!(!m.path.join("a/c").exists() && !m.path.join("a/none").exists());
        };
        // The release of the new file, after which its attributes are asked for, comes when it likes.
        let cold = (0..1000).take_while(|_| !m.requests(look).is_empty()).count();
        assert!(cold < 1000, "{io:?}: it never becomes warm");
        assert_eq!(m.requests(|| (0..100).for_each(|_| look())), [], "{io:?}");
        m.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_small_file_of_the_store_costs_an_open_and_a_large_one_its_attributes_too() {
    if !private_namespace() {
        return;
    }
    let places = Places::new();
    if !has_passthrough(places.store.path()) {
        return;
    }
    let small = vec![b's'; 64 << 10];
    let large = vec![b'l'; (64 << 10) + 1];
    for (name, content) in [("small", &small), ("large", &large), ("empty", &Vec::new())] {
        fs::write(places.store.path().join(name), content).unwrap();
    }
    let m = places.mount(Io::Passthrough);
    assert!(fs::metadata(&m.path).is_ok(), "the root is asked for once");
    let requests = |name: &str, content: &[u8]| {
        let mut requests = m.requests(|| {
            let path = m.path.join(name);
            let length = fs::metadata(&path).unwrap().len();
            let mut file = File::open(&path).unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == content && file.metadata().unwrap().len() == length, "{name}");
        });
        requests.sort_unstable();
        requests
    };
    assert_eq!(requests("small", &small), [("lookup", 1), ("open", 1)]);
    assert_eq!(requests("large", &large), [("getattr", 1), ("lookup", 1), ("open", 1)]);
    assert_eq!(requests("empty", b""), [("lookup", 1), ("open", 1)]);
    wait_for_releases(&m);
    assert_eq!(requests("small", &small), [("open", 1)]);
    assert_eq!(
        requests("large", &large),
        [("getattr", 1), ("open", 1)],
        "the read made the time of access unknown"
    );
    wait_for_releases(&m);

    // Pages that the kernel has dropped are read again by a request.
    let dropped = m.requests(|| {
        let mut file = File::open(m.path.join("small")).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == small);
    });
    assert!(dropped.iter().any(|(kind, _)| *kind == "read"), "{dropped:?}");
    wait_for_releases(&m);

    // A change of the file drops what the kernel keeps of it, for each writer and each reader.
    let reader = File::open(m.path.join("small")).unwrap();
    fs::write(m.path.join("small"), "changed").unwrap();
    assert_eq!(io::read_to_string(&reader).unwrap().as_bytes(), small, "a reader keeps the old bytes");
    drop(reader);
    assert_eq!(fs::read_to_string(m.path.join("small")).unwrap(), "changed");
    let empty = m.path.join("empty");
    fs::set_permissions(&empty, PermissionsExt::from_mode(0o600)).unwrap();
    OpenOptions::new().append(true).open(&empty).unwrap().write_all(b"more").unwrap();
    assert_eq!(fs::read_to_string(&empty).unwrap(), "more");
    m.unmount();
}

/// Names and kinds alone: reading content would cost opens.
fn shown(root: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                todo.push(path.clone());
            }
            found.push((path, entry.file_type().unwrap().is_dir()));
        }
    }
    found
}

/// Numbers that look random and are the same in every run (a linear congruential generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    /// A path of up to three names out of three.
    fn path(&mut self) -> PathBuf {
        (0..=self.below(3)).map(|_| ["a", "b", "c"][self.below(3)]).collect()
    }
}

/// One operation on a tree, chosen by `numbers`; what it answers as far as two trees must agree.
fn step(root: &Path, numbers: &mut Numbers) -> (String, Result<u64, Option<i32>>) {
    let operation = numbers.below(13);
    let (first, second) = (numbers.path(), numbers.path());
    let (path, other) = (root.join(&first), root.join(&second));
    let number = |answer: io::Result<u64>| answer.map_err(|error| error.raw_os_error());
    let done = |answer: io::Result<()>| number(answer.map(|()| 0));
    let (name, answer) = match operation {
        0 => ("write", done(fs::write(&path, format!("written {}", second.display())))),
        1 => {
            let file = OpenOptions::new().append(true).open(&path);
            ("append", done(file.and_then(|mut file| file.write_all(b"appended"))))
        }
        2 => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
            ("create", done(file.and_then(|mut file| file.write_all(b"created"))))
        }
        3 => ("mkdir", done(fs::create_dir(&path))),
        4 => ("rmdir", done(fs::remove_dir(&path))),
        5 => ("unlink", done(fs::remove_file(&path))),
        6 => ("rename", done(fs::rename(&path, &other))),
        7 => ("symlink", done(symlink(&second, &path))),
        8 => ("link", done(fs::hard_link(&path, &other))),
        9 => {
            let file = OpenOptions::new().write(true).open(&path);
            ("set_len", done(file.and_then(|file| file.set_len(3))))
        }
        10 => {
            let mode = 0o600 + (second.as_os_str().len() as u32 % 7);
            ("chmod", done(fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o100))))
        }
        11 => ("list", number(fs::read_dir(&path).map(|entries| entries.count() as u64))),
        _ => {
            let size = |meta: fs::Metadata| if meta.is_dir() { 0 } else { meta.len() };
            ("stat", number(fs::symlink_metadata(&path).map(size)))
        }
    };
    (format!("{name} {} {}", first.display(), second.display()), answer)
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_behaves_as_a_plain_directory_under_thousands_of_operations() {
    if !private_namespace() {
        return;
    }
    for io in modes(Places::new().store.path()) {
        for seed in 0..pick(1, 8) {
            let places = Places::new();
            let plain = tempdir().unwrap();
            fill(plain.path());
            let store = tree(places.store.path());
            let mut m = places.mount(io);
            let mut numbers = Numbers(seed);
            for n in 0..1500 {
                let mut same = Numbers(numbers.0);
                let (what, answer) = step(&m.path, &mut numbers);
                let (_, expected) = step(plain.path(), &mut same);
                assert_eq!(answer, expected, "{io:?}, seed {seed}, operation {n}: {what}");
                if n % 100 == 99 {
                    assert_eq!(tree(&m.path), tree(plain.path()), "{io:?}, seed {seed}, up to operation {n}");
                }
                if n % 500 == 499 {
                    m.unmount();
                    m = places.mount(io);
                    assert_eq!(tree(&m.path), tree(plain.path()), "{io:?}, seed {seed}, remounted at {n}");
                }
            }
            m.unmount();
            assert_eq!(tree(places.store.path()), store, "{io:?}, seed {seed}: the store is as it was");
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn flags_of_inodes_clones_and_devices_are_refused() {
    use rustix::fs::{CWD, IFlags, OFlags, RenameFlags, renameat_with};
    use rustix::fs::{ioctl_ficlone, ioctl_getflags, ioctl_setflags};
    use rustix::io::Errno;
    if !private_namespace() {
        return;
    }
    for io in modes(Places::new().store.path()) {
        let places = Places::new();
        let m = places.mount(io);
        fs::write(m.path.join("new"), "of the upper").unwrap();
        for name in ["a", "a/a", "new"] {
            let file = File::open(m.path.join(name)).unwrap();
            assert_eq!(ioctl_getflags(&file), Err(Errno::NOTTY), "{io:?} {name}");
            assert_eq!(ioctl_setflags(&file, IFlags::IMMUTABLE), Err(Errno::NOTTY), "{io:?} {name}");
        }
        let clone = File::create(m.path.join("clone")).unwrap();
        let refused = ioctl_ficlone(&clone, File::open(m.path.join("new")).unwrap());
        assert_eq!(refused, Err(Errno::OPNOTSUPP), "{io:?}");
        drop(clone);
        let null = rustix::fs::makedev(1, 3);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            m.path.join("null"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            null,
        )
        .unwrap();
        assert_eq!(errno(&File::open(m.path.join("null"))), Some(libc::EACCES), "{io:?}");
        let nameless = rustix::fs::open(&m.path, OFlags::TMPFILE | OFlags::RDWR, mode);
        assert_eq!(nameless.err(), Some(Errno::OPNOTSUPP), "{io:?}");
        let (old, new) = (m.path.join("new"), m.path.join("newer"));
        let marked = renameat_with(CWD, &old, CWD, &new, RenameFlags::WHITEOUT);
        assert_eq!(marked, Err(Errno::INVAL), "{io:?}");
        m.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn clients_at_work_at_once_do_not_disturb_each_other() {
    if !private_namespace() {
        return;
    }
    for io in modes(Places::new().store.path()) {
        let places = Places::new();
        let m = places.mount(io);
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (root, plain) = (m.path.clone(), tempdir().unwrap());
                std::thread::spawn(move || {
                    let own = root.join(format!("client-{client}"));
                    fs::create_dir(&own).unwrap();
                    let mut numbers = Numbers(client);
                    for n in 0..300 {
                        let mut same = Numbers(numbers.0);
                        let (what, answer) = step(&own, &mut numbers);
                        assert_eq!(answer, step(plain.path(), &mut same).1, "{io:?}, {client}, {n}: {what}");
                        let shared = fs::read(root.join("b/b")).unwrap();
                        assert!(shared.starts_with(b"b/b of the store"));
                        if n % 50 == 0 {
                            let all = root.join("b/c");
                            fs::set_permissions(all, fs::Permissions::from_mode(0o600)).unwrap();
                        }
                    }
                    assert_eq!(tree(&own), tree(plain.path()));
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        m.unmount();
    }
}
