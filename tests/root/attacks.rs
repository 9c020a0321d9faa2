//! Attacks on a view from inside it, by the root of a container: the store is never changed, nothing outside of the
//! closure or of the view is shown, and what lies in the upper is never followed on the host.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::{Duration, Instant};

use crate::support::effort::pick;
use crate::support::scene::{MODES, Ran, Scene, on_each_backend, ran};
use crate::support::skip::skip;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, renameat_with};

const INSIDE: &str = include_str!("../data/attacks/inside.py");

/// True if there is a Python to attack with.
fn python() -> bool {
    let there = Command::new("python3").arg("-V").output().is_ok_and(|output| output.status.success());
    if !there {
        skip!("no python3");
    }
    there
}

/// Runs attacks in a view of `env-b` that is at `/nix`.
fn inside(scene: &Scene, options: &[&str], attack: &[&str]) -> Ran {
    let mut command = scene.command();
    command.args(["run", "--closure"]).arg(scene.path("env-b.lock")).arg("--store").arg(scene.store.root());
    command.args(options).args(["--", "python3", "-c", INSIDE]).args(attack);
    ran(command.current_dir("/").output().unwrap())
}

/// Puts files of their own into the store for each attack. (Contents are not compared with the database's hash.)
fn victims(scene: &Scene) -> Vec<String> {
    let place = scene.store.real("data");
    (0..8)
        .map(|number| {
            let name = format!("victim{number}");
            fs::write(place.join(&name), format!("content of victim {number}\n").repeat(500)).unwrap();
            format!("{}/{name}", scene.store.logical("data"))
        })
        .collect()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn no_way_of_writing_reaches_the_store() {
    if !python() {
        return;
    }
    for mode in MODES {
        let scene = Scene::new();
        let victims = victims(&scene);
        let before = scene.store_digest();
        scene.mount("env-b", "b", &[&["--name", "neighbour", "--tmp"], mode].concat()).ok();
        let neighbour = scene.path("b/store").join(scene.store.path("data"));
        let read =
            || victims.iter().map(|v| fs::read(neighbour.join(Path::new(v).file_name().unwrap())).unwrap());
        let shown: Vec<_> = read().collect();
        // What all views share of Nix's state is as safe.
        let state = scene.path("b/var");
        let recorded = tree(&state);
        let database = fs::read(state.join("nix/db/db.sqlite")).unwrap();
        let mut attack = vec!["lower", "/nix/scratch"];
        attack.extend(victims.iter().map(String::as_str));
        inside(&scene, mode, &attack).ok();
        let state_attack = "cd /nix/var/nix/db; exec 3<db.sqlite; echo x >>db.sqlite; echo 11 >schema; chmod 777 reserved; \
            printf y | dd of=db.sqlite conv=notrunc 2>/dev/null; cat <&3 >/dev/null; : >db.sqlite; mv schema other; \
            python3 -c 'import mmap; f = open(\"reserved\", \"r+b\"); m = mmap.mmap(f.fileno(), 4096); m[0] = 1; m.flush()'; \
            cd /; rm -r /nix/var/nix";
        scene.run("env-b", &[&["--tmp"], mode].concat(), state_attack).ok();
        assert_eq!(scene.store_digest(), before, "the store was changed ({mode:?})");
        assert!(read().eq(shown), "another view shows the change ({mode:?})");
        assert_eq!(tree(&state), recorded, "another view's state of Nix is changed ({mode:?})");
        assert_eq!(fs::read(state.join("nix/db/db.sqlite")).unwrap(), database, "({mode:?})");
        let templates = fs::read_dir(scene.path("state/nix-state")).unwrap().map(|e| e.unwrap().path());
        let mut same =
            templates.filter(|path| fs::read(path.join("nix-state/nix/db/db.sqlite")).unwrap() == database);
        assert!(same.next().is_some(), "the shared state is changed ({mode:?})");
        scene.nixview(&["umount", "neighbour"]).ok();
        scene.assert_nothing_left();
    }
}

/// What each way of asking for a name answers.
fn asked(path: &Path) -> Vec<Option<i32>> {
    fn errno<T>(answer: io::Result<T>) -> Option<i32> {
        answer.err().and_then(|error| error.raw_os_error())
    }
    let other = path.with_file_name("other");
    let handle = |flags| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let beneath = || {
        let dir = fs::File::open(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap();
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(dir, name, OFlags::PATH, Mode::empty(), resolve).map_err(io::Error::from)
    };
    vec![
        errno(fs::symlink_metadata(path)),
        errno(fs::metadata(path)),
        errno(fs::File::open(path)),
        errno(handle(OFlags::PATH)),
        errno(beneath()),
        errno(fs::OpenOptions::new().append(true).open(path)),
        errno(fs::read_link(path)),
        errno(fs::read_dir(path)),
        errno(fs::canonicalize(path)),
        errno(fs::metadata(path.join("below"))),
        errno(Command::new(path).output()),
        errno(rustix::fs::access(path, rustix::fs::Access::EXISTS).map_err(io::Error::from)),
        errno(rustix::fs::getxattr(path, "user.x", &mut [0_u8; 8][..]).map_err(io::Error::from)),
        errno(fs::set_permissions(path, fs::Permissions::from_mode(0o777))),
        errno(fs::rename(path, &other)),
        errno(fs::hard_link(path, &other)),
        errno(fs::remove_file(path)),
        errno(fs::remove_dir(path)),
    ]
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_is_hidden_answers_as_what_is_absent() {
    for scene in on_each_backend() {
        let before = scene.store_digest();
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        let (view, secret) = (scene.path("a/store"), scene.store.path("secret").to_owned());
        let absent = asked(&view.join("00000000000000000000000000000000-nothing"));
        assert_eq!(absent, vec![Some(libc::ENOENT); absent.len()]);
        let hash_part = secret.split('-').next().unwrap();
        let drv = scene.store.path("env-a.drv").to_owned();
        let hosts_root = "../var/nix/gcroots/nixview/web";
        for hidden in
            [&secret, hash_part, &format!("{hash_part}-"), &drv, ".links", "trash", "../var/log", hosts_root]
        {
            assert_eq!(asked(&view.join(hidden)), absent, "{hidden}");
        }
        for number in 0_u32..10_000 {
            let name = format!("{:032x}-secret", u128::from(number.wrapping_mul(2_654_435_761)) << 64);
            let error = fs::symlink_metadata(view.join(&name)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{name}");
        }
        // Nor does what Nix records in the view name it.
        let recorded = fs::read(scene.path("a/var/nix/db/db.sqlite")).unwrap();
        let named = |part: &str| recorded.windows(part.len()).any(|bytes| bytes == part.as_bytes());
        assert!(named(scene.store.path("env-a")) && !named(hash_part));
        // Links out of the view, as the view's own users make them.
        symlink(format!("../store/{secret}"), scene.path("a/relative")).unwrap();
        let link = scene.path("a/relative");
        assert_eq!(fs::metadata(link).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        // Making a hidden name is making a new one: nothing of the store shows through.
        fs::create_dir(view.join(&secret)).unwrap();
        assert_eq!(fs::read_dir(view.join(&secret)).unwrap().count(), 0);
        scene.nixview(&["umount", "web"]).ok();
        assert_eq!(scene.store_digest(), before);
        scene.assert_nothing_left();
    }
}

/// The median time of a first and of a second look at each name, in turns of one of either kind.
fn times_of(view: &Path, hidden: &[String], absent: &[String]) -> [[Duration; 2]; 2] {
    let dir = fs::File::open(view).unwrap();
    let look = |name: &String| {
        let began = Instant::now();
        let answer = rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        let took = began.elapsed();
        assert_eq!(answer.map(|found| found.st_mode), Err(rustix::io::Errno::NOENT), "{name}");
        took
    };
    [(); 2].map(|()| {
        let mut times = [Vec::new(), Vec::new()];
        for pair in hidden.iter().zip(absent) {
            times[0].push(look(pair.0));
            times[1].push(look(pair.1));
        }
        times.map(|mut times| {
            times.sort();
            times[times.len() / 2]
        })
    })
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn nightly_what_is_hidden_takes_the_time_of_what_is_absent() {
    const MOST: f64 = 0.04;
    for scene in on_each_backend() {
        let names = |first: u128| (first..first + 3000).map(|n| format!("{:032x}-name", n << 90));
        let (hidden, absent) = (names(0).collect::<Vec<_>>(), names(1 << 20).collect::<Vec<_>>());
        hidden.iter().for_each(|name| fs::create_dir(scene.store.store_dir().join(name)).unwrap());
        let mut least = [[Duration::MAX; 2]; 2];
        // Other work on the machine adds to some rounds: the least of each kind counts.
        for _ in 0..5 {
            scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
            let times = times_of(&scene.path("a/store"), &hidden, &absent);
            least = [0, 1].map(|look| [0, 1].map(|kind| least[look][kind].min(times[look][kind])));
            scene.nixview(&["umount", "web"]).ok();
        }
        println!("{:?}: hidden, absent: first {:?}, second {:?}", scene.backend(), least[0], least[1]);
        for [hidden, absent] in least {
            let apart = (hidden.as_secs_f64() / absent.as_secs_f64() - 1.0).abs();
            assert!(apart < MOST, "{hidden:?} {absent:?}");
        }
        scene.assert_nothing_left();
    }
}

/// Links in a member that name a hidden path.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn links_of_a_member_lead_nowhere_that_is_hidden() {
    for scene in on_each_backend() {
        let (data, secret) = (scene.store.real("data"), scene.store.logical("secret"));
        let up = format!("{}{}", "../".repeat(40), secret.trim_start_matches('/'));
        let beside = format!("../{}", scene.store.path("secret"));
        for (name, target) in [("absolute", &secret), ("up", &up), ("beside", &beside)] {
            symlink(target, data.join(name)).unwrap();
            symlink(format!("{target}/key"), data.join(format!("{name}-key"))).unwrap();
        }
        let before = scene.store_digest();
        let script = format!(
            "cd {}; for name in absolute up beside; do readlink $name; ls $name/ && echo seen; cat $name-key $name/key && echo seen; \
             echo x >$name-key; done 2>/dev/null; cd ../../..; pwd; ls nix/store | wc -l",
            scene.store.logical("data")
        );
        let ran = scene.run("env-b", &[], &script).ok();
        let want = [&secret, &up, &beside, "/", &scene.store.closure("env-b").len().to_string()].join("\n");
        assert_eq!(ran.out.trim_end(), want, "{ran:?}");
        assert_eq!(scene.store_digest(), before);
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_proc_tells_of_a_process_in_a_view_are_the_view_s_names() {
    if !python() {
        return;
    }
    for scene in on_each_backend() {
        victims(&scene);
        let data = scene.store.logical("data");
        fs::copy("/bin/cat", scene.store.real("data").join("cat")).unwrap();
        let (file, program) = (format!("{data}/victim0"), format!("{data}/cat"));
        let host = scene.dir.path().to_str().unwrap();
        inside(&scene, &[], &["processes", &file, &program, host]).ok();
        scene.assert_nothing_left();
    }
}

/// Everything below a directory: paths, modes, sizes, targets.
fn tree(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let link = fs::read_link(&path).unwrap_or_default();
        all.push(format!("{path:?} {:o} {} {} {link:?}", found.mode(), found.size(), found.rdev()));
        if found.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

/// All attributes on the disk below a directory whose names the formats use.
fn marked(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut names = vec![0; 64 * 1024];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let all =
            names[..length].split(|byte| *byte == 0).map(|name| String::from_utf8(name.to_vec()).unwrap());
        found.extend(all.filter(|name| name.contains(".overlay.") || name.contains(".nixview.")));
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(marked(&path));
        }
    }
    found
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn marks_of_the_upper_cannot_be_set_from_inside() {
    if !python() {
        return;
    }
    for scene in on_each_backend() {
        victims(&scene);
        let before = scene.store_digest();
        let upper = scene.path("upper").into_os_string().into_string().unwrap();
        let data = scene.store.logical("data");
        let attack = ["marks", &format!("{data}/marks"), &data, &format!("{data}/victim0")];
        inside(&scene, &["--upper", &upper], &attack).ok();
        // What they were let to make is what it looks like, and hides nothing, also after a remount.
        let mut seen = Vec::new();
        for _ in 0..2 {
            scene.mount("env-b", "a", &["--name", "web", "--upper", &upper]).ok();
            seen.push(tree(&scene.path("a")));
            scene.nixview(&["umount", "web"]).ok();
        }
        assert_eq!(seen[0], seen[1]);
        let shows = |name: &str| seen[0].iter().any(|line| line.contains(&format!("/{name}\" ")));
        let made = ["marks", "file", ".wh.file", ".wh..wh..opq", "fifo"];
        let special: &[&str] = if scene.by_overlayfs() { &["null", "block"] } else { &["zero"] };
        for name in made.into_iter().chain(["victim0", "victim7", "share"]).chain(special.iter().copied()) {
            assert!(shows(name), "{name} is hidden");
        }
        assert!(scene.by_overlayfs() || !shows("null"), "a device was made");
        let marked = marked(&scene.path("upper/tree/nix"));
        assert!(marked.iter().any(|name| name == "trusted.overlay.overlay.redirect"), "{marked:?}");
        let own = ["trusted.overlay.opaque", "trusted.nixview.origin", "trusted.nixview.device"];
        // Of overlayfs's own, and a name that is nothing to it.
        let overlayfs = ["trusted.overlay.origin", "trusted.overlay.impure", "user.nixview.origin"];
        let own = if scene.by_overlayfs() { [&own[..], &overlayfs].concat() } else { own.to_vec() };
        for name in marked {
            let escaped = [
                "trusted.overlay.overlay.",
                "trusted.nixview.nixview.",
                "user.nixview.nixview.",
                "user.overlay.",
            ];
            let inert = escaped.iter().any(|prefix| name.starts_with(prefix));
            assert!(inert || own.contains(&&*name), "{name} was set from inside");
        }
        // Nor do the marks mean anything to the other backend. What it shows a device 0:0 as, docs/semantics.md says.
        let other = if scene.by_overlayfs() { "fuse" } else { "overlay" };
        scene.mount("env-b", "a", &["--name", "web", "--upper", &upper, "--backend", other]).ok();
        let paths = |tree: &[String]| -> Vec<String> {
            tree.iter().map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
        };
        assert_eq!(paths(&tree(&scene.path("a"))), paths(&seen[0]), "by {other}");
        scene.nixview(&["umount", "web"]).ok();
        scene.nixview(&["upper", "remove", &upper]).ok();
        assert_eq!(scene.store_digest(), before, "the store was changed");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn file_handles_of_the_host_open_nothing() {
    if !python() {
        return;
    }
    for scene in on_each_backend() {
        let of = |path: PathBuf| {
            let mut command = Command::new("python3");
            command.args(["-c", INSIDE, "handle_of"]).arg(path);
            ran(command.output().unwrap()).ok().out.trim().to_owned()
        };
        let data = scene.store.logical("data");
        for hidden in [scene.store.real("secret"), scene.path("env-a.lock"), scene.store.store_dir()] {
            inside(&scene, &[], &["handles", &of(hidden), "/nix", "/nix/store", &data]).ok();
        }
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn numbers_and_names_tell_nothing_of_the_host() {
    for backend in ["fuse", "overlay"] {
        let scenes = [Scene::on(backend), Scene::on(backend)];
        let root = if scenes[0].by_overlayfs() { "/nix" } else { "/" };
        // The second host has other inode numbers, more links and other times.
        let extra = scenes[1].store.store_dir().join(".links");
        fs::create_dir_all(&extra).unwrap();
        let config = scenes[1].store.real("config");
        fs::hard_link(&config, extra.join("link")).unwrap();
        let told = scenes.each_ref().map(|scene| {
            scene.mount("env-a", "a", &["--name", "web", "--read-only"]).ok();
            let view = scene.path("a");
            let mut told: Vec<_> = tree(&view.join("store"))
                .iter()
                .map(|line| PathBuf::from(line.split('"').nth(1).unwrap()))
                .map(|path| {
                    let m = fs::symlink_metadata(&path).unwrap();
                    assert_eq!((m.uid(), m.gid()), (0, 0), "{}", path.display());
                    let name = path.strip_prefix(&view).unwrap().to_owned();
                    // What overlayfs tells of the store: docs/semantics.md.
                    if scene.by_overlayfs() {
                        return (name, 0, 0, m.mtime() as u64, 0);
                    }
                    assert_eq!(m.nlink(), 1, "{}", path.display());
                    assert_eq!((m.atime(), m.ctime()), (m.mtime(), m.mtime()), "{}", path.display());
                    (name, m.ino(), m.blocks(), m.size(), m.blksize())
                })
                .collect();
            told.sort();
            let mounts = nixview::sys::mountinfo::mounts().unwrap();
            let mount = mounts.into_iter().find(|m| m.mount_point == view).unwrap();
            assert_eq!((mount.source.as_slice(), mount.root.as_path()), (&b"nixview"[..], Path::new(root)));
            let options = mount.super_options.escape_ascii().to_string();
            assert!(!options.contains("/tmp"), "{options}");
            let space = rustix::fs::statvfs(&view).unwrap();
            scene.nixview(&["umount", "web"]).ok();
            (told, options, space.f_blocks, space.f_bfree, space.f_files, space.f_ffree)
        });
        assert_eq!(told[0], told[1]);
        assert!(told[0].0.len() > 10);
        // A program in the view is told of by the view's paths alone.
        let maps =
            scenes[0].run("env-a", &[], "cd /nix; cat /proc/self/mountinfo | grep ' /nix '; pwd -P").ok().out;
        assert!(!maps.contains(scenes[0].store.root().to_str().unwrap()), "{maps}");
        for scene in &scenes {
            scene.assert_nothing_left();
        }
    }
}

/// Whatever a race made of it.
fn ignore<T>(_: T) {}

/// Links lead from their place in the upper to the canary, from their place in the view to nowhere.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_lies_in_the_upper_is_not_followed_on_the_host() {
    for mode in MODES {
        let scene = Scene::new();
        let canary = scene.path("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        let looked_at = fs::metadata(&canary).unwrap();
        let upper = scene.path("upper").into_os_string().into_string().unwrap();
        scene.mount("env-a", "a", &[&["--name", "web", "--upper", &upper], mode].concat()).ok();
        let own = scene.path("a/own");
        fs::create_dir(&own).unwrap();
        fs::create_dir(own.join("dir")).unwrap();
        fs::write(own.join("dir/file"), "mine").unwrap();
        fs::write(own.join("file"), "mine").unwrap();
        symlink("../../../../canary", own.join("dirlink")).unwrap();
        symlink("../../../../canary/file", own.join("filelink")).unwrap();
        rustix::fs::mkfifoat(CWD, own.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        assert!(fs::metadata(scene.path("upper/tree/nix/own/filelink")).is_ok(), "the trap leads nowhere");
        assert!(fs::metadata(own.join("filelink")).is_err());

        let stop = AtomicBool::new(false);
        let swap = |one: &str, other: &str| {
            let (one, other) = (own.join(one), own.join(other));
            while !stop.load(Ordering::Relaxed) {
                ignore(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| swap("dir", "dirlink"));
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for other in ["filelink", "fifo"] {
                        ignore(renameat_with(
                            CWD,
                            own.join("file"),
                            CWD,
                            own.join(other),
                            RenameFlags::EXCHANGE,
                        ));
                    }
                }
            });
            let until = Instant::now() + Duration::from_secs(pick(1, 10));
            while Instant::now() < until {
                // Errors are what the race answers; nothing may be followed, and nothing hang.
                for path in
                    [own.join("file"), own.join("dir/file"), own.join("dir/new"), own.join("filelink")]
                {
                    ignore(fs::set_permissions(&path, fs::Permissions::from_mode(0o600)));
                    ignore(rustix::fs::setxattr(&path, "user.x", b"x", rustix::fs::XattrFlags::empty()));
                    let flags = rustix::fs::OFlags::WRONLY
                        | rustix::fs::OFlags::NONBLOCK
                        | rustix::fs::OFlags::TRUNC
                        | rustix::fs::OFlags::CREATE
                        | rustix::fs::OFlags::CLOEXEC;
                    if let Ok(fd) = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                        ignore(rustix::io::write(&fd, b"EVIL"));
                    }
                    ignore(rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(7)), None));
                    ignore(fs::read_dir(own.join("dir")).map(Iterator::count));
                }
                ignore(fs::remove_file(own.join("dir/new")));
            }
            stop.store(true, Ordering::Relaxed);
        });
        scene.nixview(&["umount", "web"]).ok();
        // A link where the view's whole store was.
        let script = "rm -rf /nix/store; ln -s ../../canary /nix/store; ls -l /nix";
        let options = [&["--upper", &upper], mode].concat();
        scene.run("env-a", &options, script).ok();
        let script = "touch /nix/store/x; mkdir /nix/store/y; rm -rf /nix/store/file; readlink /nix/store";
        assert_eq!(scene.run("env-a", &options, script).ok().out, "../../canary\n");
        scene.nixview(&["upper", "remove", &upper]).ok();

        let names: Vec<_> = fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.iter().map(|n| n.as_bytes()).collect::<Vec<_>>(), [b"file"]);
        assert_eq!(fs::read(canary.join("file")).unwrap(), b"alive", "{mode:?}");
        let now = fs::metadata(&canary).unwrap();
        assert_eq!(
            (now.mode(), now.uid(), now.mtime_nsec()),
            (looked_at.mode(), looked_at.uid(), looked_at.mtime_nsec())
        );
        let file = fs::metadata(canary.join("file")).unwrap();
        assert_eq!((file.mode() & 0o777, file.uid()), (0o644, 0));
        scene.assert_nothing_left();
    }
}
