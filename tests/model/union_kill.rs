//! Each operation of a union, killed before and after each of its changes, and asked again of the process that follows:
//! its answer, the tree and the numbers are those of a run without a kill.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::effort::pick;
use crate::support::union_support::client::{Client, Kill, Tally, again, errno, moments, some_of};
use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::notes::{Loss, Notes};
use crate::support::union_support::{Counted, Disk, EPOCH, MemDisk, View, caller, name, options};
use nixview::layer::dir::Format;
use nixview::layer::fault::Change;
use nixview::union::{Io, Options};
use nixview::vfs::{
    Errno, FileKind, Handle, Ino, OpenFlags, RenameMode, SetAttr, SetTime, Timespec, Vfs, XattrMode,
};

/// What a test does with a view; remembers what it saw and what it has open.
struct Actor<F> {
    view: View<F>,
    saw: Vec<String>,
    open: Vec<(Ino, Handle)>,
}

impl<F: Counted> Actor<F> {
    fn at(&mut self, path: &str) -> (Ino, nixview::vfs::Name) {
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        (self.view.ino(dir), name(last))
    }

    fn saw(&mut self, what: impl std::fmt::Debug) {
        self.saw.push(format!("{what:?}"));
    }

    fn made(&mut self, made: Result<nixview::vfs::Entry, Errno>) {
        let kind = made.map(|entry| self.view.count(entry).kind);
        self.saw(kind);
    }

    fn create(&mut self, path: &str, flags: i32) {
        let (dir, name) = self.at(path);
        let made = errno(self.view.fs.create(caller(), dir, &name, 0o640, OpenFlags(flags | libc::O_CREAT)));
        let made = made.map(|(entry, opened)| {
            self.open.push((entry.attr.ino, opened.handle));
            entry
        });
        self.made(made);
    }

    fn mkdir(&mut self, path: &str) {
        let (dir, name) = self.at(path);
        let made = errno(self.view.fs.mkdir(caller(), dir, &name, 0o750));
        self.made(made);
    }

    fn mknod(&mut self, path: &str, kind: FileKind) {
        let (dir, name) = self.at(path);
        let made = errno(self.view.fs.mknod(caller(), dir, &name, kind.mode_bits() | 0o600, 0));
        self.made(made);
    }

    fn symlink(&mut self, path: &str) {
        let (dir, name) = self.at(path);
        let made = errno(self.view.fs.symlink(caller(), dir, &name, b"target"));
        self.made(made);
    }

    fn link(&mut self, of: &str, path: &str) {
        let ino = self.view.ino(of);
        let (dir, name) = self.at(path);
        let made = errno(self.view.fs.link(ino, dir, &name));
        self.made(made);
    }

    fn unlink(&mut self, path: &str) {
        let (dir, name) = self.at(path);
        let gone = errno(self.view.fs.unlink(dir, &name));
        self.saw(gone);
    }

    fn rmdir(&mut self, path: &str) {
        let (dir, name) = self.at(path);
        let gone = errno(self.view.fs.rmdir(dir, &name));
        self.saw(gone);
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) {
        let ((a, from), (b, to)) = (self.at(from), self.at(to));
        let moved = errno(self.view.fs.rename((a, &from), (b, &to), mode));
        self.saw(moved);
    }

    fn mv(&mut self, from: &str, to: &str) {
        self.rename(from, to, RenameMode::Replace);
    }

    fn swap(&mut self, from: &str, to: &str) {
        self.rename(from, to, RenameMode::Exchange);
    }

    /// Opens, once more if told to walk again.
    fn open(&mut self, path: &str, flags: i32) {
        let mut opened = Err(Errno::ESTALE);
        for _ in 0..2 {
            if opened == Err(Errno::ESTALE) {
                let ino = self.view.ino(path);
                opened = errno(self.view.fs.open(ino, OpenFlags(flags))).map(|o| (ino, o.handle));
                self.saw(opened.map(drop));
            }
        }
        self.open.extend(opened.ok());
    }

