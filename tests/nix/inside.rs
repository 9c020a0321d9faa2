//! Real Nix inside a view: it knows exactly the closure, builds, installs and collects in the view, and the host sees nothing of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::scene::{MODES, Ran, Scene, ran};
use crate::support::skip::skip;
use nixview::closure::Mode;
use nixview::lock::Digest;

/// A scene in which Nix works, and what of the host must stay as it is.
struct Inside {
    scene: Scene,
    before: (Vec<String>, Vec<(String, String)>),
}

/// What a view's Nix must be told; nothing is downloaded, and there are no users to build as.
const NIX_CONF: &str = "build-users-group =\nsandbox = false\nsubstituters =\n";

/// A derivation that needs a member of the view, and one that needs that.
const EXPRESSION: &str = r#"{ root }: let
  env = builtins.storePath root;
  sh = name: script: more: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  } // more);
in rec {
  one = sh "one" "echo built-for $env > $out" { inherit env; };
  two = sh "two" "mkdir -p $out/bin; ln -s $one $out/one; cat $one > $out/text; ln -s $env/bin/hello $out/bin/hey" {
    inherit one env; };
}
"#;

/// Content, mode, owner and times of every file of the database.
fn database(dir: &Path) -> Vec<(String, String)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let numbers =
            (found.mode(), found.uid(), found.size(), found.mtime_nsec(), found.ctime_nsec(), found.ino());
        all.push((
            path.display().to_string(),
            format!("{numbers:?} {}", Digest::of(&fs::read(&path).unwrap())),
        ));
    }
    all.sort();
    all
}

impl Inside {
    /// Nothing where Nix is not installed.
    fn new() -> Option<Self> {
        if Command::new("nix-build").arg("--version").output().is_err() {
            skip!("nix-build is not installed");
            return None;
        }
        let scene = Scene::new();
        fs::write(scene.path("nix.conf"), NIX_CONF).unwrap();
        fs::write(scene.path("expression.nix"), EXPRESSION).unwrap();
        for (label, mode) in [("env-a.drv", Mode::Build), ("top.drv", Mode::Dev)] {
            scene.lock_in(label, mode);
        }
        scene.lock("data", |_| ());
        let before = (scene.store_digest(), database(&scene.store.state_dir().join("db")));
        Some(Self { scene, before })
    }

