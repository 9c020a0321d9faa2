//! The order in which everything is measured. Approaches take turns, so that all of them see the same machine.

use std::fs;
use std::time::{Duration, Instant};

use crate::build::{Approach, kept};
use crate::machine::{bytes, describe};
use crate::memory::{Memory, drop_caches, of_nothing, together, write_all};
use crate::record::Records;
use crate::start::{STARTS_AT_ONCE, Start, Way, home_of, wait_for_views};
use crate::world::{Environment, World, space};
use crate::{Measure, Result, image, say};

/// How many environments are timed unless they are named: the smallest, others evenly spread by size up to three fifths of
/// all, and beside these that with the most paths, which is a large one.
const TIMED: usize = 5;

/// Measures everything; how many measurements failed.
pub(crate) fn all(mut asked: Measure) -> Result<usize> {
    if asked.quick {
        (asked.builds, asked.cold, asked.warm, asked.together, asked.containers) = (1, 1, 1, 1, 4);
    }
    for dir in ["home", "tmp", "run", "starts", "containers"] {
        fs::create_dir_all(asked.work.join(dir))?;
    }
    let began = Instant::now();
    let passed = |what: &str| say(&format!("{:4} s: {what}", began.elapsed().as_secs()));
    let mut records = Records::create(&asked.csv)?;
    let world = World::open(&asked.work, &asked.built, &asked.cache, &asked.nixview)?;
    describe(&world, &mut records)?;
    records.note("containers together", &asked.containers.to_string())?;
    let timed = timed(&world, &asked);
    let names: Vec<&str> = timed.iter().map(|environment| environment.name.as_str()).collect();
    if asked.starts {
        for environment in &timed {
            let project = world.project(environment)?;
            for approach in [Approach::Nixview, Approach::Binds] {
                approach.build(&world, &home_of(&world, approach), &project)?;
            }
        }
        passed("starts");
        starts(&world, &timed, &asked, &Way::VIEWS, &mut records)?;
        if asked.at_once > 0 {
            passed(&format!("{} starts at once", asked.at_once));
            records.note("starts at once", &asked.at_once.to_string())?;
            starts_at_once(&world, &timed, &asked, &mut records)?;
        }
        passed("done");
        return Ok(records.failures());
    }
    passed(&format!("disk and layers of {} environments", world.environments.len()));
    disk(&world, &mut records)?;
    passed(&format!("builds of {}", names.join(", ")));
    builds(&world, &timed, asked.builds, &mut records)?;
    passed("starts");
    starts(&world, &timed, &asked, &Way::ALL, &mut records)?;
    passed("containers together");
    containers(&world, &timed, &asked, &mut records)?;
    passed("done");
    Ok(records.failures())
}

fn timed<'a>(world: &'a World, asked: &Measure) -> Vec<&'a Environment> {
    let all = &world.environments;
    if !asked.environments.is_empty() {
        return all.iter().filter(|environment| asked.environments.contains(&environment.name)).collect();
    }
    let (wanted, up_to) =
        if asked.quick { (2, all.len().saturating_sub(1)) } else { (TIMED, all.len() * 3 / 5) };
    let most = all.iter().max_by_key(|environment| environment.closure.len());
    let is_most = |name: &str| !asked.quick && most.is_some_and(|most| most.name == name);
    let is_chosen = |at: usize, name: &str| {
        all.len() <= wanted || is_most(name) || (0..wanted).any(|k| at == k * up_to / (wanted - 1))
    };
    let chosen = all.iter().enumerate().filter(|(at, environment)| is_chosen(*at, &environment.name));
    chosen.map(|(_, environment)| environment).collect()
}

/// All of something, beginning with another one each time.
fn by_turns<T: Copy>(all: &[T], turn: usize) -> impl Iterator<Item = T> {
    all.iter().copied().cycle().skip(turn % all.len().max(1)).take(all.len())
}

