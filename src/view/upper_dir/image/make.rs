//! Makes the file system in a new image, and lets one grow that is not mounted: by the programs of e2fsprogs.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};

use super::superblock::Superblock;
use crate::view::upper_dir::limit::{BLOCK, Limit};

/// Where the programs are, besides where `PATH` says.
const DIRECTORIES: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// What the file system has; nothing that `/etc/mke2fs.conf` decides.
const FEATURES: &str = "none,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";

/// Without a limit of inodes: bytes of space for each. Every object but empty files, short links and devices takes a
/// block, so that space ends first.
const BYTES_PER_INODE: u64 = BLOCK;

/// Inodes that are not objects of the view: ten of ext4's, `lost+found`, `tree`, `work`, the ballast's directory and file.
pub(super) const OWN_INODES: u64 = 15;

/// The image as the programs see it: whatever becomes of its names, this is it.
const IMAGE: &str = "/proc/self/fd/0";

/// Length of an inode, in bytes.
const INODE: u64 = 256;

/// Blocks of a group.
const GROUP: u64 = 32768;

/// How often a file system that came out too small is made again, larger.
const ATTEMPTS: u32 = 8;

/// Fills an empty file with a file system that has space for `limit`, and somewhat more; without a journal if nobody
/// will want it after a crash. Space is taken of the disk only when it is written.
///
/// # Errors
/// `NotFound` if there is no such program; what it said.
pub(super) fn file_system(file: &File, limit: Limit, journal: bool) -> io::Result<()> {
    let journal = journal.then(|| journal_blocks(limit));
    let mut blocks = estimate(limit, journal.unwrap_or(0));
    for _ in 0..ATTEMPTS {
        file.set_len(0)?;
        file.set_len(blocks.checked_mul(BLOCK).ok_or(io::ErrorKind::FileTooLarge)?)?;
        run(file, blocks, limit, journal)?;
        let made = Superblock::read(file.as_fd())?;
        let missing = (limit.blocks() + margin(limit)).saturating_sub(made.available());
        if missing == 0 {
            return Ok(());
        }
        blocks += missing + missing / 8 + 64;
    }
    Err(io::Error::other("mkfs.ext4 leaves less space than it should"))
}

/// Fails as [`file_system`] would if its program is not there.
pub(super) fn available() -> io::Result<()> {
    program("mkfs.ext4", &File::open("/dev/null")?, &["-V"], &[0])
}

/// Lets the file system of an image that nobody has mounted grow to `blocks`, after a check of it.
///
/// Not online, by ioctl(2): that needs CAP_SYS_RESOURCE, which root does not have everywhere.
///
/// # Errors
/// `NotFound` if there are no such programs; what they said, also if the check finds what it cannot repair safely.
pub(super) fn grow(file: &File, blocks: u64) -> io::Result<()> {
    // 1: what was wrong is repaired.
    program("e2fsck", file, &["-f", "-p", IMAGE], &[0, 1])?;
    file.set_len(blocks.checked_mul(BLOCK).ok_or(io::ErrorKind::FileTooLarge)?)?;
    program("resize2fs", file, &[IMAGE, &blocks.to_string()], &[0])
}

/// Blocks of the journal: a 64th, at least what ext4 wants and at most what helps.
fn journal_blocks(limit: Limit) -> u64 {
    (limit.blocks() / 64).next_multiple_of(256).clamp(1024, 16384)
}

/// Blocks for directories that are there from the start, and for those that hold the ballast's names.
fn margin(limit: Limit) -> u64 {
    let groups = limit.blocks() / GROUP + 2;
    16 + limit.inodes.map_or(0, |_| groups / 4)
}

/// More blocks than are needed for `limit`, usually; what is too much is taken away by the ballast.
fn estimate(limit: Limit, journal: u64) -> u64 {
    let space = limit.blocks() + margin(limit);
    let inodes = inodes(limit).unwrap_or(space * BLOCK / BYTES_PER_INODE);
    let tables = inodes.saturating_mul(INODE) / BLOCK;
    // mkfs.ext4 wants twice the journal.
    let sum = space.saturating_add(tables).saturating_add(journal).max(2 * journal + tables + 256);
    let reserved = (sum / 48).min(4096);
    // Bitmaps and what tables are rounded up by; the copies of the superblock and of the groups' descriptors.
    let groups = sum / GROUP + 1;
    let copies = 2 + 3 * u64::from(groups.ilog2());
    sum.saturating_add(reserved).saturating_add(groups * 4 + copies * (groups / 64 + 2) + 64)
}

/// Inodes of the file system; `None` for as many as there is space.
fn inodes(limit: Limit) -> Option<u64> {
    limit.inodes.map(|inodes| inodes.saturating_add(OWN_INODES))
}

fn run(file: &File, blocks: u64, limit: Limit, journal: Option<u64>) -> io::Result<()> {
    let mut arguments: Vec<String> =
        ["-q", "-F", "-m", "0", "-e", "remount-ro", "-L", "nixview"].map(str::to_owned).into();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-b", BLOCK.to_string());
    add("-I", INODE.to_string());
    match inodes(limit) {
        Some(inodes) => add("-N", inodes.to_string()),
        None => add("-i", BYTES_PER_INODE.to_string()),
    }
    match journal {
        Some(journal) => {
            add("-O", format!("{FEATURES},has_journal"));
            add("-J", format!("size={}", journal * BLOCK / (1 << 20)));
        }
        None => add("-O", FEATURES.to_owned()),
    }
    add("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard".to_owned());
    arguments.extend([IMAGE.to_owned(), blocks.to_string()]);
    program("mkfs.ext4", file, &arguments, &[0])
}

/// Runs a program on an image, which is its standard input; fails unless it ends with one of these codes.
fn program(name: &str, file: &File, arguments: &[impl AsRef<OsStr>], good: &[i32]) -> io::Result<()> {
    for directory in DIRECTORIES {
        let mut command = Command::new(format!("{directory}{name}"));
        command.args(arguments).env("MKE2FS_CONFIG", "/dev/null").stdin(Stdio::from(file.try_clone()?));
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => {
                let Output { status, stdout, stderr } = answer?;
                if status.code().is_some_and(|code| good.contains(&code)) {
                    return Ok(());
                }
                let said = if stderr.is_empty() { stdout } else { stderr };
                let said = said.trim_ascii().escape_ascii();
                return Err(io::Error::other(format!("{name} failed ({status}): {said}")));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {name}: install e2fsprogs")))
}
