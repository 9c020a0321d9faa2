//! Access control lists of a view on a real mount: what a plain directory of the same file system does, a view does.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::fuse_tree::private_namespace;
use crate::support::skip::skip;
use crate::support::union_mount::{ALICE, BOB, Places, ROOT, User, as_user, attribute, attributes, outcome};
use nixview::union::Options;
use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// A list with entries for Alice: owner, Alice, group, mask, others.
fn list(owner: u16, alice: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1_u16, owner, none), (2, alice, ALICE.0), (4, group, none), (16, mask, none), (32, other, none)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

fn set(path: &Path, name: &str, list: &[u8]) -> Result<(), i32> {
    rustix::fs::setxattr(path, name, list, XattrFlags::empty()).map_err(|errno| errno.raw_os_error())
}

/// What an object's mode and lists are.
type Seen = (u32, Result<Vec<u8>, i32>, Result<Vec<u8>, i32>);

fn seen(path: &Path) -> Seen {
    let mode = fs::symlink_metadata(path).unwrap().mode();
    (mode, attribute(path, ACCESS), attribute(path, DEFAULT))
}

/// Who may read and write a file.
fn access(path: &Path) -> Vec<(Result<(), i32>, Result<(), i32>)> {
    let reads = || outcome(File::open(path).map(drop));
    let writes = || outcome(OpenOptions::new().append(true).open(path).map(drop));
    [ROOT, ALICE, BOB].map(|user| as_user(user, || (reads(), writes()))).to_vec()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn access_is_checked_by_lists() {
    if !private_namespace() {
        return;
    }
    type Step = fn(&Path) -> Result<(), i32>;
    let steps: [(&str, Step); 10] = [
        ("a list", |path| set(path, ACCESS, &list(6, 6, 0, 7, 0))),
        ("reading for the mask", |path| outcome(fs::set_permissions(path, Permissions::from_mode(0o640)))),
        ("everything", |path| outcome(fs::set_permissions(path, Permissions::from_mode(0o666)))),
        ("nothing for Alice", |path| set(path, ACCESS, &list(6, 0, 6, 6, 6))),
        ("another owner", |path| outcome(chown(path, Some(1235), None))),
        ("no list", |path| outcome(rustix::fs::removexattr(path, ACCESS).map_err(Into::into))),
        ("still none", |path| outcome(rustix::fs::removexattr(path, ACCESS).map_err(Into::into))),
        ("a list that is a mode", |path| {
            let bytes = list(6, 0, 4, 0, 0);
            set(path, ACCESS, &[&bytes[..12], &bytes[20..28], &bytes[36..]].concat())
        }),
        ("what is no list", |path| set(path, ACCESS, b"what")),
        ("a default list of a file", |path| set(path, DEFAULT, &list(7, 7, 7, 7, 7))),
    ];
    let places = Places::new();
    for io in places.modes() {
        for of_store in [true, false] {
            let places = Places::new();
            if of_store {
                fs::write(places.at("store/file"), "content").unwrap();
                fs::set_permissions(places.at("store/file"), Permissions::from_mode(0o600)).unwrap();
            }
            let mut m = places.mount(io, None);
            let (path, plain) = (m.path.join("file"), places.at("plain/file"));
            for path in [&path, &plain] {
                fs::write(path, "content").unwrap();
                fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
            }
            for (what, step) in steps {
                assert_eq!(step(&path), step(&plain), "{io:?}, {of_store}: {what}");
                for again in [false, true] {
                    let at = format!("{io:?}, {of_store}: {what}, remounted: {again}");
                    assert_eq!(seen(&path), seen(&plain), "{at}");
                    assert_eq!(access(&path), access(&plain), "{at}");
                    assert_eq!(attributes(&path), attributes(&plain), "{at}");
                    m.unmount();
                    m = places.mount(io, None);
                }
            }
            m.unmount();
        }
    }
}

/// Makes one of each kind, as a user and with a umask, below `top`; answers what came of it.
fn make(top: &Path, user: User, umask: u32) -> Vec<Seen> {
    let below = |name: &str| top.join(name);
    as_user(user, || {
        rustix::process::umask(Mode::from_raw_mode(umask));
        fs::create_dir(below("directory")).unwrap();
        fs::create_dir(below("directory/inner")).unwrap();
        let create = |name: &str, mode| {
            OpenOptions::new().write(true).create_new(true).mode(mode).open(below(name)).unwrap();
        };
        create("file", 0o666);
        create("program", 0o755);
        create("directory/inner/file", 0o640);
        mknodat(CWD, below("fifo"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
        symlink("file", below("link")).unwrap();
    });
    let names = ["directory", "directory/inner", "file", "program", "directory/inner/file", "fifo", "link"];
    names.map(|name| seen(&below(name))).to_vec()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_is_made_inherits_default_lists_or_obeys_the_umask() {
    if !private_namespace() {
        return;
    }
    let minimal =
        [&list(7, 0, 5, 0, 0)[..12], &list(7, 0, 5, 0, 0)[20..28], &list(7, 0, 5, 0, 0)[36..]].concat();
    for io in Places::new().modes() {
        let places = Places::new();
        let m = places.mount(io, None);
        let defaults = [None, Some(list(7, 7, 5, 7, 0)), Some(list(7, 4, 7, 5, 4)), Some(minimal.clone())];
        for (n, default) in defaults.into_iter().enumerate() {
            for (user, umask, mode) in
                [(ROOT, 0o022, 0o755), (ALICE, 0o077, 0o777), (ALICE, 0o002, 0o2777), (BOB, 0, 0o2777)]
            {
                let tops =
                    [&m.path, &places.at("plain")].map(|base| base.join(format!("{n}-{}-{umask:o}", user.0)));
                for top in &tops {
                    fs::create_dir(top).unwrap();
                    chown(top, Some(0), Some(ALICE.1)).unwrap();
                    fs::set_permissions(top, Permissions::from_mode(mode)).unwrap();
                    if let Some(default) = &default {
                        set(top, DEFAULT, default).unwrap();
                    }
                }
                let [ours, theirs] = tops.each_ref().map(|top| make(top, user, umask));
                assert_eq!(ours, theirs, "{io:?}, default list {n}, {user:?}, umask {umask:o}");
            }
        }
        m.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_list_set_by_who_is_not_in_the_group_takes_the_group_bit_away() {
    if !private_namespace() {
        return;
    }
    for io in Places::new().modes() {
        let places = Places::new();
        let m = places.mount(io, None);
        for (n, (user, group, kept)) in
            [(ALICE, 1234, true), (ALICE, 1235, false), (BOB, 1234, true), (BOB, 77, false), (ROOT, 77, true)]
                .into_iter()
                .enumerate()
        {
            for base in [&m.path, &places.at("plain")] {
                let (file, dir) = (base.join(format!("f{n}")), base.join(format!("d{n}")));
                fs::write(&file, "").unwrap();
                fs::create_dir(&dir).unwrap();
                for path in [&file, &dir] {
                    chown(path, Some(user.0), Some(group)).unwrap();
                    fs::set_permissions(path, Permissions::from_mode(0o6755)).unwrap();
                    as_user(user, || set(path, ACCESS, &list(7, 5, 5, 5, 5))).unwrap();
                    let bit = fs::metadata(path).unwrap().mode() & 0o6000;
                    assert_eq!(
                        bit,
                        if kept { 0o6000 } else { 0o4000 },
                        "{io:?}: {user:?} on {}",
                        path.display()
                    );
                }
            }
        }
        m.unmount();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn overlayfs_over_the_same_layers_obeys_the_same_lists() {
    if !private_namespace() {
        return;
    }
    let base = tempfile::TempDir::with_prefix("nv").unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    rustix::mount::mount("none", base.path(), "tmpfs", MountFlags::empty(), None).unwrap();
    {
        let places = Places::new_in(base.path());
        for name in ["listed", "changed", "gone"] {
            fs::write(places.at("store").join(name), name).unwrap();
            set(&places.at("store").join(name), ACCESS, &list(6, 6, 0, 4, 0)).unwrap();
        }
        let m = places.mount(places.modes()[0], None);
        fs::create_dir(m.path.join("dir")).unwrap();
        set(&m.path.join("dir"), DEFAULT, &list(7, 7, 0, 7, 0)).unwrap();
        fs::write(m.path.join("dir/inherited"), "new").unwrap();
        fs::set_permissions(m.path.join("changed"), Permissions::from_mode(0o660)).unwrap();
        rustix::fs::removexattr(m.path.join("gone"), ACCESS).unwrap();
        let all = |top: &Path| {
            ["listed", "changed", "gone", "dir", "dir/inherited"].map(|name| {
                let path = top.join(name);
                (seen(&path), if name == "dir" { Vec::new() } else { access(&path) })
            })
        };
        let ours = all(&m.path);
        assert_eq!(ours[4].1[1], (Ok(()), Ok(())), "Alice may write what is made there");
        assert_eq!(ours[1].1[1], (Ok(()), Ok(())), "Alice may write what the mask allows");
        m.unmount();
        fs::create_dir(places.at("overlay")).unwrap();
        let top = places.top.path().display();
        let layers = format!("lowerdir={top}/store,upperdir={top}/upper/data,workdir={top}/overlay");
        let status = Command::new("mount")
            .args(["-t", "overlay", "nixview-test", "-o", &layers])
            .arg(places.at("view"))
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(ours, all(&places.at("view")));
        unmount(places.at("view"), UnmountFlags::DETACH).unwrap();
    }
    unmount(base.path(), UnmountFlags::DETACH).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_lists_below_they_are_refused_and_all_else_works() {
    if !private_namespace() {
        return;
    }
    let base = tempfile::TempDir::with_prefix("nv").unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    rustix::mount::mount("none", base.path(), "ramfs", MountFlags::empty(), None).unwrap();
    {
        let places = Places::new_in(base.path());
        fs::write(places.at("store/file"), "content").unwrap();
        let m = places.mount(nixview::fuse::Io::Cached, Some((0, 0)));
        let (file, new) = (m.path.join("file"), m.path.join("new"));
        for _ in 0..2 {
            for path in [&file, &m.path] {
                assert_eq!(set(path, ACCESS, &list(6, 4, 4, 4, 0)), Err(libc::EOPNOTSUPP));
                assert_eq!(attribute(path, ACCESS), Err(libc::EOPNOTSUPP));
            }
            assert_eq!(as_user(ALICE, || fs::read_to_string(&file)).unwrap(), "content");
            fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        }
        as_user(ROOT, || {
            rustix::process::umask(Mode::from_raw_mode(0o027));
            fs::write(&new, "").unwrap();
        });
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o640);
        m.unmount();
    }
    unmount(base.path(), UnmountFlags::DETACH).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn checks_of_access_ask_for_the_lists_of_others_once_and_of_the_root_at_each_look_up() {
    if !private_namespace() {
        return;
    }
    for io in Places::new().modes() {
        for access_lists in [true, false] {
            let places = Places::new();
            fs::create_dir(places.at("store/dir")).unwrap();
            fs::write(places.at("store/dir/file"), "content").unwrap();
            let options = Options { owner: Some((0, 0)), access_lists, ..Options::default() };
            let m = places.mount_with(io, options);
            let path = m.path.join("dir/file");
            let below = File::open(m.path.join("dir")).unwrap();
            let asked = |user, stat: &(dyn Fn() + Sync)| {
                let requests = m.requests(|| as_user(user, || (0..10).for_each(|_| stat())));
                requests.into_iter().find(|(name, _)| *name == "getxattr").map_or(0, |(_, count)| count)
            };
            let from_top = || assert!(fs::metadata(&path).is_ok());
            let from_below = || assert!(rustix::fs::statat(&below, "file", AtFlags::empty()).is_ok());
            let at = format!("{io:?}, lists: {access_lists}");
            assert_eq!(asked(ROOT, &from_top), 0, "{at}: the owner");
            // Linux does not keep the root's list, nor that it has none, since 6.18.42; before, it asked once.
            let (first, again) = (asked(ALICE, &from_top), asked(ALICE, &from_top));
            assert!(first <= 11 && again <= 10, "{at}: {first}, {again}");
            assert!(access_lists || first + again == 0, "{at}: {first}, {again}");
            assert_eq!(asked(ALICE, &from_below), 0, "{at}: what is below is known");
            assert_eq!(asked(BOB, &from_below), 0, "{at}: for everybody");
            drop(below);
            m.unmount();
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn programs_carry_lists_into_a_view_and_out_of_it() {
    if !private_namespace() {
        return;
    }
    for program in ["setfacl", "getfacl", "tar", "rsync", "cp"] {
        if let Err(error) = Command::new(program).arg("--version").output() {
            return skip!("{program}: {error}");
        }
    }
    let script = r#"
        set -e
        cd plain
        mkdir -p src/dir
        echo text > src/file; echo more > src/dir/file
        setfacl -m u:1234:rw,g:77:r src/file
        setfacl -m u:1234:rwx,d:u:1234:rwx,d:g:77:r-x src/dir
        echo inherits > src/dir/new
        lists() { (cd "$1" && find . | sort | xargs getfacl -n); }
        lists src > want
        same() { lists "$1" | diff want -; }
        mkdir ../view/tar ../view/rsync back
        tar --acls -C src -cf - . | tar --acls -C ../view/tar -xpf -; same ../view/tar
        rsync -aA src/ ../view/rsync/; same ../view/rsync
        cp -a src ../view/cp; same ../view/cp
        mv ../view/cp ../view/moved; same ../view/moved
        cp -a ../view/moved ../view/again; same ../view/again
        rsync -aA ../view/moved/ back/; same back
        rm -r back; mv ../view/moved back; same back
        tar --acls -C ../view/tar -cf - . | (mkdir out; tar --acls -C out -xpf -); same out
        setfacl -b ../view/again/file; getfacl -cn ../view/again/file | grep -q user:1234 && exit 1
        setfacl -k ../view/again/dir
        echo fine
    "#;
    for io in Places::new().modes() {
        let places = Places::new();
        let m = places.mount(io, None);
        let output = Command::new("timeout")
            .args(["25", "sh", "-c", script])
            .current_dir(places.top.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.starts_with(b"fine"), "{io:?}: {}", said.escape_ascii());
        m.unmount();
    }
}
