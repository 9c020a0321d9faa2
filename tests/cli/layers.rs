//! `nixview layers`: its archives against those of others, and the command on a tiny store; needs no privilege and no Nix.
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::skip::skip;
use mini_store::MiniStore;
use nixview::store::{Database, Location, StorePath};
use nixview::usage::oci_layers::archive::{self, Compression};
use nixview::usage::oci_layers::tar_size;
use serde_json::Value;

/// A store without records, of paths whose contents are hard for archives.
struct Odd {
    dir: tempfile::TempDir,
    paths: Vec<StorePath>,
}

impl Odd {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("nix/store");
        fs::create_dir_all(&store).unwrap();
        let base = |digit: &str, name: &str| format!("{}-{name}", digit.repeat(32));
        let (tree, file, link) = (base("1", "tree"), base("2", "file"), base("3", "link"));
        let top = store.join(&tree);
        fs::create_dir(&top).unwrap();
        // "/nix/store/", the base name and "/".
        let before = 11 + tree.len() + 1;
        for length in 97..=102 {
            fs::write(top.join("f".repeat(length - before)), vec![b'x'; length]).unwrap();
            fs::create_dir(top.join("d".repeat(length - before))).unwrap();
            symlink("t".repeat(length), top.join(format!("l{length}"))).unwrap();
        }
        // Records whose length has two, three and four digits, with targets of such lengths, too.
        for length in [1, 20, 80, 85, 86, 87, 90, 200, 250] {
            let name = "n".repeat(length);
            symlink("t".repeat(length * 4), top.join(&name)).unwrap();
        }
        let deep = top.join("deep/".repeat(60));
        fs::create_dir_all(&deep).unwrap();
        symlink("../".repeat(330), deep.join("up")).unwrap();
        for size in [0, 1, 511, 512, 513, 10_240] {
            fs::write(deep.join(format!("size-{size}")), vec![7; size]).unwrap();
        }
        fs::write(top.join("grüße"), "ä").unwrap();
        fs::write(top.join(OsStr::from_bytes(b"no\xfftext")), "bytes").unwrap();
        symlink(OsStr::from_bytes(b"\xff\xfe"), top.join("to-bytes")).unwrap();
        // Around the end of a block, with and without the record that says that these are bytes.
        for length in (470..=505).step_by(5) {
            let target = [b"\xff".repeat(3), b"t".repeat(length)].concat();
            symlink(OsStr::from_bytes(&target), top.join(format!("bytes-{length}"))).unwrap();
        }
        fs::write(top.join("linked"), vec![1; 3000]).unwrap();
        fs::hard_link(top.join("linked"), top.join("again")).unwrap();
        fs::set_permissions(top.join("linked"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::File::create(top.join("hole")).unwrap().set_len(1 << 20).unwrap();
        fs::write(store.join(&file), "a file").unwrap();
        symlink("/nix/store", store.join(&link)).unwrap();
        let paths = [tree, file, link].map(|base| base.parse().unwrap()).to_vec();
        Self { dir, paths }
    }

    fn location(&self) -> Location {
        Location::open(self.dir.path()).unwrap()
    }
}

fn written(location: &Location, layer: &[StorePath]) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive::write(location, layer, &mut bytes).unwrap();
    bytes
}

fn predicted(location: &Location, layer: &[StorePath]) -> u64 {
    let sizes = tar_size::of_paths(location, layer, &|_, _| ()).unwrap();
    assert_eq!(sizes.keys().cloned().collect::<BTreeSet<_>>(), layer.iter().cloned().collect());
    tar_size::of_layer(&location.dir, sizes.into_values())
}

