//! `nixview cdi`: lets container runtimes give each container a view by `--device nixview.dev/env=NAME`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::cdi::{self, Device, KIND};
use crate::cli::output_file::{Destination, Kind};
use crate::cli::state::StateDirs;
use crate::cli::view::{BackendArg, Owner, UpperArgs, absolute};
use crate::cli::{CliError, Context, ErrorContext};
use crate::control::Upper;
use crate::lock::EnvLock;

/// Where runtimes look for what the administrator has written (CDI specification, "CDI JSON Specification").
const DIRECTORY: &str = "/etc/cdi";

/// Where packages install the hook.
const HOOK: &str = "/usr/libexec/oci/hooks.d/nixview-oci-hook";

/// PATH of containers whose image says nothing else.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments of `nixview cdi`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Writes a specification of the Container Device Interface, which podman, Docker, containerd and CRI-O read. \
    Each container that asks for the device gets a view of its own at /nix, which ends with it.\n\n\
    Examples:\n  \
    nixview cdi web.lock\n  \
    podman run --device nixview.dev/env=web IMAGE nginx\n  \
    nixview cdi --list\n  \
    nixview cdi --remove web"
)]
pub struct Args {
    /// The environments: files made by 'nixview lock'
    #[arg(value_name = "FILE", required_unless_present_any = ["list", "remove"])]
    pub locks: Vec<PathBuf>,
    /// The device's name, for one environment [default: the environment's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The directory of specifications
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pub dir: PathBuf,
    /// Write to this file instead, all environments in one; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where changes go [default: to a temporary place for each container]
    #[command(flatten)]
    pub upper: UpperArgs,
    /// Let a device that is there stand for another environment, replace a file that is no specification, and write over a block
    /// device [default: they are an error]
    #[arg(long)]
    pub force: bool,
    /// Owner of /nix, as the container numbers its users and groups [default: 0:0]
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
    /// What the views are made of: the kernel's overlayfs (overlay), a server (fuse), or what can do all that is asked for (auto)
    #[arg(long, value_name = "WHAT", default_value = "auto", value_enum)]
    pub backend: BackendArg,
    /// The store: a directory that ends in nix/store, or one that contains nix/store
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
    /// Leave the container's PATH alone [default: the environment's programs come first, then /usr/local/bin, /usr/bin,
    /// /bin and their sbin, instead of what the image says]
    #[arg(long)]
    pub keep_path: bool,
    /// The program that runtimes call [default: nixview-oci-hook beside nixview, else in /usr/libexec/oci/hooks.d]
    #[arg(long, value_name = "PROGRAM")]
    pub hook: Option<PathBuf>,
    /// List the devices that there are
    #[arg(long, conflicts_with_all = ["locks", "remove", "output"])]
    pub list: bool,
    /// Remove the device of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["locks", "output"], add = clap_complete::ArgValueCompleter::new(crate::cli::complete::devices))]
    pub remove: Option<String>,
    /// Print JSON [default: text]
    #[arg(long)]
    pub json: bool,
}

