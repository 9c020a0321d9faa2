//! Every layer keeps the contract of `Lower` and `Upper`: one suite over all of them.
//!
//! Those that need no privilege; `root/layer.rs` has the file systems that must be mounted.
use std::path::Path;

use crate::support::layer_suite::{self, Bench, dir};
use crate::support::skip::skip;
use nixview::layer::dir::Format;
use nixview::layer::fault::{FaultUpper, Faults};
use nixview::layer::mem::MemLayer;

fn mem() -> (MemLayer, Bench<MemLayer>) {
    let layer = MemLayer::new();
    let (again, work) = (layer.clone(), layer.clone());
    let bench = Bench {
        upper: layer.clone(),
        owner: (1000, 1001),
        xattrs: true,
        reserves_names: false,
        reopen: Box::new(move || {
            again.reopen();
            again.clone()
        }),
        work: Box::new(move || work.drafts()),
        _keep: Box::new(()),
    };
    (layer, bench)
}

#[test]
fn a_layer_in_memory() {
    layer_suite::run("mem", || mem().1);
}

#[test]
fn an_upper_with_no_faults_yet() {
    layer_suite::run("fault", || {
        let (layer, bench) = mem();
        let Bench { owner, xattrs, reserves_names, reopen, work, _keep, .. } = bench;
        Bench {
            upper: FaultUpper::new(layer, Faults::none()),
            owner,
            xattrs,
            reserves_names,
            reopen: Box::new(move || FaultUpper::new(reopen(), Faults::none())),
            work,
            _keep,
        }
    });
}

fn directories(parent: &Path) {
    for format in Format::ALL {
        match dir::bench(parent, Some(format)) {
            Ok(bench) => drop(bench),
            Err(error) => {
                skip!("{} in {}: {error}", format.as_str(), parent.display());
                continue;
            }
        }
        let name = format!("dir in {}, {}", parent.display(), format.as_str());
        layer_suite::run(&name, || dir::bench(parent, Some(format)).unwrap());
    }
}

#[test]
fn directories_on_a_disk() {
    directories(&std::env::temp_dir());
}

#[test]
fn directories_in_memory() {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        directories(shm);
    } else {
        skip!("there is no /dev/shm");
    }
}

#[test]
fn the_probe_finds_a_format_that_works() {
    let bench = dir::bench(&std::env::temp_dir(), None).unwrap();
    assert!(Format::ALL.contains(&bench.upper.format()));
    assert_eq!((bench.work)(), 0, "and leaves nothing");
}
