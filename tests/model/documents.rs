//! The documents say what is so: every dependency has its reason, every local link leads somewhere.
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The crates of one table of the manifest.
fn crates(manifest: &str, table: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != format!("[{table}]")).skip(1);
    let names = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let document = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let first_cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let told: Vec<&str> = first_cells.flat_map(|cell| cell.split(", ")).collect();
    let mut all = crates(&manifest("Cargo.toml"), "dependencies");
    assert!(all.len() > 10, "the manifest was read: {all:?}");
    all.extend(
        crates(&manifest("Cargo.toml"), "dev-dependencies").into_iter().filter(|name| name != "nixview"),
    );
    let of_helpers = crates(&manifest("mount-helpers/Cargo.toml"), "dependencies");
    assert!(of_helpers.len() > 2, "the helpers' manifest was read: {of_helpers:?}");
    all.extend(of_helpers.into_iter().filter(|name| name != "nixview"));
    for name in &all {
        assert!(told.contains(&name.as_str()), "docs/dependencies.md does not say why '{name}'");
    }
    for name in told.iter().filter(|name| **name != "crate" && !name.starts_with("--")) {
        assert!(
            all.iter().any(|known| known == name),
            "docs/dependencies.md has '{name}', Cargo.toml has not"
        );
    }
}

/// The crate of the fuzz targets has a lock of its own, which no other build reads.
#[test]
fn the_lock_of_the_fuzz_targets_has_every_dependency() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (manifest, lock) = (read("Cargo.toml"), read("fuzz/Cargo.lock"));
    let absent: Vec<String> = crates(&manifest, "dependencies")
        .into_iter()
        .filter(|name| !lock.contains(&format!("\nname = \"{name}\"\n")))
        .collect();
    assert_eq!(absent, Vec::<String>::new(), "cargo metadata --manifest-path fuzz/Cargo.toml adds them");
}

/// Tests of which the gate does a part only.
#[test]
fn each_long_test_is_in_the_table_of_testing() {
    let table = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let (mut long, mut absent) = (0, Vec::new());
    for tier in ["model", "cli", "root", "nix"] {
        for entry in fs::read_dir(root().join("tests").join(tier)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() || !fs::read_to_string(&path).unwrap().contains("\nuse crate::support::effort") {
                continue;
            }
            long += 1;
            let name = format!("{tier}/{}", path.file_name().unwrap().to_str().unwrap());
            if !table.contains(&format!("| `{name}`")) {
                absent.push(name);
            }
        }
    }
    assert!(long > 10, "the tests were read");
    assert_eq!(absent, Vec::<String>::new(), "docs/testing.md does not say what the gate does of them");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let is_markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    documents
        .extend(fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()).filter(is_markdown));
    let mut links = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            let path = document.parent().unwrap_or(Path::new("")).join(target);
            assert!(path.exists(), "{}: a link leads to {target}", document.display());
        }
    }
    assert!(links > 5, "links were found");
}

/// Runs the README's quick start in a shell where every program only tells how it was called.
#[test]
fn the_commands_of_the_quick_start_are_commands() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let script = "#!/bin/bash\n{ printf '%s\\0' \"$@\"; echo; } >>\"$CALLS\"\n";
    for program in ["nixview", "apt-get", "cargo", "nix-store", "busybox", "mkdir", "cp", "ln"] {
        use std::os::unix::fs::PermissionsExt;
        let text = if program == "nixview" { script } else { "#!/bin/bash\n" };
        fs::write(bin.join(program), text).unwrap();
        fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let calls = dir.path().join("calls");
    let lines = crate::support::quick_start::lines();
    // What is written into a mounted view has no place here.
    let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|l| !l.starts_with("echo ")).collect();
    for line in lines {
        let run = std::process::Command::new("/bin/bash")
            .args(["-euc", line])
            .current_dir(dir.path())
            .env("PATH", &bin)
            .env("CALLS", &calls)
            .output()
            .unwrap();
        assert!(run.status.success(), "{line}: {run:?}");
    }
    let calls = fs::read_to_string(calls).unwrap();
    let mut count = 0;
    for call in calls.lines() {
        let arguments =
            call.split_terminator('\0').map(|word| if word.is_empty() { "/nix/store/x" } else { word });
        let words: Vec<&str> = ["nixview"].into_iter().chain(arguments).collect();
        if let Err(error) = nixview::cli::definition().try_get_matches_from(&words) {
            panic!("{words:?}: {error}");
        }
        count += 1;
    }
    assert!(count >= 12, "{calls}");
}
