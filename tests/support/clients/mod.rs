//! Clients of a view that must never see an error: each works in a directory of its own, and knows what it must find.
//!
//! They hold things for as long as they work: files that are open, that have no name, that are mapped and locked, directories
//! that are gone, programs that run.
#![allow(unsafe_code, reason = "test code: a mapping")]

mod once;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

pub(crate) use once::OPERATIONS;

/// Where a client works.
pub(crate) struct Place {
    /// Its own directory, which is empty when it begins.
    pub(crate) own: PathBuf,
    /// A directory of the store that is its own, as [`fill`] makes it.
    pub(crate) lower: PathBuf,
    /// A program of the store that prints [`mini_store::contents::HELLO`].
    pub(crate) hello: PathBuf,
}

/// Works as long as it is told to, and says how often it has done what it does.
pub(crate) type Client = fn(&Place, &dyn Fn() -> bool) -> io::Result<u64>;

/// All of them.
pub(crate) const CLIENTS: &[(&str, Client)] = &[
    ("once", single_operations),
    ("files", open_files),
    ("blocks", large_blocks),
    ("locks", locks),
    ("mapping", mapping),
    ("cwd", working_directory),
    ("listing", listing),
    ("programs", programs),
    ("sqlite", database),
    ("git", repository),
];

/// What a client finds in the store.
pub(crate) fn fill(lower: &Path) {
    fs::create_dir(lower).unwrap();
    for name in ["read", "appended", "mapped"] {
        fs::write(lower.join(name), lower_content()).unwrap();
        fs::set_permissions(lower.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    fs::create_dir(lower.join("many")).unwrap();
    for at in 0..NAMES {
        fs::write(lower.join(format!("many/{at}")), "").unwrap();
    }
}

const NAMES: usize = 300;

fn lower_content() -> Vec<u8> {
    (0..50_000u32).flat_map(u32::to_le_bytes).collect()
}

fn same(what: &str, found: &[u8], wanted: &[u8]) {
    let first = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(
        found == wanted,
        "{what}: {} bytes for {}, the first wrong at {first:?}",
        found.len(),
        wanted.len()
    );
}

fn at_least_a_time(
    keep_on: &dyn Fn() -> bool,
    mut step: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<u64> {
    for done in 0.. {
        step(done)?;
        if !keep_on() {
            return Ok(done + 1);
        }
    }
    Ok(0)
}

/// Each operation that a second try would answer otherwise.
fn single_operations(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    at_least_a_time(keep_on, |_| {
        for (what, operation) in OPERATIONS {
            operation(&place.own).map_err(|error| io::Error::other(format!("{what}: {error}")))?;
        }
        assert_eq!(names(&place.own)?, BTreeSet::new());
        Ok(())
    })
}

fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().unwrap())).collect()
}

