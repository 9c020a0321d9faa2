//! A store on disk that is made for a benchmark, with a Nix database: members that hold one small file each.

use std::fs;
use std::path::Path;

/// Makes a store below `root`. Each of `closures` is a path, by its number, that refers to the first so many members: to those of
/// the numbers 1 to that.
pub(crate) fn make(root: &Path, closures: &[(usize, usize)]) {
    let (paths, state) = (root.join("nix/store"), root.join("nix/var/nix/db"));
    for dir in [&paths, &state, &state.with_file_name("gcroots")] {
        fs::create_dir_all(dir).unwrap();
    }
    let mut db = rusqlite::Connection::open(state.join("db.sqlite")).unwrap();
    db.execute_batch(SCHEMA).unwrap();
    let change = db.transaction().unwrap();
    let most = closures.iter().map(|(_, size)| *size).max().unwrap_or_default();
    let roots = closures.iter().map(|(number, _)| *number).filter(|number| *number > most);
    for number in (1..=most).chain(roots) {
        let name = base_name(number);
        fs::create_dir(paths.join(&name)).unwrap();
        fs::write(paths.join(&name).join("file"), &name).unwrap();
        let row = (id(number), format!("/nix/store/{name}"), format!("sha256:{}", "0".repeat(64)));
        change
            .execute(
                "insert into ValidPaths(id, path, hash, registrationTime, narSize) values (?, ?, ?, 1, 400)",
                row,
            )
            .unwrap();
    }
    for (root, size) in closures {
        for member in 1..=*size {
            change.execute("insert into Refs values (?, ?)", [id(*root), id(member)]).unwrap();
        }
    }
    change.commit().unwrap();
}

fn id(number: usize) -> i64 {
    i64::try_from(number).unwrap()
}

/// The base name of a member: a valid hash part made from its number.
pub(crate) fn base_name(number: usize) -> String {
    let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
    let hash: String = (0..32).map(|k| char::from(alphabet[(number >> (5 * (k % 6))) % 32])).collect();
    format!("{hash}-member-{number}")
}

const SCHEMA: &str = "
create table ValidPaths (id integer primary key autoincrement not null, path text unique not null, hash text not null,
  registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create table DerivationOutputs (drv integer not null, id text not null, path text not null, primary key (drv, id),
  foreign key (drv) references ValidPaths(id) on delete cascade);
create index IndexDerivationOutputs on DerivationOutputs(path);";
