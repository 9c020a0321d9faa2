//! Starting an environment: processes and containers, each with the environment's `/nix`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use serde_json::{Value, json};

use crate::Result;
use crate::build::{Approach, list_of, lock_of, root_of};
use crate::image::unpacked;
use crate::jobs;
use crate::run::{READY, Staying, command, first_line};
use crate::world::{Environment, World};

/// What is measured of many starts at once.
pub(crate) const STARTS_AT_ONCE: &str = "starts at once, until the last is there";

/// How an environment is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Alone,
    NixviewShell,
    NixShell,
    NixviewRunc,
    Image,
    Layers,
    Binds,
    Copy,
    NixviewBwrap,
    BindsBwrap,
    /// A view that overlayfs makes.
    OverlayRunc,
    OverlayBwrap,
    /// An overlay over the store as it is, which shows all of it.
    WholeRunc,
    WholeBwrap,
    /// A hook that does nothing, and no `/nix`.
    EmptyHook,
    /// The hook that mounts a view, in a container whose job does not use it.
    UnusedView,
}

impl Way {
    /// Those that start the same container with views and with what views are compared with.
    pub(crate) const VIEWS: [Self; 11] = [
        Self::Alone,
        Self::EmptyHook,
        Self::UnusedView,
        Self::NixviewRunc,
        Self::OverlayRunc,
        Self::Binds,
        Self::WholeRunc,
        Self::NixviewBwrap,
        Self::OverlayBwrap,
        Self::BindsBwrap,
        Self::WholeBwrap,
    ];

    pub(crate) const ALL: [Self; 14] = [
        Self::Alone,
        Self::NixviewShell,
        Self::NixShell,
        Self::NixviewRunc,
        Self::Image,
        Self::Layers,
        Self::Binds,
        Self::Copy,
        Self::NixviewBwrap,
        Self::BindsBwrap,
        Self::OverlayRunc,
        Self::OverlayBwrap,
        Self::WholeRunc,
        Self::WholeBwrap,
    ];

    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Alone => "runc without /nix",
            Self::NixviewShell => "nixview shell",
            Self::NixShell => "nix-shell",
            Self::NixviewRunc => "nixview, runc",
            Self::Image => "image of one layer, runc",
            Self::Layers => "image of layers, runc",
            Self::Binds => "bind mounts, runc",
            Self::Copy => "copied closure, runc",
            Self::NixviewBwrap => "nixview, bubblewrap",
            Self::BindsBwrap => "bind mounts, bubblewrap",
            Self::OverlayRunc => "nixview by overlayfs, runc",
            Self::OverlayBwrap => "nixview by overlayfs, bubblewrap",
            Self::WholeRunc => "overlay of the whole store, runc",
            Self::WholeBwrap => "overlay of the whole store, bubblewrap",
            Self::EmptyHook => "runc with an empty hook",
            Self::UnusedView => "runc with a view by overlayfs that nothing uses",
        }
    }

    fn approach(self) -> Option<Approach> {
        match self {
            Self::Alone | Self::WholeRunc | Self::WholeBwrap | Self::EmptyHook => None,
            Self::NixviewShell
            | Self::NixviewRunc
            | Self::NixviewBwrap
            | Self::OverlayRunc
            | Self::OverlayBwrap
            | Self::UnusedView => Some(Approach::Nixview),
            Self::NixShell => Some(Approach::NixShell),
            Self::Image => Some(Approach::Image),
            Self::Layers => Some(Approach::Layers),
            Self::Binds | Self::BindsBwrap => Some(Approach::Binds),
            Self::Copy => Some(Approach::Copy),
        }
    }
}

/// Where what approaches built for starting is.
pub(crate) fn home_of(world: &World, approach: Approach) -> PathBuf {
    world.path("homes").join(approach.key())
}

/// One start, with a directory of its own.
pub(crate) struct Start<'a> {
    world: &'a World,
    environment: &'a Environment,
    way: Way,
    home: PathBuf,
    dir: PathBuf,
    id: String,
}

impl<'a> Start<'a> {
    pub(crate) fn new(
        world: &'a World,
        environment: &'a Environment,
        way: Way,
        number: usize,
    ) -> Result<Self> {
        let home = way.approach().map_or_else(|| world.path("homes"), |approach| home_of(world, approach));
        let id = format!("a{number}");
        let dir = world.path("starts").join(&id);
        fs::create_dir_all(dir.join("here"))?;
        let root = root(world, environment);
        if !root.exists() {
            let rootfs = world.repository.join("test-images/oci/rootfs");
            let programs = format!("{}/bin", environment.path);
            crate::run::output(command("bash", [rootfs]).arg(&root).arg(programs))?;
        }
        Ok(Self { world, environment, way, home, dir, id })
    }

