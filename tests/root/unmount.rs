//! Unmounting as root while the owner of a directory above the mount point exchanges it with a symbolic link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nixview::sys::mountinfo;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::scene::{self, Ran, Scene};
use crate::support::wait::{PATIENCE, eventually};

/// Rounds of each attack: the code that unmounted by path lost within four.
const ROUNDS: usize = 8;

/// A view below `home/d`, which its owner exchanges with a link to a directory with a mount of root's.
struct Attacked {
    scene: Scene,
}

impl Attacked {
    fn new() -> Self {
        Self::within(Scene::new())
    }

    /// Where views have servers.
    fn with_servers() -> Self {
        Self::within(Scene::on("fuse"))
    }

    fn within(scene: Scene) -> Self {
        fs::create_dir_all(scene.path("home/d/view")).unwrap();
        fs::create_dir_all(scene.path("victim/view")).unwrap();
        symlink("../victim", scene.path("home/l")).unwrap();
        mount("victim", scene.path("victim/view"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(scene.path("victim/view/data"), "root's").unwrap();
        Self { scene }
    }

    fn mount(&self) {
        self.scene.mount("env-a", "home/d/view", &["--name", "web", "--tmp"]).ok();
    }

    /// Does something while the directories are exchanged all the time.
    fn during_the_attack<T>(&self, act: impl FnOnce(&Scene) -> T) -> T {
        let (own, link) = (self.scene.path("home/d"), self.scene.path("home/l"));
        let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let exchange = || renameat_with(CWD, &own, CWD, &link, RenameFlags::EXCHANGE).unwrap();
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    exchange();
                    begun.store(true, Ordering::Relaxed);
                }
            });
            while !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let _stop = SetAtEnd(&stop);
            act(&self.scene)
        });
        if own.is_symlink() {
            exchange();
        }
        answer
    }

    fn assert_only_the_view_is_unmounted(&self, how: &str) {
        let victim = self.scene.path("victim/view");
        assert_eq!(self.scene.mounts(), std::slice::from_ref(&victim), "{how}");
        assert_eq!(fs::read_to_string(victim.join("data")).unwrap(), "root's", "{how}");
        assert_eq!(self.scene.names("run/views"), Vec::<String>::new(), "{how}");
    }

    fn rounds(&self, how: &str, end: impl Fn(&Scene)) {
        for _ in 0..ROUNDS {
            self.mount();
            self.during_the_attack(&end);
            self.assert_only_the_view_is_unmounted(how);
        }
    }
}

impl Drop for Attacked {
    fn drop(&mut self) {
        // The scene takes away what is mounted in it.
        drop(nixview::sys::mount::unmount(
            &self.scene.path("victim/view"),
            nixview::sys::mount::Unmount::Lazy,
        ));
    }
}

