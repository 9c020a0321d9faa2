//! `.drv` files at the edges of the format against what Nix itself shows of them; damaged ones; random ones.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nixview::store::StoreDir;
use nixview::store::derivation::{Derivation, Output};
use proptest::prelude::*;
use serde_json::Value;

fn edge(what: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/edge").join(what);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn texts() -> Vec<Vec<u8>> {
    edge("drv").iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// What `nix show-derivation` prints, made of ours.
fn shown(derivation: &Derivation) -> Value {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
    let full = |path: &nixview::store::StorePath| format!("/nix/store/{path}");
    let output = |output: &Output| match output {
        Output::InputAddressed(path) => serde_json::json!({ "path": full(path) }),
        Output::Fixed { path, algorithm, hash } => {
            serde_json::json!({ "path": full(path), "hashAlgo": algorithm, "hash": hash })
        }
        Output::Floating { algorithm } => serde_json::json!({ "hashAlgo": algorithm }),
        Output::Deferred => serde_json::json!({}),
        Output::Impure { algorithm } => serde_json::json!({ "hashAlgo": algorithm, "impure": true }),
    };
    serde_json::json!({
        "outputs": derivation.outputs.iter().map(|(n, o)| (n.clone(), output(o))).collect::<BTreeMap<_, _>>(),
        "inputSrcs": derivation.input_sources.iter().map(full).collect::<Vec<_>>(),
        "inputDrvs": derivation.input_derivations.iter().map(|(p, n)| (full(p), n.clone())).collect::<BTreeMap<_, _>>(),
        "system": text(&derivation.system),
        "builder": text(&derivation.builder),
        "args": derivation.arguments.iter().map(|a| text(a)).collect::<Vec<_>>(),
        "env": derivation.environment.iter().map(|(n, v)| (text(n), text(v))).collect::<BTreeMap<_, _>>(),
    })
}

#[test]
fn every_edge_case_reads_as_nix_shows_it() {
    let mut count = 0;
    for file in edge("shown") {
        let all: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for (path, expected) in all {
            let name = path.rsplit('/').next().unwrap();
            let text =
                std::fs::read(file.parent().unwrap().parent().unwrap().join("drv").join(name)).unwrap();
            let read = Derivation::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(shown(&read), expected, "{name}");
            assert_eq!(read.to_aterm(&StoreDir::default()), text, "{name} is written as it was");
            count += 1;
        }
    }
    assert_eq!(count, 37);
}

const MINIMAL: &str = r#"Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",[],[])"#;
const MULTI: &str = "/nix/store/h0c7v1bri9nzhb7gbarycb7ziwc41ah6-multi.drv";

/// [`MINIMAL`] with one part put in the place of another.
fn with(part: &str, other: &str) -> Result<Derivation, nixview::store::derivation::ParseError> {
    assert!(MINIMAL.contains(part));
    Derivation::parse(MINIMAL.replacen(part, other, 1).as_bytes())
}

#[test]
fn odd_texts_are_accepted_as_nix_accepts_them() {
    let environment = |text: &str| with(",[])", &format!(",[{text}])")).unwrap().environment;
    let value = |text: &str| environment(&format!("(\"x\",\"{text}\")"))[&b"x"[..]].clone();
    assert_eq!(value(r"a\nb\rc\td\\e\qf\0"), b"a\nb\rc\td\\eqf0");
    assert_eq!(value("]),([("), b"]),([(");
    assert_eq!(value("a\nb\0"), b"a\nb\0");
    assert_eq!(environment(r#"("x","1"),("x","2")"#)[&b"x"[..]], b"2", "the last one wins");
    assert_eq!(environment(r#"("z","1"),("a","2"),("","")"#).len(), 3);
    let twice =
        with(r#"("out","","r:sha256","")"#, r#"("out","","r:sha256",""),("out","","r:sha1","")"#).unwrap();
    assert_eq!(
        twice.outputs["out"],
        Output::Floating { algorithm: "r:sha256".to_owned() },
        "the first one wins"
    );
    let inputs = |text: &str| with("],[],[],", &format!("],[{text}],[],")).unwrap().input_derivations;
    let used = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    let twice = inputs(&format!(r#"("{MULTI}",["dev"]),("{MULTI}",["lib"])"#));
    assert_eq!(twice.into_values().collect::<Vec<_>>(), [used(&["lib"])]);
    let unsorted = inputs(&format!(r#"("{MULTI}",["zz","dev","zz"])"#));
    assert_eq!(unsorted.into_values().collect::<Vec<_>>(), [used(&["dev", "zz"])]);
    let trailing = format!("{MINIMAL} and more \0 bytes");
    assert_eq!(Derivation::parse(trailing.as_bytes()), Derivation::parse(MINIMAL.as_bytes()));
    let mut bytes = MINIMAL.replacen(",[])", ",[(\"x\",\"?\")])", 1).into_bytes();
    let at = bytes.iter().position(|b| *b == b'?').unwrap();
    bytes[at] = 0xff;
    assert_eq!(Derivation::parse(&bytes).unwrap().environment[&b"x"[..]], [0xff]);
    assert_eq!(with(",[],[])", r#",["",""],[])"#).unwrap().arguments, [b"", b""]);
}

#[test]
fn what_nix_rejects_is_rejected_where_it_is() {
    let source = "/nix/store/q4nyj414wjc9c4zyhmhl7xxppfwmp57f-plain-source";
    for (part, other, at) in [
        ("Derive(", "DrvWithVersion(\"xp\",", "rvWith"),
        ("[],[],", "[], [],", " []"),
        (",[])", ",[(\"x\",\"1\"),])", "])"),
        ("[],[],", &format!("[],[\"{source}/x\"],"), "\"/nix"),
        ("[],[],", "[],[\"/tmp/x\"],", "\"/tmp"),
        ("r:sha256", "sha3", "\"sha3"),
        ("\"\")]", "\"1234\")]", "\"1234"),
        ("\"out\",\"\"", "\"out\",\"/nix/store/x\"", "\"/nix"),
        ("\"out\"", "\"o/t\"", "\"o/t"),
        ("(\"out\",\"\",\"r:sha256\",\"\")", "", "],[],[]"),
    ] {
        let error = with(part, other).unwrap_err();
        assert_eq!(error.offset, MINIMAL.replacen(part, other, 1).rfind(at).unwrap(), "{other}: {error}");
    }
    let mixed = format!(r#"("dev","{source}","",""),("out","","r:sha256","")"#);
    assert!(with(r#"("out","","r:sha256","")"#, &mixed).unwrap_err().problem.contains("mixed"));
}

#[test]
fn a_truncated_text_is_an_error_at_its_end() {
    for text in texts() {
        for length in 0..text.len() {
            let error = Derivation::parse(&text[..length]).unwrap_err();
            assert!(error.offset <= length, "cut to {length}: {error}");
        }
    }
}

proptest! {
    #[test]
    fn damage_is_an_error_or_a_value(
        which in any::<prop::sample::Index>(),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let all = texts();
        let mut text = which.get(&all).clone();
        for (at, byte) in places {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Err(error) = Derivation::parse(&text) {
            prop_assert!(error.offset <= text.len());
        }
    }

    #[test]
    fn what_is_written_is_read(
        names in proptest::collection::btree_set("[a-z]{1,4}", 1..4),
        arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..4),
        environment in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 0..6), proptest::collection::vec(any::<u8>(), 0..20), 0..5),
    ) {
        let outputs = names.into_iter().map(|n| (n, Output::Deferred)).collect();
        let written = Derivation {
            outputs,
            input_derivations: BTreeMap::from([(MULTI[11..].parse().unwrap(), BTreeSet::from(["out".to_owned()]))]),
            input_sources: BTreeSet::new(),
            system: b"\"\\\n".to_vec(),
            builder: Vec::new(),
            arguments,
            environment,
        };
        prop_assert_eq!(Derivation::parse(&written.to_aterm(&StoreDir::default())), Ok(written));
    }
}
