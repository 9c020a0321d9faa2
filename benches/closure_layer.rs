//! The closure layer: its members looked at, its image made, and a cached image opened again.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::convert::Infallible;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nixview::overlay::closure_layer::{MAX_CONTENTS, Survey};
use nixview::overlay::{erofs, image_cache};
use nixview::vfs::Name;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("closure_layer");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    for members in [282_u32, 5_000, 50_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        let names: Vec<Name> = (0..members)
            .map(|n| Name::new(format!("{n:032}-package-of-a-usual-length-1.2.{n}").as_bytes()).unwrap())
            .collect();
        for name in &names {
            fs::create_dir(store.join(name.to_string())).unwrap();
        }
        let store = File::open(&store).unwrap();
        group.throughput(Throughput::Elements(members.into()));
        group.bench_with_input(BenchmarkId::new("survey", members), &names, |b, names| {
            b.iter(|| Survey::of(store.as_fd(), black_box(names.clone())).unwrap());
        });
        let survey = Survey::of(store.as_fd(), names.clone()).unwrap();
        group.bench_with_input(BenchmarkId::new("image", members), &survey, |b, survey| {
            b.iter(|| erofs::image(&survey.layer(store.as_fd(), true, MAX_CONTENTS).unwrap().tree).unwrap());
        });
        let request = image_cache::Request {
            state: dir.path(),
            digest: &[0; 32],
            nix_state: true,
            store: store.as_fd(),
        };
        let open = || image_cache::open(&request, || Ok::<_, Infallible>(names.clone())).unwrap();
        group.bench_function(BenchmarkId::new("build and keep", members), |b| {
            b.iter_with_setup(
                || drop(fs::remove_dir_all(dir.path().join(image_cache::DIRECTORY))),
                |()| assert!(open().built),
            );
        });
        // Until the change time of the store is old enough to be trusted.
        std::thread::sleep(Duration::from_millis(2_100));
        open();
        group.bench_function(BenchmarkId::new("open again", members), |b| b.iter(open));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
