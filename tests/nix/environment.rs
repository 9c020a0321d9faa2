//! Variables of development environments against real nix-shell: the same derivation, the same bash, compared variable by
//! variable. Nix works on a store of the test's own, at `/nix` of a root of its own.
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::skip::skip;
use nixview::lock::EnvLock;
use serde_json::Value;

/// A setup that does what stdenv's does, and more.
const SETUP: &str = r#"
echo "setup ran" >&2
set -eu
set -o pipefail
shopt -s nullglob extglob
: "${outputs:=out}"
PATH=
for i in $initialPath; do PATH=$PATH${PATH:+:}$i/bin; done
export PATH
export CC=gcc LDFLAGS="-L$dep/lib -L'a b'"
export XDG_DATA_DIRS="$tools/share${XDG_DATA_DIRS:+:$XDG_DATA_DIRS}"
source "$dep/setup-hook"
declare -a flags=(-O2 "-I a b" $'multi\nline')
flags[9]=sparse
declare -ax exportedArray=(one)
declare -A hooks=([pre]="x y" ["a key"]="it's \$(never)" [']']=bracket)
declare -i number=3
declare -r fixed=1
declare -rx both='both "of" $them'
declare -u upper=loud
declare -n reference=number
unexported=$'tab\there \x01 \\ !'
latin=$'caf\xe9'
export empty=
export NIX_ENFORCE_PURITY=1
export TZ=UTC
alias ll='ls -l'
addToSearchPath() { local IFS=:; eval "$1=\${$1-}:$2"; }
exportedFunction() {
    cat <<EOF
here $1
EOF
}
export -f exportedFunction
odd-name:x() { case $1 in a|b) echo "$1";; *) for ((n = 0; n < 3; n++)); do echo $n; done ;; esac; }
runHook() { local hook=$1; if [[ -n ${!hook-} ]]; then eval "${!hook}"; fi; }
exitHandler() { : "$?"; }
trap exitHandler EXIT
trap 'echo "usr1
and more"' USR1
if [ -n "${bigPath-}" ]; then fromFile=$(cat "$bigPath"); fi
if [ -n "${NIX_ATTRS_SH_FILE-}" ]; then source "$NIX_ATTRS_SH_FILE"; fi
set +u
"#;

const EXPRESSION: &str = r#"
let
  system = builtins.currentSystem;
  tools = builtins.path { path = ./tools; name = "tools"; };
  stdenv = builtins.path { path = ./stdenv; name = "stdenv"; };
  failing = builtins.path { path = ./failing; name = "failing"; };
  dep = derivation {
    name = "dep"; inherit system; builder = "/bin/sh";
    args = [ "-c" "mkdir $out; echo \"export FROM_DEP=$out\" > $out/setup-hook" ];
  };
  more = {
    inherit system tools stdenv dep;
    builder = "${tools}/bin/bash";
    initialPath = [ tools ];
    shellHook = "export FROM_HOOK=\"$CC\"; hookArray=(a b)";
  };
in rec {
  full = derivation (more // {
    name = "full";
    quotes = "b'a\"r $x `y` \\ z";
    multi = "a\nb\n";
    big = "text 'of' file\n";
    small = "s";
    passAsFile = [ "big" "small" ];
    "odd-name" = "odd";
    HOMEPAGE = "https://example.org";
    TERMINFO = "set";
    TMPDIR_NOT = "x";
  });
  changed = derivation (more // { name = "full"; quotes = "other"; });
  structured = derivation (more // {
    name = "structured"; __structuredAttrs = true; outputs = [ "out" "dev" ];
    text = "b'ar"; n = 3; f = 1.5; yes = true; no = false; nul = null;
    list = [ "a b" 1 true null ]; attrs = { x = "1 2"; "y z" = 2; "q'r" = "w"; };
    nested = { a = [ 1 ]; }; "bad-name" = "x"; initialPath = "${tools}";
  });
  bare = derivation { name = "bare"; inherit system; builder = "${tools}/bin/bash"; CC = "gcc"; shellHook = "never=1"; };
  nobash = derivation { name = "nobash"; inherit system tools; builder = "/bin/sh"; CC = "gcc"; };
  fails = derivation (more // { name = "fails"; stdenv = failing; });
  two = [ full bare ];
}
"#;

