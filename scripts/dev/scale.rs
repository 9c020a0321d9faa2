//! Times closures of a large database against real `nix-store -qR`, in one run.
//!
//! `dev_scale ROOT`: a root with `nix/var/nix/db/db.sqlite` and `roots.tsv` (path, size of its closure). Each answer is
//! measured in a process of its own, as a command would be; `dev_scale ROOT one|cached STATE PATH` is that process.
#![allow(clippy::print_stdout, reason = "a program for developers")]

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nixview::closure::cache::Found;
use nixview::closure::{Cache, Mode, resolve};
use nixview::store::{Database, Location};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One answer; prints the milliseconds inside, the peak of its memory in kB, the number of paths and the digest.
fn answer(root: &str, how: &str, state: &str, path: &str) -> Result<()> {
    let started = Instant::now();
    let location = Location::open(Path::new(root))?;
    let path = location.dir.parse(path.as_bytes())?;
    let (closure, found) = if how == "cached" {
        Cache::open(Path::new(state)).closure_at(&location, &[path], Mode::Runtime)?
    } else {
        (resolve(&Database::open(&location)?, &[path], Mode::Runtime)?, Found::Computed)
    };
    let digest = closure.digest();
    let took = started.elapsed().as_secs_f64() * 1e3;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim();
    println!("{took:.3}\t{peak}\t{}\t{digest}\t{found:?}", closure.count());
    Ok(())
}

fn timed(command: &mut Command) -> Result<(Duration, String)> {
    let started = Instant::now();
    let output = command.output()?;
    let took = started.elapsed();
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8(output.stderr)?).into());
    }
    Ok((took, String::from_utf8(output.stdout)?))
}

/// The median and the last output of each of several commands, which run by turns so that all see the same load.
fn medians<const N: usize>(runs: usize, commands: [&dyn Fn() -> Command; N]) -> Result<[(f64, String); N]> {
    let mut all: [(Vec<f64>, String); N] = std::array::from_fn(|_| (Vec::new(), String::new()));
    for _ in 0..runs {
        for (command, (times, last)) in commands.iter().zip(&mut all) {
            let (took, output) = timed(&mut command())?;
            times.push(took.as_secs_f64() * 1e3);
            *last = output;
        }
    }
    Ok(all.map(|(mut times, last)| {
        times.sort_by(f64::total_cmp);
        (times.get(runs / 2).copied().unwrap_or_default(), last)
    }))
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = match arguments.as_slice() {
        [root, how, state, path] => {
            answer(root, how, state, path)?;
            return Ok(ExitCode::SUCCESS);
        }
        [root] => root,
        _ => return Err("dev_scale ROOT".into()),
    };
    let me = std::env::current_exe()?;
    let state = tempfile::tempdir()?;
    println!("closure\tnix-store\tcold\t(inside)\tpeak\tcached\t(inside)\tgains: cold\tcached\t(inside)");
    for line in std::fs::read_to_string(Path::new(root).join("roots.tsv"))?.lines() {
        let path = line.split('\t').next().unwrap_or_default();
        let nix = || {
            let mut command = Command::new("nix-store");
            command.args(["-qR", path]).env("NIX_REMOTE", format!("local?root={root}"));
            command
        };
        let ours = |how: &'static str| {
            let (me, state) = (me.clone(), state.path().to_owned());
            move || {
                let mut command = Command::new(&me);
                command.args([root.as_str(), how]).arg(&state).arg(path);
                command
            }
        };
        timed(&mut ours("cached")())?;
        let [(nix, listed), (cold, told), (cached, told_again)] =
            medians(9, [&nix, &ours("one"), &ours("cached")])?;
        let field = |text: &str, n: usize| text.trim().split('\t').nth(n).unwrap_or_default().to_owned();
        let same = field(&told, 3) == field(&told_again, 3) && field(&told_again, 4) == "Unchanged";
        if listed.lines().count().to_string() != field(&told, 2) || !same {
            return Err(format!(
                "{path}: nix-store has {}, ours {told} and {told_again}",
                listed.lines().count()
            )
            .into());
        }
        let inside: f64 = field(&told_again, 0).parse()?;
        println!(
            "{}\t{nix:.0} ms\t{cold:.1} ms\t{} ms\t{}\t{cached:.1} ms\t{inside} ms\t{:.1}x\t{:.0}x\t{:.0}x",
            field(&told, 2),
            field(&told, 0),
            field(&told, 1),
            nix / cold,
            nix / cached,
            nix / inside
        );
    }
    Ok(ExitCode::SUCCESS)
}