    fn prelude(&self) -> String {
        format!(
            "set -eu; cd {0}; mkdir -p home; export HOME={0}/home USER=root NIX_CONF_DIR={0} NIX_REMOTE=local; \
             ROOT={1}; SECRET={2}; OPTIONS='--quiet'
             fails() {{ if \"$@\" 2>/dev/null; then echo \"works: $*\" >&2; exit 9; fi; }}\n",
            self.scene.dir.path().display(),
            self.scene.store.logical("env-a"),
            self.scene.store.logical("secret")
        )
    }

    fn run(&self, label: &str, more: &[&str], script: &str) -> Ran {
        self.scene.run(label, more, &(self.prelude() + script))
    }

    /// What `nix-store` says of the members on the host, in a copy of the state: asking leaves files beside a database.
    fn told_on_host(&self, members: &[&str]) -> String {
        self.scene
            .shell("rm -rf copy; mkdir -p copy/nix; cp -a s/nix/var copy/nix/; mkdir copy/nix/store")
            .ok();
        let mut command = Command::new("timeout");
        command.args(["60", "/bin/sh", "-c", &ASK.replace("$MEMBERS", &self.full(members))]);
        command.env("NIX_REMOTE", format!("local?root={}/copy", self.scene.dir.path().display()));
        let told = ran(command.env("NIX_CONF_DIR", self.scene.dir.path()).output().unwrap()).ok().out;
        fs::remove_dir_all(self.scene.path("copy")).unwrap();
        // The only paths in it that may be no members are derivers.
        let is_hidden =
            |line: &str| line.strip_prefix("/nix/store/").is_some_and(|name| !members.contains(&name));
        told.lines()
            .map(|line| if is_hidden(line) { "unknown-deriver\n".to_owned() } else { format!("{line}\n") })
            .collect()
    }

    fn full(&self, members: &[&str]) -> String {
        members.iter().map(|name| format!("/nix/store/{name} ")).collect()
    }

    /// Fails unless everything of the host is as before, and nothing of a view is left.
    #[track_caller]
    fn assert_host_unchanged(&self) {
        assert_eq!(self.scene.store_digest(), self.before.0, "the store");
        assert_eq!(database(&self.scene.store.state_dir().join("db")), self.before.1, "the database");
        self.scene.assert_nothing_left();
    }
}

const ASK: &str = "set -e
for path in $MEMBERS; do
  echo $path
  for what in --hash --size --deriver --references; do nix-store -q $what $path; done
done";

/// All that is valid, one a line.
const VALID: &str = "nix --extra-experimental-features nix-command path-info --all | sort > valid\n";

fn sorted(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn a_view_knows_exactly_its_closure_as_the_host_does() {
    let Some(inside) = Inside::new() else { return };
    let scene = &inside.scene;
    let store = &scene.store;
    for (label, query) in [
        ("env-a", format!("nix-store -qR {}", store.logical("env-a"))),
        ("env-a.drv", format!("nix-store -qR --include-outputs {}", store.logical("env-a.drv"))),
        ("top.drv", "nix-store -qR $(cat valid)".to_owned()),
    ] {
        let shown = scene.run(label, &["--tmp"], "ls /nix/store").ok().out;
        let members: Vec<&str> = shown.lines().collect();
        let told = inside.told_on_host(&members);
        for mode in MODES {
            let script = format!(
                "{VALID}
                 cat valid
                 echo; {query} | sort
                 echo; {}
                 fails nix-store -q --hash $SECRET
                 fails nix-store --check-validity $SECRET
                 nix-store --verify --check-contents",
                ASK.replace("$MEMBERS", &inside.full(&members))
            );
            let ran = inside.run(label, &[&["--tmp"], mode].concat(), &script).ok();
            let [valid, closure, asked] = ran.out.splitn(3, "\n\n").collect::<Vec<_>>().try_into().unwrap();
            let full: Vec<String> = members.iter().map(|name| format!("/nix/store/{name}")).collect();
            let full: BTreeSet<&str> = full.iter().map(String::as_str).collect();
            assert_eq!(sorted(valid), full, "{label}, {mode:?}: what is valid");
            assert_eq!(sorted(closure), full, "{label}, {mode:?}: the closure");
            assert_eq!(asked, told, "{label}, {mode:?}");
            assert!(
                !ran.err.contains("warning") && !ran.err.contains("error"),
                "{label}, {mode:?}: {}",
                ran.err
            );
            assert!(ran.err.contains("checking store hashes"), "{label}, {mode:?}: {}", ran.err);
        }
    }
    inside.assert_host_unchanged();
}

const BUILD_AND_INSTALL: &str = r#"
nix-build $OPTIONS expression.nix --argstr root $ROOT -A two -o result
grep -qx "built-for $ROOT" result/text
nix-store -qR result | grep -qx "$ROOT"
nix-env $OPTIONS -f expression.nix --argstr root $ROOT -iA two
nix-env -q | grep -qx two
test "$(readlink /nix/var/nix/profiles/default)" = default-1-link
home/.nix-profile/bin/hey
nix-store --verify --check-contents
"#;

const COLLECT: &str = r#"
nix-env -q | grep -qx two
test "$(nix-store -qR $ROOT | sort)" = "$(sed s,^,/nix/store/, members | sort)"
rm result
nix-collect-garbage
home/.nix-profile/bin/hey
nix-env $OPTIONS -e two
nix-collect-garbage -d
nix-collect-garbage
for name in one two; do test -z "$(find /nix/store -maxdepth 1 -name "*-$name")"; done
for name in $(cat members); do test -e /nix/store/$name; done
nix-store --verify --check-contents
"#;

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn nix_builds_installs_and_collects_and_another_mount_shows_it_again() {
    let Some(inside) = Inside::new() else { return };
    let [passthrough, cached, overlay] = MODES;
    for (label, mode) in
        [("env-a", passthrough), ("env-a", cached), ("env-a", overlay), ("env-a.drv", passthrough)]
    {
        let shown = inside.scene.run(label, &["--tmp"], "ls /nix/store").ok().out;
        fs::write(inside.scene.path("members"), &shown).unwrap();
        let upper = inside.scene.path("upper").into_os_string().into_string().unwrap();
        let how = [&["--upper", &upper], mode].concat();
        let collect = COLLECT.replace(
            "-qR $ROOT",
            if label == "env-a" { "-qR $ROOT" } else { "-qR --include-outputs $DERIVATION" },
        );
        let built = inside.run(label, &how, BUILD_AND_INSTALL).ok();
        assert!(built.out.ends_with(mini_store::contents::HELLO), "{built:?}");
        assert!(!built.err.contains("warning"), "{built:?}");
        let derivation = format!("DERIVATION={}\n", inside.scene.store.logical("env-a.drv"));
        let collected = inside.run(label, &how, &(derivation + &collect)).ok();
        assert!(!collected.err.contains("warning"), "{collected:?}");
        // What is left of it all is in the upper, and goes with it.
        let diff = inside.scene.nixview(&["diff", &upper]).ok().out;
        assert!(diff.contains("M /nix/var/nix/db/db.sqlite"), "{diff}");
        inside.scene.nixview(&["reset", &upper, "var/nix"]).ok();
        let diff = inside.scene.nixview(&["diff", &upper]).ok().out;
        assert!(!diff.contains("/nix/var/nix"), "{diff}");
        let script = format!("{VALID} sed s,.*/,, valid | sort | cmp - members; nix-store --verify");
        inside.run(label, &how, &script).ok();
        fs::remove_dir_all(inside.scene.path("home")).unwrap();
        inside.scene.shell("rm -rf upper").ok();
    }
    inside.assert_host_unchanged();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn a_member_without_roots_is_deleted_in_the_view_alone() {
    let Some(inside) = Inside::new() else { return };
    let data = inside.scene.store.logical("data");
    let upper = inside.scene.path("upper").into_os_string().into_string().unwrap();
    let script = format!(
        "fails nix-store --delete {data} # a root of the view
         rm /nix/var/nix/gcroots/nixview/*-data-1.0
         nix-store --delete {data}
         test ! -e {data}
         fails nix-store --check-validity {data}
         {VALID} test ! -s valid"
    );
    inside.run("data", &["--upper", &upper], &script).ok();
    let again = format!("test ! -e {data}; {VALID} test ! -s valid; nix-store --verify --check-contents");
    inside.run("data", &["--upper", &upper], &again).ok();
    inside.run("data", &["--tmp"], &format!("nix-store --check-validity {data}; test -e {data}")).ok();
    inside.assert_host_unchanged();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn nix_works_in_a_user_namespace_and_not_in_a_read_only_view() {
    let Some(inside) = Inside::new() else { return };
    fs::write(inside.scene.path("members"), inside.scene.run("env-a", &[], "ls /nix/store").ok().out)
        .unwrap();
    let upper = inside.scene.path("upper").into_os_string().into_string().unwrap();
    let how = ["--upper", &upper, "--user-namespace"];
    inside.run("env-a", &how, BUILD_AND_INSTALL).ok();
    inside.run("env-a", &how, COLLECT).ok();

    let read_only = "ls /nix/var/nix/db/db.sqlite; nix-store -qR $ROOT";
    let refused = inside.run("env-a", &["--read-only"], read_only);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert_eq!(refused.out, "/nix/var/nix/db/db.sqlite\n");
    inside.assert_host_unchanged();
}

/// In an otherwise empty root, with what docs/nix-inside.md says that a container needs.
#[test]
#[ignore = "needs root, /dev/fuse, Nix and bubblewrap"]
fn nix_works_in_a_container() {
    let Some(inside) = Inside::new() else { return };
    if Command::new("bwrap").arg("--version").output().is_err() {
        return skip!("bwrap is not installed");
    }
    let scene = &inside.scene;
    let script = format!(
        "set -eu; export NIX_CONFIG='{NIX_CONF}' NIX_REMOTE=local; ROOT={}
         nix-store -qR $ROOT | wc -l; nix-store --verify --check-contents
         nix-build --quiet /expression.nix --argstr root $ROOT -A two -o /tmp/result >/dev/null
         nix-env --quiet -f /expression.nix --argstr root $ROOT -iA two; rm /tmp/result
         nix-collect-garbage --quiet >/dev/null; $HOME/.nix-profile/bin/hey",
        scene.store.logical("env-a")
    );
    fs::write(scene.path("inside.sh"), script).unwrap();
    for mode in MODES {
        scene.mount("env-a", "a", &[&["--name", "web", "--tmp"], mode].concat()).ok();
        let contained = "bwrap --unshare-all --die-with-parent --clearenv --setenv PATH /usr/bin:/bin --setenv HOME /home \
            --setenv USER root --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
            --dir /home --proc /proc --dev /dev --tmpfs /tmp --dir /etc --ro-bind expression.nix /expression.nix \
            --ro-bind inside.sh /inside.sh --bind a /nix sh /inside.sh";
        let ran = scene.shell(contained).ok();
        let count = scene.store.closure("env-a").len();
        assert_eq!(ran.out, format!("{count}\n{}", mini_store::contents::HELLO), "{mode:?}: {ran:?}");
        scene.nixview(&["umount", "web"]).ok();
    }
    inside.assert_host_unchanged();
}

/// As another user, who has /dev/fuse and a user namespace and nothing else.
#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn nix_works_without_root() {
    let Some(inside) = Inside::new() else { return };
    let scene = &inside.scene;
    scene
        .shell(
            "chmod 755 .; mkdir -m 0777 user; chmod -R a+rX s; chmod 644 env-a.lock nix.conf expression.nix",
        )
        .ok();
    let before = (scene.store_digest(), database(&scene.store.state_dir().join("db")));
    let dir = scene.dir.path().display();
    let nix = format!(
        "set -eu; cd {dir}/user; export HOME={dir}/user USER=nobody NIX_CONF_DIR={dir} NIX_REMOTE=local; ROOT={}
         nix-store -qR $ROOT | wc -l; nix-store --verify --check-contents
         nix-build --quiet ../expression.nix --argstr root $ROOT -A two -o result; cat result/text
         nix-env --quiet -f ../expression.nix --argstr root $ROOT -iA two -p /nix/var/nix/profiles/own
         rm result; nix-collect-garbage --quiet; cat /nix/var/nix/profiles/own/text; stat -c %u /nix/var/nix/db/db.sqlite",
        scene.store.logical("env-a")
    );
    fs::write(scene.path("nix"), nix).unwrap();
    // /dev/fuse may be closed to users here; what is opened is a copy in a namespace of the test's own.
    let script = format!(
        "cp -a /dev/fuse user/fuse && chmod 666 user/fuse && mount --bind user/fuse /dev/fuse &&
         cp {1} user/nixview && chmod 755 user/nixview && cd / &&
         exec setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_RUNTIME_DIR= {0}/user/nixview \
           --state-dir {0}/user/state --runtime-dir {0}/user/run run --closure {0}/env-a.lock --store {0}/s -- /bin/sh {0}/nix",
        dir,
        env!("CARGO_BIN_EXE_nixview"),
    );
    fs::write(scene.path("script"), script).unwrap();
    let ran = scene.shell("unshare -m --propagation private /bin/sh ./script").ok();
    let built = format!("built-for {}\n", scene.store.logical("env-a"));
    let count = scene.store.closure("env-a").len();
    assert!(ran.out.starts_with(&format!("{count}\n")), "{ran:?}");
    assert_eq!(ran.out.matches(&built).count(), 2, "{ran:?}");
    assert!(ran.out.ends_with("65534\n"), "{ran:?}");
    assert_eq!((scene.store_digest(), database(&scene.store.state_dir().join("db"))), before);
    assert_eq!(scene.names("user/run/views"), Vec::<String>::new());
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn many_views_at_once_share_one_state() {
    let Some(inside) = Inside::new() else { return };
    let script = inside.prelude()
        + "nix-store -qR $ROOT | sort; nix-store --verify --check-contents 2>&1 | grep -c warning || :";
    let children: Vec<Child> = (0..8)
        .map(|_| {
            let mut command = inside.scene.command();
            command.arg("run").arg("--closure").arg(inside.scene.path("env-a.lock"));
            command.arg("--store").arg(inside.scene.store.root()).args(["--", "/bin/sh", "-c", &script]);
            command.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let expected: String =
        inside.scene.store.closure("env-a").iter().map(|name| format!("/nix/store/{name}\n")).collect();
    for child in children {
        let ran = ran(child.wait_with_output().unwrap()).ok();
        assert_eq!(ran.out, format!("{expected}0\n"), "{ran:?}");
    }
    let mut names = inside.scene.names("state/nix-state");
    names.retain(|name| !name.starts_with("key-"));
    assert!(matches!(names.as_slice(), [one] if !one.starts_with("draft")), "{names:?}");
    inside.assert_host_unchanged();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn an_upper_that_was_used_with_another_closure_is_warned_of() {
    let Some(inside) = Inside::new() else { return };
    let scene = &inside.scene;
    let upper = scene.path("upper").into_os_string().into_string().unwrap();
    let how = ["--upper", upper.as_str(), "--name", "web"];
    let warned = "the view's own Nix database was made for another closure";
    let quiet = |ran: Ran| assert!(!ran.err.contains(warned), "{ran:?}");
    let told =
        |ran: Ran| assert!(ran.err.contains(warned) && ran.err.contains("reset web var/nix"), "{ran:?}");
    let mount = |label: &str| {
        let ran = scene.mount(label, "a", &how).ok();
        scene.nixview(&["umount", "web"]).ok();
        ran
    };
    quiet(mount("env-a"));
    // Nothing of Nix's in it: any other closure will do.
    quiet(mount("env-b"));
    quiet(mount("env-a"));
    inside.run("env-a", &["--upper", &upper], "nix-store --check-validity $ROOT").ok();
    quiet(mount("env-a"));
    told(mount("env-b"));
    told(mount("env-b"));
    quiet(mount("env-a"));
    told(mount("env-b"));
    scene.nixview(&["reset", &upper, "var/nix"]).ok();
    quiet(mount("env-b"));
    inside.run("env-b", &["--upper", &upper], "nix-store --verify --check-contents").ok();
    quiet(mount("env-b"));
    inside.assert_host_unchanged();
}

/// Tables, indexes and triggers as they were written, without comments and formatting.
fn schema(file: &Path) -> BTreeSet<String> {
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
    let all = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let plain = |sql: String| {
        let lines: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap()).collect();
        let text = lines.join(" ").to_lowercase();
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace(',', " , ").replace(';', " ; ");
        spaced.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    all.map(|sql| plain(sql.unwrap())).collect()
}

#[test]
#[ignore = "needs Nix"]
fn a_new_database_has_the_schema_that_nix_makes() {
    if Command::new("nix-store").arg("--version").output().is_err() {
        return skip!("nix-store is not installed");
    }
    use nixview::store::StoreDir;
    use nixview::store::database::{PathRecord, RealisationRecord, Records};
    let record = PathRecord {
        path: "00000000000000000000000000000000-x".parse().unwrap(),
        hash: "sha256:00".to_owned(),
        deriver: None,
        nar_size: None,
        ultimate: None,
        signatures: None,
        ca: None,
    };
    let realisation = RealisationRecord {
        derivation: "sha256:00".to_owned(),
        name: "out".to_owned(),
        path: 0,
        signatures: None,
        references: Vec::new(),
    };
    for (features, realisations) in [("", vec![]), ("ca-derivations", vec![realisation])] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("timeout");
        command.args(["60", "nix-store", "--dump-db"]);
        command.env("NIX_REMOTE", format!("local?root={}", dir.path().display()));
        command.env("NIX_CONFIG", format!("experimental-features = {features}"));
        ran(command.output().unwrap()).ok();
        let real = dir.path().join("nix/var/nix/db");
        let ours = dir.path().join("ours.sqlite");
        let records = Records { paths: vec![record.clone()], realisations, ..Records::default() };
        nixview::store::new_database::write(&ours, &StoreDir::default(), &records).unwrap();
        let wanted = schema(&real.join("db.sqlite"));
        assert!(wanted.len() >= 7, "{wanted:?}");
        assert_eq!(schema(&ours), wanted, "with '{features}'");
        let number = |name: &str| fs::read_to_string(real.join(name)).ok();
        assert_eq!(number("schema").as_deref(), Some(nixview::store::new_database::VERSION));
        if !features.is_empty() {
            assert_eq!(number("ca-schema").as_deref(), Some(nixview::store::new_database::CA_VERSION));
        }
    }
}