#[test]
fn an_archive_is_as_long_as_was_said_and_has_all_that_is_in_the_store() {
    let odd = Odd::new();
    let location = odd.location();
    let bytes = written(&location, &odd.paths);
    assert_eq!(predicted(&location, &odd.paths), bytes.len() as u64);
    assert_eq!(bytes.len() % 10_240, 0);
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().into_owned();
        let name = name.strip_suffix(b"/").unwrap_or(&name).to_vec();
        names.push(name.clone());
        let real = odd.dir.path().join(OsStr::from_bytes(name.strip_prefix(b"/").unwrap()));
        let meta = fs::symlink_metadata(&real).unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 1);
        assert_eq!(entry.header().uid().unwrap() + entry.header().gid().unwrap(), 0);
        match entry.header().entry_type() {
            tar::EntryType::Directory => assert!(meta.is_dir()),
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap().into_owned();
                assert_eq!(target, fs::read_link(&real).unwrap().as_os_str().as_bytes());
            }
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                assert_eq!(content, fs::read(&real).unwrap(), "{}", real.display());
                assert_eq!(entry.header().mode().unwrap(), meta.permissions().mode() & 0o7777);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut expected = vec![b"/nix".to_vec(), b"/nix/store".to_vec()];
    let mut open = vec![odd.dir.path().join("nix/store")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            expected.push(path.as_os_str().as_bytes()[odd.dir.path().as_os_str().len()..].to_vec());
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    expected.sort();
    names.sort();
    assert_eq!(names, expected);
}

/// Writes what dockerTools writes, with the same library, out of names alone; prints the length without the end, and
/// the length.
const PYTHON: &str = r#"
import os, sys, tarfile

class Count:
    length = 0
    def write(self, data):
        self.length += len(data)
        return len(data)
    def tell(self):
        return self.length

root, count = sys.argv[1], Count()
archive = tarfile.open(fileobj=count, mode="w", format=tarfile.PAX_FORMAT)

def add(name):
    found = os.lstat(root + name)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.uname, info.gname = found.st_mode & 0o7777, 1, "root", "root"
    if os.path.islink(root + name):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(root + name)
    elif os.path.isdir(root + name):
        info.type = tarfile.DIRTYPE
    else:
        info.size = found.st_size
    with open("/dev/zero", "rb") as zeros:
        archive.addfile(info, zeros)
    if info.type == tarfile.DIRTYPE and name not in ("/nix", "/nix/store"):
        for below in sorted(os.listdir(root + name)):
            add(name + "/" + below)

add("/nix")
add("/nix/store")
for path in sys.argv[2:]:
    add("/nix/store/" + path)
entries = archive.offset
archive.close()
print(entries, count.length)
"#;

#[test]
fn an_archive_is_as_long_as_pythons() {
    let odd = Odd::new();
    let location = odd.location();
    // One with a size that the header has no room for: only asked about.
    let huge: StorePath = format!("{}-huge", "4".repeat(32)).parse().unwrap();
    let file = fs::File::create(location.real_path(&huge)).unwrap();
    let can_be_huge = file.set_len((8 << 30) - 1).is_ok();
    let mut layers: Vec<Vec<StorePath>> = odd.paths.iter().map(|path| vec![path.clone()]).collect();
    layers.push(odd.paths.clone());
    for layer in layers {
        let mut command = Command::new("python3");
        command.arg("-c").arg(PYTHON).arg(odd.dir.path());
        command.args(layer.iter().map(StorePath::as_str)).env("LC_ALL", "C.UTF-8").env("PYTHONUTF8", "1");
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => {
                skip!("no python3: {error}");
                return;
            }
        };
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
        // Without the end, which would hide small differences; with the two directories above.
        let each = layer.iter().map(|path| tar_size::of_path(&location, path).unwrap());
        let entries = 1024 + each.sum::<u64>();
        assert_eq!(said.trim(), format!("{entries} {}", predicted(&location, &layer)), "{layer:?}");
    }
    if can_be_huge {
        let least = tar_size::of_path(&location, &huge).unwrap();
        assert_eq!(least, 512 + (8 << 30));
        file.set_len(8 << 30).unwrap();
        assert_eq!(tar_size::of_path(&location, &huge).unwrap(), least + 1024, "a record with its size");
    } else {
        skip!("no file of 8 GiB can be made here");
    }
}

