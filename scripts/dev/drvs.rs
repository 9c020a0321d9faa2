//! Checks every .drv file of a directory against the references in Nix's own database.
//!
//! `dev_drvs DIR GRAPH.TSV`: the table has id, path, size and ids of the references a line.
#![allow(clippy::print_stdout, reason = "a program for developers")]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use nixview::store::{Derivation, Location, StoreDir, StorePath};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, graph] = arguments.as_slice() else { return Err("dev_drvs DIR GRAPH.TSV".into()) };
    let location = Location::with_dir(Path::new(dir), StoreDir::default())?;
    let graph = std::fs::read_to_string(graph)?;
    let mut paths: HashMap<&str, StorePath> = HashMap::new();
    for line in graph.lines() {
        let mut fields = line.split('\t');
        let (Some(id), Some(path)) = (fields.next(), fields.next()) else { return Err(line.into()) };
        paths.insert(id, path.parse()?);
    }
    let (mut same, mut other) = (0, 0);
    let started = Instant::now();
    for line in graph.lines() {
        let mut fields = line.split('\t');
        let (Some(id), _, _, references) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(line.into());
        };
        let path = paths.get(id).ok_or("an id without a path")?;
        if !path.is_derivation() {
            continue;
        }
        let ids = references.unwrap_or_default().split(' ').filter(|id| !id.is_empty());
        let mut expected: Vec<StorePath> = ids.filter_map(|id| paths.get(id).cloned()).collect();
        expected.sort();
        match Derivation::read(&location, path) {
            Ok(read) if read.references() == expected => {
                let text = std::fs::read(location.real_path(path))?;
                if read.to_aterm(&location.dir) == text {
                    same += 1;
                } else {
                    other += 1;
                    println!("{path}: it is written otherwise than it was");
                }
            }
            Ok(read) => {
                other += 1;
                println!("{path}: {:?} against {expected:?}", read.references());
            }
            Err(error) => {
                other += 1;
                println!("{path}: {error}");
            }
        }
    }
    println!(
        "{same} derivations the same as in Nix, {other} not, in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(if other == 0 && same > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
