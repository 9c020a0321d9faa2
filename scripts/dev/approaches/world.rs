//! Where everything is: the store that is shared, its environments, and the projects that describe them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::run::{command, output};

/// One environment of the store.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) name: String,
    /// Its output, as the store was built.
    pub(crate) path: String,
    /// The store paths of its closure, and the space that they take.
    pub(crate) closure: Vec<String>,
    pub(crate) bytes: u64,
}

/// The folder that all is done in, the program that is measured, and the environments, the smallest first.
pub(crate) struct World {
    pub(crate) work: PathBuf,
    pub(crate) nixview: PathBuf,
    pub(crate) repository: PathBuf,
    pub(crate) environments: Vec<Environment>,
    pub(crate) bash: String,
    source: Source,
    /// Tells the changes of this run from those of others.
    stamp: u128,
}

/// Where the expressions of the store are.
enum Source {
    /// What `../shared/debstore/build` made.
    Full(PathBuf),
    /// What `test-images/debian-store/build` made, and what it kept of the downloads.
    Small(PathBuf, PathBuf),
}

impl World {
    /// `built` is the folder with `envs.tsv`.
    pub(crate) fn open(work: &Path, built: &Path, cache: &Path, nixview: &Path) -> Result<Self> {
        let source = if built.join("packages.nix").exists() {
            Source::Full(built.to_owned())
        } else {
            Source::Small(built.to_owned(), cache.to_owned())
        };
        let table = built.join("envs.tsv");
        let table = fs::read_to_string(&table).map_err(|e| format!("{}: {e}", table.display()))?;
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        let mut world = Self {
            work: work.to_owned(),
            nixview: nixview.to_owned(),
            repository: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
            environments: Vec::new(),
            bash: String::new(),
            source,
            stamp,
        };
        for line in table.lines() {
            let mut fields = line.split('\t');
            let (Some(name), Some(path), Some(drv)) = (fields.next(), fields.next(), fields.next()) else {
                return Err(format!("not a line of three fields: {line}").into());
            };
            let environment = world.environment(name, path, drv)?;
            world.environments.push(environment);
        }
        world.environments.sort_by_key(|environment| environment.bytes);
        Ok(world)
    }

    /// Looks whether the store is what the expressions say: else measuring would build it.
    fn environment(&mut self, name: &str, path: &str, drv: &str) -> Result<Environment> {
        let closure = closure(path)?;
        let bytes = space(&closure)?;
        let environment = Environment { name: name.to_owned(), path: path.to_owned(), closure, bytes };
        let project = self.project(&environment)?;
        let same = output(&mut self.nix("nix-instantiate", [self.text(&project.dir, "environment.nix")]))?;
        if same.trim() != drv {
            return Err(format!("{name} evaluates to {}, and the store has {drv}", same.trim()).into());
        }
        if self.bash.is_empty() {
            let bash = r#""${(import ./store.nix).packages.bash}/bin/bash""#;
            let mut eval = self.nix("nix-instantiate", ["--eval", "-E", bash]);
            output(eval.current_dir(&project.dir))?.trim().trim_matches('"').clone_into(&mut self.bash);
        }
        Ok(environment)
    }

    /// A path below a directory, as text.
    pub(crate) fn text(&self, dir: &Path, below: &str) -> String {
        dir.join(below).display().to_string()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.work.join(below)
    }