#[test]
fn what_is_compressed_is_the_archive() {
    let odd = Odd::new();
    let location = odd.location();
    let bytes = written(&location, &odd.paths);
    let size = |how| archive::compressed_size(&location, &odd.paths, how).unwrap();
    // The same library on the archive as a whole, and what gunzip makes of it.
    let mut whole = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::new(6));
    std::io::copy(&mut bytes.as_slice(), &mut whole).unwrap();
    let whole = whole.finish().unwrap();
    let mut back = Vec::new();
    flate2::read::GzDecoder::new(whole.as_slice()).read_to_end(&mut back).unwrap();
    assert_eq!(back, bytes);
    let gzip = size(Compression::Gzip { level: 6 });
    assert!(gzip.abs_diff(whole.len() as u64) * 100 < whole.len() as u64, "{gzip} {}", whole.len());
    let zstd = |level| size(Compression::Zstd { level });
    assert!(zstd(19) < zstd(1) && zstd(1) < bytes.len() as u64 / 10);
    assert!(size(Compression::Gzip { level: 0 }) >= bytes.len() as u64);
    let many = [&odd.paths[..], &odd.paths[1..2]];
    let sizes = archive::compressed_sizes(&location, &many, Compression::Gzip { level: 6 }, &|_, _| ());
    assert_eq!(sizes.unwrap()[0], gzip);
}

#[test]
fn what_no_layer_can_have_is_named() {
    let odd = Odd::new();
    let location = odd.location();
    let socket = location.real_path(&odd.paths[0]).join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = tar_size::of_path(&location, &odd.paths[0]).unwrap_err().to_string();
    assert!(error.contains("/socket: it is no file, directory or symlink"), "{error}");
    let gone: StorePath = format!("{}-gone", "5".repeat(32)).parse().unwrap();
    let error = archive::write(&location, &[gone], &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("-gone"), "{error}");
}

/// A store with records, and locks of its environments.
struct Scene {
    store: MiniStore,
    dir: tempfile::TempDir,
}

struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    fn fails_with(self, code: i32, why: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.out.is_empty() && why.iter().all(|why| self.err.contains(why)), "{}", self.err);
    }
}

