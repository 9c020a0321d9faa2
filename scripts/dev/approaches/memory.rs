//! What containers that run at the same time cost in memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::run::{command, output};
use crate::start::{Start, Way, wait_for_views};
use crate::world::{Environment, World};

/// The kernel's own count, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Pages of files, without those of tmpfs and the like.
    pub(crate) cache: f64,
    /// Pages of processes.
    pub(crate) anonymous: f64,
    /// What the kernel keeps about files, mounts and processes.
    pub(crate) kernel: f64,
    /// Pages of tmpfs and the like.
    pub(crate) shared: f64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let said = fs::read_to_string("/proc/meminfo")?;
        let of = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse::<f64>().ok()).map(|number| number * 1024.0)
        };
        let need = |name: &str| of(name).ok_or_else(|| format!("/proc/meminfo has no {name}"));
        Ok(Self {
            cache: need("Cached")? - need("Shmem")?,
            anonymous: need("AnonPages")?,
            kernel: need("Slab")? + of("KernelStack").unwrap_or(0.0) + of("PageTables").unwrap_or(0.0),
            shared: need("Shmem")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            cache: self.cache - before.cache,
            anonymous: self.anonymous - before.anonymous,
            kernel: self.kernel - before.kernel,
            shared: self.shared - before.shared,
        }
    }
}

/// Writes what is to be written, so that what comes next does not pay for it.
pub(crate) fn write_all() -> Result<()> {
    output(&mut command("sync", [""; 0])).map(drop)
}

/// Writes what is to be written, and drops what the kernel has cached of files. What running programs have mapped stays.
pub(crate) fn drop_caches() -> Result<()> {
    write_all()?;
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| format!("cannot drop caches: {e}").into())
}

/// What grows in a few seconds in which nothing is started: how far the other numbers can be trusted.
pub(crate) fn of_nothing() -> Result<Memory> {
    drop_caches()?;
    let before = Memory::now()?;
    std::thread::sleep(Duration::from_secs(3));
    Ok(Memory::now()?.since(before))
}

/// Starts one of each after caches were dropped; what has grown when all have done their work, and what the program that
/// is measured takes of it itself (PSS).
pub(crate) fn together(world: &World, way: Way, of: &[&Environment]) -> Result<(Memory, f64)> {
    drop_caches()?;
    let before = Memory::now()?;
    let started: Vec<_> = std::thread::scope(|scope| {
        // An error that can be handed on from a thread.
        let one = move |number, environment| {
            Start::new(world, environment, way, number).and_then(Start::stay).map_err(|e| e.to_string())
        };
        let all = of.iter().enumerate();
        let threads: Vec<_> = all.map(|(number, each)| scope.spawn(move || one(number, each))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    // A keeper becomes a smaller program when it has waited for two seconds.
    std::thread::sleep(Duration::from_secs(4));
    let measured = Memory::now().and_then(|now| Ok((now.since(before), of_program(&world.nixview)?)));
    let mut failure = None;
    for started in started {
        match started {
            Ok(Ok((staying, start))) => {
                let ended = staying.end().and(start.clean_up());
                failure = failure.or(ended.err().map(|e| e.to_string()));
            }
            Ok(Err(why)) => failure = failure.or(Some(why)),
            Err(_) => failure = Some("a thread failed".to_owned()),
        }
    }
    wait_for_views(world)?;
    failure.map_or(measured, |why| Err(why.into()))
}

/// Proportional set size of all processes of a program and of the one that its keepers become, in bytes.
fn of_program(program: &Path) -> Result<f64> {
    let program = fs::canonicalize(program)?;
    let keep = fs::canonicalize(program.with_file_name("nixview-keep"))?;
    let of = |dir: &Path| {
        fs::read_link(dir.join("exe")).ok().filter(|exe| *exe == program || *exe == keep)?;
        let rollup = fs::read_to_string(dir.join("smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let all = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| of(&entry.path()))
        .fold(0.0, |all, one| all + one);
    Ok(all * 1024.0)
}
