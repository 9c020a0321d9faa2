//! Compares closures of every environment of a store with what real `nix-store` answers.
//!
//! `dev_closures STORE ENVS.TSV`: the table has name, output and derivation a line. Each mode from each source of
//! references that can tell it: the database, a registration, the .drv files with the database, and a scan alone.
#![allow(clippy::print_stdout, reason = "a program for developers")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use nixview::closure::{Mode, resolve};
use nixview::store::scan::cache::ScanCache;
use nixview::store::{
    Database, DerivationFiles, Location, References, StorePath, Unrecorded, path_list, registration,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn nix_store(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("nix-store").args(arguments).output()?;
    if !output.status.success() {
        std::io::stderr().write_all(&output.stderr)?;
        return Err(format!("nix-store {arguments:?}: {}", output.status).into());
    }
    Ok(output.stdout)
}

fn listed(location: &Location, arguments: &[&str]) -> Result<Vec<StorePath>> {
    let mut paths = path_list::parse(&location.dir, &nix_store(arguments)?)?;
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// What Nix says to `dev`: the closure of the used outputs (from `nix show-derivation`) and of the input sources.
fn nix_dev(location: &Location, derivation: &str) -> Result<Vec<StorePath>> {
    let arguments = ["--extra-experimental-features", "nix-command", "show-derivation", derivation];
    let shown = Command::new("nix").args(arguments).output()?;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let shown = shown.get(derivation).ok_or("no such derivation in what nix shows")?;
    let mut roots: Vec<String> = Vec::new();
    for source in shown.get("inputSrcs").and_then(|v| v.as_array()).into_iter().flatten() {
        roots.extend(source.as_str().map(str::to_owned));
    }
    for (input, names) in shown.get("inputDrvs").and_then(|v| v.as_object()).into_iter().flatten() {
        for name in names.as_array().into_iter().flatten().filter_map(|v| v.as_str()) {
            let output = nix_store(&["-q", "--binding", name, input])?;
            roots.push(String::from_utf8(output)?.trim().to_owned());
        }
    }
    if roots.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = vec!["-qR"];
    arguments.extend(roots.iter().map(String::as_str));
    listed(location, &arguments)
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, table] = arguments.as_slice() else { return Err("dev_closures STORE ENVS.TSV".into()) };
    let location = Location::open(Path::new(store))?;
    let database = Database::open(&location)?;
    let files = DerivationFiles::new(location.clone(), Database::open(&location)?);
    let all = database.valid_paths()?;
    let mut dump = Command::new("nix-store").arg("--dump-db").output()?.stdout;
    let recorded = registration::parse(&location.dir, &dump, "nix-store --dump-db")?;
    dump.clear();
    println!("{} valid paths, {} in the registration", all.len(), recorded.count());
    let scanned = Unrecorded::open(&location, ScanCache::none())?;
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in std::fs::read_to_string(table)?.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(output), Some(derivation)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(format!("not a line of three fields: {line}").into());
        };
        let root = location.dir.parse(output.as_bytes())?;
        let drv = location.dir.parse(derivation.as_bytes())?;
        let expected = [
            (Mode::Runtime, &root, listed(&location, &["-qR", output])?),
            (Mode::Build, &drv, listed(&location, &["-qR", "--include-outputs", derivation])?),
            (Mode::Dev, &drv, nix_dev(&location, derivation)?),
        ];
        let sources: [(&str, &dyn References); 4] = [
            ("database", &database),
            ("registration", &recorded),
            (".drv files", &files),
            ("scan", &scanned),
        ];
        for (mode, root, expected) in expected {
            for (kind, source) in sources {
                if kind == "registration" && mode != Mode::Runtime {
                    continue;
                }
                let told = resolve(source, std::slice::from_ref(root), mode);
                let count = counts.entry(format!("{mode} from {kind}")).or_default();
                match told {
                    Ok(told) if told.paths() == expected => count.0 += 1,
                    Ok(told) => {
                        count.1 += 1;
                        let missing = expected.iter().filter(|p| !told.contains(p)).collect::<Vec<_>>();
                        let extra = told.paths().iter().filter(|p| expected.binary_search(p).is_err());
                        println!(
                            "{name} {mode} {kind}: missing {missing:?}, extra {:?}",
                            extra.collect::<Vec<_>>()
                        );
                    }
                    Err(error) => {
                        count.1 += 1;
                        println!("{name} {mode} {kind}: {error}");
                    }
                }
            }
        }
    }
    for (what, (same, other)) in &counts {
        println!("{what}: {same} the same, {other} not");
    }
    Ok(if counts.values().all(|(_, other)| *other == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
