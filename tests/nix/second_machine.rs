//! A lock on a machine whose store has nothing of it: what is said, and `--realise`.

use std::process::Output;

use super::lock::Scene;

/// A lock that was made on one machine, and stores of others.
struct Machines {
    scene: Scene,
    /// The locked path and its derivation.
    path: String,
    derivation: String,
}

impl Machines {
    /// `None`, and said, if there is no Nix here.
    fn new() -> Option<Self> {
        let scene = Scene::new()?;
        scene.lock(&["project/shell.nix#plain"]);
        let root = scene.locked()["roots"][0].clone();
        let text = |name: &str| root[name].as_str().unwrap().to_owned();
        Some(Self { path: text("path"), derivation: text("drvPath"), scene })
    }

    /// `nix copy` of the first machine's store.
    fn copy(&self, arguments: &[&str]) {
        let copy = ["--extra-experimental-features", "nix-command", "copy", "--no-check-sigs"];
        self.scene.nix("nix", &[&copy[..], arguments].concat());
    }

    /// An empty store, whose Nix substitutes from the cache if `cached`.
    fn machine(&self, name: &str, cached: bool) {
        let at = |below: &str| self.scene.at(&format!("{name}/{below}"));
        std::fs::create_dir_all(at("conf")).unwrap();
        let mut settings = std::fs::read_to_string(self.scene.at("conf/nix.conf")).unwrap();
        if cached {
            settings = settings.replace("substitute = false\n", "");
            settings += &format!(
                "substituters = file://{}\nrequire-sigs = false\n",
                self.scene.at("cache").display()
            );
        }
        std::fs::write(at("conf/nix.conf"), settings).unwrap();
        let init =
            self.scene.command("nix-store").arg("--init").env("NIX_REMOTE", self.remote(name)).output();
        assert!(init.unwrap().status.success());
    }

    fn remote(&self, name: &str) -> String {
        format!("local?root={}", self.scene.at(&format!("{name}/root")).display())
    }

    fn nixview(&self, machine: &str, arguments: &[&str]) -> Output {
        let at = |below: &str| self.scene.at(&format!("{machine}/{below}"));
        let (command, rest) = arguments.split_first().unwrap();
        self.scene
            .command(env!("CARGO_BIN_EXE_nixview"))
            .env("NIX_CONF_DIR", at("conf"))
            .env("NIXVIEW_STATE_DIR", at("state"))
            .env("NIXVIEW_RUNTIME_DIR", at("run"))
            .args([command, "--store"])
            .arg(at("root"))
            .args(rest)
            .output()
            .unwrap()
    }
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, told: &[&str]) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for told in told {
        assert!(said.contains(told), "{told} in {said}");
    }
}

const LOCK: &str = "project/env.lock";

#[test]
#[ignore = "needs Nix, root and /dev/fuse"]
fn what_a_lock_needs_is_fetched_or_built_and_without_that_said() {
    let Some(machines) = Machines::new() else { return };
    let (path, derivation) = (machines.path.as_str(), machines.derivation.as_str());
    let content = std::fs::read(machines.scene.at("root").join(path.trim_start_matches('/'))).unwrap();
    machines.copy(&["--to", &format!("file://{}", machines.scene.at("cache").display()), path]);
    let script = format!("while read -r line; do echo \"$line\"; done < {path}");
    let run = ["run", "--closure", LOCK, "--chdir", "/", "--", "/bin/sh", "-c", &script];
    let realising = [&["run", "--realise"], &run[1..]].concat();

    // Nothing is there, and Nix finds nothing either.
    machines.machine("bare", false);
    let hints = [
        &format!("nix-store --realise {path}"),
        &format!("nix copy --from ssh://HOST {path}"),
        &format!("nix-store --realise '{derivation}!out'"),
        "--realise",
    ];
    fails(&machines.nixview("bare", &["closure", LOCK]), &hints.map(|hint| hint as &str));
    fails(&machines.nixview("bare", &run), &hints.map(|hint| hint as &str));
    fails(&machines.nixview("bare", &realising), &["nix-store failed", &format!("ssh://HOST {path}")]);
    fails(&machines.nixview("bare", &["lock", path]), &["--realise", "nix copy --from ssh://HOST"]);

    // From a cache: for each command that takes a lock, and for a plain path.
    machines.machine("cached", true);
    assert_eq!(ok(&machines.nixview("cached", &realising)).as_bytes(), content);
    assert_eq!(ok(&machines.nixview("cached", &run)).as_bytes(), content, "it is there now");
    machines.machine("mounting", true);
    let target = machines.scene.at("view");
    std::fs::create_dir(&target).unwrap();
    let target = target.to_str().unwrap();
    ok(&machines.nixview("mounting", &["mount", "--realise", "--tmp", "--closure", LOCK, target]));
    let shown = std::fs::read(format!("{target}{}", path.strip_prefix("/nix").unwrap()));
    let ended = machines
        .scene
        .command(env!("CARGO_BIN_EXE_nixview"))
        .env("NIXVIEW_RUNTIME_DIR", machines.scene.at("mounting/run"))
        .args(["umount", target])
        .output();
    ok(&ended.unwrap());
    assert_eq!(shown.unwrap(), content);
    machines.machine("locking", true);
    ok(&machines.nixview("locking", &["lock", "--realise", path, "-o", "project/plain.lock"]));
    machines.machine("showing", true);
    let mut closure = machines.scene.nix("nix-store", &["-qR", path]);
    closure.sort_unstable();
    let shown = ok(&machines.nixview("showing", &["closure", "--realise", LOCK]));
    assert_eq!(shown.lines().collect::<Vec<_>>(), closure);

    // Built: from the derivation that the lock names.
    machines.machine("building", false);
    machines.copy(&["--derivation", "--to", &machines.remote("building"), derivation]);
    assert_eq!(ok(&machines.nixview("building", &realising)).as_bytes(), content);
}
