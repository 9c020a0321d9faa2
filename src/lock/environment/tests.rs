//! Tests of environments as values; what bash makes of them is tested with bash itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::os::unix::ffi::OsStringExt;

use super::*;

const SHELL: &str = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/bin/bash";

fn array(name: &str, attributes: &str, items: &[(&str, &str)]) -> Variable {
    let items = items.iter().map(|(k, v)| (Text::from(*k), Text::from(*v))).collect();
    Variable { attributes: attributes.to_owned(), items: Some(items), name: name.to_owned(), value: None }
}

pub(super) fn sample() -> Environment {
    let variables = vec![
        Variable::exported("CC", "gcc"),
        array("list", "a", &[("0", "a b"), ("7", "'\"$x\n")]),
        array("map", "A", &[("k", "v")]),
        Variable { attributes: String::new(), ..Variable::exported("plain", &b"\xff\n"[..]) },
    ];
    let files = vec![EnvironmentFile { content: "text".into(), name: ".attr-0".to_owned() }];
    let script = ["f () ", "{ ", "    echo f", "}"].map(Text::from).to_vec();
    Environment::new(SHELL.to_owned(), variables, script, files, &StoreDir::default()).unwrap()
}

fn refused(alter: impl FnOnce(&mut Environment)) -> String {
    let mut changed = sample();
    alter(&mut changed);
    changed.digest = changed.computed();
    changed.check(&StoreDir::default()).unwrap_err()
}

#[test]
fn what_is_written_is_read_back_and_is_readable() {
    let text = serde_json::to_string(&sample()).unwrap();
    assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), sample());
    assert!(text.contains(r#"{"attributes":"x","name":"CC","value":"gcc"}"#), "{text}");
    assert!(
        text.contains(r#"{"attributes":"a","items":[["0","a b"],["7","'\"$x\n"]],"name":"list"}"#),
        "{text}"
    );
    assert!(text.contains(r#"{"name":"plain","value":{"base64":"/wo="}}"#), "{text}");
}

#[test]
fn a_text_has_one_form() {
    for wrong in [
        r#"{"base64":"YQ=="}"#,
        r#"{"base64":"?"}"#,
        r#"{"base64":"/wo=","base64":"/wo="}"#,
        r#"{"base64":"/wo=","more":1}"#,
        "1",
        "null",
    ] {
        assert!(serde_json::from_str::<Text>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_no_environment_has_is_refused() {
    sample().check(&StoreDir::default()).unwrap();
    let name = |name: &str| {
        let name = name.to_owned();
        refused(move |e| e.variables[0].name = name)
    };
    for wrong in ["", "A=B", "A\0B"] {
        assert!(name(wrong).contains("name that none has"), "{wrong:?}");
    }
    assert!(name("zz").contains("not in order"));
    assert!(name("list").contains("twice"));
    assert!(refused(|e| e.variables[1].name = "a-b".to_owned()).contains("no name of a variable"));
    assert!(refused(|e| e.variables[0].attributes = "xa".to_owned()).contains("attributes"));
    assert!(refused(|e| e.variables[0].attributes = "q".to_owned()).contains("attributes"));
    assert!(refused(|e| e.variables[0].attributes = "ax".to_owned()).contains("items if it is an array"));
    assert!(refused(|e| e.variables[1].attributes = "x".to_owned()).contains("items if it is an array"));
    assert!(refused(|e| e.variables[0].value = Some("a\0".into())).contains("NUL"));
    for wrong in
        [&[("1", ""), ("0", "")][..], &[("0", ""), ("0", "")], &[("x", "")], &[("01", "")], &[("$(x)", "")]]
    {
        let items = array("list", "a", wrong);
        assert!(refused(|e| e.variables[1] = items).contains("index"), "{wrong:?}");
    }
    assert!(refused(|e| e.script[0] = "a\nb".into()).contains("line"));
    for wrong in ["", ".", "..", "a/b", "rc", "a\0"] {
        assert!(refused(|e| e.files[0].name = wrong.to_owned()).contains("file"), "{wrong:?}");
    }
    for wrong in [
        "bash",
        "/bin/bash",
        "/nix/store/bash/bin/bash",
        "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash",
        "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/",
        "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/../../../bin/sh",
        "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash//bin/sh",
    ] {
        assert!(refused(|e| e.shell = wrong.to_owned()).contains("shell"), "{wrong}");
    }
    let big = Text::from(vec![b'x'; MAX_BYTES]);
    assert!(refused(|e| e.variables[0].value = Some(big)).contains("16 MiB"));
    let mut changed = sample();
    changed.variables[0].value = Some("clang".into());
    assert!(changed.check(&StoreDir::default()).unwrap_err().contains("digest"));
}

#[test]
fn the_list_of_transient_variables_is_sorted() {
    assert!(record::TRANSIENT.is_sorted());
}

/// What is not an array is read back by a bash exactly as it was, whatever is in it.
#[test]
fn a_shell_reads_what_was_declared() {
    let (caller, files) = (Vec::new(), Path::new("/files"));
    let how = Entering { caller: &caller, pure: true, files, cores: 1 };
    let nasty = b"'\"\\$(touch /tmp/never)`id`\n\t!\xff\x01 \xe2\x82\xac".to_vec();
    let mut environment = sample();
    environment.variables.insert(1, Variable::exported("NASTY", nasty.clone()));
    let rc = environment.rc(
        &how,
        Some(std::ffi::OsStr::new("printf '%s|' \"$NASTY\" \"$plain\" \"${list[7]}\" \"${map[k]}\"; f")),
    );
    let output =
        std::process::Command::new("bash").arg("-c").arg(std::ffi::OsString::from_vec(rc)).output().unwrap();
    let expected = [&nasty[..], b"|\xff\n|'\"$x\n|v|f\n"].concat();
    assert_eq!(Text::from(output.stdout), Text::from(expected));
}