/// Builds every environment with every approach, beside each other, and measures what that keeps.
fn disk(world: &World, records: &mut Records) -> Result<()> {
    let mut number = 0;
    for (turn, environment) in world.environments.iter().enumerate() {
        let run = u32::try_from(turn + 1)?;
        let project = world.project(environment)?;
        for approach in by_turns(&Approach::ALL, turn) {
            let home = home_of(world, approach);
            fs::create_dir_all(&home)?;
            let of = (approach.key(), environment.name.as_str());
            let before = kept(&home)?;
            if let Err(why) = approach.build(world, &home, &project) {
                records.result(0, of, ("disk", "bytes"), Err(why))?;
                continue;
            }
            if matches!(approach, Approach::Image | Approach::Layers) {
                image::collect(&home)?;
                records.result(0, of, ("layers", "layers"), image::layers(&home, &environment.name))?;
                let stored = image::blobs(&home, &environment.name).and_then(|blobs| space(&blobs));
                records.result(0, of, ("blobs", "bytes"), stored.map(bytes))?;
            }
            // Using it may keep something too.
            if approach == Approach::Nixview {
                for way in [Way::NixviewShell, Way::NixviewRunc, Way::OverlayRunc] {
                    number += 1;
                    if let Err(why) = started(world, environment, way, number) {
                        records.result(0, (way.key(), &environment.name), ("first use", "ms"), Err(why))?;
                    }
                }
            }
            let after = kept(&home)?;
            records.result(run, of, ("disk of so many", "bytes"), Ok(bytes(after)))?;
            let own = approach.own(&home, &environment.name)?;
            let alone = own.map_or(Ok(after - before), |own| space(&own));
            records.result(0, of, ("disk", "bytes"), alone.map(bytes))?;
        }
    }
    for approach in [Approach::Image, Approach::Layers] {
        let home = home_of(world, approach);
        let stored = space(&[home.join("images")]).map(bytes);
        records.result(0, (approach.key(), "all"), ("blobs", "bytes"), stored)?;
        let distinct = fs::read_dir(home.join("unpacked")).map(Iterator::count).map_err(Into::into);
        let distinct = distinct.and_then(|count| Ok(f64::from(u32::try_from(count)?)));
        records.result(0, (approach.key(), "all"), ("layers", "layers"), distinct)?;
    }
    Ok(())
}

/// Builds from nothing, after a change, and without one; each time what is built is new to the store.
fn builds(world: &World, timed: &[&Environment], rounds: u32, records: &mut Records) -> Result<()> {
    let mut change = 0;
    for round in 1..=rounds {
        for (at, environment) in timed.iter().enumerate() {
            let project = world.project(environment)?;
            let package = world.package_beside(environment, &project);
            for approach in by_turns(&Approach::ALL, usize::try_from(round)? + at) {
                let home = world.path("first");
                let of = (approach.key(), environment.name.as_str());
                for what in ["initial build", "rebuild after a change", "rebuild without a change"] {
                    match what {
                        "initial build" => world.change(
                            &project,
                            {
                                change += 1;
                                change
                            },
                            None,
                        )?,
                        "rebuild after a change" => world.change(
                            &project,
                            {
                                change += 1;
                                change
                            },
                            package,
                        )?,
                        _ => {}
                    }
                    write_all()?;
                    let began = Instant::now();
                    let built = approach.build(world, &home, &project);
                    let took = began.elapsed().as_secs_f64();
                    let failed = built.is_err();
                    records.result(round, of, (what, "s"), built.map(|()| took))?;
                    if failed {
                        break;
                    }
                }
                if home.exists() {
                    fs::remove_dir_all(&home)?;
                }
            }
            // As the store has it, for starts.
            world.project(environment)?;
        }
    }
    Ok(())
}