/// Files that are open all the time: one is appended to, one has no name, one is of the store.
fn open_files(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let all = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let log = OpenOptions::new().append(true).create_new(true).open(place.own.join("log"))?;
    let reader = File::open(place.own.join("log"))?;
    let gone = all(&place.own.join("gone"))?;
    gone.write_all_at(b"begun with a name", 0)?;
    let gone_again = File::open(place.own.join("gone"))?;
    fs::remove_file(place.own.join("gone"))?;
    let replaced = all(&place.own.join("replaced"))?;
    fs::write(place.own.join("new"), "new")?;
    fs::rename(place.own.join("new"), place.own.join("replaced"))?;
    let unchanged = File::open(place.lower.join("read"))?;
    // Open before it is copied up, and removed after it.
    let of_store = File::open(place.lower.join("appended"))?;
    let appended = OpenOptions::new().append(true).open(place.lower.join("appended"))?;
    let lower = lower_content();
    let mut content = b"begun with a name".to_vec();
    let mut length = 0;
    let done = at_least_a_time(keep_on, |step| {
        let line = format!("line {step} of the log\n").into_bytes();
        (&log).write_all(&line)?;
        let mut found = vec![0; line.len()];
        reader.read_exact_at(&mut found, length)?;
        same("the log", &found, &line);
        length += line.len() as u64;
        assert_eq!(log.metadata()?.len(), length);
        (&appended).write_all(b"+")?;
        assert_eq!(appended.metadata()?.len(), lower.len() as u64 + step + 1);

        let at = usize::try_from(step * 37 % 9000).unwrap();
        let data = [u8::try_from(step % 251).unwrap(); 500];
        gone.write_all_at(&data, at as u64)?;
        content.resize(content.len().max(at + data.len()), 0);
        content[at..at + data.len()].copy_from_slice(&data);
        if step % 7 == 0 {
            content.resize(at + 100, 0);
            gone.set_len(at as u64 + 100)?;
        }
        for file in [&gone, &gone_again] {
            assert_eq!((file.metadata()?.nlink(), file.metadata()?.len()), (0, content.len() as u64));
            let mut found = vec![0; content.len()];
            file.read_exact_at(&mut found, 0)?;
            same("a file without a name", &found, &content);
        }
        gone.set_permissions(Permissions::from_mode(0o600 | u32::try_from(step % 8).unwrap()))?;
        assert_eq!(gone_again.metadata()?.mode() & 0o7777, 0o600 | u32::try_from(step % 8).unwrap());
        gone.sync_data()?;
        replaced.write_all_at(&data, 0)?;
        assert_eq!(fs::read(place.own.join("replaced"))?, b"new");

        for file in [&unchanged, &of_store] {
            let at = usize::try_from(step * 4099 % 190_000).unwrap();
            let mut found = [0; 5000];
            file.read_exact_at(&mut found, at as u64)?;
            same("a file of the store", &found, &lower[at..at + 5000]);
        }
        if step == 5 {
            fs::remove_file(place.lower.join("appended"))?;
        }
        Ok(())
    })?;
    let whole: String = (0..done).map(|step| format!("line {step} of the log\n")).collect();
    same("the log", &fs::read(place.own.join("log"))?, whole.as_bytes());
    Ok(done)
}

/// As much in one write as a request takes: it needs all of the memory that the server reads into.
fn large_blocks(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    const LENGTH: usize = 256 * 1024;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(place.own.join("blocks"))?;
    let mut found = vec![0; LENGTH];
    at_least_a_time(keep_on, |step| {
        let block = vec![u8::try_from(step % 251).unwrap(); LENGTH];
        for at in 0..4 {
            file.write_all_at(&block, at * LENGTH as u64)?;
        }
        file.read_exact_at(&mut found, step % 4 * LENGTH as u64)?;
        same("a file of large blocks", &found, &block);
        Ok(())
    })
}

fn record_lock(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 100,
        l_pid: 0,
    }
}

