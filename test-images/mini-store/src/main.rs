//! `mini-store DIR`: makes the tiny store below DIR and prints the label and the path of each of its members.

use std::path::PathBuf;
use std::process::ExitCode;

use mini_store::MiniStore;

fn main() -> ExitCode {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [dir] = words.as_slice() else { return usage() };
    // A word that was meant as an option.
    if dir.as_os_str().as_encoded_bytes().starts_with(b"-") {
        return usage();
    }
    match MiniStore::create(dir) {
        Ok(store) => {
            for label in store.labels() {
                println!("{label}\t{}", store.logical(label));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mini-store: {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: mini-store DIR");
    ExitCode::from(2)
}