    fn write(&mut self, n: usize, data: &[u8]) {
        let (ino, handle) = self.open[n];
        let put = errno(self.view.fs.write(ino, Some(handle), 2, data));
        self.saw(put);
    }

    fn close(&mut self, n: usize) {
        let (ino, handle) = self.open.remove(n);
        self.view.fs.release(ino, handle);
    }

    fn set(&mut self, ino: Ino, changes: SetAttr) {
        let set = errno(self.view.fs.setattr(caller(), ino, None, &changes));
        self.saw(set.map(|attr| (attr.permissions, attr.size, attr.nlink)));
    }

    fn chmod(&mut self, path: &str) {
        let ino = self.view.ino(path);
        self.set(ino, SetAttr { permissions: Some(0o751), ..SetAttr::default() });
    }

    fn truncate(&mut self, path: &str, size: u64) {
        let ino = self.view.ino(path);
        self.set(ino, SetAttr { size: Some(size), ..SetAttr::default() });
    }

    fn touch(&mut self, path: &str) {
        let ino = self.view.ino(path);
        let time = Some(SetTime::At(Timespec { seconds: 7, nanoseconds: 7 }));
        self.set(ino, SetAttr { mtime: time, ..SetAttr::default() });
    }

    fn set_xattr(&mut self, path: &str, name: &str, mode: XattrMode) {
        let ino = self.view.ino(path);
        let set = errno(self.view.fs.setxattr(ino, name.as_bytes(), b"new", mode));
        self.saw(set);
    }

    fn remove_xattr(&mut self, path: &str, name: &str) {
        let ino = self.view.ino(path);
        let set = errno(self.view.fs.removexattr(ino, name.as_bytes()));
        self.saw(set);
    }

    /// Looks at what is open.
    fn look(&mut self) {
        for (ino, handle) in self.open.clone() {
            let attr = errno(self.view.fs.getattr(ino, Some(handle)));
            let content = self.view.read_handle(ino, handle);
            self.saw((attr.map(|attr| (attr.nlink, attr.size, attr.permissions)), content));
        }
    }
}

