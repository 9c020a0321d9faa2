//! Tests of environments as values; what bash makes of them is tested with bash itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;

const SHELL: &str = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/bin/bash";

fn array(name: &str, attributes: &str, items: &[(&str, &str)]) -> Variable {
    let items = items.iter().map(|(k, v)| (Text::from(*k), Text::from(*v))).collect();
    Variable { attributes: attributes.to_owned(), items: Some(items), name: name.to_owned(), value: None }
}

pub(in crate::lock) fn sample() -> Environment {
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
    let output = std::process::Command::new("bash").arg("-c").arg(OsString::from_vec(rc)).output().unwrap();
    let expected = [&nasty[..], b"|\xff\n|'\"$x\n|v|f\n"].concat();
    assert_eq!(Text::from(output.stdout), Text::from(expected));
}

/// bash parses functions under the options of that moment, also where the environment sets none in the end.
#[test]
fn functions_are_parsed_with_extended_globs_and_without_aliases() {
    let (caller, files) = (Vec::new(), Path::new("/files"));
    let how = Entering { caller: &caller, pure: true, files, cores: 1 };
    let function = [
        "kind () ",
        "{ ",
        "    case \"$1\" in ",
        "        +([0-9]))",
        "            say number",
        "        ;;",
        "        !(x*))",
        "            say other",
        "        ;;",
        "    esac",
        "}",
    ];
    let said = |before: &str, options: &[&str]| {
        let mut environment = sample();
        environment.script = function.iter().chain(options).map(|line| Text::from(*line)).collect();
        let rc = environment.rc(
            &how,
            Some(std::ffi::OsStr::new("shopt extglob expand_aliases || shopt -s extglob; kind 12; kind y")),
        );
        let begun = format!("say() {{ builtin echo $1; }}; alias say='echo alias'; {before}\n");
        let all = [begun.as_bytes(), &rc].concat();
        let output =
            std::process::Command::new("bash").arg("-c").arg(OsString::from_vec(all)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let words = String::from_utf8(output.stdout).unwrap();
        words.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    for (before, options, left) in [
        ("", &[][..], "extglob off expand_aliases off"),
        ("", &["shopt -s extglob"], "extglob on expand_aliases off"),
        ("shopt -s extglob expand_aliases", &[], "extglob on expand_aliases on"),
        (
            "shopt -s expand_aliases",
            &["shopt -s extglob", "trap -- 'true' EXIT"],
            "extglob on expand_aliases on",
        ),
        ("", &["shopt -s expand_aliases"], "extglob off expand_aliases on"),
    ] {
        assert_eq!(
            said(before, options),
            format!("{left} number other"),
            "after {before:?} with {options:?}"
        );
    }
}

/// What a recording bash might answer: fields, each ended by a NUL.
fn answer(fields: &[&str]) -> Vec<u8> {
    fields.iter().flat_map(|field| [field.as_bytes(), b"\0"].concat()).collect()
}

const ANSWER: [&str; 30] = [
    "set +o x\nset +o y\n",
    "shopt -u a\n",
    "trap -- '' SIGPIPE\n",
    "set -o x\nset +o y\nset -o errexit\n",
    "shopt -u a\n",
    "trap -- 'one\ntwo' EXIT\ntrap -- '' SIGPIPE\n",
    "alias ll='ls -l'\n",
    "function",
    "f",
    "fx",
    "f () \n{ \n    cat /tmp/files/.attr-0\n}\n",
    "variable",
    "CC",
    "x",
    "0",
    "gcc",
    "variable",
    "HOME",
    "x",
    "0",
    "/homeless-shelter",
    "variable",
    "map",
    "A",
    "1",
    "b",
    "/tmp/files",
    "variable",
    "RANDOM",
    "i",
];

fn recorded(answer: &[u8]) -> Result<Environment, RecordError> {
    let recipe = Recipe::sample(SHELL, &[("TERM", "set by the derivation"), ("odd-name", "odd")]);
    recipe.recorded(answer, Path::new("/tmp/files"))
}

#[test]
fn an_answer_becomes_an_environment() {
    let more = ["0", "7", "variable", "TERM", "x", "0", "own", "end"];
    let environment = recorded(&answer(&[&ANSWER[..], &more].concat())).unwrap();
    let names: Vec<&str> = environment.variables.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(
        names,
        ["CC", "TERM", "map", "odd-name"],
        "what is transient is kept if the derivation sets it"
    );
    let script: Vec<String> =
        environment.script.iter().map(|l| l.as_bytes().escape_ascii().to_string()).collect();
    let expected = [
        "f () ",
        "{ ",
        "    cat /nixview-environment-files/.attr-0",
        "}",
        "export -f \\'f\\'",
        "alias ll=\\'ls -l\\'",
        "set -o x",
        "trap -- \\'one",
        "two\\' EXIT",
    ];
    assert_eq!(script, expected);
    assert_eq!(environment.variables[2].items, Some(vec![("b".into(), FILES.into())]));
}

#[test]
fn an_answer_that_makes_no_sense_is_refused() {
    let whole = answer(&[&ANSWER[..], &["0", "7", "end"]].concat());
    recorded(&whole).unwrap();
    for end in 0..whole.len() {
        assert!(
            matches!(recorded(&whole[..end]), Err(RecordError::Early | RecordError::Malformed(_))),
            "cut at {end}"
        );
    }
    for more in [
        &["0", "7", "end", "more"][..],
        &["0", "7", "what"],
        &["many", "7", "end"],
        &["0", "7", "variable", "a b", "x", "0", "v", "end"],
        &["0", "7", "variable", "a", "a", "99999999999999999999", "end"],
        &["0", "7", "variable", "a", "a", "20001", "end"],
        &["0", "7", "variable", "a", "a", "1", "key", "v", "end"],
        &["0", "7", "variable", "a", "aA", "0", "end"],
    ] {
        assert!(recorded(&answer(&[&ANSWER[..], more].concat())).is_err(), "{more:?}");
    }
}

/// The texts are those that nix-shell of Nix 2.8 wrote for such a derivation; the outputs are paths here.
#[test]
fn structured_attributes_are_declared_as_nix_declares_them() {
    let out = crate::store::derivation::Output::InputAddressed(crate::lock::format::tests::path('a', "x"));
    let derivation = crate::store::Derivation {
        outputs: [("out".to_owned(), out)].into(),
        input_derivations: Default::default(),
        input_sources: Default::default(),
        system: Vec::new(),
        builder: Vec::new(),
        arguments: Vec::new(),
        environment: Default::default(),
    };
    let json = br#"{"FOO":"b'ar","attrs":{"q'r":"w","x":"1 2","y z":2},"bad-name":"x","f":1.5,"fa":false,
        "list":["a b",1,true,null,2.0],"mixed":[[1]],"n":3,"nested":{"a":[1]},"nul":null,"outputs":["out"],"t":true}"#;
    let (json, script) = attributes::structured(json, &derivation, &StoreDir::default()).unwrap();
    let path = format!("/nix/store/{}-x", "a".repeat(32));
    let expected = format!(
        "declare FOO='b'\\''ar'\n\
         declare -A attrs=(['q'\\''r']='w' ['x']='1 2' ['y z']=2)\n\
         declare fa=''\n\
         declare -a list=('a b' 1 1 '' 2)\n\
         declare n=3\n\
         declare nul=''\n\
         declare -A outputs=(['out']='{path}')\n\
         declare t=1\n"
    );
    assert_eq!(String::from_utf8(script).unwrap(), expected);
    assert!(String::from_utf8(json).unwrap().contains(&format!("\"outputs\":{{\"out\":\"{path}\"}}")));
    for wrong in [&b"[]"[..], b"{", b""] {
        assert!(attributes::structured(wrong, &derivation, &StoreDir::default()).is_err());
    }
}