    /// From asking for the environment until the first line that its job writes: when that began, and how long it took.
    pub(crate) fn until_first_line(self) -> Result<(Instant, Duration)> {
        let job = if self.uses_nix() { jobs::of(&self.environment.name) } else { "echo up" };
        let result = self.command(job).and_then(|mut command| {
            let began = Instant::now();
            self.prepare()?;
            let mounted = began.elapsed();
            first_line(&mut command).map(|took| (began, mounted + took))
        });
        self.clean_up().and(result)
    }

    /// Does the environment's job, and stays.
    pub(crate) fn stay(self) -> Result<(Staying, Self)> {
        let work = if self.uses_nix() { jobs::of(&self.environment.name) } else { ":" };
        let job = format!("{{ {work}\n}} >/dev/null; echo '{READY}'; read end");
        let started = self.prepare().and_then(|()| Staying::start(&mut self.command(&job)?));
        match started {
            Ok(staying) => Ok((staying, self)),
            Err(why) => self.clean_up().and(Err(why)),
        }
    }

    /// What a runtime does for images before it runs them.
    fn prepare(&self) -> Result<()> {
        match self.way {
            Way::Image | Way::Layers => overlay(&self.dir, &unpacked(&self.home, &self.environment.name)?),
            Way::WholeRunc | Way::WholeBwrap => overlay(&self.dir, &[PathBuf::from("/")]),
            _ => Ok(()),
        }
    }

    fn command(&self, job: &str) -> Result<Command> {
        let (world, name) = (self.world, &self.environment.name);
        let lock = lock_of(&self.home, name);
        let mut command = match self.way {
            Way::NixShell => {
                let project = world.path("projects").join(name).join("shell.nix");
                world.nix("nix-shell", ["--pure", &project.display().to_string(), "--run", job])
            }
            Way::NixviewShell => {
                let mut command = world.nixview(&self.home);
                command.args(["shell", "--pure", "--run", job, "--closure"]).arg(lock);
                command
            }
            Way::NixviewBwrap | Way::OverlayBwrap => {
                let mut command = world.nixview(&self.home);
                command
                    .args(["run", "--backend", self.backend(), "--no-env", "--closure"])
                    .arg(lock)
                    .args(["--", "/usr/bin/bwrap"]);
                self.bubblewrap(&mut command, &["--bind", "/nix", "/nix"], job);
                command
            }
            Way::WholeBwrap => {
                let mut command = command("/usr/bin/bwrap", [""; 0]);
                let nix = self.dir.join("nix").display().to_string();
                self.bubblewrap(&mut command, &["--bind", &nix, "/nix"], job);
                command
            }
            Way::BindsBwrap => {
                let mut command = command("/usr/bin/bwrap", [""; 0]);
                let paths = fs::read_to_string(list_of(&self.home, name))?;
                let binds = paths.lines().flat_map(|path| ["--ro-bind", path, path]);
                let all: Vec<&str> = ["--tmpfs", "/nix"].into_iter().chain(binds).collect();
                self.bubblewrap(&mut command, &all, job);
                command
            }
            _ => {
                self.bundle(job)?;
                let mut command = command("runc", ["--root"]);
                command.arg(world.path("runc")).arg("run").arg("--bundle").arg(&self.dir).arg(&self.id);
                command
            }
        };
        command.current_dir(self.dir.join("here"));
        Ok(command)
    }