    /// A program of Nix or one that starts it, with nothing of the caller's Nix.
    pub(crate) fn nix<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        words: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = command(program, words);
        command.env("NIX_CONF_DIR", self.repository.join("test-images/debian-store"));
        command.env("NIX_PATH", "").env("NIX_REMOTE", "").env("HOME", self.path("home"));
        command.env("TMPDIR", self.path("tmp"));
        command.env("NIX_BUILD_SHELL", &self.bash);
        command
    }

    /// The program that is measured, with its state and views below `home`.
    pub(crate) fn nixview(&self, home: &Path) -> Command {
        let mut command = self.nix(&self.nixview.display().to_string(), [""; 0]);
        command.arg("--state-dir").arg(home.join("state")).arg("--runtime-dir").arg(self.path("run"));
        command
    }

    /// A folder with the expressions of the environment, unchanged. Made anew each time.
    pub(crate) fn project(&self, environment: &Environment) -> Result<Project> {
        let dir = self.path("projects").join(&environment.name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("stdenv"))?;
        fs::write(dir.join("stdenv/setup"), "export PATH=$environment/bin\n")?;
        let node = environment.name == "node";
        let store = match &self.source {
            Source::Full(built) => {
                for name in ["nix", "boot", "packages.nix"].into_iter().chain(node.then_some("extra")) {
                    output(command("cp", ["-a"]).arg(built.join(name)).arg(&dir))?;
                }
                let name = &environment.name;
                format!(
                    "let store = import ./nix; in {{ environment = store.envs.{name}; packages = store.p; }}\n"
                )
            }
            Source::Small(built, cache) => {
                let of = self.repository.join("test-images/debian-store");
                let kept = ["boot"].into_iter().chain(node.then_some("extra")).map(|name| cache.join(name));
                let all = [of.join("nix"), of.join("environments"), built.join("packages.json")];
                for from in all.into_iter().chain(kept) {
                    output(command("cp", ["-a"]).arg(from).arg(&dir))?;
                }
                format!(
                    "let store = import ./nix {{ packages = ./packages.json; boot = ./boot; extra = ./extra; }};\n\
                     in {{ environment = store.environments.{}; packages = store.debian; }}\n",
                    environment.name
                )
            }
        };
        fs::write(dir.join("store.nix"), store)?;
        let shell = format!(
            "let\n  environment = import ./environment.nix;\n  inherit (import ./store.nix) packages;\n\
             in derivation {{\n  name = \"shell-{}\";\n  system = \"x86_64-linux\";\n  builder = \"${{packages.bash}}/bin/bash\";\n  \
             args = [ \"-c\" \"exit 1\" ];\n  stdenv = ./stdenv;\n  ENV = environment;\n  inherit environment;\n}}\n",
            environment.name
        );
        fs::write(dir.join("shell.nix"), shell)?;
        fs::write(dir.join("environment.nix"), "(import ./store.nix).environment\n")?;
        Ok(Project { dir, name: environment.name.clone() })
    }

    /// Changes the project's expression to what no run has had before; with `package`, there is one more of these.
    pub(crate) fn change(&self, project: &Project, number: u32, package: Option<&str>) -> Result<()> {
        let added = package.map_or_else(String::new, |name| format!(" packages.\"{name}\""));
        let text = format!(
            "let inherit (import ./store.nix) environment packages;\n\
             in derivation (environment.drvAttrs // {{\n  change = \"{}-{number}\";\n  paths = environment.drvAttrs.paths ++ [{added} ];\n}})\n",
            self.stamp
        );
        Ok(fs::write(project.dir.join("environment.nix"), text)?)
    }

    /// A package that the store has and the environment has not.
    pub(crate) fn package_beside(
        &self,
        environment: &Environment,
        project: &Project,
    ) -> Option<&'static str> {
        let is_beside = |name: &&&'static str| {
            let of = format!("(import ./store.nix).packages.\"{name}\".outPath");
            let mut eval = self.nix("nix-instantiate", ["--eval", "-E", &of]);
            let path = output(eval.current_dir(&project.dir)).unwrap_or_default();
            let path = path.trim().trim_matches('"').to_owned();
            Path::new(&path).is_dir() && !environment.closure.contains(&path)
        };
        ["make", "s6", "less", "execline", "bash"].iter().find(is_beside).copied()
    }
}

/// The folder of an environment's expressions.
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
}

/// What `nix-store -qR` says.
pub(crate) fn closure(path: &str) -> Result<Vec<String>> {
    let all = output(command("nix-store", ["-qR", path]).env("NIX_REMOTE", ""))?;
    Ok(all.lines().map(str::to_owned).collect())
}

/// What `du` says that files and directories take together, each inode once, in bytes. Nothing takes nothing.
pub(crate) fn space<P: AsRef<Path>>(paths: &[P]) -> Result<u64> {
    let there: Vec<&Path> = paths.iter().map(AsRef::as_ref).filter(|path| path.exists()).collect();
    if there.is_empty() {
        return Ok(0);
    }
    let said = output(command("du", ["-s", "-c", "--block-size=1", "--"]).args(there))?;
    let total = said.lines().last().and_then(|line| line.split_whitespace().next());
    Ok(total.ok_or("du said nothing")?.parse()?)
}