/// Starts each after caches were dropped, and again with what that has brought into them.
fn starts(
    world: &World,
    timed: &[&Environment],
    asked: &Measure,
    ways: &[Way],
    records: &mut Records,
) -> Result<()> {
    let mut number = 0;
    for round in 1..=asked.cold {
        for (at, environment) in timed.iter().enumerate() {
            for way in by_turns(ways, usize::try_from(round)? + at) {
                let of = (way.key(), environment.name.as_str());
                drop_caches()?;
                for warm in 0..=asked.warm {
                    number += 1;
                    let took = started(world, environment, way, number);
                    let what = if warm == 0 { "start, cold" } else { "start, warm" };
                    let run = if warm == 0 { round } else { (round - 1) * asked.warm + warm };
                    let failed = took.is_err();
                    records.result(run, of, (what, "ms"), took.map(|took| took.as_secs_f64() * 1e3))?;
                    if failed {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// One start, with nothing left of it.
fn started(world: &World, environment: &Environment, way: Way, number: usize) -> Result<Duration> {
    let took = Start::new(world, environment, way, number)?.until_first_line();
    wait_for_views(world).and(took.map(|(_, took)| took))
}

/// Starts many of each at once; from the first until the last of them has written its line.
fn starts_at_once(
    world: &World,
    timed: &[&Environment],
    asked: &Measure,
    records: &mut Records,
) -> Result<()> {
    for round in 1..=asked.together {
        for (at, environment) in timed.iter().enumerate() {
            for way in by_turns(&Way::VIEWS, usize::try_from(round)? + at) {
                let took = all_started(world, environment, way, asked.at_once);
                let of = (way.key(), environment.name.as_str());
                records.result(
                    round,
                    of,
                    (STARTS_AT_ONCE, "ms"),
                    took.map(|took| took.as_secs_f64() * 1e3),
                )?;
            }
        }
    }
    Ok(())
}

fn all_started(world: &World, environment: &Environment, way: Way, count: usize) -> Result<Duration> {
    let began = Instant::now();
    let last = std::thread::scope(|scope| {
        // An error that can be handed on from a thread.
        let one = |number| {
            let start = Start::new(world, environment, way, number).and_then(Start::until_first_line);
            start.map(|(began, took)| began + took).map_err(|e| e.to_string())
        };
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || one(number))).collect();
        let ends =
            threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread failed".to_owned())?);
        ends.collect::<std::result::Result<Vec<_>, String>>()
    });
    wait_for_views(world)?;
    Ok(last?.into_iter().max().ok_or("nothing was started")? - began)
}

/// Containers that stay: of all environments by turns, and of one.
fn containers(world: &World, timed: &[&Environment], asked: &Measure, records: &mut Records) -> Result<()> {
    let ways = [
        Way::Alone,
        Way::NixviewRunc,
        Way::OverlayRunc,
        Way::WholeRunc,
        Way::Image,
        Way::Layers,
        Way::Binds,
        Way::Copy,
        Way::NixviewShell,
        Way::NixShell,
    ];
    let middle = timed.get(timed.len() / 2).ok_or("no environment")?;
    let mixed: Vec<&Environment> = world.environments.iter().cycle().take(asked.containers).collect();
    let same = vec![*middle; asked.containers];
    for round in 1..=asked.together {
        for (of, which) in [(&mixed, "by turns"), (&same, middle.name.as_str())] {
            let key = ("nothing started", which);
            grown(records, round, key, of_nothing().map(|memory| (memory, 0.0)))?;
            for way in by_turns(&ways, usize::try_from(round)?) {
                grown(records, round, (way.key(), which), together(world, way, of))?;
            }
        }
    }
    Ok(())
}

/// A row for each kind of memory.
fn grown(records: &mut Records, round: u32, of: (&str, &str), what: Result<(Memory, f64)>) -> Result<()> {
    let (memory, program) = match what {
        Ok(found) => found,
        Err(why) => return records.result(round, of, ("page cache", "bytes"), Err(why)),
    };
    for (what, value) in [
        ("page cache", memory.cache),
        ("anonymous memory", memory.anonymous),
        ("kernel memory", memory.kernel),
        ("shared memory", memory.shared),
        ("PSS of nixview", program),
    ] {
        records.result(round, of, (what, "bytes"), Ok(value))?;
    }
    Ok(())
}