    fn backend(&self) -> &'static str {
        match self.way {
            Way::OverlayRunc | Way::OverlayBwrap | Way::UnusedView => "overlay",
            _ => "fuse",
        }
    }

    fn variables(&self) -> [(&'static str, String); 3] {
        let path = &self.environment.path;
        [("PATH", format!("{path}/bin")), ("HOME", "/tmp".to_owned()), ("ENV", path.clone())]
    }

    fn uses_nix(&self) -> bool {
        !matches!(self.way, Way::Alone | Way::EmptyHook | Way::UnusedView)
    }

    fn shell(&self) -> String {
        if self.uses_nix() { format!("{}/bin/bash", self.environment.path) } else { "/bin/sh".to_owned() }
    }

    fn bubblewrap(&self, command: &mut Command, nix: &[&str], job: &str) {
        command.args(["--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind"]);
        command.arg(root(self.world, self.environment)).arg("/").args(nix);
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"]);
        for (name, value) in self.variables() {
            command.args(["--setenv", name, &value]);
        }
        command.args([&self.shell(), "-c", job]);
    }

    /// The same for all ways, but for what is at `/nix`.
    fn bundle(&self, job: &str) -> Result<()> {
        let mut config: Value = serde_json::from_str(include_str!("../../../test-images/oci/config.json"))?;
        let env: Vec<String> =
            self.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
        for (pointer, value) in [
            ("/root/path", json!(root(self.world, self.environment))),
            ("/process/args", json!([self.shell(), "-c", job])),
            ("/process/env", json!(env)),
        ] {
            *config.pointer_mut(pointer).ok_or(pointer)? = value;
        }
        let bind = |source: &Path, options: &[&str]| json!([{ "destination": "/nix", "type": "bind", "source": source, "options": options }]);
        let writable = ["rbind", "nosuid", "nodev"];
        let name = &self.environment.name;
        let mut mounts = match self.way {
            Way::Image | Way::Layers | Way::WholeRunc => bind(&self.dir.join("nix"), &writable),
            Way::Copy => bind(&root_of(&self.home, name).join("nix"), &writable),
            Way::Binds => {
                let list = fs::read_to_string(list_of(&self.home, name))?;
                let tmpfs = json!({ "destination": "/nix", "type": "tmpfs", "source": "tmpfs" });
                let one = |path: &str| json!({ "destination": path, "type": "bind", "source": path, "options": ["bind", "ro"] });
                Value::Array([tmpfs].into_iter().chain(list.lines().map(one)).collect())
            }
            _ => json!([]),
        };
        let all = config.pointer_mut("/mounts").and_then(Value::as_array_mut).ok_or("no mounts")?;
        all.append(mounts.as_array_mut().ok_or("no mounts")?);
        if let Some(hook) = self.hook() {
            let hooks = json!({ "createRuntime": [hook.clone()], "poststop": [hook] });
            config.as_object_mut().ok_or("no object")?.insert("hooks".to_owned(), hooks);
        }
        Ok(fs::write(self.dir.join("config.json"), serde_json::to_vec(&config)?)?)
    }

    fn hook(&self) -> Option<Value> {
        match self.way {
            Way::EmptyHook => return Some(json!({ "path": "/bin/true" })),
            Way::NixviewRunc | Way::OverlayRunc | Way::UnusedView => {}
            _ => return None,
        }
        let hook = self.world.nixview.with_file_name("nixview-oci-hook");
        let args = json!([
            "nixview-oci-hook",
            "--state-dir",
            self.home.join("state"),
            "--runtime-dir",
            self.world.path("run"),
            "--nixview",
            self.world.nixview,
            "--store",
            "/nix/store",
            "--backend",
            self.backend(),
            "--closure",
            lock_of(&self.home, &self.environment.name)
        ]);
        Some(json!({ "path": hook, "args": args }))
    }

    /// After the end: what was mounted and written for it goes, and views have time to.
    pub(crate) fn clean_up(self) -> Result<()> {
        let nix = self.dir.join("nix");
        if nix.exists() {
            unmount(&nix, UnmountFlags::DETACH)?;
        }
        fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

/// Views end by themselves once nobody uses them.
pub(crate) fn wait_for_views(world: &World) -> Result<()> {
    let views = world.path("run/views");
    for _ in 0..500 {
        if fs::read_dir(&views).map_or(0, Iterator::count) == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("views are still there after ten seconds".into())
}

fn root(world: &World, environment: &Environment) -> PathBuf {
    world.path("containers").join(&environment.name)
}

/// Layers over each other at `nix` in a directory, and a new one to write into above them. Each is named to the kernel by
/// itself, so that the length of all of them together is no limit.
fn overlay(dir: &Path, layers: &[PathBuf]) -> Result<()> {
    for name in ["nix", "upper", "overlay"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers.iter().rev() {
        fsconfig_set_string(&overlay, "lowerdir+", layer.join("nix"))?;
    }
    fsconfig_set_string(&overlay, "upperdir", dir.join("upper"))?;
    fsconfig_set_string(&overlay, "workdir", dir.join("overlay"))?;
    fsconfig_create(&overlay)?;
    let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(move_mount(&mount, "", rustix::fs::CWD, dir.join("nix"), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