/// What is done before, and what is killed.
type Deed<F> = (&'static str, fn(&mut Actor<F>), fn(&mut Actor<F>));

#[allow(clippy::too_many_lines, reason = "one line a deed")]
fn deeds<F: Counted>() -> Vec<Deed<F>> {
    use libc::{O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
    let nothing: fn(&mut Actor<F>) = |_| {};
    vec![
        ("create", nothing, |a| a.create("n", O_RDWR | O_EXCL)),
        ("create in a directory of the lower", nothing, |a| a.create("a/b/n", O_RDWR)),
        ("create what is there", nothing, |a| a.create("b", O_RDWR | O_EXCL)),
        ("create and open what is there", nothing, |a| a.create("b", O_RDONLY)),
        ("create and truncate what is there", nothing, |a| a.create("a/a", O_WRONLY | O_TRUNC)),
        ("create over a whiteout", |a| a.unlink("b"), |a| a.create("b", O_RDWR)),
        ("create and write", nothing, |a| {
            a.create("c/n", O_RDWR);
            a.write(0, b"new");
            a.close(0);
        }),
        ("mkdir", nothing, |a| a.mkdir("a/n")),
        ("mkdir what is there", nothing, |a| a.mkdir("a/b")),
        ("mkdir over a whiteout", |a| a.rmdir("c"), |a| a.mkdir("c")),
        ("mkdir twice", nothing, |a| {
            a.mkdir("n");
            a.mkdir("n/n");
        }),
        ("mkfifo", nothing, |a| a.mknod("c/n", FileKind::Fifo)),
        ("mknod of a file", nothing, |a| a.mknod("c/n", FileKind::Regular)),
        ("mknod of what looks like a whiteout", nothing, |a| a.mknod("n", FileKind::CharDevice)),
        ("symlink", nothing, |a| a.symlink("a/b/n")),
        ("link of the lower's", nothing, |a| a.link("a/a", "c/n")),
        ("link of the upper's", |a| a.chmod("b"), |a| a.link("b", "a/n")),
        ("link to where something is", nothing, |a| a.link("b", "c")),
        ("link of the lower's link", nothing, |a| a.link("a/b/b", "n")),
        ("unlink of the lower's", nothing, |a| a.unlink("a/b/a")),
        ("unlink of the upper's", |a| a.create("n", O_RDWR), |a| a.unlink("n")),
        ("unlink of a copy", |a| a.chmod("b"), |a| a.unlink("b")),
        ("unlink of nothing", nothing, |a| a.unlink("n")),
        ("unlink of one of two names", |a| a.link("b", "n"), |a| a.unlink("b")),
        (
            "unlink of both names",
            |a| a.link("b", "n"),
            |a| {
                a.unlink("b");
                a.unlink("n");
            },
        ),
        (
            "unlink of what is open",
            |a| a.open("a/a", O_RDWR),
            |a| {
                a.unlink("a/a");
                a.write(0, b"after");
            },
        ),
        ("unlink of what is read", |a| a.open("a/a", O_RDONLY), |a| a.unlink("a/a")),
        (
            "chmod of what has no name",
            |a| {
                a.open("b", O_RDONLY);
                a.unlink("b");
            },
            |a| {
                let ino = a.open[0].0;
                a.set(ino, SetAttr { permissions: Some(0o700), ..SetAttr::default() });
                a.close(0);
            },
        ),
        (
            "truncation of what has no name",
            |a| {
                a.open("b", O_RDONLY);
                a.unlink("b");
            },
            |a| {
                let ino = a.open[0].0;
                a.set(ino, SetAttr { size: Some(2), ..SetAttr::default() });
            },
        ),
        ("rmdir of the lower's", nothing, |a| a.rmdir("c")),
        ("rmdir of the upper's", |a| a.mkdir("a/n"), |a| a.rmdir("a/n")),
        ("rmdir of both layers'", |a| a.chmod("c"), |a| a.rmdir("c")),
        ("rmdir of what is not empty", nothing, |a| a.rmdir("a")),
        ("rmdir and mkdir", nothing, |a| {
            a.rmdir("c");
            a.mkdir("c");
        }),
        ("rename to nothing", nothing, |a| a.mv("a/a", "c/n")),
        ("rename in a directory", nothing, |a| a.mv("b", "n")),
        ("rename over a whiteout", |a| a.unlink("a/a"), |a| a.mv("b", "a/a")),
        ("rename over a file", nothing, |a| a.mv("a/a", "b")),
        ("rename over a file of the upper", |a| a.create("n", O_RDWR), |a| a.mv("b", "n")),
        ("rename over a file that is read", |a| a.open("b", O_RDONLY), |a| a.mv("a/a", "b")),
        ("rename of a file that is read", |a| a.open("b", O_RDONLY), |a| a.mv("b", "a/a")),
        ("rename over another name of the same", |a| a.link("b", "n"), |a| a.mv("b", "n")),
        ("rename of the upper's directory", |a| a.mkdir("n"), |a| a.mv("n", "a/n")),
        ("rename of the lower's directory", nothing, |a| a.mv("a", "n")),
        ("rename of the lower's directory to elsewhere", nothing, |a| a.mv("a/b", "c/n")),
        (
            "rename of a directory twice",
            |a| a.mv("a/b", "c/n"),
            |a| {
                a.mv("c/n", "n");
                a.chmod("n/c/a");
            },
        ),
        ("rename of a directory that was changed", |a| a.unlink("a/b/a"), |a| a.mv("a/b", "n")),
        ("rename over an empty directory", nothing, |a| a.mv("a/b", "c")),
        ("rename over an empty directory of the upper", |a| a.mkdir("n"), |a| a.mv("a", "n")),
        ("rename over what is not empty", nothing, |a| a.mv("c", "a")),
        ("rename that would replace", nothing, |a| a.rename("a/a", "b", RenameMode::NoReplace)),
        ("rename there and back", nothing, |a| {
            a.mv("a", "n");
            a.mv("n", "a");
        }),
        ("exchange of files", nothing, |a| a.swap("a/a", "b")),
        ("exchange of directories", nothing, |a| a.swap("a/b", "c")),
        ("exchange of a file and a directory", nothing, |a| a.swap("b", "a/b")),
        ("exchange with nothing", nothing, |a| a.swap("b", "n")),
        ("open for writing", nothing, |a| {
            a.open("a/b/a", O_RDWR);
            a.write(0, b"written");
        }),
        ("open that truncates", nothing, |a| a.open("a/b/a", O_WRONLY | O_TRUNC)),
        ("open that truncates the upper's", |a| a.chmod("b"), |a| a.open("b", O_RDWR | O_TRUNC)),
        ("open for reading", nothing, |a| {
            a.open("b", O_RDONLY);
            a.open("a/a", O_RDONLY);
            a.close(0);
        }),
        ("write of what was opened before", |a| a.open("b", O_RDWR), |a| a.write(0, b"written")),
        ("chmod of a file", nothing, |a| a.chmod("a/b/c/a")),
        ("chmod of a directory", nothing, |a| a.chmod("a/b/c")),
        ("chmod of the root", nothing, |a| a.chmod("")),
        ("truncation", nothing, |a| a.truncate("a/a", 3)),
        ("truncation to nothing", nothing, |a| a.truncate("a/a", 0)),
        ("touch", nothing, |a| a.touch("a/b/b")),
        ("setxattr", nothing, |a| a.set_xattr("a/a", "user.n", XattrMode::Set)),
        ("setxattr that creates", nothing, |a| a.set_xattr("a/a", "user.n", XattrMode::Create)),
        ("setxattr that creates what is there", nothing, |a| a.set_xattr("b", "user.l", XattrMode::Create)),
        (
            "setxattr that creates, of the upper's",
            |a| a.chmod("b"),
            |a| {
                a.set_xattr("b", "user.n", XattrMode::Create);
                a.set_xattr("b", "user.n", XattrMode::Create);
            },
        ),
        ("setxattr that replaces", nothing, |a| a.set_xattr("b", "user.l", XattrMode::Replace)),
        ("removexattr", nothing, |a| {
            a.remove_xattr("a/a", "user.l");
            a.remove_xattr("a/a", "user.l");
        }),
        (
            "write to what is read",
            |a| a.open("a/a", O_RDONLY),
            |a| {
                a.open("a/a", O_RDWR);
                a.write(1, b"written");
            },
        ),
        ("truncation of what is read", |a| a.open("a/a", O_RDONLY), |a| a.truncate("a/a", 1)),
        (
            "chmod of what is read",
            |a| a.open("a/a", O_RDONLY),
            |a| {
                a.chmod("a/a");
                a.chmod("a");
            },
        ),
        (
            "write to what is read and was copied",
            |a| {
                a.open("a/a", O_RDONLY);
                a.chmod("a/a");
            },
            |a| {
                a.open("a/a", O_RDWR);
                a.write(1, b"written");
                a.close(0);
            },
        ),
        (
            "write to what is read and has two names",
            |a| {
                a.open("b", O_RDONLY);
                a.link("b", "c/n");
            },
            |a| {
                a.open("c/n", O_RDWR);
                a.write(1, b"written");
            },
        ),
        (
            "unlink of what was parted",
            |a| {
                a.open("b", O_RDONLY);
                a.open("b", O_RDWR);
            },
            |a| {
                a.unlink("b");
                a.write(1, b"written");
                a.close(0);
            },
        ),
    ]
}

/// What a client can tell of a run.
#[derive(PartialEq, Debug)]
struct Outcome {
    saw: Vec<String>,
    tree: BTreeMap<String, String>,
}

struct Came {
    outcome: Outcome,
    /// The changes of the upper that the deed makes.
    changes: Range<u64>,
    answers: u64,
    tally: Tally,
}

/// All that shows, without times of now; numbers that were not known before are told apart, no more.
fn shown<F: Counted>(actor: &mut Actor<F>, known: &HashMap<Ino, u64>) -> BTreeMap<String, String> {
    let mut new = HashMap::new();
    let tree = actor.view.tree();
    let shown = tree.into_iter().map(|(path, shown)| {
        let attr = shown.attr;
        let next = new.len() as u64;
        let number = known.get(&attr.ino).copied().unwrap_or_else(|| *new.entry(attr.ino).or_insert(next));
        let set = attr.mtime == EPOCH || attr.mtime.seconds == 7;
        let what = (number, attr.kind, attr.permissions, attr.nlink, attr.uid, attr.gid, attr.size);
        (path, format!("{what:?} {set} {:?} {:?}", shown.content, shown.xattrs))
    });
    shown.collect()
}

fn run<'d, D: Disk + Sync>(
    disk: &'d D,
    options: Options,
    deed: &Deed<Client<'d, D>>,
    kills: &[Kill],
    loss: Option<Loss>,
) -> Result<Came, String> {
    let fs = Client::new(disk, options, Notes::new(loss), kills);
    let view = View { fs, lookups: HashMap::new() };
    let mut actor = Actor { view, saw: Vec::new(), open: Vec::new() };
    (deed.1)(&mut actor);
    // Numbers of the upper are others on each disk.
    let of = |(n, ino): (usize, Ino)| (ino, if ino.0 >> 31 == 0 { ino.0 } else { 1 << 31 | n as u64 });
    let known = actor.view.tree().into_values().map(|shown| shown.attr.ino).enumerate().map(of).collect();
    let (before, _) = actor.view.fs.count();
    actor.view.fs.armed(true);
    (deed.2)(&mut actor);
    actor.view.fs.armed(false);
    let (changes, answers) = actor.view.fs.count();
    let through = actor.view.fs.tally();
    actor.look();
    let tree = shown(&mut actor, &known);
    actor.view.fs.check()?;
    actor.view.fs.resume()?;
    if shown(&mut actor, &known) != tree {
        return Err("the tree is another after one more resume".to_owned());
    }
    for (ino, handle) in actor.open.drain(..) {
        actor.view.fs.release(ino, handle);
    }
    actor.view.forget_all();
    actor.view.fs.check()?;
    let left = (actor.view.fs.known_inodes(), actor.view.fs.open_handles(), actor.view.fs.notes.held().len());
    if left != (1, 0, 0) {
        return Err(format!("{left:?} inodes, handles and kept descriptors are left"));
    }
    if shown(&mut actor, &known) != tree {
        return Err("the tree is another after all was forgotten".to_owned());
    }
    let outcome = Outcome { saw: actor.saw, tree };
    Ok(Came { outcome, changes: before..changes, answers, tally: through })
}

/// Kills a deed everywhere; each time with any number of frames known, and with a second kill of the process that follows.
fn everywhere<D: Disk + Sync>(
    new_disk: &dyn Fn() -> D,
    options: Options,
    n: usize,
    title: &str,
    loss: Option<Loss>,
    sum: &mut Tally,
) -> Result<(), String> {
    let mut go = |kills: &[Kill], expected: Option<&Outcome>| {
        let disk = new_disk();
        let all = deeds();
        // What panics is found out too.
        let came = catch_unwind(AssertUnwindSafe(|| run(&disk, options, &all[n], kills, loss)));
        let came = came.unwrap_or_else(|_| Err("a panic".to_owned()));
        let came = came.map_err(|e| format!("{title}, {kills:?}: {e}"))?;
        if let Some(expected) = expected.filter(|expected| **expected != came.outcome) {
            return Err(format!("{title}, {kills:?}: {:#?}, but {expected:#?} without", came.outcome));
        }
        sum.add(&came.tally);
        Ok(came)
    };
    let whole = go(&[], None)?;
    let expected = Some(&whole.outcome);
    for at in moments(whole.changes, whole.answers) {
        let first = go(&[Kill { at, known: 0 }], expected)?;
        assert_eq!(first.tally.resumes, 1, "{title}: {at:?} was a kill");
        for known in some_of(1..=first.tally.unsecured) {
            go(&[Kill { at, known }], expected)?;
        }
        for kills in some_of(again(at)) {
            go(&kills, expected)?;
        }
    }
    Ok(())
}

/// Kills each deed that is wanted everywhere; answers what has happened, and what was wrong.
fn all<D: Disk + Sync>(
    new_disk: &dyn Fn() -> D,
    options: Options,
    loss: Option<Loss>,
    wanted: impl Fn(&str) -> bool,
) -> (Tally, Vec<String>) {
    let mut sum = Tally::default();
    let mut wrong = Vec::new();
    for (n, deed) in deeds::<Client<'_, D>>().into_iter().enumerate().filter(|(_, deed)| wanted(deed.0)) {
        wrong.extend(everywhere(new_disk, options, n, deed.0, loss, &mut sum).err());
    }
    (sum, wrong)
}

