//! `mini-store DIR`: makes the tiny store below DIR and prints the label and the path of each of its members.

use std::path::PathBuf;
use std::process::ExitCode;

use mini_store::MiniStore;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: mini-store DIR");
        return ExitCode::from(2);
    };
    match MiniStore::create(&dir) {
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
