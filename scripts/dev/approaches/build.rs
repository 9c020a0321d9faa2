//! What each approach needs before an environment can be started, from its expression on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::image;
use crate::run::{command, feed, output};
use crate::world::{Project, World, closure, space};

/// A way to give an environment to a container, as far as building is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Approach {
    Nixview,
    NixShell,
    Image,
    Layers,
    Binds,
    Copy,
}

impl Approach {
    pub(crate) const ALL: [Self; 6] =
        [Self::Nixview, Self::NixShell, Self::Image, Self::Layers, Self::Binds, Self::Copy];

    /// What it is called in the table.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Nixview => "nixview",
            Self::NixShell => "nix-shell",
            Self::Image => "image, one layer",
            Self::Layers => "image, layered",
            Self::Binds => "bind mounts",
            Self::Copy => "copied closure",
        }
    }

    /// Makes what is missing below `home` for the environment as its expression says now. Where that is what it was, the
    /// approach that keeps something of its own looks no further.
    pub(crate) fn build(self, world: &World, home: &Path, project: &Project) -> Result<()> {
        fs::create_dir_all(home)?;
        let of = |below: &str| world.text(&project.dir, below);
        if self == Self::Nixview {
            let mut lock = world.nixview(home);
            lock.args(["lock", "--env", "--realise", &of("shell.nix"), "--name", &project.name, "-o"]);
            return output(lock.arg(lock_of(home, &project.name))).map(drop);
        }
        if self == Self::NixShell {
            return output(&mut world.nix("nix-shell", ["--pure", &of("shell.nix"), "--run", "true"]))
                .map(drop);
        }
        let path = output(&mut world.nix("nix-build", ["--no-out-link", &of("environment.nix")]))?;
        let path = path.trim();
        let stamp = home.join(format!("{}.path", project.name));
        if fs::read_to_string(&stamp).is_ok_and(|built| built == path) {
            return Ok(());
        }
        match self {
            Self::Image => image::one_layer(home, &project.name, path)?,
            Self::Layers => image::layered(world, home, &project.name, path)?,
            Self::Copy => copy(world, &root_of(home, &project.name), path)?,
            _ => fs::write(list_of(home, &project.name), closure(path)?.join("\n"))?,
        }
        Ok(fs::write(stamp, path)?)
    }

    /// The files and directories of one environment alone, where they can be told from those of others.
    pub(crate) fn own(self, home: &Path, name: &str) -> Result<Option<Vec<PathBuf>>> {
        Ok(match self {
            Self::Nixview | Self::NixShell => None,
            Self::Binds => Some(vec![list_of(home, name)]),
            Self::Copy => Some(vec![root_of(home, name)]),
            Self::Image | Self::Layers => {
                let mut all = image::blobs(home, name)?;
                all.extend(image::unpacked(home, name)?);
                Some(all)
            }
        })
    }
}

pub(crate) fn lock_of(home: &Path, name: &str) -> PathBuf {
    home.join(format!("{name}.lock"))
}

/// The file with the paths to bind.
pub(crate) fn list_of(home: &Path, name: &str) -> PathBuf {
    home.join(format!("{name}.closure"))
}

/// Where a copy's `nix` is.
pub(crate) fn root_of(home: &Path, name: &str) -> PathBuf {
    home.join("roots").join(name)
}

/// Copies the paths of a closure that a root lacks, takes away those that it need not have, and tells Nix's database there.
fn copy(world: &World, root: &Path, path: &str) -> Result<()> {
    let store = root.join("nix/store");
    fs::create_dir_all(&store)?;
    let wanted = closure(path)?;
    let below = |path: &String| root.join(path.trim_start_matches('/'));
    let missing: Vec<&String> =
        wanted.iter().filter(|path| below(path).symlink_metadata().is_err()).collect();
    if !missing.is_empty() {
        output(command("cp", ["-a", "-t"]).arg(&store).args(missing))?;
    }
    for entry in fs::read_dir(&store)? {
        let entry = entry?;
        let full = Path::new("/nix/store").join(entry.file_name());
        let kept = entry.file_name() == ".links" || wanted.iter().any(|path| Path::new(path) == full);
        if !kept {
            output(command("rm", ["-rf"]).arg(entry.path()))?;
        }
    }
    let registration = output(world.nix("nix-store", ["--dump-db"]).args(&wanted))?;
    let remote = format!("local?root={}", root.display());
    feed(world.nix("nix-store", ["--load-db"]).env("NIX_REMOTE", remote), &registration)
}

/// What an approach keeps beside the shared store, in bytes.
pub(crate) fn kept(home: &Path) -> Result<u64> {
    let inside: Vec<PathBuf> =
        fs::read_dir(home)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    space(&inside)
}