/// Says all that a bash has, in parts that end with NUL, `@`, NUL.
const TELL: &str = r#"
declare -p; printf '\0@\0'
declare -f; declare -F; printf '\0@\0'
shopt -p; set +o; trap -p; alias -p; printf '\0@\0'
/usr/bin/env -0; printf '\0@\0'
for file in "${bigPath-}" "${smallPath-}" "${NIX_ATTRS_JSON_FILE-}" "${NIX_ATTRS_SH_FILE-}"; do
  if [[ -n $file ]]; then /bin/cat "$file"; fi
done
/bin/ls -A "$(/usr/bin/dirname "${bigPath:-${NIX_ATTRS_SH_FILE:-/nowhere/x}}")" 2>/dev/null || true
"#;

/// A store with Nix's database, tools and expressions; all gone at the end.
struct Scene {
    dir: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        fn unlock(dir: &Path) {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    unlock(&entry.path());
                }
            }
        }
        unlock(self.dir.path());
    }
}

impl Scene {
    /// `None`, and said, where something is missing.
    fn new() -> Option<Self> {
        for (program, package) in
            [("nix-shell", "nix-bin"), ("bwrap", "bubblewrap"), ("busybox", "busybox-static")]
        {
            if Command::new(program).arg("--help").output().is_err() {
                skip!("there is no {program} (Debian: {package})");
                return None;
            }
        }
        let scene = Self { dir: tempfile::Builder::new().prefix("nv").tempdir().unwrap() };
        for dir in ["conf", "home", "root", "tmp", "project/tools/bin", "project/stdenv", "project/failing"] {
            std::fs::create_dir_all(scene.at(dir)).unwrap();
        }
        for tool in ["/bin/bash", "/bin/cat", "/bin/ls"] {
            let name = Path::new(tool).file_name().unwrap();
            std::fs::copy(tool, scene.at("project/tools/bin").join(name)).unwrap();
        }
        let settings =
            "build-users-group =\nsandbox = true\nsandbox-paths = /bin/sh=/bin/busybox\nsubstitute = false\n";
        scene.write("conf/nix.conf", settings);
        scene.write("project/shell.nix", EXPRESSION);
        scene.write("project/stdenv/setup", SETUP);
        scene.write("project/failing/setup", "echo 'this setup fails' >&2; exit 7");
        scene.write("tell", TELL);
        scene.write("home/.bashrc", "FROM_BASHRC=1\n");
        let remote = format!("local?root={}", scene.at("root").display());
        let init = scene.command("nix-store", &[]).arg("--init").env("NIX_REMOTE", remote).output().unwrap();
        assert!(init.status.success(), "{init:?}");
        Some(scene)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    /// A program, ended after a minute, with an environment that is all known.
    fn command(&self, program: &str, more: &[(&str, &str)]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", program]).current_dir(self.dir.path()).env_clear();
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("NIX_CONF_DIR", self.at("conf"))
            .env("NIX_PATH", "")
            .env("HOME", self.at("home"))
            .env("SHELL", "/bin/sh")
            .env("TMPDIR", self.at("tmp"))
            .env("NIXVIEW_STATE_DIR", self.at("state"))
            .env("NIXVIEW_RUNTIME_DIR", self.at("run"))
            .envs(more.iter().copied())
            .stdin(Stdio::null());
        command
    }

    fn nixview(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_nixview"), &[]).args(arguments).output().unwrap()
    }

    /// `nixview lock --env` of an attribute: what it did with the variables, and what was said.
    fn lock(&self, attribute: &str, more: &[&str]) -> (String, String) {
        let output = self.try_lock(attribute, more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{attribute}: {said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["environment"].as_str().unwrap().to_owned(), said)
    }

    fn try_lock(&self, attribute: &str, more: &[&str]) -> Output {
        let source = format!("project/shell.nix#{attribute}");
        let all = ["lock", "--env", "--realise", "--store", "root", "-o", "env.lock", "--json", &source];
        self.nixview(&[&all[..], more].concat())
    }

    fn fails(&self, attribute: &str, more: &[&str]) -> String {
        let output = self.try_lock(attribute, more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!self.at("env.lock").exists(), "a failure leaves no lock");
        said
    }

    fn tools(&self) -> String {
        let names = std::fs::read_dir(self.at("root/nix/store")).unwrap().flatten();
        let tools = names.map(|e| e.file_name().into_string().unwrap()).find(|name| name.ends_with("-tools"));
        format!("/nix/store/{}", tools.unwrap())
    }

    fn bash(&self) -> String {
        format!("{}/bin/bash", self.tools())
    }

    /// What nix-shell runs, with this store at `/nix`.
    fn nix_shell(&self, attribute: &str, arguments: &[&str], more: &[(&str, &str)]) -> Output {
        let mut command = self.command("bwrap", more);
        for entry in std::fs::read_dir("/").unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_symlink() {
                command.arg("--symlink").arg(std::fs::read_link(&path).unwrap()).arg(&path);
            } else if path != Path::new("/nix") {
                command.arg("--dev-bind").arg(&path).arg(&path);
            }
        }
        command.arg("--bind").arg(self.at("root/nix")).arg("/nix");
        command.args(["nix-shell", "project/shell.nix", "-A", attribute]).args(arguments).output().unwrap()
    }

    fn shell(&self, arguments: &[&str], more: &[(&str, &str)]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_nixview"), more);
        command.args(["shell", "--store", "root", "--closure", "env.lock"]).args(arguments).output().unwrap()
    }

    fn assert_nothing_left(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
        for dir in ["run/views", "state/temporary"] {
            if let Ok(entries) = std::fs::read_dir(self.at(dir)) {
                assert_eq!(entries.count(), 0, "{dir}");
            }
        }
        // nix-shell leaves its files where a setup has a trap of its own.
        let names =
            std::fs::read_dir(self.at("tmp")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = names.filter(|name| !name.starts_with("nix-shell-")).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

/// What a bash has, by kind; without what is of the moment or of the program that started it.
#[derive(Debug, Default, PartialEq)]
struct Told {
    variables: BTreeMap<String, String>,
    functions: String,
    options: BTreeSet<String>,
    environment: BTreeMap<String, String>,
    files: String,
}

/// Of the moment; the bash of nix-shell is its own process, and what it started from has other names.
const MOMENT: &[&str] = &[
    "BASHPID",
    "BASH_ARGC",
    "BASH_ARGV",
    "BASH_ARGV0",
    "BASH_COMMAND",
    "BASH_LINENO",
    "BASH_SOURCE",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "FUNCNAME",
    "HISTCMD",
    "LINENO",
    "PIPESTATUS",
    "PPID",
    "RANDOM",
    "SECONDS",
    "SRANDOM",
    "_",
    // Where nix-shell removes its files.
    "exitHooks",
    "failureHooks",
];

impl Told {
    /// `temporary` is where either program makes its files.
    fn of(output: &Output, temporary: &Path) -> Self {
        let said: String = output.stderr.escape_ascii().to_string();
        assert!(output.status.success(), "{:?} {said}", output.status);
        let text: String = output.stdout.iter().map(|b| char::from(*b)).collect();
        let parts: Vec<String> = text.split("\0@\0").map(|part| without_places(part, temporary)).collect();
        assert_eq!(parts.len(), 5, "{text} {said}");
        // The last is the script that the shell itself reads.
        let files = parts[4].lines().filter(|line| *line != "rc").map(|line| format!("{line}\n")).collect();
        let mut told = Self { files, ..Self::default() };
        for line in parts[0].lines() {
            let name = line.split_once(' ').unwrap().1.split_once(' ').unwrap().1.split('=').next().unwrap();
            if !MOMENT.contains(&name) {
                told.variables.insert(name.to_owned(), line.to_owned());
            }
        }
        let own = "_nix_shell_clean_tmpdir";
        let mut inside = false;
        for line in parts[1].lines() {
            inside = (inside || line.starts_with(own)) && line != "}";
            if !inside && !line.contains(own) && line != "}" {
                told.functions += &format!("{line}\n");
            }
        }
        told.options = parts[2].lines().filter(|l| !l.contains(own)).map(str::to_owned).collect();
        for pair in parts[3].split('\0').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap();
            if name != "_" {
                told.environment.insert(name.to_owned(), value.to_owned());
            }
        }
        told
    }
}

/// With one name for the directory of files of either program.
fn without_places(text: &str, temporary: &Path) -> String {
    let mut text = text.to_owned();
    for start in ["nix-shell-", "nixview-env-"].map(|start| format!("{}/{start}", temporary.display())) {
        while let Some(at) = text.find(&start) {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
            text.replace_range(at..at + start.len() + end, "FILES");
        }
    }
    text
}

fn compare(scene: &Scene, attribute: &str, pure: bool, forgive: &[&str]) {
    let bash = scene.bash();
    let caller = [
        ("NIX_BUILD_SHELL", bash.as_str()),
        ("XDG_DATA_DIRS", "/caller/share"),
        ("CALLER", "only impure"),
        ("CC", "the caller's"),
        ("number", "of the caller"),
        ("TERM", "xterm"),
        ("TZ", "Europe/Berlin"),
        ("http_proxy", "http://proxy"),
    ];
    let tell = format!("source {}", scene.at("tell").display());
    let arguments: &[&str] = if pure { &["--pure", "--run", &tell] } else { &["--run", &tell] };
    let mut theirs = Told::of(&scene.nix_shell(attribute, arguments, &caller), &scene.at("tmp"));
    let mut ours = Told::of(&scene.shell(arguments, &caller), &scene.at("tmp"));
    assert_eq!(theirs.variables["CC"], "declare -x CC=\"gcc\"", "nix-shell did what is compared");
    for name in forgive {
        theirs.variables.remove(*name);
        ours.variables.remove(*name);
    }
    let names: BTreeSet<&String> = theirs.variables.keys().chain(ours.variables.keys()).collect();
    for name in names {
        assert_eq!(ours.variables.get(name), theirs.variables.get(name), "{attribute}, pure {pure}: {name}");
    }
    let names: BTreeSet<&String> = theirs.environment.keys().chain(ours.environment.keys()).collect();
    for name in names {
        let (ours, theirs) = (ours.environment.get(name), theirs.environment.get(name));
        assert_eq!(ours, theirs, "{attribute}, pure {pure}: exported {name}");
    }
    assert_eq!(ours.functions, theirs.functions, "{attribute}, pure {pure}");
    assert_eq!(ours.options, theirs.options, "{attribute}, pure {pure}");
    if forgive.is_empty() {
        assert_eq!(ours.files, theirs.files, "{attribute}, pure {pure}");
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn a_shell_has_what_nix_shell_has() {
    let Some(scene) = Scene::new() else { return };
    // In Nix 2.8 the outputs of structured attributes are placeholders in nix-shell, and paths in builds and here.
    for (attribute, forgive) in [("full", &[][..]), ("bare", &[]), ("structured", &["outputs"])] {
        let (done, _) = scene.lock(attribute, &[]);
        assert_eq!(done, "recorded");
        for pure in [true, false] {
            compare(&scene, attribute, pure, forgive);
        }
        // Canonical, and read back as it is.
        let text = std::fs::read_to_string(scene.at("env.lock")).unwrap();
        assert_eq!(EnvLock::parse(text.as_bytes(), "env.lock").unwrap().print().unwrap(), text);
    }
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn nothing_is_run_until_the_derivation_changes() {
    let Some(scene) = Scene::new() else { return };
    let ran = |(done, said): (String, String), expected: &str| {
        assert_eq!(done, expected, "{said}");
        assert_eq!(said.contains("setup ran"), expected == "recorded", "{said}");
    };
    ran(scene.lock("full", &[]), "recorded");
    let lock = std::fs::read_to_string(scene.at("env.lock")).unwrap();
    ran(scene.lock("full", &[]), "unchanged");
    std::fs::remove_file(scene.at("env.lock")).unwrap();
    ran(scene.lock("full", &["--mode", "dev"]), "unchanged");
    assert_eq!(std::fs::read_to_string(scene.at("env.lock")).unwrap(), lock, "byte for byte");
    ran(scene.lock("changed", &[]), "recorded");
    let shell = scene.shell(&["--run", "echo $quotes"], &[]);
    assert_eq!(shell.stdout, b"other\n");
    ran(scene.lock("full", &[]), "unchanged");
    // Which bash it is decides, not how it was named.
    let bash = format!("bash={}", scene.tools());
    let (done, _) = scene.lock("full", &["--extra-root", &bash]);
    assert_eq!(done, "unchanged");
    // The memory of it goes by age, and is made again.
    let removed = scene.nixview(&["gc", "--older-than", "0s", "--json"]);
    let removed: Value = serde_json::from_slice(&removed.stdout).unwrap();
    assert_eq!(removed["environments"], 2, "{removed}");
    ran(scene.lock("full", &[]), "recorded");
    assert_eq!(std::fs::read_to_string(scene.at("env.lock")).unwrap(), lock, "byte for byte");
    // What was changed in the memory is no answer.
    let file = scene.at("state/locks.sqlite");
    let memory = rusqlite::Connection::open(file).unwrap();
    memory.execute("UPDATE environments SET result = replace(result, 'gcc', 'bad')", []).unwrap();
    ran(scene.lock("full", &[]), "recorded");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn a_lock_is_entered_without_nix_and_without_what_was_remembered() {
    let Some(scene) = Scene::new() else { return };
    scene.lock("full", &[]);
    std::fs::remove_dir_all(scene.at("state")).unwrap();
    let bare = &[("CALLER", "1")][..];
    let run = |arguments: &[&str], more: &[(&str, &str)]| {
        let mut command = scene.command(env!("CARGO_BIN_EXE_nixview"), &[]);
        command
            .envs(more.iter().copied())
            .args(["run", "--store", "root", "--closure", "env.lock"])
            .args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", output.stderr.escape_ascii());
        let text = String::from_utf8(output.stdout).unwrap();
        text.split('\0')
            .filter_map(|pair| pair.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let variables = run(&["--", "/usr/bin/env", "-0"], bare);
    let tools = format!("{}/bin", scene.tools());
    assert_eq!(variables["PATH"], format!("{tools}:{tools}:/usr/local/bin:/usr/bin:/bin"));
    assert_eq!(variables["CC"], "gcc");
    assert_eq!(variables["multi"], "a\nb\n");
    assert_eq!(variables["odd-name"], "odd");
    assert_eq!(variables["CALLER"], "1");
    assert_eq!(variables["IN_NIX_SHELL"], "impure");
    assert!(variables["bigPath"].starts_with(scene.at("tmp/nixview-env-").to_str().unwrap()));
    for absent in ["unexported", "NIX_ENFORCE_PURITY", "FROM_HOOK", "flags"] {
        assert!(!variables.contains_key(absent), "{absent}");
    }
    let pure = run(&["--pure", "--", "/usr/bin/env", "-0"], bare);
    assert_eq!(pure["PATH"], format!("{tools}:{tools}"));
    assert!(!pure.contains_key("CALLER") && pure["IN_NIX_SHELL"] == "pure");
    let none = run(&["--no-env", "--", "/usr/bin/env", "-0"], bare);
    assert!(!none.contains_key("CC") && !none.contains_key("IN_NIX_SHELL"));
    // A program of the environment is found, and a file is where its variable says.
    let output = scene
        .command(env!("CARGO_BIN_EXE_nixview"), &[])
        .args(["run", "--store", "root", "--closure", "env.lock", "--pure", "--"])
        .args(["bash", "-c", "cat $bigPath"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"text 'of' file\n", "{output:?}");
    // No program of Nix can be found.
    let nixview = env!("CARGO_BIN_EXE_nixview");
    let bare = [
        "PATH=/nowhere",
        nixview,
        "shell",
        "--store",
        "root",
        "--closure",
        "env.lock",
        "--run",
        "echo $CC:$PATH",
    ];
    let output = scene.command("env", &[]).args(bare).output().unwrap();
    assert_eq!(output.stdout, format!("gcc:{tools}:{tools}:/nowhere\n").into_bytes(), "{output:?}");
    // An exit code comes through; so does the setup's trap.
    assert_eq!(scene.shell(&["--run", "exit 9"], &[]).status.code(), Some(9));
    let none = scene.shell(&["--no-env", "--run", "echo ${CC-none}"], &[]);
    assert_eq!(none.stdout, b"none\n");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn a_terminal_gets_an_interactive_shell() {
    let Some(scene) = Scene::new() else { return };
    scene.lock("full", &[]);
    let nixview = env!("CARGO_BIN_EXE_nixview");
    for (more, bashrc) in [("", "1"), ("--pure", "")] {
        let shell = format!("{nixview} shell --store root --closure env.lock {more}");
        let mut command = scene.command("script", &[("TERM", "dumb")]);
        let mut child = command
            .args(["-qec", &shell, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1), which is part of Debian");
        let asked = "echo \"<$CC:$FROM_BASHRC:$FROM_HOOK:${flags[9]}:$(type -t runHook):$-:$PS1>\"; exit 3\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), asked.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = output.stdout.escape_ascii().to_string();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(&format!("<gcc:{bashrc}:gcc:sparse:function:himBHs")), "{said}");
        assert!(said.contains("[nixview:"), "{said}");
    }
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn the_setup_sees_the_closure_and_nothing_else() {
    let Some(scene) = Scene::new() else { return };
    let setup = "PATH=$tools/bin; seen=$(ls -A /nix/store); home=$HOME; echo to-standard-output; printenv=${SECRET-none}";
    scene.write("project/stdenv/setup", setup);
    scene.write("project/other.nix", "derivation { name = \"other\"; system = \"x\"; builder = \"x\"; }");
    let lock = |secret: &str| {
        let source = "project/shell.nix#full";
        let all = ["lock", "--env", "--realise", "--store", "root", "-o", "env.lock", source];
        scene.command(env!("CARGO_BIN_EXE_nixview"), &[("SECRET", secret)]).args(all).output().unwrap()
    };
    let output = lock("of the caller");
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    let lock = EnvLock::read(&scene.at("env.lock")).unwrap();
    let environment = lock.environment.unwrap();
    let value = |name: &str| {
        let variable = environment.variables.iter().find(|v| v.name == name).unwrap();
        String::from_utf8(variable.value.as_ref().unwrap().as_bytes().to_vec()).unwrap()
    };
    assert_eq!(value("seen").lines().count() as u64, lock.closure.count, "{}", value("seen"));
    assert!(!value("seen").contains(".drv"));
    assert_eq!(value("home"), "/homeless-shelter");
    assert_eq!(value("printenv"), "none", "nothing of the caller gets into a lock");
    assert!(
        !environment
            .variables
            .iter()
            .any(|v| ["HOME", "TERM", "PWD", "TMPDIR", "SECRET"].contains(&v.name.as_str()))
    );
    assert!(output.stderr.escape_ascii().to_string().contains("to-standard-output"));
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn what_cannot_be_recorded_says_why() {
    let Some(scene) = Scene::new() else { return };
    let said = scene.fails("fails", &[]);
    assert!(said.contains("this setup fails") && said.contains("exit code 7"), "{said}");
    let said = scene.fails("nobash", &[]);
    assert!(said.contains("the builder of") && said.contains("--extra-root bash="), "{said}");
    assert!(scene.fails("two", &[]).contains("2 roots"));
    let runtime = scene.try_lock("full", &["--mode", "runtime"]);
    assert_eq!(runtime.status.code(), Some(2));
    assert!(runtime.stderr.escape_ascii().to_string().contains("--mode dev"));
    let tools = scene.tools();
    let all = ["lock", "--env", "--store", "root", "-o", "env.lock", &tools];
    assert!(scene.nixview(&all).stderr.escape_ascii().to_string().contains("needs a .drv"));
    // With a bash it can be.
    let bash = format!("shell={tools}");
    let (done, said) = scene.lock("nobash", &["--extra-root", &bash]);
    assert_eq!(done, "recorded", "{said}");
    assert!(said.contains("--env locks in mode dev"), "{said}");
    assert_eq!(scene.shell(&["--run", "echo $CC"], &[]).stdout, b"gcc\n");

    // A lock that was changed by hand is no lock.
    let text = std::fs::read_to_string(scene.at("env.lock")).unwrap();
    scene.write("env.lock", &text.replace("\"gcc\"", "\"bad\""));
    let output = scene.shell(&["--run", "echo $CC"], &[]);
    assert_eq!(output.stdout, b"");
    assert!(output.stderr.escape_ascii().to_string().contains("digest of the environment"));
    scene.assert_nothing_left();
}
