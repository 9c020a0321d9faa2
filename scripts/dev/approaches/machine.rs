//! What the numbers were measured on.

use std::fs;

use crate::Result;
use crate::build::Approach;
use crate::record::Records;
use crate::run::{command, output};
use crate::world::{World, space};

/// Notes about machine, programs and store.
pub(crate) fn describe(world: &World, records: &mut Records) -> Result<()> {
    let of = |program: &str, words: &[&str]| {
        let said = output(&mut command(program, words)).unwrap_or_else(|why| why.to_string());
        said.lines().next().unwrap_or_default().to_owned()
    };
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let processors = std::thread::available_parallelism()?.get();
    let model = field("/proc/cpuinfo", "model name");
    records.note("kernel", &format!("Linux {}", of("uname", &["-r"])))?;
    records.note("processors", &format!("{processors} × {model}"))?;
    records.note("memory", &field("/proc/meminfo", "MemTotal"))?;
    let disk = of("findmnt", &["-n", "-o", "FSTYPE,OPTIONS", "-T", &world.work.display().to_string()]);
    let device = of("findmnt", &["-n", "-o", "SOURCE", "-T", &world.work.display().to_string()]);
    let journal = if disk.starts_with("ext4") && !has_journal(&device) { ", no journal" } else { "" };
    let disk = disk.split_whitespace().collect::<Vec<_>>().join(", ");
    records.note("file system", &format!("{disk}{journal}"))?;
    for (what, program, words) in [
        ("nixview", world.nixview.display().to_string(), "--version"),
        ("Nix", "nix-store".to_owned(), "--version"),
        ("runc", "runc".to_owned(), "--version"),
        ("bubblewrap", "/usr/bin/bwrap".to_owned(), "--version"),
        ("umoci", "umoci".to_owned(), "--version"),
        ("skopeo", "skopeo".to_owned(), "--version"),
        ("tar", "tar".to_owned(), "--version"),
    ] {
        records.note(what, &of(&program, &[words]))?;
    }
    let doctor = output(world.nixview(&world.path("homes")).args(["doctor", "--json"]))?;
    let doctor: serde_json::Value = serde_json::from_str(&doctor)?;
    let mut all = doctor.as_array().into_iter().flatten();
    let passthrough = all.find(|one| one.get("name").is_some_and(|name| name == "passthrough"));
    let found = passthrough.and_then(|one| one.get("found")?.as_str()).unwrap_or("not known");
    records.note("files of views", found)?;
    let date = of("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]);
    records.note("measured", &date)?;
    records.note("approaches", &Approach::ALL.map(Approach::key).join(", "))?;
    store(world, records)
}

/// An ext4 that is mounted has a journal: the kernel shows it in /proc/fs/jbd2, as the device's name and a number.
fn has_journal(device: &str) -> bool {
    let name = device.trim_start_matches("/dev/").replace('/', "!");
    let journals = fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
    journals
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|journal| journal.strip_prefix(&name).is_some_and(|rest| rest.starts_with('-')))
}

/// The store's paths, and how long building them took: from the first path that Nix registered to the last.
fn store(world: &World, records: &mut Records) -> Result<()> {
    let paths: Vec<&str> = world.environments.iter().map(|environment| environment.path.as_str()).collect();
    let drvs = output(command("nix-store", ["-q", "--deriver"]).args(&paths).env("NIX_REMOTE", ""))?;
    let mut all = command("nix-store", ["-qR", "--include-outputs"]);
    let all = output(all.args(drvs.lines()).env("NIX_REMOTE", ""))?;
    let all: Vec<&str> = all.lines().collect();
    let database = rusqlite::Connection::open_with_flags(
        "/nix/var/nix/db/db.sqlite",
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )?;
    let mut ask = database.prepare("select registrationTime from ValidPaths where path = ?")?;
    let mut times: Vec<i64> = Vec::new();
    for path in &all {
        times.push(ask.query_row([path], |row| row.get(0))?);
    }
    let span = times.iter().max().zip(times.iter().min()).map(|(last, first)| last - first);
    let span = i32::try_from(span.unwrap_or(0)).map(f64::from);
    let of = ("store", "all");
    records.result(0, of, ("build of the store", "s"), span.map_err(Into::into))?;
    records.result(0, of, ("paths", "paths"), Ok(f64::from(u32::try_from(all.len())?)))?;
    let mut closures: Vec<&String> = world.environments.iter().flat_map(|e| &e.closure).collect();
    closures.sort_unstable();
    closures.dedup();
    records.result(
        0,
        of,
        ("paths of the closures", "paths"),
        Ok(f64::from(u32::try_from(closures.len())?)),
    )?;
    for environment in &world.environments {
        let of = ("store", environment.name.as_str());
        records.result(0, of, ("closure", "bytes"), Ok(bytes(environment.bytes)))?;
        let count = f64::from(u32::try_from(environment.closure.len())?);
        records.result(0, of, ("paths", "paths"), Ok(count))?;
    }
    records.result(0, of, ("disk of all closures", "bytes"), space(&closures).map(bytes))
}

/// As a number for a row; exact up to some petabytes.
#[allow(clippy::cast_precision_loss, reason = "below 2^53")]
pub(crate) fn bytes(count: u64) -> f64 {
    count as f64
}