/// Locks that are held keep others out, and those that are given back do not.
fn locks(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let path = place.own.join("lock");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let (one, two) = (open()?, open()?);
    let take = |file: &File, kind| fcntl(file, FcntlArg::F_OFD_SETLK(&record_lock(kind)));
    flock(&one, FlockOperation::LockExclusive)?;
    take(&one, libc::F_WRLCK)?;
    let done = at_least_a_time(keep_on, |_| {
        let refused = flock(&two, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(refused, Err(rustix::io::Errno::WOULDBLOCK));
        assert_eq!(take(&two, libc::F_RDLCK), Err(nix::errno::Errno::EAGAIN));
        let third = open()?;
        assert_eq!(take(&third, libc::F_WRLCK), Err(nix::errno::Errno::EAGAIN));
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    })?;
    flock(&one, FlockOperation::Unlock)?;
    take(&one, libc::F_UNLCK)?;
    flock(&two, FlockOperation::NonBlockingLockExclusive)?;
    take(&two, libc::F_WRLCK)?;
    Ok(done)
}

/// A mapping of a whole file.
struct Map {
    start: *mut libc::c_void,
    length: usize,
}

impl Map {
    fn new(file: &File, writable: bool) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).unwrap();
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, length }) }
    }

    fn at(&self, at: usize) -> *mut u8 {
        assert!(at < self.length);
        self.start.cast::<u8>().wrapping_add(at)
    }

    fn get(&self, at: usize) -> u8 {
        // SAFETY: it is in the mapping, and the file is not cut.
        unsafe { self.at(at).read_volatile() }
    }

    fn set(&self, at: usize, byte: u8) {
        // SAFETY: as above, and only this thread uses it.
        unsafe { self.at(at).write_volatile(byte) }
    }

    /// Forgets the pages, so that they are asked for again; writes them back first.
    fn forget(&self) -> io::Result<()> {
        // SAFETY: the mapping is this one's; what was changed is written.
        let synced = unsafe { libc::msync(self.start, self.length, libc::MS_SYNC) };
        if synced != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a shared mapping loses nothing.
        let forgotten = unsafe { libc::madvise(self.start, self.length, libc::MADV_DONTNEED) };
        if forgotten != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// A file of its own is written and one of the store read through mappings, whose pages are dropped again and again.
fn mapping(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    const LENGTH: usize = 64 * 4096;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(place.own.join("mapped"))?;
    file.set_len(LENGTH as u64)?;
    let of_store = File::open(place.lower.join("mapped"))?;
    let (written, read) = (Map::new(&file, true)?, Map::new(&of_store, false)?);
    let lower = lower_content();
    let mut content = vec![0; LENGTH];
    let done = at_least_a_time(keep_on, |step| {
        for turn in 0..20 {
            let at = usize::try_from((step * 20 + turn) * 4099).unwrap() % LENGTH;
            let byte = u8::try_from((step + turn) % 251).unwrap();
            written.set(at, byte);
            content[at] = byte;
        }
        written.forget()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        read.forget()?;
        rustix::fs::fadvise(&of_store, 0, None, rustix::fs::Advice::DontNeed)?;
        for turn in 0..20 {
            let at = usize::try_from((step * 20 + turn) * 7001).unwrap();
            assert_eq!(written.get(at % LENGTH), content[at % LENGTH], "a mapped file");
            assert_eq!(read.get(at % lower.len()), lower[at % lower.len()], "a mapped file of the store");
        }
        Ok(())
    })?;
    same("a file that was mapped", &fs::read(place.own.join("mapped"))?, &content);
    Ok(done)
}

/// A thread whose working directory is in the view, and for a while one that is gone.
fn working_directory(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    // This thread's working directory is its own from here on.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    std::env::set_current_dir(&place.own)?;
    let kept = place.own.join("kept");
    fs::create_dir(&kept)?;
    let removed = File::open(&kept)?;
    fs::remove_dir(&kept)?;
    at_least_a_time(keep_on, |step| {
        fs::write("file", format!("{step}"))?;
        fs::create_dir("gone")?;
        fs::rename("file", "gone/moved")?;
        std::env::set_current_dir("gone")?;
        assert_eq!(fs::read("moved")?, format!("{step}").as_bytes());
        assert_eq!(names(Path::new("."))?, BTreeSet::from(["moved".to_owned()]));
        assert_eq!(fs::read("../gone/moved")?, format!("{step}").as_bytes());
        fs::remove_file("moved")?;
        fs::remove_dir("../gone")?;
        let mode = 0o700 | u32::try_from(step % 64).unwrap();
        for turn in 0..3 {
            std::thread::sleep(Duration::from_millis(turn * 5));
            fs::set_permissions(".", Permissions::from_mode(mode))?;
            assert_eq!(fs::metadata(".")?.mode() & 0o7777, mode);
            assert_eq!(fs::write("file", "").unwrap_err().kind(), ErrorKind::NotFound);
        }
        std::env::set_current_dir(&place.own)?;
        removed.set_permissions(Permissions::from_mode(mode))?;
        assert_eq!(removed.metadata()?.mode() & 0o7777, mode);
        Ok(())
    })
}

/// Large directories of the store and of its own, name by name.
fn listing(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let many = place.lower.join("many");
    fs::create_dir(place.own.join("mine"))?;
    let mut mine = BTreeSet::new();
    let mut theirs: BTreeSet<String> = (0..NAMES).map(|at| at.to_string()).collect();
    at_least_a_time(keep_on, |step| {
        let name = format!("{}", step % 400);
        if mine.remove(&name) {
            fs::remove_file(place.own.join("mine").join(&name))?;
        } else {
            File::create_new(place.own.join("mine").join(&name))?;
            mine.insert(name.clone());
        }
        // A name of the store goes, another comes.
        if step % 5 == 0 {
            let lost = format!("{}", step % NAMES as u64);
            if theirs.remove(&lost) {
                fs::remove_file(many.join(&lost))?;
            } else {
                fs::write(many.join(&lost), "again")?;
                theirs.insert(lost);
            }
        }
        for (dir, wanted) in [(place.own.join("mine"), &mine), (many.clone(), &theirs)] {
            let mut listed: Vec<String> = Vec::new();
            for entry in fs::read_dir(&dir)? {
                listed.push(entry?.file_name().into_string().unwrap());
            }
            let found: BTreeSet<String> = listed.iter().cloned().collect();
            assert_eq!(found.len(), listed.len(), "a name is listed twice");
            assert_eq!(found.symmetric_difference(wanted).collect::<Vec<_>>(), Vec::<&String>::new());
        }
        Ok(())
    })
}

/// Programs of the store and of its own are executed; one of them runs all the time.
fn programs(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    // Another process writes them: one that this process has open for writing could be inherited by what a thread beside
    // this one starts.
    let copy = |from: &Path, to: &Path| {
        let ended = Command::new("cp").arg(from).arg(to).status()?;
        if ended.success() { Ok(()) } else { Err(io::Error::other(format!("cp: {ended}"))) }
    };
    let sleep = place.own.join("sleep");
    copy(Path::new("/bin/sleep"), &sleep)?;
    let mut sleeper = Command::new(&sleep).arg("10000").stdin(Stdio::null()).spawn()?;
    let done = at_least_a_time(keep_on, |step| {
        let own = place.own.join("hello");
        copy(&place.hello, &own)?;
        for program in [&place.hello, &own] {
            let ran = Command::new(program).output()?;
            assert!(ran.status.success(), "step {step}, {program:?}: {ran:?}");
            assert_eq!(ran.stdout, mini_store::contents::HELLO.as_bytes());
        }
        fs::remove_file(&own)?;
        Ok(())
    });
    let ended_before = sleeper.try_wait()?;
    sleeper.kill()?;
    sleeper.wait()?;
    assert_eq!(ended_before, None, "a program that ran from the view");
    done
}

fn of_sqlite(error: rusqlite::Error) -> io::Error {
    io::Error::other(error)
}

/// Two connections to a database with a write-ahead log, whose index is mapped memory.
fn database(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let path = place.own.join("db");
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(&path)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA mmap_size = 10000000; PRAGMA wal_autocheckpoint = 50")?;
        connection.busy_timeout(Duration::from_secs(30))?;
        Ok(connection)
    };
    let (one, two) = (open().map_err(of_sqlite)?, open().map_err(of_sqlite)?);
    one.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)").map_err(of_sqlite)?;
    let done = at_least_a_time(keep_on, |step| {
        let n = i64::try_from(step).unwrap();
        let writer = if step % 2 == 0 { &one } else { &two };
        let reader = if step % 2 == 0 { &two } else { &one };
        writer.execute("INSERT INTO t VALUES (?, hex(randomblob(2000)))", [n]).map_err(of_sqlite)?;
        let found: i64 =
            reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).map_err(of_sqlite)?;
        assert_eq!(found, n + 1, "rows");
        if step % 50 == 49 {
            reader.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(of_sqlite)?;
        }
        Ok(())
    })?;
    let sound: String = one.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(of_sqlite)?;
    assert_eq!(sound, "ok");
    Ok(done)
}

/// Commits, and a repository that is whole in the end.
fn repository(place: &Place, keep_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let repository = place.own.join("git");
    fs::create_dir(&repository)?;
    let git = |words: &[&str]| -> io::Result<String> {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e", "-c", "gc.auto=0", "-C"]).arg(&repository);
        command.args(words).stdin(Stdio::null());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let ran = command.output()?;
        if ran.status.success() {
            Ok(String::from_utf8(ran.stdout).unwrap())
        } else {
            Err(io::Error::other(format!("git {words:?}: {}", String::from_utf8(ran.stderr).unwrap())))
        }
    };
    git(&["init", "-q"])?;
    let done = at_least_a_time(keep_on, |step| {
        fs::write(repository.join(format!("f{}", step % 5)), format!("{step}\n"))?;
        git(&["add", "."])?;
        git(&["commit", "-q", "-m", "step"])?;
        assert_eq!(git(&["status", "--porcelain"])?, "");
        Ok(())
    })?;
    assert_eq!(git(&["rev-list", "--count", "HEAD"])?.trim(), done.to_string());
    git(&["fsck", "--strict"])?;
    Ok(done)
}
