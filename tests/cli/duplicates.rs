//! `nixview du --duplicates`: what it shows, and what it reads.

use std::fs;

use crate::support::scene::{Ran, Scene};
use serde_json::{Value, json};

fn du(scene: &Scene, more: &[&str]) -> Ran {
    let store = scene.store.root().to_str().unwrap().to_owned();
    let locks = ["env-a", "env-b"].map(|label| scene.path(&format!("{label}.lock")));
    let mut arguments = vec!["du", "--store", &store];
    arguments.extend(locks.iter().map(|lock| lock.to_str().unwrap()));
    arguments.extend(more);
    scene.nixview(&arguments)
}

fn answer(scene: &Scene, more: &[&str]) -> Value {
    let ran = du(scene, &[&["--json", "--duplicates"], more].concat()).ok();
    serde_json::from_str::<Value>(&ran.out).unwrap()["duplicates"].clone()
}

/// Another file of 20,000 bytes as those of `twin` and `secret`, which are one inode, with another bit; and one that has
/// some of `data`'s 256 KiB at another place.
fn scene() -> Scene {
    let scene = Scene::new();
    let [twin, data, empty] =
        ["twin", "data", "empty"].map(|label| scene.store.real(label).to_str().unwrap().to_owned());
    let script = format!(
        "set -e; chmod u+w {empty}; cp {twin}/same.bin {empty}/copy; chmod 555 {empty}/copy
        cp {twin}/same.bin {empty}/other; chmod 444 {empty}/other; ln -s copy {empty}/a; ln -s copy {empty}/b
        (cat {twin}/same.bin {data}/share/lines.txt) >{empty}/moved; chmod 444 {empty}/moved; chmod u-w {empty}"
    );
    scene.shell(&script).ok();
    scene
}

#[test]
fn the_table_is_what_the_json_says() {
    let scene = scene();
    let json = answer(&scene, &["--all", "--chunks", "--top", "1"]);
    let env_b = json["environments"].as_array().unwrap().iter().find(|env| env["name"] == "env-b").unwrap();
    // `same.bin`, `copy`, `other`: three names of one content; `a` and `b`.
    assert_eq!((&env_b["duplicate"], &env_b["linked"]), (&json!(2 * 20_000 + 4), &json!(0)));
    let optimise = &env_b["optimise"];
    assert_eq!(
        (&optimise["files"], &optimise["nixBytes"]),
        (&json!(2), &json!(20_004)),
        "not what has the bit"
    );
    let linked = |of: &str| json[of]["linked"].as_u64().unwrap();
    assert_eq!(linked("wholeStore"), linked("together") + 20_000, "twin and secret are one");
    assert_eq!(json["wholeStore"]["optimise"]["writable"], 0);
    let [group] = &json["groups"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!((&group["size"], &group["inodes"]), (&json!(20_000), &json!(3)));
    let name = |label: &str, name: &str| format!("/nix/store/{}/{name}", scene.store.path(label));
    let mut names =
        [name("twin", "same.bin"), name("secret", "same.bin"), name("empty", "copy"), name("empty", "other")];
    names.sort();
    assert_eq!(group["paths"], json!(names));
    let chunks = &env_b["chunks"];
    assert_eq!(chunks["parameters"], "FastCDC 2020, 16/64/256 KiB, normalization 1");
    assert!(chunks["saved"].as_u64().unwrap() > 64 << 10, "some of what was moved is found: {chunks}");

    let printed = du(&scene, &["--duplicates", "--all", "--chunks", "--csv", "--top", "1"]).ok();
    let table = &printed.out;
    assert!(printed.err.contains("also the table 'groups'"), "{}", printed.err);
    let dir = scene.path("tables");
    du(&scene, &["--duplicates", "--all", "--chunks", &format!("--csv={}", dir.display()), "--top", "1"])
        .ok();
    assert_eq!(scene.names("tables"), ["duplicates.csv", "groups.csv"]);
    assert_eq!(fs::read_to_string(dir.join("duplicates.csv")).unwrap(), *table);
    let groups = &fs::read_to_string(dir.join("groups.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(
        rows.iter().map(|row| &row[0]).collect::<Vec<_>>(),
        ["env-a", "env-b", "together", "whole store"]
    );
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let both = [(1, env_b), (2, &json["together"]), (3, &json["wholeStore"])];
    for (row, value) in both {
        for (name, pointer) in [
            ("files", "/files"),
            ("symlinks", "/symlinks"),
            ("contents", "/contents"),
            ("apparent", "/apparent"),
            ("duplicate", "/duplicate"),
            ("linked", "/linked"),
            ("nix-files", "/optimise/files"),
            ("nix-bytes", "/optimise/nixBytes"),
            ("disk-bytes", "/optimise/diskBytes"),
            ("chunks", "/chunks/count"),
            ("chunk-bytes", "/chunks/distinct"),
            ("chunk-saved", "/chunks/saved"),
        ] {
            let expected = value.pointer(pointer).unwrap().to_string();
            assert_eq!(&rows[row][column(name)], expected, "{name} of {row}");
        }
    }
    assert_eq!(groups.lines().count(), 1 + 4, "{groups}");

    let shown = du(&scene, &["--duplicates", "-h", "--top", "1"]).ok().out;
    assert!(shown.starts_with("NAME"), "{shown}");
    assert!(shown.contains("19.5 KiB") && !shown.contains("CHUNK") && shown.contains("GROUP"), "{shown}");
    let plain = du(&scene, &["--duplicates"]).ok().out;
    assert_eq!(plain.lines().count(), 1 + 3, "{plain}");
}

#[test]
fn a_second_run_reads_nothing_and_says_the_same() {
    let scene = scene();
    let strip = |mut json: Value| {
        let read = json["read"]["files"].as_u64().unwrap();
        json.as_object_mut().unwrap().remove("read");
        (read, json)
    };
    for more in [&[][..], &["--chunks"]] {
        let (read, first) = strip(answer(&scene, more));
        assert!(read > 0);
        let (read, second) = strip(answer(&scene, more));
        assert_eq!((read, &second), (0, &first));
        let (read, afresh) = strip(answer(&scene, &[more, &["--rescan"]].concat()));
        assert!(read > 0);
        assert_eq!(afresh, first);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scene = Scene::new();
    du(&scene, &["--chunks"]).failed(2, &["--duplicates"]);
    for other in [&["--paths"][..], &["--matrix"], &["--sort", "name"]] {
        du(&scene, &[&["--duplicates"], other].concat()).failed(2, &["cannot be used with"]);
    }
}

#[test]
fn what_may_be_written_is_said() {
    let scene = scene();
    let empty = scene.store.real("empty");
    scene.shell(&format!("chmod u+w {0}; echo x >{0}/log; chmod u-w {0}", empty.display())).ok();
    let ran = du(&scene, &["--duplicates"]).ok();
    assert!(ran.err.contains("warning: 1 file of the store may be written by the owner"), "{ran:?}");
}
