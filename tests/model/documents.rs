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