/// Writes, lists or removes.
///
/// # Errors
/// If an environment cannot be read, its name is none for a device, or the specification cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    if args.list {
        return list(args, context);
    }
    if let Some(name) = &args.remove {
        return remove(args, context, name);
    }
    let devices = devices(args, context)?;
    match args.output.as_deref() {
        Some(file) if file == Path::new("-") => context.output.json(&cdi::specification(&devices))?,
        Some(file) => {
            let destination = Destination::find(file, Kind::Devices, args.force)?;
            let known = match destination.existing() {
                Some(file) if !args.force => cdi::devices_in(file).unwrap_or_default(),
                _ => Vec::new(),
            };
            if let Some(lost) = known.iter().find(|known| devices.iter().all(|new| new.name != known.name)) {
                return Err(CliError::new(format!(
                    "{} has the device '{}', which would be lost",
                    file.display(),
                    lost.name
                ))
                .hint("name its environment too, or let --force replace the file"));
            }
            keep(&known, &devices, args)?;
            write(destination, file, &devices)?;
        }
        None => {
            fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
            let known = cdi::found(&args.dir);
            keep(&known.with_context(|| format!("cannot read {}", args.dir.display()))?, &devices, args)?;
            for device in &devices {
                let file = file_of(&args.dir, &device.name);
                let destination = Destination::find(&file, Kind::Devices, args.force)?;
                write(destination, &file, std::slice::from_ref(device))?;
            }
        }
    }
    if args.output.is_none() && args.json {
        context.output.json(&devices)?;
    } else if args.output.is_none() {
        for device in &devices {
            context.output.line(&format!("{KIND}={}", device.name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses to let a device that is there stand for another environment, unless that is asked for.
fn keep(known: &[Device], devices: &[Device], args: &Args) -> Result<(), CliError> {
    const LOCK: &str = "--closure";
    for device in devices {
        let other = |known: &&Device| known.name == device.name && known.option(LOCK) != device.option(LOCK);
        if let Some(other) = known.iter().find(other).filter(|_| !args.force) {
            let lock = other.option(LOCK).unwrap_or("?");
            return Err(CliError::new(format!("the device {KIND}={} is there, and is {lock}", device.name))
                .hint("name the new one with --name, or let --force replace it"));
        }
    }
    Ok(())
}

fn devices(args: &Args, context: &Context) -> Result<Vec<Device>, CliError> {
    if args.name.is_some() && args.locks.len() > 1 {
        return Err(CliError::usage("--name is for one environment"));
    }
    let hook = hook(args)?;
    let mut devices: Vec<Device> = Vec::new();
    for file in &args.locks {
        let lock = EnvLock::read(file).context("cannot use the environment")?;
        if !file.is_file() {
            return Err(CliError::new(format!("{} is no regular file", file.display()))
                .hint("a device names its lock, which the hook reads for each container"));
        }
        let variables = if args.keep_path { Vec::new() } else { path(&lock).into_iter().collect() };
        let name = args.name.clone().unwrap_or(lock.name);
        cdi::check_name(&name).map_err(|why| {
            CliError::new(format!("'{name}' is no name for a device: {why}")).hint("give it one with --name")
        })?;
        if devices.iter().any(|device| device.name == name) {
            return Err(CliError::usage(format!("two of the environments are named '{name}'")));
        }
        let arguments = arguments(args, context, file)?;
        devices.push(Device { name, hook: hook.clone(), arguments, variables });
    }
    Ok(devices)
}

/// PATH with the `bin` directories of an environment's roots in front of those that images have; none without roots.
fn path(lock: &EnvLock) -> Option<String> {
    let directories: Vec<String> =
        lock.roots.iter().map(|root| format!("{}/bin", lock.store_dir.join(&root.path).display())).collect();
    (!directories.is_empty()).then(|| format!("PATH={}:{PATH}", directories.join(":")))
}

/// What the hook is told of an environment.
fn arguments(args: &Args, context: &Context, lock: &Path) -> Result<Vec<String>, CliError> {
    let mut all = vec!["--closure".to_owned(), text(&absolute(lock)?)?];
    if args.store != Path::new("/nix/store") {
        all.extend(["--store".to_owned(), text(&absolute(&args.store)?)?]);
    }
    match args.upper.chosen()? {
        None | Some(Upper::Temporary | Upper::Named) => {}
        Some(Upper::ReadOnly) => all.push("--readonly".to_owned()),
        Some(Upper::Directory { path }) => all.extend(["--upper".to_owned(), text(&path)?]),
    }
    if let Some((uid, gid)) = args.owner.map(Owner::ids) {
        all.extend(["--owner".to_owned(), format!("{uid}:{gid}")]);
    }
    if args.backend != BackendArg::Auto {
        all.extend(["--backend".to_owned(), args.backend.asked().name().to_owned()]);
    }
    // Runtimes start hooks as root, with another environment than this one.
    let StateDirs { state, runtime, .. } = &context.state;
    for (option, directory, usual) in
        [("--state-dir", state, "/var/lib/nixview"), ("--runtime-dir", runtime, "/run/nixview")]
    {
        if directory != Path::new(usual) {
            all.extend([option.to_owned(), text(directory)?]);
        }
    }
    Ok(all)
}

fn hook(args: &Args) -> Result<String, CliError> {
    let given = args.hook.as_deref().map(absolute).transpose()?;
    let beside = || {
        let program = std::env::current_exe().ok()?;
        Some(program.parent()?.join("nixview-oci-hook")).filter(|path| path.is_file())
    };
    let hook = given.or_else(beside).unwrap_or_else(|| PathBuf::from(HOOK));
    if !hook.is_file() {
        return Err(CliError::new(format!("there is no {}", hook.display()))
            .hint("install nixview's hook, or say where it is with --hook"));
    }
    text(&hook)
}

fn text(path: &Path) -> Result<String, CliError> {
    let usable = path.to_str().filter(|text| !text.contains(char::is_control));
    usable
        .map(str::to_owned)
        .ok_or_else(|| CliError::new(format!("'{}' cannot be written into a specification", path.display())))
}

fn file_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("nixview-{name}.json"))
}

fn write(destination: Destination, path: &Path, devices: &[Device]) -> Result<(), CliError> {
    let failed = || format!("cannot write {}", path.display());
    let mut text = serde_json::to_vec_pretty(&cdi::specification(devices)).with_context(failed)?;
    text.push(b'\n');
    let mut file = destination.open()?;
    // Runtimes of all users read it.
    file.let_all_read().and_then(|()| file.write_all(&text)).and_then(|()| file.finish()).with_context(failed)
}

fn list(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let found = cdi::found(&args.dir).with_context(|| format!("cannot read {}", args.dir.display()))?;
    if args.json {
        context.output.json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |device: &Device| {
        [format!("{KIND}={}", device.name), device.option("--closure").unwrap_or("?").to_owned()]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    context.output.table(["DEVICE", "ENVIRONMENT"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn remove(args: &Args, context: &Context, name: &str) -> Result<ExitCode, CliError> {
    let name = name.strip_prefix(KIND).and_then(|rest| rest.strip_prefix('=')).unwrap_or(name);
    cdi::check_name(name).map_err(|why| CliError::new(format!("'{name}' is no name for a device: {why}")))?;
    let file = file_of(&args.dir, name);
    match fs::remove_file(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(CliError::new(format!("there is no device {KIND}={name} in {}", args.dir.display()))
                .hint("nixview cdi --list"))
        }
        answer => {
            answer.with_context(|| format!("cannot remove {}", file.display()))?;
            context.output.note(&format!("{KIND}={name} is no more; containers that have it keep it"));
            Ok(ExitCode::SUCCESS)
        }
    }
}
