//! Damaged registrations and path-info: cut at every byte, flipped anywhere: an error or a value, never a panic; and what the
//! parsers take of memory on texts that were cut or claim more than they hold.
use nixview::store::{Derivation, StoreDir, path_info, registration};
use proptest::prelude::*;
use proptest::sample::Index;

fn path(letter: char, name: &str) -> String {
    format!("/nix/store/{}-{name}", String::from(letter).repeat(32))
}

fn registrations() -> [Vec<u8>; 2] {
    let (a, b, hash) = (path('a', "a"), path('b', "b"), "0".repeat(64));
    [
        format!("{a}\nsha256:{hash}\n120\n{b}.drv\n2\n{a}\n{b}\n{b}\nsha256:{hash}\n7\n\n0\n").into_bytes(),
        format!("{a}\n\n1\n{b}\n{b}\n\n0\n\n").into_bytes(),
    ]
}

fn path_infos() -> [Vec<u8>; 4] {
    let (a, b) = (path('a', "a"), path('b', "b"));
    let (base_a, base_b) = (&a[11..], &b[11..]);
    [
        format!(r#"[{{"path":"{a}","narSize":3,"references":["{a}","{b}"],"deriver":"{b}.drv"}},{{"path":"{b}","valid":false}}]"#),
        format!(r#"{{"{a}":{{"narSize":3,"references":["{b}"],"deriver":null}},"{b}":null}}"#),
        format!(r#"{{"version":2,"storeDir":"/nix/store","info":{{"{base_a}":{{"narSize":3,"references":["{base_b}"]}}}}}}"#),
        format!(r#"{{"graph":[{{"path":"{a}","narSize":3,"references":[]}}],"name":"x"}}"#),
    ]
    .map(String::into_bytes)
}

fn read_registration(text: &[u8]) -> bool {
    match registration::parse(&StoreDir::default(), text, "a test") {
        Ok(all) => all.roots().iter().all(|root| all.get(root).is_some()),
        Err(error) => error.line > 0 && error.line <= text.split(|b| *b == b'\n').count() + 1,
    }
}

fn read_path_info(text: &[u8]) -> bool {
    match path_info::parse(&StoreDir::default(), text, "a test") {
        Ok(all) => all.roots().iter().all(|root| all.get(root).is_some()),
        Err(error) => !error.at.is_empty() && !error.problem.is_empty(),
    }
}

#[test]
fn a_text_that_is_cut_is_an_error() {
    for text in path_infos() {
        assert!(path_info::parse(&StoreDir::default(), &text, "a test").unwrap().count() > 0);
        for length in 0..text.len() {
            let cut = path_info::parse(&StoreDir::default(), &text[..length], "a test");
            assert!(cut.unwrap_err().at.starts_with("line 1"), "cut to {length} bytes");
        }
    }
    for text in registrations() {
        let whole = registration::parse(&StoreDir::default(), &text, "a test").unwrap();
        for length in 0..text.len() {
            assert!(read_registration(&text[..length]), "cut to {length} bytes");
            // Where it is cut between records it is a registration of fewer paths, never of others.
            if let Ok(cut) = registration::parse(&StoreDir::default(), &text[..length], "a test") {
                assert!(
                    cut.iter().all(|(path, record)| whole.get(path) == Some(record)),
                    "cut to {length} bytes"
                );
            }
        }
    }
}

fn damaged(text: &[u8], places: &[(Index, u8)]) -> Vec<u8> {
    let mut text = text.to_owned();
    for (at, byte) in places {
        let at = at.index(text.len());
        text[at] ^= byte;
    }
    text
}

proptest! {
    #[test]
    fn flipped_bytes_are_an_error_or_a_value(
        which in any::<Index>(),
        places in proptest::collection::vec((any::<Index>(), 1_u8..), 1..6),
    ) {
        prop_assert!(read_registration(&damaged(which.get::<Vec<u8>>(&registrations()), &places)));
        prop_assert!(read_path_info(&damaged(which.get::<Vec<u8>>(&path_infos()), &places)));
    }

    #[test]
    fn moved_pieces_are_an_error_or_a_value(which in any::<Index>(), from in any::<Index>(), to in any::<Index>()) {
        for (texts, read) in [
            (registrations().to_vec(), read_registration as fn(&[u8]) -> bool),
            (path_infos().to_vec(), read_path_info),
        ] {
            let text = which.get(&texts);
            let (from, to) = (from.index(text.len()), to.index(text.len()));
            prop_assert!(read(&[&text[..from], &text[to..]].concat()));
        }
    }
}

/// Depth of brackets is bounded: no stack overflow.
#[test]
fn deep_nesting_is_an_error() {
    for open in ["[", "{\"a\":", "[{\"references\":["] {
        assert!(read_path_info(open.repeat(100_000).as_bytes()));
    }
    let deep = format!("Derive([(\"out\",\"\",\"\",\"\")],{}", "[".repeat(1 << 20));
    assert!(Derivation::parse(deep.as_bytes()).is_err());
}