/// Ends the attack, also when what was done meanwhile has failed.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a signal to a process of a view, and waits until nothing of the view is left.
fn told_to_end(scene: &Scene, pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    eventually("the view ends", PATIENCE, || scene.names("run/views").is_empty());
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_exchanged_directory_leads_no_unmount_elsewhere() {
    let attacked = Attacked::new();
    attacked.rounds("umount NAME", |scene| drop(scene.nixview(&["umount", "web"]).ok()));
    attacked.rounds("umount --lazy NAME", |scene| drop(scene.nixview(&["umount", "--lazy", "web"]).ok()));
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_exchanged_directory_leads_no_server_that_ends_elsewhere() {
    let attacked = Attacked::with_servers();
    attacked.rounds("SIGTERM to the keeper", |scene| told_to_end(scene, scene.keeper("web")));
    attacked.rounds("SIGTERM to the server whose keeper is dead", |scene| {
        let server = scene.server("web");
        scene::kill(scene.keeper("web"));
        told_to_end(scene, server);
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_exchanged_directory_leads_no_sweep_elsewhere() {
    let attacked = Attacked::with_servers();
    attacked.rounds("status after both were killed", |scene| {
        scene.kill_view("web");
        drop(scene.nixview(&["status"]).ok());
    });
}

/// Changes the record of a view, as a program of another version would have written it.
fn rewrite(scene: &Scene, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let file = scene.path("run/views/web.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    change(record.as_object_mut().unwrap());
    fs::write(&file, format!("{record}\n")).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_unique_numbers_the_one_of_mountinfo_counts() {
    let attacked = Attacked::new();
    let number = |scene: &Scene| {
        let all = mountinfo::mounts().unwrap();
        let view = all.iter().find(|m| m.mount_point == scene.path("home/d/view")).unwrap();
        view.id
    };
    // As before Linux 6.8.
    for lazy in [&["umount", "web"][..], &["umount", "--lazy", "web"]] {
        attacked.mount();
        let reused = number(&attacked.scene);
        rewrite(&attacked.scene, |record| drop(record.insert("mountId".to_owned(), reused.into())));
        attacked.during_the_attack(|scene| scene.nixview(lazy)).ok();
        attacked.assert_only_the_view_is_unmounted("an old kernel");
    }
    // As an older nixview wrote it: no descriptor, no number in mountinfo.
    attacked.mount();
    rewrite(&attacked.scene, |record| {
        drop((record.remove("mountPointFd"), record.remove("mountInMountinfo")));
    });
    attacked.during_the_attack(|scene| scene.nixview(&["umount", "--lazy", "web"])).ok();
    attacked.assert_only_the_view_is_unmounted("an old record");
    // Another mount has got the number: it is not the view.
    attacked.mount();
    let reused = number(&attacked.scene);
    rewrite(&attacked.scene, |record| drop(record.insert("mountId".to_owned(), (reused + 1).into())));
    let ran: Ran = attacked.scene.nixview(&["umount", "--lazy", "web"]);
    ran.failed(1, &["cannot unmount"]);
    assert!(attacked.scene.mounts().iter().any(|m| m.starts_with(attacked.scene.path("home"))));
    rewrite(&attacked.scene, |record| drop(record.insert("mountId".to_owned(), reused.into())));
    attacked.scene.nixview(&["umount", "web"]).ok();
    attacked.assert_only_the_view_is_unmounted("the right number");
}

/// The path of a mount changes with the directories above it: it is found all the same.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_below_a_renamed_directory_is_unmounted() {
    let scene = Scene::on("fuse");
    for dead in [false, true] {
        fs::create_dir_all(scene.path("old/view")).unwrap();
        scene.mount("env-a", "old/view", &["--name", "web", "--tmp"]).ok();
        fs::rename(scene.path("old"), scene.path("new")).unwrap();
        if dead {
            scene.kill_view("web");
            scene.nixview(&["status"]).ok();
        } else {
            scene.nixview(&["umount", "web"]).ok();
        }
        scene.assert_nothing_left();
        fs::remove_dir_all(scene.path("new")).unwrap();
    }
}

/// A view that is mounted elsewhere by now, or below another mount, is not said to be detached.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn unmounting_by_an_old_path_tells_where_the_view_is() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("old/view")).unwrap();
    scene.mount("env-a", "old/view", &["--name", "web", "--tmp"]).ok();
    mount("over", scene.path("old/view"), "tmpfs", MountFlags::empty(), None).unwrap();
    let old = scene.path("old/view");
    let old = old.to_str().unwrap();
    scene.nixview(&["umount", old]).failed(1, &["mounted over the view 'web' there"]);
    rustix::mount::unmount(scene.path("old/view"), rustix::mount::UnmountFlags::empty()).unwrap();
    fs::rename(scene.path("old"), scene.path("new")).unwrap();
    fs::create_dir_all(scene.path("old/view")).unwrap();
    let new = scene.path("new/view");
    scene.nixview(&["umount", old]).failed(1, &[&format!("is mounted on {}", new.display())]);
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

/// The view lies on the root of another mount, which stays.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_a_view_lies_on_stays_mounted() {
    let scene = Scene::on("fuse");
    let below = scene.path("a");
    mount("below", &below, "tmpfs", MountFlags::empty(), None).unwrap();
    let file_system = |path: &Path| mountinfo::mount_at(path).unwrap().unwrap().file_system;
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    assert_eq!(file_system(&below), b"fuse.nixview");
    // What lies over it must go first.
    mount("over", &below, "tmpfs", MountFlags::empty(), None).unwrap();
    for lazy in [&["umount", "web"][..], &["umount", "--lazy", "web"]] {
        scene.nixview(lazy).failed(1, &["something else is mounted over", "hint: unmount that first"]);
    }
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
    // Two at once: one of them finds nothing.
    let both = [(); 2].map(|()| scene.command().args(["umount", "web"]).spawn().unwrap());
    for mut child in both {
        child.wait().unwrap();
    }
    assert_eq!(file_system(&below), b"tmpfs");
    assert_eq!(scene.mounts(), std::slice::from_ref(&below));
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).unwrap();
    scene.assert_nothing_left();
}

/// A test harness or an administrator removes the runtime directory below views that are mounted.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_whose_registry_was_removed_is_unmounted_at_its_end() {
    let scene = Scene::new();
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    let keeper = scene.keeper("web");
    fs::remove_dir_all(scene.path("run")).unwrap();
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::TERM).unwrap();
    eventually("the view ends", PATIENCE, || scene.mounts().is_empty());
    eventually("its processes end", PATIENCE, || scene.processes().is_empty());
}