impl Scene {
    fn new() -> Self {
        let scene = Self { store: MiniStore::temporary(), dir: tempfile::tempdir().unwrap() };
        for env in ["env-a", "env-b"] {
            scene.run("lock", &["-o", &format!("{env}.lock"), scene.store.path(env)]).ok();
        }
        scene
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Answer {
        self.run_on(self.store.root(), command, arguments)
    }

    fn run_on(&self, store: &Path, command: &str, arguments: &[&str]) -> Answer {
        let output = Command::new(env!("CARGO_BIN_EXE_nixview"))
            .args([command, "--store"])
            .arg(store)
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("NIXVIEW_STATE_DIR", self.dir.path().join("state"))
            .env("NIXVIEW_RUNTIME_DIR", self.dir.path().join("run"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn layers(&self, arguments: &[&str]) -> Answer {
        self.run("layers", &[arguments, &["env-a.lock", "env-b.lock"]].concat())
    }

    fn database(&self) -> PathBuf {
        Location::open(self.store.root()).unwrap().database_file().unwrap()
    }
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

#[test]
fn all_strategies_stand_side_by_side() {
    let scene = Scene::new();
    let table = scene.layers(&[]).ok();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(
        rows[0],
        ["STRATEGY", "MAX", "IMAGES", "DISTINCT", "SHARED", "STORED", "FIRST", "LAST", "UNPACKED"]
    );
    let named: Vec<[&str; 2]> = rows[1..].iter().map(|row| [row[0], row[1]]).collect();
    assert_eq!(
        named,
        [
            ["popularity", "100"],
            ["popularity", "125"],
            ["auto", "100"],
            ["auto", "125"],
            ["nixery", "95"],
            ["nix2container", "100"],
            ["nix2container", "125"],
            ["per-path", "-"],
            ["per-image", "-"],
        ]
    );
    assert!(rows[1..].iter().all(|row| row.len() == 9 && row[2] == "2"), "{table}");
    // env-a has 8 paths and env-b as many; right and libc are in both.
    let of = |name: &str| rows.iter().find(|row| row[0] == name).unwrap()[3..5].to_vec();
    let (a, b) = (scene.store.closure("env-a"), scene.store.closure("env-b"));
    let all: BTreeSet<&str> = a.iter().chain(&b).copied().collect();
    for strategy in ["popularity", "auto", "nix2container", "per-path"] {
        assert_eq!(of(strategy), [all.len().to_string(), "2".to_owned()], "{strategy}");
    }
    assert_eq!(of("per-image"), ["2", "0"]);
    let few = scene.layers(&["--strategy", "nix2container,per-path", "--max-layers", "3,2"]).ok();
    let few: Vec<String> =
        few.lines().map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(few, ["STRATEGY MAX", "nix2container 2", "nix2container 3", "per-path -"]);
}

#[test]
fn in_json_the_sums_close_and_layers_are_what_they_say() {
    let scene = Scene::new();
    let location = Location::open(scene.store.root()).unwrap();
    let answer = scene.layers(&["--json", "--max-layers", "4", "--compress", "zstd"]).json();
    assert_eq!(answer["compressed"], serde_json::json!({ "how": "zstd", "level": 3 }));
    assert!(answer["popularity"]["database"].as_str().unwrap().ends_with("db.sqlite"));
    let names: Vec<&str> =
        answer["environments"].as_array().unwrap().iter().map(|env| env["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["env-a", "env-b"]);
    let closures = names.iter().map(|name| (*name, scene.store.closure(name))).collect::<BTreeMap<_, _>>();
    let simulations = answer["simulations"].as_array().unwrap();
    assert_eq!(simulations.len(), 6);
    for one in simulations {
        let strategy = one["strategy"].as_str().unwrap();
        let layers = one["layers"].as_array().unwrap();
        let bytes: Vec<u64> = layers.iter().map(|layer| layer["bytes"].as_u64().unwrap()).collect();
        let compressed: Vec<u64> = layers.iter().map(|layer| layer["compressed"].as_u64().unwrap()).collect();
        let identities: BTreeSet<&str> =
            layers.iter().map(|layer| layer["identity"].as_str().unwrap()).collect();
        assert_eq!(identities.len(), layers.len());
        for (sharing, sizes) in [("digest", &bytes), ("digestCompressed", &compressed)] {
            assert_eq!(
                one[sharing]["stored"],
                sizes.iter().sum::<u64>(),
                "{strategy}: distinct layers, once each"
            );
            assert_eq!(one[sharing]["distinct"], layers.len());
        }
        let shared =
            layers.iter().filter(|layer| layer["environments"].as_array().unwrap().len() == 2).count();
        assert_eq!(one["digest"]["shared"], shared);
        for sharing in ["digest", "chain", "digestCompressed"] {
            let (stored, ordered) =
                (one[sharing]["stored"].as_u64().unwrap(), numbers(&one[sharing]["pulledInOrder"]));
            assert_eq!(ordered.iter().sum::<u64>(), stored, "{strategy} {sharing}");
            assert_eq!(ordered[0], numbers(&one[sharing]["whole"])[0], "the first pulls all");
            assert_eq!(ordered[1], numbers(&one[sharing]["pulledWithAllOthers"])[1]);
        }
        for (at, image) in one["images"].as_array().unwrap().iter().enumerate() {
            let name = image["environment"].as_str().unwrap();
            assert_eq!(name, names[at]);
            let own = numbers(&image["layers"]);
            assert!(strategy.starts_with("per-") || own.len() <= 4, "{strategy}: {own:?}");
            let whole: u64 = own.iter().map(|layer| bytes[*layer as usize]).sum();
            assert_eq!(numbers(&one["digest"]["whole"])[at], whole);
            let mut paths: Vec<String> = own
                .iter()
                .flat_map(|layer| layers[*layer as usize]["paths"].as_array().unwrap())
                .map(|path| path.as_str().unwrap().strip_prefix("/nix/store/").unwrap().to_owned())
                .collect();
            paths.sort();
            assert_eq!(paths, closures[name], "{strategy}: each path once");
            for layer in own {
                let users = layers[layer as usize]["environments"].as_array().unwrap();
                assert!(users.iter().any(|user| user == name));
            }
        }
        for layer in layers {
            let paths: Vec<StorePath> = layer["paths"]
                .as_array()
                .unwrap()
                .iter()
                .map(|path| location.dir.parse(path.as_str().unwrap().as_bytes()).unwrap())
                .collect();
            assert_eq!(layer["bytes"], written(&location, &paths).len(), "{strategy}");
            let how = Compression::Zstd { level: 3 };
            assert_eq!(layer["compressed"], archive::compressed_size(&location, &paths, how).unwrap());
        }
    }
}

/// By hand, from what mini-store says of its two environments.
#[test]
fn the_layers_of_the_tiny_store_by_hand() {
    let scene = Scene::new();
    let label = |path: &Value| {
        let base = path.as_str().unwrap().strip_prefix("/nix/store/").unwrap().to_owned();
        scene.store.labels().find(|label| scene.store.path(label) == base).unwrap().to_owned()
    };
    let layers = |strategy: &str, most: &str| -> Vec<String> {
        let asked = ["--json", "--strategy", strategy, "--max-layers", most, "env-a.lock"];
        let answer = scene.run("layers", &asked).json();
        let layers = answer["simulations"][0]["layers"].as_array().unwrap().clone();
        let shown = |layer: &Value| {
            let mut labels: Vec<String> = layer["paths"].as_array().unwrap().iter().map(label).collect();
            labels.sort();
            labels.join(" ")
        };
        layers.iter().map(shown).collect()
    };
    // env-a → top, left, config, tool, link; top → left, right; link → left; left and right → libc.
    // Walks: 1 to env-a, top, config, tool, link and right; 3 to left; 4 to libc. Ancestors add: libc 4+1+1+1+1+3 = 11, left 3+1+1+1 = 6,
    // right 1+1+1 = 3, the others 2.
    let popular = layers("popularity", "5");
    assert_eq!(popular, ["libc", "left", "right", "config env-a link tool top"]);
    // Walks that end: env-a 1; 2 for top, config, tool, link; left 1+1+2+2 = 6, right 3, libc 1+6+3 = 10.
    assert_eq!(layers("nix2container", "4"), ["libc", "left", "right", "config env-a link tool top"]);
    // Nothing is large or popular: env-a dominates all.
    assert_eq!(layers("nixery", "95"), ["config env-a left libc link right tool top"]);
}

#[test]
fn popularity_is_counted_in_the_database_or_given() {
    let scene = Scene::new();
    let location = Location::open(scene.store.root()).unwrap();
    let database = Database::open(&location).unwrap();
    let counts: BTreeMap<String, u64> = database
        .referrer_counts()
        .unwrap()
        .into_iter()
        .map(|(path, count)| (path.as_str().to_owned(), count))
        .collect();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    let valid: BTreeSet<String> =
        database.valid_paths().unwrap().iter().map(|path| path.as_str().to_owned()).collect();
    for label in scene.store.labels().filter(|label| valid.contains(scene.store.path(label))) {
        for reference in scene.store.references(label) {
            *expected.entry(reference.to_owned()).or_default() += 1;
        }
    }
    assert!(counts[scene.store.path("libc")] > 3);
    assert_eq!(counts, expected);
    let file = scene.dir.path().join("popular.json");
    fs::write(&file, r#"{"left-1.0": 100, "libc-1.0": 7}"#).unwrap();
    let asked = ["--strategy", "nixery", "--popularity", "popular.json", "--json"];
    let answer = scene.run("layers", &[&asked[..], &["env-a.lock"]].concat()).json();
    assert_eq!(answer["popularity"]["file"], "popular.json");
    let layers: Vec<usize> = answer["simulations"][0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["paths"].as_array().unwrap().len())
        .collect();
    // left is popular; so libc is reached over left, and over right, which env-a dominates.
    assert_eq!(layers, [1, 6, 1], "left; all else, for its large closures; libc");
    fs::write(&file, "[1]").unwrap();
    scene
        .run("layers", &[&asked[..], &["env-a.lock"]].concat())
        .fails_with(1, &["cannot use the popularity in popular.json", "hint: it must be a JSON object"]);
}

#[test]
fn closures_of_all_kinds_are_cut_whole() {
    let scene = Scene::new();
    let drv = scene.store.logical("env-a.drv");
    let extra = format!("more={}", scene.store.logical("secret"));
    scene.run("lock", &["-m", "build", "-o", "build.lock", &drv]).ok();
    scene.run("lock", &["-m", "dev", "-o", "dev.lock", &drv]).ok();
    scene.run("lock", &["--extra-root", &extra, "-o", "extra.lock", scene.store.path("env-a")]).ok();
    let path = scene.store.logical("top");
    for (given, least) in [("build.lock", 18), ("dev.lock", 8), ("extra.lock", 9), (path.as_str(), 4)] {
        let closure = scene.run("closure", &[given]).ok();
        let expected: BTreeSet<&str> = closure.lines().collect();
        assert!(expected.len() >= least, "{given} has {}", expected.len());
        let answer = scene.run("layers", &["--json", "--max-layers", "3", given]).json();
        let simulations = answer["simulations"].as_array().unwrap();
        assert_eq!(simulations.len(), 6);
        for one in simulations {
            let layers = one["layers"].as_array().unwrap();
            let paths: Vec<&str> = layers
                .iter()
                .flat_map(|layer| layer["paths"].as_array().unwrap())
                .map(|path| path.as_str().unwrap())
                .collect();
            assert_eq!(paths.len(), expected.len(), "{given} {}", one["strategy"]);
            assert_eq!(paths.into_iter().collect::<BTreeSet<_>>(), expected);
            assert!(one["maxLayers"].is_null() || layers.len() <= 3);
        }
    }
}

#[test]
fn csv_has_a_line_for_each_strategy_and_environment() {
    let scene = Scene::new();
    let text = scene.layers(&["--csv", "--strategy", "per-path", "--strategy", "per-image"]).ok();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(
        reader.headers().unwrap().iter().take(3).collect::<Vec<_>>(),
        ["strategy", "max_layers", "environment"]
    );
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let names: Vec<[&str; 3]> = rows.iter().map(|row| [&row[0], &row[1], &row[2]]).collect();
    assert_eq!(
        names,
        [
            ["per-path", "", "env-a"],
            ["per-path", "", "env-b"],
            ["per-image", "", "env-a"],
            ["per-image", "", "env-b"]
        ]
    );
    assert_eq!((&rows[0][3], &rows[2][3]), ("8", "1"));
    assert_eq!(rows[2][4], rows[2][5], "the first pulls all");
    assert!(rows.iter().all(|row| row[9].is_empty() && row[11].is_empty()), "nothing was compressed");
}

#[test]
fn errors_say_what_is_missing_and_what_to_do() {
    let scene = Scene::new();
    scene.layers(&["--max-layers", "1"]).fails_with(2, &["--max-layers", "1 is not in 2.."]);
    scene.layers(&["--level", "3"]).fails_with(2, &["--compress"]);
    scene
        .layers(&["--compress", "gzip", "--level", "10"])
        .fails_with(2, &["gzip has the levels 0 to 9, and not 10"]);
    scene
        .layers(&["--compress", "zstd", "--level", "0"])
        .fails_with(2, &["zstd has the levels 1 to 22, and not 0"]);
    scene.layers(&["--json", "--csv"]).fails_with(2, &["cannot be used with"]);
    scene.layers(&["--strategy", "best"]).fails_with(2, &["nix2container", "per-image"]);
    scene.run("layers", &["no-such-thing"]).fails_with(1, &["no-such-thing"]);
    // Without what the layers are cut by.
    let odd = Odd::new();
    let path = odd.paths[1].as_str();
    scene
        .run_on(odd.dir.path(), "layers", &[path])
        .fails_with(1, &["has no Nix database: what refers to what", "hint: layers are cut by both"]);
    // With a size that was not recorded.
    let unsized_path = scene.store.path("right");
    let change = rusqlite::Connection::open(scene.database()).unwrap();
    let full = format!("/nix/store/{unsized_path}");
    assert_eq!(change.execute("UPDATE ValidPaths SET narSize = NULL WHERE path = ?1", [&full]).unwrap(), 1);
    drop(change);
    scene.layers(&[]).fails_with(
        1,
        &[
            "cannot cut 'env-a' into layers",
            &format!("does not say how large {unsized_path} is"),
            "hint: 'nix-store --dump",
        ],
    );
    // With files that are not there.
    let scene = Scene::new();
    fs::remove_file(scene.store.real("tool")).unwrap();
    scene
        .layers(&[])
        .fails_with(1, &["cannot simulate the images", scene.store.path("tool"), "No such file", "hint: "]);
}