/// Kills them all; nothing may be wrong.
fn hold<D: Disk + Sync>(new_disk: &dyn Fn() -> D, options: Options, wanted: impl Fn(&str) -> bool) -> Tally {
    let (sum, wrong) = all(new_disk, options, None, wanted);
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{sum:?}");
    assert!(sum.made > 0 && sum.changed > 0 && sum.taken_back > 0 && sum.intents > 0, "{sum:?}");
    sum
}

/// The changes that no operation of these makes.
const NOT_MADE: [Change; 1] = [Change::Allocate];

fn durable(io: Io) -> Options {
    Options { durable: true, ..options(io) }
}

#[test]
fn every_operation_cached() {
    let sum = hold(&MemDisk::new, durable(Io::Cached), |_| true);
    for change in Change::ALL.iter().filter(|change| !NOT_MADE.contains(change)) {
        assert!(sum.ended_at.contains_key(change), "{change:?} was never prevented: {sum:?}");
    }
}

#[test]
fn every_operation_passed_through() {
    // In the gate some: most do not know the difference.
    let count = std::cell::Cell::new(0);
    hold(&MemDisk::new, durable(Io::Passthrough), |_| {
        count.set(count.get() + 1);
        count.get() % pick(8, 1) == 0
    });
}

/// Those that go on with what has no name: here a process that follows has real descriptors of it.
#[test]
fn operations_on_a_disk() {
    const SOME: [&str; 12] = [
        "no name",
        "is open",
        "is read and",
        "was parted",
        "both names",
        "over an empty directory of",
        "rmdir of both",
        "create and write",
        "mkdir over",
        "link of the lower's",
        "exchange of directories",
        "directory twice",
    ];
    let some = |title: &str| SOME.iter().any(|part| title.contains(part));
    hold(&DirDisk::new, options(Io::Passthrough), some);
    let files = || DirDisk::with_format(&std::env::temp_dir(), Some(Format::Files));
    hold(&files, options(Io::Cached), |title| title.contains("no name") || title.contains("dir o"));
}

/// The test of the test: a recorder that forgets something is found out.
#[test]
fn what_a_recorder_loses_is_missed() {
    for loss in Loss::ALL {
        let found = |io| {
            let mut sum = Tally::default();
            let all = deeds::<Client<'_, MemDisk>>();
            let wrong = all.iter().enumerate().filter_map(|(n, deed)| {
                everywhere(&MemDisk::new, options(io), n, deed.0, Some(loss), &mut sum).err()
            });
            let count = wrong.take(2).count();
            (count, sum.runs)
        };
        let found = [Io::Cached, Io::Passthrough].map(found);
        println!("{loss:?}: operations that find it, at most 2, and runs: {found:?}");
        assert!(found.iter().all(|(count, _)| *count > 0), "{loss:?} was not found");
    }
}
